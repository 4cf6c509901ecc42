"""What a container may use, as cgroup v2 files and values: from definitions and from OCI `linux.resources`. Pure.

A limit that is not set has the kernel's default here, so that writing the whole mapping also takes a limit away.
Source: cgroup-v2.rst; runtime-spec config-linux.md, "Control groups"; anchors of the mapping: runc 1.3.2, crun 1.23.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from config.errors import DefinitionError
from config.record import record

if TYPE_CHECKING:  # the command line of wharf-oci has no time for pydantic
    from decimal import Decimal

    from config.model_parts import IoMax, Resources

MAX = "max"
_PAGE = r"[1-9]\d*[KMG]B"
_RDMA = (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
PERIOD = 100_000
PERIOD_MAX = 1_000_000
QUOTA_MIN = 1_000

DEFAULTS: dict[str, str] = {
    "memory.min": "0",
    "memory.low": "0",
    "memory.high": MAX,
    "memory.max": MAX,
    "memory.swap.max": MAX,
    "memory.oom.group": "0",
    "cpu.weight": "100",
    "cpu.max": f"{MAX} {PERIOD}",
    "pids.max": MAX,
    "io.weight": "default 100",
    "cpuset.cpus": "",
    "cpuset.mems": "",
}


@record
class Limits:
    """`files`: what was asked for, beside which DEFAULTS hold. `io_max`: by device "8:0". `raw`: OCI `unified`, written
    last. `soft`: files that nobody asked for by name; a host that lacks them is no reason to refuse."""

    files: Mapping[str, str] = MappingProxyType({})
    io_max: Mapping[str, Mapping[str, int]] = MappingProxyType({})
    raw: Mapping[str, str] = MappingProxyType({})
    soft: frozenset[str] = frozenset()

    def controllers(self) -> frozenset[str]:
        """The controllers without which what was asked for cannot hold."""
        names = [name for name in self.files if name not in self.soft]
        names += ["io.max"] if self.io_max else []
        return frozenset(name.split(".")[0] for name in [*names, *self.raw])


def cpu_max(cpus: Decimal | float) -> str:
    """The time of `cpus` processors as "quota period"; the period grows where the least quota, 1 ms, would not fit."""
    from decimal import Decimal  # slow to import, and few say it

    value = Decimal(str(cpus))
    for period in (PERIOD, PERIOD_MAX):
        quota = int((value * period).to_integral_value())
        if quota >= QUOTA_MIN:
            return f"{quota} {period}"
    return f"{QUOTA_MIN} {PERIOD_MAX}"


def weight_of_shares(shares: int) -> int:
    """cgroup v1 cpu.shares (2..262144) to cpu.weight (1..10000): 2 -> 1, 1024 -> 100, 262144 -> 10000.

    The quadratic formula of runc 1.3.2 and crun 1.23; the older linear one made 39 of the default 1024.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    exponent = (math.log2(shares) ** 2 + 125 * math.log2(shares)) / 612.0 - 7.0 / 34.0
    return max(1, min(10000, math.ceil(10**exponent)))


def weight_of_blkio(weight: int) -> int:
    """OCI blockIO.weight (10..1000) to io.weight (1..10000)."""
    return 1 + (weight - 10) * 9999 // 990


def bfq_of_io(weight: int) -> int:
    """io.weight (1..10000) to io.bfq.weight (1..1000): the default 100 stays 100, both ends meet."""
    return weight if weight <= 100 else 100 + (weight - 100) * 900 // 9900


def swap_max(limit: int | None, swap: int) -> str:
    """OCI memory.swap is memory and swap together; v2 has swap alone. -1 is no limit. Raises DefinitionError."""
    where = "/linux/resources/memory/swap"
    if swap < 0:
        return MAX
    if limit is None or limit < 0:
        if swap == 0:
            return "0"
        raise DefinitionError("needs a memory limit, since it counts memory and swap together", where)
    if swap < limit:
        raise DefinitionError(f"{swap} is below the memory limit {limit}, which it includes", where)
    return str(swap - limit)


def of_definition(resources: Resources, oom_group: bool, device: Callable[[str], str]) -> Limits:
    """Limits of a definition. `device` turns a path into "major:minor"."""
    files: dict[str, str] = {"memory.oom.group": "1" if oom_group else "0"}
    plain = {
        "memory.min": resources.memory_min,
        "memory.low": resources.memory_low,
        "memory.high": resources.memory_high,
        "memory.max": resources.memory,
        "memory.swap.max": resources.memory_swap,
        "cpu.weight": resources.cpu_weight,
        "pids.max": resources.pids,
        "cpuset.cpus": resources.cpuset,
        "cpuset.mems": resources.cpuset_mems,
    }
    files.update({name: str(value) for name, value in plain.items() if value is not None})
    if resources.cpus is not None:
        files["cpu.max"] = cpu_max(resources.cpus)
    if resources.io_weight is not None:
        files["io.weight"] = f"default {resources.io_weight}"
    soft = {"memory.oom.group"} | ({"pids.max"} if "pids" not in resources.model_fields_set else set())
    return Limits(files, _io_max(resources.io_max, device), soft=frozenset(soft))


