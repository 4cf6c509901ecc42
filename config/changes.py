"""What a changed definition means for a container that runs: nothing, a change on the fly, or a restart. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from config.model import Container

# Read again by whoever uses them, or written to cgroup files. Everything else is fixed when init starts.
LIVE = frozenset((
    "restart", "success_exit_codes", "stop_signal", "stop_grace_period", "autostart", "start_timeout", "healthy_after",
    "resources", "oom", "pressure", "on_pressure", "healthcheck", "depends_on", "logging", "labels",
    "allow_vulnerable_runtime",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """`fields` are dotted (`resources.memory`), in the order of the model; empty when the kind is `same`."""

    kind: Literal["same", "live", "restart"]
    fields: tuple[str, ...] = ()


def diff(old: Container, new: Container) -> Change:
    """What it takes to come from `old` to `new`."""
    fields = tuple(_changed(old, new, ""))
    if not fields:
        return Change("same")
    live = all(field.partition(".")[0] in LIVE for field in fields)
    return Change("live" if live else "restart", fields)


def _changed(old: BaseModel, new: BaseModel, prefix: str) -> list[str]:
    out = []
    for key in type(old).model_fields:
        before: Any = getattr(old, key)
        after: Any = getattr(new, key)
        if before == after:
            continue
        if isinstance(before, BaseModel) and type(before) is type(after):
            out += _changed(before, after, f"{prefix}{key}.")
        else:
            out.append(prefix + key)
    return out
