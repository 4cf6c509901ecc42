"""The part of a launch plan about the process itself: limits, credentials, filter, arguments. Used by plan.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from config.errors import DefinitionError
from runtime import capabilities, linux, seccomp
from runtime.wire import Op, groups_bytes, op

TERM = "xterm"  # of a terminal, unless its environment says another: what images know (as moby, Podman)
_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def rlimit_ops(process: Mapping[str, Any]) -> list[Op]:
    ops: list[Op] = []
    seen: set[str] = set()
    for index, limit in enumerate(process.get("rlimits") or ()):
        where = f"/process/rlimits/{index}"
        name = limit["type"]
        number = linux.RLIMITS.get(name.removeprefix("RLIMIT_").lower()) if name.startswith("RLIMIT_") else None
        if number is None or name != name.upper():
            raise DefinitionError(f"unknown limit {name!r}", f"{where}/type", "see setrlimit(2)")
        if name in seen:
            raise DefinitionError(f"{name} stands twice", where)
        seen.add(name)
        if limit["soft"] > limit["hard"]:
            raise DefinitionError(f"{name}: soft {limit['soft']} is over hard {limit['hard']}", where)
        ops.append(op("RLIMIT", resource=number, soft=limit["soft"], hard=limit["hard"]))
    return ops


def caps_op(process: Mapping[str, Any], bounding: frozenset[str] | None, warnings: list[str]) -> Op:
    """The five sets as masks. What the host cannot grant, or nobody knows, is left out with a warning (config.md,
    "capabilities").

    No `capabilities` at all means none: a root process without them, as runc does it.
    """
    sets = process.get("capabilities") or {}
    able = -1 if bounding is None else capabilities.mask(bounding)
    masks = {}
    for name in _SETS:
        asked = sets.get(name) or ()
        wanted = capabilities.mask(one for one in asked if one in capabilities.BITS)
        if strange := [one for one in asked if one not in capabilities.BITS]:
            warnings.append(f"unknown capability {', '.join(strange)} ({name})")
        masks[name] = wanted & able
        if wanted & ~able and name in ("bounding", "permitted"):
            lost = ", ".join(sorted(capabilities.names_of(wanted & ~able)))
            warnings.append(f"this host cannot give {lost} ({name})")
    if masks["effective"] & ~masks["permitted"]:
        raise DefinitionError("effective must be part of permitted", "/process/capabilities/effective")
    if masks["ambient"] & ~(masks["permitted"] & masks["inheritable"]):
        raise DefinitionError("ambient must be part of permitted and inheritable", "/process/capabilities/ambient")
    return op("CAPS", **masks)


def user_op(process: Mapping[str, Any]) -> Op:
    user = process.get("user") or {}
    groups = tuple(dict.fromkeys(user.get("additionalGids") or ()))
    return op("USER", uid=user.get("uid", 0), gid=user.get("gid", 0), groups=groups_bytes(groups))


def privilege_ops(spec: Mapping[str, Any], warnings: list[str]) -> list[Op]:
    ops = [op("NNP")] if spec["process"].get("noNewPrivileges") else []
    profile = spec["linux"].get("seccomp")
    if profile:
        flags, code, notes = seccomp.compile_filter(profile)
        warnings += notes
        if code:
            ops.append(op("SECCOMP", flags=flags, filter=code))
    return ops


def attribute_ops(process: Mapping[str, Any], config: Mapping[str, Any]) -> list[Op]:
    """Scheduling, I/O priority, personality, labels: what execve keeps."""
    ops = []
    if domain := config.get("personality"):
        if domain.get("flags"):
            raise DefinitionError("no flag of personality is supported", "/linux/personality/flags")
        ops.append(op("PERSONALITY", domain=linux.PERSONALITIES[domain["domain"]]))
    if priority := process.get("ioPriority"):
        if "priority" not in priority and priority["class"] != "IOPRIO_CLASS_IDLE":
            raise DefinitionError("is missing", "/process/ioPriority/priority")
        ops.append(op("IOPRIO", kind=linux.IOPRIO_CLASSES[priority["class"]], level=priority.get("priority", 0)))
    if scheduler := process.get("scheduler"):
        ops.append(_sched(scheduler))
    return ops


def _sched(scheduler: Mapping[str, Any]) -> Op:
    flags = 0
    for word in scheduler.get("flags") or ():
        flags |= linux.SCHED_FLAGS[word]
    if scheduler["policy"] == "SCHED_DEADLINE":  # the kernel says no more than EINVAL
        runtime, deadline = (scheduler.get(key, 0) for key in ("runtime", "deadline"))
        period = scheduler.get("period", 0) or deadline
        if not 1024 <= runtime <= deadline <= period < 2**63:
            raise DefinitionError("SCHED_DEADLINE needs 1024 <= runtime <= deadline <= period", "/process/scheduler")
    return op(
        "SCHED",
        policy=linux.SCHED_POLICIES[scheduler["policy"]],
        nice=scheduler.get("nice", 0),
        priority=scheduler.get("priority", 0),
        flags=flags,
        runtime=scheduler.get("runtime", 0),
        deadline=scheduler.get("deadline", 0),
        period=scheduler.get("period", 0),
    )


def label_ops(process: Mapping[str, Any], lsms: frozenset[str] | None) -> list[Op]:
    """A label that the host cannot give is refused: it is there to confine. None: init has it already."""
    ops = []
    for key, name, lsm in (("apparmorProfile", "APPARMOR", "apparmor"), ("selinuxLabel", "SELINUX", "selinux")):
        if label := process.get(key):
            require_lsm(lsm, lsms, f"/process/{key}")
            ops.append(op(name, label=label))
    return ops


def require_lsm(lsm: str, lsms: frozenset[str] | None, where: str) -> None:
    if lsms is not None and lsm not in lsms:
        raise DefinitionError(f"{lsm} is not on on this host", where)


def console_ops(process: Mapping[str, Any]) -> list[Op]:
    """CONSOLE, for a process with a terminal. `consoleSize` of one without is ignored (config.md, "consoleSize")."""
    if not process.get("terminal"):
        return []
    size = process.get("consoleSize") or {}
    return [op("CONSOLE", rows=size.get("height", 0), columns=size.get("width", 0))]


def exec_ops(process: Mapping[str, Any]) -> list[Op]:
    """ENV, ARG, EXEC. A name that stands twice keeps its last value, as a shell's would."""
    env: dict[str, str] = {}
    for entry in process.get("env") or ():
        key = entry.partition("=")[0]
        env.pop(key, None)
        env[key] = entry
    ops = [op("ENV", text=entry) for entry in env.values()]
    ops += [op("ARG", text=arg) for arg in process["args"]]
    if not process["args"][0]:
        raise DefinitionError("the program's name is empty", "/process/args/0")
    return [*ops, op("EXEC")]
