"""A model of the shell around the core: keepers, effects, the first look. It dies between any two effects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from config.changes import diff
from config.model import Container
from supervisor.lifecycle import step as core
from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    Answer,
    ApplyLive,
    ChildOom,
    Clean,
    Dependencies,
    Effect,
    End,
    Ended,
    Event,
    Failed,
    Forget,
    KillAll,
    Launch,
    Launched,
    LaunchFailed,
    Persist,
    Pressure,
    Probe,
    Probed,
    RecordEnd,
    Redefined,
    RestartAsked,
    ShimLost,
    Signal,
    Source,
    StartAsked,
    State,
    StopAsked,
    TakenOver,
    Tick,
)
from tests.sim.kernel import Disk, DiskFullError, Kernel, Run, Violation, some_end

Request = StartAsked | StopAsked | RestartAsked
TOLD_AGAIN = 2.0
START_TIMEOUT = 30.0


class Died(Exception):  # noqa: N818  what happens in the test
    """The daemon is dead from here on."""


@dataclass(slots=True)
class Odds:
    """How often things go wrong in this history, and how its containers behave."""

    moods: list[str]
    lifetime: float
    launch_fails: float = 0.0
    launch_hangs: float = 0.0
    launch_slow: float = 0.0
    ignores_term: float = 0.0
    d_state: float = 0.0
    child_oom: float = 0.0
    sick: float = 0.0
    pressed: float = 0.0
    disk_full: float = 0.0
    deaths: float = 0.0  # of the daemon, an effect
    reboots: float = 0.0
    suspends: float = 0.0
    redefines: float = 0.0
    shim_losses: float = 0.0


class Keeper:
    """One container's only writer (supervisor/keeper.py)."""

    def __init__(self, daemon: Daemon, state: State) -> None:
        self.daemon = daemon
        self.state = state
        self.inbox: deque[Event] = deque()
        self.running: Container | None = None  # the definition that the live run was started with
        self.held: Event | None = None  # could not be stored: told again before all other facts
        self.not_before = 0.0

    def wake(self) -> float | None:
        """When `next_event` has something."""
        if self.held is not None:
            asked = any(isinstance(event, Request) for event in self.inbox)
            return self.daemon.kernel.now if asked else self.not_before
        if self.inbox:
            return self.daemon.kernel.now
        return self.state.wake_at

    def next_event(self) -> Event:
        """A queued event comes before a Tick that is overdue; a request need not wait for a held fact."""
        if self.held is not None and self.daemon.kernel.now >= self.not_before:
            event, self.held = self.held, None
            return event
        if self.held is not None:
            at = next(i for i, event in enumerate(self.inbox) if isinstance(event, Request))
            event = self.inbox[at]
            del self.inbox[at]
            return event
        return self.inbox.popleft() if self.inbox else Tick()

    def latest(self) -> Container:
        """The definition that was told last, also when it is not decided yet."""
        queued = [e.definition for e in (self.held, *self.inbox) if isinstance(e, Redefined)]
        return queued[-1] if queued else self.state.definition

    def turn(self, event: Event) -> None:
        daemon, before, now = self.daemon, self.state, self.daemon.kernel.now
        after, effects = core.step(before, event, now)
        daemon.watch(before, event, after, effects)
        self.state = after
        if any(isinstance(e, Persist | RecordEnd) for e in effects):
            daemon.maybe_die()
            saved = [e.saved for e in effects if isinstance(e, Persist)]
            try:
                daemon.disk.commit(
                    after.name, saved[-1] if saved else None, [e.end for e in effects if isinstance(e, RecordEnd)],
                    daemon.kernel.boot,
                )  # fmt: skip
            except DiskFullError:
                self.take_back(before, event)
                return
        daemon.world.stored(before, event, effects)
        for effect in effects:
            daemon.maybe_die()
            daemon.perform(self, effect)
        daemon.changed(before, after)

    def take_back(self, before: State, event: Event) -> None:
        """What cannot be stored did not happen."""
        self.state = before
        if isinstance(event, Request):
            self.daemon.refused(before.name, event)
        else:
            self.not_before = self.daemon.kernel.now + TOLD_AGAIN
            assert self.held is None
            self.held = event


