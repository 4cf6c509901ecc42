"""The cgroup of a container that an engine asked for: where it is, made and limited, killed and removed. cgroup v2.

Unlike the daemon's own tree (runtime/cgroups.py) the place is the engine's to say (`linux.cgroupsPath`), and processes
are in that very cgroup. Source: runtime-spec config-linux.md, "Control Groups"; cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import posixpath
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.errors import DefinitionError, GoneError, HostError, RefusedError
from runtime.cgroupfs import GONE, CgroupFs

if TYPE_CHECKING:
    from runtime.resources import Limits

ALWAYS = ("cpuset", "cpu", "io", "memory", "pids")
KILL_WAIT = 10.0
_BATCH = 256
_FS = CgroupFs()


def place(path: str, name: str, mount: Path, own: str) -> Path:
    """The directory of `linux.cgroupsPath`. Absolute: below the mount. Else below the cgroup that ours is in, since our
    own has processes and so no controllers to give. Raises DefinitionError.

    `own`: our cgroup as /proc/self/cgroup says it.
    """
    where = "/linux/cgroupsPath"
    if ":" in path and path.split(":")[0].endswith(".slice"):
        raise DefinitionError(
            f"{path!r} is a unit of systemd, which is not asked here", where, "use the cgroupfs manager of the engine"
        )
    if "\0" in path or ".." in path.split("/"):
        raise DefinitionError(f"{path!r} must not contain '..'", where)
    inner = posixpath.normpath(path or name).lstrip("/")
    if inner in ("", "."):
        raise DefinitionError("the root of all cgroups is no container's", where)
    above = "" if path.startswith("/") else posixpath.dirname(own).lstrip("/")
    if ".." in above.split("/"):
        raise HostError(f"our own cgroup {own} is not below the mount", str(mount))
    return mount / above / inner


def make(path: Path, mount: Path, controllers: frozenset[str]) -> tuple[str, ...]:
    """Make the cgroup and what is missing above it, with all controllers that can be had.

    Returns what was made, topmost first. Raises RefusedError when processes are in it already, HostError.
    """
    made: list[str] = []
    wanted = (*ALWAYS, *sorted(controllers - set(ALWAYS)))
    steps = [*reversed(path.relative_to(mount).parents), path.relative_to(mount)]
    try:
        for _ in range(100):  # somebody else's delete may take an empty parent away under our feet
            try:
                for step in (mount / s for s in steps):
                    if _FS.mkdir(step):
                        made.append(str(step))
                    if step != path:
                        _hand_down(step, wanted)
                break
            except FileNotFoundError:
                continue
        if not path.is_dir():
            raise HostError("cannot be made: it is taken away again and again", str(path))
        if str(path) not in made and populated(path):
            raise RefusedError(
                "this cgroup has processes already", str(path), "give each container its own cgroupsPath"
            )
    except OSError as error:
        remove_made(made)
        raise HostError(f"cannot make cgroup: {error.strerror}", str(path)) from None
    except BaseException:
        remove_made(made)
        raise
    return tuple(dict.fromkeys(made))


def _hand_down(path: Path, names: tuple[str, ...]) -> None:
    """One by one: a controller that is refused does not cost the others. A limit that lacks it will say so."""
    have = (_FS.read(path / "cgroup.controllers") or "").split()
    on = (_FS.read(path / "cgroup.subtree_control") or "").split()
    for name in names:
        if name in have and name not in on:
            with suppress(OSError):
                _FS.write(path / "cgroup.subtree_control", f"+{name}")


def limits_of(wanted: Mapping[str, Any]) -> Limits:
    """Limits of a checked `linux.resources`."""
    from runtime import resources  # not for `start`, `kill` and `delete`

    limits = resources.of_oci(wanted)
    if "memory.swap.max" in limits.files and not _host_swaps():
        return resources.Limits(limits.files, limits.io_max, limits.raw, limits.soft | {"memory.swap.max"})
    return limits


def _host_swaps() -> bool:
    try:
        return len(Path("/proc/swaps").read_text().splitlines()) > 1
    except OSError:
        return False


def limit(path: Path, wanted: Mapping[str, Any]) -> None:
    """Write what `wanted` says and nothing else. Raises RefusedError; then all is as before."""
    from runtime.limits import apply_limits

    apply_limits(_FS, path, limits_of(wanted), lenient=False, defaults=False)


def limit_devices(path: Path, rules: list[Mapping[str, Any]] | None, warn: Callable[[str], None]) -> None:
    """Raises RefusedError when devices are denied and this kernel cannot do it."""
    from runtime import devices

    fd = open_dir(path)
    try:
        devices.attach(fd, devices.rules_of(rules))
    except OSError as error:
        if any(not rule["allow"] for rule in rules or ()):
            hint = "remove the rules that deny"
            raise RefusedError(f"this kernel cannot filter devices: {error.strerror}", str(path), hint) from None
        warn(f"this kernel cannot filter devices: {error.strerror}")
    finally:
        os.close(fd)


def open_dir(path: Path) -> int:
    """A directory fd of a cgroup, the caller's to close. Raises GoneError."""
    try:
        return _FS.open_dir(path)
    except OSError as error:
        raise GoneError(f"no such cgroup: {error.strerror}", str(path)) from None


