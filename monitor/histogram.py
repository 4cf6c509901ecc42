"""Histograms of delays, in Prometheus' text.

The client's own would cost each scrape ten times as much: it makes an object of each bucket, and these are hundreds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from monitor.families import PREFIX

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

DECISIONS = ("exit", "start", "oom", "pressure", "health", "shim", "request", "definition", "timer", "other")
EFFECTS = ("launch", "clean", "probe", "apply", "forget", "signal")


class Histogram:
    """wharfinger_<name>, by the label `kind` when there are `kinds`: all of them are exported from the start.

    One thread observes; another may render meanwhile.
    """

    def __init__(self, name: str, text: str, kinds: Sequence[str] = ()) -> None:
        self.name = PREFIX + name
        self._head = f"# HELP {self.name} {text}\n# TYPE {self.name} histogram\n"
        self._counts = {kind: [0] * (len(BOUNDS) + 1) for kind in kinds or ("",)}
        self._sums = dict.fromkeys(self._counts, 0.0)

    def observe(self, seconds: float, kind: str = "") -> None:
        """Less than nothing is nothing: a clock that was read in another order."""
        self._counts[kind][bisect_left(BOUNDS, seconds)] += 1
        self._sums[kind] += max(0.0, seconds)

    def text(self) -> bytes:
        lines = [self._head]
        for kind, live in self._counts.items():
            counts, total = tuple(live), 0
            label = f'kind="{kind}",' if kind else ""
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts, strict=True):
                total += count
                lines.append(f'{self.name}_bucket{{{label}le="{bound}"}} {total}\n')
            own = f'{{kind="{kind}"}}' if kind else ""
            lines.append(f"{self.name}_sum{own} {self._sums[kind]!r}\n{self.name}_count{own} {total}\n")
        return "".join(lines).encode()


class Timing:
    """How long the daemon takes."""

    def __init__(self) -> None:
        self.decision = Histogram(
            "decision_seconds", "Time from an event's arrival to its decision being stored.", DECISIONS
        )
        self.effect = Histogram("effect_seconds", "Time from a stored decision to its effect being done.", EFFECTS)
        self.lag = Histogram("loop_lag_seconds", "How late the event loop's timers fired.")
