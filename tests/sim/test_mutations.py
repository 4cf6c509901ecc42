"""The simulator must see faults: each of these breaks one rule of the core, and is found within 300 histories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from supervisor.lifecycle import look, moves, pressure, restart, told
from supervisor.lifecycle import step as core
from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    Dependencies,
    Desired,
    End,
    Ended,
    Failed,
    Launch,
    Launched,
    Persist,
    Phase,
    Reason,
    RecordEnd,
    RestartAsked,
    ShimLost,
    State,
    StopAsked,
    Tick,
)
from supervisor.lifecycle.moves import Step
from tests.sim.history import History
from tests.sim.kernel import Violation

LIMIT = 300
Patch = pytest.MonkeyPatch
Mutation = Callable[[Patch], None]

MUTATIONS: list[Mutation] = []


def mutation(change: Mutation) -> Mutation:
    MUTATIONS.append(change)
    return change


def rewire(patch: Patch, event: type[Any], wrap: Callable[[Callable[..., Step]], Callable[..., Step]]) -> None:
    """Put something between the table and the handlers of one event."""
    row = {phase: wrap(handler) for phase, handler in core.TABLE[event].items()}
    patch.setattr(core, "TABLE", {**core.TABLE, event: row})


def after(patch: Patch, event: type[Any], change: Callable[[State, Any], State]) -> None:
    """The handler's state, changed."""

    def wrap(handler: Callable[..., Step]) -> Callable[..., Step]:
        def handle(s: State, e: Any, now: float) -> Step:
            s, effects = handler(s, e, now)
            return change(s, e), effects

        return handle

    rewire(patch, event, wrap)


def only(patch: Patch, event: type[Any], instead: Callable[..., Step]) -> None:
    rewire(patch, event, lambda handler: instead)


@mutation
def a_launch_in_flight_is_not_alive(patch: Patch) -> None:
    patch.setattr(moves, "alive", lambda s: s.pid is not None)


@mutation
def a_generation_is_used_again(patch: Patch) -> None:
    begin = moves.begin

    def again(s: State, *rest: Any) -> Step:
        s, effects = begin(s, *rest)
        if not effects:
            return s, ()
        launch = effects[0]
        assert isinstance(launch, Launch)
        first = max(1, s.generation - 1)
        return replace(s, generation=first), (replace(launch, generation=first),)

    patch.setattr(moves, "begin", again)


@mutation
def effects_come_before_the_intent_is_stored(patch: Patch) -> None:
    patch.setattr(core, "RANK", {**core.RANK, Persist: 9})


@mutation
def the_intent_of_a_stop_is_not_stored(patch: Patch) -> None:
    saved_of = core.saved_of
    patch.setattr(core, "saved_of", lambda s: replace(saved_of(s), desired=Desired.UP, explicit_stop=False))


@mutation
def ends_are_not_recorded(patch: Patch) -> None:
    arrange = core.arrange
    patch.setattr(core, "arrange", lambda b, a, e: tuple(x for x in arrange(b, a, e) if not isinstance(x, RecordEnd)))


@mutation
def an_end_is_recorded_by_every_news_of_it(patch: Patch) -> None:
    """At the first look too: the record that was read already."""
    patch.setattr(look, "recorded", lambda s, generation: False)


@mutation
def a_back_off_has_no_time(patch: Patch) -> None:
    after(patch, Ended, lambda s, e: replace(s, retry_at=None) if s.phase is Phase.BACKOFF else s)


@mutation
def a_grace_never_ends(patch: Patch) -> None:
    patch.setattr(moves, "_phase_time", lambda s: None if s.phase is Phase.STOPPING else s.retry_at)


@mutation
def an_adopted_run_is_not_stopped_though_it_shall_be(patch: Patch) -> None:
    after(patch, Adopted, lambda s, e: replace(s, phase=Phase.RUNNING))


@mutation
def an_adopted_run_is_restarted_for_nothing(patch: Patch) -> None:
    def adopted(s: State, e: Adopted, now: float) -> Step:
        s, effects = look.adopted(s, e, now)
        return (s, effects) if effects else moves.stop(s, now, s.cause, again=Reason.UPDATE)

    only(patch, Adopted, lambda s, e, now: adopted(s, e, now) if s.phase is Phase.UNKNOWN else (s, ()))


