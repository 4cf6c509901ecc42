"""The part of a launch plan that makes the file system: mounts, device nodes, links, masks. Used by plan.py."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from collections.abc import Mapping
from typing import Any

from config.errors import DefinitionError, LaunchError
from config.record import replace
from runtime import linux, mountopts
from runtime.mountopts import Options
from runtime.plancred import require_lsm
from runtime.planspaces import Namespaces, map_text
from runtime.probe import HostFacts
from runtime.wire import (
    BIND_ATTR_RECURSIVE,
    BIND_FILE,
    BIND_RECURSIVE,
    IDMAP_RECURSIVE,
    MOUNT_COPY_UP,
    MOUNT_CREATE,
    MOUNTATTR_RECURSIVE,
    Op,
    op,
)

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


_INLINE = r"(\d{1,10})-(\d{1,10})-(\d{1,10})"
_MAP_KEYS = ("containerID", "hostID", "size")


_LABELLED = ("tmpfs", "devpts", "mqueue", "overlay")  # that take the label of SELinux as an option


def mount_ops(spec: Mapping[str, Any], spaces: Namespaces, host: HostFacts) -> tuple[list[Op], list[Op]]:
    """Operations of `mounts` in their order, and those to run after PIVOT (a read-only /dev is filled first)."""
    ops: list[Op] = []
    late: list[Op] = []
    label = spec["linux"].get("mountLabel") or ""
    if label:
        require_lsm("selinux", host.lsms, "/linux/mountLabel")
    for index, mount in enumerate(spec.get("mounts") or ()):
        where = f"/mounts/{index}"
        target = place(mount["destination"])
        fstype = mount.get("type") or "bind"
        fstype = "cgroup2" if fstype == "cgroup" else fstype
        words = mount.get("options") or ()
        if fstype in ("bind", "none") or "bind" in words or "rbind" in words:
            fstype = "bind"
        options = mountopts.parse(words, fstype, f"{where}/options")
        if label and fstype in _LABELLED and "context=" not in options.data:
            options = replace(options, data=",".join([*filter(None, [options.data]), f'context="{label}"']))
        if options.remount:
            ops += _changes(target, options)
            continue
        if fstype == "cgroup2" and not spaces.apart & linux.CLONE_NEWCGROUP and host.cgroup_mount is not None:
            # mounting it anew in the host's cgroup namespace would change the options of the host's own mount
            mount = {**mount, "source": str(host.cgroup_mount)}
            options = replace(options, bind=True, recursive=True, data="")
        ops += idmap_ops(mount, options, spec["linux"], spaces, where)
        if options.bind:
            ops += _bind(mount, target, options, spec["linux"], where)
            continue
        ops += _new(mount, target, fstype, options, late, where)
    return ops, late


def place(destination: str) -> str:
    """Where in the root; a relative destination is the root's (config.md, "Mounts")."""
    return posixpath.normpath("/" + destination.lstrip("/"))


def _new(mount: Mapping[str, Any], target: str, fstype: str, options: Options, late: list[Op], where: str) -> list[Op]:
    if target == "/":
        raise DefinitionError("nothing can be mounted over the root", f"{where}/destination")
    if target in _OWN and fstype != {"/proc": "proc", "/sys": "sysfs"}[target] and fstype != "tmpfs":
        raise DefinitionError(f"{fstype} cannot stand at {target}", f"{where}/type")
    if target == "/proc" and fstype != "proc":
        raise DefinitionError("only proc can stand at /proc", f"{where}/type")
    attr = options.attr_set
    if target == "/dev" and attr & linux.MOUNT_ATTR_RDONLY:
        attr &= ~linux.MOUNT_ATTR_RDONLY
        late.append(op("READONLY", path="/dev"))
    ops = [
        op(
            "MOUNT",
            fstype=fstype,
            source=mount.get("source") or fstype,
            target=target,
            attr=attr,
            data=options.data,
            flags=MOUNT_CREATE | (MOUNT_COPY_UP if options.copy_up else 0),
        )
    ]
    if options.propagation:
        ops.append(op("PROPAGATION", path=target, flags=options.propagation))
    return ops


