"""Seccomp filters: OCI to BPF, and our own profile tried on the kernel that runs the test."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from typing import Any

import pytest

from config.errors import DefinitionError, HostError
from runtime import seccomp
from runtime.capabilities import BITS, DEFAULT

# Installs the filter from standard input in itself, tries the calls, prints {name: errno or 0}. It keeps to what it
# has loaded before: a filter may forbid anything after.
TRY = """
import ctypes, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
code = sys.stdin.buffer.read()
calls = json.loads(sys.argv[1])
gate = mmap.mmap(-1, 4096, prot=7)
gate.write(bytes.fromhex("89f85389f389d1cd805bc3"))  # int 0x80 with eax, ebx, ecx from the three arguments
address = ctypes.addressof(ctypes.c_char.from_buffer(gate))
int80 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(address)
libc.mmap.restype = ctypes.c_void_p
low = libc.mmap(None, 4096, 3, 0x22 | 0x40, -1, 0)  # a place that 32 bits can name
ctypes.memmove(low, b"&\\0\\0\\0\\5\\0\\0\\0\\0\\0\\0\\0", 12)  # socket(AF_ALG, SOCK_SEQPACKET, 0)
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
data = ctypes.create_string_buffer(code, len(code))
program = Program(len(code) // 8, ctypes.cast(data, ctypes.c_void_p))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.syscall(int(sys.argv[2]), 1, 0, ctypes.byref(program)) == 0, ctypes.get_errno()
done = {}
for name, number, *args in calls:
    ctypes.set_errno(0)
    if number < 0:
        result = int80(-number, *[low if a == "low" else a for a in args])
        done[name] = -result if result < 0 else 0
        continue
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in args])
    done[name] = ctypes.get_errno() if result < 0 else 0
