"""Launches that fail or do not answer, and new definitions."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.lifecycle.facts import (
    Absent,
    Clean,
    Failed,
    Launch,
    LaunchFailed,
    Note,
    Persist,
    Phase,
    Reason,
    Redefined,
    StopAsked,
    Tick,
)
from tests.unit.lifecycle.world import NOW, Life, define


def life(policy: str = "always", **restart: Any) -> Life:
    return Life(define(restart={"policy": policy, "jitter": 0, **restart})).up()


# --- launches without an answer ----------------------------------------------------------------


def test_a_launch_without_an_answer_is_killed_and_cleaned_and_holds_the_next() -> None:
    run = Life().tell(Absent(booted=True)).tell(Failed("Launch", 1, "no end after 30 s"), 30)
    assert run.effects() == ["RecordEnd", "Persist", "KillAll", "Clean"]
    run.tick()
    assert run.phase is Phase.STARTING
    assert "what run 1 left" in run.s.cause.text
    assert run.all(Launch)[1:] == []
    run.tick()
    assert run.all(Launch)[-1].generation == 2
    assert run.now == NOW + 30 + 25


def test_what_does_not_die_holds_the_next_launch_and_is_cleaned_again() -> None:
    run = Life().tell(Absent(booted=True)).tell(Failed("Launch", 1, "no end after 30 s"), 30)
    for _ in range(10):
        run.tell(Failed("Clean", 1, "a process does not die"), 10)
        run.tell(Tick(), 5)
    assert len(run.all(Clean)) == 11
    assert len(run.all(Launch)) == 1
    assert len([note for note in run.all(Note) if note.kind == "fault"]) == 0  # the hold is known already
    run.tick()
    assert run.all(Launch)[-1].generation == 2


def test_a_hold_does_not_end_by_a_suspend() -> None:
    """The host slept through it: nobody had the time to clean."""
    run = Life().tell(Absent(booted=True)).tell(Failed("Launch", 1, "no end after 30 s"), 30).tell(Tick(), 3600)
    assert len(run.all(Launch)) == 1
    run.tick()
    assert len(run.all(Launch)) == 2


# --- new definitions ---------------------------------------------------------------------------


def test_21_a_live_change_of_the_policy_counts_for_the_next_end() -> None:
    """Supervisor#1322: a changed restart setting was not honoured for the running program."""
    run = life("always")
    run.tell(Redefined(define(restart="no"), False, ("restart.policy",)))
    assert run.phase is Phase.RUNNING
    assert run.effects() == ["Note", "ApplyLive"]
    assert run.ends(signal=9).phase is Phase.EXITED
    assert len(run.all(Launch)) == 1


@pytest.mark.parametrize(
    ("situation", "new", "phase"),
    [
        ("backoff", "no", "EXITED"), ("backoff", "on-failure", "STARTING"), ("exited", "always", "STARTING"),
        ("exited", "no", "EXITED"), ("fatal", "on-failure", "STARTING"),
    ],
)  # fmt: skip
def test_a_live_change_is_asked_what_it_says_of_the_last_end(situation: str, new: str, phase: str) -> None:
    run = life("always" if situation == "backoff" else "no")
    if situation == "fatal":
        run = Life(define(restart="no")).tell(Absent(booted=True)).tell(LaunchFailed(1, "no such file"))
    else:
        run.ends(code=1)
    assert run.tell(Redefined(define(restart=new), False, ("restart.policy",))).phase == phase


@pytest.mark.parametrize(("end", "old", "new"), [(1, "no", "on-failure"), (0, "no", "always")])
def test_a_policy_that_changed_while_no_daemon_watched_is_honoured(end: int, old: str, new: str) -> None:
    before = life(old).ends(code=end)
    assert before.phase is Phase.EXITED
    after = Life(define(restart=new), before.all(Persist)[-1].saved).tell(Absent())
    assert after.all(Launch)[-1].reason is Reason.UPDATE


@pytest.mark.parametrize("policy", ["no", "on-failure"])
def test_a_changed_one_shot_runs_again(policy: str) -> None:
    run = life(policy).ends(code=0)
    run.tell(Redefined(define(command=["new"], restart=policy), True, ("command",)))
    assert run.all(Launch)[-1].reason is Reason.UPDATE


def test_a_changed_definition_leaves_what_was_stopped_stopped() -> None:
    run = life().tell(StopAsked(1, "op")).ends(signal=15)
    assert run.tell(Redefined(define(command=["new"]), True, ("command",))).phase is Phase.STOPPED