def _bind(mount: Mapping[str, Any], target: str, options: Options, config: Mapping[str, Any], where: str) -> list[Op]:
    source = mount.get("source") or ""
    if not source:
        raise DefinitionError("a bind mount needs a source", f"{where}/source")
    if target == "/":
        raise DefinitionError("nothing can be bound over /", f"{where}/destination")
    if not source.startswith("/"):
        raise DefinitionError(f"{source!r} must be an absolute path", f"{where}/source")
    deep = bool(options.deep_set or options.deep_clr)
    flags = BIND_RECURSIVE if options.recursive else 0
    flags |= BIND_FILE if not _is_directory(source, where) else 0
    flags |= BIND_ATTR_RECURSIVE if deep else 0
    private = (config.get("rootfsPropagation") or "") in ("private", "rprivate")
    ops = [
        op(
            "BIND",
            source=source,
            target=target,
            attr_set=options.deep_set if deep else options.attr_set,
            attr_clr=options.deep_clr if deep else options.attr_clr,
            propagation=options.propagation or linux.MS_REC | (linux.MS_PRIVATE if private else linux.MS_SLAVE),
            flags=flags,
        )
    ]
    if deep:  # beside words for all, those for the top alone, where they do not contradict
        told = options.deep_set | options.deep_clr
        top = Options(attr_set=options.attr_set & ~told, attr_clr=options.attr_clr & ~told)
        ops += _changes(target, top)
    return ops


def _changes(target: str, options: Options) -> list[Op]:
    """Of a mount that is there: its attributes, those of all below it, its propagation."""
    ops = []
    for attr_set, attr_clr, flags in (
        (options.attr_set, options.attr_clr, 0),
        (options.deep_set, options.deep_clr, MOUNTATTR_RECURSIVE),
    ):
        if attr_set or attr_clr:
            ops.append(op("MOUNTATTR", path=target, attr_set=attr_set, attr_clr=attr_clr, flags=flags))
    if options.propagation:
        ops.append(op("PROPAGATION", path=target, flags=options.propagation))
    return ops


def idmap_ops(
    mount: Mapping[str, Any], options: Options, config: Mapping[str, Any], spaces: Namespaces, where: str
) -> list[Op]:
    """IDMAP for the mount after it: by its own mappings, those of its idmap option, or the container's."""
    uids, gids = mount.get("uidMappings") or (), mount.get("gidMappings") or ()
    word, _, inline = options.idmap.partition("=")
    if not options.idmap and not uids and not gids:
        return []
    if bool(uids) != bool(gids):
        raise DefinitionError("uidMappings and gidMappings of a mount go together", where)
    if inline:
        uids, gids = _inline_maps(inline, f"{where}/options")
    elif not uids:
        uids, gids = config.get("uidMappings") or (), config.get("gidMappings") or ()
        if not uids or not gids or not spaces.apart & linux.CLONE_NEWUSER:
            raise DefinitionError(f"{word} needs mappings: the mount's own, or a user namespace's", f"{where}/options")
    return [
        op(
            "IDMAP",
            uid_map=map_text(uids, f"{where}/uidMappings"),
            gid_map=map_text(gids, f"{where}/gidMappings"),
            flags=IDMAP_RECURSIVE if word == "ridmap" else 0,
        )
    ]


def root_idmap_ops(config: Mapping[str, Any], spaces: Namespaces) -> list[Op]:
    """IDMAP for ROOT, by the container's own maps."""
    return idmap_ops({}, Options(idmap="ridmap"), config, spaces, "/linux/uidMappings")


def _inline_maps(text: str, where: str) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    """crun's form: `uids=INSIDE-OUTSIDE-SIZE#...;gids=...`."""
    maps: dict[str, list[dict[str, int]]] = {}
    for part in text.split(";"):
        key, _, value = part.partition("=")
        entries = [re.fullmatch(_INLINE, entry) for entry in value.split("#")]
        if key not in ("uids", "gids") or key in maps or not all(entries):
            raise DefinitionError(f"bad mapping {part!r}, uids=0-1000-1;gids=0-1000-1 is a good one", where)
        maps[key] = [dict(zip(_MAP_KEYS, map(int, e.groups()), strict=True)) for e in entries if e]
    if len(maps) != 2:
        raise DefinitionError("uids and gids are needed", where)
    return maps["uids"], maps["gids"]