print(json.dumps(done))
"""
EPERM, ENOSYS, EINVAL, EFAULT, EAFNOSUPPORT = 1, 38, 22, 14, 97
SECCOMP = {"x86_64": 317, "aarch64": 277}

x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")


def attempt(profile: dict[str, Any], calls: list[tuple[Any, ...]]) -> dict[str, int]:
    code = seccomp.compile_filter(profile)[1]
    done = subprocess.run(
        [sys.executable, "-I", "-c", TRY, json.dumps(calls), str(SECCOMP["x86_64"])],
        input=code,
        capture_output=True,
        check=True,
        timeout=30,
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def default(*caps: str) -> dict[str, Any]:
    return seccomp.default_profile(DEFAULT | set(caps), "x86_64")


@x86
def test_the_default_profile_denies_what_containers_have_no_use_for() -> None:
    denied = [
        ("unshare", 272, 0x20000),
        ("setns", 308, -1, 0),
        ("mount", 165, 0, 0, 0, 0, 0),
        ("umount2", 166, 0, 0),
        ("pivot_root", 155, 0, 0),
        ("bpf", 321, 0, 0, 0),
        ("perf_event_open", 298, 0, 0, 0, 0, 0),
        ("keyctl", 250, 0, 0, 0),
        ("add_key", 248, 0, 0, 0, 0, 0),
        ("request_key", 249, 0, 0, 0, 0),
        ("init_module", 175, 0, 0, 0),
        ("finit_module", 313, -1, 0, 0),
        ("delete_module", 176, 0, 0),
        ("kexec_load", 246, 0, 0, 0, 0),
        ("reboot", 169, 0, 0, 0, 0),
        ("swapon", 167, 0, 0),
        ("settimeofday", 164, 0, 0),
        ("clock_settime", 227, 0, 0),
        ("iopl", 172, 3),
        ("userfaultfd", 323, 0),
        ("io_uring_setup", 425, 1, 0),
        ("open_by_handle_at", 304, -1, 0, 0),
        ("fsopen", 430, 0, 0),
        ("open_tree", 428, -1, 0, 0),
        ("move_mount", 429, -1, 0, -1, 0, 0),
        ("mount_setattr", 442, -1, 0, 0, 0, 0),
        ("quotactl", 179, 0, 0, 0, 0),
        ("acct", 163, 0),
        ("kcmp", 312, 0, 0, 0, 0, 0),
        ("syslog", 103, 0, 0, 0),
        ("clone with a user namespace", 56, 0x10000011, 0, 0, 0, 0),
        ("socket AF_ALG", 41, 38, 5, 0),
        ("socket AF_ALG, high half set", 41, 1 << 32 | 38, 5, 0),
        ("socket AF_VSOCK", 41, 40, 1, 0),
    ]
    found = attempt(default(), denied)
    assert found == dict.fromkeys((name for name, *_ in denied), EPERM)


@x86
def test_the_old_32_bit_ways_in_are_closed_too() -> None:
    """libseccomp adds a rule for socketcall to each one for socket, and it cannot see the family there."""
    calls = [
        ("socketcall", -102, 1, "low"),
        ("socket", -359, 38, 5),
        ("socket AF_UNIX", -359, 1, 1),
        ("unshare", -310, 0x20000, 0),
        ("clone", -120, 0x10000000, 0),
        ("getpid", -20, 0, 0),
    ]
    found = attempt(default(), calls)
    if found["getpid"]:
        pytest.skip("this kernel runs no 32-bit programs")
    assert found == {"socketcall": 1, "socket": 1, "socket AF_UNIX": 0, "unshare": 1, "clone": 1, "getpid": 0}


@x86
def test_the_default_profile_lets_programs_work() -> None:
    calls = [
        ("getpid", 39),
        ("socket AF_UNIX", 41, 1, 1, 0),
        ("socket AF_INET6", 41, 10, 2, 0),
        ("socket AF_NETLINK", 41, 16, 3, 0),
        ("personality, asked", 135, 0xFFFFFFFF),
        ("membarrier", 324, 0, 0, 0),
        ("memfd_create", 319, 0, 0),
        ("faccessat2", 439, -1, 0, 0, 0),
        ("landlock_create_ruleset", 444, 0, 0, 1),
        ("ptrace", 101, 0, 0, 0, 0),
    ]
    found = attempt(default(), calls)
    assert found.pop("memfd_create") == EFAULT
    assert found.pop("faccessat2") in (EFAULT, EINVAL)
    assert found.pop("socket AF_INET6") in (0, EAFNOSUPPORT)
    found.pop("landlock_create_ruleset")
    assert set(found.values()) == {0}


@x86
def test_what_nobody_knows_is_not_there() -> None:
    calls = [
        ("clone3", 435, 0, 0),
        ("of the future", 999),
        ("personality, odd", 135, 0x0040000),
        ("socket 60", 41, 60, 1, 0),
    ]
    assert set(attempt(default(), calls).values()) == {ENOSYS}


@x86
def test_a_capability_brings_its_calls() -> None:
    calls = [("mount", 165, 0, 0, 0, 0, 0), ("unshare", 272, 0), ("setns", 308, -1, 0), ("clone3", 435, 0, 0)]
    found = attempt(default("CAP_SYS_ADMIN"), calls)
    assert ENOSYS not in found.values()
    assert found["unshare"] == 0
    assert found["clone3"] in (EINVAL, EFAULT)
    assert attempt(default("CAP_SYS_TIME"), [("settimeofday", 164, 1, 0)]) == {"settimeofday": EFAULT}


@x86
def test_a_profile_of_old_age_does_not_deny_what_is_new() -> None:
    profile: dict[str, Any] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": sorted({*seccomp._data()["allow"]} - {"cachestat"}), "action": "SCMP_ACT_ALLOW"}],
    }
    profile["syscalls"].append({"names": ["socket", "openat2", "clone", "no_such_call"], "action": "SCMP_ACT_ALLOW"})
    found = attempt(profile, [("unshare", 272, 0), ("cachestat", 451, 0), ("of the future", 999)])
    assert found["unshare"] == EPERM
    assert found["of the future"] == ENOSYS
    code = seccomp.compile_filter(profile)[1]
    assert struct.unpack_from("=HBBI", code) == (0x20, 0, 0, 4)


@x86
def test_arguments_errno_and_alternatives() -> None:
    everything: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}

    def rule(name: str, errno: int, *args: tuple[int, int, str]) -> dict[str, Any]:
        tests = [{"index": i, "value": v, "op": f"SCMP_CMP_{o}"} for i, v, o in args]
        return {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": tests}

    everything["syscalls"] = [
        rule("getpriority", 71, (0, 1, "EQ"), (1, 7, "GE")),  # both must hold
        rule("alarm", 72, (0, 5, "EQ"), (0, 6, "EQ")),  # either
        {"names": ["getsid"], "action": "SCMP_ACT_ERRNO"},
    ]
    found = attempt(
        everything,
        [
            ("and, both", 140, 1, 8),
            ("and, one", 140, 1, 0),
            ("or, first", 37, 5),
            ("or, second", 37, 6),
            ("or, none", 37, 0),
            ("errno not said", 124, 0),
        ],
    )
    assert found == {
        "and, both": 71,
        "and, one": 0,
        "or, first": 72,
        "or, second": 72,
        "or, none": 0,
        "errno not said": EPERM,
    }


def test_filters_are_kept_and_equal() -> None:
    one = seccomp.compile_filter(json.loads(json.dumps(default())))
    assert one == seccomp.compile_filter(default()) == seccomp.compile_filter(default())
    assert len(one[1]) % 8 == 0
    assert 0 < len(one[1]) // 8 <= 4096


def test_a_caller_cannot_spoil_what_is_kept() -> None:
    notes = seccomp.compile_filter(default())[2]
    notes.append("x")
    assert seccomp.compile_filter(default())[2] == []


def test_a_filter_that_allows_all_is_none() -> None:
    assert seccomp.compile_filter({"defaultAction": "SCMP_ACT_ALLOW"}) == (0, b"", [])


def test_flags_are_numbers() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
    }
    assert seccomp.compile_filter(profile)[0] == 6


def test_a_name_that_cannot_be_forbidden_is_told() -> None:
    rules = [{"names": ["read", "no_such_call"], "action": "SCMP_ACT_ERRNO"}]
    notes = seccomp.compile_filter({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})[2]
    assert notes == ["this libseccomp does not know no_such_call: not filtered"]
    assert seccomp.compile_filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"}]})[2] == []  # fmt: skip


def test_contradicting_rules_are_refused() -> None:
    arg = {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}
    rules = [
        {"names": ["personality"], "action": action, "args": [arg]} for action in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
    ]
    with pytest.raises(DefinitionError, match=r"/linux/seccomp/syscalls/1: personality: contradicts a rule before it"):
        seccomp.compile_filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})


def test_an_unknown_operator_is_refused() -> None:
    rules = [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "=="}]}]
    with pytest.raises(DefinitionError, match="/linux/seccomp/syscalls/0/args/0/op"):
        seccomp.compile_filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})


def test_a_host_without_libseccomp_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    seccomp._library.cache_clear()
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    try:
        with pytest.raises(HostError, match="install libseccomp2"):
            seccomp.compile_filter({"defaultAction": "SCMP_ACT_KILL"})
    finally:
        seccomp._library.cache_clear()


def test_the_profile_is_sound() -> None:
    data = seccomp._data()
    allowed, denied = data["allow"], data["deny"]
    assert len(allowed) == len(set(allowed)) > 360
    assert not set(allowed) & set(denied)
    assert set(data["capabilities"]) <= set(BITS)
    given = {name for names in data["capabilities"].values() for name in names}
    assert given - {"clone", "clone3"} <= set(denied)
    assert not {entry["call"] for entry in data["arguments"]} & set(allowed)


@pytest.mark.parametrize("machine", sorted(seccomp._MACHINES))
def test_the_profile_exists_for_every_machine(machine: str) -> None:
    profile = seccomp.default_profile(frozenset(DEFAULT), machine)
    clones = [rule["args"][0]["index"] for rule in profile["syscalls"] if rule["names"] == ["clone"]]
    assert set(clones) == {1 if machine == "s390x" else 0}
