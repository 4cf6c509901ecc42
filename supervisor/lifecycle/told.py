"""What the kernel, the engine and the clock say of a run. Pure. An event of another generation is dropped by `step`."""

from __future__ import annotations

from dataclasses import replace

from supervisor.lifecycle import health, moves, restart, why
from supervisor.lifecycle.facts import (
    Cause,
    ChildOom,
    Clean,
    Effect,
    End,
    Ended,
    Failed,
    Health,
    KillAll,
    Launched,
    LaunchFailed,
    Note,
    Oom,
    Phase,
    Probe,
    Probed,
    Reason,
    Scope,
    ShimLost,
    State,
    TakenOver,
    Tick,
)
from supervisor.lifecycle.look import recorded
from supervisor.lifecycle.moves import Step
from supervisor.lifecycle.terms import STUCK

# --- runs --------------------------------------------------------------------------------------


def launched(s: State, event: Launched, now: float) -> Step:
    """It is alive. After a launch that was given up it is late news: that run is recorded as ended, and killed."""
    if not s.launching:
        return s, ()
    if s.phase is Phase.STOPPING:
        return moves.press(replace(s, launching=False, pid=event.pid, started_at=event.started), now, kill=False)
    return moves.lives(s, event.pid, event.started, now), ()


def launch_failed(s: State, event: LaunchFailed, now: float) -> Step:
    if not s.launching:
        return s, ()
    oom = Oom(killed=True, scope=Scope.CONTAINER) if event.oom else Oom()
    return moves.over(s, End(event.generation, None, now, oom=oom, detail=event.error), now)


def ended(s: State, event: Ended, now: float) -> Step:
    """Also before Launched, which is then late news."""
    if not moves.alive(s) or recorded(s, event.end.generation):
        return s, ()
    end = event.end if event.end.started is not None else replace(event.end, started=s.started_at)
    return moves.over(s, end, now)


def shim_lost(s: State, event: ShimLost, now: float) -> Step:
    """It costs a run nothing but what only a shim can do, until another takes over: no end is concluded from it."""
    if s.pid is None:
        return s, ()
    notes: tuple[Effect, ...] = () if s.untended else (Note("shim-lost", f"its shim was lost: {event.error}"),)
    return replace(s, untended=event.error or "no answer"), notes


def taken_over(s: State, event: TakenOver, now: float) -> Step:
    if s.pid is None:
        return s, ()
    words = f"another shim took over{': ' + event.detail if event.detail else ''}"
    return replace(s, untended=""), (Note("taken-over", words),)


def child_oom(s: State, event: ChildOom, now: float) -> Step:
    """A child's kill is an event of the run, never its end."""
    if s.pid is None:
        return s, ()
    note = Note("oom-child", f"{event.kills} oom-killed, init lives")
    if s.definition.oom.on_child_kill != "restart" or s.phase is Phase.STOPPING:
        return s, (note,)
    s, effects = moves.stop(s, now, Cause("oom", "a process was oom-killed: restart"), again=Reason.OOM)
    return s, (note, *effects)


def probed(s: State, event: Probed, now: float) -> Step:
    if not s.probing or s.pid is None or s.phase is Phase.STOPPING:
        return s, ()
    before, check = s.health, s.definition.healthcheck
    if s.untended and not event.ok and check is not None:  # nobody could ask: that says nothing of its health
        return replace(s, probing=False, probe_at=now + health.pause(s, check, now)), ()
    s = health.judge(s, event.ok, event.output, now)
    if s.health is before or check is None:
        return s, ()
    quiet = check.on_failure == "none" and s.health is Health.UNHEALTHY
    notes: tuple[Effect, ...] = () if quiet else (Note("health", f"{s.health}: {event.output[:200]}".rstrip(": ")),)
    if s.health is not Health.UNHEALTHY:
        return s, notes
    said = event.output[:200] or "the check failed"
    cause = Cause("health", f"unhealthy after {check.retries} failed checks: {said}")
    match check.on_failure:
        case "restart":
            s, effects = moves.stop(s, now, cause, again=Reason.HEALTH)
        case "stop":
            s, effects = moves.stop(replace(s, health_stop=True), now, cause)
        case _:
            effects = ()
    return s, notes + effects