def _io_max(entries: Sequence[IoMax], device: Callable[[str], str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for entry in entries:
        values = {"rbps": entry.rbps, "wbps": entry.wbps, "riops": entry.riops, "wiops": entry.wiops}
        found.setdefault(device(entry.device), {}).update({k: v for k, v in values.items() if v is not None})
    return found


def of_oci(resources: Mapping[str, Any]) -> Limits:
    """Limits of a checked OCI `linux.resources`. `devices` are not limits: see devices.py. Raises DefinitionError."""
    files: dict[str, str] = {}
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit"), memory.get("swap")
    if limit is not None and limit != 0:
        files["memory.max"] = _or_max(limit)
    if memory.get("reservation"):
        files["memory.low"] = _or_max(memory["reservation"])
    if swap is not None and swap != 0:
        files["memory.swap.max"] = swap_max(limit, swap)
    files.update(_cpu(resources.get("cpu") or {}))
    pids = (resources.get("pids") or {}).get("limit")
    if pids is not None and pids != 0:  # 0 was "not set" until runtime-spec 1.3, and no container lives with 0
        files["pids.max"] = _or_max(pids)
    block = resources.get("blockIO") or {}
    if block.get("weight"):
        if not 10 <= block["weight"] <= 1000:
            raise DefinitionError("must be from 10 to 1000", "/linux/resources/blockIO/weight")
        files["io.weight"] = f"default {weight_of_blkio(block['weight'])}"
    raw = {**_hugetlb(resources), **_rdma(resources)}
    for name in resources.get("unified") or {}:
        if "/" in name or name.startswith(".") or "." not in name or name.split(".")[0] == "cgroup":
            raise DefinitionError(f"{name!r} is not a limit of a cgroup controller", "/linux/resources/unified")
    return Limits(files, _throttles(block), {**raw, **(resources.get("unified") or {})})


def _hugetlb(resources: Mapping[str, Any]) -> dict[str, str]:
    files: dict[str, str] = {}
    for index, entry in enumerate(resources.get("hugepageLimits") or ()):
        if not re.fullmatch(_PAGE, entry["pageSize"]):
            where = f"/linux/resources/hugepageLimits/{index}/pageSize"
            raise DefinitionError(f"{entry['pageSize']!r} is no page size, 2MB is one", where)
        files[f"hugetlb.{entry['pageSize']}.max"] = str(entry["limit"])
    return files


def _rdma(resources: Mapping[str, Any]) -> dict[str, str]:
    devices = resources.get("rdma") or {}
    if len(devices) > 1:  # rdma.max takes one line a write
        raise DefinitionError("more than one device is not supported", "/linux/resources/rdma")
    files: dict[str, str] = {}
    for name, entry in devices.items():
        words = [f"{key}={entry[word]}" for word, key in _RDMA if word in entry]
        if not name or set(name) & set(" \n") or not words:
            raise DefinitionError(f"{name!r} needs a name and limits", "/linux/resources/rdma")
        files["rdma.max"] = " ".join([name, *words])
    return files


def _or_max(value: int) -> str:
    return MAX if value < 0 else str(value)


def _cpu(cpu: Mapping[str, Any]) -> dict[str, str]:
    files: dict[str, str] = {}
    if cpu.get("shares"):
        files["cpu.weight"] = str(weight_of_shares(cpu["shares"]))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        files["cpu.max"] = f"{quota if quota and quota > 0 else MAX} {period or PERIOD}"
    if cpu.get("burst") is not None:
        files["cpu.max.burst"] = str(cpu["burst"])
    if cpu.get("idle") is not None:
        files["cpu.idle"] = str(cpu["idle"])
    for key, name in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        if cpu.get(key):
            files[name] = cpu[key]
    return files


_THROTTLES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}


def _throttles(block: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for key, name in _THROTTLES.items():
        for entry in block.get(key) or ():
            if entry["rate"]:
                found.setdefault(f"{entry['major']}:{entry['minor']}", {})[name] = entry["rate"]
    return found


def merge(first: Limits, second: Limits) -> Limits:
    """`second` where it asks for something, else `first`; what is soft gives way to what is not."""
    hard = {name: value for name, value in first.files.items() if name not in first.soft}
    hard |= {name: value for name, value in second.files.items() if name not in second.soft}
    files = {**first.files, **second.files, **hard}
    devices = {d: {**first.io_max.get(d, {}), **second.io_max.get(d, {})} for d in {**first.io_max, **second.io_max}}
    return Limits(files, devices, {**first.raw, **second.raw}, (first.soft | second.soft) - hard.keys())


def io_line(device: str, values: Mapping[str, int]) -> str:
    """One whole line of io.max: keys that are not limited are set free again."""
    return device + "".join(f" {key}={values.get(key, MAX)}" for key in ("rbps", "wbps", "riops", "wiops"))


def write_order(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """File names in the order in which a running container can bear them: loosen first, then tighten.

    memory.high comes down before memory.max, so that the container is slowed and reclaimed before it can be killed;
    swap comes down last, since what leaves memory goes there.
    """
    rank = {"memory.min": 0, "memory.low": 1, "memory.high": 2, "memory.max": 3, "memory.swap.max": 4}
    loosen = sorted((n for n in new if n in rank and _at_least(new[n], old.get(n))), key=lambda n: -rank[n])
    tighten = sorted((n for n in new if n in rank and n not in loosen), key=lambda n: rank[n])
    others = sorted(n for n in new if n not in rank)
    return [*others, *loosen, *tighten]


def _at_least(new: str, old: str | None) -> bool:
    if old is None or new == MAX:
        return True
    return old != MAX and int(new) >= int(old)
