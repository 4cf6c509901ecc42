"""Does the effects of one container, and turns what the kernel says about it into events for the core.

No decision is taken here. One `Hands` per container; what all of them share is in `Shared`.
"""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
from anyio import to_thread

from config.errors import GoneError, HostError, LaunchError, WharfError
from config.model import Container
from monitor import pidfd as pidfds
from monitor.events import Notice
from monitor.recorder import Ring, dump
from monitor.view import SpaceView
from runtime import shim as shims
from supervisor import tend
from supervisor.keeper import Durable, Slow
from supervisor.launch import PERMANENT
from supervisor.lifecycle import facts
from supervisor.lifecycle.facts import State
from supervisor.lifecycle.history import Said, type_of
from supervisor.lifecycle.oom import scope_of_child_kill
from supervisor.lifecycle.restart import asks_why
from supervisor.lifecycle.step import counted_as
from supervisor.ports import Decision
from supervisor.pressure import PressureWatch
from supervisor.probe import run_probe
from supervisor.shared import Shared, Tally, add

log = logging.getLogger("wharfinger")

CLEAN_LIMIT = 15.0
REMARK_EVERY = 60.0
ENDS = frozenset(("exit", "oom", "start"))  # what an end says; of one that is recorded already it is no news
Counted = list[tuple[dict[str, int], str, int]]  # counter, key, by how much
CURVE = 60.0  # seconds of samples that an abnormal end keeps


