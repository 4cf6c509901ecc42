"""Whatever comes, in whatever order: what must hold after each step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.model import Container
from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    Answer,
    Clean,
    Desired,
    Effect,
    End,
    Ended,
    Event,
    Failed,
    Forget,
    KillAll,
    Launch,
    LaunchFailed,
    Oom,
    Persist,
    Phase,
    Probe,
    RecordEnd,
    Scope,
    Signal,
    Source,
    State,
    Tick,
)
from supervisor.lifecycle.restart import longest
from supervisor.lifecycle.step import RANK, alive, initial, saved_of, step
from tests.unit.lifecycle.world import begin, define, events

KEYS = sorted(events(begin()))
ENDS = st.sampled_from(
    (
        {"code": 0}, {"code": 1}, {"signal": 11}, {"source": Source.LOST},
        {"signal": 9, "oom": Oom(True, True, Scope.HOST, 2)},
    )
)  # fmt: skip
GAPS = st.sampled_from((0.0, 0.001, 0.5, 1.5, 11.0, 61.0, 601.0, 40000.0))
MOVES = st.tuples(
    st.sampled_from([*KEYS, "wake", "wake", "wake", "Ended", "daemon", "boot"]), GAPS, st.integers(-1, 1), ENDS
)


@st.composite
def definitions(draw: st.DrawFn) -> Container:
    policy = draw(st.sampled_from(("no", "on-failure", "unless-stopped", "always")))
    restart: dict[str, Any] = {
        "policy": policy,
        "interval": draw(st.sampled_from((0.0, 1.0, 10.0))),
        "on_exhausted": draw(st.sampled_from(("fatal", "slow"))),
    }
    if policy == "on-failure":
        restart["max_attempts"] = draw(st.sampled_from((None, 1, 3)))
    fields: dict[str, Any] = {
        "restart": restart,
        "autostart": draw(st.booleans()),
        "stop_grace_period": draw(st.sampled_from((0.0, 10.0))),
        "healthy_after": draw(st.sampled_from((0.0, 1.0))),
        "oom": {"group": False, "on_child_kill": draw(st.sampled_from(("ignore", "restart")))},
    }
    if action := draw(st.sampled_from(("", "restart", "stop", "event"))):
        fields["healthcheck"] = {"test": ["CMD", "x"], "interval": 5, "retries": 1, "on_failure": action}
    if draw(st.booleans()):
        fields["depends_on"] = {"db": {"condition": "started"}}
    return define(**fields)


class Watch:
    """A container, and what its history allows."""

    def __init__(self, definition: Container) -> None:
        self.s = initial(definition, "host/web", None)
        self.now = 100.0
        self.launched = 0
        self.recorded: set[int] = set()

    def move(self, key: str, gap: float, shift: int, how: dict[str, Any]) -> None:
        self.now += gap
        if key == "wake":
            if self.s.wake_at is not None:
                self.now = max(self.now, self.s.wake_at)
            self.tell(Tick())
        elif key in ("daemon", "boot"):
            self.restart(key == "boot", how)
        else:
            self.tell(self.event(key, shift, how))

    def event(self, key: str, shift: int, how: dict[str, Any]) -> Event:
        event = events(self.s)[key]
        if isinstance(event, Ended):
            end = End(self.s.generation + shift, self.s.started_at, self.now, **how)
            return Ended(end)
        generation = getattr(event, "generation", None)
        return replace(event, generation=generation + shift) if generation and shift else event

    def restart(self, booted: bool, how: dict[str, Any]) -> None:
        """The daemon dies, or the host: what was stored, and what runs."""
        was = self.s
        if was.done:
            return
        self.s = initial(was.definition, was.seed, saved_of(was))
        if booted:
            self.now = 5.0
            self.tell(Absent(booted=True))
        elif was.pid is not None and "code" not in how:
            self.tell(Adopted(was.generation, was.pid, was.started_at or self.now))
        else:
            unseen = was.pid is not None and was.generation not in self.recorded
            self.tell(Absent(End(was.generation, was.started_at, self.now, **how) if unseen else None))

    def tell(self, event: Event) -> None:
        before = self.s
        self.s, effects = step(before, event, self.now)
        self.order(effects)
        self.intent(before, effects)
        self.runs(before, event, effects)
        self.rest(before, event)

    def order(self, effects: tuple[Effect, ...]) -> None:
        ranks = [RANK[type(effect)] for effect in effects]
        assert ranks == sorted(ranks)
        assert sum(isinstance(effect, Persist) for effect in effects) <= 1

    def intent(self, before: State, effects: tuple[Effect, ...]) -> None:
        """Never an answer, a signal or a launch without what it follows from being stored before."""
        stored = False
        for effect in effects:
            if isinstance(effect, Persist):
                stored = True
                assert effect.saved == saved_of(self.s)
            elif isinstance(effect, Signal | Launch) or (isinstance(effect, Answer) and effect.ok and not before.done):
                assert stored
            elif isinstance(effect, KillAll):
                assert stored or before.kills

    def runs(self, before: State, event: Event, effects: tuple[Effect, ...]) -> None:
        s = self.s
        for effect in effects:
            match effect:
                case Launch():
                    over = isinstance(event, Ended | LaunchFailed | Absent | Failed)
                    assert not alive(before) or over
                    assert effect.generation == s.generation > self.launched
                    assert s.launching
                    assert s.desired is Desired.UP
                    assert before.held_until is None or before.held_until <= self.now
                    self.launched = effect.generation
                case Signal() | KillAll() | Probe() | Clean():
                    assert effect.generation in (before.generation, s.generation)
                case RecordEnd():
                    assert effect.end.generation not in self.recorded
                    self.recorded.add(effect.end.generation)
                case Forget():
                    assert s.done
        assert not (s.launching and s.pid is not None)
        assert s.generation >= before.generation

    def rest(self, before: State, event: Event) -> None:
        """Whatever waits has a time or an event that must come; a stop stays a stop; a Tick leaves nothing overdue."""
        s = self.s
        if isinstance(event, Tick) and s.wake_at is not None:
            assert s.wake_at > self.now
        up = s.phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING)
        assert up == alive(s) or s.phase is Phase.STARTING
        if s.phase is Phase.STARTING and not alive(s):
            assert s.unmet or s.wake_at is not None
        if s.phase is Phase.STOPPING and not s.launching:
            assert s.wake_at is not None
        if s.phase is Phase.BACKOFF:
            assert s.retry_at is not None
            assert s.wake_at is not None
            assert s.retry_at <= self.now + longest(s.definition.restart)
        else:
            assert s.backoff is None
        if s.explicit_stop:
            assert s.desired is Desired.DOWN
            assert s.phase in (Phase.STOPPED, Phase.STOPPING, Phase.UNKNOWN)
        if s.desired is Desired.UP and s.phase is Phase.STOPPED:
            assert s.health_stop
        assert s.cause.text
        assert len(s.ends) <= 5
        if s.phase in (Phase.EXITED, Phase.FATAL, Phase.STOPPED):
            assert not s.crash_looping


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(definitions(), st.lists(MOVES, max_size=60))
def test_any_history(definition: Container, moves: list[Any]) -> None:
    watch = Watch(definition)
    watch.tell(Absent(booted=True))
    for move in moves:
        watch.move(*move)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(definitions(), st.lists(MOVES, max_size=30), st.booleans())
def test_an_explicit_stop_ends_in_stopped_and_nothing_launches_until_a_start(
    definition: Container, moves: list[Any], kill: bool
) -> None:
    watch = Watch(definition)
    watch.tell(Absent(booted=True))
    for move in moves:
        watch.move(*move)
    watch.tell(events(watch.s)["StopAsked kill" if kill else "StopAsked"])
    launched = watch.launched
    quiet = [key for key in KEYS if key not in ("StartAsked", "RestartAsked", "Removed")]
    for key in quiet:
        watch.tell(watch.event(key, 0, {"signal": 15}))
    for _ in range(4):
        watch.move("wake", 0.0, 0, {})
    watch.tell(Ended(End(watch.s.generation, None, watch.now, signal=9)))
    assert watch.s.phase in (Phase.STOPPED, Phase.UNKNOWN)
    assert watch.launched == launched
