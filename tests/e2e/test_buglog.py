"""Public faults of other supervisors (numbers: docs/reliability.md), each as a test on the real daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.host import BIN, Host, start_time
from tests.e2e.shims import kill_shim, shim_of, taken_over

pytestmark = pytest.mark.e2e

ALWAYS = """containers:
  web:
    rootfs: ROOTFS
    command: [sleep, "1000"]
    stop_signal: KILL
    restart: {policy: always, interval: 100ms, factor: 1, max_interval: 100ms}
"""


def test_02_an_explicit_stop_wins_over_always_until_a_start(host: Host) -> None:
    host.define("web", ALWAYS)
    host.start()
    host.until_state("web", "RUNNING")
    host.ctl("stop", "web")
    time.sleep(0.5)  # five times the longest delay: the wait is what is tested
    assert host.one("web")["state"] == "STOPPED"
    host.kill_daemon()
    host.start()
    time.sleep(0.5)
    assert host.one("web")["state"] == "STOPPED"
    host.ctl("start", "web")
    host.until_state("web", "RUNNING")


def test_06_a_threshold_of_zero_does_not_switch_the_back_off_off(host: Host) -> None:
    host.start()
    host.define(
        "loop",
        "containers: {loop: {rootfs: ROOTFS, command: ['false'], healthy_after: 0s, restart: {interval: 300ms}}}",
    )
    time.sleep(3)
    assert 2 <= host.one("loop")["generation"] <= 5  # 0.3 + 0.6 + 1.2 s have passed at the fourth


def test_11_a_long_stop_blocks_nobody_and_a_kill_ends_it(host: Host) -> None:
    host.start()
    host.define(
        "slow",
        """containers:
  slow: {rootfs: ROOTFS, command: [sh, -c, "trap '' TERM; while :; do sleep 1; done"], stop_grace_period: 60s}
""",
    )
    host.until_state("slow", "RUNNING")
    stopping = subprocess.Popen([BIN / "wharfctl", "stop", "slow"], env=host.env, stdout=subprocess.PIPE)
    host.until_state("slow", "STOPPING")
    begin = time.monotonic()
    assert host.one("slow")["state"] == "STOPPING"
    host.metrics()
    assert time.monotonic() - begin < 3
    assert host.ctl("kill", "slow").returncode == 0
    host.until_state("slow", "STOPPED", 5)
    stopping.communicate(timeout=10)


def test_13_a_grandchild_that_left_the_session_dies_with_its_container(host: Host) -> None:
    host.start()
    host.define(
        "parent",
        """containers:
  parent: {rootfs: ROOTFS, command: [sh, -c, "(busybox setsid sleep 7777 &) ; sleep 1000"], stop_signal: KILL}
""",
    )
    host.until_state("parent", "RUNNING")
    procs = host.cgroup / "containers/parent/g1/cgroup.procs"
    host.until(lambda: len(procs.read_text().split()) == 2, 5, "no grandchild")
    pids = [int(p) for p in procs.read_text().split()]
    host.ctl("stop", "parent")
    assert not any(start_time(pid) for pid in pids)


def test_14_output_without_a_newline_costs_no_memory(host: Host) -> None:
    host.start()
    host.define(
        "flood",
        """containers:
  flood:
    rootfs: ROOTFS
    command: [sh, -c, "head -c 50000000 /dev/zero | tr '\\\\0' a; sleep 1000"]
    stop_signal: KILL
    logging: {max_size: 100MiB, max_files: 2}
""",
    )
    host.until_state("flood", "RUNNING")
    log = host.base / "log/flood/current.log"
    host.until(lambda: log.exists() and log.stat().st_size > 50_000_000, 60, "not all was written")
    shims = [int(p) for p in (host.cgroup / "shims/cgroup.procs").read_text().split()]
    for shim in shims:
        status = Path(f"/proc/{shim}/status").read_text()
        rss = int(status.split("VmRSS:")[1].split()[0])
        assert rss < 2048, f"{rss} kB"
    host.until(lambda: log.read_bytes().count(b"a") == 50_000_000, 20, "bytes are missing or doubled")


def test_15_bytes_that_are_no_text_go_through(host: Host) -> None:
    host.start()
    host.define(
        "bytes",
        r"""containers:
  bytes: {rootfs: ROOTFS, restart: "no", command: [sh, -c, "printf '\\210\\377\\n'; seq 1 5000"]}
