"""why: the causes of a container's state; of an end that nobody asked for, its last minute and last words too."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from config.errors import WharfError
from supervisor.cli.client import quoted
from supervisor.cli.curves import BLOCKS, PLAIN, Values, can_draw, human, rates, spark
from supervisor.cli.main import Context

WIDTH = 40  # columns of a curve, so that its words fit beside it in 80
WORDS, LONGEST = 8, 160  # lines of the log, and characters of one
LOOK_BACK = 200  # lines of the log in which those before the end are looked for
ASCII = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-"})


def why(context: Context) -> int:
    name = context.args.names[0]
    found = context.client.get(f"/v1/containers/{quoted(name)}/why")
    if context.json:
        context.say(json.dumps(found))
        return 0
    draws = can_draw()
    for line in found.get("text", ()):
        context.say(str(line) if draws else str(line).translate(ASCII))
    for line in curves(found, BLOCKS if draws else PLAIN):
        context.say(line)
    if found.get("samples"):
        for line in _last_words(context, name, found.get("last_end") or {}):
            context.say(line)
    return 0


def curves(found: dict[str, Any], marks: str) -> list[str]:
    """Lines that draw the minute before the last end; none when there are no samples of it."""
    samples: dict[str, list[Any]] = found.get("samples") or {}
    times = samples.get("times") or []
    memory = samples.get("memory") or ()
    lines = _curve("memory", memory, marks, lambda known: f"{human(known[0])} to {human(known[-1])}")
    for name, column in (("cpu", "cpu_usec"), ("memory pressure", "memory_some_usec"), ("io pressure", "io_some_usec")):
        shares = [None if rate is None else rate / 1e6 for rate in rates(times, samples.get(column) or ())]
        if name == "cpu" or any(shares):
            lines += _curve(name, shares, marks, lambda known: f"up to {max(known) * 100:.0f} %")
    for name, column in (("memory.high hits", "memory_high"), ("memory.max hits", "memory_max")):
        hits = rates(times, samples.get(column) or ())
        if any(hits):
            lines += _curve(name, hits, marks, lambda known: f"up to {max(known):.0f}/s")
    if not lines:
        return []
    run = (found.get("last_end") or {}).get("generation")
    of = f" of run {run}" if run else ""
    return ["", f"the last {times[-1] - times[0]:.0f} s before the end{of}:", *lines]


def _curve(name: str, values: Values, marks: str, words: Callable[[Sequence[float]], str]) -> list[str]:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return []
    return [f"  {name:<16} {spark(values, marks, width=WIDTH):<{WIDTH}}  {words(known)}".rstrip()]


def _last_words(context: Context, name: str, end: dict[str, Any]) -> list[str]:
    """The end of the log up to the end of that run: a run that came after it has words of its own."""
    data = bytearray()
    try:
        for piece in context.client.stream(f"/v1/containers/{quoted(name)}/logs?format=json&tail={LOOK_BACK}"):
            data += piece
    except WharfError:
        return []  # the causes are told already
    wall = end.get("wall")
    latest = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall)) if wall else "9"
    shown = [line for line in map(json.loads, data.splitlines()) if str(line.get("time", ""))[:19] <= latest]
    words = [f"  {printable(str(line.get('text', '')))[:LONGEST]}".rstrip() for line in shown[-WORDS:]]
    return ["", "the last lines of its log:", *words] if words else []


def printable(text: str) -> str:
    """What a container wrote must not steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text.rstrip("\r\n"))
