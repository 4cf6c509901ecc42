"""OCI `linux.seccomp` to the BPF that the shim installs, by libseccomp; and our default profile.

libseccomp is loaded when the first filter is compiled, and the compiled filters are kept: one host has few of them.
Source: runtime-spec config-linux.md, "Seccomp"; seccomp_rule_add(3); seccomp(2).
"""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

from config.errors import DefinitionError, HostError

_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}
_OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
# our machine -> architectures whose programs it runs, the native one first
_MACHINES = {
    "x86_64": ("X86_64", "X86", "X32"),
    "i686": ("X86",),
    "aarch64": ("AARCH64", "ARM"),
    "armv7l": ("ARM",),
    "armv6l": ("ARM",),
    "riscv64": ("RISCV64",),
    "ppc64le": ("PPC64LE",),
    "s390x": ("S390X", "S390"),
    "mips64": ("MIPS64", "MIPS", "MIPS64N32"),
}
_UNKNOWN = -1  # of resolve_syscall: libseccomp does not know the name on any architecture
_INSTRUCTIONS_MAX = 4096  # BPF_MAXINSNS
_KEPT = 64
_X32_BIT = 0x40000000

_lock = threading.Lock()
_compiled: OrderedDict[str, tuple[int, bytes, tuple[str, ...]]] = OrderedDict()
_keys: dict[int, str] = {}  # of our own profiles, which live for ever: their id stands for their text

Filter = tuple[int, bytes, list[str]]


@cache
def _library() -> ModuleType:
    """pyseccomp, which looks for libseccomp.so.2 as it is imported: slow, so not before a filter is needed."""
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        hint = "install libseccomp2, or set seccomp: unconfined"
        raise HostError(f"libseccomp cannot be loaded: {error}", "seccomp", hint) from None
    module: ModuleType = pyseccomp
    return module


@cache
def _data() -> dict[str, Any]:
    from importlib import resources  # slow, and only for our own profile

    text = resources.files("runtime").joinpath("data/seccomp.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


@cache
def default_profile(caps: frozenset[str], machine: str) -> dict[str, Any]:
    """Our profile for a container with `caps` (its bounding set), as an OCI `linux.seccomp`. Not to be changed.

    Calls that stand nowhere get ENOSYS, denied ones EPERM; a capability brings the calls that it is for.
    """
    data = _data()
    given = {name for cap in caps for name in data["capabilities"].get(cap, ())}
    denied = [name for name in data["deny"] if name not in given]
    # denied first: a rule for `socket` brings one for x86's socketcall along, unless socketcall is decided already
    rules: list[dict[str, Any]] = [{"names": denied, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}]
    for entry in data["arguments"]:
        if entry.get("unless") in caps or machine in entry.get("machines_not", ()):
            continue
        if "machines" in entry and machine not in entry["machines"]:
            continue
        for action, code in (("deny", errno.EPERM), ("allow", None)):
            for mask, value in entry.get(action, ()):
                rules.append(_masked(entry["call"], entry["arg"], int(mask, 0), int(value, 0), code))
    rules.append({"names": sorted({*data["allow"], *given}), "action": "SCMP_ACT_ALLOW"})
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": [f"SCMP_ARCH_{name}" for name in _MACHINES.get(machine, ())],
        "syscalls": rules,
    }
    _keys[id(profile)] = f"default {machine} {' '.join(sorted(caps))}"
    return profile