""",
    )
    host.until_state("bytes", "EXITED")
    raw = subprocess.run([BIN / "wharfctl", "logs", "bytes"], env=host.env, capture_output=True, check=True).stdout
    assert raw.startswith(b"\x88\xff\n")
    assert raw.endswith(b"4999\n5000\n")


@pytest.mark.parametrize("files", [1, 3])
def test_16_following_goes_on_over_rotations(host: Host, files: int) -> None:
    host.start()
    host.define(
        "talk",
        f"""containers:
  talk:
    rootfs: ROOTFS
    restart: "no"
    command: [sh, -c, "n=0; while [ $n -lt 400 ]; do n=$((n+1)); echo line $n; sleep 0.005; done; sleep 1"]
    logging: {{max_size: 4KiB, max_files: {files}}}
""",
    )
    host.until(lambda: (host.base / "log/talk/current.log").exists(), 10, "no log")
    follow = subprocess.Popen([BIN / "wharfctl", "logs", "-f", "talk"], env=host.env, stdout=subprocess.PIPE)
    assert follow.stdout is not None
    lines: list[bytes] = []

    def read() -> None:
        assert follow.stdout is not None
        for line in follow.stdout:  # one by one: the test looks at them meanwhile
            lines.append(line)  # noqa: PERF402

    reader = threading.Thread(target=read)
    reader.start()
    try:
        host.until(lambda: bool(lines) and lines[-1] == b"line 400\n", 30, "the last line did not come")
    finally:
        follow.kill()
        follow.wait()
        reader.join()
        follow.stdout.close()
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == list(range(numbers[0], 401))


def test_17_a_last_line_without_newline_is_shown(host: Host) -> None:
    host.start()
    host.define("part", 'containers: {part: {rootfs: ROOTFS, restart: "no", command: [printf, hello]}}')
    host.until_state("part", "EXITED")
    host.until(lambda: "hello" in host.ctl("logs", "part").stdout, 10, "hello is lost")
    assert (host.base / "log/part/current.log").read_bytes().endswith(b"stdout F hello\n")


def test_21_a_policy_changes_without_a_restart_and_holds_for_the_next_end(host: Host) -> None:
    host.define("web", ALWAYS)
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    host.define("web", ALWAYS.split("    restart:")[0] + '    restart: "no"\n')
    host.until(lambda: "Redefined" in host.log_text() or "applied" in host.log_text(), 10, "the change is not seen")
    assert host.one("web")["pid"] == pid
    os.kill(pid, signal.SIGKILL)
    host.until_state("web", "EXITED")


def test_22_the_same_definition_never_restarts_a_container(host: Host) -> None:
    host.define("web", ALWAYS)
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    for n in range(20):
        host.define("web", f"# comment {n}\n" + ALWAYS)
        assert host.ctl("update").returncode == 0
    host.kill_daemon()
    host.start()
    assert host.until_state("web", "RUNNING")["pid"] == pid
    assert host.one("web")["generation"] == 1


def test_23_a_bad_file_keeps_its_containers_and_stops_no_other_change(host: Host) -> None:
    host.define("a", ALWAYS.replace("web", "a"))
    host.define("b", ALWAYS.replace("web", "b"))
    host.start()
    pid = host.until_state("b", "RUNNING")["pid"]
    host.until_state("a", "RUNNING")
    host.define("b", "containers: {b: {rootfs: ROOTFS, comand: [x]}}")
    host.define("a", ALWAYS.replace("web", "a").replace('"1000"', '"2000"'))
    done = host.ctl("update")
    assert done.returncode != 0
    assert "b.yaml:1:" in done.stdout + done.stderr
    host.until(lambda: host.one("a").get("generation") == 2, 10, "a is not changed")
    assert host.one("b")["pid"] == pid
    assert "wharfinger_definition_errors 1" in host.metrics()
    host.kill_daemon()  # also a new daemon keeps what runs, by what it was started with
    host.start()
    assert host.until_state("b", "RUNNING")["pid"] == pid


def test_25_after_a_restart_each_series_is_there_once(host: Host) -> None:
    host.define("web", ALWAYS)
    host.start()
    for generation in (1, 2, 3):
        host.until(lambda: host.one("web").get("generation") == generation, 10, "no new run")  # noqa: B023
        os.kill(host.until_state("web", "RUNNING")["pid"], signal.SIGKILL)
        lines = [line.rsplit(" ", 1)[0] for line in host.metrics().splitlines() if line[:1] not in ("#", "")]
        assert len(lines) == len(set(lines))


def test_26_a_stop_that_the_daemons_death_cut_off_is_finished(host: Host) -> None:
    host.start()
    host.define(
        "slow",
        """containers:
  slow: {rootfs: ROOTFS, command: [sh, -c, "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done"]}
