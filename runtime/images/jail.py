"""The jail of a process that reads a stranger's bytes: a root that holds one directory, no network, few rights.

Its steps are in the order that the kernel wants: namespaces, root, limits, capabilities, no_new_privs, seccomp. All
that is imported later must have been imported before. Source: pivot_root(2), "pivot_root(".", ".")"; capabilities(7);
seccomp(2); prctl(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Iterable

from runtime import linux

CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "SETFCAP": 31}
MKNOD = 27

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SECCOMP_MODE_FILTER = 2
_MNT_DETACH = 2
_CAPS_V3 = 0x20080522

CALLS = (
    "read", "readv", "pread64", "write", "writev", "pwrite64", "lseek", "_llseek", "open", "openat", "close", "dup",
    "stat", "lstat", "fstat", "newfstatat", "fstatat64", "stat64", "lstat64", "fstat64", "statx", "fcntl", "fcntl64",
    "mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "link", "linkat", "unlink", "unlinkat", "rmdir",
    "chown", "lchown", "fchown", "fchownat", "chown32", "lchown32", "fchown32", "chmod", "fchmod", "fchmodat",
    "setxattr", "lsetxattr", "fsetxattr", "utimensat", "utimensat_time64", "ftruncate", "ftruncate64", "fallocate",
    "getdents64", "umask", "brk", "mmap", "mmap2", "munmap", "mremap", "madvise", "mprotect", "futex", "futex_time64",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigreturn", "exit", "exit_group", "getpid", "gettid",
    "clock_gettime", "clock_gettime64", "gettimeofday", "getrandom", "sched_yield", "restart_syscall", "ioctl",
)  # fmt: skip
"""All that unpacking needs; of ioctl only what the C library asks of an opened file."""

PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": errno.EPERM,
    "syscalls": [{"names": list(CALLS), "action": "SCMP_ACT_ALLOW"}],
}


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


_libc = ctypes.CDLL(None, use_errno=True)


def enter(root: str, bpf: bytes, memory: int, file_size: int, cpu: int, devices: bool) -> None:
    """Make `root` this process's root, and give up what is not needed to write in it. Raises OSError.

    `bpf`: the compiled PROFILE; `memory` and `file_size` in bytes; `cpu` in seconds.
    """
    _call("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    spaces = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    _call("unshare", _libc.unshare(spaces))
    _call("mount", _libc.mount(None, b"/", None, linux.MS_REC | linux.MS_PRIVATE, None))
    here = os.fsencode(root)
    _call("mount", _libc.mount(here, here, None, linux.MS_BIND, None))
    os.chdir(root)
    _call("pivot_root", _libc.pivot_root(b".", b"."))
    _call("umount2", _libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")
    for what, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    _drop({**CAPABILITIES, **({"MKNOD": MKNOD} if devices else {})}.values())
    _call("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    program = _Filter(len(bpf) // 8, bpf)
    _call("seccomp", _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0))


def _drop(kept: Iterable[int]) -> None:
    mask = sum(1 << bit for bit in kept)
    for bit in range(64):
        if not mask & 1 << bit and _libc.prctl(_PR_CAPBSET_DROP, bit, 0, 0, 0) < 0:
            break  # the last one that this kernel knows
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("=Ii", _CAPS_V3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    _call("capset", _libc.capset(header, data))


def _call(name: str, result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
