"""`events`: statistics of a container and its OOM kills, a JSON object a line, in the shape of runc's.

Times are nanoseconds. Counters that the kernel does not have are left out or 0, as there.
"""

from __future__ import annotations

import json
import re
import select
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.errors import DefinitionError, GoneError
from runtime.cgroupfs import CgroupFs
from runtime.ocicli.log import say
from runtime.ocicli.store import STOPPED

if TYPE_CHECKING:
    from runtime.ocicli.main import Call

_FS = CgroupFs()
_UNLIMITED = 2**64 - 1
_INTERVAL = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def events(call: Call) -> int:
    """Print statistics once, or events until the container ends."""
    entry = call.entry
    state = entry.load()
    if entry.status(state) == STOPPED or state.process is None:
        raise GoneError("container not running", f"container {entry.id!r}")
    cgroup = Path(state.own_cgroup())
    if call.options.flag("stats"):
        _print("stats", entry.id, stats(cgroup))
        return 0
    interval = parse_interval(call.options.text("interval", "5s"))
    with (
        open(cgroup / "memory.events", "rb") if (cgroup / "memory.events").exists() else open("/dev/null", "rb") as file
    ):
        pidfd = state.process.open()
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(file, select.POLLPRI)
        kills, due = _oom_kills(cgroup), time.monotonic()
        while True:
            if time.monotonic() >= due:
                _print("stats", entry.id, stats(cgroup))
                due = time.monotonic() + interval
            ready = dict(poll.poll(max(0.0, due - time.monotonic()) * 1000))
            seen = _oom_kills(cgroup)
            if seen > kills:
                _print("oom", entry.id, None)
            kills = seen
            file.seek(0)
            file.read()  # re-arms it
            if pidfd in ready:
                return 0


def parse_interval(text: str) -> float:
    """`5s`, `500ms`, `1m`; seconds. Raises DefinitionError."""
    match = _INTERVAL.fullmatch(text)
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not match or value <= 0:
        raise DefinitionError(f"{text!r} is not a time", "--interval", "like 5s")
    return value


def _print(kind: str, name: str, data: Any) -> None:
    event = {"type": kind, "id": name}
    say(json.dumps(event if data is None else {**event, "data": data}))
    sys.stdout.flush()


def _oom_kills(cgroup: Path) -> int:
    return _keyed(cgroup / "memory.events").get("oom_kill", 0)


def _keyed(path: Path) -> dict[str, int]:
    """A flat-keyed file; nothing when it is not there. Lines that are something else are left out."""
    pairs = (line.split() for line in (_FS.read(path) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: Path, default: int = 0) -> int:
    text = (_FS.read(path) or "").strip()
    return _UNLIMITED if text == "max" else int(text) if text.isdigit() else default


def stats(cgroup: Path) -> dict[str, Any]:
    """The figures of one moment."""
    cpu = _keyed(cgroup / "cpu.stat")
    throttling = {
        "periods": cpu.get("nr_periods", 0),
        "throttledPeriods": cpu.get("nr_throttled", 0),
        "throttledTime": cpu.get("throttled_usec", 0) * 1000,
    }
    usage = {name: cpu.get(f"{key}_usec", 0) * 1000 for name, key in _CPU.items()}
    return {
        "cpu": {"usage": usage, "throttling": throttling, **_pressure(cgroup / "cpu.pressure")},
        "cpuset": {
            "cpus": _list(_FS.read(cgroup / "cpuset.cpus.effective")),
            "mems": _list(_FS.read(cgroup / "cpuset.mems.effective")),
        },
        "memory": _memory(cgroup),
        "pids": {"current": _number(cgroup / "pids.current"), "limit": _limit(cgroup / "pids.max")},
        "blkio": _block(cgroup),
        "hugetlb": _hugetlb(cgroup),
    }


_CPU = {"total": "usage", "kernel": "system", "user": "user"}


def _limit(path: Path) -> int:
    value = _number(path)
    return 0 if value == _UNLIMITED else value


def _memory(cgroup: Path) -> dict[str, Any]:
    raw = _keyed(cgroup / "memory.stat")
    kills = _keyed(cgroup / "memory.events")
    current, swap = _number(cgroup / "memory.current"), _number(cgroup / "memory.swap.current")
    limit, swap_limit = _number(cgroup / "memory.max", _UNLIMITED), _number(cgroup / "memory.swap.max", _UNLIMITED)
    both = _UNLIMITED if _UNLIMITED in (limit, swap_limit) else limit + swap_limit
    own = {"limit": limit, "usage": current, "max": _number(cgroup / "memory.peak"), "failcnt": kills.get("max", 0)}
    return {
        "cache": raw.get("file", 0),
        "usage": own,
        "swap": {"limit": both, "usage": current + swap, "failcnt": 0},
        "kernel": {"limit": _UNLIMITED, "usage": raw.get("kernel", 0), "failcnt": 0},
        "kernelTCP": {"limit": _UNLIMITED, "usage": raw.get("sock", 0), "failcnt": 0},
        "raw": raw,
        **_pressure(cgroup / "memory.pressure"),
    }


_IO = {
    "rbytes": ("ioServiceBytesRecursive", "Read"),
    "wbytes": ("ioServiceBytesRecursive", "Write"),
    "rios": ("ioServicedRecursive", "Read"),
    "wios": ("ioServicedRecursive", "Write"),
    "dbytes": ("ioServiceBytesRecursive", "Discard"),
    "dios": ("ioServicedRecursive", "Discard"),
}


def _block(cgroup: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in (_FS.read(cgroup / "io.stat") or "").splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        for key, _, value in (pair.partition("=") for pair in pairs):
            if key in _IO and value.isdigit():
                name, what = _IO[key]
                row = {"major": int(major), "minor": int(minor), "op": what, "value": int(value)}
                found.setdefault(name, []).append(row)
    return {**found, **_pressure(cgroup / "io.pressure")}


def _hugetlb(cgroup: Path) -> dict[str, Any]:
    sizes = (path.name.split(".")[1] for path in sorted(cgroup.glob("hugetlb.*.current")) if "rsvd" not in path.name)
    return {
        size: {
            "usage": _number(cgroup / f"hugetlb.{size}.current"),
            "failcnt": _keyed(cgroup / f"hugetlb.{size}.events").get("max", 0),
        }
        for size in sizes
    }


def _pressure(path: Path) -> dict[str, Any]:
    """`psi`, when the kernel tells it."""
    try:
        text = _FS.read(path)
    except OSError:  # EOPNOTSUPP: switched off
        return {}
    found: dict[str, Any] = {}
    for line in (text or "").splitlines():
        kind, *pairs = line.split()
        values = dict(pair.partition("=")[::2] for pair in pairs)
        found[kind] = {key: int(v) if key == "total" else float(v) for key, v in values.items()}
    return {"psi": found} if found else {}


def _list(text: str | None) -> list[int]:
    """`0-2,5` as numbers."""
    found: list[int] = []
    for part in (text or "").strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), int(last or first) + 1)
    return found
