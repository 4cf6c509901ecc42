"""What operators ask for, and what definitions and dependencies say. Pure.

A request changes the intent, and only then what runs: `step` stores the intent before the answer and before any signal.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.lifecycle import health, moves, restart, why
from supervisor.lifecycle.facts import (
    Answer,
    ApplyLive,
    Cause,
    Dependencies,
    Desired,
    Effect,
    Note,
    Phase,
    Reason,
    Redefined,
    Removed,
    RestartAsked,
    StartAsked,
    State,
    StopAsked,
)
from supervisor.lifecycle.moves import Step

# A live change of these may be what a container that fails has waited for.
MAY_HELP = frozenset({"restart", "resources", "oom", "success_exit_codes", "start_timeout"})
RESTS = frozenset({Phase.STOPPED, Phase.EXITED, Phase.FATAL, Phase.BACKOFF})


def accepted(event: StartAsked | StopAsked | RestartAsked, step: Step, message: str = "") -> Step:
    return step[0], (Answer(event.request, ok=True, message=message), *step[1])


def refused(s: State, event: StartAsked | StopAsked | RestartAsked, message: str) -> Step:
    return s, (Answer(event.request, ok=False, message=message),)


def _want_up(s: State) -> State:
    return replace(s, desired=Desired.UP, explicit_stop=False, health_stop=False)


# --- start -------------------------------------------------------------------------------------


def start(s: State, event: StartAsked, now: float) -> Step:
    """From a state of rest, or while it waits."""
    if s.removed:
        return refused(s, event, "it is being removed")
    cause = Cause("operator", f"started by {event.by}")
    if moves.waiting(s):
        return accepted(event, (moves.fresh(s), ()), s.cause.text)
    if moves.alive(s):
        return refused(s, event, "already started")
    after, effects = moves.begin(moves.fresh(_want_up(s)), now, Reason.MANUAL, cause)
    return accepted(event, (after, effects), after.cause.text if moves.waiting(after) else "")


def start_unseen(s: State, event: StartAsked, now: float) -> Step:
    """UNKNOWN: kept until it is known what runs."""
    if s.removed:
        return refused(s, event, "it is being removed")
    cause = Cause("operator", f"started by {event.by}")
    after = replace(_want_up(s), again=Reason.MANUAL, requested=True, cause=cause, kill_at_once=False)
    return accepted(event, (after, ()), "starts when it is known what runs")


def start_stopping(s: State, event: StartAsked | RestartAsked, now: float) -> Step:
    """The stop goes on, and a start follows it."""
    if s.removed:
        return refused(s, event, "it is being removed")
    cause = Cause("operator", f"started by {event.by} while it stopped")
    after = replace(_want_up(s), again=Reason.MANUAL, ended_by=Reason.MANUAL, cause=cause)
    return accepted(event, (after, ()), "starts when it has stopped")


# --- stop --------------------------------------------------------------------------------------


def _want_down(s: State, event: StopAsked) -> State:
    by = f"{'killed' if event.kill else 'stopped'} by {event.by}"
    return replace(s, desired=Desired.DOWN, explicit_stop=True, health_stop=False, cause=Cause("operator", by))


def stop(s: State, event: StopAsked, now: float) -> Step:
    """Wins over every policy, from every state."""
    after = _want_down(s, event)
    if moves.alive(s):
        return accepted(event, moves.stop(after, now, after.cause, kill=event.kill))
    return accepted(event, (moves.rest(moves.fresh(after), Phase.STOPPED, after.cause), ()))


def stop_unseen(s: State, event: StopAsked, now: float) -> Step:
    """UNKNOWN: an end follows as soon as it is known what runs."""
    s = replace(s, kill_at_once=s.kill_at_once or event.kill)
    if s.removed:
        return accepted(event, (s, ()))
    return accepted(event, (replace(_want_down(s, event), again=None, ended_by=None, requested=True), ()))


def stop_stopping(s: State, event: StopAsked, now: float) -> Step:
    """A second stop, or a kill, cuts the grace short; the first stop during a restart only takes the start back."""
    kill = event.kill or s.explicit_stop or s.removed
    after = s if s.removed else replace(_want_down(s, event), again=None, ended_by=None)
    return accepted(event, moves.press(after, now, kill))


# --- restart -----------------------------------------------------------------------------------


def restart_up(s: State, event: RestartAsked, now: float) -> Step:
    if not moves.alive(s):
        return start(s, StartAsked(event.request, event.by), now)
    cause = Cause("operator", f"restarted by {event.by}")
    return accepted(event, moves.stop(_want_up(s), now, cause, again=Reason.MANUAL))


def restart_unseen(s: State, event: RestartAsked, now: float) -> Step:
    if s.removed:
        return refused(s, event, "it is being removed")
    cause = Cause("operator", f"restarted by {event.by}")
    s = replace(_want_up(s), requested=True, cause=cause)
    after = replace(s, again=Reason.MANUAL, ended_by=Reason.MANUAL)
    return accepted(event, (after, ()), "restarts when it is known what runs")


# --- definitions -------------------------------------------------------------------------------


def removed(s: State, event: Removed, now: float) -> Step:
    """Stop, clean, forget."""
    if s.removed:
        return s, ()
    cause = Cause("removed", "its definition is gone")
    s = replace(s, removed=True, desired=Desired.DOWN, health_stop=False)
    if s.phase is Phase.UNKNOWN:
        return replace(s, cause=cause, again=None, ended_by=None), ()
    if s.phase is Phase.STOPPING:
        return replace(s, cause=cause, again=None, ended_by=None), ()
    return moves.stop(s, now, cause) if moves.alive(s) else moves.gone(s)


def redefined(s: State, event: Redefined, now: float) -> Step:
    """A new definition. One that is to stay down stays down; one that runs and is changed live goes on."""
    before, s = s, replace(s, definition=event.definition)
    if s.removed:
        return s, ()
    if not event.restart:
        return _live(before, s, event, now)
    cause = Cause("update", f"definition changed: {', '.join(event.fields)}".rstrip(": "))
    if s.phase is Phase.UNKNOWN:
        seen_before = s.restored is not None and s.desired is Desired.UP and s.again is None
        return (replace(s, again=Reason.UPDATE, ended_by=Reason.UPDATE, health_stop=False) if seen_before else s), ()
    if s.desired is Desired.DOWN:
        return s, ()
    if s.phase is Phase.STOPPING:
        again = s.again if s.again is Reason.MANUAL else Reason.UPDATE
        return replace(s, again=again, ended_by=again, health_stop=False, cause=cause), ()
    if moves.alive(s):
        return moves.stop(s, now, cause, again=Reason.UPDATE)
    return moves.begin(moves.fresh(s), now, Reason.UPDATE, cause)


def _live(before: State, s: State, event: Redefined, now: float) -> Step:
    note: tuple[Effect, ...] = (Note("update", f"changed without a restart: {', '.join(event.fields)}".rstrip(": ")),)
    if moves.alive(s):
        return health.redefine(s, before.definition.healthcheck, now), (*note, ApplyLive(s.generation))
    helps = not event.fields or any(field.partition(".")[0] in MAY_HELP for field in event.fields)
    if not helps or s.phase not in RESTS or s.desired is Desired.DOWN or s.health_stop:
        return s, note
    return _rejudged(s, note, now)


def _rejudged(s: State, note: tuple[Effect, ...], now: float) -> Step:
    """Down by an end that the new definition may see otherwise: what would it say?"""
    cause = Cause("update", "its definition changed")
    wanted = restart.wants(s.definition, s.last_end, s.ended_by)
    if s.phase is Phase.BACKOFF and not wanted:
        words = "" if s.last_end is None else f"{why.judged_words(s.last_end, s.ended_by, s.definition)}, "
        policy = f"policy {s.definition.restart.policy}"
        return moves.rest(moves.fresh(s), Phase.EXITED, Cause("policy", words + policy)), note
    if s.phase is Phase.STOPPED or not (wanted or s.phase is Phase.FATAL):
        return s, note
    s, effects = moves.begin(moves.fresh(s), now, Reason.UPDATE, cause)
    return s, note + effects


def dependencies(s: State, event: Dependencies, now: float) -> Step:
    """Only a start that waits is moved by them; what runs goes on."""
    s = replace(s, dependencies=event.unmet)
    if not moves.waiting(s) or not s.unmet:
        return s, ()
    if event.unmet:
        return replace(s, unmet=event.unmet, cause=why.waiting(event.unmet)), ()
    return moves.begin(s, now, s.next_reason, Cause("dependency", "its dependencies are met"))
