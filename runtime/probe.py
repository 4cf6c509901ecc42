"""What this host can do: its cgroup hierarchy, its kernel, and the rights that we were given. Read once, at start.

Sources: proc(5), cgroups(7), systemd "CGROUP_DELEGATION". Nothing here writes.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from config.record import record
from runtime.capabilities import names_of

KERNEL_FLOOR = (5, 14)  # cgroup.kill, and mount_setattr of 5.12
WANTED = ("memory", "cpu", "io", "pids", "cpuset")
DEFAULT_ROOT = "wharfinger"
_NOFILE = 524288  # systemd's own hard limit; programs that close every fd would take minutes with more

Mode = Literal["unified", "hybrid", "legacy"]
GetXattr = Callable[[Path, str], bytes]


@record
class HostFacts:
    """Facts of one host. `None` is unknown or absent."""

    mode: Mode
    cgroup_mount: Path | None
    cgroup_root: Path | None  # where our tree is, or is to be made
    controllers: frozenset[str]  # that the parent of cgroup_root can give
    delegated: bool  # cgroup_root is in a cgroup that systemd delegated to us: nothing above it is ours
    own_cgroup: str | None  # as /proc/self/cgroup says it
    kernel: tuple[int, int]
    release: str
    machine: str
    psi: bool
    cgroup_kill: bool
    seccomp: bool
    features: frozenset[str]  # namespaces: pid, mnt, uts, ipc, net, cgroup, user, time
    capabilities: frozenset[str]  # that we have
    bounding: frozenset[str]  # that a container of ours can have
    nofile: int  # hard limit for containers unless they ask for another
    thermal: tuple[str, ...]  # paths below /sys that tell the load of other tenants
    problems: tuple[str, ...]
    lsms: frozenset[str] = frozenset()  # of apparmor and selinux, those that are on


@record
class _Mount:
    root: str
    point: str
    read_only: bool


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _octal(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash as \\040, \\011, \\012, \\134."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)


def parse_mountinfo(text: str) -> tuple[list[_Mount], bool]:
    """The cgroup2 mounts, and whether a version 1 hierarchy with controllers is mounted too."""
    found: list[_Mount] = []
    legacy = False
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if not separator or len(fields) < 6 or len(tail) < 1:
            continue
        if tail[0] == "cgroup2":
            found.append(_Mount(_octal(fields[3]), _octal(fields[4]), "ro" in fields[5].split(",")))
        elif tail[0] == "cgroup":
            options = tail[2].split(",") if len(tail) > 2 else []
            legacy = legacy or not any(option.startswith("name=") for option in options)
    return found, legacy


def parse_kernel(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _own_cgroup(text: str | None) -> str | None:
    for line in (text or "").splitlines():
        if line.startswith("0::"):
            return line[3:]
    return None


def _masks(status: str) -> tuple[frozenset[str], frozenset[str]]:
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)

    def names(key: str) -> frozenset[str]:
        try:
            return names_of(int(values[key], 16))
        except (KeyError, ValueError):
            return frozenset()

    return names("CapEff"), names("CapBnd")


def _delegation(mount: _Mount, own: str | None, env: Mapping[str, str], getxattr: GetXattr) -> Path | None:
    """The delegated cgroup that we were started below, as DelegateSubgroup= of systemd 254 does; None elsewhere.

    systemd marks what it delegates with an xattr; the topmost marked ancestor is the unit's. A unit that we run in
    directly is no place for containers: with controllers switched on in it, and containers that live on, systemd
    cannot put a new main process there (EBUSY, status 219/CGROUP; systemd#24064, seen with 252).
    """
    if not own or ".." in own.split("/") or "INVOCATION_ID" not in env:
        return None
    inside = os.path.relpath(own, mount.root)
    if inside.startswith(".."):
        return None
    here = Path(mount.point)
    for part in Path(inside).parts[:-1]:
        here = here / part
        if _delegated(here, getxattr):
            return here if os.access(here, os.W_OK) else None
    return None


def _delegated(path: Path, getxattr: GetXattr) -> bool:
    for name in ("trusted.delegate", "user.delegate"):
        try:
            if getxattr(path, name).strip() == b"1":
                return True
        except OSError:
            continue
    return False


def _thermal(sys: Path) -> tuple[str, ...]:
    found = sorted(sys.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle"))
    return tuple("/sys/" + path.relative_to(sys).as_posix() for path in found)


def probe(
    cgroup_root: str | Path = "auto",
    *,
    proc: Path = Path("/proc"),
    sys: Path = Path("/sys"),
    env: Mapping[str, str] = os.environ,
    getxattr: GetXattr = os.getxattr,
    release: str | None = None,
    machine: str | None = None,
    nofile: int | None = None,
) -> HostFacts:
    """Look at the host. Never raises: what is wrong is in `.problems`, in words for the operator."""
    problems: list[str] = []
    uname = os.uname()
    release = uname.release if release is None else release
    kernel = parse_kernel(release)
    if kernel < KERNEL_FLOOR:
        floor = ".".join(map(str, KERNEL_FLOOR))
        problems.append(f"kernel {release} is older than {floor}: containers cannot be killed as a whole (cgroup.kill)")
    mounts, legacy = parse_mountinfo(_text(proc / "self/mountinfo") or "")
    mounts.sort(key=lambda m: (not m.point.endswith("/sys/fs/cgroup"), not m.point.endswith("/unified")))
    mode: Mode = "legacy" if not mounts else "hybrid" if legacy else "unified"
    own = _own_cgroup(_text(proc / "self/cgroup"))
    root, mount, delegated = None, None, False
    controllers: frozenset[str] = frozenset()
    if not mounts:
        problems.append("no cgroup2 file system is mounted: boot with systemd.unified_cgroup_hierarchy=1")
    else:
        mount = Path(mounts[0].point)
        if mounts[0].read_only:
            problems.append(f"{mount} is mounted read-only: no container can be started")
        unit = _delegation(mounts[0], own, env, getxattr)
        if str(cgroup_root) == "auto":
            root, delegated = (unit, True) if unit else (mount / DEFAULT_ROOT, False)
        else:
            root = Path(cgroup_root)
            delegated = unit is not None and (root == unit or unit in root.parents)
            if mount != root and mount not in root.parents:
                problems.append(f"cgroup_root {root} is not below the cgroup2 mount {mount}")
        controllers = available(root, mount, delegated)
        missing = [name for name in WANTED if name not in controllers]
        if missing:
            why = " (version 1 hierarchies hold them)" if mode == "hybrid" else ""
            problems.append(f"cgroup v2 lacks {', '.join(missing)} here{why}: limits that need them are refused")
    kill = kernel >= KERNEL_FLOOR
    seccomp = (proc / "sys/kernel/seccomp/actions_avail").exists()
    if not seccomp:
        problems.append("this kernel has no seccomp: definitions need seccomp: unconfined")
    status = _text(proc / "self/status") or ""
    have, bounding = _masks(status)
    if "CAP_SYS_ADMIN" not in have:
        problems.append("CAP_SYS_ADMIN is missing: run as root")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if nofile is None else nofile
    hard = _NOFILE if hard == resource.RLIM_INFINITY else min(hard, _NOFILE)
    namespaces = frozenset(n for n in ("pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time") if _link(proc, n))
    return HostFacts(
        mode=mode,
        cgroup_mount=mount,
        cgroup_root=root,
        controllers=controllers,
        delegated=delegated,
        own_cgroup=own,
        kernel=kernel,
        release=release,
        machine=uname.machine if machine is None else machine,
        psi=(proc / "pressure/memory").exists(),
        cgroup_kill=kill,
        seccomp=seccomp,
        features=namespaces,
        capabilities=have,
        bounding=bounding,
        nofile=hard,
        thermal=_thermal(sys),
        problems=tuple(problems),
        lsms=_lsms(sys),
    )


def _lsms(sys: Path) -> frozenset[str]:
    found = {"apparmor"} if (_text(sys / "module/apparmor/parameters/enabled") or "").startswith("Y") else set()
    return frozenset(found | ({"selinux"} if (sys / "fs/selinux/enforce").exists() else set()))


def _link(proc: Path, name: str) -> bool:
    return os.path.lexists(proc / "self/ns" / name)


def available(root: Path, mount: Path, delegated: bool) -> frozenset[str]:
    """Controllers that `root` has, or will have once it is made: those of its nearest ancestor that exists."""
    here = root
    while not here.is_dir() and here != mount and here != here.parent:
        here = here.parent
    if not delegated and here == root and root != mount:
        here = root.parent  # its parent may hold more than it has handed down yet
    names = frozenset((_text(here / "cgroup.controllers") or "").split())
    return names & frozenset(WANTED)
