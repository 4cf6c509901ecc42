"""The tree of cgroups that our containers live in. cgroup v2 only.

    <root>/supervisor               the daemon
    <root>/shims                    all shims
    <root>/containers/<name>        limits, and counters that go on over restarts; no process
    <root>/containers/<name>/g<N>   the processes of run N

Calls are synchronous and short; callers put them into threads. A cgroup that vanished (ENOENT, ENODEV) is gone, which
is what a kill and a removal want. Source: cgroup-v2.rst.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import DefinitionError, GoneError, HostError, RefusedError
from config.model import Container
from runtime import devices, resources
from runtime.cgroupfs import GONE, CgroupFs
from runtime.limits import apply_leaf, apply_limits
from runtime.probe import WANTED, HostFacts
from runtime.resources import Limits

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", re.ASCII)
_LEAF = re.compile(r"g([1-9][0-9]{0,18})", re.ASCII)
LEAF_CONTROLLERS = ("memory", "cpu", "pids")  # a run's own figures, and limits that a runtime in it can read


@dataclass(frozen=True, slots=True)
class Existing:
    """A container's cgroup that was found: its runs, and which of them have processes."""

    name: str
    generations: tuple[int, ...]
    populated: tuple[int, ...]


def device_number(path: str) -> str:
    """The "major:minor" of a block device, given as a path or as numbers. Raises DefinitionError."""
    if re.fullmatch(r"\d+:\d+", path, re.ASCII):
        return path
    try:
        status = os.stat(path)
    except OSError as error:
        raise DefinitionError(f"{path}: {error.strerror}", "resources.io_max") from None
    if not stat.S_ISBLK(status.st_mode):
        raise DefinitionError(f"{path} is not a block device", "resources.io_max")
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


