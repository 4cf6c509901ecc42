"""Feeds the flight recorders: one reading a second of each running container, in a worker thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import anyio
from anyio import to_thread

from config.errors import WharfError
from monitor.cgroup import CgroupReader, Sample
from monitor.recorder import RECORD_FILES
from supervisor.fleet import Fleet
from supervisor.lifecycle.facts import Phase
from supervisor.ports import Clock

log = logging.getLogger("wharfinger.sampler")

PERIOD = 1.0
ALIVE = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.PAUSED})


class Sampler:
    """One reader (a directory fd) a running container, reopened when its cgroup is made anew."""

    def __init__(self, fleet: Fleet, clock: Clock, woke: Callable[[float], None]) -> None:
        self._woke = woke  # told how late each of its sleeps ended
        self._fleet = fleet
        self._clock = clock
        self._readers: dict[str, CgroupReader] = {}
        self._worst = 0.0

    def loop_lag(self) -> float:
        """Largest delay of the event loop since the last call, seconds: how late our own sleep ended."""
        worst, self._worst = self._worst, 0.0
        return worst

    async def run(self) -> None:
        """Until cancelled. The daemon's only periodic wake-up."""
        while True:
            alive = {
                name: str(member.hands.shared.launcher.tree.path(name))
                for name, member in self._fleet.members.items()
                if member.state.phase in ALIVE
            }
            for name in self._readers.keys() - alive.keys():
                self._readers.pop(name).close()
            if alive:
                samples = await to_thread.run_sync(self._read, alive)
                now = self._clock.boot()
                for name, sample in samples.items():
                    if (member := self._fleet.members.get(name)) is not None:
                        member.hands.ring.add(now, sample)
            due = anyio.current_time() + PERIOD
            await anyio.sleep_until(due)
            late = anyio.current_time() - due
            self._worst = max(self._worst, late)
            self._woke(late)

    def _read(self, alive: Mapping[str, str]) -> dict[str, Sample]:
        samples: dict[str, Sample] = {}
        for name, path in alive.items():
            try:
                reader = self._readers.get(name)
                if reader is None:
                    reader = self._readers[name] = CgroupReader(path)
                samples[name] = reader.read(RECORD_FILES)
            except WharfError:
                if (gone := self._readers.pop(name, None)) is not None:
                    gone.close()
        return samples