""",
    )
    host.until_state("slow", "RUNNING")
    stopping = subprocess.Popen([BIN / "wharfctl", "stop", "slow"], env=host.env, stdout=subprocess.DEVNULL)
    host.until_state("slow", "STOPPING")
    host.kill_daemon()
    stopping.wait()
    host.start()
    host.until_state("slow", "STOPPED")
    host.until(lambda: not host.left(), 10, "a shim is left")


def test_28_killed_shims_leave_nothing(host: Host) -> None:
    host.define("web", ALWAYS)
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    for n in range(5):
        shim = shim_of(host, "web")
        kill_shim(host, shim)
        taken_over(host, "web", shim)
        host.until(lambda: f'takeovers_total{{name="web"}} {n + 1}' in host.metrics(), 20, "not counted")  # noqa: B023
    assert host.one("web")["pid"] == pid
    assert len(list((host.base / "run/c/web").glob("g*"))) == 1
    assert host.ctl("stop", "web").returncode == 0
    host.until(lambda: not host.left(), 20, "something is left")


def test_30_a_pid_file_of_a_stranger_and_stale_sockets_do_not_matter(host: Host) -> None:
    for directory in ("run", "state"):
        (host.base / directory).mkdir(exist_ok=True)
        (host.base / directory / "wharfingerd.pid").write_text(str(os.getpid()))
    (host.base / "state/lock").write_text(str(os.getpid()))
    host.define("web", ALWAYS)
    host.start()
    host.until_state("web", "RUNNING")


@pytest.mark.parametrize("damage", ["truncate", "zeros", "garbage", "empty"])
def test_31_a_damaged_state_is_set_aside_and_what_runs_is_kept(host: Host, damage: str) -> None:
    host.define("web", ALWAYS)
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    host.kill_daemon()
    db = host.base / "state/state.db"
    for side in (db, db.with_name("state.db-wal")):
        if not side.exists():
            continue
        size = side.stat().st_size
        with side.open("r+b") as file:
            if damage == "truncate":
                file.truncate(size // 3)
            elif damage == "zeros":
                file.write(bytes(size))
            elif damage == "garbage":
                file.write(b'"}trailing' * (size // 10))
            else:
                file.truncate(0)
    host.start()
    seen = host.until_state("web", "RUNNING")
    assert seen["pid"] == pid
    os.kill(pid, signal.SIGKILL)
    host.until(lambda: host.one("web").get("pid") not in (pid, None), 10, "not restarted")
    assert host.one("web")["generation"] == 2


def test_31_a_damaged_run_record_hides_no_running_container(host: Host) -> None:
    host.define("web", ALWAYS)
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    host.kill_daemon()
    (host.base / "run/c/web/g1/meta.json").write_text('{"version": 1')
    host.start()
    assert host.until_state("web", "RUNNING")["pid"] == pid


def test_32_leftovers_of_our_own_are_replaced(host: Host) -> None:
    host.define("web", ALWAYS)
    host.start()
    host.until_state("web", "RUNNING")
    host.ctl("stop", "web")
    host.kill_daemon()
    (host.base / "run/c/web/g2").mkdir(parents=True)
    (host.base / "run/c/web/g2/sock").write_text("")
    (host.cgroup / "containers/web/g2/nested").mkdir(parents=True)
    host.start()
    assert host.ctl("start", "web").returncode == 0
    host.until_state("web", "RUNNING")


def test_a_secret_in_the_environment_is_told_to_nobody(host: Host) -> None:
    """cadvisor#2857: an environment variable became a label."""
    canary = "canary-4d1f7c"
    host.define("web", ALWAYS + f"    environment: {{TOKEN: {canary}}}\n    labels: {{a-b: x, a_b: y}}\n")
    host.start()
    host.until_state("web", "RUNNING")
    assert canary not in host.metrics()
    assert canary not in host.log_text()
    assert canary not in host.ctl("status", "--json").stdout
    assert canary not in host.ctl("why", "web").stdout
    shims = (host.cgroup / "shims/cgroup.procs").read_text().split()
    assert not any(canary.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in shims)
    assert not any(canary.encode() in path.read_bytes() for path in (host.base / "state").iterdir())