def _is_directory(source: str, where: str) -> bool:
    """Whether the bind source is a directory. Nothing is made for a missing one: it is a typo or a disk not mounted."""
    try:
        return stat.S_ISDIR(os.stat(source).st_mode)
    except OSError as error:
        detail = "the source of a bind mount must exist" if error.errno == errno.ENOENT else ""
        raise LaunchError("BIND", source, error.errno or errno.EIO, detail, where) from None


def device_ops(spec: Mapping[str, Any], new_user: bool) -> tuple[list[Op], list[str]]:
    """Nodes and links of /dev, and warnings. With nothing mounted at /dev they are made in the root itself; the host's
    own /dev, bound there, has its nodes."""
    points = {place(m["destination"]): m.get("type") for m in spec.get("mounts") or ()}
    devices = spec["linux"].get("devices") or ()
    if points.get("/dev", "tmpfs") != "tmpfs":
        return [], ["devices are not made: something else than a tmpfs is at /dev"] if devices else []
    warnings: list[str] = []
    nodes: dict[str, Op] = {
        f"/dev/{name}": _node(f"/dev/{name}", linux.S_IFCHR | 0o666, major, minor, 0, 0, new_user)
        for name, major, minor in DEVICES
        if f"/dev/{name}" not in points
    }
    for index, device in enumerate(devices):
        where = f"/linux/devices/{index}"
        path = place(device["path"])
        if path == "/" or path.startswith(("/proc/", "/sys/")):
            raise DefinitionError(f"no device can be made at {path}", f"{where}/path")
        kind = device["type"]
        if kind != "p" and not ("major" in device and "minor" in device):
            raise DefinitionError("major and minor are needed", where)
        mode = _KINDS[kind] | (device.get("fileMode", 0o666) & 0o7777)
        major, minor, uid, gid = (device.get(key, 0) for key in ("major", "minor", "uid", "gid"))
        if new_user and kind != "p":
            _is_host_node(path, stat.S_IFMT(mode), (major, minor), where)
            if told := [key for key in ("fileMode", "uid", "gid") if key in device]:
                warnings.append(f"{path} is the host's own node in a user namespace: {', '.join(told)} are its too")
        nodes[path] = _node(path, mode, major, minor, uid, gid, new_user and kind != "p")
    ops = list(nodes.values())
    ops += [op("SYMLINK", target=target, path=path) for target, path in LINKS if path not in nodes]
    if points.get("/dev/pts") == "devpts":
        ops.append(op("SYMLINK", target="pts/ptmx", path="/dev/ptmx"))
    return ops, warnings


def _is_host_node(path: str, kind: int, numbers: tuple[int, int], where: str) -> None:
    """Raises unless the host has this very device at this path: its node is what the container gets."""
    try:
        found = os.stat(path)
    except OSError as error:
        detail = "in a user namespace a device is the host's own node"
        raise LaunchError("BIND", path, error.errno or errno.EIO, detail, where) from None
    if stat.S_IFMT(found.st_mode) != kind or (os.major(found.st_rdev), os.minor(found.st_rdev)) != numbers:
        raise DefinitionError(f"the host's {path} is another device, and none can be made in a user namespace", where)


def makes_devices_elsewhere(spec: Mapping[str, Any]) -> bool:
    """Whether nodes are needed on the root's own mount, which must then not be nodev."""
    at_dev = any(place(mount["destination"]) == "/dev" for mount in spec.get("mounts") or ())
    return not at_dev or any(not place(d["path"]).startswith("/dev/") for d in spec["linux"].get("devices") or ())


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
    ops = [op("MASK", path=place(path)) for path in config.get("maskedPaths") or ()]
    ops += [op("READONLY", path=place(path)) for path in config.get("readonlyPaths") or ()]
    return ops
