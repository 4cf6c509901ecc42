"""Health checks, and children that are OOM-killed."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    ChildOom,
    Failed,
    Health,
    Launch,
    Note,
    Persist,
    Phase,
    Probe,
    Probed,
    Reason,
    Redefined,
    StartAsked,
)
from tests.unit.lifecycle.world import NOW, Life, define


def life(**check: Any) -> Life:
    return Life(define(healthcheck={"test": ["CMD", "true"], "interval": 10, **check}, healthy_after=0)).up()


def test_the_first_check_comes_after_the_interval_and_one_at_a_time() -> None:
    run = life()
    assert run.s.health == "starting"
    assert run.s.wake_at == run.now + 10
    assert run.tick().last == (Probe(1),)
    assert run.s.probing
    run.tell(Probed(1, ok=True), 3)
    assert run.s.health is Health.HEALTHY
    assert run.s.probe_at == run.now + 10


def test_in_the_start_period_failures_do_not_count_and_checks_come_faster() -> None:
    run = life(start_period=30, start_interval=2, retries=1)
    for _ in range(5):
        assert run.s.probe_at == run.now + 2
        run.tick().tell(Probed(1, ok=False))
    assert (run.s.health, run.phase) == (Health.STARTING, Phase.RUNNING)
    run.tick().tell(Probed(1, ok=True))
    assert run.s.probe_at == run.now + 10
    assert run.tick().tell(Probed(1, ok=False)).phase is Phase.STOPPING  # healthy once: now they count


def test_failures_in_a_row_make_it_unhealthy_and_it_is_restarted_with_back_off() -> None:
    run = life(retries=3)
    for _ in range(2):
        run.tick().tell(Probed(1, ok=False, output="refused"))
    run.tick().tell(Probed(1, ok=True))
    for _ in range(3):
        assert run.phase is Phase.RUNNING
        run.tick().tell(Probed(1, ok=False, output="refused"))
    assert run.effects() == ["Persist", "Note", "Signal"]
    assert run.s.cause.text == "unhealthy after 3 failed checks: refused"
    assert run.ends(code=0).phase is Phase.BACKOFF
    assert run.tick().all(Launch)[-1].reason is Reason.HEALTH
    assert run.launched().s.health is Health.STARTING  # a stale verdict says nothing of the new run


@pytest.mark.parametrize(("action", "notes"), [("none", 0), ("event", 1)])
def test_unhealthy_may_be_an_event_only(action: str, notes: int) -> None:
    run = life(retries=1, on_failure=action).tick().tell(Probed(1, ok=False))
    assert (run.phase, run.s.health) == (Phase.RUNNING, Health.UNHEALTHY)
    assert len(run.all(Note)) == notes
    run.tick().tell(Probed(1, ok=False))
    assert len(run.all(Note)) == notes  # once
    assert run.tick().tell(Probed(1, ok=True)).s.health is Health.HEALTHY


def test_on_failure_stop_stays_down_until_a_start_also_over_a_restart_of_the_daemon() -> None:
    run = life(retries=1, on_failure="stop").tick().tell(Probed(1, ok=False, output="x")).ends(signal=15)
    assert run.phase is Phase.STOPPED
    assert run.s.cause.code == "health"
    saved = run.all(Persist)[-1].saved
    assert Life(run.s.definition, saved).tell(Absent()).phase is Phase.STOPPED
    assert run.tell(StartAsked(1, "op")).phase is Phase.STARTING
    assert not run.s.health_stop
    assert Life(run.s.definition, saved, now=1.0).tell(Absent(booted=True)).phase is Phase.STARTING


def test_a_restart_for_health_goes_on_after_the_death_of_the_daemon() -> None:
    before = life(retries=1).tick().tell(Probed(1, ok=False))
    after = Life(before.s.definition, before.all(Persist)[-1].saved).tell(Adopted(1, 41, NOW))
    assert after.phase is Phase.STOPPING
    assert after.ends(code=0).phase is Phase.BACKOFF
    assert after.s.cause.code == "health"


def test_a_check_that_cannot_be_run_has_failed() -> None:
    run = life(retries=1).tick().tell(Failed("Probe", 1, "no answer"))
    assert run.phase is Phase.STOPPING


def test_a_result_nobody_waits_for_is_dropped() -> None:
    run = life(retries=1)
    before = run.s
    assert run.tell(Probed(1, ok=False)).s == before


def test_a_check_that_is_changed_live_begins_anew_and_one_that_goes_is_forgotten() -> None:
    run = life().tick().tell(Probed(1, ok=True))
    other = define(healthcheck={"test": ["CMD", "false"], "interval": 3}, healthy_after=0)
    run.tell(Redefined(other, False, ("healthcheck.test",)))
    assert (run.s.health, run.s.probe_at) == (Health.STARTING, run.now + 3)
    run.tell(Redefined(define(healthy_after=0), False, ("healthcheck",)))
    assert (run.s.health, run.s.wake_at) == (Health.NONE, None)


def test_09_a_childs_oom_is_an_event_and_colours_no_later_end() -> None:
    """amazon-ecs-agent#5135: declared dead of OOM from a stale flag while it ran on."""
    run = Life(define(restart="no", oom={"group": False})).up().tell(ChildOom(1, 1))
    assert run.phase is Phase.RUNNING
    assert run.effects() == ["Note"]
    assert run.ends(code=7, after=30).phase is Phase.EXITED
    assert run.s.last_end is not None
    assert not run.s.last_end.oom.killed
    assert run.s.cause.text == "exit 7, policy no"


def test_a_childs_oom_restarts_where_the_definition_wants_it() -> None:
    run = Life(define(oom={"group": False, "on_child_kill": "restart"})).up().tell(ChildOom(1, 2))
    assert run.effects() == ["Persist", "Note", "Signal"]
    assert run.ends(code=0).phase is Phase.BACKOFF
    assert run.s.cause.text.startswith("a process was oom-killed, retry 1 in 1")
    assert run.tick().all(Launch)[-1].reason is Reason.OOM
