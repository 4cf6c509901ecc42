"""What tests of lost shims do to a host: find shims, kill them, see another take over, read what was recorded."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from runtime import orphan
from tests.e2e.host import Host


def shims(host: Host) -> Iterator[tuple[str, int]]:
    """Containers and the pids of their shims, by the name that a shim gives itself; the spare one is ""."""
    for pid in (host.cgroup / "shims/cgroup.procs").read_text().split():
        with suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            yield (name[5:] if name.startswith("shim:") else ""), int(pid)


def kill_shim(host: Host, pid: int) -> bool:
    """By a pidfd, after a look that it is one of this host's."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if str(pid) not in (host.cgroup / "shims/cgroup.procs").read_text().split():
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


def lose_all_shims(host: Host) -> None:
    for _, pid in list(shims(host)):
        kill_shim(host, pid)


def lose_all_and_the_daemon(host: Host) -> None:
    host.kill_daemon()
    lose_all_shims(host)
    host.until(lambda: not list(shims(host)), 10, "shims live")


def shim_of(host: Host, name: str) -> int:
    host.until(lambda: name in dict(shims(host)), 10, f"{name}: no shim")
    return dict(shims(host))[name]


def taken_over(host: Host, name: str, old: int) -> None:
    host.until(lambda: any(n == name and p != old for n, p in shims(host)), 20, f"{name} got no other shim")


def ends(host: Host) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """All that are recorded. Ends the daemon, which keeps the file to itself, after a look at what is left (I7)."""
    assert host.ctl("stop", "all").returncode == 0
    host.until(lambda: not host.left(), 20, f"left over {host.left()}")
    host.stop_daemon()
    db = sqlite3.connect(host.base / "state/state.db")
    try:
        rows = db.execute("SELECT name, generation, body FROM ends ORDER BY name, generation").fetchall()
    finally:
        db.close()
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for name, generation, body in rows:
        found.setdefault(name, []).append((generation, json.loads(body)))
    return found


def kernel_tells() -> bool:
    """Whether a pidfd tells the status of a process that was reaped (Linux 6.15)."""
    child = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(child.pid)
    child.wait()
    try:
        return orphan.wait_status(pidfd) == 0
    finally:
        os.close(pidfd)
