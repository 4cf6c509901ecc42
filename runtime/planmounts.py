"""The part of a launch plan that makes the file system: mounts, device nodes, links, masks. Used by plan.py."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from config.errors import DefinitionError, LaunchError
from runtime import linux, mountopts
from runtime.wire import BIND_ATTR_RECURSIVE, BIND_FILE, BIND_RECURSIVE, MOUNT_CREATE, Op, op

# name, major, minor: config-linux.md, "Default Devices"
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
)
_KINDS = {"c": linux.S_IFCHR, "u": linux.S_IFCHR, "b": linux.S_IFBLK, "p": linux.S_IFIFO}
_OWN = ("/proc", "/sys")  # nothing may stand in for these (CVE-2019-19921), nor a link lead to them: the shim checks


def mount_ops(spec: Mapping[str, Any]) -> tuple[list[Op], list[Op]]:
    """Operations of `mounts` in their order, and those to run after PIVOT (a read-only /dev is filled first)."""
    ops: list[Op] = []
    late: list[Op] = []
    for index, mount in enumerate(spec.get("mounts") or ()):
        where = f"/mounts/{index}"
        target = posixpath.normpath(mount["destination"]).replace("//", "/")
        fstype = mount.get("type") or "bind"
        fstype = "cgroup2" if fstype == "cgroup" else fstype
        words = mount.get("options") or ()
        if fstype in ("bind", "none") or "bind" in words or "rbind" in words:
            ops.append(_bind(mount, target, words, where))
            continue
        if fstype not in mountopts.FILESYSTEMS:
            raise DefinitionError(f"file system {fstype!r} is not supported", f"{where}/type")
        if target == "/":
            raise DefinitionError("nothing can be mounted over the root", f"{where}/destination")
        if target in _OWN and fstype != {"/proc": "proc", "/sys": "sysfs"}[target] and fstype != "tmpfs":
            raise DefinitionError(f"{fstype} cannot stand at {target}", f"{where}/type")
        if target == "/proc" and fstype != "proc":
            raise DefinitionError("only proc can stand at /proc", f"{where}/type")
        options = mountopts.parse(words, fstype, f"{where}/options")
        attr = options.attr_set
        if target == "/dev" and attr & linux.MOUNT_ATTR_RDONLY:
            attr &= ~linux.MOUNT_ATTR_RDONLY
            late.append(op("READONLY", path="/dev"))
        ops.append(
            op(
                "MOUNT",
                fstype=fstype,
                source=mount.get("source") or fstype,
                target=target,
                attr=attr,
                data=options.data,
                flags=MOUNT_CREATE,
            )
        )
    return ops, late


def _bind(mount: Mapping[str, Any], target: str, words: Sequence[str], where: str) -> Op:
    source = mount.get("source") or ""
    if not source:
        raise DefinitionError("a bind mount needs a source", f"{where}/source")
    if target in ("/", "/proc"):
        raise DefinitionError(f"nothing can be bound over {target}", f"{where}/destination")
    if not source.startswith("/"):
        raise DefinitionError(f"{source!r} must be an absolute path", f"{where}/source")
    options = mountopts.parse(words, "bind", f"{where}/options")
    flags = BIND_RECURSIVE if options.recursive else 0
    flags |= BIND_FILE if not _is_directory(source, where) else 0
    flags |= BIND_ATTR_RECURSIVE if options.recursive_attrs else 0
    return op(
        "BIND",
        source=source,
        target=target,
        attr_set=options.attr_set,
        attr_clr=options.attr_clr,
        propagation=options.propagation or linux.MS_PRIVATE | linux.MS_REC,
        flags=flags,
    )


def _is_directory(source: str, where: str) -> bool:
    """Whether the bind source is a directory. Nothing is made for a missing one: it is a typo or a disk not mounted."""
    try:
        return stat.S_ISDIR(os.stat(source).st_mode)
    except OSError as error:
        detail = "the source of a bind mount must exist" if error.errno == errno.ENOENT else ""
        raise LaunchError("BIND", source, error.errno or errno.EIO, detail, where) from None


def device_ops(spec: Mapping[str, Any], new_user: bool) -> tuple[list[Op], list[str]]:
    """Nodes and links of /dev, when a tmpfs is mounted there, and warnings. Nothing is written into the root itself."""
    points = {posixpath.normpath(m["destination"]): m.get("type") for m in spec.get("mounts") or ()}
    devices = spec["linux"].get("devices") or ()
    if points.get("/dev") != "tmpfs":
        if devices:
            raise DefinitionError("devices need a tmpfs mounted at /dev", "/linux/devices")
        return [], [] if "/dev" in points else ["no /dev is mounted: device nodes are what the root has"]
    nodes: dict[str, Op] = {
        f"/dev/{name}": _node(f"/dev/{name}", linux.S_IFCHR | 0o666, major, minor, 0, 0, new_user)
        for name, major, minor in DEVICES
        if f"/dev/{name}" not in points
    }
    for index, device in enumerate(devices):
        where = f"/linux/devices/{index}"
        path = posixpath.normpath(device["path"])
        if not path.startswith("/dev/"):
            raise DefinitionError(f"{path} is not below /dev", f"{where}/path")
        kind = device["type"]
        if kind != "p" and not ("major" in device and "minor" in device):
            raise DefinitionError("major and minor are needed", where)
        mode = _KINDS[kind] | (device.get("fileMode", 0o666) & 0o7777)
        major, minor, uid, gid = (device.get(key, 0) for key in ("major", "minor", "uid", "gid"))
        nodes[path] = _node(path, mode, major, minor, uid, gid, new_user)
    ops = list(nodes.values())
    ops += [op("SYMLINK", target=target, path=path) for target, path in LINKS if path not in nodes]
    if points.get("/dev/pts") == "devpts":
        ops.append(op("SYMLINK", target="pts/ptmx", path="/dev/ptmx"))
    return ops, []


def _node(path: str, mode: int, major: int, minor: int, uid: int, gid: int, new_user: bool) -> Op:
    if new_user:  # mknod needs the first user namespace: the host's own node is bound instead
        return op(
            "BIND",
            source=path,
            target=path,
            attr_set=linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC,
            attr_clr=0,
            propagation=linux.MS_PRIVATE,
            flags=BIND_FILE,
        )
    return op("DEVNODE", path=path, mode=mode, major=major, minor=minor, uid=uid, gid=gid)


def mask_ops(spec: Mapping[str, Any]) -> list[Op]:
    config = spec["linux"]
    ops = [op("MASK", path=posixpath.normpath(path)) for path in config.get("maskedPaths") or ()]
    ops += [op("READONLY", path=posixpath.normpath(path)) for path in config.get("readonlyPaths") or ()]
    return ops
