"""Situations that a container can be in, made by real steps, and events of every class. Shared by the tests here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from config.model import Container
from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    ChildOom,
    Dependencies,
    Effect,
    End,
    Ended,
    Event,
    Failed,
    Launched,
    LaunchFailed,
    Oom,
    Phase,
    Pressure,
    Probed,
    Redefined,
    Removed,
    RestartAsked,
    Saved,
    Scope,
    ShimLost,
    StartAsked,
    State,
    StopAsked,
    TakenOver,
    Tick,
)
from supervisor.lifecycle.step import initial, step

NOW = 1000.0


def define(**fields: Any) -> Container:
    return Container.model_validate({"name": "web", "rootfs": "/srv", "command": ["run"], **fields})


def begin(definition: Container | None = None, saved: Saved | None = None) -> State:
    return initial(definition or define(), "host/web", saved)


class Life:
    """A container's history, step by step: the state, and all effects so far."""

    def __init__(self, definition: Container | None = None, saved: Saved | None = None, now: float = NOW) -> None:
        self.s = begin(definition, saved)
        self.now = now
        self.done: list[Effect] = []
        self.last: tuple[Effect, ...] = ()

    def tell(self, event: Event, after: float = 0.0) -> Life:
        self.now += after
        self.s, self.last = step(self.s, event, self.now)
        self.done += self.last
        return self

    def up(self, booted: bool = True) -> Life:
        """Looked at, launched and RUNNING."""
        return self.tell(Absent(booted=booted)).launched()

    def launched(self) -> Life:
        self.tell(Launched(self.s.generation, 40 + self.s.generation, self.now))
        return self.tell(Tick(), self.s.definition.healthy_after)

    def ends(self, end: End | None = None, after: float = 0.0, **how: Any) -> Life:
        """The present run ends: `code=1`, `signal=9`, or a whole End."""
        self.now += after
        end = end or End(self.s.generation, self.s.started_at, self.now, **(how or {"code": 1}))
        return self.tell(Ended(replace(end, generation=self.s.generation)))

    def tick(self) -> Life:
        """As the keeper: a Tick when `wake_at` says so."""
        assert self.s.wake_at is not None
        return self.tell(Tick(), max(0.0, self.s.wake_at - self.now))

    def effects(self) -> list[str]:
        return names(self.last)

    @property
    def phase(self) -> Phase:
        return self.s.phase

    def all(self, kind: type[Any]) -> list[Any]:
        return [effect for effect in self.done if isinstance(effect, kind)]


def names(effects: tuple[Effect, ...]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


OOM = Oom(killed=True, group=True, scope=Scope.CONTAINER, kills=1)
DEPENDS: dict[str, Any] = {"depends_on": {"db": {"condition": "started"}}}
CHECK: dict[str, Any] = {"healthcheck": {"test": ["CMD", "true"], "interval": 10, "retries": 1}}
STRAIN: dict[str, Any] = {"on_pressure": "restart", "pressure": {"restart_after": 1}}

# Each by the shortest way that leads there.
SITUATIONS: dict[str, Callable[[], Life]] = {
    "unknown": Life,
    "waiting": lambda: Life(define(**DEPENDS)).tell(Dependencies(("db (starting)",))).tell(Absent(booted=True)),
    "held": lambda: Life().tell(Absent(booted=True)).tell(Failed("Launch", 1, "no answer")).tick(),
    "launching": lambda: Life().tell(Absent(booted=True)),
    "starting": lambda: Life().tell(Absent(booted=True)).tell(Launched(1, 41, NOW)),
    "running": lambda: Life(define(**CHECK)).up(),
    "probing": lambda: Life(define(**CHECK)).up().tick(),
    "untended": lambda: Life(define(**CHECK)).up().tick().tell(ShimLost(1, "no answer")),
    "strained": lambda: Life(define(**STRAIN)).up().tell(Pressure(1, "memory", "some", 2.0)),
    "backoff": lambda: Life().up().ends(code=1),
    "stopping": lambda: Life().up().tell(StopAsked(1, "op")),
    "killed": lambda: Life().up().tell(StopAsked(1, "op")).tell(StopAsked(2, "op")),
    "restarting": lambda: Life().up().tell(RestartAsked(1, "op")),
    "stopping-launch": lambda: Life().tell(Absent(booted=True)).tell(StopAsked(1, "op")),
    "stopped": lambda: Life().up().tell(StopAsked(1, "op")).ends(signal=15),
    "off": lambda: Life(define(autostart=False)).tell(Absent(booted=True)),
    "exited": lambda: Life(define(restart="no")).up().ends(code=0),
    "fatal": lambda: Life(define(restart="no")).tell(Absent(booted=True)).tell(LaunchFailed(1, "no such file", True)),
    "removing": lambda: Life().up().tell(Removed()),
    "done": lambda: Life().up().tell(StopAsked(1, "op")).ends(signal=15).tell(Removed()),
    "paused": lambda: _forced(Phase.PAUSED),
    "pulling": lambda: _forced(Phase.PULLING),
}


def _forced(phase: Phase) -> Life:
    """Words that no event leads to yet: the table has to be total all the same."""
    life = Life().up()
    life.s = replace(life.s, phase=phase)
    return life


def events(s: State) -> dict[str, Event]:
    """One of each class, of the present run, as plain as it can be."""
    g = s.generation
    return {
        "Adopted": Adopted(g or 1, 77, NOW - 100),
        "Absent": Absent(),
        "Redefined": Redefined(define(command=["other"]), True, ("command",)),
        "Redefined live": Redefined(define(labels={"a": "b"}), False, ("labels",)),
        "Removed": Removed(),
        "StartAsked": StartAsked(9, "op"),
        "StopAsked": StopAsked(9, "op"),
        "StopAsked kill": StopAsked(9, "op", kill=True),
        "RestartAsked": RestartAsked(9, "op"),
        "Dependencies": Dependencies(()),
        "Launched": Launched(g, 78, NOW),
        "LaunchFailed": LaunchFailed(g, "no such file"),
        "Ended": Ended(End(g, s.started_at, NOW + 1, code=1)),
        "ShimLost": ShimLost(g, "killed"),
        "TakenOver": TakenOver(g),
        "ChildOom": ChildOom(g, 1),
        "Pressure": Pressure(g, "memory", "some", 2.0),
        "Probed": Probed(g, ok=False, output="refused"),
        "Failed Launch": Failed("Launch", g, "no answer"),
        "Failed Clean": Failed("Clean", g, "busy"),
        "Failed Probe": Failed("Probe", g, "no answer"),
        "Failed Signal": Failed("Signal", g, "gone"),
        "Tick": Tick(),
    }
