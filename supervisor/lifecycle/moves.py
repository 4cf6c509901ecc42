"""The moves that decisions are made of: begin a run, end it, judge its end, rest. Pure.

A move gives the state after it and effects in any order; `step` adds the Persist and puts them in the one right order.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.lifecycle import health, restart, why
from supervisor.lifecycle.facts import (
    Cause,
    Clean,
    Desired,
    Effect,
    End,
    Forget,
    KillAll,
    Launch,
    Note,
    Phase,
    Reason,
    RecordEnd,
    Signal,
    State,
)

Step = tuple[State, tuple[Effect, ...]]

KILL_AGAIN = 5.0  # a process in D state dies of its SIGKILL when it wakes: sent again, with growing pauses
KILL_PAUSE_MAX = 60.0
CLEAN_AGAIN = 5.0
CLEAN_LIMIT = 15.0  # the engine's bound for one Clean: when it was silent that long, it was done
HOLD = CLEAN_AGAIN + CLEAN_LIMIT + 5.0
LATE = 5.0  # a Tick that comes later than this after its time: the host slept, and nobody had time for anything
ORDERED = frozenset({Reason.BOOT, Reason.MANUAL, Reason.UPDATE})  # starts that wait for dependencies


def alive(s: State) -> bool:
    """A run of it may exist. While this holds nothing is launched (I2)."""
    return s.launching or s.pid is not None


def waiting(s: State) -> bool:
    """A start that has not launched yet: it waits for dependencies, or is held."""
    return s.phase is Phase.STARTING and not alive(s)


def fresh(s: State) -> State:
    """An operator or a new definition begins the count of attempts anew."""
    return replace(s, attempt=0, ends=(), crash_looping=False, slow=False, backoff=None)


# --- up ----------------------------------------------------------------------------------------


def begin(s: State, now: float, reason: Reason, cause: Cause) -> Step:
    """Start the next run, or say what it waits for. Nothing may be alive."""
    s = replace(
        s,
        phase=Phase.STARTING,
        cause=cause,
        next_reason=reason,
        again=None,
        ended_by=None,
        health_stop=False,
        retry_at=s.held_until,
        backoff=None,
        unmet=s.dependencies if reason in ORDERED and s.definition.depends_on else (),
        stop_signalled_at=None,
        killed_at=None,
        kill_at_once=False,
        kills=0,
        stuck=False,
        strains=(),
    )
    if s.unmet:
        return replace(s, cause=why.waiting(s.unmet)), ()
    if s.held_until is not None:
        return replace(s, cause=Cause(cause.code, f"waiting until what run {s.generation} left is gone")), ()
    s = replace(health.clear(s), generation=s.generation + 1, launching=True)
    return s, (Launch(s.generation, reason),)


def hold(s: State, now: float) -> State:
    """Nothing is launched until `release`."""
    return replace(s, held_until=now + HOLD, retry_at=now + HOLD if waiting(s) else s.retry_at)


def release(s: State, now: float) -> State:
    """At a Tick. Silence for the time of the hold means that all is clean, unless the host slept through it."""
    if s.held_until is None or now < s.held_until:
        return s
    return hold(s, now) if s.clean_at is not None or now > s.held_until + LATE else replace(s, held_until=None)


def lives(s: State, pid: int, started: float, now: float) -> State:
    """A run of the present generation is alive and wanted."""
    s = replace(s, phase=Phase.STARTING, launching=False, pid=pid, started_at=started, retry_at=None, unmet=())
    return steady(health.begin(s, now), now)


def steady(s: State, now: float) -> State:
    """STARTING becomes RUNNING after `healthy_after` seconds."""
    if s.started_at is None or now < s.started_at + s.definition.healthy_after:
        return s
    return replace(s, phase=Phase.RUNNING)


# --- down --------------------------------------------------------------------------------------


def stop(s: State, now: float, cause: Cause, again: Reason | None = None, kill: bool = False) -> Step:
    """End the run that is alive or on its way. `again`: what begins the next one after it."""
    s = replace(s, cause=cause, again=again, ended_by=again, unmet=(), retry_at=None, probing=False, probe_at=None)
    return press(replace(s, phase=Phase.STOPPING), now, kill)


def press(s: State, now: float, kill: bool) -> Step:
    """Ask for the end of a run that is STOPPING: its stop signal once, then cgroup.kill.

    While the launch is in flight there is no init to signal: Launched asks again.
    """
    kill = kill or s.kill_at_once or (not s.launching and s.definition.stop_grace_period <= 0)
    if s.launching:
        return replace(s, kill_at_once=kill), ((KillAll(s.generation),) if kill and not s.kill_at_once else ())
    if kill:
        s = replace(s, stop_signalled_at=now if s.stop_signalled_at is None else s.stop_signalled_at)
        return kill_all(s, now) if s.killed_at is None else (s, ())
    if s.stop_signalled_at is not None:
        return s, ()
    signal = s.definition.stop_signal or "SIGTERM"
    return replace(s, stop_signalled_at=now), (Signal(s.generation, signal),)


def kill_all(s: State, now: float) -> Step:
    return replace(s, killed_at=now, kills=s.kills + 1), (KillAll(s.generation),)


def kill_pause(s: State) -> float:
    """Until cgroup.kill is repeated."""
    return min(KILL_AGAIN * 2.0 ** min(max(0, s.kills - 1), 8), KILL_PAUSE_MAX)


def rest(s: State, phase: Phase, cause: Cause) -> State:
    """Down, for good as far as we know."""
    return replace(s, phase=phase, cause=cause, retry_at=None, backoff=None, crash_looping=False, unmet=(), again=None)


def gone(s: State) -> Step:
    """Removed, and nothing is alive: forget it."""
    s = replace(rest(s, Phase.STOPPED, Cause("removed", "its definition is gone")), done=True)
    return s, ((Clean(s.generation), Forget(s.generation)) if s.generation else (Forget(),))


# --- the end of a run --------------------------------------------------------------------------


def over(s: State, end: End, now: float) -> Step:
    """A run has ended, or could not begin. Not asked: judged by policy. Asked for: what was asked comes next."""
    again, by = s.again, s.ended_by
    s = replace(
        health.end(s),
        pid=None,
        launching=False,
        started_at=None,
        last_end=end,
        stop_signalled_at=None,
        killed_at=None,
        kill_at_once=False,
        kills=0,
        stuck=False,
        again=None,
        untended="",
        strains=(),
    )
    told: tuple[Effect, ...] = (RecordEnd(end), Clean(end.generation))
    if s.removed:
        s, forget = gone(s)
        return s, (RecordEnd(end), *forget)
    if s.desired is Desired.DOWN or s.health_stop:
        return rest(s, Phase.STOPPED, s.cause), told
    if again in (Reason.MANUAL, Reason.UPDATE):
        s, effects = begin(fresh(s), now, again, s.cause)
        return s, told + effects
    s, effects = judge(s, end, by, now)
    return s, told + effects


def judge(s: State, end: End, by: Reason | None, now: float) -> Step:
    """By the restart table. `by`: as in `restart.rule`."""
    definition = s.definition
    at = min(end.ended, now)
    ruling = restart.rule(s, end, by, at)
    words = why.judged_words(end, by, definition)
    notes: tuple[Effect, ...] = ()
    if ruling.crash_looping and not s.crash_looping:
        notes = (Note("crash-looping", f"{len(ruling.ends)} ends in {why.span(definition.restart.window)}"),)
    s = replace(s, attempt=ruling.attempt, ends=ruling.ends, slow=ruling.slow, ended_by=by)
    if ruling.wait is None:
        return rest(s, *_verdict(s, end, by, words, ruling)), notes
    reason = restart.reason_of(end, definition, by)
    s = replace(s, crash_looping=ruling.crash_looping, backoff=ruling.wait, next_reason=reason)
    cause = why.backoff_cause(end, by, definition, ruling.attempt, ruling.wait)
    if ruling.exhausted:
        cause = Cause("exhausted", f"{words}: {_used_up(s)}")
    if ruling.wait <= 0:
        s, effects = begin(s, now, reason, restart_cause(s, end, by))
        return s, notes + effects
    return replace(s, phase=Phase.BACKOFF, cause=cause, retry_at=at + ruling.wait), notes


def _verdict(s: State, end: End, by: Reason | None, words: str, ruling: restart.Ruling) -> tuple[Phase, Cause]:
    """Where a run's end is the end."""
    if ruling.exhausted:
        return Phase.FATAL, Cause("exhausted", f"{words}: {_used_up(s)}")
    if restart.start_failed(end):
        return Phase.FATAL, Cause("launch-error", words)
    code = why.end_code(end, by)
    return Phase.EXITED, Cause("policy" if code == "exit" else code, f"{words}, policy {s.definition.restart.policy}")


