"""Pressure: noted seldom, and a restart only where it is wanted, lasts, and did not just happen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    End,
    Launch,
    Note,
    Persist,
    Phase,
    Pressure,
    Reason,
    Redefined,
    StopAsked,
)
from supervisor.lifecycle.restart import asks_why
from supervisor.lifecycle.step import saved_of
from tests.unit.lifecycle.world import NOW, OOM, Life, define


def life(action: str = "restart", **rules: Any) -> Life:
    return Life(define(on_pressure=action, pressure={"restart_after": 10, **rules}, resources=HIGH)).up()


HIGH = {"memory": "64M", "memory_high": "48M"}


def press(run: Life, source: str = "memory", kind: str = "some", times: int = 1, every: float = 2.0) -> Life:
    for _ in range(times):
        run.tell(Pressure(run.s.generation, source, kind, 2.0), every)
    return run


def notes(run: Life) -> list[str]:
    return [note.text for note in run.all(Note)]


def test_pressure_is_an_event_and_no_more_unless_asked_for() -> None:
    run = press(life("event"), times=100)
    assert run.phase is Phase.RUNNING
    assert notes(run)[0] == "memory pressure: some tasks wait"
    assert notes(run)[1] == "memory pressure: some tasks wait, for 1m00s now"
    assert all(isinstance(effect, Note) for effect in run.last)  # nothing else is stored for it


def test_notes_of_a_strain_come_more_and_more_seldom() -> None:
    """A day of pressure without a pause is not a day of writes to a flash disk."""
    run = life("event")
    for _ in range(4_320):
        run.tell(Pressure(1, "memory", "some", 10.0), 20.0)
    assert len(notes(run)) == 6 + 23  # at 0, 1, 3, 7, 15, 31 minutes, and then once an hour


def test_strains_that_come_and_go_share_the_pace_of_notes() -> None:
    run = life("event")
    for _ in range(100):
        press(run, times=2)
        run.now += 30
    assert len(notes(run)) <= 8
    run.now += 3 * 3600
    assert press(run).effects() == ["Note"]


def test_a_strain_that_lasts_restarts_with_a_reason_of_its_own_by_a_graceful_stop_and_with_delay() -> None:
    run = press(life(), times=5)
    assert run.phase is Phase.RUNNING
    press(run)
    assert (run.phase, run.effects()) == (Phase.STOPPING, ["Persist", "Signal"])
    assert (run.s.cause.code, run.s.cause.text) == (
        "pressure", "memory pressure: some tasks wait, for 10s now: restart"
    )  # fmt: skip
    assert run.ends(signal=15).phase is Phase.BACKOFF
    assert run.s.cause.text.startswith("pressure, 1st restart in 1")
    assert run.tick().all(Launch)[-1].reason is Reason.PRESSURE
    assert run.s.strains == ()


def test_a_strain_with_gaps_never_lasts() -> None:
    run = press(life(), times=50, every=6.5)
    assert run.phase is Phase.RUNNING


@pytest.mark.parametrize(("counts", "source"), [("memory", "io"), ("memory", "memory_high"), ("cpu", "memory")])
def test_only_what_counts_restarts(counts: str, source: str) -> None:
    assert press(life(restart_on=[counts], restart_after=0), source, times=3).phase is Phase.RUNNING
    assert press(life(restart_on=[counts], restart_after=0), counts).phase is Phase.STOPPING


def test_memory_high_may_count() -> None:
    run = press(life(restart_on=["memory_high"], restart_after=0), "memory_high", "high")
    assert run.s.cause.text == "memory.high is exceeded: restart"


def again(run: Life) -> Life:
    """The restart that is under way is through."""
    return run.ends(signal=15).tick().launched()


def test_within_the_cool_down_it_is_only_told() -> None:
    run = again(press(life(restart_after=0, cool_down=600)))
    at = run.s.pressure_at
    assert at is not None
    press(run, times=10)
    assert run.phase is Phase.RUNNING
    assert "no restart for another 9m5" in notes(run)[-1]
    run.now = at + 599
    assert press(run, every=0.5).phase is Phase.RUNNING
    assert press(run, every=0.5).phase is Phase.STOPPING
    assert run.all(Launch)[-1].generation == 2


def test_the_cool_down_outlives_the_daemon_and_not_the_boot() -> None:
    run = again(press(life(restart_after=0)))
    saved = run.all(Persist)[-1].saved
    assert saved.pressure_at == run.s.pressure_at
    later = Life(run.s.definition, saved, run.now).tell(Adopted(2, 42, run.now - 5))
    assert press(later).phase is Phase.RUNNING
    booted = Life(run.s.definition, saved, 20.0).tell(Absent(booted=True)).launched()
    assert saved_of(booted.s).pressure_at is None
    assert press(booted).phase is Phase.STOPPING


def test_a_daemon_that_comes_between_stop_and_start_goes_on_with_it() -> None:
    run = press(life(restart_after=0))
    saved = run.all(Persist)[-1].saved
    later = Life(run.s.definition, saved, run.now).tell(Adopted(1, 41, run.now - 5))
    assert (later.phase, later.s.ended_by) == (Phase.STOPPING, Reason.PRESSURE)
    waiting = run.ends(signal=15).all(Persist)[-1].saved
    waits = Life(run.s.definition, waiting, run.now).tell(Absent())
    assert (waits.phase, waits.s.next_reason) == (Phase.BACKOFF, Reason.PRESSURE)


def test_a_stop_wins_and_what_ends_is_left_alone() -> None:
    run = life(restart_after=0).tell(StopAsked(1, "op"))
    assert press(run).effects() == []
    assert run.ends(signal=15).phase is Phase.STOPPED


def test_a_live_change_counts_at_once() -> None:
    run = press(life("event", restart_after=0))
    new = run.s.definition.model_copy(update={"on_pressure": "restart"})
    run.tell(Redefined(new, False, ("on_pressure",)))
    assert run.effects() == ["Note", "ApplyLive"]
    assert press(run).phase is Phase.STOPPING


def test_news_of_an_earlier_run_counts_for_nothing() -> None:
    run = again(life(restart_after=0).ends())
    old = Pressure(run.s.generation - 1, "memory", "some", 2.0)
    assert run.tell(old).effects() == []
    assert replace(run.s, wake_at=None).strains == ()


@pytest.mark.parametrize(
    ("asked", "how", "kept"),
    [
        (None, {"code": 0}, False),
        (None, {"code": 3}, True),
        (None, {"signal": 11}, True),
        (None, {}, True),
        (StopAsked(1, "op"), {"signal": 15}, False),
        (StopAsked(1, "op"), {"signal": 9, "oom": OOM}, True),
        (Pressure(1, "memory", "some", 2.0), {"code": 0}, True),
        (Redefined(define(command=["other"]), True, ("command",)), {"signal": 15}, False),
    ],
)
def test_the_last_minute_is_kept_of_every_end_that_nobody_asked_for(asked: Any, how: Any, kept: bool) -> None:
    run = life(restart_after=0)
    if asked is not None:
        run.tell(asked)
    assert asks_why(run.s, End(1, NOW, NOW + 1, **how)) is kept
