"""The first look: what was stored, and what really runs. Pure.

UNKNOWN lasts from `initial` to Adopted or Absent. Requests that come meanwhile are stored at once, and `requested`
keeps the look from overruling them: else an `always` that is stopped just after a boot would start all the same.
"""

from __future__ import annotations

from dataclasses import replace

from config.model import Container
from supervisor.lifecycle import moves, restart
from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    Cause,
    Clean,
    Desired,
    Effect,
    End,
    Phase,
    Reason,
    RecordEnd,
    Saved,
    Source,
    State,
)
from supervisor.lifecycle.moves import Step

NEVER_BEGAN = "the daemon ended before the run began"
WITH_ITS_BOOT = "ended with its boot"
UP = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.PAUSED, Phase.PULLING, Phase.UNKNOWN})
BY = {"health": Reason.HEALTH, "oom": Reason.OOM, "pressure": Reason.PRESSURE}  # by the code of a cause
STOPPED_FOR = {"operator": Reason.MANUAL, **BY}


def initial(definition: Container, seed: str, saved: Saved | None) -> State:
    """The state before anybody looked at what runs. `seed`: host id and name."""
    unseen = tuple(f"{name} (not looked at yet)" for name in definition.depends_on)
    s = State(name=definition.name, seed=seed, definition=definition, dependencies=unseen)
    if saved is None:
        return s
    s = replace(
        s,
        desired=saved.desired,
        explicit_stop=saved.explicit_stop,
        health_stop=saved.health_stop,
        stuck=saved.stuck,
        generation=saved.generation,
        attempt=saved.attempt,
        ends=saved.ends,
        last_end=saved.last_end,
        cause=saved.cause,
        pressure_at=saved.pressure_at,
        restored=saved,
    )
    if saved.cause.code == "removed":  # the daemon died while it removed it, and now it is defined again
        s = replace(s, desired=Desired.UP, explicit_stop=False, cause=Cause("update", "defined again"))
        s = replace(s, again=Reason.UPDATE, ended_by=Reason.UPDATE)
    return s


def saved_of(s: State) -> Saved:
    """What of the state is durable."""
    return Saved(
        generation=s.generation,
        desired=s.desired,
        explicit_stop=s.explicit_stop,
        phase=stored_phase(s),
        attempt=s.attempt,
        ends=s.ends,
        last_end=s.last_end,
        cause=s.cause,
        wake_at=s.retry_at if s.phase is not Phase.UNKNOWN or s.restored is None else s.restored.wake_at,
        health_stop=s.health_stop,
        stuck=s.stuck,
        pressure_at=s.pressure_at,
    )


def stored_phase(s: State) -> Phase:
    """UNKNOWN is stored as what is to go on: the next daemon looks too."""
    if s.phase is not Phase.UNKNOWN:
        return s.phase
    was = Phase.STOPPED if s.restored is None else s.restored.phase
    up = was in UP
    if s.desired is Desired.DOWN:
        return Phase.STOPPING if up else Phase.STOPPED
    if s.again is None:
        return was
    return Phase.STOPPING if up and (s.ended_by is not None or was is Phase.STOPPING) else Phase.STARTING


def recorded(s: State, generation: int) -> bool:
    return s.last_end is not None and s.last_end.generation >= generation


# --- it runs -----------------------------------------------------------------------------------


def adopted(s: State, event: Adopted, now: float) -> Step:
    was = stored_phase(s)
    again, killed = s.again, s.kill_at_once
    last = None if recorded(s, event.generation) else s.last_end  # what runs has not ended, whatever is stored
    s = replace(s, generation=event.generation, last_end=last, restored=None, again=None, ended_by=None)
    s = replace(s, requested=False)
    cause = s.cause
    s = moves.lives(replace(s, kill_at_once=False), event.pid, event.started, now)
    if s.desired is Desired.DOWN or s.removed or s.health_stop:
        return moves.stop(s, now, cause, kill=killed)
    if was is Phase.STOPPING:  # a restart that an earlier daemon began, or that was asked for before this look
        return moves.stop(s, now, cause, again=again or STOPPED_FOR.get(cause.code, Reason.UPDATE))
    return replace(s, cause=Cause("adopted", "found running when the daemon started"), stuck=False), ()


# --- nothing runs ------------------------------------------------------------------------------


