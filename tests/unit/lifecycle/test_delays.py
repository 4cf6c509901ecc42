"""Delays of restarts and the windows in which they count (docs/lifecycle.md, "Restart")."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.model import Restart
from supervisor.lifecycle.facts import (
    Absent,
    Launch,
    Launched,
    Note,
    Persist,
    Phase,
    Reason,
    StartAsked,
    StopAsked,
    Tick,
)
from supervisor.lifecycle.restart import delay, longest, luck, nominal
from tests.unit.lifecycle.world import NOW, Life, define


def life(policy: str = "always", **restart: Any) -> Life:
    return Life(define(restart={"policy": policy, "jitter": 0, **restart})).up()


@given(
    st.integers(1, 10**9), st.floats(0, 1, exclude_max=True), st.floats(0, 3600), st.floats(1, 100),
    st.floats(0, 86400), st.floats(0, 1),
)  # fmt: skip
def test_a_delay_is_bounded_and_does_not_fall(
    attempt: int, lucky: float, interval: float, factor: float, top: float, jitter: float
) -> None:
    rules = Restart.model_construct(
        **Restart().model_dump()
        | {"interval": interval, "factor": factor, "max_interval": max(interval, top), "jitter": jitter}
    )
    wait = nominal(rules, attempt)
    assert interval <= wait <= rules.max_interval or wait == interval
    assert wait <= nominal(rules, attempt + 1)
    assert wait <= delay(rules, attempt, lucky) <= wait * (1 + jitter)
    assert delay(rules, attempt, lucky) <= longest(rules)


def test_the_delays_of_the_defaults() -> None:
    assert [nominal(Restart(), k) for k in range(1, 10)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_interval_10s_and_factor_1_is_containerds_way() -> None:
    assert {nominal(Restart(interval=10, factor=1), k) for k in (1, 2, 50, 10**6)} == {10.0}


def test_luck_is_the_same_at_each_replay_and_other_on_each_host() -> None:
    assert luck("a/web", 7) == luck("a/web", 7)
    assert len({luck(f"host{n}/web", 7) for n in range(50)}) == 50
    assert all(0 <= luck("a/web", n) < 1 for n in range(1000))


def test_an_interval_of_zero_starts_in_the_step_of_the_end() -> None:
    """One transaction, and no wait, from the end of a run to the next."""
    again = life(interval=0, max_interval=0).ends(code=1)
    assert again.effects() == ["RecordEnd", "Persist", "Clean", "Launch"]
    assert again.s.generation == 2


def test_01_the_delay_has_a_cap_and_a_day_of_failures_shows_it() -> None:
    """moby#30503: the delay doubled without limit."""
    day = life(max_interval=60.0)
    gaps = []
    while day.now < NOW + 86400:
        ended = day.ends(code=1).now
        gaps.append(day.tick().now - ended)
        day.launched()
    assert max(gaps) == 60.0
    assert gaps == sorted(gaps)
    assert 1410 <= len(gaps) <= 1450
    assert day.s.cause.text.endswith("restart after exit 1")


def test_04_a_start_counts_as_one_after_healthy_after_whatever_ticks_come() -> None:
    """Supervisor#1043: a clock that was set back hung the start. Only CLOCK_BOOTTIME is asked."""
    run = Life(define(healthy_after=5)).tell(Absent(booted=True)).tell(Launched(1, 41, NOW))
    for _ in range(3):
        assert run.tell(Tick(), 1.6).phase is Phase.STARTING  # early ones do no harm
    assert run.tell(Tick(), 0.2).phase is Phase.RUNNING
    assert run.done[2:] == []


def test_06_the_back_off_applies_whatever_the_threshold_of_a_start() -> None:
    """Supervisor#1285: with startsecs 0 the retry cap never applied."""
    quick = Life(define(healthy_after=0)).up()
    starts = 1
    while quick.now < NOW + 60:
        quick.ends(code=1).tick().launched()
        starts += 1
    assert starts <= 7


@pytest.mark.parametrize("restart", [{}, {"interval": 10.0, "reset_after": 10.0}])
def test_a_run_of_11_seconds_does_not_loop_for_ever_on_the_first_delay(restart: dict[str, Any]) -> None:
    """iotedge, moby#7414: `sleep 11; exit 1`, and a delay that is forgotten after each run."""
    loop = life(**restart)
    for _ in range(8):
        loop.ends(code=1, after=10.0).tick().launched()  # and 1 s until it counts as started
    assert loop.ends(code=1, after=10.0).s.backoff == 60.0


def test_a_run_that_lasts_starts_the_count_anew() -> None:
    run = life()
    for _ in range(3):
        run.ends(code=1).tick().launched()
    assert run.s.attempt == 3
    assert run.ends(code=1, after=58.9).s.attempt == 4  # with the second before RUNNING: 59.9 s
    run.tick().launched()
    assert run.ends(code=1, after=59.1).s.attempt == 1


