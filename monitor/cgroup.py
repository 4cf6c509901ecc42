"""Reads the numbers of one cgroup: one directory fd, one openat, read and close a file.

Files are not kept open: a kept fd saves 3 us a read and costs 4 kB of kernel memory that no RSS shows, and a thousand
containers would need more fds than the usual hard limit (measured). Reading blocks, so it belongs into a worker thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from config.errors import GoneError, HostError
from monitor import readers

STAT_FILES = (
    "cpu.stat",
    "memory.current",
    "memory.stat",
    "memory.events",
    "memory.swap.current",
    "memory.peak",
    "io.stat",
    "pids.current",
)
PRESSURE_FILES = ("cpu.pressure", "memory.pressure", "io.pressure")
LIMIT_FILES = ("memory.max", "memory.swap.max", "memory.low", "cpu.max", "cpu.weight", "pids.max")

_GONE = (errno.ENOENT, errno.ENODEV)
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_PAGE, _FULL = 4096, 3072  # a read that gave less than this was the last
_CHUNK = 1 << 16
_LIMIT = 1 << 22  # cgroup.procs of a fork bomb is far below this


@dataclass(frozen=True, slots=True)
class Sample:
    """The files of one cgroup as the kernel wrote them. A file that is not in `files` is unknown.

    errors: (file, errno) of the reads that failed otherwise than by the file not being there.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    errors: tuple[tuple[str, int], ...] = ()

    def number(self, name: str) -> int | None:
        data = self.files.get(name)
        return None if data is None else readers.parse_number(data)

    def limit(self, name: str) -> int | None:
        """None: unknown; readers.NO_LIMIT: none is set."""
        data = self.files.get(name)
        return None if data is None else readers.parse_limit(data)

    def flat(self, name: str) -> dict[str, int]:
        return readers.parse_flat(self.files.get(name, b""))

    def pressure(self, resource: str) -> dict[str, readers.Pressure]:
        return readers.parse_pressure(self.files.get(f"{resource}.pressure", b""))

    def io(self) -> dict[str, dict[str, int]]:
        return readers.parse_io_stat(self.files.get("io.stat", b""))


class CgroupReader:
    """Owns one directory fd of a cgroup; give it the container's stable parent, whose counters go on over runs.

    The fd never comes back to life: when the cgroup is removed every read raises GoneError, also after a cgroup of the
    same path was made.

    Raises GoneError when there is no such cgroup, HostError when it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, dir_fd: int | None = None) -> None:
        self._fd = -1
        self.path = os.fspath(path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
        except OSError as e:
            if e.errno in _GONE:
                raise GoneError("no such cgroup", self.path) from None
            raise HostError(f"cannot open the cgroup: {e.strerror}", self.path) from e

    def read(self, names: Sequence[str] = STAT_FILES) -> Sample:
        """The named files, each read once. A file below a sub-directory (`g3/cgroup.procs`) may be named too.

        Raises GoneError when the cgroup was removed.
        """
        if self._fd < 0:
            raise GoneError("the reader is closed", self.path)
        files: dict[str, bytes] = {}
        errors: list[tuple[str, int]] = []
        missing = False
        for name in names:
            try:
                files[name] = read_at(self._fd, name)
            except OSError as e:
                if e.errno == errno.ENOENT:
                    missing = True  # no such controller here, or the whole cgroup went: asked below
                elif e.errno == errno.ENODEV and "/" not in name:
                    raise GoneError("the cgroup was removed", self.path) from None
                elif e.errno != errno.ENODEV:
                    errors.append((name, e.errno or 0))
        if missing and not self.exists():
            raise GoneError("the cgroup was removed", self.path)
        return Sample(files, tuple(errors))

    def exists(self) -> bool:
        """A removed cgroup's directory can still be held, but nothing is found in it."""
        try:
            os.stat("cgroup.procs", dir_fd=self._fd)
        except OSError as e:
            return e.errno not in _GONE
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> CgroupReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def read_at(dir_fd: int, name: str) -> bytes:
    """The whole of a small file. Raises OSError."""
    fd = os.open(name, _OPEN_FLAGS, dir_fd=dir_fd)
    try:
        data = os.read(fd, _PAGE)
        return data if len(data) < _FULL else data + _rest(fd)
    finally:
        os.close(fd)


def _rest(fd: int) -> bytes:
    """A list file gives at most a page a read, whatever is asked for."""
    parts: list[bytes] = []
    size = 0
    while size < _LIMIT:
        data = os.read(fd, _CHUNK)
        if not data:
            break
        parts.append(data)
        size += len(data)
    return b"".join(parts)
