"""What outlives the daemon: a fake kernel with its processes and run directories, and a fake disk. No real time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from config.model import Container
from supervisor.lifecycle.facts import End, Oom, Saved, Scope, Source
from supervisor.lifecycle.restart import start_failed

Run = tuple[str, int]  # name, generation


class Violation(AssertionError):  # noqa: N818  a finding
    """A promise is broken."""


@dataclass(slots=True)
class Proc:
    """The init of one run. `dies_at` is None while nothing has decided it yet."""

    run: Run
    pid: int
    started: float
    definition: Container
    natural: End | None  # how it ends by itself
    ignores_term: bool = False
    asleep_until: float = 0.0  # D state: no signal is taken before
    pending: End | None = None
    version: int = 0  # which scheduled death counts


@dataclass(slots=True)
class Truth:
    """What really became of a run, for I5."""

    end: End | None = None  # None: lives, or died with its boot
    known: bool = True  # an exit record was there to be read
    began: bool = False


class Kernel:
    """Processes, run directories (tmpfs: gone at a boot) and CLOCK_BOOTTIME."""

    def __init__(self, luck: Random) -> None:
        self.luck = luck
        self.now = 100.0
        self.boot = 1
        self.procs: dict[Run, Proc] = {}
        self.records: dict[Run, End] = {}
        self.dirs: dict[Run, Container] = {}
        self.truths: dict[tuple[int, str, int], Truth] = {}
        self.life: dict[str, int] = {}  # incarnation of a name: generations begin anew when it was forgotten
        self.on_end: Callable[[Run, End], None] = lambda run, end: None
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._seq = 0
        self._pid = 1000

    # -- time -----------------------------------------------------------------------------------

    def at(self, when: float, call: Callable[[], object]) -> None:
        self._seq += 1
        heapq.heappush(self._heap, (when, self._seq, call))

    def next_time(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def run_next(self) -> None:
        when, _, call = heapq.heappop(self._heap)
        self.now = max(self.now, when)
        call()

    def suspend(self, seconds: float) -> None:
        """The clock goes on, nobody else does: what the kernel does later comes later by as much."""
        self.now += seconds
        self._heap = [(when + seconds, seq, call) for when, seq, call in self._heap]
        heapq.heapify(self._heap)

    def reboot(self) -> None:
        """Power off and on: no process, no run directory, a clock that begins anew."""
        self.boot += 1
        self.now = self.luck.uniform(1, 30)
        self._heap.clear()
        for run in self.procs:
            self.truth(run).known = False
        for run in self.records:
            self.truth(run).known = False
        self.procs.clear()
        self.records.clear()
        self.dirs.clear()

    # -- runs -----------------------------------------------------------------------------------

    def truth(self, run: Run) -> Truth:
        return self.truths.setdefault((self.life.get(run[0], 0), *run), Truth())

    def spawn(self, run: Run, definition: Container, natural: End | None, lifetime: float, **habits: object) -> Proc:
        alive = [other for other in self.procs if other[0] == run[0]]
        if alive:
            raise Violation(f"I2: run {run} begins while {alive} lives")
        if self.truth(run).began:
            raise Violation(f"I2: generation is used twice: {run}")
        self._pid += 1
        proc = Proc(run, self._pid, self.now, definition, natural, **habits)  # type: ignore[arg-type]
        self.procs[run] = proc
        self.truth(run).began = True
        if natural is not None:
            self._die(proc, natural, lifetime)
        return proc

    def _die(self, proc: Proc, end: End, after: float) -> None:
        """`end` comes after so many seconds, or when the process wakes; the last decision counts."""
        proc.version += 1
        version, proc.pending = proc.version, end
        self.at(self.now + after, lambda: self._dies(proc, version))

    def _dies(self, proc: Proc, version: int) -> None:
        if proc.version != version or self.procs.get(proc.run) is not proc or proc.pending is None:
            return
        if self.now < proc.asleep_until:
            self.at(proc.asleep_until, lambda: self._dies(proc, version))
            return
        del self.procs[proc.run]
        said = proc.pending
        end = End(proc.run[1], proc.started, self.now, said.code, said.signal, said.oom, Source.SHIM)
        self.truth(proc.run).end = end
        self.records[proc.run] = end
        self.on_end(proc.run, end)

    def signal(self, run: Run, name: str) -> None:
        proc = self.procs.get(run)
        if proc is None:
            return  # a pidfd of an ended process: nobody is hit
        if name == "SIGKILL" or not proc.ignores_term:
            number = 9 if name == "SIGKILL" else 15
            self._die(proc, End(0, None, 0.0, signal=number), 0.0 if number == 9 else self.luck.uniform(0, 3))

    def kill(self, run: Run) -> None:
        proc = self.procs.get(run)
        if proc is not None:
            self._die(proc, End(0, None, 0.0, signal=9), 0.0)


def some_end(luck: Random, moods: list[str]) -> End:
    """How a run ends by itself."""
    match luck.choice(moods):
        case "ok":
            return End(0, None, 0.0, code=0)
        case "error":
            return End(0, None, 0.0, code=luck.choice([1, 2, 137]))
        case "signal":
            return End(0, None, 0.0, signal=luck.choice([6, 9, 11]))
        case _:
            return End(0, None, 0.0, signal=9, oom=Oom(True, True, luck.choice(list(Scope)), 1))


class DiskFullError(Exception):
    """ENOSPC: nothing of the batch is written."""


@dataclass(slots=True)
class Row:
    saved: Saved
    boot: int
    ends: dict[int, End] = field(default_factory=dict)


class Disk:
    """The store: one transaction a batch. What was not synced is gone after a power cut."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.full = False
        self.unsynced: list[Callable[[], None]] = []  # how to undo it
        self.writes = 0

    def commit(self, name: str, saved: Saved | None, ends: list[End], boot: int) -> None:
        """Everything or nothing. Only a batch with an intent is synced at once."""
        if self.full:
            raise DiskFullError
        self.writes += 1
        row = self.rows.get(name)
        old = None if row is None else Row(row.saved, row.boot, dict(row.ends))
        if row is None:
            row = self.rows[name] = Row(Saved(), boot)
        for end in ends:
            if end.generation in row.ends:
                if start_failed(row.ends[end.generation]):
                    continue  # a launch that was given up, and lived all the same: the store keeps the first word
                raise Violation(f"I5: the end of {name} {end.generation} is recorded twice")
            row.ends[end.generation] = end
        if saved is not None:
            row.saved, row.boot = saved, boot
            self.unsynced.clear()
        else:
            self.unsynced.append(lambda: self._restore(name, old))

    def _restore(self, name: str, old: Row | None) -> None:
        if old is None:
            self.rows.pop(name, None)
        else:
            self.rows[name] = old

    def forget(self, name: str) -> None:
        if self.full:
            raise DiskFullError
        self.rows.pop(name, None)
        self.unsynced.clear()

    def power_cut(self) -> None:
        for undo in reversed(self.unsynced):
            undo()
        self.unsynced.clear()
