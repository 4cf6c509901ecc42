"""The few system calls on cgroup directories and files; a class, so that tests can put a fake one in its place."""

from __future__ import annotations

import errno
import os
from pathlib import Path

GONE = frozenset({errno.ENOENT, errno.ENODEV})
_MAX_READ = 1 << 20
_MAX_STEPS = 200_000
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class CgroupFs:
    """cgroupfs itself. Errors are OSError unless said otherwise."""

    def read(self, path: Path) -> str | None:
        """The content without trailing newline; None when the file or its cgroup is not there."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        try:
            return os.read(fd, _MAX_READ).decode("utf-8", errors="replace").rstrip("\n")
        except OSError as error:
            if error.errno in GONE:  # ENODEV: removed between open and read
                return None
            raise
        finally:
            os.close(fd)

    def write(self, path: Path, value: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)  # never O_CREAT: a missing file is missing
        try:
            os.write(fd, value.encode() or b"\n")  # an empty write would not reach the kernel
        finally:
            os.close(fd)

    def exists(self, path: Path) -> bool:
        return os.path.lexists(path)

    def is_dir(self, path: Path) -> bool:
        return path.is_dir()

    def mkdir(self, path: Path) -> bool:
        """True when it was made, False when it was there."""
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            return False
        return True

    def children(self, path: Path) -> list[str]:
        """Names of the cgroups right below; none when it is gone."""
        try:
            with os.scandir(path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError as error:
            if error.errno in GONE:
                return []
            raise

    def open_dir(self, path: Path) -> int:
        return os.open(path, _DIR)

    def remove(self, path: Path) -> bool:
        """Remove `path` and the cgroups below it, deepest first. False while something in it is busy.

        A container may have made a chain of cgroups deeper than any path or recursion limit: one fd walks it.
        """
        try:
            fd = os.open(path, _DIR)
        except OSError as error:
            if error.errno in GONE:
                return True
            raise
        try:
            fd, done = self._empty(fd)
        finally:
            os.close(fd)
        return done and self._rmdir(path)

    def _empty(self, fd: int) -> tuple[int, bool]:
        """Remove everything below `fd`; returns the fd that is open in its place, and whether all is gone."""
        depth = 0
        for _ in range(_MAX_STEPS):
            with os.scandir(fd) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            busy = [name for name in names if not self._rmdir(name, fd)]
            if not busy and depth == 0:
                return fd, True
            try:
                below = os.open(busy[0] if busy else "..", _DIR, dir_fd=fd)
            except OSError as error:
                if error.errno in GONE:
                    continue
                raise
            if busy and not self._has_children(below):
                os.close(below)
                return fd, False  # processes are in it
            os.close(fd)
            fd = below
            depth += 1 if busy else -1
        return fd, False

    @staticmethod
    def _has_children(fd: int) -> bool:
        with os.scandir(fd) as entries:
            return any(entry.is_dir(follow_symlinks=False) for entry in entries)

    @staticmethod
    def _rmdir(path: str | Path, dir_fd: int | None = None) -> bool:
        try:
            os.rmdir(path, dir_fd=dir_fd)
        except OSError as error:
            if error.errno in GONE:
                return True
            if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
                return False
            raise
        return True
