"""Device rules: OCI to BPF, run here by an interpreter of the few instructions that the program uses."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import DefinitionError
from runtime import devices
from runtime.devices import DEFAULTS, MKNOD, READ, WRITE, Rule, attach, program, rules_of


def run(code: bytes, kind: str, major: int, minor: int, access: int) -> int:
    """What the kernel would say to an access of a device."""
    context = struct.pack("=III", access << 16 | {"b": 1, "c": 2}[kind], major, minor)
    registers = [0] * 11
    at = 0
    for _ in range(100_000):
        op, both, offset, value = struct.unpack_from("=BBhi", code, at * 8)
        dst, src = both & 15, both >> 4
        at += 1
        if op == 0x95:
            return registers[0]
        if op == 0x61:
            registers[dst] = struct.unpack_from("=I", context, offset)[0]
        elif op == 0xBF:
            registers[dst] = registers[src]
        elif op == 0xB7:
            registers[dst] = value
        elif op == 0x57:
            registers[dst] &= value
        elif op == 0x77:
            registers[dst] >>= value
        elif op == 0x55:
            at += offset if registers[dst] != value else 0
        elif op == 0x15:
            at += offset if registers[dst] == value else 0
        else:
            raise AssertionError(f"instruction {op:#x}")
    raise AssertionError("no end")


def model(rules: tuple[Rule, ...], kind: str, major: int, minor: int, access: int) -> int:
    """The last rule that fits decides, bit by bit; without one it is denied."""
    for bit in (MKNOD, READ, WRITE):
        if not access & bit:
            continue
        fits = [
            rule
            for rule in rules
            if rule.access & bit
            and rule.kind in ("a", kind)
            and rule.major in (None, major)
            and rule.minor in (None, minor)
        ]
        if not fits or not fits[-1].allow:
            return 0
    return 1


NUMBER = st.integers(0, 3)
RULE = st.builds(
    Rule,
    st.booleans(),
    st.sampled_from("abc"),
    st.none() | NUMBER,
    st.none() | NUMBER,
    st.integers(1, 7),
)


@given(st.lists(RULE, max_size=8).map(tuple), st.sampled_from("bc"), NUMBER, NUMBER, st.integers(1, 7))
def test_the_last_rule_that_fits_decides(
    rules: tuple[Rule, ...], kind: str, major: int, minor: int, access: int
) -> None:
    assert run(program(rules), kind, major, minor, access) == model(rules, kind, major, minor, access)


@pytest.mark.parametrize(
    ("kind", "major", "minor", "access", "allowed"),
    [
        ("c", 1, 3, READ | WRITE, 1),
        ("c", 1, 1, READ, 0),  # /dev/mem
        ("c", 5, 2, READ, 1),
        ("c", 136, 77, READ | WRITE, 1),
        ("b", 8, 0, READ, 0),
        ("b", 8, 0, MKNOD, 1),
        ("c", 10, 229, WRITE, 0),
        ("c", 5, 1, READ, 0),  # the host's console
    ],
)
def test_the_default_rules(kind: str, major: int, minor: int, access: int, allowed: int) -> None:
    assert run(program(rules_of(None)), kind, major, minor, access) == allowed
    assert run(program(rules_of([{"allow": False, "access": "rwm"}])), kind, major, minor, access) == allowed


def test_oci_rules_are_read() -> None:
    assert rules_of([{"allow": False}, {"allow": True, "type": "c", "major": 10, "minor": -1, "access": "wr"}]) == (
        Rule(False),
        Rule(True, "c", 10, None, READ | WRITE),
        *DEFAULTS,
    )


@pytest.mark.parametrize(
    "entry",
    [
        {"allow": True, "access": "rx"},
        {"allow": True, "access": ""},
        {"allow": True, "major": -2},
        {"allow": True, "minor": 2**20},
    ],
)
def test_odd_rules_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="/linux/resources/devices/0"):
        rules_of([entry])


def test_too_many_rules_are_refused() -> None:
    with pytest.raises(DefinitionError, match="more than 1024 rules"):
        rules_of([{"allow": True}] * 1025)


class Kernel:
    """Takes bpf(2) calls; programs are by id, named, and one cgroup has some attached."""

    def __init__(self) -> None:
        self.names: dict[int, bytes] = {}
        self.attached: list[int] = []
        self.calls: list[int] = []

    def __call__(self, command: int, attributes: bytes) -> int:
        self.calls.append(command)
        if command == devices._PROG_LOAD:
            kind, count, _, _, *_, name = struct.unpack("=IIQQIIQII16s", attributes)
            assert (kind, count > 0) == (15, True)
            number = len(self.names) + 1
            self.names[number] = name
            return self._fd(number)
        if command == devices._PROG_QUERY:
            _, kind, _, _, address, room = struct.unpack("=4IQI4x", attributes)
            assert (kind, room) == (6, 16)
            ctypes.memmove(address, struct.pack(f"={len(self.attached)}I", *self.attached), 4 * len(self.attached))
            return len(self.attached)
        if command == devices._GET_FD_BY_ID:
            return self._fd(struct.unpack("=I", attributes)[0])
        if command == devices._GET_INFO:
            fd, size, address = struct.unpack("=IIQ", attributes)
            assert size == 232
            ctypes.memmove(address + 64, self.names[self._number(fd)], 16)
            return 0
        _, fd, kind, flags, old = struct.unpack("=5I", attributes)
        assert (command, kind) == (devices._PROG_ATTACH, 6)
        if flags & 4:
            self.attached.remove(self._number(old))
        self.attached.append(self._number(fd))
        return 0

    @staticmethod
    def _fd(number: int) -> int:
        fd = os.memfd_create("program")
        os.write(fd, bytes([number]))
        return fd

    @staticmethod
    def _number(fd: int) -> int:
        return os.pread(fd, 1, 0)[0]


def test_new_rules_take_the_place_of_old_ones_and_of_nothing_else() -> None:
    kernel = Kernel()
    kernel.names[1], kernel.attached = b"sd_devices".ljust(16, b"\0"), [1]  # somebody else's
    before = len(os.listdir("/proc/self/fd"))
    attach(5, DEFAULTS, kernel)
    assert kernel.attached == [1, 2]
    attach(5, (Rule(True), *DEFAULTS), kernel)
    assert kernel.attached == [1, 3]
    kernel.calls.clear()
    attach(5, (Rule(True), *DEFAULTS), kernel)  # the same: nothing is loaded
    assert kernel.attached == [1, 3]
    assert devices._PROG_LOAD not in kernel.calls
    assert len(os.listdir("/proc/self/fd")) == before
