"""The main job, end to end, by the commands of a user: define, run, look, restart, stop, adopt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess

import pytest

from tests.e2e.host import BIN, REPO, Host, start_time

pytestmark = pytest.mark.e2e

SLEEPER = """containers:
  web:
    rootfs: ROOTFS
    command: [sleep, "1000"]
    stop_signal: KILL
"""


def test_a_defined_container_runs_and_status_says_so(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    seen = host.until_state("web", "RUNNING")
    assert start_time(seen["pid"])
    shown = host.ctl("status")
    assert shown.returncode == 0
    assert shown.stdout.split()[:4] == ["web", "RUNNING", "pid", f"{seen['pid']},"]


def test_a_definition_that_appears_is_started_and_one_that_goes_is_stopped_and_forgotten(host: Host) -> None:
    host.start()
    host.define("web", SLEEPER)
    pid = host.until_state("web", "RUNNING")["pid"]
    (host.definitions / "web.yaml").unlink()
    host.until(lambda: "web" not in host.status(), 15, "web is still known")
    assert not start_time(pid)
    assert 'name="web"' not in host.metrics()
    assert not (host.cgroup / "containers/web").exists()


def test_exit_codes_and_signals_are_told_apart(host: Host) -> None:
    host.start()
    host.define(
        "ends",
        """containers:
  code: {rootfs: ROOTFS, command: [sh, -c, exit 137], restart: "no"}
  signal: {rootfs: ROOTFS, command: [sh, -c, "sleep 1000 & wait"], restart: "no"}
  fine: {rootfs: ROOTFS, command: ["true"], restart: "no"}
""",
    )
    host.until_state("code", "EXITED")
    host.until_state("fine", "EXITED")
    os.kill(host.until_state("signal", "RUNNING")["pid"], signal.SIGKILL)
    host.until_state("signal", "EXITED")
    now = host.status()
    assert (now["code"]["last_end"]["code"], now["code"]["last_end"]["signal"]) == (137, None)
    assert (now["signal"]["last_end"]["code"], now["signal"]["last_end"]["signal"]) == (None, 9)
    assert now["fine"]["last_end"]["code"] == 0
    assert not now["code"]["last_end"]["oom"]["killed"]
    assert not now["signal"]["last_end"]["oom"]["killed"]


def test_a_missing_program_is_told_with_its_name(host: Host) -> None:
    host.start()
    host.define("bad", 'containers: {bad: {rootfs: ROOTFS, command: [/no/such], restart: "no"}}')
    host.until_state("bad", ["FATAL", "EXITED"])
    line = host.ctl("status", "bad").stdout
    assert "/no/such" in line
    assert "ENOENT" in line or "No such file" in line


def test_a_missing_bind_source_is_an_error_and_makes_no_directory(host: Host) -> None:
    source = host.base / "not-mounted-yet"
    host.start()
    host.define(
        "bad",
        f"""containers:
  bad:
    rootfs: ROOTFS
    command: [sleep, "9"]
    mounts: [{{type: bind, source: {source}, target: /data}}]
""",
    )
    host.until_state("bad", ["BACKOFF", "FATAL"])
    assert str(source) in host.ctl("status", "bad").stdout
    assert not source.exists()


def test_the_container_has_namespaces_limits_of_its_own_and_no_fd_of_ours(host: Host) -> None:
    host.start()
    host.define(
        "look",
        """containers:
  look:
    rootfs: ROOTFS
    hostname: inside
    restart: "no"
    command:
      - sh
      - -c
      - "echo pid $$; hostname; ls /proc/self/fd | tr '\\n' ' '; echo; cat /proc/self/oom_score_adj /proc/self/cgroup;
         grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; id -u; touch /proc/sys/x"
