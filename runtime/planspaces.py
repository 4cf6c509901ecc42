"""The part of a launch plan about namespaces: new ones, joined ones, id maps, clock offsets. Used by plan.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from config.errors import DefinitionError
from config.record import record
from runtime import linux
from runtime.probe import HostFacts
from runtime.wire import Op, op

NAMESPACES = {
    "mount": linux.CLONE_NEWNS,
    "cgroup": linux.CLONE_NEWCGROUP,
    "uts": linux.CLONE_NEWUTS,
    "ipc": linux.CLONE_NEWIPC,
    "user": linux.CLONE_NEWUSER,
    "pid": linux.CLONE_NEWPID,
    "network": linux.CLONE_NEWNET,
    "time": linux.CLONE_NEWTIME,
}
_FILES = {"mount": "mnt", "network": "net"}  # where the file of /proc/PID/ns has another name
_MAP_LINES = 340  # the kernel's limit, user_namespaces(7)
_CLOCKS = ("monotonic", "boottime")


@record
class Namespaces:
    """`new`: CLONE_* of those that are made; `joined`: kind and path of those that are there."""

    new: int = 0
    joined: tuple[tuple[int, str], ...] = ()

    @property
    def apart(self) -> int:
        """Of all that are not the host's, as far as the spec says."""
        flags = self.new
        for kind, _ in self.joined:
            flags |= kind
        return flags


def namespaces(config: Mapping[str, Any], host: HostFacts) -> Namespaces:
    new, joined, seen = 0, [], 0
    for index, entry in enumerate(config.get("namespaces") or ()):
        where = f"/linux/namespaces/{index}"
        kind, path = entry["type"], entry.get("path") or ""
        if kind not in NAMESPACES:
            raise DefinitionError(f"namespace {kind!r} is not supported", f"{where}/type")
        if seen & NAMESPACES[kind]:
            raise DefinitionError(f"namespace {kind!r} stands twice", where)
        if host.features and _FILES.get(kind, kind) not in host.features:
            raise DefinitionError(f"this kernel has no {kind} namespaces", where)
        seen |= NAMESPACES[kind]
        if not path:
            new |= NAMESPACES[kind]
            continue
        if not path.startswith("/"):
            raise DefinitionError(f"{path!r} must be an absolute path", f"{where}/path")
        if kind == "mount":
            raise DefinitionError(
                "joining a mount namespace is not supported: the mounts of a container are its own", f"{where}/path"
            )
        joined.append((NAMESPACES[kind], path))
    if not seen & linux.CLONE_NEWNS:
        raise DefinitionError("a mount namespace is needed", "/linux/namespaces")
    return Namespaces(new, tuple(joined))


def namespace_ops(config: Mapping[str, Any], spaces: Namespaces, warnings: list[str]) -> list[Op]:
    ops = [op("NAMESPACES", flags=spaces.new)]
    ops += [op("JOINNS", kind=kind, path=path) for kind, path in spaces.joined]
    ops += _user_map(config, spaces, warnings)
    ops += _offsets(config, spaces)
    return ops


def _user_map(config: Mapping[str, Any], spaces: Namespaces, warnings: list[str]) -> list[Op]:
    uids, gids = config.get("uidMappings") or (), config.get("gidMappings") or ()
    if not spaces.new & linux.CLONE_NEWUSER:
        if (uids or gids) and not spaces.apart & linux.CLONE_NEWUSER:
            raise DefinitionError("needs a user namespace", "/linux/uidMappings")
        return []  # a namespace that is joined has its maps already: what is said here is what the engine knows of them
    if not uids and not gids:
        warnings.append("a user namespace without mappings: its users are those of the host, without their rights")
        uids = gids = ({"containerID": 0, "hostID": 0, "size": 2**32 - 1},)
    if not uids or not gids:
        raise DefinitionError("a user namespace needs uidMappings and gidMappings", "/linux")
    return [op("USERMAP", uid_map=map_text(uids, "/linux/uidMappings"), gid_map=map_text(gids, "/linux/gidMappings"))]


def map_text(entries: Sequence[Mapping[str, int]], where: str) -> str:
    """What is written into uid_map or gid_map."""
    if len(entries) > _MAP_LINES:
        raise DefinitionError(f"has more than {_MAP_LINES} entries", where)
    return "".join(f"{e['containerID']} {e['hostID']} {e['size']}\n" for e in entries)


def _offsets(config: Mapping[str, Any], spaces: Namespaces) -> list[Op]:
    offsets = config.get("timeOffsets") or {}
    if offsets and not spaces.new & linux.CLONE_NEWTIME:
        raise DefinitionError("needs a new time namespace", "/linux/timeOffsets")
    lines = []
    for clock in _CLOCKS:
        if clock in offsets:
            entry = offsets[clock]
            lines.append(f"{clock} {entry.get('secs', 0)} {entry.get('nanosecs', 0)}\n")
    return [op("TIMENS", offsets="".join(lines))] if lines else []
