"""Network counters of one run: /proc/PID/net/dev of its init, when the network is not the host's."""

from __future__ import annotations

import os

from monitor.cgroup import read_at

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class RunNetwork:
    """Keeps /proc/PID open: a pid that is given to another process is never read through it.

    pid is proven by its cgroup, `member` (path of the run's below the mount), or is not read at all. Raises OSError.
    """

    __slots__ = ("_fd", "own", "pid")

    def __init__(self, proc: str, pid: int, member: str) -> None:
        self.pid = pid
        self._fd = os.open(os.path.join(proc, str(pid)), _DIRECTORY)
        try:
            path = next((line[3:] for line in read_at(self._fd, "cgroup").split(b"\n") if line.startswith(b"0::")), b"")
            host = os.stat(os.path.join(proc, "self/ns/net"))
            mine = os.stat("ns/net", dir_fd=self._fd)
            self.own = os.fsencode(member) + b"/" in path + b"/" and mine.st_ino != host.st_ino
        except BaseException:
            self.close()
            raise

    def read(self) -> bytes:
        """Raises OSError: ESRCH, ENOENT when the process has gone."""
        return read_at(self._fd, "net/dev") if self.own else b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
