"""Faults that need a kernel of their own to be caused."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.host import Host, start_time

HERE = Path(__file__).resolve().parent
DISK = Path("/dev/ubda")

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.timeout(300)]


def test_10_a_stranger_with_a_recycled_pid_is_never_signalled(host: Host) -> None:
    host.define("web", 'containers: {web: {rootfs: ROOTFS, command: [sh, -c, "sleep 2; exit 3"], restart: "no"}}')
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    host.kill_daemon()
    host.until(lambda: not start_time(pid), 15, "it did not end")
    limit = Path("/proc/sys/kernel/pid_max")
    before = limit.read_text()
    limit.write_text(str(max(pid + 100, 400)))  # pids come round soon, and to this one
    takepid = host.base / "takepid"
    subprocess.run(["gcc", "-O2", "-static", "-o", takepid, HERE / "takepid.c"], check=True)
    try:
        subprocess.run([takepid, str(pid)], check=True, timeout=120)
        stranger = start_time(pid)
        assert stranger
        host.start()
        end = host.until_state("web", "EXITED")["last_end"]
        assert end["code"] == 3
        host.ctl("stop", "web")
        host.ctl("kill", "web")
        assert start_time(pid) == stranger
    finally:
        limit.write_text(before)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def disk_that_hangs(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A mounted ext4 on a device mapper disk, and how to give it an order: `suspend` makes writers hang in D state."""
    assert DISK.exists(), "no disk: tests/vm/run --disk IMG --module dm-mod"
    name = "wharf-hangs"

    def order(*words: str) -> None:
        environ = os.environ | {"DM_DISABLE_UDEV": "1"}
        subprocess.run(["/sbin/dmsetup", *words], env=environ, check=True, timeout=30, stdout=subprocess.DEVNULL)

    def tell(word: str) -> None:
        order(word, *(["--nolockfs", "--noflush"] if word == "suspend" else []), name)

    sectors = Path("/sys/block/ubda/size").read_text().strip()
    order("create", name, "--table", f"0 {sectors} linear {DISK} 0")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", f"/dev/mapper/{name}"], check=True)
    subprocess.run(["mount", f"/dev/mapper/{name}", place], check=True)
    try:
        yield place, tell
    finally:
        tell("resume")
        subprocess.run(["umount", place], check=True)
        order("remove", name)


def test_12_a_process_that_the_kernel_holds_is_told_and_not_waited_for(
    host: Host, disk_that_hangs: tuple[Path, Callable[[str], None]]
) -> None:
    place, tell = disk_that_hangs
    host.start()
    host.define(
        "held",
        f"""containers:
  held:
    rootfs: ROOTFS
    command: [sh, -c, "read -r _ < /disk/go; while :; do dd if=/dev/zero of=/disk/file bs=4k count=1 conv=fsync; done"]
    mounts: [{{source: {place}, target: /disk}}]
    stop_grace_period: 1s
  other: {{rootfs: ROOTFS, command: [sleep, "1000"], stop_signal: KILL}}
""",
    )
    os.mkfifo(place / "go")
    pid = host.until_state("held", "RUNNING")["pid"]
    with (place / "go").open("w"):
        pass
    host.until((place / "file").exists, 10, "it does not write")
    tell("suspend")
    host.until(lambda: blocked(host.cgroup / "containers/held"), 10, "no writer hangs")
    begin = time.monotonic()
    done = host.ctl("stop", "held")
    assert (done.returncode, time.monotonic() - begin < 20) == (1, True), done
    assert "D state" in done.stdout + done.stderr
    seen = host.one("held")
    assert (seen["state"], seen["pid"]) == ("STOPPING", pid)
    assert "D state" in host.ctl("status", "held").stdout
    for word in ("stop", "start"):  # the others are served meanwhile
        assert host.ctl(word, "other").returncode == 0
    tell("resume")
    host.until_state("held", "STOPPED", 20)
    host.until(lambda: not list((host.cgroup / "containers").glob("held/g*")), 10, "its cgroup stays")


def blocked(tree: Path) -> bool:
    """Is a process below `tree` in uninterruptible sleep?"""
    pids = [pid for procs in tree.rglob("cgroup.procs") for pid in procs.read_text().split()]
    return any(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "D" for pid in pids)


def test_a_full_state_disk_refuses_with_words_and_touches_nothing(host: Host) -> None:
    state = host.base / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", state], check=True)
    try:
        host.define("web", 'containers: {web: {rootfs: ROOTFS, command: [sleep, "1000"], stop_signal: KILL}}')
        host.start()
        pid = host.until_state("web", "RUNNING")["pid"]
        filler = os.open(state / "filler", os.O_WRONLY | os.O_CREAT)
        for size in (4096, 512, 1):
            with suppress(OSError):
                while True:
                    os.write(filler, bytes(size))
        os.close(filler)
        done = host.ctl("stop", "web")
        assert done.returncode != 0
        assert start_time(pid)
        assert host.one("web")["pid"] == pid
        (state / "filler").unlink()
        host.until(lambda: host.ctl("stop", "web").returncode == 0, 40, "it does not recover")
        host.until(lambda: not start_time(pid), 10, "it still runs")
        host.stop_daemon()
    finally:
        subprocess.run(["umount", "-l", state], check=True)


def test_a_fork_bomb_meets_its_limit_and_stops(host: Host) -> None:
    host.start()
    host.define(
        "bomb",
        """containers:
  bomb:
    rootfs: ROOTFS
    command: [sh, -c, "while :; do sleep 1000 & done"]
    stop_signal: KILL
    resources: {pids: 12}
""",
    )
    host.until(lambda: "pids-max" in host.ctl("events").stdout, 30, "the limit is not told")
    assert host.ctl("stop", "bomb").returncode == 0
