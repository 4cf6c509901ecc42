"""The only place that decides: `step(state, event, now) -> (state, effects)`. Pure and total.

Theory.

*Runs.* A container has at most one run that may be alive: `launching` (a Launch is in flight) or `pid`. Launch is
emitted only when neither holds, with the next generation (I2). What happens to a run is told by events that name its
generation; one of another generation is dropped. Each run is recorded once: an end of a generation that is recorded
already is dropped (I5).

*Intent first.* `arrange` puts every step's effects in one order: RecordEnd, Persist, Note, Answer, Signal and
KillAll, Clean, then what takes time. A step that answers "accepted", signals or launches always has a Persist; so
nothing is acknowledged or signalled whose intent is not durable (I4). The shell stores first; when it cannot, the
step has not happened: it goes back to the state before, refuses the request or tells the event again later. So events
may come twice and late.

*Stops.* One path whoever wants it (operator, definition, health, OOM of a child, pressure, removal): STOPPING, the
stop signal, the grace, cgroup.kill again and again, until Ended. What follows is decided at the end: `removed`, then
`desired`, then `again`, then policy.

*Waiting.* Whatever waits has its time in `wake_at`, or an event that must come: Launched, LaunchFailed or Failed (a
Launch), Ended (a killed run), Probed or Failed (a Probe), Dependencies (a start that waits), Adopted or Absent (the
first look). A Tick may be early, late (suspend) or double. A timeout never means "dead": after a launch without an
answer the next one is held back until killing and cleaning have had their time.

*Lost shims.* A shim that is gone is no end of its run: `untended` says so until another has taken over, or an Ended
comes that says how it was. While it is set, a health check that fails means nothing.

*First look.* A daemon begins each container as UNKNOWN with what was stored (`look.py`). What runs is believed before
what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from supervisor.lifecycle import asked, look, moves, pressure, told
from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    Answer,
    ApplyLive,
    ChildOom,
    Clean,
    Dependencies,
    Effect,
    Ended,
    Event,
    Failed,
    Forget,
    KillAll,
    Launch,
    Launched,
    LaunchFailed,
    Note,
    Persist,
    Phase,
    Pressure,
    Probe,
    Probed,
    RecordEnd,
    Redefined,
    Removed,
    RestartAsked,
    ShimLost,
    Signal,
    StartAsked,
    State,
    StopAsked,
    TakenOver,
    Tick,
)
from supervisor.lifecycle.look import initial, saved_of
from supervisor.lifecycle.moves import Step, alive
from supervisor.lifecycle.order import dependency_unmet
from supervisor.lifecycle.restart import counted_as

Handler = Callable[[State, Any, float], Step]


def ignore(s: State, event: Event, now: float) -> Step:
    return s, ()


def _row(default: Handler, unknown: Handler = ignore, stopping: Handler | None = None) -> Mapping[Phase, Handler]:
    """A row of the table: `default` in every phase but UNKNOWN, and STOPPING where that differs."""
    row = dict.fromkeys(Phase, default) | {Phase.UNKNOWN: unknown}
    return row if stopping is None else row | {Phase.STOPPING: stopping}


def _only(*phases: Phase, handler: Handler) -> Mapping[Phase, Handler]:
    return dict.fromkeys(Phase, ignore) | dict.fromkeys(phases, handler)


# Who decides, by event and phase. Where a launch is in flight or a start waits is a matter of the handlers: the words
# that operators know have one STARTING for both. docs/lifecycle.md shows where each pair leads.
TABLE: Mapping[type[Event], Mapping[Phase, Handler]] = {
    Adopted: _only(Phase.UNKNOWN, handler=look.adopted),
    Absent: _only(Phase.UNKNOWN, handler=look.absent),
    StartAsked: _row(asked.start, unknown=asked.start_unseen, stopping=asked.start_stopping),
    StopAsked: _row(asked.stop, unknown=asked.stop_unseen, stopping=asked.stop_stopping),
    RestartAsked: _row(asked.restart_up, unknown=asked.restart_unseen, stopping=asked.start_stopping),
    Redefined: _row(asked.redefined, unknown=asked.redefined),
    Removed: _row(asked.removed, unknown=asked.removed),
    Dependencies: _row(asked.dependencies, unknown=asked.dependencies),
    Launched: _only(Phase.STARTING, Phase.STOPPING, handler=told.launched),
    LaunchFailed: _only(Phase.STARTING, Phase.STOPPING, handler=told.launch_failed),
    Ended: _only(Phase.STARTING, Phase.RUNNING, Phase.PAUSED, Phase.STOPPING, handler=told.ended),
    ShimLost: _only(Phase.STARTING, Phase.RUNNING, Phase.PAUSED, Phase.STOPPING, handler=told.shim_lost),
    TakenOver: _only(Phase.STARTING, Phase.RUNNING, Phase.PAUSED, Phase.STOPPING, handler=told.taken_over),
    ChildOom: _only(Phase.STARTING, Phase.RUNNING, Phase.PAUSED, Phase.STOPPING, handler=told.child_oom),
    Pressure: _only(Phase.STARTING, Phase.RUNNING, Phase.PAUSED, handler=pressure.noticed),
    Probed: _only(Phase.STARTING, Phase.RUNNING, Phase.PAUSED, handler=told.probed),
    Failed: _row(told.failed),
    Tick: _row(told.tick),
}


def step(state: State, event: Event, now: float) -> Step:
    """The state after `event`, and what is to be done, in this order. `now`: CLOCK_BOOTTIME. Raises nothing."""
    if state.done:
        return state, _gone(event)
    if not _current(state, event):
        return state, ()
    after, effects = TABLE[type(event)][state.phase](state, event, now)
    wake = moves.wake_of(after)
    if after.wake_at != wake:
        after = replace(after, wake_at=wake)
    return after, arrange(state, after, effects)


def _current(state: State, event: Event) -> bool:
    """False for news of another run."""
    match event:
        case Launched() | LaunchFailed() | ShimLost() | TakenOver() | ChildOom() | Pressure() | Probed() | Failed():
            return event.generation == state.generation
        case Ended():
            return event.end.generation == state.generation
        case _:
            return True


def _gone(event: Event) -> tuple[Effect, ...]:
    if isinstance(event, StartAsked | StopAsked | RestartAsked):
        return (Answer(event.request, ok=isinstance(event, StopAsked), message="it is removed"),)
    return ()


# --- the one order -----------------------------------------------------------------------------

RANK: Mapping[type[Effect], int] = {
    RecordEnd: 0, Persist: 1, Note: 2, Answer: 3, Signal: 4, KillAll: 4, ApplyLive: 5, Clean: 6, Launch: 7, Probe: 7,
    Forget: 8,
}  # fmt: skip
UP = frozenset({Phase.STARTING, Phase.RUNNING, Phase.PAUSED, Phase.PULLING})


def arrange(before: State, after: State, effects: tuple[Effect, ...]) -> tuple[Effect, ...]:
    """Effects in their order, with the Persist that has to precede them."""
    if any(_needs_intent(before, effect) for effect in effects) or _durable(before) != _durable(after):
        effects = (*effects, Persist(saved_of(after)))
    return tuple(sorted(effects, key=lambda effect: RANK[type(effect)])) if len(effects) > 1 else effects


def _needs_intent(before: State, effect: Effect) -> bool:
    match effect:
        case Answer():
            return effect.ok
        case KillAll():
            return before.kills == 0  # a repetition has its intent stored: a stuck process writes no flash
        case RecordEnd() | Signal() | Launch():
            return True
        case _:
            return False


def _durable(s: State) -> tuple[object, ...]:
    """What has to be written when it changes, whatever the effects. Not: RUNNING, counts that a run has outlived."""
    phase = look.stored_phase(s)
    due = saved_of(s).wake_at if phase is Phase.BACKOFF else None
    return (Phase.STARTING if phase in UP else phase, due, s.desired, s.explicit_stop, s.health_stop, s.generation)


__all__ = ["TABLE", "Step", "alive", "arrange", "counted_as", "dependency_unmet", "initial", "saved_of", "step"]
