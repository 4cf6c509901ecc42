"""Writes the stream of events. What a step says goes into the step's own transaction (`Hands.store`); what nothing
durable hangs on waits a moment for the next transaction of any container, and has its own only when none comes.

A daemon that is killed meanwhile has not said it: the next one finds the run open in the history, and says what is
true of it (`found_started`, `cleaned`). So no run's `start` or `delete` is missed or said twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from config.errors import HostError
from supervisor.lifecycle.facts import Phase, State
from supervisor.lifecycle.history import Said
from supervisor.log import fields
from supervisor.ports import Clock, Decision, Query
from supervisor.store import SqliteStore

log = logging.getLogger("wharfinger")

LINGER = 0.25  # seconds
MOST_WAITING = 1000  # more than that is not kept while the disk takes nothing
BURST, REFILL = 20.0, 0.2  # of one kind of one container: at once, and a second from then on


class Journal:
    """`threads` holds one: writes are in order."""

    def __init__(
        self,
        store: SqliteStore,
        clock: Clock,
        boot_id: str,
        tasks: TaskGroup,
        threads: anyio.CapacityLimiter,
        publish: Callable[[], None],
        dropped: Callable[[int], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._boot_id = boot_id
        self._tasks = tasks
        self._threads = threads
        self._publish = publish
        self._dropped = dropped  # told how many events the disk never took
        self._waiting: list[Decision] = []
        self._flushing = False
        self._allowed: dict[tuple[str, str], tuple[float, float, int]] = {}
        self._open = {run: set(types) for run, types in store.open_runs().items()}

    # -- making ---------------------------------------------------------------------------------

    def event(self, name: str, said: Said, phase: str = "", before: str = "", boot: float | None = None) -> Decision:
        """With the time of now, or of `boot`."""
        now, wall = self._clock.boot(), self._clock.wall()
        if boot is not None:
            wall -= now - boot
        at = now if boot is None else boot
        place = (0, name, said.generation, self._boot_id, at, wall, str(phase), str(before), said.code, said.text)
        return Decision(*place, said.type, said.data)

    # -- within a step's transaction ------------------------------------------------------------

    def take(self) -> list[Decision]:
        """What waits: to be written before a step's own events. To be given to `written` or `put_back`."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def put_back(self, events: list[Decision]) -> None:
        """The transaction failed."""
        self._waiting = [*events, *self._waiting]
        if (more := len(self._waiting) - MOST_WAITING) > 0:
            self._dropped(more)
            del self._waiting[MOST_WAITING:]

    def write(self, events: Iterable[Decision]) -> list[Decision]:
        """In a worker thread, in a batch of the store. Returns them with their numbers."""
        return [replace(event, seq=self._store.decide(event)) for event in events]

    def written(self, events: Iterable[Decision]) -> None:
        for one in events:
            self._mark(one.name, one.generation, one.type)
            told = {"state": one.phase or None, "before": one.before or None, "cause": one.code, "text": one.text}
            who = {"container": one.name or None, "generation": one.generation if one.name else None}
            log.info("%s", fields(**who, event=one.type, **told))
        self._publish()

    # -- by itself ------------------------------------------------------------------------------

    def later(self, events: Iterable[Decision]) -> None:
        self._waiting += events
        if self._waiting and not self._flushing:
            self._flushing = True
            self._tasks.start_soon(self._linger)

    async def _linger(self) -> None:
        await anyio.sleep(LINGER)
        self._flushing = False
        with suppress(HostError):  # history only: it waits for the next one
            await self.flush()

    async def flush(self) -> None:
        """Raises HostError; nothing is lost then, up to a bound."""
        waiting = self.take()
        if not waiting:
            return

        def write() -> list[Decision]:
            with self._store.batch():
                return self.write(waiting)

        try:
            self.written(await to_thread.run_sync(write, limiter=self._threads))
        except HostError:
            self.put_back(waiting)
            raise

    def daemon(self, type_: str, text: str, data: Mapping[str, str | int | bool | None]) -> None:
        """Of no container."""
        self.later([self.event("", Said(type_, 0, "daemon", text, data))])

    def ended_cleanly(self) -> bool | None:
        """Whether the daemon before this one said that it ends; None: there was none, as far as is known."""
        kinds = Query(types=("daemon-start", "daemon-stop"))
        last = self._store.page(0, 1, kinds, newest=True).events
        return last[0].type == "daemon-stop" if last else None

    def may_say(self, name: str, kind: str) -> int | None:
        """For what a user can repeat at will: None when it is too much now, else how many were left unsaid before."""
        now = self._clock.boot()
        left, at, unsaid = self._allowed.get((name, kind), (BURST, now, 0))
        left = min(BURST, left + (now - at) * REFILL)
        if left < 1:
            self._allowed[name, kind] = (left, now, unsaid + 1)
            return None
        self._allowed[name, kind] = (left - 1, now, 0)
        return unsaid

    def forget(self, name: str) -> None:
        for key in [key for key in self._allowed if key[0] == name]:
            del self._allowed[key]

    # -- runs -----------------------------------------------------------------------------------

    def _mark(self, name: str, generation: int, type_: str) -> None:
        if type_ == "delete":
            self._open.pop((name, generation), None)
        elif type_ in ("create", "start", "exit"):
            self._open.setdefault((name, generation), set()).add(type_)

    def cleaned(self, name: str, generation: int, phase: str) -> None:
        """What run `generation` left is gone. Said once a run."""
        if self._open.pop((name, generation), None) is not None:
            said = Said("delete", generation, "clean", "what it left is removed")
            self.later([self.event(name, said, phase, phase)])

    def open_runs(self, name: str) -> Mapping[int, frozenset[str]]:
        """Generations of which `delete` was not said yet, and what was."""
        return {generation: frozenset(types) for (of, generation), types in self._open.items() if of == name}

    def found_started(self, state: State, generation: int, started: float, pid: int | None) -> None:
        """At the first look: a run that the last daemon did not come to call started."""
        if {"start", "exit"} & self._open.get((state.name, generation), set()):
            return
        said = Said("start", generation, "adopted", "started as the last daemon ended", {"pid": pid})
        self.later([self.event(state.name, said, Phase.STARTING, Phase.STARTING, started)])

    def settle_rest(self, names: Iterable[str]) -> None:
        """Runs of containers that are there no more."""
        known = set(names)
        for name, generation in sorted(run for run in self._open if run[0] not in known):
            self.cleaned(name, generation, "")
