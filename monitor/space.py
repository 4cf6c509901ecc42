"""How much room a directory takes: a walk that is bounded, polite, and safe in a tree that is somebody else's.

Blocks: call it in a worker thread. It rests between steps, so that it never takes more than a small share of a core.
"""

from __future__ import annotations

import os
import time

ENTRIES_MAX = 200_000
DEPTH_MAX = 128
STEP = 100  # entries between two rests
SHARE = 0.1  # of a core

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME  # flash: a look must write nothing


def measure(path: str | os.PathLike[str], entries_max: int = ENTRIES_MAX) -> int | None:
    """Bytes that the tree takes on its own file system, each file once, whatever its links.

    None: there is no such directory, it cannot be read, or it has too many entries or levels. Nothing is followed out
    of it: no link, no mount.
    """
    walk = _Walk(entries_max)
    try:
        return walk.total(os.open(path, _FLAGS & ~os.O_NOFOLLOW))
    except (OSError, _TooMuchError):
        return None
    finally:
        walk.close()


class _TooMuchError(Exception):
    pass


class _Walk:
    def __init__(self, entries_max: int) -> None:
        self._levels: list[tuple[int, os._ScandirIterator[str]]] = []
        self._left = entries_max
        self._linked: set[int] = set()
        self._device = 0
        self._since = time.thread_time()

    def total(self, root: int) -> int:
        """Owns root. Raises OSError, _TooMuchError."""
        size = self._enter(root)
        while self._levels:
            directory, entries = self._levels[-1]
            entry = next(entries, None)
            if entry is None:
                os.close(self._levels.pop()[0])
            else:
                self._count()
                size += self._size(directory, entry)
        return size

    def close(self) -> None:
        for fd, entries in self._levels:
            entries.close()
            os.close(fd)
        self._levels.clear()

    def _enter(self, fd: int) -> int:
        """Owns fd, the next directory to be looked through; its own bytes, or 0 when it is another file system's."""
        try:
            state = os.fstat(fd)
            self._device = self._device or state.st_dev
            if state.st_dev != self._device:
                os.close(fd)
                return 0
            if len(self._levels) >= DEPTH_MAX:
                raise _TooMuchError
            self._levels.append((fd, os.scandir(fd)))
        except BaseException:
            os.close(fd)
            raise
        return state.st_blocks * 512

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _TooMuchError
        if self._left % STEP == 0:
            spent = time.thread_time() - self._since
            time.sleep(spent * (1 - SHARE) / SHARE)
            self._since = time.thread_time()

    def _size(self, directory: int, entry: os.DirEntry[str]) -> int:
        try:
            if entry.is_dir(follow_symlinks=False):
                return self._enter(os.open(entry.name, _FLAGS, dir_fd=directory))
            state = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return 0  # went meanwhile
        if state.st_dev != self._device or state.st_ino in self._linked:
            return 0
        if state.st_nlink > 1:
            self._linked.add(state.st_ino)
        return state.st_blocks * 512
