"""`pause`, `resume` and `update`: changes to a container that runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.errors import DefinitionError, RefusedError
from runtime import oci
from runtime.bundle import parse_config
from runtime.ocicli import groups
from runtime.ocicli.args import Values
from runtime.ocicli.given import read_given
from runtime.ocicli.store import CREATED, PAUSED, RUNNING

if TYPE_CHECKING:
    from runtime.ocicli.main import Call

_SIZE = re.compile(r"(-1|\d{1,19})([kmgtp]?)(i?b)?", re.ASCII | re.IGNORECASE)
_MAX = 2**63 - 1
# option -> section, key of linux.resources
_NUMBERS = {
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-idle": ("cpu", "idle"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "pids-limit": ("pids", "limit"),
    "blkio-weight": ("blockIO", "weight"),
}
_TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
_SIZES = {"memory": "limit", "memory-reservation": "reservation", "memory-swap": "swap"}
_IGNORED = ("kernel-memory", "kernel-memory-tcp")


def pause(call: Call) -> int:
    return _freeze(call, RUNNING, frozen=True)


def resume(call: Call) -> int:
    return _freeze(call, PAUSED, frozen=False)


def _freeze(call: Call, need: str, *, frozen: bool) -> int:
    entry = call.entry
    with entry.lock():
        state = entry.load()
        status = entry.status(state, held=True)
        if status != need and not (frozen and status == CREATED):
            raise RefusedError(f"container not {need}: it is {status}", f"container {entry.id!r}")
        groups.freeze(state.own_cgroup(), frozen)
    return 0


def update(call: Call) -> int:
    """Write new limits. What is refused changes nothing."""
    entry = call.entry
    with entry.lock():
        state = entry.load()
        status = entry.status(state, held=True)
        if status not in (CREATED, RUNNING, PAUSED):
            raise RefusedError(f"container not running: it is {status}", f"container {entry.id!r}")
        wanted = parse_resources(call.options)
        for name in _IGNORED:
            if name in call.options:
                call.log.warning(f"--{name}: cgroup v1 only, nothing is done")
        spec = entry.config()
        config = spec.setdefault("linux", {})
        whole = merge(config.get("resources") or {}, wanted)
        oci.resources(whole, "/linux/resources")
        path = Path(state.own_cgroup())
        _fits(path, whole.get("memory") or {})
        groups.limit(path, whole)
        if "devices" in wanted:
            groups.limit_devices(path, whole["devices"], call.log.warning)
        config["resources"] = whole
        entry.write("config.json", json.dumps(spec).encode())
    return 0


def parse_resources(options: Values) -> dict[str, Any]:
    """What the command line asks for, as `linux.resources`. Raises DefinitionError."""
    wanted: dict[str, Any] = {}
    if "resources" in options:
        wanted = _from_file(options.text("resources"))
    given: dict[str, dict[str, Any]] = {}
    for option, (section, key) in _NUMBERS.items():
        number = options.number(option)
        if number is not None:
            given.setdefault(section, {})[key] = number
    for option, (section, key) in _TEXTS.items():
        if option in options:
            given.setdefault(section, {})[key] = options.text(option)
    for option, key in _SIZES.items():
        if option in options:
            given.setdefault("memory", {})[key] = parse_size(options.text(option), f"--{option}")
    wanted = merge(wanted, given)
    if not wanted and not any(name in options for name in _IGNORED):
        raise DefinitionError("nothing to change", "update", "see --help")
    return wanted


def _from_file(name: str) -> dict[str, Any]:
    data = read_given(name)
    try:
        wanted = parse_config(data)
        oci.resources(wanted, "")
    except DefinitionError as error:
        error.file = name
        raise
    found: dict[str, Any] = wanted
    return found


def parse_size(text: str, where: str) -> int:
    """Bytes, or with a unit of 1024; -1 is no limit. Raises DefinitionError."""
    match = _SIZE.fullmatch(text)
    if not match or (match[1] == "-1" and (match[2] or match[3])):
        raise DefinitionError(f"{text!r} is not a size", where, "like 64m, or -1 for no limit")
    size = int(match[1]) << 10 * " kmgtp".index(match[2].lower() or " ")
    if size > _MAX:
        raise DefinitionError(f"{text!r} is too large", where)
    return size


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the keys of `new`, section by section; lists are replaced whole."""
    both = dict(old)
    for key, value in new.items():
        both[key] = {**(old.get(key) or {}), **value} if isinstance(value, dict) else value
    return both


def _fits(path: Path, memory: dict[str, Any]) -> None:
    """With checkBeforeUpdate a limit below what is in use is refused; else the kernel reclaims, and may kill."""
    limit = memory.get("limit") or -1
    if not memory.get("checkBeforeUpdate") or limit < 0:
        return
    current = int((path / "memory.current").read_text())
    if limit < current:
        raise RefusedError(f"memory limit {limit} is below the {current} bytes in use: it would be killed", str(path))
