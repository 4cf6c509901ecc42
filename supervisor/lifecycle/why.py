"""Causes to words: the reason in a status line, and the chain that `why` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from supervisor.lifecycle.facts import Phase, State


class Told(Protocol):
    """A recorded decision (`ports.Decision`)."""

    @property
    def phase(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def boot(self) -> float: ...


def ordinal(number: int) -> str:
    teens = 10 < number % 100 < 14
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def reason(state: State, now: float) -> str:
    """What a status line says of a state that is not RUNNING: the cause, and what comes next and when."""
    text = state.cause.text
    if state.phase is Phase.BACKOFF and state.wake_at is not None:
        looping = ", crash-looping" if state.crash_looping else ""
        wait = max(0.0, state.wake_at - now)
        return f"{text}, {ordinal(state.attempt)} restart in {wait:.0f}s{looping}"
    return text


def explain(state: State, decisions: Sequence[Told], now: float) -> list[str]:
    """Lines from the present state back to what led to it."""
    lines = [f"{state.name} is {state.phase}: {reason(state, now) or 'no cause recorded'}"]
    for told in reversed(decisions):
        ago = max(0.0, now - told.boot)
        lines.append(f"  {ago:8.1f}s ago  run {told.generation:<4} {told.phase:<9} {told.text}")
    return lines
