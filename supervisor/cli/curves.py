"""Curves in one line of text, and sizes as people read them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*#@"
CURVE = 60  # columns, so that the line fits in 80

Values = Sequence[float | None]


def can_draw() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def spark(values: Values, marks: str, top: float | None = None, width: int = CURVE) -> str:
    """One character for each value, from 0 to `top` or the largest; a gap for what is unknown."""
    if len(values) > width:
        size = len(values) / width
        values = [_most(values[int(i * size) : int((i + 1) * size)]) for i in range(width)]
    highest = top or _most(values) or 1
    last = len(marks) - 1
    return "".join(" " if v is None else marks[min(last, int(v * len(marks) / (highest * 1.0001)))] for v in values)


def _most(values: Values) -> float | None:
    return max((value for value in values if value is not None), default=None)


def rates(times: Sequence[float], counter: Sequence[int | None]) -> list[float | None]:
    """How fast a counter rose, a second, between each two rows; one value less than there are rows."""
    found: list[float | None] = []
    for row in range(1, min(len(times), len(counter))):
        before, after, seconds = counter[row - 1], counter[row], times[row] - times[row - 1]
        known = before is not None and after is not None and after >= before and seconds > 0
        found.append((after - before) / seconds if known and before is not None and after is not None else None)
    return found


def human(size: float) -> str:
    """`12.5MiB`; as exact as anyone reads."""
    number = float(size)
    units = ["GiB", "MiB", "KiB", "B"]
    while number >= 1024 and len(units) > 1:
        units.pop()
        number /= 1024
    return f"{number:.0f}{units[-1]}" if units[-1] == "B" or number >= 100 else f"{number:.1f}{units[-1]}"
