"""Hooks of an OCI spec to operations of a launch plan: each with its arguments, and the state that it reads on stdin.

Source: runtime-spec config.md, "POSIX-platform Hooks"; runtime.md, "State" and "Lifecycle". When each runs, and
where: docs/runtime.md, "Hooks".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from config.errors import DefinitionError
from config.record import record
from runtime.wire import Op, op

KINDS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
STATUSES: Final = ("creating", "created", "running", "stopped")
_STATUS_OF: Final = (0, 0, 0, 1, 2, 3)  # what each kind is told


@record
class Owner:
    """Whose hooks they are: the container's id and its bundle (absolute), as in its state."""

    id: str
    bundle: str


def hook_ops(spec: Mapping[str, Any], owner: Owner | None) -> list[Op]:
    """The hooks of `spec`, none if it has none. Raises DefinitionError."""
    hooks = spec.get("hooks") or {}
    if not any(hooks.values()):
        return []
    if owner is None:
        raise DefinitionError("hooks need a container of their own", "/hooks")
    ops = [
        _state_op(spec, owner, s) for s in sorted({_STATUS_OF[n] for n, kind in enumerate(KINDS) if hooks.get(kind)})
    ]
    for number, kind in enumerate(KINDS):
        for hook in hooks.get(kind) or ():
            ops.append(op("HOOK", kind=number, timeout_ms=hook.get("timeout", 0) * 1000, path=hook["path"]))
            ops += [op("HOOKARG", text=text) for text in hook.get("args") or (hook["path"],)]
            ops += [op("HOOKENV", text=text) for text in hook.get("env") or ()]
    return ops


def state_text(spec: Mapping[str, Any], owner: Owner, status: str, pid: int) -> str:
    """The state as a hook reads it, for those that the plan does not run."""
    head, tail = _state(spec, owner, status)
    return f"{head}{pid}{tail}"


def _state(spec: Mapping[str, Any], owner: Owner, status: str) -> tuple[str, str]:
    """What stands before and after the pid."""
    head = json.dumps({"ociVersion": spec["ociVersion"], "id": owner.id, "status": status})
    tail = json.dumps({"bundle": owner.bundle, "annotations": spec.get("annotations") or {}})
    return f'{head[:-1]}, "pid": ', f", {tail[1:]}"


def _state_op(spec: Mapping[str, Any], owner: Owner, status: int) -> Op:
    prefix, suffix = _state(spec, owner, STATUSES[status])
    return op("STATE", kind=status, prefix=prefix, suffix=suffix)
