"""A container's log as a stream of whole lines, over rotations, without gap or duplicate.

The files are in CRI's format (`time stream F|P text`), written and rotated by the shim: `current.log`, then
`current.log.1` (the newest of the old ones) and so on. A reader holds the file that it reads open, so that
its inode tells where it stands after a rotation. Reading is done in worker threads: a disk may hang.
"""

from __future__ import annotations

import base64
import os
import re
import stat
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import CapacityLimiter, to_thread

from supervisor.api.cri import Joiner, Line, Raw, parse
from supervisor.api.message import json_line

BLOCK = 65536
LONGEST_RAW = 1 << 20  # no line of the shim is longer than 17 KiB: more is garbage, and no reason to hold it
MOST_FILES = 100
# Between looks. Who is slower than the rotation of all files misses what was removed: hence no long naps.
FIRST_NAP, LONGEST_NAP = 0.02, 0.2
NAME = re.compile(r"current\.log(?:\.([1-9]\d{0,5}))?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to show. `tail` lines or `tail_bytes` from the end (whole lines, at least one), or all."""

    tail: int | None = None
    tail_bytes: int | None = None
    follow: bool = False
    stream: str = ""
    timestamps: bool = False
    json: bool = False


def directory(log_path: str) -> Path:
    """Of the current file's path, or the directory itself."""
    path = Path(log_path)
    return path.parent if path.name == "current.log" else path


async def read(folder: Path, wanted: Wanted, threads: CapacityLimiter | None = None) -> AsyncIterator[bytes]:
    """Pieces of the answer's body. Without files there is nothing to show (and, with `follow`, not yet)."""
    files = Files(folder)
    try:
        await to_thread.run_sync(files.open, _budget(wanted), abandon_on_cancel=True, limiter=threads)
        joiner, nap = Joiner(), FIRST_NAP
        while True:
            data = await to_thread.run_sync(files.read, abandon_on_cancel=True, limiter=threads)
            if data:
                nap = FIRST_NAP
                shown = b"".join(_show(line, wanted) for line in joiner.feed(data) if _matches(line, wanted))
                if shown:
                    yield shown
            elif wanted.follow:
                await anyio.sleep(nap)
                nap = min(nap * 1.5, LONGEST_NAP)
            else:
                break
        rest = b"".join(_show(line, wanted) for line in joiner.finish() if _matches(line, wanted))
        if rest:
            yield rest
    finally:
        files.close()


def _matches(line: Line, wanted: Wanted) -> bool:
    return not wanted.stream or line.stream == wanted.stream


def _show(line: Line, wanted: Wanted) -> bytes:
    if not wanted.json:
        stamp = f"{line.time} ".encode() if wanted.timestamps and line.time else b""
        return stamp + line.text + b"\n"
    shown = {"time": line.time, "stream": line.stream}
    try:
        shown["text"] = line.text.decode()
    except UnicodeDecodeError:
        shown["text"] = line.text.decode(errors="backslashreplace")
        shown["base64"] = base64.b64encode(line.text).decode()  # the escapes alone could not be undone
    return json_line(shown)


Take = Callable[[Raw], bool]


def _budget(wanted: Wanted) -> Take | None:
    """Asked from the last line backwards whether one more is wanted."""
    used = 0

    def lines(line: Raw) -> bool:
        nonlocal used
        if line.partial or (wanted.stream and line.stream != wanted.stream):
            return True  # a piece belongs to the line that follows it
        used += 1
        return used <= (wanted.tail or 0)

    def some_bytes(line: Raw) -> bool:
        nonlocal used
        first = used == 0
        used += len(line.text) + (not line.partial)
        return first or used <= (wanted.tail_bytes or 0)

    if wanted.tail_bytes is not None:
        return some_bytes
    return lines if wanted.tail is not None else None


class Files:
    """The files of one log, oldest first, read in order. For one reader; `read` runs in a thread, `close` anywhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: deque[int] = deque()  # what is still to be read; the last one was current when it was opened
        self._at = 0  # offset in the first of them
        self._line_open = False  # what was read last does not end a line
        self._lock = threading.Lock()
        self._closed = False

    def open(self, take: Take | None) -> None:
        """Find the files and the place to begin at."""
        with self._lock:
            self._open.extend(self._open_all())
            if take is not None:
                self._seek(take)
        self._close_late()

    def read(self) -> bytes:
        """The next bytes, or b"" when there are none now."""
        with self._lock:
            data = b"" if self._closed else self._read()
        self._close_late()
        return data

    def close(self) -> None:
        self._closed = True
        self._close_late()

    def _close_late(self) -> None:
        """Whoever comes last closes: a thread that hangs on a disk must not find its number given to another file."""
        if self._closed and self._lock.acquire(blocking=False):
            try:
                while self._open:
                    os.close(self._open.popleft())
            finally:
                self._lock.release()

    # -- in the thread --------------------------------------------------------------------------

    def _read(self) -> bytes:
        while True:
            if not self._open:
                self._open.extend(self._open_all())
                self._at = 0
                if not self._open:
                    return b""
            data = _pread(self._open[0], self._at)
            if data:
                self._at += len(data)
                self._line_open = not data.endswith(b"\n")
                return data
            if len(self._open) == 1 and not self._rotated():
                return b""
            if len(self._open) > 1:
                os.close(self._open.popleft())
                self._at = 0
                if self._line_open:  # a power cut tore the last line of that file
                    self._line_open = False
                    return b"\n"

    def _rotated(self) -> bool:
        """Whether there is more to read now: rotated, and the successors are opened; or truncated."""
        mine = os.fstat(self._open[0])
        current = _stat(self._folder / "current.log")
        if current is None:
            return False  # between two renames
        if _same(mine, current):
            if mine.st_size < self._at:
                self._at = 0
                return True
            return False
        if mine.st_size > self._at:
            return True  # what was written between our last look and the rotation
        found = self._listing()
        place = next((index for index, _ in found if _is(self._path(index), mine)), None)
        later = [index for index, _ in found if place is None or index < place]
        opened = self._open_these(later)
        if not opened or (place is not None and not _is(self._path(place), mine)):
            _close_all(opened)
            return False  # it goes on rotating: look again
        self._open.extend(opened)
        return True

    def _open_all(self) -> list[int]:
        for _ in range(20):
            found = [index for index, _ in self._listing()]
            opened = self._open_these(found)
            if len(opened) == len(found):
                return opened
        return self._open_these([0])

    def _open_these(self, indexes: list[int]) -> list[int]:
        """All of them, oldest first, or none when a rotation came in between."""
        opened: list[int] = []
        try:
            for index in indexes:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                opened.append(os.open(self._path(index), flags))
            stats = [os.fstat(fd) for fd in opened]
            if all(_is(self._path(index), st) for index, st in zip(indexes, stats, strict=True)):
                return opened
        except FileNotFoundError:
            pass
        _close_all(opened)
        return []

    def _listing(self) -> list[tuple[int, str]]:
        """Index and name, oldest first."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        found = [(int(match[1] or 0), name) for name in names if (match := NAME.fullmatch(name))]
        return sorted(found, reverse=True)[-MOST_FILES:]

    def _path(self, index: int) -> Path:
        return self._folder / (f"current.log.{index}" if index else "current.log")

    def _seek(self, take: Take) -> None:
        for place in range(len(self._open) - 1, -1, -1):
            start = _backwards(self._open[place], take)
            if start is not None:
                for _ in range(place):
                    os.close(self._open.popleft())
                self._at = start
                return
        self._at = 0


def _backwards(fd: int, take: Take) -> int | None:
    """The offset behind the last line that is not taken; None when all lines of the file are."""
    end = os.fstat(fd).st_size
    rest = b""  # the end of a line whose beginning is further up
    while end > 0:
        start = max(0, end - BLOCK)
        block = _pread_exactly(fd, start, end - start) + rest
        whole = block if start == 0 else block.partition(b"\n")[2]
        rest = block[: len(block) - len(whole)]
        stop = start + len(block)
        lines = whole.split(b"\n")
        if not lines[-1]:
            lines.pop()
        else:
            stop += 1  # the last line has no newline yet
        for raw in reversed(lines):
            if raw.strip(b"\0") and not take(parse(raw)):
                return min(stop, start + len(block))
            stop -= len(raw) + 1
        if len(rest) > LONGEST_RAW:
            return stop
        end = start
    return None


def _pread(fd: int, at: int) -> bytes:
    with suppress(OSError):
        return os.pread(fd, BLOCK, at)
    return b""


def _pread_exactly(fd: int, at: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := os.pread(fd, size - len(data), at + len(data))):
        data += more
    return data


def _stat(path: Path) -> os.stat_result | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _is(path: Path, known: os.stat_result) -> bool:
    found = _stat(path)
    return found is not None and _same(found, known)


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_dev) == (other.st_ino, other.st_dev)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