class Daemon:
    """From its start to its death. The kernel and the disk outlive it."""

    def __init__(self, kernel: Kernel, disk: Disk, odds: Odds, wanted: dict[str, Container], world: Watcher) -> None:
        self.kernel, self.disk, self.odds, self.world = kernel, disk, odds, world
        self.luck = kernel.luck
        self.alive = True
        self.keepers: dict[str, Keeper] = {}
        self.told_unmet: dict[str, tuple[str, ...]] = {}
        self.wanted = wanted
        kernel.on_end = self.ended

    # -- plumbing -------------------------------------------------------------------------------

    def after(self, delay: float, call: Callable[[], None]) -> None:
        """Later, if this daemon still lives then."""
        self.kernel.at(self.kernel.now + delay, lambda: call() if self.alive else None)

    def tell(self, name: str, event: Event, delay: float = 0.0) -> None:
        """To whoever keeps it now; not to a later keeper of the same name."""
        keeper = self.keepers.get(name)
        if keeper is not None:
            self.after(delay, lambda: keeper.inbox.append(event))

    def maybe_die(self) -> None:
        if self.luck.random() < self.odds.deaths:
            self.alive = False
            raise Died

    def watch(self, before: State, event: Event, after: State, effects: tuple[Effect, ...]) -> None:
        self.world.stepped(before, event, after, effects)

    def refused(self, name: str, event: Request) -> None:
        self.world.answered(name, event.request, ok=False)

    def next_wake(self) -> tuple[float, Keeper] | None:
        found: tuple[float, Keeper] | None = None
        for keeper in self.keepers.values():
            due = keeper.wake()
            if due is not None and (found is None or due < found[0]):
                found = due, keeper
        return found

    # -- start: what runs? ----------------------------------------------------------------------

    def start(self) -> None:
        for name in sorted(set(self.wanted) | {name for name, _ in self.kernel.dirs}):
            self.add(name)

    def add(self, name: str) -> None:
        """Also a run that no definition declares now: it is removed by the definition that it was started with."""
        runs = sorted((g for n, g in self.kernel.dirs if n == name), reverse=True)
        declared = self.wanted.get(name)
        definition = declared or self.kernel.dirs[name, runs[0]]
        row = self.disk.rows.get(name)
        keeper = Keeper(self, core.initial(definition, f"host/{name}", row.saved if row else None))
        self.keepers[name] = keeper
        self.after(self.luck.choice([0.0, 0.0, 0.3, 6.0]), lambda: self.look(name, declared is None))

    def look(self, name: str, removed: bool) -> None:
        keeper, kernel = self.keepers[name], self.kernel
        row = self.disk.rows.get(name)
        booted = row is None or row.boot != kernel.boot
        live = [run for run in kernel.procs if run[0] == name]
        runs = sorted((g for n, g in kernel.dirs if n == name), reverse=True)
        self.tell_unmet(name)
        if live:
            proc = kernel.procs[live[0]]
            keeper.running = proc.definition
            keeper.inbox.append(Adopted(proc.run[1], proc.pid, proc.started))
            self.press(proc.run)
            change = diff(proc.definition, keeper.state.definition)
            if change.kind != "same":
                keeper.inbox.append(Redefined(keeper.state.definition, change.kind == "restart", change.fields))
        else:
            end = None
            if runs:
                left = kernel.records.get((name, runs[0]))
                if left is None:
                    end = End(runs[0], None, kernel.now, source=Source.LOST, detail="daemon and shim were both gone")
                    kernel.truth((name, runs[0])).known = False
                else:
                    end = replace(left, source=Source.ADOPTED)
            last = keeper.state.last_end
            if end is not None and last is not None and last.generation >= end.generation:
                self.remove_dir((name, end.generation))
                end = None
            keeper.inbox.append(Absent(end, booted))
        for generation in runs[1:] if runs else []:
            self.remove_dir((name, generation))
        if removed:
            self.world.removing(name)

    # -- kernel facts ---------------------------------------------------------------------------

    def ended(self, run: Run, end: End) -> None:
        if self.alive:
            self.tell(run[0], Ended(end), self.luck.choice([0.0, 0.01, 1.0]))
            if self.luck.random() < 0.1:  # news may come twice and late
                self.tell(run[0], Ended(end), self.luck.uniform(0, 20))

    def lose_shim(self, run: Run) -> None:
        """Told at once, again while nothing takes over, and over when something does, if the run lives so long."""
        luck = self.luck
        self.tell(run[0], ShimLost(run[1], "killed"))
        after = 0.0
        for _ in range(luck.choice([0, 0, 1, 5])):
            after += luck.uniform(0, 10)
            self.tell(run[0], ShimLost(run[1], "cannot start a shim"), after)
            self.tell(run[0], Probed(run[1], ok=False, output="no shim"), after)
        self.tell(run[0], TakenOver(run[1]), after + luck.uniform(0, 1))

    def remove_dir(self, run: Run) -> None:
        self.kernel.dirs.pop(run, None)
        self.kernel.records.pop(run, None)

    # -- dependencies ---------------------------------------------------------------------------

    def changed(self, before: State, after: State) -> None:
        if (before.phase, before.health, before.last_end) != (after.phase, after.health, after.last_end):
            for name, keeper in self.keepers.items():
                if after.name in keeper.state.definition.depends_on:
                    self.tell_unmet(name)

    def tell_unmet(self, name: str) -> None:
        keeper = self.keepers[name]
        definition = keeper.latest()
        if not definition.depends_on and not keeper.state.unmet:
            return
        states = {n: k.state for n, k in self.keepers.items()}
        unmet = core.dependency_unmet(definition, states)
        if self.told_unmet.get(name) != unmet:
            self.told_unmet[name] = unmet
            keeper.inbox.append(Dependencies(unmet))

    # -- effects --------------------------------------------------------------------------------

    def perform(self, keeper: Keeper, effect: Effect) -> None:
        name, kernel, luck = keeper.state.name, self.kernel, self.luck
        match effect:
            case Answer():
                self.world.answered(name, effect.request, effect.ok)
            case Signal():
                kernel.signal((name, effect.generation), effect.signal)
            case KillAll():
                kernel.kill((name, effect.generation))
            case Launch():
                self.launch(keeper, (name, effect.generation))
            case Clean():
                self.after(luck.uniform(0, 0.2), lambda: self.clean(keeper, (name, effect.generation)))
            case Probe():
                ok = luck.random() >= self.odds.sick
                told: Event = Probed(effect.generation, ok, "")
                if not ok and luck.random() < 0.3:
                    told = Failed("Probe", effect.generation, "no answer")
                self.tell(name, told, luck.uniform(0, 2))
            case ApplyLive():
                if keeper.running is not None:
                    keeper.running = keeper.state.definition
                    for proc in kernel.procs.values():
                        if proc.run[0] == name:
                            proc.definition = keeper.state.definition
            case Forget():
                self.forget(name)
            case _:
                pass

    def launch(self, keeper: Keeper, run: Run) -> None:
        """The shim goes on by itself once it has its start message, also when the daemon dies then."""
        kernel, luck, odds = self.kernel, self.luck, self.odds
        definition = keeper.running = keeper.state.definition
        kernel.dirs[run] = definition
        luck_now = luck.random()
        takes = luck.uniform(5, 29) if luck.random() < odds.launch_slow else luck.uniform(0.001, 0.05)
        boot = kernel.boot
        if luck_now < odds.launch_hangs:
            # The engine gives up; the process may appear all the same until somebody kills what there is.
            kernel.truth(run).known = False
            if luck.random() < 0.5:
                kernel.at(kernel.now + luck.uniform(1, START_TIMEOUT), lambda: self.begin(run, definition, boot))
            self.tell(run[0], Failed("Launch", run[1], "no end after 30 s"), START_TIMEOUT)
        elif luck_now < odds.launch_hangs + odds.launch_fails:

            def fail() -> None:
                self.remove_dir(run)
                keeper.inbox.append(LaunchFailed(run[1], "no such file", luck.random() < 0.5))

            self.after(takes, fail)
        else:

            def done() -> None:
                proc = self.begin(run, definition, boot)
                if proc is not None and self.alive:
                    self.tell(run[0], Launched(run[1], proc, kernel.procs[run].started))

            kernel.at(kernel.now + takes, done)

    def begin(self, run: Run, definition: Container, boot: int) -> int | None:
        kernel, luck, odds = self.kernel, self.luck, self.odds
        if kernel.boot != boot or run not in kernel.dirs:
            return None
        if not self.alive and kernel.now > self.world.died_at + 0.1:
            return None  # the shim has long seen that nobody is there
        lives = luck.expovariate(1 / odds.lifetime) if luck.random() < 0.7 else 0.0
        habits = {"ignores_term": luck.random() < odds.ignores_term}
        proc = kernel.spawn(run, definition, some_end(luck, odds.moods) if odds.moods else None, lives, **habits)
        if luck.random() < odds.d_state:
            proc.asleep_until = kernel.now + luck.uniform(1, 200)
        if luck.random() < odds.child_oom:
            self.tell(run[0], ChildOom(run[1], 1), luck.uniform(0, 20))
        self.press(run)
        return proc.pid

    def press(self, run: Run) -> None:
        """Its tasks wait for a while."""
        luck = self.luck
        if luck.random() < self.odds.pressed:
            source, begin = luck.choice(["memory", "memory", "io"]), luck.choice([0.0, 0.0, 20.0])
            for n in range(luck.choice([1, 5, 12])):
                self.tell(run[0], Pressure(run[1], source, "some", 2.0), begin + n * luck.choice([2.0, 2.0, 2.5]))

    def clean(self, keeper: Keeper, run: Run) -> None:
        if self.keepers.get(run[0]) is not keeper:
            return  # forgotten meanwhile; a new one of the same name begins with the same numbers
        if run in self.kernel.procs:
            self.kernel.kill(run)
            self.tell(run[0], Failed("Clean", run[1], "a process does not die"), self.luck.uniform(1, 14))
            return
        row = self.disk.rows.get(run[0])
        if run in self.kernel.records and (row is None or run[1] not in row.ends) and run[0] in self.keepers:
            raise Violation(f"I5: the record of {run} is removed before its end is stored")
        self.remove_dir(run)

    def forget(self, name: str) -> None:
        def done() -> None:
            try:
                self.disk.forget(name)
            except DiskFullError:
                self.after(TOLD_AGAIN, done)
                return
            self.kernel.life[name] = self.kernel.life.get(name, 0) + 1
            for run in [run for run in self.kernel.dirs if run[0] == name]:
                self.remove_dir(run)
            self.world.forgotten(name)

        done()


class Watcher:
    """What the history looks at (history.py)."""

    died_at = 0.0

    def stepped(self, before: State, event: Event, after: State, effects: tuple[Effect, ...]) -> None: ...
    def answered(self, name: str, request: int, ok: bool) -> None: ...
    def stored(self, before: State, event: Event, effects: tuple[Effect, ...]) -> None: ...
    def removing(self, name: str) -> None: ...
    def forgotten(self, name: str) -> None: ...
