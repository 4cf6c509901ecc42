"""What each step tells the stream: containerd's topics in containerd's order, and ours."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    ChildOom,
    End,
    Ended,
    Event,
    Launched,
    Phase,
    Pressure,
    Probed,
    Redefined,
    Removed,
    Saved,
    ShimLost,
    StartAsked,
    StopAsked,
    TakenOver,
    Tick,
)
from supervisor.lifecycle.history import Said, told
from supervisor.lifecycle.step import step
from supervisor.topics import KINDS
from tests.unit.lifecycle.world import CHECK, NOW, OOM, SITUATIONS, Life, define, events


def said(life: Life, event: Event, after: float = 0.0) -> list[Said]:
    before = life.s
    life.tell(event, after)
    return list(told(event, before, life.s, life.last))


def types(life: Life, event: Event, after: float = 0.0) -> list[str]:
    return [one.type for one in said(life, event, after)]


def test_a_life_in_containerds_words() -> None:
    life = Life()
    assert types(life, Absent(booted=True)) == ["definition-added", "create"]
    (start,) = said(life, Launched(1, 41, NOW))
    assert (start.type, start.generation, start.data, start.later) == ("start", 1, {"pid": 41}, True)
    assert types(life, Tick(), 1.0) == ["state"]
    assert types(life, Ended(End(1, NOW, NOW + 9, code=3))) == ["exit", "restart-scheduled"]
    assert life.phase is Phase.BACKOFF
    assert types(life, Tick(), 60) == ["create"]


def test_an_end_and_the_next_run_in_one_step_keep_their_order_and_their_generations() -> None:
    life = Life(define(restart={"policy": "always", "interval": 0})).up()
    assert [(one.type, one.generation) for one in said(life, Ended(End(1, NOW, NOW + 1, code=0)))] == [
        ("exit", 1),
        ("create", 2),
    ]


def test_oom_comes_before_exit_and_says_whose_limit_it_was() -> None:
    life = Life().up()
    oom, end, _ = said(life, Ended(End(1, NOW, NOW + 1, signal=9, oom=OOM)))
    assert oom.type == "oom"
    assert oom.data == {"init": True, "kills": 1, "scope": "container", "group": True}
    assert (end.type, end.code, end.data["signal"], end.data["oom"]) == ("exit", "oom", 9, True)


def test_a_childs_kill_is_an_oom_without_an_exit() -> None:
    (one,) = said(Life().up(), ChildOom(1, 2))
    assert (one.type, one.data["init"], one.data["kills"]) == ("oom", False, 2)


def test_an_end_that_is_heard_before_its_start_has_one_all_the_same() -> None:
    life = Life().tell(Absent(booted=True))
    assert types(life, Ended(End(1, NOW, NOW, code=1)))[:2] == ["start", "exit"]
    assert types(life, Launched(1, 41, NOW)) == []


def test_a_run_that_never_began_has_no_start() -> None:
    life = Life(saved=Saved(generation=4, phase=Phase.STARTING))
    assert types(life, Absent())[:1] == ["exit"]


def test_intent_is_told_when_it_changes() -> None:
    life = Life().up()
    desired, _ = said(life, StopAsked(1, "uid 0"))
    assert desired.type == "desired"
    assert desired.data == {"desired": "down", "explicit_stop": True}
    assert "uid 0" in desired.text
    assert types(life, StopAsked(2, "uid 0")) == [], "it is wanted down already"
    life.ends(signal=15)
    assert types(life, StartAsked(3, "uid 0")) == ["desired", "create"]


def test_definitions() -> None:
    life = Life().up()
    (live,) = said(life, Redefined(define(labels={"a": "b"}), False, ("labels",)))
    assert (live.type, live.data) == ("definition-changed", {"fields": "labels", "restart": False})
    changed, stopping = said(life, Redefined(define(command=["x"]), True, ("command",)))
    assert (changed.type, changed.data) == ("definition-changed", {"fields": "command", "restart": True})
    assert stopping.type == "state"
    assert types(life, Removed()) == ["definition-removed", "desired", "state"]


def test_what_was_known_before_is_not_added_again() -> None:
    assert "definition-added" not in types(Life(saved=Saved()), Absent(booted=True))


def test_health_shims_and_adoption() -> None:
    life = Life(define(**CHECK)).up().tick()
    (health,) = said(life, Probed(1, ok=True))
    assert (health.type, health.data) == ("health", {"health": "healthy", "before": "starting"})
    assert types(life, ShimLost(1, "killed")) == ["shim-lost"]
    assert types(life, TakenOver(1)) == ["taken-over"]
    assert types(Life(saved=Saved(generation=1, phase=Phase.RUNNING)), Adopted(1, 7, NOW - 9)) == ["adopted"]


def test_pressure_and_memory_high_have_types_of_their_own() -> None:
    life = Life().up()
    (one,) = said(life, Pressure(1, "memory", "some", 2.0))
    assert (one.type, one.data) == ("pressure", {"source": "memory", "kind": "some"})
    (one,) = said(life, Pressure(1, "memory_high", "some", 2.0))
    assert (one.type, one.code) == ("memory-high", "memory-high")


def test_restarts_that_are_used_up() -> None:
    life = Life(define(restart="on-failure:1")).up().ends(code=1).tick().launched()
    found = said(life, Ended(End(2, NOW, life.now, code=1)))
    assert [one.type for one in found] == ["exit", "restart-exhausted"]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_step_says_only_known_types_and_every_change_is_told(situation: str) -> None:
    for name in events(SITUATIONS[situation]().s):
        life = SITUATIONS[situation]()
        event, before = events(life.s)[name], life.s
        after, effects = step(before, event, life.now)
        found: Any = told(event, before, after, effects)
        for one in found:
            assert one.type in KINDS, (situation, name)
            assert set(one.data) <= set(KINDS[one.type].data), (situation, name, one)
        if (before.phase, before.cause) != (after.phase, after.cause):
            assert [one for one in found if not one.later], (situation, name)