class Hands:
    """The engine of one container (a `keeper.Performer`)."""

    def __init__(
        self,
        name: str,
        shared: Shared,
        tell: Callable[[facts.Event], None],
        phase: Callable[[], facts.Phase],
        tally: Tally,
    ) -> None:
        self.name = name
        self.phase = phase  # of now
        self.shared = shared
        self.tell = tell
        self.tally = tally
        self.file = ""
        self.definition: Container | None = None
        self.shim: shims.Shim | None = None
        self.ring = Ring(300)
        self.last_end_wall: float | None = None
        self.problem = ""
        self.checks: dict[str, int] = {}  # health checks by result: success failure timeout
        self.check_seconds = 0.0
        self.pressure = PressureWatch(
            name, shared.watcher, shared.pressure, shared.launcher.facts.psi, shared.clock.boot
        )
        self.care = tend.Care(tell)
        self.space: SpaceView | None = None
        self._remarked: dict[str, float] = {}
        self._watching = False
        self._launched = anyio.Event()  # set but while a launch is under way
        self._launched.set()
        self.killed: set[int] = set()  # generations that we killed ourselves: such a SIGKILL is no OOM

    # -- durable --------------------------------------------------------------------------------

    async def store(
        self, before: State, after: State, durable: Sequence[Durable], launch: facts.Launch | None, told: Sequence[Said]
    ) -> None:
        journal, store = self.shared.journal, self.shared.store
        wall = self.shared.clock.wall()
        waiting = journal.take()
        events = [journal.event(self.name, said, after.phase, before.phase) for said in told]
        counted: Counted = []

        def write() -> tuple[int, list[Decision]]:
            known: set[int] = set()
            with store.batch():
                created = self.tally.created or store.note_created(self.name, int(wall))
                for item in durable:
                    if isinstance(item, facts.RecordEnd):
                        if not self._write_end(before, item.end, wall, counted):
                            known.add(item.end.generation)
                    else:
                        store.persist(self.name, item.saved, self.shared.boot_id)
                if launch is not None and launch.reason is not facts.Reason.BOOT:
                    store.count_restart(self.name, launch.reason)
                    counted.append((self.tally.restarts, launch.reason, 1))
                news = (one for one in events if one.type not in ENDS or one.generation not in known)
                return created, journal.write([*waiting, *news])

        try:
            self.tally.created, written = await to_thread.run_sync(write, limiter=self.shared.store_threads)
        except HostError:
            journal.put_back(waiting)
            raise
        for counter, key, by in counted:
            add(counter, key, by)
        journal.written(written)

    def later(self, before: State, after: State, told: Sequence[Said]) -> None:
        journal = self.shared.journal
        journal.later(journal.event(self.name, said, after.phase, before.phase) for said in told)

    def _write_end(self, before: State, end: facts.End, wall: float, counted: Counted) -> bool:
        """False when it is recorded already."""
        assert self.definition is not None
        kind = counted_as(end, self.definition)
        samples = dump(self.ring.last(CURVE)) if asks_why(before, end) else ""
        if not self.shared.store.record_end(self.name, end, self.shared.boot_id, wall, samples, kind):
            return False
        self.last_end_wall = wall
        counted.append((self.tally.ends, kind, 1))
        if end.oom.killed and end.oom.scope is not None:
            counted.append((self.tally.oom_kills, end.oom.scope, max(1, end.oom.kills or 1)))
        return True

    # -- quick ----------------------------------------------------------------------------------

    def quick(self, effect: facts.Signal | facts.KillAll) -> None:
        """Signals go through the pidfd that we hold, never to a number (I3)."""
        if isinstance(effect, facts.KillAll):
            self.killed.add(effect.generation)
            self.shared.launcher.tree.kill(self.name, effect.generation)
            return
        if self.shim is None or self.shim.generation != effect.generation:
            return
        number = signal.Signals[effect.signal] if effect.signal in signal.Signals.__members__ else int(effect.signal)
        if number == signal.SIGKILL:
            self.killed.add(effect.generation)
        self.send(number)

    def send(self, number: int) -> None:
        """Raises GoneError when init has ended."""
        if self.shim is None:
            raise GoneError("not running", where=self.name)
        try:
            signal.pidfd_send_signal(self.shim.pidfd, number)
        except ProcessLookupError:
            raise GoneError("not running", where=self.name) from None

    # -- slow -----------------------------------------------------------------------------------

    def limit(self, effect: Slow) -> float:
        if isinstance(effect, facts.Launch):
            return math.inf  # the launcher bounds it, from when its turn has come
        if isinstance(effect, facts.Probe) and self.definition and self.definition.healthcheck:
            return self.definition.healthcheck.timeout + 5.0
        return CLEAN_LIMIT

    async def slow(self, effect: Slow) -> facts.Event | None:
        match effect:
            case facts.Launch():
                return await self._launch(effect.generation)
            case facts.Clean():
                return await self._clean(effect.generation)
            case facts.Probe():
                return await self._probe(effect.generation)
            case facts.ApplyLive():
                return await self._apply()
            case facts.Forget():
                await self._forget()
                return None

    async def _launch(self, generation: int) -> facts.Event:
        self._launched = anyio.Event()
        try:
            return await self._start(generation)
        finally:
            self._launched.set()

    async def _start(self, generation: int) -> facts.Event:
        assert self.definition is not None
        shared = self.shared
        self.ring.clear()
        try:
            shim = await shared.launcher.start(self.definition, generation, shared.boot_id, self.file)
        except WharfError as error:
            if shared.launcher.tree.populated(self.name, generation):  # no answer, and it does not die: not "failed"
                return facts.Failed("Launch", generation, str(error))
            permanent = isinstance(error, LaunchError) and error.errno in PERMANENT
            return facts.LaunchFailed(generation, str(error), permanent, oom="memory limit" in str(error))
        self._note_missing()
        self.hold(shim)
        shared.tasks.start_soon(self._refill)
        return facts.Launched(generation, shim.pid, shim.started)

    def _note_missing(self) -> None:
        compiled = self.shared.launcher.compiled(self.name)
        missing = compiled.missing if compiled else ()
        self.problem = f"not enforced, no controller: {' '.join(missing)}" if missing else ""

    async def _refill(self) -> None:
        try:
            await self.shared.launcher.spares.refill()
        except WharfError as error:
            log.warning("no spare shim: %s", error)

    def hold(self, shim: shims.Shim) -> None:
        """Watch a running container: its end, and its OOM kills. Also called at adoption."""
        self.release()
        self.shim = shim
        self._watch_parent()
        leaf = self.shared.launcher.tree.path(self.name, shim.generation)
        # Before Linux 6.10 a refused fork is counted in the leaf where it was refused, not above.
        self._watch(f"{self.name}/leaf", leaf, ("pids.events", "cgroup.events"))
        self.shared.tasks.start_soon(self._await_end, shim)

    def _watch_parent(self) -> None:
        """The stable cgroup's watches serve all runs: to let go of a PSI trigger costs a grace period of the kernel."""
        cgroup = self.shared.launcher.tree.path(self.name)
        if not self._watching:
            self._watching = True
            self._watch(self.name, cgroup, ("memory.events",))
        if self.definition is not None:
            self.pressure.sync(cgroup, self.definition.pressure, self.definition.on_pressure == "restart")

    def _watch(self, key: str, cgroup: Path, files: Sequence[str]) -> None:
        try:
            self.shared.watcher.add(key, cgroup, files)
        except (WharfError, OSError) as error:
            log.debug("container=%s %s is not watched: %s", self.name, files, error)

    def unwatch(self) -> None:
        self._watching = False
        self.pressure.lost()
        self.shared.watcher.remove(self.name)

    def release(self) -> None:
        if self.shim is not None:
            self.shared.watcher.remove(f"{self.name}/leaf")
            self.shim.close()
            self.shim = None

    async def _await_end(self, shim: shims.Shim) -> None:
        """One task a run: ends in exactly one Ended, however many shims it takes."""
        end = await tend.until_end(self, shim)
        if end is None:
            return
        self.killed.discard(end.generation)
        if self.shim is not None and self.shim.generation == end.generation:
            self.release()
        self.tell(facts.Ended(end))

    def swap(self, shim: shims.Shim) -> None:
        """Another shim tends the run; the watches of its cgroup go on."""
        old, self.shim = self.shim, shim
        if old is not None:
            old.close()
        self.shared.tasks.start_soon(self._refill)

    async def _clean(self, generation: int) -> facts.Event | None:
        await anyio.lowlevel.checkpoint()  # the next run goes first: its launch, of the same step, takes the processor
        await self._launched.wait()
        if not await to_thread.run_sync(self.shared.launcher.clean, self.name, generation, abandon_on_cancel=True):
            return facts.Failed("Clean", generation, "a process does not die")
        self.shared.journal.cleaned(self.name, generation, self.phase())
        return None

    async def _probe(self, generation: int) -> facts.Event:
        shim, definition = self.shim, self.definition
        compiled = self.shared.launcher.compiled(self.name)
        if shim is None or shim.generation != generation or definition is None or compiled is None:
            return _not_running(generation)
        assert definition.healthcheck is not None
        begin = self.shared.clock.boot()
        again = self.care.again
        try:
            result, output = await run_probe(shim, compiled.spec, definition.healthcheck)
        except GoneError:  # if init lives it was its shim: asked again when another has taken over
            if self.shim is shim and not pidfds.has_exited(shim.pidfd):
                await again.wait()
            return await self._probe(generation) if self.shim is not shim else _not_running(generation)
        self.check_seconds += self.shared.clock.boot() - begin
        add(self.checks, result)
        return facts.Probed(generation, result == "success", output)

    async def _apply(self) -> facts.Event | None:
        definition = self.definition
        if definition is None:
            return None
        await to_thread.run_sync(self.shared.launcher.apply, definition)
        self._note_missing()
        if self.shim is not None:
            self._watch_parent()
            await self.shim.logconf(definition.logging.max_size, definition.logging.max_files)
        return None

    async def _forget(self) -> None:
        self.release()
        self.unwatch()
        self.shared.journal.forget(self.name)
        await to_thread.run_sync(self.shared.launcher.forget, self.name, abandon_on_cancel=True)
        await to_thread.run_sync(self.shared.store.forget, self.name, limiter=self.shared.store_threads)

    # -- kernel facts ---------------------------------------------------------------------------

    def noticed(self, notice: Notice) -> None:
        """What the watcher saw in this container's cgroups."""
        if notice.kind == "gone" and notice.key == self.name:
            self.pressure.lost()
            self._watching = False  # somebody removed the cgroup beneath us; the next run makes it and its watch anew
        if self.shim is None:
            return
        if notice.kind == "pressure":
            self._pressed(self.pressure.fired(notice, self.shim.generation))
        elif notice.file == "memory.events":
            self._memory_events(dict(notice.deltas))
        elif notice.file == "pids.events" and notice.deltas.get("max", 0) > 0:
            self._remark("pids-max", "the limit of processes was met")

    def _pressed(self, event: facts.Pressure | None) -> None:
        if event is not None:
            self.tell(event)

    def _memory_events(self, deltas: dict[str, int]) -> None:
        """A kill while init lives is the container's event, not its end."""
        if deltas.get("high", 0) > 0 and self.shim is not None:
            self._pressed(self.pressure.high(self.shim.generation))
        kills = deltas.get("oom_kill", 0)
        if kills <= 0 or self.shim is None or pidfds.has_exited(self.shim.pidfd):
            return
        if self.definition is not None and self.definition.oom.group:
            return  # all of it dies: the end will say so
        self.shared.tasks.start_soon(self._count_child_oom, scope_of_child_kill(deltas), kills)
        self.tell(facts.ChildOom(self.shim.generation, kills))

    async def _count_child_oom(self, scope: facts.Scope, kills: int) -> None:
        add(self.tally.oom_kills, scope, kills)
        with suppress(HostError):
            await to_thread.run_sync(
                self.shared.store.count_oom, self.name, scope, kills, limiter=self.shared.store_threads
            )

    def _remark(self, kind: str, text: str) -> None:
        """An event for the stream that decides nothing; at most one of a kind in a while, for flash wears out."""
        now = self.shared.clock.boot()
        if self.shim is None or now - self._remarked.get(kind, -REMARK_EVERY) < REMARK_EVERY:
            return
        self._remarked[kind] = now
        self.remark(Said(type_of(kind), self.shim.generation, kind, text))

    def remark(self, *said: Said) -> None:
        phase = self.phase()
        self.shared.journal.later(self.shared.journal.event(self.name, one, phase, phase) for one in said)


def _not_running(generation: int) -> facts.Probed:
    return facts.Probed(generation, ok=False, output="not running")
