"""why: the causes of a container's state, and, after an OOM kill, how its memory grew."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from supervisor.cli.client import quoted
from supervisor.cli.main import Context

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*#@"
CURVE = 60  # columns, so that the line fits in 80


def why(context: Context) -> int:
    found = context.client.get(f"/v1/containers/{quoted(context.args.names[0])}/why")
    if context.json:
        context.say(json.dumps(found))
        return 0
    for line in found.get("text", ()):
        context.say(str(line))
    for line in curve(found, can_draw()):
        context.say(line)
    return 0


def can_draw() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def curve(found: dict[str, Any], blocks: bool) -> list[str]:
    """Lines that draw the last minute of memory; none when there are no samples of it."""
    samples: dict[str, list[Any]] = found.get("samples") or {}
    memory = samples.get("memory") or []
    known = [value for value in memory if value is not None]
    if len(known) < 2:
        return []
    times = samples.get("times") or []
    seconds = f"last {times[-1] - times[0]:.0f} s" if len(times) > 1 else f"last {len(memory)} samples"
    drawn = spark(memory, BLOCKS if blocks else PLAIN)
    return ["", f"memory before the end, {seconds}: {human(known[0])} to {human(known[-1])}", f"  {drawn}"]


def spark(values: Sequence[int | None], marks: str) -> str:
    """One character for each value, from 0 to the largest; a gap for what is unknown."""
    if len(values) > CURVE:
        size = len(values) / CURVE
        values = [_most(values[int(i * size) : int((i + 1) * size)]) for i in range(CURVE)]
    top: int = max((value for value in values if value is not None), default=0) or 1
    last = len(marks) - 1
    return "".join(" " if value is None else marks[min(last, value * len(marks) // (top + 1))] for value in values)


def _most(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def human(size: int) -> str:
    """`12.5MiB`; as exact as anyone reads."""
    number = float(size)
    units = ["GiB", "MiB", "KiB", "B"]
    while number >= 1024 and len(units) > 1:
        units.pop()
        number /= 1024
    return f"{number:.0f}{units[-1]}" if units[-1] == "B" or number >= 100 else f"{number:.1f}{units[-1]}"