def _masked(call: str, index: int, mask: int, value: int, code: int | None) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": [call], "action": "SCMP_ACT_ALLOW" if code is None else "SCMP_ACT_ERRNO"}
    if code is not None:
        rule["errnoRet"] = code
    rule["args"] = [{"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}]
    return rule


def compile_filter(profile: Mapping[str, Any]) -> Filter:
    """Flags of seccomp(2), the BPF program, and what this libseccomp could not say. b"" when nothing is filtered.

    `profile` has the shape that `oci.check` asks for. Raises DefinitionError, HostError (no libseccomp).
    """
    key = _keys.get(id(profile)) or json.dumps(profile, sort_keys=True, separators=(",", ":"))
    with _lock:
        kept = _compiled.get(key)
        if kept is not None:
            _compiled.move_to_end(key)
            return kept[0], kept[1], list(kept[2])
        flags, code, notes = _compile(profile)
        _compiled[key] = flags, code, tuple(notes)
        if len(_compiled) > _KEPT:
            _compiled.popitem(last=False)
        return flags, code, notes


def _compile(profile: Mapping[str, Any]) -> Filter:
    flags = 0
    for index, word in enumerate(profile.get("flags") or ()):
        if word not in _FLAGS:
            raise DefinitionError(f"{word!r} is not supported", f"/linux/seccomp/flags/{index}")
        flags |= _FLAGS[word]
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"), "/linux/seccomp/defaultAction")
    rules = profile.get("syscalls") or ()
    library = _library()
    made = library.SyscallFilter(default)
    _add_architectures(made, profile.get("architectures") or ())
    if default == library.ALLOW and not rules:
        return 0, b"", []
    unknown: set[str] = set()
    for index, rule in enumerate(rules):
        _add_rule(made, rule, default, f"/linux/seccomp/syscalls/{index}", unknown)
    code = _export(made)
    if default not in (library.ALLOW, library.LOG, library.ERRNO(errno.ENOSYS)):
        code = _stub([name for rule in rules for name in rule["names"]]) + code
    if len(code) > _INSTRUCTIONS_MAX * 8:
        raise DefinitionError(f"the filter has more than {_INSTRUCTIONS_MAX} instructions", "/linux/seccomp")
    notes = []
    if unknown and default == library.ALLOW:
        # what cannot be named cannot be forbidden; where the default denies, unknown names stay denied
        notes.append(f"this libseccomp does not know {', '.join(sorted(unknown))}: not filtered")
    return flags, code, notes


def _action(word: str, number: int | None, where: str) -> int:
    library = _library()
    if number is not None and word not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        raise DefinitionError(f"{word} gives no errno", where, "leave errnoRet out")
    number = errno.EPERM if number is None else number
    match word:
        case "SCMP_ACT_ALLOW":
            return int(library.ALLOW)
        case "SCMP_ACT_ERRNO":
            return int(library.ERRNO(number))
        case "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD":
            return int(library.KILL_THREAD)
        case "SCMP_ACT_KILL_PROCESS":
            return int(library.KILL_PROCESS)
        case "SCMP_ACT_TRAP":
            return int(library.TRAP)
        case "SCMP_ACT_LOG":
            return int(library.LOG)
        case "SCMP_ACT_TRACE":
            return int(library.TRACE(number))
        case "SCMP_ACT_NOTIFY":
            raise DefinitionError("SCMP_ACT_NOTIFY is not supported yet", where)
    raise DefinitionError(f"unknown action {word!r}", where)


def _add_architectures(made: Any, names: Sequence[str]) -> None:
    library = _library()
    for index, name in enumerate(names):
        number = getattr(library.Arch, name.removeprefix("SCMP_ARCH_"), None)
        if number is None or not name.startswith("SCMP_ARCH_"):
            raise DefinitionError(f"unknown architecture {name!r}", f"/linux/seccomp/architectures/{index}")
        try:
            made.add_arch(number)
        except OSError as error:
            if error.errno == errno.EEXIST:  # the native one is there already
                continue
            if error.errno == errno.EDOM:  # the other endianness: its programs cannot run here
                continue
            raise DefinitionError(f"{name}: {error.strerror}", f"/linux/seccomp/architectures/{index}") from None


def _add_rule(made: Any, rule: Mapping[str, Any], default: int, where: str, unknown: set[str]) -> None:
    library = _library()
    action = _action(rule["action"], rule.get("errnoRet"), f"{where}/action")
    if action == default:
        return  # libseccomp refuses to say twice what holds anyway
    tests = []
    for index, arg in enumerate(rule.get("args") or ()):
        operator = _OPERATORS.get(arg["op"])
        if operator is None:
            raise DefinitionError(f"unknown operator {arg['op']!r}", f"{where}/args/{index}/op")
        tests.append((arg["index"], library.Arg(arg["index"], operator, arg["value"], arg.get("valueTwo", 0))))
    args = [test for _, test in tests]
    # more tests of one argument are alternatives, as in runc; tests of different ones must all hold
    alternatives = [[test] for test in args] if len({i for i, _ in tests}) < len(tests) else [args]
    for name in rule["names"]:
        number = library.resolve_syscall(library.Arch.NATIVE, name)
        if number == _UNKNOWN:
            unknown.add(name)
            continue
        for wanted in alternatives:
            try:
                made.add_rule(action, number, *wanted)
            except OSError as error:
                what = "contradicts a rule before it" if error.errno == errno.EEXIST else error.strerror
                raise DefinitionError(f"{name}: {what}", where) from None


def _stub(names: Sequence[str]) -> bytes:
    """Instructions before the filter: native calls newer than all that the profile names fail with ENOSYS.

    A profile cannot deny what it was too old to know; EPERM for a new call breaks C libraries that would fall back
    (runc#2151). As runc does it.
    """
    library = _library()
    newest = max((library.resolve_syscall(library.Arch.NATIVE, name) for name in names), default=-1)
    if newest < 0:
        return b""
    load, equal, at_least, over, give = 0x20, 0x15, 0x35, 0x25, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ, JGE, JGT, BPF_RET
    program = (
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 0, 4, library.system_arch()),
        (load, 0, 0, 0),  # seccomp_data.nr
        (at_least, 2, 0, _X32_BIT),  # another ABI's numbers
        (over, 0, 1, newest),
        (give, 0, 0, library.ERRNO(errno.ENOSYS)),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _export(made: Any) -> bytes:
    library = _library()
    try:
        made.set_attr(library.Attr.CTL_OPTIMIZE, 2)  # a binary tree: some 10 comparisons a call, not 400
    except OSError:
        pass  # libseccomp before 2.5
    with os.fdopen(os.memfd_create("seccomp", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        made.export_bpf(file)
        file.seek(0)
        code: bytes = file.read()
        return code
