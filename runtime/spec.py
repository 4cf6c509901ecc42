"""A definition as an OCI runtime spec: our defaults, and what the definition says beyond them.

Defaults: Podman's capabilities, moby's masked paths, no_new_privs, a seccomp filter, a private network with loopback
only. Source: runtime-spec config.md, config-linux.md.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from config.errors import RefusedError
from config.model import Container
from config.model_parts import Mount
from runtime import capabilities, seccomp, users
from runtime.images.merged import Stack
from runtime.oci import Spec
from runtime.plancred import TERM
from runtime.probe import HostFacts
from runtime.users import User

VERSION = "1.2.1"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UMASK = 0o022

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_NOFILE_SOFT = 1024  # select(2) ends there, and our own soft limit is raised


def build_spec(container: Container, host: HostFacts, stack: Stack | None = None) -> Spec:
    """The spec of a definition with `rootfs`, or on the `stack` of its image. The root's own user and group files are
    read.

    Raises DefinitionError (a user that is not there, a capability that the host lacks), RefusedError.
    """
    root = stack if stack is not None else Path(container.rootfs) if container.rootfs is not None else None
    if root is None:
        raise RefusedError("only a definition with rootfs or image is turned into a spec", container.name)
    user = users.resolve(root, container.user, container.group_add)
    caps = capabilities.resolve(container.cap_add, container.cap_drop, host.bounding, f"{container.name}.")
    spec: Spec = {
        "ociVersion": VERSION,
        "root": {"path": str(root), "readonly": container.read_only},
        "process": _process(container, host, user, caps),
        "hostname": container.hostname or container.name,
        "mounts": [*_base_mounts(container, user), *(_mount(mount) for mount in container.mounts)],
        "linux": _linux(container, host, caps),
    }
    if container.domainname:
        spec["domainname"] = container.domainname
    if container.labels:
        spec["annotations"] = dict(sorted(container.labels.items()))
    return spec


def _process(container: Container, host: HostFacts, user: User, caps: frozenset[str]) -> dict[str, Any]:
    bounding = sorted(caps)
    usable = bounding if user.uid == 0 else []  # what execve leaves to another user: nothing (as moby, Podman)
    environment = {"PATH": PATH, "HOSTNAME": container.hostname or container.name, "HOME": user.home}
    environment |= {"TERM": TERM} if container.tty else {}
    environment |= container.environment
    return {
        "terminal": container.tty,
        "user": {
            "uid": user.uid,
            "gid": user.gid,
            "umask": UMASK if container.umask is None else container.umask & 0o777,
            "additionalGids": list(user.groups),
        },
        "args": [*(container.entrypoint or ()), *(container.command or ())],
        "env": [f"{key}={value}" for key, value in environment.items()],
        "cwd": container.working_dir or "/",
        "capabilities": {
            "bounding": bounding,
            "effective": usable,
            "permitted": usable,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": _rlimits(container, host),
        "noNewPrivileges": container.no_new_privileges,
        "oomScoreAdj": container.oom_score_adj,
    }


def _rlimits(container: Container, host: HostFacts) -> list[dict[str, Any]]:
    limits = {"nofile": (min(_NOFILE_SOFT, host.nofile), host.nofile), **container.rlimits}
    return [{"type": f"RLIMIT_{name.upper()}", "soft": low, "hard": high} for name, (low, high) in limits.items()]


def _base_mounts(container: Container, user: User) -> list[dict[str, Any]]:
    """What every container has, but for places where the definition mounts something itself."""
    hardened = ["nosuid", "noexec", "nodev"]
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    space = container.user_namespace
    if space is None or space.size > 5:
        terminals.append("gid=5")  # the tty group: a gid that is not mapped would be refused
    mounts = [
        _entry("/proc", "proc", hardened),
        _entry("/dev", "tmpfs", ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]),
        _entry("/dev/pts", "devpts", terminals),
        _entry("/dev/shm", "tmpfs", [*hardened, "mode=1777", f"size={container.shm_size}"], "shm"),
        _entry("/dev/mqueue", "mqueue", hardened),
        _sys(container, hardened),
        _entry("/sys/fs/cgroup", "cgroup", [*hardened, "relatime", "ro"]),
    ]
    taken = {mount.target for mount in container.mounts}
    return [mount for mount in mounts if mount["destination"] not in taken]


def _entry(target: str, fstype: str, options: list[str], source: str = "") -> dict[str, Any]:
    return {"destination": target, "type": fstype, "source": source or fstype, "options": options}


def _sys(container: Container, hardened: list[str]) -> dict[str, Any]:
    if container.network == "host" and container.user_namespace is not None:
        # sysfs belongs to the network's user namespace, the host's: the kernel refuses a new one
        return _entry("/sys", "bind", ["rbind", "rprivate", "rro", "rnosuid", "rnoexec", "rnodev"], "/sys")
    return _entry("/sys", "sysfs", [*hardened, "ro"])


def _mount(mount: Mount) -> dict[str, Any]:
    if mount.type == "tmpfs":
        options = ["nosuid", "nodev", *mount.options]
        options += ["ro"] if mount.read_only else []
        options += [f"size={mount.size}"] if mount.size is not None else []
        options += [f"mode={0o1777 if mount.mode is None else mount.mode:o}"]
        return _entry(mount.target, "tmpfs", options)
    words = ["nodev", *mount.options, *(["ro"] if mount.read_only else [])]
    words = [word for word in words if word != "nodev" or "dev" not in mount.options]
    # r: down to the mounts below, which a plain word would leave as they are
    options = ["rbind", mount.propagation, *(f"r{word}" for word in words), *(["ridmap"] if mount.idmap else [])]
    return _entry(mount.target, "bind", options, mount.source or "")


def _device_rules(container: Container) -> list[dict[str, Any]]:
    """None but the usual devices, and those that the definition binds with the option `dev`."""
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for mount in container.mounts:
        if mount.type != "bind" or "dev" not in mount.options or mount.source is None:
            continue
        source = Path(mount.source)
        for path in [source, *sorted(source.iterdir())] if source.is_dir() else [source]:
            try:
                status = os.stat(path)
            except OSError:
                continue  # a missing source is told when the plan is compiled
            kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
            if kind:
                numbers = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
                rules.append({"allow": True, "type": kind, **numbers, "access": "rw"})
    return rules


def _linux(container: Container, host: HostFacts, caps: frozenset[str]) -> dict[str, Any]:
    kinds = ["pid", "mount", "uts", "ipc", "cgroup"]
    kinds += ["network"] if container.network != "host" else []
    kinds += ["user"] if container.user_namespace is not None else []
    config: dict[str, Any] = {"namespaces": [{"type": kind} for kind in kinds]}
    config["resources"] = {"devices": _device_rules(container)}
    if (space := container.user_namespace) is not None:
        config["uidMappings"] = [{"containerID": 0, "hostID": space.uid_base, "size": space.size}]
        config["gidMappings"] = [{"containerID": 0, "hostID": space.gid_base, "size": space.size}]
    if container.sysctls:
        config["sysctl"] = dict(container.sysctls)
    masked = (*MASKED, *host.thermal) if container.masked_paths is None else container.masked_paths
    readonly = READONLY if container.readonly_paths is None else container.readonly_paths
    config["maskedPaths"] = list(masked)
    config["readonlyPaths"] = list(readonly)
    if container.seccomp == "default":
        config["seccomp"] = seccomp.default_profile(caps, host.machine)
    return config
