"""Flight recorder: the last minutes of one container's numbers, in a ring of fixed size (pure).

Cost: 300 rows of 15 columns of 8 bytes are 36 kB a container, taken once, never grown. The CPU
time of a reading is measured by tests/bench/density.py. A value that is unknown is unknown in
the ring, too: never 0, never the value before it.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monitor import readers
from monitor.cgroup import Sample

COLUMNS = (
    "cpu_usec",
    "memory",
    "anon",
    "swap",
    "memory_high",
    "memory_max",
    "pids",
    "io_read",
    "io_write",
    "memory_some_usec",
    "memory_full_usec",
    "cpu_some_usec",
    "io_some_usec",
    "inactive_file",
)
"""Besides the time. Counters: cpu_usec, memory_high and memory_max (memory.events), io_read and io_write (bytes of all
devices), *_some_usec and *_full_usec (pressure). The others are levels, in bytes or in tasks."""

RECORD_FILES = (
    "cpu.stat",
    "memory.current",
    "memory.stat",
    "memory.swap.current",
    "memory.events",
    "pids.current",
    "io.stat",
    "memory.pressure",
    "cpu.pressure",
    "io.pressure",
)
"""What to read for row()."""

_UNKNOWN = -1
_TOP = 2**63 - 1
_VERSION = 1

Row = tuple[int | None, ...]


def row(sample: Sample) -> Row:
    """The columns of one sample, in the order of COLUMNS."""
    files = sample.files
    events = readers.flat_digits(files.get("memory.events", b""))
    pressure = readers.pressure_digits(files.get("memory.pressure", b""))
    stat = readers.flat_digits(files.get("memory.stat", b""))
    io = readers.io_digits(files.get("io.stat", b"")).values() if "io.stat" in files else None
    return (
        _pick(readers.flat_digits(files.get("cpu.stat", b"")), b"usage_usec"),
        sample.number("memory.current"),
        _pick(stat, b"anon"),
        sample.number("memory.swap.current"),
        _pick(events, b"high"),
        _pick(events, b"max"),
        sample.number("pids.current"),
        None if io is None else sum(_pick(device, b"rbytes") or 0 for device in io),
        None if io is None else sum(_pick(device, b"wbytes") or 0 for device in io),
        _pick(pressure, b"some"),
        _pick(pressure, b"full"),
        _pick(readers.pressure_digits(files.get("cpu.pressure", b"")), b"some"),
        _pick(readers.pressure_digits(files.get("io.pressure", b"")), b"some"),
        _pick(stat, b"inactive_file"),
    )


def _pick(values: Mapping[bytes, bytes], key: bytes) -> int | None:
    text = values.get(key, b"")
    return int(text) if readers.is_number(text) else None


@dataclass(frozen=True, slots=True)
class Track:
    """Rows of a ring, oldest first: `times` in seconds of the caller's clock, `columns` by name, None is unknown."""

    times: tuple[float, ...]
    columns: Mapping[str, tuple[int | None, ...]]

    def __len__(self) -> int:
        return len(self.times)


class Ring:
    """Keeps the newest `rows` rows. The clock must not run backwards; a row with an older time starts the ring anew."""

    def __init__(self, rows: int = 300, columns: Sequence[str] = COLUMNS) -> None:
        self._columns = tuple(columns)
        self._width = 1 + len(self._columns)
        self._rows = rows
        self._cells = array("q", bytes(8 * rows * self._width))
        self._at = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._cells.itemsize * len(self._cells)

    def add(self, now: float, values: Sample | Row) -> None:
        """now: seconds (kept to the millisecond). A row of the wrong width is a fault of the caller (ValueError)."""
        cells = row(values) if isinstance(values, Sample) else values
        if len(cells) != self._width - 1:
            raise ValueError(f"{len(cells)} values for {self._width - 1} columns")
        stamp = round(now * 1000)
        if self._count and stamp < self._time(self._count - 1):
            self._count = 0
        start = self._at * self._width
        self._cells[start : start + self._width] = array(
            "q", [stamp, *(_UNKNOWN if value is None or value < 0 else min(value, _TOP) for value in cells)]
        )
        self._at = (self._at + 1) % self._rows
        self._count = min(self._count + 1, self._rows)

    def clear(self) -> None:
        """For a new run whose past is no part of its story."""
        self._count = 0

    def last(self, seconds: float) -> Track:
        """The rows of the last `seconds`, counted back from the newest row."""
        if not self._count:
            return Track((), dict.fromkeys(self._columns, ()))
        oldest = self._time(self._count - 1) - round(seconds * 1000)
        first = next(index for index in range(self._count) if self._time(index) >= oldest)
        rows = [self._row(index) for index in range(first, self._count)]
        return Track(
            tuple(cells[0] / 1000 for cells in rows),
            {
                name: tuple(None if cells[column] == _UNKNOWN else cells[column] for cells in rows)
                for column, name in enumerate(self._columns, start=1)
            },
        )

    def _slot(self, index: int) -> int:
        return (self._at - self._count + index) % self._rows * self._width

    def _time(self, index: int) -> int:
        return self._cells[self._slot(index)]

    def _row(self, index: int) -> array[int]:
        start = self._slot(index)
        return self._cells[start : start + self._width]


def pack(track: Track) -> list[object]:
    """A track for the store, to be kept with an end: [version, names, first ms, steps in ms, columns].

    Values are written as differences to the row before, since most are small then; null is unknown, and the next known
    value is a difference to the last known one. A minute of one-second rows is about 2 kB of compact JSON. A
    column of unknowns is left out.
    """
    stamps = [round(t * 1000) for t in track.times]
    names = [name for name, values in track.columns.items() if any(value is not None for value in values)]
    return [
        _VERSION,
        names,
        stamps[0] if stamps else 0,
        [after - before for before, after in itertools.pairwise(stamps)],
        [_differences(track.columns[name]) for name in names],
    ]


def dump(track: Track) -> str:
    """pack() as text; "" of no rows."""
    return json.dumps(pack(track), separators=(",", ":")) if track else ""


def unpack(packed: Any) -> Track | None:
    """The track that pack() wrote; None for anything else, since it comes from a disk."""
    try:
        version, names, start, steps, columns = packed
        if version != _VERSION or len(names) != len(columns):
            return None
        stamps = [int(start)]
        for step in steps:
            stamps.append(stamps[-1] + int(step))
        values = {str(name): _values(column) for name, column in zip(names, columns, strict=True)}
    except (TypeError, ValueError, OverflowError):
        return None
    count = len(next(iter(values.values()), ()))
    if any(len(column) != count for column in values.values()) or (values and count not in (0, len(stamps))):
        return None
    return Track(tuple(stamp / 1000 for stamp in stamps) if count else (), values)


def _differences(values: Sequence[int | None]) -> list[int | None]:
    found: list[int | None] = []
    last = 0
    for value in values:
        found.append(None if value is None else value - last)
        last = last if value is None else value
    return found


def _values(differences: Sequence[int | None]) -> tuple[int | None, ...]:
    found: list[int | None] = []
    last = 0
    for difference in differences:
        last = last if difference is None else last + int(difference)
        found.append(None if difference is None else last)
    return tuple(found)
