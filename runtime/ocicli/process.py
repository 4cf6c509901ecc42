"""A process that we started, recognised again later. Quick to import.

A pid alone says nothing: it may be another's by now. Pid, start time and boot together are one process; a signal goes
to a pidfd that was checked against them.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

from config.errors import GoneError, HostError

PROGRAM = "wharf-launch"


class Process:
    """`start`: clock ticks after the boot, from /proc/PID/stat; `boot`: the kernel's boot id."""

    __slots__ = ("boot", "pid", "start")

    def __init__(self, pid: int, start: int, boot: str) -> None:
        self.pid = pid
        self.start = start
        self.boot = boot

    @staticmethod
    def of(pid: int, pidfd: int) -> Process:
        """The process behind `pidfd`. Raises GoneError when it was reaped already."""
        start = _start_time(pid)
        try:
            signal.pidfd_send_signal(pidfd, 0)  # it was there after it was looked at: so it was this one
        except ProcessLookupError:
            start = None
        if start is None:
            raise GoneError("it has ended already", f"process {pid}")
        return Process(pid, abs(start), boot_id())

    def to_json(self) -> list[Any]:
        return [self.pid, self.start, self.boot]

    @staticmethod
    def from_json(value: list[Any]) -> Process:
        pid, start, boot = value
        if type(pid) is not int or pid < 1 or type(start) is not int or type(boot) is not str:
            raise TypeError("not a process")
        return Process(pid, start, boot)

    def alive(self) -> bool:
        """Whether it runs. A zombie does not."""
        return _start_time(self.pid) == self.start and boot_id() == self.boot

    def at_gate(self) -> bool:
        """Whether it is still the launcher, which waits for `start`."""
        try:
            return os.path.basename(os.readlink(f"/proc/{self.pid}/exe")).startswith(PROGRAM)
        except OSError:
            return False

    def open(self) -> int:
        """A pidfd, the caller's to close. Raises GoneError when it does not run, HostError."""
        gone = GoneError("container not running", f"process {self.pid}")
        try:
            fd = os.pidfd_open(self.pid)
        except OSError as error:
            if error.errno in (errno.ESRCH, errno.EINVAL):
                raise gone from None
            raise HostError(f"pidfd_open: {error.strerror}", f"process {self.pid}") from None
        if not self.alive():
            os.close(fd)
            raise gone
        return fd

    def signal(self, number: int) -> None:
        """Raises GoneError when it does not run."""
        fd = self.open()
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            raise GoneError("container not running", f"process {self.pid}") from None
        finally:
            os.close(fd)


def _start_time(pid: int) -> int | None:
    """Ticks since the boot; negative for a zombie, None for no process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(fields) < 20:
        return None
    return -int(fields[19]) if fields[0] in (b"Z", b"X") else int(fields[19])


def boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().decode().strip()
    except OSError:
        return ""
