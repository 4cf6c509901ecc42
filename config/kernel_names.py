"""Names that the kernel gives to signals, capabilities and resource limits, as operators write them. Pure."""

from __future__ import annotations

import re
import signal

# glibc keeps the first two real-time signals for itself.
_RTMIN, _RTMAX = 34, 64
_RT = re.compile(r"SIG(RTMIN\+|RTMAX-)([0-9]{1,2})", re.ASCII)

_NUMBERS: dict[str, int] = {s.name: int(s) for s in signal.Signals if s < _RTMIN}
_NUMBERS |= {"SIGRTMIN": _RTMIN, "SIGRTMAX": _RTMAX}
_NAMES: dict[int, str] = {int(s): s.name for s in signal.Signals if s < _RTMIN}

CAPABILITIES: tuple[str, ...] = (  # in the kernel's order: the place is the number
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip

RLIMITS: tuple[str, ...] = (  # the place is the kernel's number
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending",
    "msgqueue", "nice", "rtprio", "rttime",
)  # fmt: skip

RLIM_INFINITY = 2**64 - 1


def signal_name(text: str | int) -> str:
    """The one spelling of a signal: `term`, `SIGTERM`, `15` are `SIGTERM`; 37 is `SIGRTMIN+3`. Raises ValueError."""
    word = str(text).strip().upper()
    if word.isascii() and word.isdecimal() and len(word) <= 3:
        number = int(word)
        if number in _NAMES:
            return _NAMES[number]
        if _RTMIN <= number <= _RTMAX:
            return _real_time(number)
        raise ValueError(f"{number} is not a signal number of Linux")
    if not word.startswith("SIG"):
        word = "SIG" + word
    return _NAMES.get(number) or _real_time(number) if (number := _lookup(word)) else _unknown(str(text))


def _lookup(word: str) -> int:
    if match := _RT.fullmatch(word):
        offset = int(match[2])
        number = _RTMIN + offset if match[1] == "RTMIN+" else _RTMAX - offset
        return number if _RTMIN <= number <= _RTMAX else 0
    return _NUMBERS.get(word, 0)


def _real_time(number: int) -> str:
    return f"SIGRTMIN+{number - _RTMIN}" if number > _RTMIN else "SIGRTMIN"


def _unknown(text: str) -> str:
    shown = text[:32].encode("utf-8", "backslashreplace").decode()  # YAML's escapes can make half a character
    raise ValueError(f'"{shown}" is not a signal of Linux; write a name such as TERM, or a number')


def signal_number(name: str) -> int:
    """The number of a signal in any spelling that `signal_name` takes. Raises ValueError."""
    return _lookup(signal_name(name))


def capability_name(text: str) -> str:
    """`net_admin` and `CAP_NET_ADMIN` are `CAP_NET_ADMIN`; `all` is `ALL`. Raises ValueError."""
    word = text.strip().upper()
    if word == "ALL":
        return word
    if not word.startswith("CAP_"):
        word = "CAP_" + word
    if word not in CAPABILITIES:
        raise ValueError(text)
    return word
