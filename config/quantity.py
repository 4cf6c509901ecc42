"""Durations, sizes and processor counts as operators write them: `1m30s`, `128MiB`, `0.5`. Pure.

Each pair holds `parse_x(format_x(value)) == value` for every value that `parse_x` can return.
The parsers raise ValueError with words for an operator; callers say where.
"""

from __future__ import annotations

import re
from decimal import Decimal

NANOSECOND = 10**9
MAX_SECONDS = 10**9  # 31 years: beyond it floats of nanoseconds are no longer exact, and nobody means it
MAX_BYTES = 2**63 - 1
_MAX_TEXT = 64

_DURATION_UNITS = {
    "d": 86_400 * NANOSECOND,
    "h": 3600 * NANOSECOND,
    "m": 60 * NANOSECOND,
    "s": NANOSECOND,
    "ms": 10**6,
    "us": 1000,
    "µs": 1000,
    "ns": 1,
}
_NUMBER = r"[0-9]{1,20}(?:\.[0-9]{1,20})?"
_PLAIN = re.compile(rf"(?:{_NUMBER}|\.[0-9]{{1,20}})", re.ASCII)
_PART = re.compile(rf"({_NUMBER})(d|h|ms|m|us|µs|ns|s)", re.ASCII)
_DURATION_HELP = "write a duration as 500ms, 10s, 1m30s or 2h"

_SIZE = re.compile(rf"({_NUMBER})\s?([a-z]*)", re.ASCII | re.IGNORECASE)
# As Docker reads them: M, MB and MiB are all 2**20.
_SIZE_POWERS = {"": 0, "b": 0} | {
    prefix + tail: power for power, prefix in enumerate("kmgtp", start=1) for tail in ("", "b", "ib")
}
_SIZE_HELP = "write a size as 64k, 128MiB or 1G"
_SIZE_NAMES = ("", "KiB", "MiB", "GiB", "TiB", "PiB")


def _quote(text: str) -> str:
    shown = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown) + '"'


def parse_duration(text: str) -> float:
    """Seconds of `10s`, `1m30s`, `500ms`, `1h`, `2d`, or of a plain number of seconds.

    Units go from large to small, each once. Raises ValueError.
    """
    clean = text.strip()
    if len(clean) > _MAX_TEXT:
        raise ValueError(f"{_quote(text)} is not a duration; {_DURATION_HELP}")
    if _PLAIN.fullmatch(clean):
        total = Decimal(clean) * NANOSECOND
    else:
        total = _sum_parts(clean)
    if total > MAX_SECONDS * NANOSECOND:
        raise ValueError(f"{_quote(text)} is more than 31 years")
    if total != int(total):
        raise ValueError(f"{_quote(text)} is finer than 1ns")
    return float(Decimal(int(total)) / NANOSECOND)


def _sum_parts(clean: str) -> Decimal:
    total, at, last = Decimal(0), 0, 0
    while at < len(clean):
        match = _PART.match(clean, at)
        if match is None:
            raise ValueError(f"{_quote(clean)} is not a duration; {_DURATION_HELP}")
        scale = _DURATION_UNITS[match[2]]
        if last and scale >= last:
            raise ValueError(f"{_quote(clean)} is not a duration: units go from large to small, each once")
        total += Decimal(match[1]) * scale
        at, last = match.end(), scale
    if not last:
        raise ValueError(f"an empty text is not a duration; {_DURATION_HELP}")
    return total


def format_duration(seconds: float) -> str:
    """The shortest usual spelling: `90.0` is `1m30s`, `0.5` is `500ms`, `0.0` is `0s`."""
    rest = int((Decimal(repr(float(seconds))) * NANOSECOND).to_integral_value())
    if rest == 0:
        return "0s"
    out = []
    for unit in ("h", "m", "s"):
        count, rest = divmod(rest, _DURATION_UNITS[unit])
        if count:
            out.append(f"{count}{unit}")
    for unit in ("ms", "us", "ns"):
        count, rest = divmod(rest, _DURATION_UNITS[unit])
        if count:
            out.append(f"{count}{unit}")
    return "".join(out)


def parse_size(text: str) -> int:
    """Bytes of `128MiB`, `64M`, `64k`, `1G`, `1.5GiB`, or of a plain number of bytes.

    All units are powers of 1024, as in Docker; a part of a byte is dropped. Raises ValueError.
    """
    clean = text.strip()
    match = _SIZE.fullmatch(clean) if len(clean) <= _MAX_TEXT else None
    power = _SIZE_POWERS.get(match[2].lower()) if match else None
    if match is None or power is None:
        raise ValueError(f"{_quote(text)} is not a size; {_SIZE_HELP}")
    size = int(Decimal(match[1]) * 1024**power)
    if size > MAX_BYTES:
        raise ValueError(f"{_quote(text)} is more than the kernel can count")
    if not power and "." in match[1]:
        raise ValueError(f"{_quote(text)} is not a whole number of bytes; {_SIZE_HELP}")
    return size


def format_size(size: int) -> str:
    """The largest unit that divides exactly: `134217728` is `128MiB`, `1000` is `1000`."""
    power = 0
    while size and size % 1024 == 0 and power < len(_SIZE_NAMES) - 1:
        size, power = size // 1024, power + 1
    return f"{size}{_SIZE_NAMES[power]}"


def parse_cpus(text: str) -> Decimal:
    """Processors of `0.5`, `2` or `1.25`; at most five decimals (microseconds of 100 ms). Raises ValueError."""
    clean = text.strip()
    if len(clean) > _MAX_TEXT or not _PLAIN.fullmatch(clean):
        raise ValueError(f"{_quote(text)} is not a number of processors; write 0.5 or 2")
    value = Decimal(clean)
    if value * 10**5 != int(value * 10**5):
        raise ValueError(f"{_quote(text)} has more than five decimals")
    return Decimal(format_cpus(value))


def format_cpus(cpus: Decimal) -> str:
    """Plain decimals without trailing zeros: `0.50` is `0.5`, `2E+1` is `20`."""
    text = f"{cpus:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
