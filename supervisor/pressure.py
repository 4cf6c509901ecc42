"""The pressure of one container: its triggers as settings and definition want them, and what they tell, for the core.

Nothing is decided here. A trigger that changes is set anew while the container runs; the others are left alone, since
letting go of one costs the kernel a grace period.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from config.errors import WharfError
from config.model import Pressure
from config.pressure import RESOURCES, Limit, limit
from monitor.events import EventWatcher, Notice
from supervisor.lifecycle import facts

log = logging.getLogger("wharfinger")

HIGH = "memory_high"
HIGH_WINDOW = 2.0  # seconds in which memory.high is told once: the kernel tells of it up to 100 times a second


class PressureWatch:
    """`counts`: notices by (resource, kind). `trouble`: what is not watched though the definition wants it."""

    def __init__(
        self, name: str, watcher: EventWatcher, defaults: Mapping[str, str], psi: bool, boot: Callable[[], float]
    ) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self.trouble = ""
        self._name = name
        self._watcher = watcher
        self._defaults = defaults
        self._psi = psi
        self._boot = boot
        self._set: dict[str, Limit] = {}  # what the kernel has, by resource
        self._high_at = float("-inf")

    def sync(self, cgroup: Path, wanted: Pressure, restarts: bool) -> None:
        """Brings the kernel's triggers to what is wanted. `restarts`: the definition restarts by them. Never raises."""
        troubles: list[str] = []
        for resource in RESOURCES:
            said: str | None = getattr(wanted, resource)
            asked = limit(self._defaults.get(resource, "off") if said is None else said)
            needed = restarts and resource in wanted.restart_on
            if said is not None or needed:
                troubles += self._trouble(resource, cgroup, asked, needed)
            else:
                self._bring(resource, cgroup, asked)
        self.trouble = "; ".join(troubles)

    def _trouble(self, resource: str, cgroup: Path, asked: Limit | None, needed: bool) -> list[str]:
        """For what the definition asked for: why it is not so."""
        why = self._bring(resource, cgroup, asked)
        if asked is None and needed:
            why = "off in the daemon's settings"
        return [f"{resource} pressure is not watched: {why}"] if why else []

    def _bring(self, resource: str, cgroup: Path, asked: Limit | None) -> str:
        """Why it could not be done, or ""."""
        old = self._set.get(resource)
        if old == asked:
            return ""
        if asked is not None:
            if not self._psi:
                return "this kernel has no PSI"
            try:
                took = self._watcher.add_pressure(self._name, cgroup, resource, *asked)
            except (WharfError, OSError) as error:
                log.debug("container=%s %s pressure is not watched: %s", self._name, resource, error)
                return str(error)
            if took.adjusted:
                log.debug("container=%s %s pressure is watched in windows of 2 s", self._name, resource)
            self._set[resource] = asked
            self.counts.setdefault((resource, asked.kind), 0)
        if old is not None and (asked is None or old.kind != asked.kind):
            self._watcher.remove_pressure(self._name, resource, old.kind)
            if asked is None:
                del self._set[resource]
        return ""

    def lost(self) -> None:
        """The cgroup went, and its triggers with it."""
        self._set.clear()

    def fired(self, notice: Notice, generation: int) -> facts.Pressure | None:
        """What a trigger tells; None when it is not wanted any more."""
        resource = notice.file.partition(".")[0]
        known = self._set.get(resource)
        if known is None or known.kind != notice.pressure:
            return None
        self._count(resource, known.kind)
        return facts.Pressure(generation, resource, known.kind, known.window / 1e6)

    def high(self, generation: int) -> facts.Pressure | None:
        """memory.high was exceeded; None when it was told a moment ago."""
        now = self._boot()
        if now < self._high_at + HIGH_WINDOW:
            return None
        self._high_at = now
        self._count("memory", "high")
        return facts.Pressure(generation, HIGH, "high", HIGH_WINDOW)

    def _count(self, resource: str, kind: str) -> None:
        self.counts[resource, kind] = self.counts.get((resource, kind), 0) + 1
