"""The shape of an OCI runtime spec (1.0 to 1.3): types, and what we support of it, as a table.

A field that we do not know inside `process`, `root`, `mounts`, `linux` is refused by name: it may ask for
protection that we would not give. Unknown fields elsewhere are ignored, as the spec demands. Source: runtime-spec
config.md, config-linux.md; schema/config-schema.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from config.errors import DefinitionError
from runtime import linux

Spec = dict[str, Any]
Check = Callable[[Any, str], None]


class UnknownError(DefinitionError):
    """A field that no table has."""


def fail(where: str, what: str, hint: str = "") -> DefinitionError:
    return DefinitionError(what, where or "/", hint)


def escape(key: str) -> str:
    """One reference token of a JSON pointer, RFC 6901."""
    return key.replace("~", "~0").replace("/", "~1")


def _typed(kind: type, word: str) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not kind:  # True is no number here
            raise fail(where, f"must be {word}")

    return check


def _string(value: Any, where: str) -> None:
    if type(value) is not str:
        raise fail(where, "must be a string")
    if "\0" in value:
        raise fail(where, "must not contain NUL")
    try:
        value.encode("utf-8", errors="surrogateescape")  # lone surrogates of JSON have no bytes
    except UnicodeEncodeError:
        raise fail(where, "must be valid Unicode") from None


boolean = _typed(bool, "true or false")
string: Check = _string


def _number(low: int, high: int) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not int:
            raise fail(where, "must be a whole number")
        if not low <= value <= high:
            raise fail(where, f"must be from {low} to {high}")

    return check


u16 = _number(0, 2**16 - 1)
u32 = _number(0, 2**32 - 1)
u64 = _number(0, 2**64 - 1)
i64 = _number(-(2**63), 2**63 - 1)


def absolute(value: Any, where: str) -> None:
    _string(value, where)
    if not value.startswith("/"):
        raise fail(where, f"{value!r} must be an absolute path")
    if ".." in value.split("/"):
        raise fail(where, f"{value!r} must not contain '..'")


def _inside(value: Any, where: str) -> None:
    """A path in the root; old configurations leave the first slash out."""
    _string(value, where)
    if not value:
        raise fail(where, "must not be empty")
    if ".." in value.split("/"):
        raise fail(where, f"{value!r} must not contain '..'")


def array(item: Check, least: int = 0) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not list:
            raise fail(where, "must be a list")
        if len(value) < least:
            raise fail(where, "must not be empty")
        for index, element in enumerate(value):
            item(element, f"{where}/{index}")

    return check


def mapping(item: Check) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not dict:
            raise fail(where, "must be an object")
        for key, element in value.items():
            _string(key, where)
            item(element, f"{where}/{escape(key)}")

    return check


def table(fields: Mapping[str, Check], need: tuple[str, ...] = (), *, others: bool = False) -> Check:
    """An object with `fields`; `need` must be there; `others`: unknown fields are ignored, else refused."""

    def check(value: Any, where: str) -> None:
        if type(value) is not dict:
            raise fail(where, "must be an object")
        for key in need:
            if key not in value:
                raise fail(f"{where}/{key}", "is missing")
        for key, element in value.items():
            known = fields.get(key)
            if known is not None:
                known(element, f"{where}/{escape(key)}")
            elif not others:
                raise UnknownError("is not known", f"{where}/{escape(str(key))}")

    return check


def no(reason: str) -> Check:
    """A field that asks for something we do not do: refused unless it is empty."""

    def check(value: Any, where: str) -> None:
        if value not in (None, "", 0, False) and value != {} and value != []:
            raise fail(where, f"is not supported: {reason}" if reason else "is not supported yet")

    return check


def never(reason: str) -> Check:
    """As `no`, of a field whose 0 asks for something too."""

    def check(value: Any, where: str) -> None:
        raise fail(where, f"is not supported: {reason}")

    return check


def one_of(*words: str) -> Check:
    def check(value: Any, where: str) -> None:
        if value not in words:
            raise fail(where, f"must be one of {', '.join(words)}")

    return check


def _version(value: Any, where: str) -> None:
    _string(value, where)
    if not value.startswith("1."):
        raise fail(where, f"version {value!r} is not supported", "1.x is")


def _env(value: Any, where: str) -> None:
    _string(value, where)
    if "=" not in value[1:]:
        raise fail(where, f"{value.split('=')[0]!r} is not NAME=value")


_caps = array(string)
_id_map = array(table({"containerID": u32, "hostID": u32, "size": u32}, ("containerID", "hostID", "size")))

_offset = table({"secs": i64, "nanosecs": _number(0, 999_999_999)})

_process = table(
    {
        "terminal": boolean,
        "consoleSize": table({"height": u16, "width": u16}),
        "user": table(
            {"uid": u32, "gid": u32, "umask": u32, "additionalGids": array(u32), "username": no("Windows only")}
        ),
        "args": array(string, least=1),
        "commandLine": no("Windows only"),
        "env": array(_env),
        "cwd": absolute,
        "capabilities": table(
            {"bounding": _caps, "effective": _caps, "permitted": _caps, "inheritable": _caps, "ambient": _caps}
        ),
        "rlimits": array(table({"type": string, "hard": u64, "soft": u64}, ("type", "hard", "soft"))),
        "noNewPrivileges": boolean,
        "oomScoreAdj": _number(-1000, 1000),
        "apparmorProfile": string,
        "selinuxLabel": string,
        "scheduler": table(
            {
                "policy": one_of(*linux.SCHED_POLICIES),
                "nice": _number(-20, 19),
                "priority": _number(0, 99),
                "flags": array(one_of(*linux.SCHED_FLAGS)),
                "runtime": u64,
                "deadline": u64,
                "period": u64,
            },
            ("policy",),
        ),
        "ioPriority": table({"class": one_of(*linux.IOPRIO_CLASSES), "priority": _number(0, 7)}, ("class",)),
        "execCPUAffinity": no(""),
    },
    ("args", "cwd"),
)

_mount = table(
    {
        "destination": _inside,
        "type": string,
        "source": string,
        "options": array(string),
        "uidMappings": _id_map,
        "gidMappings": _id_map,
    },
    ("destination",),
)

_device = table(
    {
        "path": absolute,
        "type": one_of("c", "b", "u", "p"),
        "major": _number(0, 2**12 - 1),
        "minor": _number(0, 2**20 - 1),
        "fileMode": _number(0, 0o177777),
        "uid": u32,
        "gid": u32,
    },
    ("path", "type"),
)

_throttle = array(table({"major": i64, "minor": i64, "rate": u64}, ("major", "minor", "rate")))

resources = table(
    {
        "devices": array(
            table(
                {"allow": boolean, "type": one_of("a", "c", "b"), "major": i64, "minor": i64, "access": string},
                ("allow",),
            )
        ),
        "memory": table(
            {
                "limit": i64,
                "reservation": i64,
                "swap": i64,
                "kernel": no("cgroup v1 only"),
                "kernelTCP": no("cgroup v1 only"),
                "swappiness": never("cgroup v1 only"),  # 0 is a wish: never swap
                "disableOOMKiller": no("cgroup v1 only"),
                "useHierarchy": boolean,
                "checkBeforeUpdate": boolean,
            }
        ),
        "cpu": table(
            {
                "shares": u64,
                "quota": i64,
                "period": u64,
                "burst": u64,
                "idle": i64,
                "cpus": string,
                "mems": string,
                "realtimeRuntime": no("cgroup v1 only"),
                "realtimePeriod": no("cgroup v1 only"),
            }
        ),
        "pids": table({"limit": i64}),
        "blockIO": table(
            {
                "weight": u16,
                "leafWeight": no("cgroup v1 only"),
                "weightDevice": no(""),
                "throttleReadBpsDevice": _throttle,
                "throttleWriteBpsDevice": _throttle,
                "throttleReadIOPSDevice": _throttle,
                "throttleWriteIOPSDevice": _throttle,
            }
        ),
        "hugepageLimits": array(table({"pageSize": string, "limit": u64}, ("pageSize", "limit"))),
        "network": no("cgroup v1 only"),
        "rdma": mapping(table({"hcaHandles": u32, "hcaObjects": u32})),
        "unified": mapping(string),
    }
)

_syscall = table(
    {
        "names": array(string, least=1),
        "action": string,
        "errnoRet": _number(0, 4095),
        "args": array(
            table(
                {"index": _number(0, 5), "value": u64, "valueTwo": u64, "op": string},
                ("index", "value", "op"),
            )
        ),
    },
    ("names", "action"),
)

seccomp = table(
    {
        "defaultAction": string,
        "defaultErrnoRet": _number(0, 4095),
        "architectures": array(string),
        "flags": array(string),
        "listenerPath": no(""),
        "listenerMetadata": no(""),
        "syscalls": array(_syscall),
    },
    ("defaultAction",),
)


def _hook_path(value: Any, where: str) -> None:
    _string(value, where)
    if not value.startswith("/"):
        raise fail(where, f"{value!r} must be an absolute path")


_hooks = array(
    table({"path": _hook_path, "args": array(string), "env": array(_env), "timeout": _number(1, 2**31 - 1)}, ("path",))
)
_HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_hook_table = table(dict.fromkeys(_HOOK_KINDS, _hooks))

_linux = table(
    {
        "namespaces": array(table({"type": string, "path": string}, ("type",))),
        "uidMappings": _id_map,
        "gidMappings": _id_map,
        "timeOffsets": table({"monotonic": _offset, "boottime": _offset}),
        "devices": array(_device),
        "netDevices": no(""),
        "cgroupsPath": string,
        "resources": resources,
        "intelRdt": no(""),
        "memoryPolicy": no(""),
        "sysctl": mapping(string),
        "seccomp": seccomp,
        "rootfsPropagation": one_of("", "private", "slave", "shared", "unbindable", "rprivate", "rslave", "rshared"),
        "maskedPaths": array(absolute),
        "readonlyPaths": array(absolute),
        "mountLabel": string,
        "personality": table({"domain": one_of(*linux.PERSONALITIES), "flags": array(string)}, ("domain",)),
    }
)

_spec = table(
    {
        "ociVersion": _version,
        "root": table({"path": string, "readonly": boolean}, ("path",)),
        "process": _process,
        "hostname": string,
        "domainname": string,
        "mounts": array(_mount),
        "annotations": mapping(string),
        "hooks": _hook_table,
        "linux": _linux,
        "solaris": no("Linux only"),
        "windows": no("Linux only"),
        "vm": no("Linux only"),
        "zos": no("Linux only"),
        "freebsd": no("Linux only"),
    },
    ("ociVersion", "root", "process", "linux"),
    others=True,
)


def check(spec: Any) -> Spec:
    """`spec` when its shape is one that we run. Raises DefinitionError with the JSON pointer of what is wrong."""
    _spec(spec, "")
    checked: Spec = spec
    return checked


def drop_unknown(spec: Any) -> list[str]:
    """Take out of `spec` the fields that we do not know, and name them by JSON pointer: a runtime of other engines must
    not refuse them (config.md, "Extensibility"). Raises DefinitionError for all else that is wrong."""
    dropped: list[str] = []
    while True:
        try:
            check(spec)
        except UnknownError as error:
            *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in error.where.split("/")[1:])
            inner = spec
            for part in parents:
                inner = inner[int(part)] if isinstance(inner, list) else inner[part]
            del inner[last]
            dropped.append(error.where)
        else:
            return dropped
