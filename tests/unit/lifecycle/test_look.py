"""The first look of a daemon, and news that is late, double or of nobody."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    Answer,
    Cause,
    ChildOom,
    Desired,
    End,
    Ended,
    Event,
    Failed,
    Launch,
    Launched,
    LaunchFailed,
    Note,
    Persist,
    Phase,
    Probed,
    Reason,
    RecordEnd,
    Redefined,
    Removed,
    RestartAsked,
    Saved,
    Source,
    StartAsked,
    StopAsked,
)
from supervisor.lifecycle.look import NEVER_BEGAN
from supervisor.lifecycle.restart import counted_as
from supervisor.lifecycle.why import status_line
from tests.unit.lifecycle.world import CHECK, NOW, Life, define


def after(before: Life, **fields: Any) -> Life:
    """The next daemon, with what was stored last."""
    return Life(define(**fields) if fields else before.s.definition, before.all(Persist)[-1].saved, before.now + 1)


# --- what was being done when the daemon died --------------------------------------------------


def test_a_generation_that_never_began_is_recorded_and_the_start_goes_on() -> None:
    next_one = after(Life().tell(Absent(booted=True))).tell(Absent())
    ends = [effect.end for effect in next_one.all(RecordEnd)]
    assert [(end.generation, end.detail) for end in ends] == [(1, NEVER_BEGAN)]
    assert counted_as(ends[0], next_one.s.definition) == "start_failure"
    launch = next_one.all(Launch)[-1]
    assert (launch.generation, launch.reason) == (2, Reason.BOOT)  # no restart: it is counted already
    assert next_one.s.attempt == 0


def test_a_restart_for_health_that_ended_meanwhile_is_a_failure() -> None:
    before = Life(define(**CHECK)).up().tick().tell(Probed(1, ok=False))
    next_one = after(before).tell(Absent(End(1, NOW, before.now, code=0)))
    assert next_one.phase is Phase.BACKOFF
    assert next_one.s.cause.code == "health"
    assert after(next_one).tell(Absent()).s.ended_by is Reason.HEALTH


def test_a_recorded_end_is_no_news() -> None:
    before = Life().up().ends(code=3)
    next_one = after(before).tell(Absent(End(1, NOW, NOW + 1, code=3)))
    assert next_one.phase is Phase.BACKOFF
    assert next_one.all(RecordEnd) == []


def test_an_end_of_a_run_that_the_store_knows_nothing_of_is_recorded() -> None:
    next_one = Life().tell(Absent(End(7, NOW - 9, NOW - 1, code=3, source=Source.ADOPTED), booted=True))
    assert [effect.end.generation for effect in next_one.all(RecordEnd)] == [7]
    assert next_one.all(Launch)[-1].generation == 8


def test_what_runs_though_its_end_is_recorded_is_kept() -> None:
    before = Life().tell(Absent(booted=True)).tell(Failed("Launch", 1, "no answer"))
    next_one = after(before).tell(Adopted(1, 41, NOW))
    assert next_one.phase is Phase.RUNNING
    assert next_one.ends(code=1).phase is Phase.BACKOFF


def test_stored_as_stopped_and_wanted_up_is_begun() -> None:
    assert Life(saved=Saved(cause=Cause("operator", "?"))).tell(Absent()).phase is Phase.STARTING


@pytest.mark.parametrize(("policy", "phase"), [("no", "FATAL"), ("on-failure", "STARTING"), ("always", "STARTING")])
def test_fatal_stays_unless_the_policy_is_another_now(policy: str, phase: str) -> None:
    before = Life(define(restart="no")).tell(Absent(booted=True)).tell(LaunchFailed(1, "no such file"))
    assert after(before, restart=policy).tell(Absent()).phase == phase


def test_used_up_attempts_stay_used_up_over_a_restart_of_the_daemon() -> None:
    before = Life(define(restart="on-failure:1")).up().ends(code=1).tick().launched().ends(code=1)
    assert before.phase is Phase.FATAL
    assert after(before).tell(Absent()).phase is Phase.FATAL
    assert after(before, restart="always").tell(Absent()).phase is Phase.STARTING


def test_the_slow_lane_goes_on_over_a_restart_of_the_daemon() -> None:
    rules = {"policy": "on-failure", "max_attempts": 1, "on_exhausted": "slow", "slow_interval": 900}
    before = Life(define(restart=rules)).up().ends(code=1).tick().launched().ends(code=1)
    assert status_line(before.s, before.now) == "exit 1: 1 restart is used up in 10m00s; next try in 15m00s"
    next_one = after(before).tell(Absent())
    assert next_one.s.slow
    assert next_one.tick().launched().ends(code=1).s.backoff == 900.0


def test_the_status_line_of_a_launch_that_failed_says_when_it_is_tried_again() -> None:
    run = Life(define(restart={"jitter": 0})).tell(Absent(booted=True)).tell(LaunchFailed(1, "no such file"))
    assert run.s.cause.text == "start failed: no such file"
    assert status_line(run.s, run.now) == "start failed: no such file, retry 1 in 1s"


# --- requests before the look ------------------------------------------------------------------


def test_a_kill_before_the_look_kills_at_the_look() -> None:
    next_one = after(Life().up()).tell(StopAsked(1, "op", kill=True)).tell(Adopted(1, 41, NOW))
    assert next_one.effects() == ["Persist", "KillAll"]


def test_a_restart_before_the_look_restarts_what_runs_and_starts_what_does_not() -> None:
    up = after(Life().up()).tell(RestartAsked(1, "op")).tell(Adopted(1, 41, NOW)).ends(signal=15)
    assert up.all(Launch)[-1].generation == 2
    down = after(Life(define(restart="no")).up().ends(code=0)).tell(RestartAsked(1, "op")).tell(Absent())
    assert down.all(Launch)[-1].reason is Reason.MANUAL


def test_a_request_before_the_look_outlives_the_next_death_too() -> None:
    before = after(Life(define(restart="no")).up().ends(code=0)).tell(StartAsked(1, "op"))
    assert after(before).tell(Absent()).all(Launch)[-1].generation == 2
    again = after(Life().up()).tell(RestartAsked(1, "op"))
    assert after(again).tell(Adopted(1, 41, NOW)).ends(signal=15).all(Launch)[-1].generation == 2
    stop = after(Life().up()).tell(StopAsked(1, "op"))
    assert stop.all(Persist)[-1].saved.desired is Desired.DOWN
    assert after(stop).tell(Absent(End(1, NOW, NOW + 1, code=1))).phase is Phase.STOPPED


def test_a_definition_that_changes_before_the_look() -> None:
    change = Redefined(define(command=["new"]), True, ("command",))
    up = after(Life().up()).tell(change).tell(Adopted(1, 41, NOW)).ends(signal=15)
    assert up.all(Launch)[-1].reason is Reason.UPDATE
    once = after(Life(define(restart="no")).up().ends(code=0))
    assert once.tell(change).tell(Absent()).all(Launch)[-1].reason is Reason.UPDATE


@pytest.mark.parametrize("running", [True, False])
def test_a_removal_before_the_look(running: bool) -> None:
    next_one = after(Life().up()).tell(Removed())
    for event in (StartAsked(1, "op"), RestartAsked(2, "op")):
        assert next_one.tell(event).last == (Answer(event.request, ok=False, message="it is being removed"),)
    assert Answer(3, ok=True) in next_one.tell(StopAsked(3, "op")).last
    if running:
        next_one.tell(Adopted(1, 41, NOW)).ends(signal=15)
    else:
        next_one.tell(Absent(End(1, NOW, NOW + 1, code=0)))
        assert len(next_one.all(RecordEnd)) == 1
    assert next_one.s.done


# --- news --------------------------------------------------------------------------------------

LATE: list[Event] = [
    Launched(1, 99, NOW), LaunchFailed(1, "x"), Ended(End(1, NOW, NOW, code=9)), ChildOom(1, 3), Probed(1, ok=False),
    Failed("Launch", 1, "x"), Failed("Clean", 1, "x"), Failed("Probe", 1, "x"),
]  # fmt: skip


@pytest.mark.parametrize("event", LATE, ids=lambda event: type(event).__name__)
def test_news_of_another_run_changes_nothing(event: Event) -> None:
    run = Life(define(**CHECK)).up().ends(code=1).tick().launched().tick()
    before = run.s
    run.tell(event)
    assert run.s == before
    assert run.last == ()


def test_an_end_is_recorded_once_however_often_it_is_told() -> None:
    run = Life(define(restart="no")).up().ends(code=1)
    for _ in range(3):
        run.ends(code=2)
    assert [effect.end.code for effect in run.all(RecordEnd)] == [1]


def test_an_end_may_overtake_the_news_of_its_launch() -> None:
    run = Life().tell(Absent(booted=True)).ends(code=1)
    assert run.phase is Phase.BACKOFF
    assert run.tell(Launched(1, 41, NOW)).phase is Phase.BACKOFF
    assert run.s.pid is None


def test_limits_that_could_not_be_applied_are_told() -> None:
    run = Life().up().tell(Failed("ApplyLive", 1, "no such controller"))
    assert run.last == (Note("fault", "the change is not applied: no such controller"),)