@mutation
def what_ended_meanwhile_is_not_judged(patch: Patch) -> None:
    def absent(s: State, e: Absent, now: float) -> Step:
        return look.absent(s, replace(e, end=None), now) if s.phase is Phase.UNKNOWN else (s, ())

    only(patch, Absent, absent)


@mutation
def a_boot_starts_what_was_stopped(patch: Patch) -> None:
    at_boot = look.at_boot
    patch.setattr(look, "at_boot", lambda s, new, now: at_boot(replace(s, explicit_stop=False), new, now))


@mutation
def a_restart_forgets_its_second_half(patch: Patch) -> None:
    after(patch, RestartAsked, lambda s, e: replace(s, again=None, ended_by=None, desired=Desired.DOWN))


@mutation
def a_stop_in_flight_is_forgotten_when_the_launch_is_done(patch: Patch) -> None:
    def launched(s: State, e: Launched, now: float) -> Step:
        return moves.lives(s, e.pid, e.started, now), ()

    only(patch, Launched, lambda s, e, now: launched(s, e, now) if s.launching else (s, ()))


@mutation
def a_stop_does_not_end_a_back_off(patch: Patch) -> None:
    def stop(handler: Callable[..., Step]) -> Callable[..., Step]:
        def handle(s: State, e: StopAsked, now: float) -> Step:
            if s.phase is not Phase.BACKOFF:
                return handler(s, e, now)
            s, effects = handler(s, e, now)
            return replace(s, phase=Phase.BACKOFF, retry_at=now + 1.0), effects

        return handle

    rewire(patch, StopAsked, stop)


@mutation
def a_lost_shim_is_the_end_of_its_run(patch: Patch) -> None:
    def lost(s: State, e: ShimLost, now: float) -> Step:
        return (s, ()) if s.pid is None else moves.over(s, End(s.generation, None, now, detail=e.error), now)

    only(patch, ShimLost, lost)


@mutation
def a_launch_without_an_answer_is_dead_at_once(patch: Patch) -> None:
    def failed(s: State, e: Failed, now: float) -> Step:
        if e.effect != "Launch" or not s.launching:
            return told.failed(s, e, now)
        return moves.over(s, End(s.generation, None, now, detail=e.error), now)

    only(patch, Failed, lambda s, e, now: failed(s, e, now) if s.phase is not Phase.UNKNOWN else (s, ()))
    patch.setattr(restart, "delay", lambda rules, attempt, lucky: 0.0)


@mutation
def pressure_restarts_without_a_cool_down(patch: Patch) -> None:
    patch.setattr(pressure, "_cooling", lambda s, now: 0.0)


@mutation
def a_daemon_forgets_the_cool_down_of_the_last_one(patch: Patch) -> None:
    saved_of = core.saved_of
    patch.setattr(core, "saved_of", lambda s: replace(saved_of(s), pressure_at=None))


@mutation
def an_event_of_pressure_is_a_restart(patch: Patch) -> None:
    patch.setattr(pressure, "_counts", lambda s, strain, now: True)


@mutation
def a_late_end_counts_for_the_next_run(patch: Patch) -> None:
    patch.setattr(core, "_current", lambda s, e: True)


@mutation
def waiting_for_dependencies_never_ends(patch: Patch) -> None:
    dependencies = core.TABLE[Dependencies][Phase.STARTING]
    only(patch, Dependencies, lambda s, e, now: dependencies(s, e, now) if e.unmet else (s, ()))


@mutation
def an_overdue_time_is_not_consumed(patch: Patch) -> None:
    after(patch, Tick, lambda s, e: replace(s, clean_at=0.0))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("change", MUTATIONS, ids=lambda change: change.__name__)
def test_a_broken_rule_is_found(change: Mutation, monkeypatch: Patch) -> None:
    change(monkeypatch)
    for seed in range(1, LIMIT + 1):
        try:
            History(seed).run()
        except Violation:
            return
    pytest.fail(f"not found in {LIMIT} histories")
