"""A container's state in words, as `status` shows it, Pure.

supervisorctl shows what its server says, so the words are made here once for every client. The causes are
the core's words (`lifecycle.why`); what is added is what the core does not know: clocks on walls, counters, problems.
"""

from __future__ import annotations

import time

from config.errors import one_line
from supervisor.lifecycle.facts import End, Health, Phase, Reason, State
from supervisor.lifecycle.why import status_line
from supervisor.ports import Snapshot

AUTOMATIC = frozenset(Reason) - {Reason.MANUAL, Reason.UPDATE, Reason.BOOT}
CUT = 200


def describe(shown: Snapshot) -> str:
    """`pid 4123, uptime 0:12:03`; for every state but RUNNING the reason, and what comes next."""
    parts = [*_parts(shown), shown.problem]
    return one_line(", ".join(part for part in parts if part), CUT)


def _parts(shown: Snapshot) -> list[str]:
    state = shown.state
    match state.phase:
        case Phase.RUNNING | Phase.PAUSED:
            return [_pid(state), _uptime(shown), _health(state), _restarts(shown)]
        case Phase.STARTING:
            return [status_line(state, shown.boot), _health(state)]
        case Phase.EXITED | Phase.STOPPED | Phase.FATAL:
            if state.generation == 0 and state.phase is Phase.STOPPED and not state.explicit_stop:
                return ["Not started"]
            return [status_line(state, shown.boot), when(shown)]
        case _:
            return [status_line(state, shown.boot)]


def span(seconds: float) -> str:
    """`0:12:03`, `3 days, 0:12:03`: supervisorctl's way."""
    whole = max(0, int(seconds))
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} day{'s' * (days != 1)}, {clock}" if days else clock


def when(shown: Snapshot) -> str:
    """The last end's local time: as recorded, or reckoned back from now."""
    end: End | None = shown.state.last_end
    if end is not None and shown.last_end_wall is not None:
        return time.strftime("%b %d %H:%M", time.localtime(max(0.0, shown.last_end_wall)))
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
