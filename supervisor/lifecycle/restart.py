"""Whether a run that ended begins again, and when (docs/lifecycle.md, "Restart"). Pure; times are CLOCK_BOOTTIME."""

from __future__ import annotations

import math
from dataclasses import dataclass
from zlib import crc32

from config.model import Container, Restart
from supervisor.lifecycle.facts import End, Phase, Reason, Source, State


@dataclass(frozen=True, slots=True)
class Ruling:
    """What follows from an end by policy. `wait` is None when nothing follows; 0.0 is at once."""

    attempt: int
    ends: tuple[float, ...]
    crash_looping: bool = False
    slow: bool = False
    exhausted: bool = False
    wait: float | None = None


def succeeded(end: End, definition: Container) -> bool:
    """Whether the exit code is one of `success_exit_codes`. A run that we stopped is not judged at all."""
    return end.code is not None and not end.oom.killed and end.code in definition.success_exit_codes


def start_failed(end: End) -> bool:
    """The run never began: nobody lost its code, there was none."""
    return end.lost and end.source is not Source.LOST


def counted_as(end: End, definition: Container) -> str:
    """success error signal oom start_failure lost: the label of the counter of ends."""
    if end.oom.killed:
        return "oom"
    if end.lost:
        return "start_failure" if start_failed(end) else "lost"
    if end.signal is not None:
        return "signal"
    return "success" if succeeded(end, definition) else "error"


def asks_why(before: State, end: End) -> bool:
    """Whether somebody will want to see what led to this end: no success, and nothing that an operator asked for.

    `before`: the state that the end came to.
    """
    if end.oom.killed:
        return True
    if before.phase is Phase.STOPPING:
        return before.cause.code not in ("operator", "update", "removed")
    return counted_as(end, before.definition) != "success"


def reason_of(end: End, definition: Container, by: Reason | None = None) -> Reason:
    """Why a restart after this end happens. `by`: we ended the run ourselves."""
    if by is not None:
        return by
    kind = counted_as(end, definition)
    return {"success": Reason.EXIT, "start_failure": Reason.ERROR}.get(kind) or Reason(kind)


def luck(seed: str, generation: int) -> float:
    """0 to 1, exclusive: the same at each replay, another on each host."""
    return crc32(f"{seed}/{generation}".encode()) / 2**32


def nominal(rules: Restart, attempt: int) -> float:
    """Delay before attempt k = 1, 2 ... without jitter: min(interval * factor^(k-1), max_interval)."""
    top = max(rules.interval, rules.max_interval)
    if rules.interval <= 0 or rules.factor <= 1:
        return rules.interval
    # factor ** k overflows: past the attempt that reaches the cap there is nothing to compute
    growth = max(0, attempt - 1) * math.log(rules.factor)
    if growth >= min(math.log(top) - math.log(rules.interval), 700.0):
        return top
    return min(rules.interval * rules.factor ** max(0, attempt - 1), top)


def delay(rules: Restart, attempt: int, lucky: float) -> float:
    """`nominal`, and luck's share of the jitter on top."""
    return nominal(rules, attempt) * (1 + rules.jitter * lucky)


def longest(rules: Restart) -> float:
    """No delay is longer: a stored time beyond it is not believed."""
    return max(rules.interval, rules.max_interval, rules.slow_interval) * (1 + rules.jitter)


def lasting(state: State) -> float:
    """A run this long starts the count of attempts anew: `reset_after`, or twice the last delay when that is longer.

    With less, a container that dies every 11 s would loop for ever on the first delay (moby#7414).
    """
    rules = state.definition.restart
    last = 0.0
    if state.slow:
        last = rules.slow_interval
    elif state.attempt:
        last = delay(rules, state.attempt, luck(state.seed, state.generation - 1))
    return max(rules.reset_after, 2 * last)


def wants(definition: Container, end: End | None, by: Reason | None) -> bool:
    """Whether the policy starts again after this end; how often is another matter. None: an end that nobody knows."""
    match definition.restart.policy:
        case "no":
            return False
        case "on-failure":
            return end is None or by is not None or not succeeded(end, definition)
        case _:
            return True


def rule(state: State, end: End, by: Reason | None, at: float) -> Ruling:
    """By the restart table, for a container that is wanted up. `at`: when the run ended, at most now.

    `by`: ended by us for its health or a child's OOM, a failure whatever its code.
    """
    rules = state.definition.restart
    lasted = end.started is not None and at - end.started >= lasting(state)
    attempt = 1 if lasted else state.attempt + 1
    recent = tuple(t for t in state.ends if at - t < rules.window)
    if not wants(state.definition, end, by):
        return Ruling(attempt - 1, recent)
    limit = rules.max_attempts if rules.policy == "on-failure" else None
    exhausted = limit is not None and (len(recent) >= limit or (state.slow and not lasted))
    if exhausted and rules.on_exhausted == "fatal":
        return Ruling(attempt - 1, recent, exhausted=True)
    ends = (*recent, at)[-max(rules.crash_loop_after, limit or 0) :]
    looping = len(ends) >= rules.crash_loop_after
    if exhausted:
        return Ruling(attempt, ends, looping, slow=True, exhausted=True, wait=rules.slow_interval)
    return Ruling(attempt, ends, looping, wait=delay(rules, attempt, luck(state.seed, end.generation)))