def _used_up(s: State) -> str:
    rules = s.definition.restart
    used = "1 restart is" if rules.max_attempts == 1 else f"{rules.max_attempts} restarts are"
    return f"{used} used up in {why.span(rules.window)}"


def restart_cause(s: State, end: End | None, by: Reason | None) -> Cause:
    """Of the launch that a BACKOFF leads to."""
    if end is None:
        return Cause("policy", f"{why.ordinal(s.attempt)} restart")
    words = why.judged_words(end, by, s.definition)
    return Cause(why.end_code(end, by), f"{why.ordinal(s.attempt)} restart after {words}")


# --- time --------------------------------------------------------------------------------------


def wake_of(s: State) -> float | None:
    """The least of all times that the state waits for; None: only an event can change it."""
    if s.done:
        return None
    times = [s.clean_at, s.held_until, _phase_time(s)]
    if s.pid is not None and not s.probing and s.phase in (Phase.STARTING, Phase.RUNNING):
        times.append(s.probe_at)
    return min((t for t in times if t is not None), default=None)


def _phase_time(s: State) -> float | None:
    match s.phase:
        case Phase.BACKOFF:
            return s.retry_at
        case Phase.STARTING if s.pid is not None:
            return None if s.started_at is None else s.started_at + s.definition.healthy_after
        case Phase.STARTING:
            return None if s.launching or s.unmet else s.retry_at
        case Phase.RUNNING if s.attempt or s.crash_looping or s.slow:
            return None if s.started_at is None else s.started_at + restart.lasting(s)
        case Phase.STOPPING if s.pid is not None and s.killed_at is not None:
            return s.killed_at + kill_pause(s)
        case Phase.STOPPING if s.pid is not None and s.stop_signalled_at is not None:
            return s.stop_signalled_at + s.definition.stop_grace_period
        case _:
            return None
