"""A container's state in words, as `status` shows it, and whether it is as it shall be. Pure.

supervisorctl shows what its server says, so the words are made here once for every client.
"""

from __future__ import annotations

import signal
import time

from config.errors import one_line
from supervisor.lifecycle.facts import Desired, End, Health, Phase, Reason, Scope, Source, State
from supervisor.ports import Snapshot

AUTOMATIC = frozenset(Reason) - {Reason.MANUAL, Reason.UPDATE, Reason.BOOT}
CUT = 200


def describe(shown: Snapshot) -> str:
    """`pid 4123, uptime 0:12:03`; for every state but RUNNING the reason, and what comes next."""
    state = shown.state
    parts = _parts(shown, state)
    if shown.problem:
        parts.append(shown.problem)
    return one_line(", ".join(part for part in parts if part), CUT)


def _parts(shown: Snapshot, state: State) -> list[str]:
    match state.phase:
        case Phase.RUNNING | Phase.PAUSED:
            return [_pid(state), _uptime(shown), _health(state), _restarts(shown)]
        case Phase.STARTING | Phase.PULLING:
            return [_waiting(state), _pid(state), _health(state)]
        case Phase.BACKOFF:
            looping = "crash-looping" if state.crash_looping else ""
            return [_reason(state), _retry(shown), looping]
        case Phase.STOPPING:
            return [_stopping(shown)]
        case Phase.EXITED:
            return [end_words(state.last_end), when(shown, state.last_end)]
        case Phase.STOPPED:
            if state.last_end is None and state.generation == 0 and not state.explicit_stop:
                return ["Not started"]
            return [state.cause.text or "stopped", when(shown, state.last_end)]
        case Phase.FATAL:
            words = end_words(state.last_end)
            cause = state.cause.text
            return [cause if words in cause else f"{words}: {cause}" if words and cause else words or cause]
        case _:
            return [state.cause.text]


def in_desired_state(state: State) -> bool:
    """Whether nobody needs to look: on its way counts as there; an end counts when it was a success for good."""
    match state.phase:
        case Phase.RUNNING:
            return state.desired is Desired.UP and state.health is not Health.UNHEALTHY
        case Phase.STARTING | Phase.STOPPING | Phase.PULLING:
            return not state.crash_looping
        case Phase.EXITED:
            return state.desired is Desired.DOWN or succeeded(state)
        case Phase.STOPPED:
            return state.desired is Desired.DOWN or not state.definition.autostart
        case _:
            return False


def succeeded(state: State) -> bool:
    end = state.last_end
    return end is not None and end.code is not None and end.code in state.definition.success_exit_codes


def end_words(end: End | None) -> str:
    """`exit 3`, `SIGSEGV`, `oom-killed`, `ended, code unknown`."""
    if end is None:
        return ""
    if end.oom.killed:
        scope = end.oom.scope
        return "oom-killed" if scope in (None, Scope.CONTAINER) else f"oom-killed ({scope} limit)"
    if end.code is not None:
        return f"exit {end.code}"
    if end.signal is not None:
        return signal_name(end.signal)
    return "ended, code unknown" if end.source is not Source.LOST else "lost, code unknown"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def span(seconds: float) -> str:
    """`0:12:03`, `3 days, 0:12:03`: supervisorctl's way."""
    whole = max(0, int(seconds))
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} day{'s' * (days != 1)}, {clock}" if days else clock


def short_span(seconds: float) -> str:
    """`12s`, `4m10s`, `2h05m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole // 60 % 60:02d}m"


def when(shown: Snapshot, end: End | None) -> str:
    """The end's local time, reckoned back from now: a clock that was set since keeps the distance true."""
    if end is None or end.ended > shown.boot:  # of an earlier boot
        return ""
    return time.strftime("%b %d %H:%M", time.localtime(max(0.0, shown.wall - (shown.boot - end.ended))))


def _pid(state: State) -> str:
    return f"pid {state.pid}" if state.pid is not None else ""


def _uptime(shown: Snapshot) -> str:
    started = shown.state.started_at
    return f"uptime {span(shown.boot - started)}" if started is not None else ""


def _health(state: State) -> str:
    match state.health:
        case Health.UNHEALTHY:
            return "unhealthy"
        case Health.STARTING:
            return "health starting"
        case _:
            return ""


def _restarts(shown: Snapshot) -> str:
    count = sum(shown.restarts.get(reason, 0) for reason in AUTOMATIC)
    return f"restarts {count}" if count else ""


def _waiting(state: State) -> str:
    return f"waiting: {'; '.join(state.unmet)}" if state.unmet else ""


def _reason(state: State) -> str:
    if state.cause.code == "launch-error" or state.last_end is None:
        return state.cause.text
    limit = state.definition.resources.memory
    words = end_words(state.last_end)
    if state.ended_by is Reason.HEALTH:
        return "unhealthy"
    if state.last_end.oom.killed and state.last_end.oom.scope is Scope.CONTAINER and limit:
        return f"{words} (limit {size(limit)})"
    return words


def _retry(shown: Snapshot) -> str:
    state = shown.state
    if state.wake_at is None:
        return ""
    return f"retry {state.attempt} in {short_span(state.wake_at - shown.boot)}"


def _stopping(shown: Snapshot) -> str:
    state = shown.state
    if state.killed_at is not None:
        return f"killed {short_span(shown.boot - state.killed_at)} ago"
    if state.stop_signalled_at is not None:
        grace = state.definition.stop_grace_period
        left = state.stop_signalled_at + grace - shown.boot
        return f"kill in {short_span(left)}" if left > 0 else ""
    return state.cause.text


def size(number: int) -> str:
    """`64MiB`, where it is whole; else bytes."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= unit and number % unit == 0:
            return f"{number // unit}{name}"
    return str(number)
