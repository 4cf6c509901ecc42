"""Records of the store as JSON text, and back.

Tolerant as an upgrade and a downgrade need it: unknown keys are ignored, missing ones take their default.
Strict in types: what does not fit raises ValueError, and the caller sets that row aside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from supervisor.lifecycle.facts import Cause, Desired, End, Oom, Phase, Saved, Scope, Source
from supervisor.lifecycle.terms import STUCK

VERSION = 1  # of the row's text; a row of a newer version is read as far as it is known

T = TypeVar("T")
Json = Mapping[str, Any]


def dump_saved(saved: Saved) -> str:
    return _dump(
        {
            "generation": saved.generation,
            "desired": saved.desired.value,
            "explicit_stop": saved.explicit_stop,
            "phase": saved.phase.value,
            "attempt": saved.attempt,
            "ends": list(saved.ends),
            "last_end": end_json(saved.last_end) if saved.last_end is not None else None,
            "cause": [saved.cause.code, saved.cause.text],
            "wake_at": saved.wake_at,
            "health_stop": saved.health_stop,
            "stuck": saved.stuck,
            "pressure_at": saved.pressure_at,
        }
    )


def load_saved(text: str) -> Saved:
    """Raises ValueError."""
    row = _object(text)
    default = Saved()
    last = row.get("last_end")
    cause = row.get("cause", ["new", ""])
    if not isinstance(cause, list) or len(cause) != 2:
        raise ValueError("cause is no pair")
    ends = row.get("ends", [])
    if not isinstance(ends, list):
        raise ValueError("ends is no list")
    return Saved(
        generation=_count(row.get("generation", default.generation), "generation"),
        desired=Desired(row.get("desired", default.desired)),
        explicit_stop=_is(bool, row.get("explicit_stop", False), "explicit_stop"),
        phase=Phase(row.get("phase", default.phase)),
        attempt=_count(row.get("attempt", 0), "attempt"),
        ends=tuple(_number(at, "ends") for at in ends),
        last_end=None if last is None else end_of(last),
        cause=Cause(_is(str, cause[0], "cause"), _is(str, cause[1], "cause")),
        wake_at=_maybe_number(row.get("wake_at"), "wake_at"),
        health_stop=_is(bool, row.get("health_stop", False), "health_stop"),
        stuck=_is(bool, row.get("stuck", _was_stuck(row)), "stuck"),
        pressure_at=_maybe_number(row.get("pressure_at"), "pressure_at"),
    )


def _was_stuck(row: Mapping[str, Any]) -> bool:
    """Of a record from before `stuck`, which only its words told."""
    return row.get("phase") == Phase.STOPPING and str(row.get("cause", ["", ""])[1]).endswith(STUCK)


def dump_end(end: End) -> str:
    return _dump(end_json(end))


def load_end(text: str) -> End:
    """Raises ValueError."""
    return end_of(_object(text))


def end_json(end: End) -> dict[str, Any]:
    return {
        "generation": end.generation,
        "started": end.started,
        "ended": end.ended,
        "code": end.code,
        "signal": end.signal,
        "oom": {
            "killed": end.oom.killed,
            "group": end.oom.group,
            "scope": None if end.oom.scope is None else end.oom.scope.value,
            "kills": end.oom.kills,
        },
        "source": end.source.value,
        "detail": end.detail,
    }


def end_of(row: object) -> End:
    """Raises ValueError."""
    if not isinstance(row, dict):
        raise ValueError("an end is no object")
    oom = row.get("oom", {})
    if not isinstance(oom, dict):
        raise ValueError("oom is no object")
    scope = oom.get("scope")
    return End(
        generation=_count(row.get("generation"), "generation"),
        started=_maybe_number(row.get("started"), "started"),
        ended=_number(row.get("ended"), "ended"),
        code=_maybe_count(row.get("code"), "code"),
        signal=_maybe_count(row.get("signal"), "signal"),
        oom=Oom(
            killed=_is(bool, oom.get("killed", False), "oom"),
            group=_is(bool, oom.get("group", False), "oom"),
            scope=None if scope is None else Scope(scope),
            kills=_maybe_count(oom.get("kills"), "kills"),
        ),
        source=Source(row.get("source", Source.SHIM)),
        detail=_is(str, row.get("detail", ""), "detail"),
    )


def _dump(row: Json) -> str:
    # ASCII: a lone surrogate in a detail must not make the record unwritable
    return json.dumps(row, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def _object(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (RecursionError, TypeError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(row, dict):
        raise ValueError("no object")
    return row


def _is(kind: type[T], value: object, what: str) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"{what}: {type(value).__name__}")
    return value


def _count(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{what}: no count")
    return value


def _maybe_count(value: object, what: str) -> int | None:
    return None if value is None else _count(value, what)


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:  # also no NaN
        raise ValueError(f"{what}: no number")
    return float(value)


def _maybe_number(value: object, what: str) -> float | None:
    return None if value is None else _number(value, what)
