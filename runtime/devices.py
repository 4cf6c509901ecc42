"""Which device nodes a container may use: OCI `resources.devices` as a BPF program on its cgroup.

cgroup v2 has no devices controller; a program of type CGROUP_DEVICE decides each open and mknod. It stays attached as
long as the cgroup is there, whoever attached it. Source: runtime-spec config-linux.md, "Device allow list"; bpf(2);
include/uapi/linux/bpf.h, struct bpf_cgroup_dev_ctx.
"""

from __future__ import annotations

import binascii
import ctypes
import errno
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from config.errors import DefinitionError
from config.record import record

MKNOD, READ, WRITE = 1, 2, 4
ALL = MKNOD | READ | WRITE
RULES_MAX = 1024
_ACCESS = {"m": MKNOD, "r": READ, "w": WRITE}
_TYPES = {"b": 1, "c": 2}
Kind = Literal["a", "b", "c"]


@record
class Rule:
    """Allows or denies `access` to devices; None is any number."""

    allow: bool
    kind: Kind = "a"
    major: int | None = None
    minor: int | None = None
    access: int = ALL


# what every container can use; nodes may be made of anything, opened they are only by these rules (runc's list)
DEFAULTS = (
    Rule(True, "c", access=MKNOD),
    Rule(True, "b", access=MKNOD),
    *(Rule(True, "c", major, minor) for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2))),
    Rule(True, "c", 136),  # /dev/pts/*
)


def rules_of(devices: Sequence[Mapping[str, Any]] | None) -> tuple[Rule, ...]:
    """The rules of a checked OCI `resources.devices`, ours after them. The last rule that fits wins; none denies."""
    rules: list[Rule] = []
    for index, entry in enumerate(devices or ()):
        where = f"/linux/resources/devices/{index}"
        access = entry.get("access", "rwm")
        if not access or set(access) - set(_ACCESS):
            raise DefinitionError(f"access {access!r} is not made of r, w, m", where)
        bits = sum(_ACCESS[letter] for letter in set(access))
        major, minor = (None if entry.get(key, -1) == -1 else entry[key] for key in ("major", "minor"))
        for number in (major, minor):
            if number is not None and not 0 <= number < 2**20:
                raise DefinitionError(f"{number} is not a device number", where)
        rules.append(Rule(entry["allow"], entry.get("type", "a"), major, minor, bits))
    if len(rules) > RULES_MAX:
        raise DefinitionError(f"more than {RULES_MAX} rules", "/linux/resources/devices")
    return (*rules, *DEFAULTS)


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, src << 4 | dst, offset, value)


def _give(value: int) -> bytes:
    return _instruction(0xB7, 0, value=value) + _instruction(0x95)  # r0 = value; exit


def program(rules: Sequence[Rule]) -> bytes:
    """BPF that looks at the rules from the last to the first; each access bit is decided by the first that fits.

    r2 type, r3 the bits that are not decided yet, r4 major, r5 minor, r6 scratch.
    """
    code = b"".join(
        (
            _instruction(0x61, 2, 1, 0),  # r2 = access_type
            _instruction(0xBF, 3, 2),
            _instruction(0x57, 2, value=0xFFFF),
            _instruction(0x77, 3, value=16),  # r3 = r2 >> 16
            _instruction(0x61, 4, 1, 4),
            _instruction(0x61, 5, 1, 8),
        )
    )
    for rule in reversed(rules):
        code += _one(rule)
    return code + _give(0)


def _one(rule: Rule) -> bytes:
    if rule.allow:  # r3 &= ~access; if r3 == 0 then all is allowed
        body = _instruction(0x57, 3, value=ALL & ~rule.access) + _instruction(0x55, 3, offset=2) + _give(1)
    else:
        body = _instruction(0xBF, 6, 3) + _instruction(0x57, 6, value=rule.access)
        body += _instruction(0x15, 6, offset=2) + _give(0)
    tests = [(2, _TYPES.get(rule.kind)), (4, rule.major), (5, rule.minor)]
    for register, wanted in reversed([(r, w) for r, w in tests if w is not None]):
        body = _instruction(0x55, register, offset=len(body) // 8, value=wanted) + body
    return body


# The kernel's side

_BPF = {  # the number of bpf(2)
    "x86_64": 321,
    "i686": 357,
    "aarch64": 280,
    "armv7l": 386,
    "armv6l": 386,
    "riscv64": 280,
    "ppc64le": 361,
    "s390x": 351,
}
_PROG_LOAD, _PROG_ATTACH, _GET_FD_BY_ID, _GET_INFO, _PROG_QUERY = 5, 8, 13, 15, 16
_CGROUP_DEVICE_PROGRAM, _CGROUP_DEVICE_ATTACH = 15, 6
_ALLOW_MULTI, _REPLACE = 2, 4
_ATTACHED_MAX = 16
_INFO_NAME = struct.Struct("=64x16s")  # struct bpf_prog_info: name after 64 bytes

Bpf = Callable[[int, bytes], int]


def _syscall(command: int, attributes: bytes) -> int:
    """bpf(2). Raises OSError."""
    number = _BPF.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    result: int = libc.syscall(ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(buffer)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if command == _PROG_QUERY:
        count: int = struct.unpack_from("=I", buffer, 24)[0]  # prog_cnt
        return count
    return result


def attach(cgroup_fd: int, rules: Sequence[Rule], bpf: Bpf = _syscall) -> None:
    """Let `rules` decide in the cgroup and below it, in the place of earlier rules of ours, with no moment without any.

    Raises OSError: EPERM, ENOSYS or EINVAL where the kernel has no such programs.
    """
    code = program(rules)
    name = b"wharf_%08x%x" % (binascii.crc32(code), len(code) // 8 % 16)
    old = _attached(cgroup_fd, bpf)
    try:
        if any(found == name for _, found in old):
            return
        fd = _load(code, name, bpf)
        try:
            ours = next((old_fd for old_fd, found in old if found.startswith(b"wharf_")), None)
            flags = _ALLOW_MULTI | (_REPLACE if ours is not None else 0)
            bpf(_PROG_ATTACH, struct.pack("=5I", cgroup_fd, fd, _CGROUP_DEVICE_ATTACH, flags, ours or 0))
        finally:
            os.close(fd)
    finally:
        for old_fd, _ in old:
            os.close(old_fd)


def _load(code: bytes, name: bytes, bpf: Bpf) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    license_ = ctypes.create_string_buffer(b"GPL")
    head = (_CGROUP_DEVICE_PROGRAM, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(license_))
    return bpf(_PROG_LOAD, struct.pack("=IIQQIIQII16s", *head, 0, 0, 0, 0, 0, name))


def _attached(cgroup_fd: int, bpf: Bpf) -> list[tuple[int, bytes]]:
    """An fd and the name of each program that is attached here."""
    ids = (ctypes.c_uint32 * _ATTACHED_MAX)()
    query = struct.pack("=4IQI4x", cgroup_fd, _CGROUP_DEVICE_ATTACH, 0, 0, ctypes.addressof(ids), _ATTACHED_MAX)
    count = bpf(_PROG_QUERY, query)
    found = []
    for number in ids[: min(count, _ATTACHED_MAX)]:
        try:
            fd = bpf(_GET_FD_BY_ID, struct.pack("=I", number))
        except OSError:
            continue  # gone meanwhile
        info = ctypes.create_string_buffer(232)
        bpf(_GET_INFO, struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)))
        found.append((fd, _INFO_NAME.unpack_from(info)[0].rstrip(b"\0")))
    return found