# --- effects that could not be done ------------------------------------------------------------


def failed(s: State, event: Failed, now: float) -> Step:
    """Persist never comes here: the shell takes a step back that cannot be stored, and tells its event again."""
    match event.effect:
        case "Launch":
            return _launch_unknown(s, event, now)
        case "Probe":
            return probed(s, Probed(event.generation, ok=False, output=event.error), now)
        case "Clean":
            return _unclean(s, event, now)
        case "ApplyLive":
            return s, (Note("fault", f"the change is not applied: {event.error}"),)
        case _:  # Signal, KillAll: the grace and the repeated kill go on by the clock
            return s, ()


def _launch_unknown(s: State, event: Failed, now: float) -> Step:
    """No answer is not "dead": kill and clean first, and hold the next launch until that has had its time."""
    if not s.launching:
        return s, ()
    end = End(s.generation, None, now, detail=event.error)
    s, effects = moves.over(moves.hold(s, now), end, now)
    return s, (KillAll(end.generation), *effects)


def _unclean(s: State, event: Failed, now: float) -> Step:
    """Something of the last run does not die: tried again, and nothing is launched before it had its time."""
    note = Note("fault", f"run {event.generation} is not cleaned: {event.error}")
    if moves.alive(s):
        return s, (note,)
    known = s.held_until is not None
    return moves.hold(replace(s, clean_at=now + moves.CLEAN_AGAIN), now), (() if known else (note,))


# --- time --------------------------------------------------------------------------------------


def tick(s: State, event: Tick, now: float) -> Step:
    """Everything that is due. Early and late Ticks are harmless."""
    effects: tuple[Effect, ...] = ()
    if s.clean_at is not None and now >= s.clean_at:
        s, effects = moves.hold(replace(s, clean_at=None), now), (Clean(s.generation),)
    s, more = _phase_due(moves.release(s, now), now)
    effects += more
    if s.probe_at is None or now < s.probe_at or s.pid is None or s.phase not in (Phase.STARTING, Phase.RUNNING):
        return s, effects
    return replace(s, probing=True, probe_at=None), (*effects, Probe(s.generation))


def _phase_due(s: State, now: float) -> Step:
    match s.phase:
        case Phase.BACKOFF if s.retry_at is None or now >= s.retry_at:
            return moves.begin(s, now, s.next_reason, moves.restart_cause(s, s.last_end, s.ended_by))
        case Phase.STARTING if s.pid is not None:
            s = moves.steady(s, now)
            return _lasted(s, now) if s.phase is Phase.RUNNING else (s, ())
        case Phase.STARTING if moves.waiting(s) and not s.unmet and s.held_until is None:
            return moves.begin(s, now, s.next_reason, Cause(s.cause.code, "what the last run left is gone"))
        case Phase.RUNNING:
            return _lasted(s, now)
        case Phase.STOPPING if s.pid is not None:
            return _still_there(s, now)
        case _:
            return s, ()


def _lasted(s: State, now: float) -> Step:
    """It runs long enough: the count of attempts begins anew."""
    counting = s.attempt or s.crash_looping or s.slow
    if not counting or s.started_at is None or now < s.started_at + restart.lasting(s):
        return s, ()
    note = (Note("crash-looping", f"over: runs for {why.span(now - s.started_at)}"),) if s.crash_looping else ()
    return replace(s, attempt=0, crash_looping=False, slow=False), note


def _still_there(s: State, now: float) -> Step:
    if s.killed_at is None:
        grace = s.definition.stop_grace_period
        if s.stop_signalled_at is not None and now < s.stop_signalled_at + grace:
            return s, ()
        cause = Cause(s.cause.code, f"{s.cause.text}; killed after {why.span(grace)}")
        return moves.kill_all(replace(s, cause=cause), now)
    if now < s.killed_at + moves.kill_pause(s):
        return s, ()
    if not s.cause.text.endswith(STUCK):
        s = replace(s, cause=Cause(s.cause.code, f"{s.cause.text}; {STUCK}"))
    return moves.kill_all(replace(s, stuck=True), now)
