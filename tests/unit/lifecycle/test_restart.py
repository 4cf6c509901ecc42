"""The restart table, its delays and its windows (docs/lifecycle.md, "Restart")."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.lifecycle.facts import (
    Absent,
    End,
    Launch,
    LaunchFailed,
    Oom,
    Persist,
    Phase,
    Probed,
    Reason,
    RecordEnd,
    Scope,
    Source,
    StopAsked,
)
from supervisor.lifecycle.restart import counted_as
from tests.unit.lifecycle.world import CHECK, NOW, OOM, Life, define

POLICIES = ("no", "on-failure", "unless-stopped", "always")
ENDS: dict[str, dict[str, Any]] = {
    "exit 0": {"code": 0},
    "exit 1": {"code": 1},
    "exit 137": {"code": 137},
    "signal": {"signal": 11},
    "oom": {"signal": 9, "oom": OOM},
    "lost": {"source": Source.LOST},
}


def life(policy: str = "always", **restart: Any) -> Life:
    return Life(define(restart={"policy": policy, "jitter": 0, **restart})).up()


# --- the table ---------------------------------------------------------------------------------

TABLE = {
    **{("no", end): "EXITED" for end in ENDS},
    **{("on-failure", end): "EXITED" if end == "exit 0" else "BACKOFF" for end in ENDS},
    **{("unless-stopped", end): "BACKOFF" for end in ENDS},
    **{("always", end): "BACKOFF" for end in ENDS},
}


@pytest.mark.parametrize(("policy", "end"), TABLE)
def test_the_end_of_a_run_while_the_daemon_watches(policy: str, end: str) -> None:
    assert life(policy).ends(**ENDS[end]).phase == TABLE[policy, end]


@pytest.mark.parametrize(("policy", "end"), TABLE)
def test_the_end_of_a_run_while_no_daemon_watched_is_judged_the_same(policy: str, end: str) -> None:
    before = life(policy)
    after = Life(before.s.definition, before.all(Persist)[-1].saved)
    after.tell(Absent(End(1, NOW, NOW + 2, **ENDS[end])), 3.0)
    assert after.phase == TABLE[policy, end]
    assert [effect.end.generation for effect in after.all(RecordEnd)] == [1]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("end", ENDS)
def test_a_stop_that_was_asked_for_is_never_a_failure(policy: str, end: str) -> None:
    stopped = life(policy).tell(StopAsked(1, "op")).ends(**ENDS[end])
    assert stopped.phase is Phase.STOPPED
    assert stopped.s.ends == ()
    assert stopped.s.wake_at is None


@pytest.mark.parametrize("policy", POLICIES)
def test_unhealthy_is_a_failure_whatever_its_code(policy: str) -> None:
    sick = Life(define(restart={"policy": policy}, **CHECK)).up().tick().tell(Probed(1, ok=False)).ends(code=0)
    assert sick.phase == ("EXITED" if policy == "no" else "BACKOFF")
    assert sick.s.cause.code == "health"
    if policy != "no":
        assert sick.tick().all(Launch)[-1].reason is Reason.HEALTH


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("permanent", [True, False])
def test_a_launch_that_fails_is_a_failed_attempt(policy: str, permanent: bool) -> None:
    failed = Life(define(restart={"policy": policy})).tell(Absent(booted=True))
    failed.tell(LaunchFailed(1, "exec /bin/x: no such file", permanent))
    assert failed.phase == ("FATAL" if policy == "no" else "BACKOFF")
    assert failed.s.cause.code == "launch-error"
    assert "no such file" in failed.s.cause.text
    end = failed.all(RecordEnd)[0].end
    assert counted_as(end, failed.s.definition) == "start_failure"


BOOT = {  # policy, explicit stop, autostart: does it start?
    **{(policy, False, True): True for policy in POLICIES},
    **{(policy, False, False): False for policy in POLICIES},
    **{(policy, True, False): False for policy in POLICIES},
    **{(policy, True, True): policy == "always" for policy in POLICIES},
}


@pytest.mark.parametrize(("policy", "stopped", "autostart"), BOOT)
def test_host_boot(policy: str, stopped: bool, autostart: bool) -> None:
    before = life(policy)
    if stopped:
        before.tell(StopAsked(1, "op")).ends(signal=15)
    definition = define(restart=policy, autostart=autostart)
    after = Life(definition, before.all(Persist)[-1].saved, now=3.0).tell(Absent(booted=True))
    if BOOT[policy, stopped, autostart]:
        assert after.phase is Phase.STARTING
        assert [(effect.generation, effect.reason) for effect in after.all(Launch)] == [(2, Reason.BOOT)]
        assert not after.s.explicit_stop
    else:
        assert after.phase is Phase.STOPPED
        assert after.s.explicit_stop is stopped
    ends = [effect.end for effect in after.all(RecordEnd)]
    assert [(end.generation, end.source) for end in ends] == ([] if stopped else [(1, Source.LOST)])


@pytest.mark.parametrize("policy", POLICIES)
def test_an_explicit_stop_stays_over_a_restart_of_the_daemon(policy: str) -> None:
    before = life(policy).tell(StopAsked(1, "op")).ends(signal=15)
    after = Life(before.s.definition, before.all(Persist)[-1].saved).tell(Absent())
    assert after.phase is Phase.STOPPED
    assert after.all(Persist) == []  # nothing is new: nothing is written
    assert after.s.cause.text == "stopped by op"


def test_a_boot_is_no_failure_and_no_restart() -> None:
    """iotedge#3702: a cool-off after a clean reboot."""
    before = life("on-failure", max_attempts=1).ends(code=1).tick()
    assert before.s.attempt == 1
    after = Life(before.s.definition, before.all(Persist)[-1].saved, now=3.0).tell(Absent(booted=True))
    assert after.phase is Phase.STARTING
    assert (after.s.attempt, after.s.ends) == (0, ())


# --- OOM, and what runs are counted as ---------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({"code": 0}, "success"), ({"code": 3}, "success"), ({"code": 1}, "error"), ({"signal": 15}, "signal"),
        ({"signal": 9, "oom": OOM}, "oom"), ({"source": Source.LOST}, "lost"), ({}, "start_failure"),
    ],
)  # fmt: skip
def test_each_end_is_counted_once(how: dict[str, Any], kind: str) -> None:
    assert counted_as(End(1, None, NOW, **how), define(success_exit_codes=[0, 3])) == kind


def test_success_exit_codes_say_what_success_is() -> None:
    run = Life(define(restart="on-failure", success_exit_codes=[0, 3])).up()
    assert run.ends(code=3).phase is Phase.EXITED


def test_an_oom_kill_at_the_launch_is_an_oom() -> None:
    run = Life(define(resources={"memory": "64MiB"})).tell(Absent(booted=True))
    run.tell(LaunchFailed(1, "killed by its memory limit", oom=True))
    assert run.s.last_end is not None
    assert run.s.last_end.oom == Oom(killed=True, scope=Scope.CONTAINER)
    assert run.s.cause.text.startswith("oom-killed (limit 64MiB), retry 1 in 1")
    assert run.tick().all(Launch)[-1].reason is Reason.OOM
