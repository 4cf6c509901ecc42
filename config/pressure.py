"""Thresholds of pressure: `some 500ms 2s` is tasks that waited 500 ms in a window of 2 s; `off` watches nothing. Pure.

The words and bounds are the kernel's (accounting/psi.rst, "Monitoring for pressure thresholds").
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, WithJsonSchema

from config import quantity
from config.fields import kind, nearest, problem, quote

RESOURCES = ("cpu", "memory", "io")
KINDS = ("some", "full")
WINDOW_MIN = 500_000
WINDOW_MAX = 10_000_000
OFF = "off"


class Limit(NamedTuple):
    """`kind` some or full; the others in microseconds."""

    kind: str
    threshold: int
    window: int


def limit(text: str) -> Limit | None:
    """Of a text that was checked; None for `off`."""
    if text == OFF:
        return None
    word, threshold, window = text.split()
    return Limit(word, _microseconds(threshold), _microseconds(window))


def _microseconds(text: str) -> int:
    return round(quantity.parse_duration(text) * 1_000_000)


def checked(value: object) -> str:
    """The text in its one spelling. Raises what pydantic shows."""
    if not isinstance(value, str):
        raise problem(f'must be a threshold such as "some 500ms 2s", or off, not {kind(value)}')
    words = value.split()
    if words == [OFF]:
        return OFF
    if len(words) != 3:
        raise problem(f'must be KIND THRESHOLD WINDOW such as "some 500ms 2s", or off, not {quote(value)}')
    if words[0] not in KINDS:
        near = nearest(words[0], KINDS)
        hint = f', did you mean "{near}"?' if near else ""
        raise problem(f"{quote(words[0])} is no kind of pressure: some (a task waits) or full (all of them wait){hint}")
    try:
        threshold, window = (_microseconds(word) for word in words[1:])
    except ValueError as e:
        raise problem(str(e)) from None
    if not WINDOW_MIN <= window <= WINDOW_MAX:
        raise problem(f"the window must be from 500ms to 10s, not {words[2]}")
    if not 0 < threshold <= window:
        raise problem(f"the threshold must be more than 0 and at most the window {words[2]}, not {words[1]}")
    return " ".join((words[0], *(quantity.format_duration(us / 1_000_000) for us in (threshold, window))))


_PATTERN = r"^\s*(off|(some|full)\s+\S+\s+\S+)\s*$"
Threshold = Annotated[str, BeforeValidator(checked), WithJsonSchema({"type": "string", "pattern": _PATTERN})]