""",
    )
    host.until_state("look", "EXITED")
    said = host.ctl("logs", "look").stdout
    assert "pid 1\ninside\n" in said
    assert "0 1 2 3 \n" in said  # 3 is ls's own directory
    assert "\n0::/\n" in said  # the leaf is the root of its cgroup namespace
    assert "NoNewPrivs:\t1" in said
    assert "Seccomp:\t2" in said
    assert "CapEff:\t00000000800405fb" in said
    assert "touch" in said


def test_the_articles_bundle_runs_unchanged_but_for_args_and_terminal(host: Host) -> None:
    bundle = host.base / "bundle"
    bundle.mkdir()
    config = json.loads((REPO / "tests/fixtures/article-config.json").read_text())
    config["process"]["args"] = ["sh", "-c", "hostname; id -u; touch /x || echo read-only"]
    config["process"]["terminal"] = False
    (bundle / "config.json").write_text(json.dumps(config))
    subprocess.run(["cp", "-a", host.rootfs, bundle / "rootfs"], check=True)
    host.start()
    host.define("article", f'containers: {{article: {{bundle: {bundle}, restart: "no", network: none}}}}')
    end = host.until_state("article", ["EXITED", "FATAL"])
    assert end["state"] == "EXITED", host.ctl("status").stdout
    assert "runc\n0\n" in (said := host.ctl("logs", "article").stdout)
    assert "read-only" in said


def test_stop_start_restart_and_their_exit_codes(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    first = host.until_state("web", "RUNNING")["pid"]
    stopped = host.ctl("stop", "web")
    assert (stopped.returncode, stopped.stdout) == (0, "web: stopped\n")
    assert not start_time(first)
    again = host.ctl("stop", "web")
    assert (again.returncode, again.stdout) == (0, "web: ERROR (not running)\n")
    assert host.ctl("status").returncode == 0  # stopped because it was asked for
    started = host.ctl("start", "web")
    assert (started.returncode, started.stdout) == (0, "web: started\n")
    assert host.ctl("start", "web").stdout == "web: ERROR (already started)\n"
    second = host.one("web")["pid"]
    restarted = host.ctl("restart", "web")
    assert restarted.returncode == 0
    assert host.one("web")["pid"] not in (first, second)
    unknown = host.ctl("start", "nosuch")
    assert unknown.returncode == 1
    assert "nosuch: ERROR (no such container)" in unknown.stdout


def test_term_is_waited_for_then_the_whole_cgroup_is_killed(host: Host) -> None:
    host.start()
    host.define(
        "stubborn",
        """containers:
  stubborn:
    rootfs: ROOTFS
    command: [sh, -c, "trap '' TERM; sh -c \\"trap '' TERM; sleep 1000\\" & while :; do sleep 1; done"]
    stop_grace_period: 300ms
