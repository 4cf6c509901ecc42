"""Bytes of a kernel file to numbers (pure).

Everything here is total: any bytes give an answer, nothing is raised. A key that is missing, or whose value is not what
the kernel documents, is absent from the answer; it is never 0 and never hides another key. Unknown keys are kept by the
generic readers and ignored by the others. The `_digits` forms keep the kernel's own decimal digits, because a metric is
written from them without ever being a float. Source: cgroup-v2.rst, accounting/psi.rst, proc(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_LIMIT = -1
"""What a limit of `max` reads as. A limit that could not be read is None."""

_MAX_DIGITS = 20  # 2**64 - 1 has 20; a longer run of digits is no number of the kernel's
_PRESSURE = re.compile(rb"some [^\n]* total=([0-9]{1,20})\nfull [^\n]* total=([0-9]{1,20})\n")
_DEVICE = re.compile(rb"[0-9]{1,10}:[0-9]{1,10}\Z")


def is_number(text: bytes) -> bool:
    """Plain ASCII digits, as many as 64 bits can need."""
    return text.isdigit() and len(text) <= _MAX_DIGITS


def flat_digits(data: bytes) -> dict[bytes, bytes]:
    """`key value` lines (memory.stat, cpu.stat, *.events) whose value is digits. The first value of a key counts."""
    words = data.split()
    values = words[1::2]
    found = dict(zip(words[::2], values, strict=False))
    if len(found) * 2 == len(words) and data.count(b"\n") == len(found) and b"".join(values).isdigit():
        return found  # one pair a line, which is all that a kernel of today writes
    found = {}
    for line in data.splitlines():
        pair = line.split()
        if len(pair) == 2 and pair[1].isdigit():
            found.setdefault(pair[0], pair[1])
    return found


def parse_flat(data: bytes) -> dict[str, int]:
    """`key value` lines as ints; a value that is no plain number is left out."""
    return {key.decode("ascii", "replace"): int(value) for key, value in flat_digits(data).items() if is_number(value)}


def parse_number(data: bytes) -> int | None:
    """A file of one number, such as memory.current."""
    text = data.strip()
    return int(text) if is_number(text) else None


def parse_limit(data: bytes) -> int | None:
    """A file of one limit, such as memory.max: the number, NO_LIMIT for `max`, None when it is neither."""
    text = data.strip()
    if text == b"max":
        return NO_LIMIT
    return int(text) if is_number(text) else None


@dataclass(frozen=True, slots=True)
class CpuMax:
    """cpu.max, both in microseconds. quota None: no quota is set."""

    quota: int | None
    period: int


def parse_cpu_max(data: bytes) -> CpuMax | None:
    """cpu.max, `QUOTA PERIOD`; the period may be missing (100 ms then)."""
    words = data.split()
    if not words or not (words[0] == b"max" or is_number(words[0])):
        return None
    period = int(words[1]) if len(words) > 1 and is_number(words[1]) else 100_000
    return CpuMax(None if words[0] == b"max" else int(words[0]), period)


@dataclass(frozen=True, slots=True)
class Pressure:
    """One line of a *.pressure file. total in microseconds; the averages are percent."""

    total: int
    avg10: float | None = None
    avg60: float | None = None
    avg300: float | None = None


def pressure_digits(data: bytes) -> dict[bytes, bytes]:
    """`some` and `full` to the digits of their `total`."""
    usual = _PRESSURE.fullmatch(data)
    if usual is not None:
        return {b"some": usual[1], b"full": usual[2]}
    found: dict[bytes, bytes] = {}
    for line in data.splitlines():
        kind, _, rest = line.partition(b" ")
        _, mark, total = rest.rpartition(b"total=")
        total = total.strip()
        if mark and kind and is_number(total):
            found.setdefault(kind, total)
    return found


def parse_pressure(data: bytes) -> dict[str, Pressure]:
    """A *.pressure file: `some` and `full`, each only when its line has a total."""
    found: dict[str, Pressure] = {}
    for line in data.splitlines():
        words = line.split()
        values = dict(word.split(b"=", 1) for word in words[1:] if b"=" in word)
        total = values.get(b"total", b"")
        if words and is_number(total):
            kind = words[0].decode("ascii", "replace")
            averages = (_percent(values.get(key)) for key in (b"avg10", b"avg60", b"avg300"))
            found.setdefault(kind, Pressure(int(total), *averages))
    return found


def _percent(text: bytes | None) -> float | None:
    if text is None or not re.fullmatch(rb"[0-9]{1,10}(\.[0-9]{1,10})?", text):
        return None
    return float(text)


def io_digits(data: bytes) -> dict[bytes, dict[bytes, bytes]]:
    """io.stat: `MAJ:MIN` to its values.

    A line may be the device alone (a device without IO is no device here), and carry keys of other controllers
    (cost.usage, and so on), whose values need not be numbers.
    """
    found: dict[bytes, dict[bytes, bytes]] = {}
    for line in data.splitlines():
        words = line.replace(b"=", b" ").split()
        if not words or not _DEVICE.match(words[0]):
            continue
        if line.count(b"=") * 2 + 1 != len(words):  # an empty value, or a word that is no pair
            words = [words[0]]
            for word in line.split()[1:]:
                key, mark, value = word.partition(b"=")
                words += (key, value) if mark else ()
        if len(words) > 1:
            found.setdefault(words[0], dict(zip(words[1::2], words[2::2], strict=True)))
    return found


def parse_io_stat(data: bytes) -> dict[str, dict[str, int]]:
    """io.stat as ints: device `MAJ:MIN` to rbytes, wbytes, rios, wios, dbytes, dios and whatever else is a number."""
    found = {
        device.decode("ascii"): {
            key.decode("ascii", "replace"): int(value) for key, value in values.items() if is_number(value)
        }
        for device, values in io_digits(data).items()
    }
    return {device: values for device, values in found.items() if values}


def count_lines(data: bytes) -> int:
    """Entries of a list file such as cgroup.procs."""
    return len(data.split())


_NET_COLUMNS = {
    "receive_bytes": 0,
    "receive_packets": 1,
    "receive_errors": 2,
    "receive_packets_dropped": 3,
    "transmit_bytes": 8,
    "transmit_packets": 9,
    "transmit_errors": 10,
    "transmit_packets_dropped": 11,
}


def net_digits(data: bytes) -> dict[bytes, dict[str, bytes]]:
    """/proc/PID/net/dev: interface to its counters, under cAdvisor's words."""
    found: dict[bytes, dict[str, bytes]] = {}
    for line in data.splitlines():
        name, mark, rest = line.rpartition(b":")
        words = rest.split()
        if mark and len(words) >= 12 and all(map(is_number, words[:12])):
            found.setdefault(name.strip(), {key: words[column] for key, column in _NET_COLUMNS.items()})
    return found
