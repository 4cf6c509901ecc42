"""What a container uses now, from the last rows of its flight recorder (pure). What is not known is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monitor.recorder import Track

WINDOW = 2.0  # seconds that a rate is taken over: three rows of one second


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes, tasks; `cpu` in processors, `read` and `write` in bytes a second, pressures as shares of time, 0 to 1.

    memory is without the page cache that nobody used for long, as `docker stats` counts it; `current` is all of it.
    """

    cpu: float | None = None
    memory: int | None = None
    current: int | None = None
    anon: int | None = None
    swap: int | None = None
    pids: int | None = None
    io_read: int | None = None
    io_write: int | None = None
    read: float | None = None
    write: float | None = None
    cpu_pressure: float | None = None
    memory_pressure: float | None = None
    io_pressure: float | None = None


def usage(track: Track) -> Usage:
    """Levels from the newest row, rates over all rows of the track."""
    if not track:
        return Usage()
    columns = track.columns
    seconds = track.times[-1] - track.times[0]
    current, inactive = _level(columns, "memory"), _level(columns, "inactive_file")
    cpu = _rate(columns, "cpu_usec", seconds)
    return Usage(
        cpu=None if cpu is None else cpu / 1e6,
        memory=current if current is None or inactive is None else max(0, current - inactive),
        current=current,
        anon=_level(columns, "anon"),
        swap=_level(columns, "swap"),
        pids=_level(columns, "pids"),
        io_read=_level(columns, "io_read"),
        io_write=_level(columns, "io_write"),
        read=_rate(columns, "io_read", seconds),
        write=_rate(columns, "io_write", seconds),
        cpu_pressure=_share(columns, "cpu_some_usec", seconds),
        memory_pressure=_share(columns, "memory_some_usec", seconds),
        io_pressure=_share(columns, "io_some_usec", seconds),
    )


Columns = Mapping[str, Sequence[int | None]]


def _level(columns: Columns, name: str) -> int | None:
    values = columns.get(name) or (None,)
    return values[-1]


def _rate(columns: Columns, name: str, seconds: float) -> float | None:
    """A second. A counter that fell is another one: nothing is known then."""
    values = columns.get(name) or ()
    if seconds <= 0 or len(values) < 2:
        return None
    first, last = values[0], values[-1]
    return None if first is None or last is None or last < first else (last - first) / seconds


def _share(columns: Columns, name: str, seconds: float) -> float | None:
    rate = _rate(columns, name, seconds)
    return None if rate is None else min(1.0, rate / 1e6)
