"""Short and foreign forms of single fields, brought into the one form that the models hold. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from config.fields import Path, Plain, integer, kind, nearest, problem, problems, quote, text
from config.kernel_names import RLIM_INFINITY, RLIMITS
from config.model_parts import MOUNT_OPTIONS

_SYSCTL = re.compile(r"[a-z0-9_-]+(\.[a-zA-Z0-9_:/-]+)+", re.ASCII)
_NAMESPACED = re.compile(
    r"kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced|auto_msgmni|msg_next_id|sem_next_id"
    r"|shm_next_id)|fs\.mqueue\..+|net\..+"
)


def listed(value: Any) -> Any:
    """`depends_on: [db, cache]` is a mapping with default conditions."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, list | tuple):
        raise problem(f"must be a list of names, or a mapping of names to conditions, not {kind(value)}")
    found: list[tuple[Path, str]] = []
    out: dict[str, Any] = {}
    for i, item in enumerate(value):
        if not isinstance(item, str):
            found.append(((i,), f"must be the name of a container, not {kind(item)}"))
        elif item in out:
            found.append(((i,), f"{quote(item)} is given twice"))
        else:
            out[str(item)] = {}
    if found:
        raise problems(found)
    return out


def health(value: Any) -> Any:
    """`disable: true` and `test: [NONE]` mean no health check."""
    if not isinstance(value, Mapping):
        return value
    rest = {k: v for k, v in value.items() if k != "disable"}
    if "disable" in value and as_true(value["disable"], ("disable",)):
        return None
    test = value.get("test")
    return None if isinstance(test, list | tuple) and list(test) == ["NONE"] else rest


def as_true(value: Any, at: Path) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, Plain) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise problem("must be true or false", at)


def limits(value: Any) -> dict[str, tuple[int, int]]:
    """`ulimits`: NAME: N, NAME: {soft, hard}, or a pair; -1 and `unlimited` are no limit."""
    if not isinstance(value, Mapping):
        raise problem(f"must be a mapping of limits, not {kind(value)}")
    found: list[tuple[Path, str]] = []
    out: dict[str, tuple[int, int]] = {}
    for key, given in value.items():
        name = str(key).lower().removeprefix("rlimit_")
        if name not in RLIMITS:
            near = nearest(name, RLIMITS)
            found.append(((key,), "is not a resource limit" + (f', did you mean "{near}"?' if near else "")))
            continue
        try:
            out[name] = _limit_pair(given)
        except PydanticCustomError as e:
            found.append(((key, *(e.context or {}).get("at", ())), e.message()))
    if found:
        raise problems(found)
    return out


def _limit_pair(given: Any) -> tuple[int, int]:
    if isinstance(given, Mapping):
        if unknown := [k for k in given if k not in ("soft", "hard")]:
            raise problem('unknown key; the keys are "soft" and "hard"', (unknown[0],))
        if len(given) < 2:
            raise problem("needs both soft and hard")
        pair = _limit(given["soft"], ("soft",)), _limit(given["hard"], ("hard",))
    elif isinstance(given, list | tuple) and len(given) == 2:
        pair = _limit(given[0], (0,)), _limit(given[1], (1,))
    else:
        pair = (_limit(given, ()),) * 2
    if pair[0] > pair[1]:
        raise problem(f"soft {pair[0]} is more than hard {pair[1]}")
    return pair


def _limit(value: Any, at: Path) -> int:
    if value in ("unlimited", "infinity", "-1", -1):
        return RLIM_INFINITY
    try:
        number = integer(value)
    except PydanticCustomError as e:
        raise problem(e.message(), at) from None
    if not 0 <= number <= RLIM_INFINITY:
        raise problem(f"must be from 0 to {RLIM_INFINITY}, or unlimited", at)
    return number


def sysctl_map(value: Any) -> dict[str, str]:
    """Kernel settings that belong to the container's own namespaces; others would change the host."""
    if not isinstance(value, Mapping):
        raise problem(f"must be a mapping, not {kind(value)}")
    found: list[tuple[Path, str]] = []
    out: dict[str, str] = {}
    for key, given in value.items():
        try:
            if not _SYSCTL.fullmatch(str(key)) or ".." in str(key):
                raise problem("is not the name of a kernel setting")
            if not _NAMESPACED.fullmatch(str(key)):
                raise problem("belongs to the host, not to a container")
            out[str(key)] = text(given)
        except PydanticCustomError as e:
            found.append(((key,), e.message()))
    if found:
        raise problems(found)
    return out


def exit_codes(value: Any) -> tuple[int, ...]:
    """One code or a list; sorted, each once."""
    items = list(value) if isinstance(value, list | tuple) else [value]
    found: list[tuple[Path, str]] = []
    out = set()
    for i, item in enumerate(items):
        try:
            number = integer(item)
            if not 0 <= number <= 255:
                raise problem(f"must be from 0 to 255, not {number}")
            out.add(number)
        except PydanticCustomError as e:
            found.append(((i,) if isinstance(value, list | tuple) else (), e.message()))
    if found:
        raise problems(found)
    return tuple(sorted(out))


def tmpfs_mounts(value: Any) -> Any:
    """`tmpfs:` one short form or a list of them; mounts that are already models pass."""
    if not isinstance(value, list | tuple | str):
        raise problem(f"must be a path or a list of paths, not {kind(value)}")
    items = [value] if isinstance(value, str) else list(value)
    found: list[tuple[Path, str]] = []
    out = []
    for i, item in enumerate(items):
        try:
            out.append(tmpfs_mount(item))
        except PydanticCustomError as e:
            found.append(((i,), e.message()))
    if found:
        raise problems(found)
    return out


def tmpfs_mount(value: Any) -> dict[str, Any]:
    """`/run:size=16M,mode=755,noexec` as the mapping of a mount."""
    if not isinstance(value, str):
        raise problem(f"must be a path, or path:options, not {kind(value)}")
    target, _, rest = str(value).partition(":")
    out: dict[str, Any] = {"type": "tmpfs", "target": target}
    options = []
    for word in filter(None, rest.split(",")):
        key, equals, given = word.partition("=")
        if equals and key in ("size", "mode"):
            out[key] = given
        elif word in ("ro", "rw"):
            out["read_only"] = word == "ro"
        elif word in MOUNT_OPTIONS:
            options.append(word)
        else:
            raise problem(
                f"{quote(word)} is not an option of a tmpfs; known are size=, mode=, ro, rw, "
                + ", ".join(MOUNT_OPTIONS)
            )
    return out | ({"options": options} if options else {})