def test_a_run_has_to_last_twice_the_last_delay() -> None:
    run = life(max_interval=100.0)
    for _ in range(7):
        run.ends(code=1).tick().launched()
    assert run.s.attempt == 7  # the last delay was 64 s
    assert run.ends(code=1, after=126.0).s.attempt == 8
    run.tick().launched()
    assert run.ends(code=1, after=200.0).s.attempt == 1


def test_a_clean_exit_counts_like_any_end_for_the_delay() -> None:
    run = life()
    for _ in range(3):
        run.ends(code=0).tick().launched()
    assert run.ends(code=0).s.backoff == 8.0


def test_what_is_left_of_a_back_off_goes_on_after_a_restart_of_the_daemon() -> None:
    before = life(interval=30).ends(code=1)
    after = Life(before.s.definition, before.all(Persist)[-1].saved, now=before.now + 10).tell(Absent())
    assert after.phase is Phase.BACKOFF
    assert after.s.wake_at == before.s.wake_at
    assert after.s.backoff == 20.0
    assert after.all(Persist) == []
    assert after.tick().all(Launch)[-1].reason is Reason.ERROR


def test_a_stored_time_beyond_all_delays_is_not_believed() -> None:
    before = life(interval=30).ends(code=1)
    early = Life(before.s.definition, before.all(Persist)[-1].saved, now=-1e9).tell(Absent())
    assert early.s.wake_at == -1e9 + longest(before.s.definition.restart)


# --- windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_on_failure_n_restarts_n_times_in_the_window_then_fatal(limit: int) -> None:
    run = life("on-failure", max_attempts=limit, interval=1, factor=1)
    for _ in range(limit):
        assert run.ends(code=1).phase is Phase.BACKOFF
        run.tick().launched()
    assert run.ends(code=1).phase is Phase.FATAL
    assert run.s.cause.code == "exhausted"
    assert run.s.cause.text == f"exit 1: {'1 restart is' if limit == 1 else f'{limit} restarts are'} used up in 10m00s"
    assert run.s.wake_at is None
    assert run.tell(Tick(), 1e6).phase is Phase.FATAL


def test_the_window_slides_and_is_no_count_for_life() -> None:
    """Docker: on-failure:5 with one crash a day stops for ever on day 6."""
    run = life("on-failure", max_attempts=2)
    for _ in range(20):
        assert run.ends(code=1, after=86400).phase is Phase.BACKOFF
        run.tick().launched()


@pytest.mark.parametrize(("gap", "phase"), [(599.9, "FATAL"), (600.0, "BACKOFF")])
def test_an_end_leaves_the_window_when_it_is_that_old(gap: float, phase: str) -> None:
    run = life("on-failure", max_attempts=1, reset_after=10**6)
    first = run.ends(code=1).now
    run.tick().launched()
    assert run.ends(code=1, after=first + gap - run.now).phase == phase


def test_05_a_suspend_counts_for_the_window() -> None:
    """systemd#42912: two starts in 26 hours counted as seven."""
    run = life("on-failure", max_attempts=1, window=3600)
    run.ends(code=1).tick().launched()
    run.now += 36000  # the host slept: CLOCK_BOOTTIME went on
    assert run.ends(code=1).phase is Phase.BACKOFF


def test_exhausted_slow_tries_once_each_slow_interval_until_a_run_lasts() -> None:
    run = life("on-failure", max_attempts=2, on_exhausted="slow", slow_interval=900, window=600)
    for _ in range(2):
        run.ends(code=1).tick().launched()
    for _ in range(3):  # the window is empty again after each, and it stays slow
        assert run.ends(code=1).s.backoff == 900.0
        assert run.s.cause.code == "exhausted"
        run.tick().launched()
    run.ends(code=1, after=1799.5)
    assert run.s.backoff == 1.0
    assert not run.s.slow


def test_an_explicit_start_after_fatal_counts_anew() -> None:
    run = life("on-failure", max_attempts=1)
    run.ends(code=1).tick().launched().ends(code=1)
    assert run.phase is Phase.FATAL
    run.tell(StartAsked(1, "op")).launched()
    assert run.ends(code=1).phase is Phase.BACKOFF


@pytest.mark.parametrize("policy", ["always", "unless-stopped"])
def test_03_always_never_gives_up_and_shows_that_it_loops(policy: str) -> None:
    """home-assistant/supervisor#7190: a watchdog that quietly gave up after a network outage."""
    run = life(policy)
    for n in range(1, 21):
        run.ends(code=1)
        assert run.phase is Phase.BACKOFF
        assert run.s.crash_looping is (n >= 5)
        run.tick().launched()
    assert run.now - NOW < 20 * 61
    looping = [note for note in run.all(Note) if note.kind == "crash-looping"]
    assert len(looping) == 1
    while run.s.wake_at is not None:  # the cause is gone
        run.tick()
    assert run.phase is Phase.RUNNING
    assert not run.s.crash_looping
    assert run.s.attempt == 0


def test_crash_looping_ends_with_a_stop() -> None:
    run = life(crash_loop_after=1).ends(code=1)
    assert run.s.crash_looping
    assert not run.tell(StopAsked(1, "op")).s.crash_looping
