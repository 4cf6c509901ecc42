"""The JSON shapes of the API, from the daemon's facts. Pure. Documented in docs/wharfctl.md, "API"."""

from __future__ import annotations

from typing import Any

from supervisor.api.words import describe
from supervisor.lifecycle.facts import End, Health
from supervisor.lifecycle.settled import in_desired_state
from supervisor.ports import Snapshot

Json = dict[str, Any]


def container(shown: Snapshot) -> Json:
    """One container. Times that end in `_wall` are Unix seconds; absent knowledge is null. No environment, ever."""
    state = shown.state
    return {
        "name": state.name,
        "state": str(state.phase),
        "description": describe(shown),
        "ok": in_desired_state(state),
        "desired": str(state.desired),
        "explicit_stop": state.explicit_stop,
        "health": str(state.health),
        "health_output": state.health_output[:500] if state.health is Health.UNHEALTHY else "",
        "generation": state.generation,
        "pid": state.pid,
        "started_wall": _wall(shown, state.started_at),
        "uptime": None if state.started_at is None else round(max(0.0, shown.boot - state.started_at), 3),
        "attempt": state.attempt,
        "crash_looping": state.crash_looping,
        "next_attempt_in": _left(shown) if state.phase == "BACKOFF" else None,
        "unmet": list(state.unmet),
        "cause": {"code": state.cause.code, "text": state.cause.text},
        "last_end": None if state.last_end is None else end(state.last_end, shown),
        "restarts": dict(shown.restarts),
        "ends": dict(shown.ends),
        "oom_kills": dict(shown.oom_kills),
        "restart_policy": state.definition.restart.policy,
        "cgroup": shown.cgroup,
        "log_path": shown.log_path,
        "file": shown.file,
        "problem": shown.problem,
    }


def end(one: End, shown: Snapshot | None = None) -> Json:
    """An end; with `shown`, the last one of that container. `ended_wall` is null where it is not known."""
    return {
        "generation": one.generation,
        "started": one.started,
        "ended": one.ended,
        "ended_wall": None if shown is None else shown.last_end_wall or _wall(shown, one.ended),
        "code": one.code,
        "signal": one.signal,
        "oom": {
            "killed": one.oom.killed,
            "group": one.oom.group,
            "scope": None if one.oom.scope is None else str(one.oom.scope),
            "kills": one.oom.kills,
        },
        "source": str(one.source),
        "detail": one.detail,
    }


def _wall(shown: Snapshot, boot: float | None) -> float | None:
    if boot is None or boot > shown.boot:
        return None
    return round(shown.wall - (shown.boot - boot), 3)


def _left(shown: Snapshot) -> float | None:
    wake = shown.state.retry_at
    return None if wake is None else round(max(0.0, wake - shown.boot), 3)
