"""`features`: what this runtime can, in JSON. Source: runtime-spec features.md.

Nothing is claimed by hand where it can be asked: each word is given to the code that would have to take it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from config.errors import WharfError
from runtime import capabilities, mountopts, oci, planspaces, seccomp
from runtime.ocicli.log import say

if TYPE_CHECKING:
    from runtime.ocicli.main import Call

_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_ATTRIBUTES = """ro rw nosuid suid nodev dev noexec exec relatime norelatime noatime atime strictatime nostrictatime
    nodiratime diratime nosymfollow symfollow"""
_WORDS = """bind rbind private slave shared unbindable rprivate rslave rshared runbindable idmap ridmap tmpcopyup async
    sync dirsync defaults lazytime nolazytime mand nomand iversion noiversion loud silent remount"""
_NAMESPACES = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")
_ACTIONS = ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP")
_OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
_ARCHITECTURES = """AARCH64 ARM LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC PARISC64 PPC
    PPC64 PPC64LE RISCV64 S390 S390X SH SHEB X32 X86 X86_64"""
_FLAGS = ("LOG", "NEW_LISTENER", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV")


def features(call: Call) -> int:
    """Print them."""
    say(json.dumps(tell(), indent=2))
    return 0


def tell() -> dict[str, Any]:
    """The features structure."""
    attributes = _ATTRIBUTES.split()
    words = _taken([*attributes, *(f"r{word}" for word in attributes), *_WORDS.split()], _mount)
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": list(_HOOKS),
        "mountOptions": words,
        "linux": {
            "namespaces": _taken(_NAMESPACES, lambda kind: planspaces.NAMESPACES[kind]),
            "capabilities": list(capabilities.BITS),
            "cgroup": {"v1": False, "v2": True, "systemd": False, "systemdUser": False, "rdma": _spec(rdma={})},
            "seccomp": _seccomp(),
            "apparmor": {"enabled": _spec(apparmorProfile="unconfined")},
            "selinux": {"enabled": _spec(selinuxLabel="system_u:system_r:container_t:s0")},
            "intelRdt": {"enabled": False},
            "netDevices": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": "idmap" in words}},
        },
    }


def _taken(words: Iterable[str], ask: Callable[[str], object]) -> list[str]:
    """Those of `words` that are not refused, sorted."""
    found = []
    for word in words:
        try:
            ask(word)
        except (WharfError, KeyError, AttributeError):
            continue
        found.append(word)
    return sorted(found)


def _mount(word: str) -> None:
    if word == "tmpcopyup":
        mountopts.parse([word], "tmpfs", "")
    elif word == "remount" or word in ("idmap", "ridmap"):
        mountopts.parse([word, "bind"], "bind", "")
    else:
        try:
            mountopts.parse([word], "bind", "")
        except WharfError:
            mountopts.parse([word], "tmpfs", "")


def _spec(rdma: object = None, **process: object) -> bool:
    """Whether a spec that says this is taken."""
    linux = {"resources": {"rdma": {"mlx5_0": {"hcaHandles": 1}}}} if rdma is not None else {}
    spec = {
        "ociVersion": "1.0.0",
        "root": {"path": "rootfs"},
        "process": {"args": ["/"], "cwd": "/", **process},
        "linux": linux,
    }
    try:
        oci.check(spec)
    except WharfError:
        return False
    return True


def _seccomp() -> dict[str, Any]:
    def action(name: str) -> None:
        seccomp.compile_filter({"defaultAction": name, "syscalls": []})

    def operator(name: str) -> None:
        test = {"index": 0, "value": 1, "valueTwo": 1, "op": name}
        rule = {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [test]}
        seccomp.compile_filter({"defaultAction": "SCMP_ACT_LOG", "syscalls": [rule]})

    def architecture(name: str) -> None:
        seccomp.compile_filter({"defaultAction": "SCMP_ACT_LOG", "architectures": [name], "syscalls": []})

    def flag(name: str) -> None:
        seccomp.compile_filter({"defaultAction": "SCMP_ACT_LOG", "flags": [name], "syscalls": []})

    actions = _taken((f"SCMP_ACT_{name}" for name in _ACTIONS), action)
    if not actions:
        return {"enabled": False}  # no libseccomp here
    flags = _taken((f"SECCOMP_FILTER_FLAG_{name}" for name in _FLAGS), flag)
    return {
        "enabled": True,
        "actions": actions,
        "operators": _taken((f"SCMP_CMP_{name}" for name in _OPERATORS), operator),
        "archs": _taken((f"SCMP_ARCH_{name}" for name in _ARCHITECTURES.split()), architecture),
        "knownFlags": flags,
        "supportedFlags": flags,
    }
