"""Stops and starts that people ask for, and the one way down."""

from __future__ import annotations

import pytest

from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    Answer,
    Dependencies,
    Desired,
    Forget,
    KillAll,
    Launch,
    Launched,
    LaunchFailed,
    Persist,
    Phase,
    Reason,
    RecordEnd,
    Redefined,
    Removed,
    RestartAsked,
    Signal,
    StartAsked,
    StopAsked,
    Tick,
)
from supervisor.lifecycle.settled import is_stuck
from supervisor.lifecycle.why import status_line
from tests.unit.lifecycle.world import DEPENDS, NOW, SITUATIONS, Life, define


@pytest.mark.parametrize("situation", [name for name in SITUATIONS if name not in ("removing", "done")])
def test_a_stop_is_accepted_from_everywhere_and_stored_before_it_is_answered(situation: str) -> None:
    life = SITUATIONS[situation]().tell(StopAsked(7, "op"))
    assert life.effects()[:2] == ["Persist", "Answer"]
    saved, answer = life.last[0], life.last[1]
    assert isinstance(saved, Persist)
    assert (saved.saved.desired, saved.saved.explicit_stop) == (Desired.DOWN, True)
    assert answer == Answer(7, ok=True)
    assert life.phase in (Phase.STOPPED, Phase.STOPPING, Phase.UNKNOWN)


def test_02_an_explicit_stop_wins_over_always_until_a_start() -> None:
    """nerdctl#5153: it came back seconds after the stop, since the desired state was still "running"."""
    life = Life(define(restart="always")).up().tell(StopAsked(1, "op")).ends(code=1)
    for _ in range(10):
        life.tell(Tick(), 3600)
    assert life.phase is Phase.STOPPED
    assert len(life.all(Launch)) == 1
    again = Life(life.s.definition, life.all(Persist)[-1].saved).tell(Absent())
    assert again.phase is Phase.STOPPED
    assert again.tell(StartAsked(2, "op")).all(Launch)[-1].generation == 2


def test_a_stop_after_a_boot_and_before_the_first_look_wins_over_always() -> None:
    up = Life(define(restart="always")).up()
    booted = Life(up.s.definition, up.all(Persist)[-1].saved, now=2.0)
    booted.tell(StopAsked(1, "op")).tell(Absent(booted=True))
    assert booted.phase is Phase.STOPPED
    assert booted.all(Launch) == []


@pytest.mark.parametrize("autostart", [True, False])
def test_a_start_after_a_boot_and_before_the_first_look_is_kept(autostart: bool) -> None:
    down = Life(define(autostart=autostart)).up().tell(StopAsked(1, "op")).ends(signal=15)
    saved = down.all(Persist)[-1].saved if down.all(Persist) else None
    booted = Life(down.s.definition, saved, now=2.0)
    booted.tell(StartAsked(2, "op")).tell(Absent(booted=True))
    assert booted.all(Launch)[-1].reason is Reason.MANUAL


def test_11_a_stop_waits_for_its_grace_and_a_kill_ends_it_at_once() -> None:
    """podman#8501: `stop --time 3600` could not be cut short."""
    life = Life(define(stop_grace_period=3600)).up().tell(StopAsked(1, "op"))
    assert Signal(1, "SIGTERM") in life.last
    assert life.s.wake_at == life.now + 3600
    life.tell(StopAsked(2, "op", kill=True), 5)
    assert KillAll(1) in life.last
    assert life.ends(signal=9).phase is Phase.STOPPED


def test_a_second_stop_cuts_the_grace_short() -> None:
    life = Life().up().tell(StopAsked(1, "op")).tell(StopAsked(2, "op"), 1)
    assert KillAll(1) in life.last


def test_the_grace_ends_in_a_kill_of_the_whole_cgroup() -> None:
    life = Life(define(stop_grace_period=7, stop_signal="QUIT")).up().tell(StopAsked(1, "op"))
    begin = life.now
    assert life.last[2] == Signal(1, "SIGQUIT")
    life.tick()
    assert life.now == begin + 7
    assert life.effects() == ["Persist", "KillAll"]
    assert life.s.cause.text == "stopped by op; killed after 7s"


def test_a_grace_of_zero_kills_at_once() -> None:
    life = Life(define(stop_grace_period=0)).up().tell(StopAsked(1, "op"))
    assert life.effects() == ["Persist", "Answer", "KillAll"]


