"""Causes to words: how a run ended, the status line of each phase, and the chain that `why` prints. Pure."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Protocol

from config.model import Container
from supervisor.lifecycle.facts import Cause, End, Phase, Reason, Scope, State
from supervisor.lifecycle.restart import start_failed

LATER = frozenset({Phase.RUNNING, Phase.PAUSED})


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
    """`1st`, `12th`, `23rd`."""
    teens = 10 < number % 100 < 14
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def span(seconds: float) -> str:
    """`0.3s`, `12s`, `4m10s`, `2h05m`, `3d04h`."""
    seconds = max(0.0, seconds)
    if 0 < seconds < 9.95 and round(seconds, 1) != round(seconds):
        return f"{seconds:.1f}s"
    whole = round(min(seconds, 1e12))
    for unit, name, part, rest in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= unit:
            return f"{whole // unit}{name}{whole % unit // part:02d}{rest}"
    return f"{whole}s"


def size(number: int) -> str:
    """`64MiB` where it is whole, else bytes."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= unit and number % unit == 0:
            return f"{number // unit}{name}"
    return f"{number} bytes"


def signal_words(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def end_words(end: End, definition: Container) -> str:
    """`exit 3`, `SIGSEGV`, `oom-killed (limit 64MiB)`, `lost: ...`: how a run ended."""
    if end.oom.killed:
        limit = definition.resources.memory
        match end.oom.scope:
            case Scope.CONTAINER:
                return f"oom-killed (limit {size(limit)})" if limit else "oom-killed"
            case Scope.PARENT:
                return "oom-killed (limit of a parent)"
            case Scope.HOST:
                return "oom-killed (the host ran out of memory)"
            case None:
                return "oom-killed (limit unknown)"
    if end.code is not None:
        return f"exit {end.code}"
    if end.signal is not None:
        return signal_words(end.signal)
    if start_failed(end):
        return f"start failed: {end.detail}" if end.detail else "start failed"
    return f"lost: {end.detail}" if end.detail else "lost, code unknown"


def end_code(end: End, by: Reason | None) -> str:
    """`Cause.code` of what an end leads to."""
    if by in (Reason.HEALTH, Reason.OOM, Reason.PRESSURE):
        return by.value
    if end.oom.killed:
        return "oom"
    if end.lost:
        return "launch-error" if start_failed(end) else "lost"
    return "exit"


def judged_words(end: End, by: Reason | None, definition: Container) -> str:
    """As `end_words`, but a run that we ended ourselves says why."""
    match by:
        case Reason.HEALTH:
            return "unhealthy"
        case Reason.OOM:
            return "a process was oom-killed"
        case Reason.PRESSURE:
            return "pressure"
        case _:
            return end_words(end, definition)


def again_words(code: str, what: str, attempt: int, wait: float) -> str:
    """`exit 1, 3rd restart in 4s`; `oom-killed (limit 64MiB), retry 4 in 12s`."""
    if code == "launch-error":
        return what  # no restart yet: nothing has run
    if code == "oom":
        return f"{what}, retry {attempt} in {span(wait)}"
    return f"{what}, {ordinal(attempt)} restart in {span(wait)}"


def backoff_cause(end: End, by: Reason | None, definition: Container, attempt: int, wait: float) -> Cause:
    code = end_code(end, by)
    return Cause(code, again_words(code, judged_words(end, by, definition), attempt, wait))


def waiting(unmet: tuple[str, ...]) -> Cause:
    return Cause("dependency", f"waiting for {', '.join(unmet)}")


def status_line(state: State, now: float) -> str:
    """The words beside the phase. Every state that is not RUNNING says why, and what comes next and when."""
    match state.phase:
        case Phase.RUNNING | Phase.PAUSED:
            up = "" if state.started_at is None else f", uptime {span(now - state.started_at)}"
            return f"pid {state.pid}{up}{f', shim lost: {state.untended}' if state.untended else ''}"
        case Phase.BACKOFF:
            return _backoff_line(state, now)
        case Phase.STOPPING:
            return _stopping_line(state, now)
        case _:
            return state.cause.text


def _backoff_line(state: State, now: float) -> str:
    text = state.cause.text
    if state.retry_at is not None and state.cause.code == "exhausted":
        text = f"{text}; next try in {span(state.retry_at - now)}"
    elif state.retry_at is not None and state.last_end is not None:
        left = state.retry_at - now
        text = backoff_cause(state.last_end, state.ended_by, state.definition, state.attempt, left).text
        if state.cause.code == "launch-error":
            text = f"{text}, retry {state.attempt} in {span(left)}"
    return f"{text}, crash-looping" if state.crash_looping else text


def _stopping_line(state: State, now: float) -> str:
    if state.killed_at is not None or state.stop_signalled_at is None:
        return state.cause.text
    left = state.stop_signalled_at + state.definition.stop_grace_period - now
    return f"{state.cause.text}; kill in {span(left)}"


def explain(state: State, decisions: Sequence[Told], now: float) -> list[str]:
    """A tree, the newest first: the present state, below it each run that led to it, below that what happened in it."""
    lines = [f"{state.name} is {state.phase}: {status_line(state, now) or 'no cause is recorded'}"]
    if state.phase in LATER and state.cause.text:
        lines.append(f"because: {state.cause.text}")
    runs: dict[int, list[Told]] = {}
    for decision in reversed(decisions):
        runs.setdefault(decision.generation, []).append(decision)
    for number, (generation, told) in enumerate(runs.items(), start=1):
        last = number == len(runs)
        lines.append(f"{_branch(last)} {f'run {generation}' if generation else 'before the first run'}")
        below = "   " if last else "│  "
        lines += [f"{below}{_branch(d is told[-1])} {_ago(now, d.boot):>12}  {d.phase:<9} {d.text}" for d in told]
    return lines


def _branch(last: bool) -> str:
    return "└─" if last else "├─"


def _ago(now: float, then: float) -> str:
    return f"{span(now - then)} ago" if then <= now else "before boot"
