"""Lines of CRI's log format: `2026-11-25T07:04:04.123456789Z stdout F text`. Pure; bytes stay bytes.

P marks a piece of a long line, F the last one. What does not look like this is a line all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

LONGEST_LINE = 1 << 20  # a longer one is shown in pieces of about that size


@dataclass(frozen=True, slots=True)
class Raw:
    """One line of the file. `time` is "" when there is none."""

    time: str
    stream: str
    partial: bool
    text: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the container. `time` is that of its first piece."""

    time: str
    stream: str
    text: bytes


def parse(raw: bytes) -> Raw:
    """A line with or without its newline. Never raises: NUL bytes before it (a hole of a power cut) are dropped."""
    line = raw.removesuffix(b"\n")
    clean = line.lstrip(b"\0")
    parts = clean.split(b" ", 3)
    if len(parts) == 4 and parts[1] in (b"stdout", b"stderr") and parts[2][:1] in (b"F", b"P") and parts[0].isascii():
        return Raw(parts[0].decode(), parts[1].decode(), parts[2][:1] == b"P", parts[3])
    return Raw("", "stdout", False, clean)


@dataclass(slots=True)
class _Pending:
    time: str
    size: int = 0
    pieces: list[bytes] = field(default_factory=list)


class Joiner:
    """From bytes of the files to whole lines; pieces are joined by stream."""

    def __init__(self) -> None:
        self._rest = b""
        self._pending: dict[str, _Pending] = {}

    def feed(self, data: bytes) -> Iterator[Line]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            yield from self._line(line)
        if len(self._rest) > LONGEST_LINE:
            rest, self._rest = self._rest, b""
            yield from self._line(rest)

    def finish(self) -> Iterator[Line]:
        """What is left at the end: an unfinished line, pieces whose last one never came."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._line(rest)
        for stream in list(self._pending):
            yield self._take(stream)

    def _line(self, raw: bytes) -> Iterator[Line]:
        if raw and not raw.strip(b"\0"):
            return
        line = parse(raw)
        if not line.partial and line.stream not in self._pending:
            yield Line(line.time, line.stream, line.text)
            return
        pending = self._pending.setdefault(line.stream, _Pending(line.time))
        pending.pieces.append(line.text)
        pending.size += len(line.text)
        if not line.partial or pending.size > LONGEST_LINE:
            yield self._take(line.stream)

    def _take(self, stream: str) -> Line:
        pending = self._pending.pop(stream)
        return Line(pending.time, stream, b"".join(pending.pieces))