def test_12_what_does_not_die_stays_stopping_with_words_and_ends_by_itself() -> None:
    """crun#868: a forced delete looped for ever on a process in D state."""
    life = Life().up().tell(StopAsked(1, "op", kill=True))
    gaps = []
    for _ in range(8):
        before = life.now
        life.tick()
        gaps.append(life.now - before)
        assert life.effects() == ["KillAll"]  # its intent is stored: a stuck process writes no flash
    assert gaps == [5, 10, 20, 40, 60, 60, 60, 60]
    assert life.phase is Phase.STOPPING
    assert life.s.cause.text == "killed by op; stuck: a process does not die (D state?)"
    assert is_stuck(life.s)
    assert life.tell(StartAsked(2, "op")).all(Launch)[1:] == []  # I2
    assert is_stuck(life.s)  # whatever its cause says now
    later = Life(life.s.definition, life.all(Persist)[-1].saved).tell(Adopted(1, 77, NOW))
    assert is_stuck(later.s)  # another daemon knows it too
    life.ends(signal=9)
    assert life.all(Launch)[-1].generation == 2
    assert not is_stuck(life.s)


def test_a_stop_while_the_launch_is_in_flight_waits_for_it() -> None:
    life = Life().tell(Absent(booted=True)).tell(StopAsked(1, "op"))
    assert life.effects() == ["Persist", "Answer"]
    life.tell(Launched(1, 41, NOW))
    assert life.effects() == ["Persist", "Signal"]
    assert life.phase is Phase.STOPPING
    assert life.ends(signal=15).phase is Phase.STOPPED


def test_a_kill_while_the_launch_is_in_flight_kills_then_and_when_it_is_done() -> None:
    life = Life().tell(Absent(booted=True)).tell(StopAsked(1, "op", kill=True))
    assert KillAll(1) in life.last
    life.tell(Launched(1, 41, NOW))
    assert KillAll(1) in life.last


def test_a_stop_while_the_launch_fails_is_a_stop() -> None:
    life = Life().tell(Absent(booted=True)).tell(StopAsked(1, "op")).tell(LaunchFailed(1, "killed"))
    assert life.phase is Phase.STOPPED
    assert len(life.all(RecordEnd)) == 1


@pytest.mark.parametrize("kill", [True, False])
def test_26_a_stop_goes_on_after_the_death_of_the_daemon(kill: bool) -> None:
    """containerd#12600: shown running though dead, when the daemon was restarted during a stop."""
    before = Life().up().tell(StopAsked(1, "op", kill))
    saved = before.all(Persist)[-1].saved
    alive = Life(before.s.definition, saved).tell(Adopted(1, 41, NOW))
    assert alive.phase is Phase.STOPPING
    assert Signal(1, "SIGTERM") in alive.last
    assert alive.s.wake_at == alive.now + 10
    dead = Life(before.s.definition, saved).tell(Absent(before.ends(signal=15).s.last_end))
    assert dead.phase is Phase.STOPPED


def test_29_an_end_while_no_daemon_watched_is_applied_with_its_own_code() -> None:
    """containerd#6771: the task stayed STOPPED, the policy never ran."""
    before = Life().up()
    saved = before.all(Persist)[-1].saved
    after = Life(before.s.definition, saved).tell(Absent(before.ends(code=7).s.last_end))
    assert [effect.end.code for effect in after.all(RecordEnd)] == [7]
    assert after.phase is Phase.BACKOFF


def test_a_running_container_is_adopted_and_nothing_is_done_to_it() -> None:
    before = Life().up()
    after = Life(before.s.definition, before.all(Persist)[-1].saved).tell(Adopted(1, 41, NOW - 5))
    assert (after.phase, after.s.pid, after.done) == (Phase.RUNNING, 41, [])


def test_what_runs_is_believed_before_what_is_stored() -> None:
    lost = Life().tell(Adopted(12, 41, NOW - 5))  # the store was damaged and begins anew
    assert (lost.phase, lost.s.generation) == (Phase.RUNNING, 12)
    assert lost.ends(code=1).tick().all(Launch)[-1].generation == 13


# --- restarts that people ask for --------------------------------------------------------------


def test_a_restart_stops_and_starts_and_waits_for_no_back_off() -> None:
    life = Life().up().tell(RestartAsked(3, "op"))
    assert life.effects() == ["Persist", "Answer", "Signal"]
    life.ends(code=1)
    assert life.effects() == ["RecordEnd", "Persist", "Clean", "Launch"]
    assert life.all(Launch)[-1].reason is Reason.MANUAL
    assert life.s.ends == ()