class Tree:
    """The hierarchy below `root`. `controllers`: what the host can give; after `setup`, what the containers have."""

    def __init__(
        self,
        root: Path,
        controllers: frozenset[str],
        *,
        delegated: bool = False,
        enter: bool | None = None,
        fs: CgroupFs | None = None,
        sleep: Callable[[float], None] = time.sleep,
        device: Callable[[str], str] = device_number,
        filter_devices: Callable[[int, Sequence[devices.Rule]], None] = devices.attach,
    ) -> None:
        self.root = root
        self.controllers = controllers
        self.containers = root / "containers"
        self._delegated = delegated
        self._enter = delegated if enter is None else enter
        self._fs = fs or CgroupFs()
        self._sleep = sleep
        self._device = device
        self._filter_devices = filter_devices

    @classmethod
    def from_host(cls, host: HostFacts) -> Tree:
        """The tree at the host's cgroup_root. Raises HostError when there is no cgroup2."""
        if host.cgroup_root is None:
            raise HostError("no cgroup2 file system is mounted", "cgroups")
        # a service manager that did not delegate its cgroup goes on counting us where it put us
        enter = host.delegated or host.own_cgroup == "/"
        return cls(host.cgroup_root, host.controllers, delegated=host.delegated, enter=enter)

    # Set-up

    def setup(self) -> tuple[str, ...]:
        """Make the tree and hand down the controllers. Returns problems in words. Raises HostError.

        In a delegated unit nothing above `root` is written; else controllers are switched on in the ancestors too,
        which takes nothing from anybody. No process is moved but our own, into <root>/supervisor.
        """
        problems: list[str] = []
        above = self._above()
        for path in reversed([p for p in [self.root, *self.root.parents] if p not in above]):
            if not self._fs.is_dir(path):
                self._mkdir(path)
        for name in ("supervisor", "shims", "containers"):
            self._mkdir(self.root / name)
        if self._enter:
            try:
                self._fs.write(self.root / "supervisor/cgroup.procs", "0")
            except OSError as error:
                problems.append(f"the daemon stays in its cgroup: {error.strerror}")
        ours = [self.root, self.containers] if self._delegated else [*above, *self._between(above), self.containers]
        for path in ours:
            problems += self._hand_down(path, WANTED)
        given = (self._fs.read(self.containers / "cgroup.subtree_control") or "").split()
        self.controllers = frozenset(given) & frozenset(WANTED)
        return tuple(problems)

    def _above(self) -> list[Path]:
        """Ancestors that exist as cgroups, from the mount's root down to the parent of `root`."""
        found = [p for p in self.root.parents if self._fs.exists(p / "cgroup.controllers")]
        return found[::-1]

    def _between(self, above: list[Path]) -> list[Path]:
        """`root` and those of its ancestors that were not there before, top first."""
        return [p for p in [*reversed(self.root.parents), self.root] if p not in above and self._inside(p, above)]

    @staticmethod
    def _inside(path: Path, above: list[Path]) -> bool:
        return not above or above[0] in path.parents

    def _hand_down(self, path: Path, names: tuple[str, ...]) -> list[str]:
        have = (self._fs.read(path / "cgroup.controllers") or "").split()
        on = (self._fs.read(path / "cgroup.subtree_control") or "").split()
        problems = []
        for name in names:
            if name in on or name not in have:
                continue
            try:  # one by one: a controller that is refused does not cost the others
                self._fs.write(path / "cgroup.subtree_control", f"+{name}")
            except OSError as error:
                problems.append(f"{path}: controller {name} cannot be handed down: {error.strerror}")
        return problems

    def _mkdir(self, path: Path) -> bool:
        try:
            made = self._fs.mkdir(path)
        except OSError as error:
            raise HostError(f"cannot make cgroup: {error.strerror}", str(path)) from None
        if not made and not self._fs.is_dir(path):
            raise RefusedError("a file of the kernel has this name", str(path), "name the container otherwise")
        return made

    # Limits

    def limits(self, container: Container, oci: Mapping[str, Any] | None = None) -> Limits:
        """What `container` may use; `oci` is `linux.resources` of its bundle, which the definition overrides."""
        own = resources.of_definition(container.resources, container.oom.group, self._device)
        return resources.merge(resources.of_oci(oci), own) if oci else own

    def prepare(self, container: Container, oci: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """Make containers/<name> with its limits and device rules. Returns the controllers that are missing.

        Raises RefusedError when one is missing (unless `on_missing: warn`) or the kernel refuses a value; a cgroup that
        was made for it is gone then.
        """
        limits, missing = self._wanted(container, oci)
        path = self.path(container.name)
        made = self._mkdir(path)
        try:
            missing += apply_limits(self._fs, path, limits, container.resources.on_missing == "warn")
            missing += self._limit_devices(container, path, oci)
        except Exception:
            if made:
                self._fs.remove(path)
            raise
        self._hand_down(path, LEAF_CONTROLLERS)
        return tuple(dict.fromkeys(missing))

    def update(
        self, container: Container, oci: Mapping[str, Any] | None = None, *, force: bool = False
    ) -> tuple[str, ...]:
        """Write changed limits, also while it runs; one that went is written as the default. Else as `prepare`.

        Raises RefusedError for a memory limit below what is in use, which would kill (`force` does it), and GoneError
        when there is no such cgroup; then all limits are as before.
        """
        limits, missing = self._wanted(container, oci)
        path = self.path(container.name)
        if not self._fs.is_dir(path):
            raise GoneError("has no cgroup", container.name)
        self._fits(container.name, path, limits, force)
        missing += apply_limits(self._fs, path, limits, container.resources.on_missing == "warn")
        missing += self._limit_devices(container, path, oci)
        for generation in self._generations(path):
            apply_leaf(self._fs, path, path / f"g{generation}")
        return tuple(dict.fromkeys(missing))

    def _wanted(self, container: Container, oci: Mapping[str, Any] | None) -> tuple[Limits, list[str]]:
        limits = self.limits(container, oci)
        missing = sorted(limits.controllers() & frozenset(WANTED) - self.controllers)
        if missing and container.resources.on_missing == "refuse":
            raise RefusedError(
                f"this host has no cgroup v2 controller {', '.join(missing)} for its limits",
                container.name,
                "resources.on_missing: warn starts it without them",
            )
        return limits, missing

    def _fits(self, name: str, path: Path, limits: Limits, force: bool) -> None:
        new = limits.files.get("memory.max", resources.MAX)
        current = self._fs.read(path / "memory.current")
        if force or new == resources.MAX or current is None or not self._busy(path):
            return
        if int(new) < int(current):
            raise RefusedError(f"memory limit {new} is below the {current} bytes in use: it would be killed", name)

    def _limit_devices(self, container: Container, path: Path, oci: Mapping[str, Any] | None) -> list[str]:
        """Says `devices` when this kernel cannot filter them, and it matters little: nodes are then kept out by `nodev`
        alone. Who may make nodes is refused."""
        rules = devices.rules_of((oci or {}).get("devices"))
        fd = self.open_dir(path)
        try:
            self._filter_devices(fd, rules)
        except OSError as error:
            makes_nodes = container.bundle is not None or {"ALL", "CAP_MKNOD"} & set(container.cap_add)
            if makes_nodes and container.resources.on_missing == "refuse":
                raise RefusedError(
                    f"this kernel cannot filter devices: {error.strerror}",
                    container.name,
                    "resources.on_missing: warn starts it without",
                ) from None
            return ["devices"]
        finally:
            os.close(fd)
        return []

    # Runs

    def path(self, name: str, generation: int | None = None) -> Path:
        """The cgroup of a container, or of one of its runs. Raises RefusedError for what is no name."""
        if not _NAME.fullmatch(name):
            raise RefusedError(f"{name!r} is not a container's name", "cgroups")
        path = self.containers / name
        return path if generation is None else path / f"g{generation}"

    def open_leaf(self, name: str, generation: int) -> Path:
        """Make the cgroup of a run; an empty one of a broken launch is made anew. Raises RefusedError, HostError."""
        path = self.path(name, generation)
        if not self._mkdir(path):
            if self._busy(path):
                raise RefusedError(f"run {generation} has processes already", name)
            if not self.remove_leaf(name, generation):
                raise HostError("a left-over cgroup cannot be removed", str(path))
            self._mkdir(path)
        apply_leaf(self._fs, path.parent, path)
        return path

    def open_dir(self, path: Path) -> int:
        """A directory fd of a cgroup, the caller's to close. Raises GoneError, HostError."""
        try:
            return self._fs.open_dir(path)
        except OSError as error:
            if error.errno in GONE:
                raise GoneError("no such cgroup", str(path)) from None
            raise HostError(f"cannot open cgroup: {error.strerror}", str(path)) from None

    def open_parent(self, name: str) -> int:
        return self.open_dir(self.path(name))

    def shims_fd(self) -> int:
        return self.open_dir(self.root / "shims")

    def top(self) -> Path | None:
        """The topmost ancestor that counts memory events (the mount's own root has none): kills above our limits."""
        ours = [*reversed(self.root.parents), self.root]
        return next((path for path in ours if self._fs.exists(path / "memory.events")), None)

    def open_top(self) -> int | None:
        path = self.top()
        return None if path is None else self.open_dir(path)

    def kill(self, name: str, generation: int | None = None) -> None:
        """SIGKILL to every process of a run, or of all runs; frozen ones and cgroups below too. Gone is success."""
        path = self.path(name, generation)
        try:
            self._fs.write(path / "cgroup.kill", "1")
        except OSError as error:
            if error.errno not in GONE:
                raise HostError(f"cannot kill: {error.strerror}", str(path)) from None
            if self._fs.exists(path / "cgroup.procs"):
                raise HostError("this kernel has no cgroup.kill", str(path), "Linux 5.14 has") from None

    def populated(self, name: str, generation: int | None = None) -> bool:
        """Whether live processes are in it. A cgroup that is gone has none."""
        return self._busy(self.path(name, generation))

    def _busy(self, path: Path) -> bool:
        return "populated 1" in (self._fs.read(path / "cgroup.events") or "").splitlines()

    def remove_leaf(self, name: str, generation: int, wait: float = 2.0) -> bool:
        """Kill what is left of a run, and remove its cgroup and those made in it.

        False when it is still busy after `wait` seconds (a process in D state): try again later. Raises HostError.
        """
        self.kill(name, generation)
        return self._remove(self.path(name, generation), wait)

    def remove(self, name: str, wait: float = 2.0) -> bool:
        """Remove a container's cgroup with all its runs: its counters end here. As remove_leaf otherwise."""
        self.kill(name)
        return self._remove(self.path(name), wait)

    def _remove(self, path: Path, wait: float) -> bool:
        pause, waited = 0.001, 0.0
        while True:
            try:
                if self._fs.remove(path):
                    return True
            except OSError as error:
                raise HostError(f"cannot remove cgroup: {error.strerror}", str(path)) from None
            if waited >= wait:
                return False
            pause = min(pause, wait - waited)
            self._sleep(pause)
            waited += pause
            pause = min(pause * 2, 0.25)

    def list_existing(self) -> tuple[Existing, ...]:
        """What is there, whoever left it."""
        found = []
        for name in self._fs.children(self.containers):
            path = self.containers / name
            generations = self._generations(path)
            busy = tuple(g for g in generations if self._busy(path / f"g{g}"))
            found.append(Existing(name, generations, busy))
        return tuple(found)

    def _generations(self, path: Path) -> tuple[int, ...]:
        matches = (_LEAF.fullmatch(name) for name in self._fs.children(path))
        return tuple(sorted(int(match[1]) for match in matches if match))