def absent(s: State, event: Absent, now: float) -> Step:
    was, saved = stored_phase(s), s.restored
    end = None if event.end is None or recorded(s, event.end.generation) else event.end
    if end is None and s.generation > 0 and was in UP and not recorded(s, s.generation):
        # A generation was given, and nothing is left of it.
        source, words = (Source.LOST, WITH_ITS_BOOT) if event.booted else (Source.ADOPTED, NEVER_BEGAN)
        end = End(s.generation, None, now, source=source, detail=words)
    told: tuple[Effect, ...] = ()
    if end is not None:
        told = (RecordEnd(end), Clean(end.generation))
        s = replace(s, last_end=end, generation=max(s.generation, end.generation))
    if event.booted or saved is None:
        s = replace(s, attempt=0, ends=(), pressure_at=None)
    s = replace(s, restored=None, kill_at_once=False, stuck=False)
    if s.removed:
        s, effects = moves.gone(s)
        return s, (*told[:1], *effects)
    requested, again = s.requested, s.again
    s = replace(s, requested=False, again=None, ended_by=None)
    if requested:
        s, effects = _as_requested(s, now)
    elif event.booted or saved is None:
        s, effects = at_boot(s, saved is None, now)
    else:
        s, effects = _goes_on(s, was, again, saved, end, now)
    return s, told + effects


def _as_requested(s: State, now: float) -> Step:
    if s.desired is Desired.DOWN:
        return moves.rest(s, Phase.STOPPED, s.cause), ()
    return moves.begin(moves.fresh(s), now, Reason.MANUAL, s.cause)


def _goes_on(s: State, was: Phase, again: Reason | None, saved: Saved, end: End | None, now: float) -> Step:
    """A daemon died and another came. `end`: of the run that was up then, if it is news."""
    ran = end is not None and end.detail != NEVER_BEGAN
    if s.desired is Desired.DOWN or s.health_stop:
        cause = s.cause if was in (Phase.STOPPED, Phase.STOPPING) else Cause("operator", "was to be stopped")
        return moves.rest(s, Phase.STOPPED, cause), ()
    if was is Phase.STOPPING or again is not None:  # the other half of a restart
        by = again or STOPPED_FOR.get(s.cause.code, Reason.UPDATE)
        if by in (Reason.MANUAL, Reason.UPDATE):
            return moves.begin(moves.fresh(s), now, by, s.cause)
        if end is not None and ran:
            return moves.judge(s, end, by, now)
    if end is not None and ran:
        return moves.judge(s, end, None, now)
    if was in UP:
        return moves.begin(s, now, Reason.BOOT, Cause("adopted", NEVER_BEGAN))
    if was is Phase.STOPPED:  # wanted up, and never begun
        return at_boot(s, False, now)
    if _outdated(s, saved):
        cause = Cause("update", "its definition changed while no daemon watched")
        return moves.begin(moves.fresh(s), now, Reason.UPDATE, cause)
    return _as_it_was(s, saved, now), ()


def at_boot(s: State, new: bool, now: float) -> Step:
    """Start if `autostart` and not explicitly stopped; `always` starts in spite of a stop."""
    definition = s.definition
    if s.explicit_stop and definition.restart.policy != "always":
        cause = s.cause if s.cause.code == "operator" else Cause("operator", "was stopped before the boot")
        return moves.rest(replace(s, desired=Desired.DOWN), Phase.STOPPED, cause), ()
    if not definition.autostart:
        if not s.explicit_stop:
            s = replace(s, cause=Cause("boot", "autostart is off"))
        return moves.rest(replace(s, desired=Desired.DOWN, health_stop=False), Phase.STOPPED, s.cause), ()
    s = replace(s, desired=Desired.UP, explicit_stop=False)
    return moves.begin(s, now, Reason.BOOT, Cause("new", "first start") if new else Cause("boot", "started at boot"))


def _outdated(s: State, saved: Saved) -> bool:
    """It was down for good by a policy that is not its policy now."""
    policy = s.definition.restart.policy
    match saved.phase:
        case Phase.EXITED:
            return s.last_end is not None and restart.wants(s.definition, s.last_end, None)
        case Phase.FATAL:
            return policy in ("always", "unless-stopped") or (
                policy == "on-failure" and saved.cause.code != "exhausted"
            )
        case _:
            return False


def _as_it_was(s: State, saved: Saved, now: float) -> State:
    """A state of rest goes on, also what is left of a BACKOFF."""
    if saved.phase is not Phase.BACKOFF:
        return replace(s, phase=saved.phase)
    rules = s.definition.restart
    due = now if saved.wake_at is None else min(saved.wake_at, now + restart.longest(rules))
    by = BY.get(s.cause.code)
    if s.last_end is None or s.last_end.oom.killed:
        by = None
    reason = Reason.ERROR if s.last_end is None else restart.reason_of(s.last_end, s.definition, by)
    return replace(
        s,
        phase=Phase.BACKOFF,
        retry_at=due,
        backoff=max(0.0, due - now),
        next_reason=reason,
        ended_by=by,
        slow=s.cause.code == "exhausted",
        crash_looping=len([t for t in s.ends if now - t < rules.window]) >= rules.crash_loop_after,
    )
