"""The real clocks. Decisions use CLOCK_BOOTTIME: suspend counts, clock steps do not (clock_gettime(2))."""

from __future__ import annotations

import time
from pathlib import Path


class SystemClock:
    """`boot()` for decisions, `wall()` for people; seconds."""

    def boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()


def boot_id(proc: Path = Path("/proc")) -> str:
    """The kernel's id of this boot (random(4)); "" where it cannot be read."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
