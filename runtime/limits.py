"""Writes limits into cgroup files: in a bearable order, only what differs, and all or nothing."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

from config.errors import HostError, RefusedError
from runtime import resources
from runtime.cgroupfs import CgroupFs
from runtime.resources import DEFAULTS, MAX, Limits

# The limit that a run can read in its own cgroup is this much above the real one, which its parent holds: the parent
# must be the one that runs full, or memory.events.local would not say whose limit it was.
LEAF_SLACK = 4 << 20


def apply_limits(fs: CgroupFs, path: Path, limits: Limits, lenient: bool, *, defaults: bool = True) -> list[str]:
    """Write `limits`, and with `defaults` those of what they do not say. Returns the files that the kernel lacks.

    Raises RefusedError when the kernel refuses a value, or lacks a file and `lenient` is false; HostError else. What
    was written before is put back then.
    """
    missing: list[str] = []
    done: list[tuple[Path, str]] = []
    want = _want(fs, path, limits) if defaults else _translated(fs, path, limits)
    old = {name: _normal(name, fs.read(path / name)) for name in want}
    asked = {n for n in _translated(fs, path, limits) if n not in limits.soft}
    try:
        for name in resources.write_order({n: v for n, v in old.items() if v is not None}, want):
            before = old[name]
            if before is None:
                if name in asked:
                    missing.append(name)
                continue
            if before != want[name]:
                _write(fs, path / name, want[name])
                done.append((path / name, before))
        missing += _apply_io_max(fs, path, limits, done) if defaults or limits.io_max else []
        for name, value in limits.raw.items():
            before = fs.read(path / name)
            if before is None:
                missing.append(name)
            else:
                _write(fs, path / name, value)
                done.append((path / name, before))
        if missing and not lenient:
            controllers = {name.split(".")[0] for name in missing}
            raise RefusedError(f"this kernel has no {', '.join(missing)}", f"cgroup {', '.join(sorted(controllers))}")
    except Exception:
        for file, before in reversed(done):
            with suppress(OSError):
                fs.write(file, before)
        raise
    return missing


def _translated(fs: CgroupFs, path: Path, limits: Limits) -> dict[str, str]:
    """The files as this kernel has them: where BFQ gives the weights, io.weight is io.bfq.weight."""
    files = dict(limits.files)
    if "io.weight" in files and not fs.exists(path / "io.weight") and fs.exists(path / "io.bfq.weight"):
        weight = int(files.pop("io.weight").removeprefix("default "))
        files["io.bfq.weight"] = f"default {resources.bfq_of_io(weight)}"
    return files


def _want(fs: CgroupFs, path: Path, limits: Limits) -> dict[str, str]:
    files = _translated(fs, path, limits)
    defaults = {"io.bfq.weight": "default 100"} if fs.exists(path / "io.bfq.weight") else {}
    return {**DEFAULTS, **defaults, **files}


def _normal(name: str, text: str | None) -> str | None:
    """What a file says, in the words in which it is written."""
    if text is None:
        return None
    if name in ("io.weight", "io.bfq.weight"):
        return text.splitlines()[0] if text else "default 100"
    return text


def _apply_io_max(fs: CgroupFs, path: Path, limits: Limits, done: list[tuple[Path, str]]) -> list[str]:
    file = path / "io.max"
    text = fs.read(file)
    if text is None:
        return ["io.max"] if limits.io_max else []
    old = {line.split(" ", 1)[0]: line for line in text.splitlines() if line}
    for device in old.keys() - limits.io_max.keys():
        _write(fs, file, resources.io_line(device, {}))
        done.append((file, old[device]))
    for device, values in limits.io_max.items():
        line = resources.io_line(device, values)
        if old.get(device) != line:
            _write(fs, file, line)
            done.append((file, old.get(device, resources.io_line(device, {}))))
    return []


def _write(fs: CgroupFs, file: Path, value: str) -> None:
    try:
        fs.write(file, value)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ERANGE, errno.EOPNOTSUPP):
            raise RefusedError(f"the kernel refuses {value!r}: {error.strerror}", str(file)) from None
        if error.errno == errno.ENODEV and file.name == "io.max":
            hint = "limits are a whole disk's, not a partition's"
            raise RefusedError(f"no such disk: {value.split(' ')[0]}", str(file), hint) from None
        raise HostError(f"cannot write {value!r}: {error.strerror}", str(file)) from None


def apply_leaf(fs: CgroupFs, parent: Path, leaf: Path) -> None:
    """Show a run its limits in its own cgroup, where JVM, Go and Node look for them. They hold in `parent`."""
    memory = fs.read(parent / "memory.max")
    shown = {
        "memory.max": MAX if memory in (None, MAX) else str(int(memory or 0) + LEAF_SLACK),
        "cpu.max": fs.read(parent / "cpu.max") or DEFAULTS["cpu.max"],
    }
    for name, value in shown.items():
        if fs.read(leaf / name) not in (None, value):
            with suppress(OSError):  # nothing depends on it
                fs.write(leaf / name, value)