def populated(path: str | Path) -> bool:
    """Whether live processes are in it or below. A cgroup that is gone has none."""
    return "populated 1" in (_FS.read(Path(path) / "cgroup.events") or "").splitlines()


def processes(path: str | Path) -> list[int]:
    """Pids in the cgroup and below it, sorted; threaded ones too."""
    found: set[int] = set()
    for folder in walk(Path(path)):
        try:
            text = _FS.read(folder / "cgroup.procs")
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # a threaded cgroup: its domain above has told them
                raise
            text = ""
        found.update(int(word) for word in (text or "").split())
    found.discard(0)  # of a pid namespace that ours cannot see
    return sorted(found)


def walk(path: Path) -> Iterator[Path]:
    """The cgroup and all below it."""
    todo = [path]
    while todo:
        here = todo.pop()
        yield here
        todo += [here / name for name in _FS.children(here)]


def signal_all(path: str, number: int) -> int:
    """Send a signal to every process; how many there were. SIGKILL is one write of the kernel's, and misses nobody."""
    pids = processes(path)
    if number == signal.SIGKILL:
        kill(path)
        return len(pids)
    sent = 0
    for first in range(0, len(pids), _BATCH):
        fds: dict[int, int] = {}
        try:
            for pid in pids[first : first + _BATCH]:
                with suppress(OSError):  # ended meanwhile
                    fds[pid] = os.pidfd_open(pid)
            for pid in set(processes(path)) & fds.keys():  # still in it, so its number is no other's by now
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fds[pid], number)
                    sent += 1
        finally:
            for fd in fds.values():
                os.close(fd)
    return sent


def kill(path: str) -> None:
    """SIGKILL to every process in it and below, frozen ones too. Gone is success. Raises HostError."""
    try:
        _FS.write(Path(path) / "cgroup.kill", "1")
    except OSError as error:
        if error.errno in GONE and not os.path.exists(f"{path}/cgroup.procs"):
            return
        hint = "Linux 5.14 has cgroup.kill"
        raise HostError(f"cannot kill: {error.strerror}", path, hint if error.errno in GONE else "") from None


def remove(path: str, made: tuple[str, ...] | list[str] = (), wait: float = KILL_WAIT) -> None:
    """Kill what is in the cgroup, and remove it, those made in it, and those of `made` above it that are empty.

    Raises HostError when processes hold it longer than `wait` seconds.
    """
    if not path:
        return
    pause, end = 0.001, time.monotonic() + wait
    while True:
        kill(path)
        try:
            if _FS.remove(Path(path)):
                break
        except OSError as error:
            raise HostError(f"cannot remove cgroup: {error.strerror}", path) from None
        if time.monotonic() >= end:
            raise HostError("its processes do not end, though they were killed", path, "the kernel holds them: see ps")
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
    remove_made(made)


def is_cgroup(path: str) -> bool:
    return bool(path) and os.path.exists(f"{path}/cgroup.procs")


def remove_empty(path: str, made: tuple[str, ...] | list[str]) -> bool:
    """Remove a cgroup that nobody uses, and kill nothing. Whether it is gone."""
    with suppress(OSError):
        os.rmdir(path)
    remove_made(made)
    return not is_cgroup(path)


def remove_made(made: tuple[str, ...] | list[str]) -> None:
    """Those that we made and nobody uses."""
    for path in sorted(made, key=len, reverse=True):
        with suppress(OSError):
            if is_cgroup(path):
                os.rmdir(path)


def freeze(path: str, frozen: bool, wait: float = 10.0) -> None:
    """Pause or resume. Raises HostError; a freeze that does not come about is taken back."""
    file = Path(path) / "cgroup.freeze"
    want = f"frozen {int(frozen)}"
    try:
        _FS.write(file, str(int(frozen)))
        pause, end = 0.0005, time.monotonic() + wait
        while want not in (_FS.read(Path(path) / "cgroup.events") or want).splitlines():
            if time.monotonic() >= end:
                if frozen:
                    _FS.write(file, "0")
                raise HostError("its processes do not stop" if frozen else "it does not thaw", path)
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
    except OSError as error:
        raise HostError(f"cannot write cgroup.freeze: {error.strerror}", path) from None
