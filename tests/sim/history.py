"""One seeded history: a host, what befalls it, and what must hold all along (I1 to I5) and in the end (liveness)."""

from __future__ import annotations

from random import Random
from typing import Any

from config.changes import diff
from config.model import Container
from supervisor.lifecycle import step as core
from supervisor.lifecycle.diagram import LEADS
from supervisor.lifecycle.facts import (
    Absent,
    Answer,
    ChildOom,
    Desired,
    Effect,
    Ended,
    Event,
    Failed,
    Health,
    KillAll,
    Launch,
    LaunchFailed,
    Persist,
    Phase,
    Pressure,
    Probed,
    RecordEnd,
    Redefined,
    Removed,
    RestartAsked,
    Signal,
    StartAsked,
    State,
    StopAsked,
    Tick,
)
from supervisor.lifecycle.restart import longest, succeeded
from tests.sim.daemon import Daemon, Died, Odds, Request, Watcher
from tests.sim.kernel import Disk, Kernel, Run, Violation
from tests.sim.scenery import definition, odds

QUIET = 330.0  # longer than any D state, hold, grace, launch and retry of these histories
STEPS = 6000


class History(Watcher):
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.luck = luck = Random(seed)
        self.kernel, self.disk, self.odds = Kernel(luck), Disk(), odds(luck)
        self.names = ["app"] if luck.random() < 0.6 else ["app", "db"]
        self.wanted = {name: self.define(name) for name in self.names}
        self.daemon: Daemon | None = None
        self.requests = 0
        self.pending: dict[int, Request] = {}
        self.asked_of: dict[int, str] = {}
        self.acked: dict[str, str] = {}  # up down, or ? when a request died unanswered
        self.restarts: dict[str, int] = {}  # the generation that an acknowledged restart has to end
        self.may_end: set[str] = set()
        self.pressed: dict[str, float] = {}  # when pressure ended a run
        self.removed: set[str] = set()
        self.steps = 0
        self.edges: set[tuple[str, Phase, Phase]] = set()  # transitions that were seen

    def define(self, name: str) -> Container:
        return definition(self.luck, name, "db" if name == "app" and len(self.names) > 1 else None)

    def run(self) -> None:
        try:
            self.boot()
            for _ in range(self.luck.randint(5, 25)):
                self.loop(self.kernel.now + self.luck.expovariate(1 / self.luck.choice([1.0, 10.0, 60.0])))
                self.something()
            self.calm()
            self.loop(self.kernel.now + QUIET)
            self.check_end()
        except Violation as error:
            raise Violation(f"seed {self.seed}: {error}") from error
        except Exception as error:
            raise Violation(f"seed {self.seed}: {type(error).__name__}: {error}") from error

    # -- the run of things ----------------------------------------------------------------------

    def boot(self) -> None:
        self.daemon = Daemon(self.kernel, self.disk, self.odds, self.wanted, self)
        self.daemon.start()

    def loop(self, until: float) -> None:
        boots = self.kernel.boot
        while self.kernel.boot == boots:
            self.steps += 1
            if self.steps > STEPS:
                raise Violation("it spins")
            due = self.daemon.next_wake() if self.daemon is not None else None
            other = self.kernel.next_time()
            if due is not None and (other is None or due[0] <= other):
                if due[0] > until:
                    break
                self.kernel.now = max(self.kernel.now, due[0])
                self.turn(due[1])
            elif other is not None and other <= until:
                self.kernel.run_next()
            else:
                break
        self.kernel.now = max(self.kernel.now, until) if self.kernel.boot == boots else self.kernel.now

    def turn(self, keeper: Any) -> None:
        try:
            keeper.turn(keeper.next_event())
        except Died:
            self.died()
            return
        if keeper.state.done and self.daemon is not None:
            self.daemon.keepers.pop(keeper.state.name)
            self.daemon.told_unmet.pop(keeper.state.name, None)

    def died(self) -> None:
        assert self.daemon is not None
        self.daemon.alive = False
        self.daemon = None
        self.died_at = self.kernel.now
        for request in self.pending:
            self.acked[self.asked_of[request]] = "?"
        self.pending.clear()
        self.removed.clear()
        boot = self.kernel.boot
        wait = self.luck.choice([0.2, 1.0, 30.0])
        self.kernel.at(self.kernel.now + wait, lambda: self.boot() if self.kernel.boot == boot else None)

    # -- what befalls it ------------------------------------------------------------------------

    def something(self) -> None:
        luck, odds = self.luck, self.odds
        name = luck.choice(self.names)
        if luck.random() < odds.disk_full:
            self.disk.full = not self.disk.full
        if luck.random() < odds.suspends:
            self.kernel.suspend(luck.choice([1.0, 100.0, 36000.0]))
        if luck.random() < odds.reboots:
            self.reboot()
        if luck.random() < odds.deaths * 4 and self.daemon is not None:
            self.died()
        if luck.random() < odds.shim_losses and self.daemon is not None:
            for run in [run for run in self.kernel.procs if run[0] == name]:
                self.daemon.lose_shim(run)
        if luck.random() < odds.redefines:
            self.redefine(name)
        if luck.random() < 0.7:
            self.ask(name)

    def reboot(self) -> None:
        if self.daemon is not None:
            self.died()
        self.disk.power_cut()
        self.kernel.reboot()
        self.acked = {name: acked for name, acked in self.acked.items() if acked == "down"}
        self.restarts.clear()
        self.pressed.clear()
        self.boot()

    def ask(self, name: str) -> None:
        if self.daemon is None or name not in self.daemon.keepers:
            return
        self.requests += 1
        number = self.requests
        event: Request = self.luck.choice(
            (
                StartAsked(number, "op"),
                StopAsked(number, "op"),
                RestartAsked(number, "op"),
                StopAsked(number, "op", True),
            )
        )
        self.pending[number], self.asked_of[number] = event, name
        self.daemon.keepers[name].inbox.append(event)

    def redefine(self, name: str) -> None:
        """As the fleet does: added, changed or removed, by what the daemon knows now."""
        gone = self.luck.random() < 0.2
        if gone:
            self.wanted.pop(name, None)
        else:
            self.wanted[name] = self.define(name)
        self.apply(name)

    def apply(self, name: str) -> None:
        daemon = self.daemon
        if daemon is None:
            return
        new, keeper = self.wanted.get(name), daemon.keepers.get(name)
        if keeper is None or name in self.removed:
            if new is not None and name not in self.removed and keeper is None:
                self.removed.discard(name)
                daemon.add(name)
            return
        if new is None:
            self.removing(name)
            return
        change = diff(keeper.latest(), new)
        if change.kind != "same":
            keeper.inbox.append(Redefined(new, change.kind == "restart", change.fields))
        daemon.tell_unmet(name)

    def removing(self, name: str) -> None:
        assert self.daemon is not None
        self.removed.add(name)
        self.acked.pop(name, None)
        self.restarts.pop(name, None)
        self.daemon.keepers[name].inbox.append(Removed())

    def forgotten(self, name: str) -> None:
        self.removed.discard(name)
        self.pressed.pop(name, None)
        self.acked.pop(name, None)
        self.restarts.pop(name, None)
        daemon = self.daemon
        if daemon is not None:
            daemon.after(0.5, lambda: self.apply(name))  # defined again meanwhile

    def calm(self) -> None:
        """Faults end; what runs goes on as it is."""
        self.disk.full = False
        calm = Odds(self.odds.moods, self.odds.lifetime)
        for field in calm.__slots__:
            if field not in ("moods", "lifetime"):
                setattr(self.odds, field, 0.0)
        for name in self.names:
            self.apply(name)

    # -- what must hold -------------------------------------------------------------------------

    def stepped(self, before: State, event: Event, after: State, effects: tuple[Effect, ...]) -> None:
        name, now = before.name, self.kernel.now
        stored = False
        if before.phase is not after.phase:
            edge = (type(event).__name__, before.phase, after.phase)
            if after.phase not in LEADS.get(edge[:2], ()):
                raise Violation(f"not in the table of transitions: {edge}")
            self.edges.add(edge)
        if isinstance(event, Absent) and event.booted and after.definition.restart.policy == "always":
            self.acked.pop(name, None)  # a boot ends a stop under `always`, as documented
        for effect in effects:
            match effect:
                case Persist():
                    stored = True
                    if effect.saved != core.saved_of(after):
                        raise Violation("what is stored is not the state")
                case RecordEnd() if stored:
                    raise Violation("I5: an end is recorded after the Persist that forgets it")
                case Launch():
                    if core.alive(before) and not isinstance(event, self.ENDS):
                        raise Violation(
                            f"I2: launch in {before.phase} with pid {before.pid}, launching {before.launching}"
                        )
                    if not stored or effect.generation != before.generation + 1:
                        raise Violation(f"launch of {effect.generation} after {before.generation}, stored {stored}")
                    if after.explicit_stop or (self.acked.get(name) == "down" and not self.asked(name)):
                        raise Violation("I4: a start after an acknowledged stop")
                    self.may_end.discard(name)
                case Answer(ok=True) | Signal():
                    if not stored:
                        raise Violation(f"I4: {effect} before its intent is stored")
                case KillAll():
                    if not stored and before.kills == 0:
                        raise Violation("I4: a kill before its intent is stored")
        self.check_kept(before, event, after, effects)
        self.check_waits(after, now, isinstance(event, Tick))

    ENDS = (Ended, LaunchFailed, Failed, Absent)

    def check_kept(self, before: State, event: Event, after: State, effects: tuple[Effect, ...]) -> None:
        """I1: what runs is ended only if somebody asked for it, or it failed a check."""
        name = before.name
        match event:
            case StopAsked() | RestartAsked() | Removed() | Redefined(restart=True):
                self.may_end.add(name)
            case ChildOom() | Failed() if event.generation == before.generation:
                self.may_end.add(name)
            case Probed() if after.health is Health.UNHEALTHY:
                self.may_end.add(name)
            case Pressure() if after.definition.on_pressure == "restart" and event.source == "memory":
                self.may_end.add(name)
        if name in self.may_end or not any(isinstance(effect, Signal | KillAll) for effect in effects):
            return
        row = self.disk.rows.get(name)
        going = row is not None and (row.saved.phase is Phase.STOPPING or row.saved.desired is Desired.DOWN)
        if not going and not (row is not None and row.saved.health_stop):
            raise Violation(f"I1: run {before.generation} is ended by {event}, and nobody asked for it")

    def stored(self, before: State, event: Event, effects: tuple[Effect, ...]) -> None:
        """Restarts by pressure do not follow each other within the cool-down, whatever became of the daemon."""
        if not isinstance(event, Pressure) or not any(isinstance(effect, Signal | KillAll) for effect in effects):
            return
        last, now = self.pressed.get(before.name), self.kernel.now
        if last is not None and now < last + before.definition.pressure.cool_down:
            raise Violation(f"restarted for pressure {now - last} s after the last time")
        self.pressed[before.name] = now

    def asked(self, name: str) -> bool:
        return any(self.asked_of[request] == name for request in self.pending)

    def check_waits(self, s: State, now: float, ticked: bool) -> None:
        """Whatever waits has a time, or an event that must come; a Tick leaves nothing overdue."""
        if ticked and s.wake_at is not None and s.wake_at <= now:
            raise Violation(f"a Tick in {s.phase} leaves {s.wake_at} <= {now}: it spins")
        if s.phase is Phase.BACKOFF:
            if s.retry_at is None or s.wake_at is None:
                raise Violation("BACKOFF without a time")
            if s.retry_at > now + max(longest(s.definition.restart), 30.0):
                raise Violation(f"BACKOFF for {s.retry_at - now} s")
        if s.phase is Phase.STOPPING and not s.launching and (s.pid is None or s.wake_at is None):
            raise Violation("STOPPING that nothing ends")
        if s.explicit_stop and s.phase not in (Phase.STOPPED, Phase.STOPPING, Phase.UNKNOWN):
            raise Violation(f"explicitly stopped, and {s.phase}")

    def answered(self, name: str, request: int, ok: bool) -> None:
        event = self.pending.pop(request)
        if not ok:
            return
        saved = self.disk.rows[name].saved
        down = isinstance(event, StopAsked)
        if name not in self.removed:
            if (saved.desired is Desired.DOWN) != down or saved.explicit_stop != down:
                raise Violation(f"I4: {type(event).__name__} is acknowledged, stored is {saved.desired}")
            self.acked[name] = "down" if down else "up"
        self.restarts.pop(name, None)
        if isinstance(event, RestartAsked):
            alive = [run for run in self.kernel.procs if run[0] == name]
            self.restarts[name] = alive[0][1] if alive else 0

    # -- the end --------------------------------------------------------------------------------

    def check_end(self) -> None:
        daemon = self.daemon
        if daemon is None:
            raise Violation("the daemon did not come back")
        for name in self.names:
            keeper = daemon.keepers.get(name)
            alive = [run for run in self.kernel.procs if run[0] == name]
            if keeper is None or name not in self.wanted:
                if keeper is not None or alive:
                    raise Violation(f"{name} is removed, and there is {keeper and keeper.state.phase} {alive}")
                if name in self.wanted:
                    raise Violation(f"{name} is defined, and nobody keeps it")
                continue
            self.check_container(keeper.state, keeper.running, alive)
            self.check_ends(name)

    def check_container(self, s: State, running: Container | None, alive: list[Run]) -> None:
        if s.definition.digest != self.wanted[s.name].digest:
            raise Violation(f"{s.name} is kept by an old definition")
        if alive and (s.pid is None or alive != [(s.name, s.generation)]):
            raise Violation(f"{alive} live, and {s.phase} knows {s.pid} {s.generation}")
        if s.phase in (Phase.STARTING, Phase.RUNNING) and not core.alive(s) and not (s.unmet or s.retry_at):
            raise Violation(f"{s.phase} for ever")
        acked = self.acked.get(s.name)
        if acked == "down" and s.phase is not Phase.STOPPED:
            raise Violation(f"I4: acknowledged to stop, and {s.phase}")
        if acked == "up" and (s.desired is Desired.DOWN or (s.phase is Phase.STOPPED and not s.health_stop)):
            raise Violation(f"I4: acknowledged to start, and {s.phase}")
        if (s.name, self.restarts.get(s.name, 0)) in alive:
            raise Violation("I4: acknowledged to restart, and it was not")
        if s.phase in (Phase.UNKNOWN, Phase.STOPPING) and not s.launching and s.killed_at is None:
            raise Violation(f"{s.phase} for ever")
        if alive and running is not None and diff(running, s.definition).kind == "restart" and s.phase is Phase.RUNNING:
            raise Violation(f"{s.name} runs by an old definition")
        self.check_rest(s, alive)

    def check_rest(self, s: State, alive: list[Run]) -> None:
        """A state of rest has to be right."""
        rules = s.definition.restart
        failed = s.last_end is None or not succeeded(s.last_end, s.definition)
        match s.phase:
            case Phase.STOPPED if s.desired is Desired.UP and not s.health_stop:
                raise Violation("STOPPED, and nobody wanted it")
            case Phase.EXITED if rules.policy in ("always", "unless-stopped"):
                raise Violation(f"EXITED under {rules.policy}")
            case Phase.EXITED if rules.policy == "on-failure" and failed:
                raise Violation("EXITED under on-failure by a failure")
            case Phase.FATAL if s.cause.code not in ("exhausted", "launch-error"):
                raise Violation(f"FATAL by {s.cause}")
            case Phase.STARTING if s.unmet and self.daemon is not None:
                states = {n: k.state for n, k in self.daemon.keepers.items()}
                if not core.dependency_unmet(s.definition, states):
                    raise Violation(f"it waits for {s.unmet}, which are met")
            case _:
                pass

    def check_ends(self, name: str) -> None:
        """I5: each run that is over is recorded once (twice is caught at once), with what really was."""
        row, life = self.disk.rows.get(name), self.kernel.life.get(name, 0)
        ends = {} if row is None else row.ends
        for (lived, who, generation), truth in self.kernel.truths.items():
            if (lived, who) != (life, name) or not truth.began or (name, generation) in self.kernel.procs:
                continue
            if generation not in ends:
                if truth.end is not None and truth.end.ended > self.kernel.now - 2:
                    continue  # the news of it is on its way
                raise Violation(f"I5: run {generation} of {name} has no end: {truth}")
            said = ends[generation]
            if truth.known and truth.end is not None and (said.code, said.signal) != (truth.end.code, truth.end.signal):
                raise Violation(f"I5: run {generation} ended {truth.end}, recorded is {said}")