@pytest.mark.parametrize("alive", [True, False])
def test_an_acknowledged_restart_outlives_the_daemon(alive: bool) -> None:
    before = Life(define(restart="no")).up().tell(RestartAsked(3, "op"))
    after = Life(before.s.definition, before.all(Persist)[-1].saved)
    if alive:
        after.tell(Adopted(1, 41, NOW)).ends(code=0)
    else:
        after.tell(Absent(before.ends(code=0).s.last_end))
    assert after.all(Launch)[-1].reason is Reason.MANUAL


def test_a_stop_takes_a_restart_back() -> None:
    life = Life().up().tell(RestartAsked(3, "op")).tell(StopAsked(4, "op"))
    assert life.effects() == ["Persist", "Answer"]  # the grace goes on
    assert life.ends(signal=15).phase is Phase.STOPPED


def test_a_start_during_a_stop_follows_it() -> None:
    life = Life().up().tell(StopAsked(3, "op")).tell(StartAsked(4, "op")).ends(signal=15)
    assert life.all(Launch)[-1].generation == 2


def test_a_start_of_what_runs_is_refused_and_changes_nothing() -> None:
    life = Life().up()
    before = life.s
    life.tell(StartAsked(4, "op"))
    assert life.last == (Answer(4, ok=False, message="already started"),)
    assert life.s == before


# --- dependencies ------------------------------------------------------------------------------


def test_a_start_waits_for_its_dependencies_and_uses_no_generation() -> None:
    life = Life(define(**DEPENDS)).tell(Dependencies(("db (starting)",))).tell(Absent(booted=True))
    assert (life.phase, life.s.generation, life.s.wake_at) == (Phase.STARTING, 0, None)
    assert status_line(life.s, life.now) == "waiting for db (starting)"
    life.tell(Dependencies(("db (running)",))).tell(Dependencies(()))
    assert life.all(Launch)[-1].generation == 1
    assert life.s.unmet == ()


def test_before_anybody_looked_nothing_counts_as_met() -> None:
    life = Life(define(**DEPENDS)).tell(Absent(booted=True))
    assert life.s.unmet == ("db (not looked at yet)",)


def test_an_automatic_restart_does_not_wait_and_one_that_was_asked_for_does() -> None:
    life = Life(define(**DEPENDS)).tell(Dependencies(())).up().tell(Dependencies(("db (backoff)",)))
    assert life.phase is Phase.RUNNING
    assert life.ends(code=1).tick().all(Launch)[-1].generation == 2
    life.launched().tell(RestartAsked(1, "op")).ends(signal=15)
    assert life.s.unmet == ("db (backoff)",)
    assert len(life.all(Launch)) == 2


def test_dependencies_that_the_definition_dropped_hold_nobody() -> None:
    life = Life(define(**DEPENDS)).tell(Dependencies(())).up().tell(Dependencies(("db (stopped)",)))
    life.tell(Redefined(define(), False, ("depends_on",))).tell(RestartAsked(1, "op")).ends(signal=15)
    assert len(life.all(Launch)) == 2


def test_a_stop_ends_the_waiting() -> None:
    assert SITUATIONS["waiting"]().tell(StopAsked(1, "op")).phase is Phase.STOPPED


# --- removal -----------------------------------------------------------------------------------


def test_a_removed_container_is_stopped_cleaned_and_forgotten() -> None:
    life = Life().up().tell(Removed())
    assert life.effects() == ["Persist", "Signal"]
    life.ends(signal=15)
    assert life.effects() == ["RecordEnd", "Persist", "Clean", "Forget"]
    assert life.s.done
    assert life.s.wake_at is None
    assert life.tell(StartAsked(1, "op")).last == (Answer(1, ok=False, message="it is removed"),)


def test_a_start_of_what_is_being_removed_is_refused() -> None:
    life = Life().up().tell(Removed()).tell(StartAsked(1, "op"))
    assert life.last == (Answer(1, ok=False, message="it is being removed"),)
    assert life.ends(signal=15).all(Forget)


@pytest.mark.parametrize("alive", [True, False])
def test_what_was_being_removed_and_is_defined_again_starts_again(alive: bool) -> None:
    before = Life().up().tell(Removed())
    after = Life(before.s.definition, before.all(Persist)[-1].saved)
    if alive:
        after.tell(Adopted(1, 41, NOW)).ends(signal=15)
    else:
        after.tell(Absent(before.ends(signal=15).s.last_end))
    assert after.all(Launch)[-1].generation == 2
    once_more = Life(after.s.definition, after.all(Persist)[-1].saved).tell(Adopted(2, 42, NOW - 5))
    assert once_more.phase is Phase.RUNNING  # and its old cause is no reason to end it
