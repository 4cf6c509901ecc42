"""A launch plan in words, for `wharfctl plan --launch`."""

from __future__ import annotations

import stat
import struct

from runtime import capabilities, linux
from runtime.planhooks import KINDS, STATUSES
from runtime.wire import Op

_CLONE = {
    linux.CLONE_NEWNS: "mount",
    linux.CLONE_NEWCGROUP: "cgroup",
    linux.CLONE_NEWUTS: "uts",
    linux.CLONE_NEWIPC: "ipc",
    linux.CLONE_NEWUSER: "user",
    linux.CLONE_NEWPID: "pid",
    linux.CLONE_NEWNET: "network",
    linux.CLONE_NEWTIME: "time",
}
_ATTRS = {
    linux.MOUNT_ATTR_RDONLY: "ro",
    linux.MOUNT_ATTR_NOSUID: "nosuid",
    linux.MOUNT_ATTR_NODEV: "nodev",
    linux.MOUNT_ATTR_NOEXEC: "noexec",
    linux.MOUNT_ATTR_NOATIME: "noatime",
    linux.MOUNT_ATTR_STRICTATIME: "strictatime",
    linux.MOUNT_ATTR_NODIRATIME: "nodiratime",
    linux.MOUNT_ATTR_NOSYMFOLLOW: "nosymfollow",
}
_PROPAGATION = {
    linux.MS_UNBINDABLE: "unbindable",
    linux.MS_PRIVATE: "private",
    linux.MS_SLAVE: "slave",
    linux.MS_SHARED: "shared",
}
_RLIMITS = {number: name for name, number in linux.RLIMITS.items()}
_IOPRIO = {number: name for name, number in linux.IOPRIO_CLASSES.items()}
_SCHED = {number: name for name, number in linux.SCHED_POLICIES.items()}
_INFINITE = 2**64 - 1


def _words(bits: int, names: dict[int, str]) -> list[str]:
    return [name for bit, name in names.items() if bits & bit]


def _propagation(bits: int) -> list[str]:
    deep = "r" if bits & linux.MS_REC else ""
    return [deep + word for word in _words(bits, _PROPAGATION)]


def _limit(value: int) -> str:
    return "unlimited" if value == _INFINITE else str(value)


def _tail(words: list[str]) -> str:
    return f" ({', '.join(words)})" if words else ""


def describe(one: Op) -> str:
    """`one` in a line. Values of the environment are left out: they may be secrets."""
    name = one.name

    def text(field: str) -> str:
        return str(one[field])

    def number(field: str) -> int:
        value = one[field]
        return value if isinstance(value, int) else 0

    match name:
        case "NAMESPACES" | "JOIN":
            detail = " ".join(_words(number("flags"), _CLONE))
        case "ROOT":
            detail = text("path") + _tail(_propagation(number("propagation")))
        case "OVERLAY":
            layers = text("lower").count(":") + 1
            detail = f"{layers} layers of {text('directory')} below {text('upper')}"
        case "MOUNT":
            words = _words(number("attr"), _ATTRS) + [w for w in text("data").split(",") if w]
            detail = f"{text('fstype')} on {text('target')}{_tail(words)}"
        case "BIND":
            words = ["recursive"] if number("flags") & 1 else []
            deep = "r" if number("flags") & 4 else ""
            words += [deep + w for w in _words(number("attr_set"), _ATTRS)] + _propagation(number("propagation"))
            detail = f"{text('source')} on {text('target')}{_tail(words)}"
        case "DEVNODE":
            mode = stat.filemode(number("mode"))
            detail = f"{text('path')} {mode} {number('major')}:{number('minor')}"
        case "MOUNTATTR":
            deep = "r" if number("flags") & 1 else ""
            words = [deep + w for w in _words(number("attr_set"), _ATTRS)]
            words += [f"not {deep}{w}" for w in _words(number("attr_clr") & ~number("attr_set"), _ATTRS)]
            detail = text("path") + _tail(words)
        case "PROPAGATION":
            detail = text("path") + _tail(_propagation(number("flags")))
        case "JOINNS":
            detail = f"{' '.join(_words(number('kind'), _CLONE))} {text('path')}"
        case "IOPRIO":
            detail = f"{_IOPRIO.get(number('kind'), text('kind'))} {number('level')}"
        case "SCHED":
            detail = " ".join([_SCHED.get(number("policy"), text("policy")), *map(str, one.values[1:])])
        case "SYMLINK":
            detail = f"{text('path')} -> {text('target')}"
        case "SYSCTL":
            detail = f"{text('key')}={text('value')}"
        case "RLIMIT":
            resource = _RLIMITS.get(number("resource"), text("resource"))
            detail = f"{resource} {_limit(number('soft'))}:{_limit(number('hard'))}"
        case "UMASK":
            detail = f"{number('mask'):04o}"
        case "ROOTATTR":
            detail = " ".join(_words(number("attr_set"), _ATTRS) + _propagation(number("propagation")))
        case "CAPS":
            detail = "; ".join(f"{field}: {_caps(number(field))}" for field in ("bounding", "effective", "ambient"))
        case "USER":
            raw = one["groups"]
            groups = struct.unpack(f"<{len(raw) // 4}I", raw) if isinstance(raw, bytes) else ()
            detail = f"{number('uid')}:{number('gid')}{_tail([str(g) for g in groups])}"
        case "SECCOMP":
            raw = one["filter"]
            detail = f"{len(raw) // 8 if isinstance(raw, bytes) else 0} instructions"
        case "STATE":
            detail = STATUSES[number("kind")]
        case "HOOK":
            limit = number("timeout_ms")
            detail = f"{KINDS[number('kind')]} {text('path')}{_tail([f'{limit / 1000:g} s'] if limit else [])}"
        case "ENV" | "HOOKENV":
            detail = text("text").partition("=")[0]
        case "ARG" | "HOOKARG":
            detail = repr(text("text"))
        case _:
            detail = " ".join(str(value).strip().replace("\n", ", ") for value in one.values)
    return f"{name} {detail}".rstrip()


def _caps(bits: int) -> str:
    names = sorted(name.removeprefix("CAP_") for name in capabilities.names_of(bits))
    return " ".join(names) if names else "none"
