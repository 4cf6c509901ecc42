"""Whether a run that ended begins again, and when. Pure; the table is docs/lifecycle.md, "Restart"."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from config.model import Container
from supervisor.lifecycle.facts import Cause, End, Phase, Reason, State

ENDS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an end. `wait` is None when nothing follows; 0 is at once."""

    phase: Phase
    cause: Cause
    attempt: int
    ends: tuple[float, ...]
    crash_looping: bool = False
    wait: float | None = None


def succeeded(end: End, definition: Container) -> bool:
    return end.code is not None and end.code in definition.success_exit_codes


def counted_as(end: End, definition: Container) -> str:
    """success error signal oom start_failure lost: the label of the counter of ends."""
    if end.oom.killed:
        return "oom"
    if end.lost:
        return "lost" if end.started is not None or "restarted" in end.detail or "lost" in end.detail else "start_failure"
    if end.signal is not None:
        return "signal"
    return "success" if succeeded(end, definition) else "error"


def reason_of(end: End, definition: Container) -> Reason:
    """Why a restart after this end happens."""
    kind = counted_as(end, definition)
    return {"success": Reason.EXIT, "start_failure": Reason.ERROR}.get(kind) or Reason(kind)


def luck(seed: str, generation: int) -> float:
    """0 to 1, the same at each replay, other on each host (design, "Delay")."""
    return crc32(f"{seed}/{generation}".encode()) / 2**32


def delay(definition: Container, attempt: int, lucky: float) -> float:
    """Seconds before attempt k = 1, 2 ...: min(interval * factor^(k-1), max_interval), and the jitter's share on top."""
    rules = definition.restart
    top = max(rules.max_interval, rules.interval)
    wait = rules.interval
    if wait > 0 and rules.factor > 1:
        for _ in range(min(attempt - 1, 4096)):
            wait *= rules.factor
            if wait >= top:
                break
    return min(wait, top) * (1 + rules.jitter * lucky)


def lived_long(state: State, end: End) -> bool:
    """A run that lasted resets the count: `reset_after`, or twice the last delay when that is longer."""
    if end.started is None:
        return False
    return end.ended - end.started >= max(state.definition.restart.reset_after, 2 * (state.backoff or 0.0))


def judge(state: State, end: End, now: float) -> Verdict:
    """By the restart table, for a container that is wanted up. Total."""
    definition, rules = state.definition, state.definition.restart
    fresh = lived_long(state, end)
    attempt = (0 if fresh else state.attempt) + 1
    times = () if fresh else state.ends
    times = tuple(t for t in (*times, now) if now - t < rules.window)[-ENDS_KEPT:]
    told = words(end, definition)
    good = succeeded(end, definition)
    if rules.policy == "no" or (rules.policy == "on-failure" and good):
        phase = Phase.FATAL if counted_as(end, definition) == "start_failure" else Phase.EXITED
        return Verdict(phase, Cause(cause_code(end), told), attempt, times)
    limit = rules.max_attempts if rules.policy == "on-failure" else None
    if limit is not None and len(times) > limit:
        used_up = f"{told}, {limit} restarts used up"
        if rules.on_exhausted == "fatal":
            return Verdict(Phase.FATAL, Cause("exhausted", used_up), attempt, times)
        return Verdict(Phase.BACKOFF, Cause("exhausted", used_up), attempt, times, wait=rules.slow_interval)
    looping = limit is None and len(times) >= rules.crash_loop_after
    wait = delay(definition, attempt, luck(state.seed, end.generation))
    return Verdict(Phase.BACKOFF, Cause(cause_code(end), told), attempt, times, looping, wait)


def cause_code(end: End) -> str:
    if end.oom.killed:
        return "oom"
    return "lost" if end.lost else "exit"


def words(end: End, definition: Container) -> str:
    """How a run ended, in a status line's words."""
    if end.oom.killed:
        limit = definition.resources.memory
        own = end.oom.scope == "container" and limit is not None
        return f"oom-killed (limit {size(limit or 0)})" if own else f"oom-killed ({end.oom.scope or 'scope unknown'})"
    if end.lost:
        return end.detail or "end unknown"
    if end.signal is not None:
        return f"signal {end.signal}"
    return f"exit {end.code}"


def size(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count and count % unit == 0:
            return f"{count // unit}{name}"
    return f"{count} bytes"
