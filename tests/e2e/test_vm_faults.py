"""Faults that need a kernel of their own to be caused."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.host import Host, start_time

HERE = Path(__file__).resolve().parent

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