""",
    )
    host.until_state("stubborn", "RUNNING")
    procs = host.cgroup / "containers/stubborn/g1/cgroup.procs"
    pids = [int(p) for p in procs.read_text().split()]
    assert len(pids) >= 2
    assert host.ctl("stop", "stubborn").returncode == 0
    assert not any(start_time(pid) for pid in pids)


def test_the_daemons_death_is_not_noticed_by_what_runs_and_it_is_adopted(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    begun = start_time(pid)
    host.kill_daemon()
    assert start_time(pid) == begun
    host.start()
    seen = host.until_state("web", "RUNNING")
    assert (seen["pid"], start_time(pid)) == (pid, begun)
    assert seen["generation"] == 1


def test_an_end_while_no_daemon_watched_is_judged_by_its_real_code(host: Host) -> None:
    host.define("job", 'containers: {job: {rootfs: ROOTFS, command: [sh, -c, "sleep 4; exit 42"], restart: "no"}}')
    host.start()
    pid = host.until_state("job", "RUNNING")["pid"]
    host.kill_daemon()
    host.until(lambda: not start_time(pid), 10, "it did not end")
    host.until(lambda: (host.base / "run/c/job/g1/exit").exists(), 5, "no exit record")
    host.start()
    end = host.until_state("job", "EXITED")["last_end"]
    assert (end["code"], end["source"]) == (42, "adopted")


def test_a_stop_is_kept_over_the_daemons_death(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    host.until_state("web", "RUNNING")
    assert host.ctl("stop", "web").returncode == 0
    host.kill_daemon()
    host.start()
    assert host.until_state("web", ["STOPPED", "RUNNING"])["state"] == "STOPPED"


def test_a_second_daemon_is_refused_and_touches_nothing(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    second = subprocess.run(
        [BIN / "wharfingerd"], env=host.env, capture_output=True, text=True, timeout=20, check=False
    )
    assert second.returncode != 0
    assert len(second.stderr.strip().splitlines()) == 1
    assert host.one("web")["pid"] == pid


def test_an_app_waits_for_its_dependency_to_be_healthy(host: Host) -> None:
    host.start()
    host.define(
        "two",
        """containers:
  db:
    rootfs: ROOTFS
    command: [sh, -c, "sleep 1; touch /tmp/ready; sleep 1000"]
    stop_signal: KILL
    healthcheck: {test: [CMD-SHELL, "test -e /tmp/ready"], interval: 300ms, start_interval: 200ms, start_period: 20s}
    mounts: [{type: tmpfs, target: /tmp}]
  app:
    rootfs: ROOTFS
    command: [sleep, "1000"]
    stop_signal: KILL
    depends_on: {db: {condition: healthy}}
""",
    )
    waiting = host.until_state("app", ["STARTING", "RUNNING"])
    assert waiting["state"] == "STARTING"
    assert "db" in host.ctl("status", "app").stdout
    host.until_state("app", "RUNNING")
    assert host.one("db")["health"] == "healthy"


def test_exec_runs_inside_and_passes_the_exit_code(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    host.until_state("web", "RUNNING")
    done = host.ctl(
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "hostname; grep -c . /proc/1/status >/dev/null && cat /proc/1/comm; echo to-stderr >&2; exit 7",
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "web\nsleep\n", "to-stderr\n")


def test_live_changes_keep_the_process_and_others_replace_it(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    host.define("web", SLEEPER + "    restart: 'no'\n    stop_grace_period: 3s\n    logging: {max_size: 1MiB}\n")
    host.until(lambda: "live" in host.log_text() or "Redefined" in host.log_text(), 10, "the change is not seen")
    assert host.one("web")["pid"] == pid
    host.define("web", SLEEPER.replace('"1000"', '"2000"'))
    host.until(lambda: host.one("web").get("pid") not in (pid, None), 15, "not replaced")
    assert host.until_state("web", "RUNNING")["generation"] == 2


def test_metrics_are_valid_and_name_each_container_once(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    host.until_state("web", "RUNNING")
    text = host.metrics()
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    series = [line.rsplit(" ", 1)[0] for line in lines]
    assert len(series) == len(set(series))
    assert any(s.startswith("wharfinger_container_state{") and 'state="running"' in s for s in series)
    promtool = shutil.which("promtool", path=f"{BIN}:{os.environ['PATH']}")
    assert promtool, "promtool is part of the set-up"
    checked = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    complaints = [c for c in (checked.stdout + checked.stderr).splitlines() if "container_memory_failcnt" not in c]
    assert not complaints


def test_no_daemon_is_one_clear_line(host: Host) -> None:
    done = host.ctl("status")
    assert done.returncode == 4
    assert "wharfingerd running?" in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).strip().splitlines()) == 1


def test_a_name_that_is_declared_again_begins_anew(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    host.until_state("web", "RUNNING")
    host.ctl("stop", "web")
    host.kill_daemon()
    host.start()
    host.until_state("web", "STOPPED")
    (host.definitions / "web.yaml").unlink()
    host.until(lambda: "web" not in host.status(), 15, "web is still known")
    host.define("web", SLEEPER)
    host.until_state("web", "RUNNING")
