"""Where a container shall be, and whether something is under way."""

from __future__ import annotations

import pytest

from supervisor.lifecycle.facts import Probed
from supervisor.lifecycle.settled import in_desired_state, is_settled
from tests.unit.lifecycle.world import CHECK, SITUATIONS, Life, define

GOOD = {
    "waiting", "held", "untended", "launching", "starting", "running", "probing", "strained", "stopping", "killed",
    "restarting",    "stopping-launch", "stopped", "off", "exited", "removing", "done", "pulling",
}  # fmt: skip
SETTLED = {"running", "probing", "strained", "untended", "stopped", "off", "exited", "fatal", "done", "paused"}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_situation(situation: str) -> None:
    state = SITUATIONS[situation]().s
    assert in_desired_state(state) is (situation in GOOD)
    assert is_settled(state) is (situation in SETTLED)


def test_a_one_shot_that_failed_is_not_where_it_shall_be() -> None:
    assert not in_desired_state(Life(define(restart="no")).up().ends(code=1).s)


def test_unhealthy_is_not_where_it_shall_be() -> None:
    check = {"healthcheck": CHECK["healthcheck"] | {"on_failure": "event"}}
    run = Life(define(**check)).up().tick().tell(Probed(1, ok=False))
    assert not in_desired_state(run.s)


def test_down_by_on_failure_stop_is_not_where_it_shall_be() -> None:
    check = {"healthcheck": CHECK["healthcheck"] | {"on_failure": "stop"}}
    run = Life(define(**check)).up().tick().tell(Probed(1, ok=False)).ends(signal=15)
    assert not in_desired_state(run.s)


def test_a_start_in_a_crash_loop_is_not_where_it_shall_be() -> None:
    run = Life(define(restart={"crash_loop_after": 1})).up().ends(code=1).tick()
    assert run.phase == "STARTING"
    assert not in_desired_state(run.s)
