"""The only place that decides: `step(state, event, now) -> (state, effects)`.

Theory. A container has at most one run that may be alive: `launching` (a Launch is under way) or `pid` (it runs). A new Launch
is emitted only when neither holds (I2), with the next generation, and in one batch with the Persist that makes that
generation durable. An intent (start, stop) is a Persist before the Answer, and the Answer before any signal. What happens
to a run is told by events that name its generation; an older one is dropped. Everything that waits has a time in `wake_at`
(the least of what is pending), or an event that must come: Launched, LaunchFailed or Ended.

A stop is always the same path, whoever wants it (operator, new definition, health, removal): STOPPING, the stop signal,
the grace, cgroup.kill, Ended. What comes after is decided at Ended from `removed`, `again` and `desired`, in that order.
"""

from __future__ import annotations

from dataclasses import replace

from config.model import Container
from supervisor.lifecycle import health, restart
from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    Answer,
    ApplyLive,
    Cause,
    ChildOom,
    Clean,
    Dependencies,
    Desired,
    Effect,
    End,
    Ended,
    Event,
    Failed,
    Forget,
    Health,
    KillAll,
    Launch,
    Launched,
    LaunchFailed,
    Note,
    Oom,
    Persist,
    Phase,
    Probed,
    Reason,
    RecordEnd,
    Redefined,
    Removed,
    RestartAsked,
    Saved,
    Scope,
    Signal,
    Source,
    StartAsked,
    State,
    StopAsked,
    Tick,
)
from supervisor.lifecycle.restart import counted_as

Step = tuple[State, tuple[Effect, ...]]
KILL_AGAIN = 5.0  # a process in D state takes no SIGKILL: it is sent again, and the state says "stuck"
ORDERED = (Reason.BOOT, Reason.MANUAL, Reason.UPDATE)  # starts that wait for dependencies


def initial(definition: Container, seed: str, saved: Saved | None) -> State:
    """The state before anybody looked at what runs."""
    state = State(name=definition.name, seed=seed, definition=definition)
    if saved is None:
        return state
    return replace(
        state,
        desired=saved.desired,
        explicit_stop=saved.explicit_stop,
        generation=saved.generation,
        attempt=saved.attempt,
        ends=saved.ends,
        last_end=saved.last_end,
        wake_at=None,
        cause=saved.cause,
        restored=saved,
    )


def saved_of(state: State) -> Saved:
    """What of `state` is durable."""
    return Saved(
        generation=state.generation,
        desired=state.desired,
        explicit_stop=state.explicit_stop,
        phase=state.phase,
        attempt=state.attempt,
        ends=state.ends,
        last_end=state.last_end,
        cause=state.cause,
        wake_at=state.wake_at,
    )


def step(state: State, event: Event, now: float) -> Step:
    """Total: every event in every state gives a state and effects; nothing is raised."""
    if state.done:
        return state, ()
    after, effects = _decide(state, event, now)
    wake = _wake(after)
    return (after if after.wake_at == wake else replace(after, wake_at=wake)), effects


def _decide(state: State, event: Event, now: float) -> Step:
    match event:
        case Adopted():
            return _adopted(state, event, now)
        case Absent():
            return _absent(state, event, now)
        case Redefined():
            return _redefined(state, event, now)
        case Removed():
            return _removed(state, now)
        case StartAsked():
            return _start_asked(state, event, now)
        case StopAsked():
            return _stop_asked(state, event, now)
        case RestartAsked():
            return _restart_asked(state, event, now)
        case Dependencies():
            return _dependencies(state, event, now)
        case Launched():
            return _launched(state, event, now)
        case LaunchFailed():
            return _launch_failed(state, event, now)
        case Ended():
            return _ended(state, event.end, now)
        case ChildOom():
            return _child_oom(state, event, now)
        case Probed():
            return _probed(state, event, now)
        case Failed():
            return _failed(state, event)
        case Tick():
            return _tick(state, now)


def alive(state: State) -> bool:
    """A run of it may exist."""
    return state.launching or state.pid is not None


# --- starts ------------------------------------------------------------------------------------


def _begin(state: State, reason: Reason, now: float, answer: tuple[Effect, ...] = ()) -> Step:
    """Start, or wait for dependencies first. `answer` follows the Persist."""
    state = replace(state, next_reason=reason, backoff=None, retry_at=None, again=None)
    if state.unmet and reason in ORDERED:
        waiting = replace(state, phase=Phase.STARTING, cause=_waiting(state.unmet))
        return waiting, (Persist(saved_of(waiting)), *answer)
    return _launch(state, reason, answer)


def _launch(state: State, reason: Reason, answer: tuple[Effect, ...] = (), before: tuple[Effect, ...] = ()) -> Step:
    after = replace(
        state,
        phase=Phase.STARTING,
        generation=state.generation + 1,
        launching=True,
        pid=None,
        started_at=None,
        retry_at=None,
        stop_signalled_at=None,
        killed_at=None,
        again=None,
        ended_by=None,
        health=Health.NONE,
        health_failures=0,
        probing=False,
        probe_at=None,
        cause=Cause("start", f"start: {reason}"),
    )
    return after, (*before, Persist(saved_of(after)), *answer, Launch(after.generation, reason))


def _waiting(unmet: tuple[str, ...]) -> Cause:
    return Cause("dependency", f"waiting for {', '.join(unmet)}")


def _adopted(state: State, event: Adopted, now: float) -> Step:
    if alive(state) or event.generation < state.generation:
        return state, ()
    after = replace(
        state,
        generation=event.generation,
        phase=Phase.RUNNING if now - event.started >= state.definition.healthy_after else Phase.STARTING,
        pid=event.pid,
        started_at=event.started,
        restored=None,
        cause=Cause("adopted", "found running at the daemon's start"),
    )
    after = health.begin(after, now)
    if after.removed or after.desired is Desired.DOWN:
        return _stop_run(after, Cause("operator", "a stop goes on that was asked for before"), now)
    if state.again is not None:
        return _stop_run(after, Cause("operator", "a restart was asked for"), now)
    return after, ()


def _absent(state: State, event: Absent, now: float) -> Step:
    if state.phase is not Phase.UNKNOWN or alive(state):
        return state, ()
    saved, state = state.restored, replace(state, restored=None)
    recorded: tuple[Effect, ...] = ()
    end = event.end
    if end is None and saved is not None and saved.phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING):
        last = state.last_end.generation if state.last_end else 0
        if state.generation > last:  # a generation was given and nothing is left of it
            what = "the host was restarted" if event.booted else "never started: the daemon ended before"
            end = End(state.generation, None, now, source=Source.ADOPTED, detail=what)
    if end is not None:
        recorded = (RecordEnd(end),)
        state = replace(state, last_end=end, generation=max(state.generation, end.generation))
    if state.removed:
        return _gone(state, recorded)
    if event.booted:
        return _at_boot(replace(state, attempt=0, ends=(), backoff=None), recorded, now)
    if state.desired is Desired.DOWN:
        return _rest(state, Phase.STOPPED, state.cause, recorded, now)
    if state.again is not None or (saved is None and end is None):
        return _prefixed(recorded, _begin(state, state.again or Reason.BOOT, now))
    if end is not None:
        if "never started" in end.detail:
            return _prefixed(recorded, _begin(state, state.next_reason, now))
        return _judged(state, end, recorded, now)
    phase = saved.phase if saved is not None else Phase.STOPPED
    if phase is Phase.BACKOFF and saved is not None:
        due = now if saved.wake_at is None else max(now, min(saved.wake_at, now + _longest(state)))
        return replace(state, phase=phase, retry_at=due, backoff=due - now), ()
    if phase in (Phase.STOPPED, Phase.EXITED, Phase.FATAL):
        return replace(state, phase=phase), ()
    return _prefixed(recorded, _begin(state, Reason.BOOT, now))


def _longest(state: State) -> float:
    rules = state.definition.restart
    return max(rules.interval, rules.max_interval, rules.slow_interval) * (1 + rules.jitter)


def _at_boot(state: State, recorded: tuple[Effect, ...], now: float) -> Step:
    """Host boot: start if `autostart` and not explicitly stopped; `always` starts in spite of a stop."""
    definition = state.definition
    stopped = state.explicit_stop and definition.restart.policy != "always"
    if stopped or not definition.autostart:
        cause = Cause("operator", "stopped before the boot") if stopped else Cause("autostart", "autostart is off")
        down = replace(state, desired=Desired.DOWN)
        return _rest(down, Phase.STOPPED, cause, recorded, now)
    state = replace(state, desired=Desired.UP, explicit_stop=False)
    return _prefixed(recorded, _begin(state, Reason.BOOT, now))


def _start_asked(state: State, event: StartAsked, now: float) -> Step:
    ok = Answer(event.request, ok=True)
    state = replace(state, desired=Desired.UP, explicit_stop=False)
    if state.removed:
        return replace(state, desired=Desired.DOWN), (Answer(event.request, ok=False, message="it is being removed"),)
    if state.phase is Phase.UNKNOWN or state.phase is Phase.STOPPING:
        after = replace(state, again=Reason.MANUAL)
        return after, (Persist(saved_of(after)), ok)
    if alive(state) or (state.phase is Phase.STARTING and state.unmet):
        return state, (Persist(saved_of(state)), ok)
    return _begin(replace(state, attempt=0, ends=(), crash_looping=False), Reason.MANUAL, now, (ok,))


def _restart_asked(state: State, event: RestartAsked, now: float) -> Step:
    if not alive(state) or state.removed:
        return _start_asked(state, StartAsked(event.request, event.by), now)
    state = replace(state, desired=Desired.UP, explicit_stop=False, again=Reason.MANUAL, ended_by=Reason.MANUAL)
    stopping, effects = _stop_run(state, Cause("operator", f"restart asked by {event.by}"), now)
    return stopping, (Persist(saved_of(stopping)), Answer(event.request, ok=True), *effects)


def _dependencies(state: State, event: Dependencies, now: float) -> Step:
    waiting = state.phase is Phase.STARTING and not alive(state)
    state = replace(state, unmet=event.unmet)
    if not waiting:
        return state, ()
    if event.unmet:
        return replace(state, cause=_waiting(event.unmet)), ()
    return _launch(state, state.next_reason)


# --- stops -------------------------------------------------------------------------------------


def _stop_asked(state: State, event: StopAsked, now: float) -> Step:
    was_stopping = state.phase is Phase.STOPPING
    cause = Cause("operator", f"stopped by {event.by}")
    state = replace(state, desired=Desired.DOWN, explicit_stop=True, again=None, retry_at=None)
    ok = Answer(event.request, ok=True)
    if alive(state):
        stopping, effects = _stop_run(state, cause, now, kill=event.kill or was_stopping)
        return stopping, (Persist(saved_of(stopping)), ok, *effects)
    phase = state.phase if state.phase is Phase.UNKNOWN else Phase.STOPPED
    after = replace(state, phase=phase, cause=cause, backoff=None, crash_looping=False)
    return after, (Persist(saved_of(after)), ok)


def _stop_run(state: State, cause: Cause, now: float, kill: bool = False) -> Step:
    """The one path down. While the launch is under way the signal waits for Launched."""
    signalled = state.stop_signalled_at
    after = replace(state, phase=Phase.STOPPING, cause=cause, probing=False, probe_at=None)
    if state.launching:
        return replace(after, kill_at_once=after.kill_at_once or kill), ()
    if kill:
        return replace(after, killed_at=now, stop_signalled_at=signalled or now), (KillAll(state.generation),)
    if signalled is not None:
        return after, ()
    name = state.definition.stop_signal or "SIGTERM"
    return replace(after, stop_signalled_at=now), (Signal(state.generation, name),)


def _removed(state: State, now: float) -> Step:
    state = replace(state, removed=True, desired=Desired.DOWN, again=None, retry_at=None)
    if alive(state):
        return _stop_run(state, Cause("removed", "its definition is gone"), now)
    return (state, ()) if state.phase is Phase.UNKNOWN else _gone(state, ())


def _gone(state: State, before: tuple[Effect, ...]) -> Step:
    done = replace(state, phase=Phase.STOPPED, done=True, cause=Cause("removed", "its definition is gone"))
    return done, (*before, Forget(state.generation))


def _redefined(state: State, event: Redefined, now: float) -> Step:
    state = replace(state, definition=event.definition)
    fields = ", ".join(event.fields)
    if not event.restart:
        note = Note("update", f"changed live: {fields}")
        return health.begin_if_new(state, now), ((note, ApplyLive(state.generation)) if alive(state) else (note,))
    if state.removed or state.desired is Desired.DOWN or state.phase is Phase.UNKNOWN:
        return state, ()
    state = replace(state, attempt=0, ends=(), crash_looping=False)
    if alive(state):
        again = replace(state, again=Reason.UPDATE, ended_by=Reason.UPDATE)
        return _stop_run(again, Cause("update", f"definition changed: {fields}"), now)
    if state.phase is Phase.STARTING:  # it waits for dependencies, and will start as it is defined then
        return state, ()
    return _begin(state, Reason.UPDATE, now)


# --- what the run does -------------------------------------------------------------------------


def _launched(state: State, event: Launched, now: float) -> Step:
    if event.generation != state.generation or not state.launching:
        return state, ()
    state = replace(state, launching=False, pid=event.pid, started_at=event.started)
    if state.phase is Phase.STOPPING:
        return _stop_run(state, state.cause, now, kill=state.kill_at_once)
    state = health.begin(state, now)
    if now - event.started >= state.definition.healthy_after:
        return _running(state), ()
    return state, ()


def _running(state: State) -> State:
    return replace(state, phase=Phase.RUNNING, cause=Cause("running", "runs"))


def _launch_failed(state: State, event: LaunchFailed, now: float) -> Step:
    if event.generation != state.generation or not state.launching:
        return state, ()
    oom = Oom(killed=True, scope=Scope.CONTAINER) if event.oom else Oom()
    end = End(event.generation, None, now, oom=oom, source=Source.SHIM, detail=event.error)
    return _ended(state, end, now)


def _ended(state: State, end: End, now: float) -> Step:
    if end.generation != state.generation or not alive(state):
        return state, ()
    by, again = state.ended_by, state.again
    state = replace(
        state,
        pid=None,
        launching=False,
        last_end=end,
        stop_signalled_at=None,
        killed_at=None,
        kill_at_once=False,
        probing=False,
        probe_at=None,
        again=None,
        ended_by=None,
        health=Health.NONE,
        health_failures=0,
    )
    recorded = (RecordEnd(end), Clean(end.generation))
    if state.removed:
        return _gone(state, recorded)
    if state.desired is Desired.DOWN:
        return _rest(state, Phase.STOPPED, state.cause, recorded, now)
    if again in (Reason.MANUAL, Reason.UPDATE):
        return _prefixed(recorded, _begin(replace(state, attempt=0, ends=()), again, now))
    return _judged(state, end, recorded, now, by)


def _judged(state: State, end: End, recorded: tuple[Effect, ...], now: float, by: Reason | None = None) -> Step:
    """`by`: we ended the run for its health or a child's OOM, which is a failure whatever code it gave."""
    judged = replace(end, code=None, signal=9, oom=Oom()) if by is not None else end
    verdict = restart.judge(state, judged, now)
    cause = verdict.cause if by is None else Cause(by, f"ended by us: {by}")
    looping = verdict.crash_looping
    notes = (Note("crash-looping", f"{len(verdict.ends)} ends in the window"),) if looping > state.crash_looping else ()
    state = replace(state, attempt=verdict.attempt, ends=verdict.ends, crash_looping=looping)
    reason = by or restart.reason_of(end, state.definition)
    if verdict.wait is None:
        return _rest(replace(state, backoff=None), verdict.phase, cause, (*recorded, *notes), now)
    if verdict.wait <= 0:
        return _launch(replace(state, backoff=0.0, next_reason=reason), reason, before=(*recorded, *notes))
    state = replace(state, backoff=verdict.wait, next_reason=reason)
    return _rest(state, Phase.BACKOFF, cause, (*recorded, *notes), now, wait=verdict.wait)


def _rest(
    state: State, phase: Phase, cause: Cause, before: tuple[Effect, ...], now: float, wait: float | None = None
) -> Step:
    """Down, for good or until `wait` is over."""
    after = replace(state, phase=phase, cause=cause, retry_at=None if wait is None else now + wait)
    if phase is not Phase.BACKOFF:
        after = replace(after, crash_looping=False)
    after = replace(after, wake_at=after.retry_at)
    return after, (*before, Persist(saved_of(after)))


def _prefixed(before: tuple[Effect, ...], then: Step) -> Step:
    return then[0], (*before, *then[1])


def _child_oom(state: State, event: ChildOom, now: float) -> Step:
    if event.generation != state.generation or state.pid is None:
        return state, ()
    note = Note("oom-child", f"{event.kills} processes were OOM-killed, init lives")
    if state.definition.oom.on_child_kill != "restart" or state.phase is Phase.STOPPING:
        return state, (note,)
    after = replace(state, again=Reason.OOM, ended_by=Reason.OOM)
    return _prefixed((note,), _stop_run(after, Cause("oom", "a child was OOM-killed: restart"), now))


def _probed(state: State, event: Probed, now: float) -> Step:
    if event.generation != state.generation or not state.probing:
        return state, ()
    after, note = health.judge(state, event, now)
    notes: tuple[Effect, ...] = (Note("health", note),) if note else ()
    if after.health is not Health.UNHEALTHY or state.health is Health.UNHEALTHY or after.pid is None:
        return after, notes
    check = after.definition.healthcheck
    action = check.on_failure if check is not None else "none"
    cause = Cause("health", f"unhealthy: {event.output[:200] or 'the check failed'}")
    if action == "restart":
        return _prefixed(notes, _stop_run(replace(after, again=Reason.HEALTH, ended_by=Reason.HEALTH), cause, now))
    if action == "stop":
        down = replace(after, desired=Desired.DOWN, explicit_stop=True)
        stopping, effects = _stop_run(down, cause, now)
        return stopping, (*notes, Persist(saved_of(stopping)), *effects)
    return after, notes


def _failed(state: State, event: Failed) -> Step:
    """An effect that could not be done. Kills are sent again by the clock, a leaf is cleaned again before the next run."""
    if event.effect == "Launch":
        return _launch_failed(state, LaunchFailed(event.generation, event.error), state.ends[-1] if state.ends else 0.0)
    return state, (Note("fault", f"{event.effect}: {event.error}"),)


# --- time --------------------------------------------------------------------------------------


def _tick(state: State, now: float) -> Step:
    if state.phase is Phase.BACKOFF and state.retry_at is not None and now >= state.retry_at:
        return _launch(state, state.next_reason)
    if state.phase is Phase.STOPPING and state.pid is not None:
        return _still_there(state, now)
    effects: list[Effect] = []
    if state.phase is Phase.STARTING and state.started_at is not None and state.pid is not None:
        if now - state.started_at >= state.definition.healthy_after:
            state = _running(state)
    if state.probe_at is not None and now >= state.probe_at and not state.probing and state.pid is not None:
        state = replace(state, probing=True, probe_at=None)
        effects.append(health.probe(state))
    return state, tuple(effects)


def _still_there(state: State, now: float) -> Step:
    if state.killed_at is None:
        if state.stop_signalled_at is None or now < state.stop_signalled_at + state.definition.stop_grace_period:
            return state, ()
        return replace(state, killed_at=now), (KillAll(state.generation),)
    if now < state.killed_at + KILL_AGAIN:
        return state, ()
    stuck = Cause("stuck", "a process does not die (D state?): killed again, waiting")
    return replace(state, killed_at=now, cause=stuck), (KillAll(state.generation),)


def _wake(state: State) -> float | None:
    """The least of all times that the state waits for."""
    times: list[float] = []
    if state.phase is Phase.BACKOFF and state.retry_at is not None:
        times.append(state.retry_at)
    if state.phase is Phase.STOPPING and state.pid is not None:
        if state.killed_at is not None:
            times.append(state.killed_at + KILL_AGAIN)
        elif state.stop_signalled_at is not None:
            times.append(state.stop_signalled_at + state.definition.stop_grace_period)
    if state.phase is Phase.STARTING and state.pid is not None and state.started_at is not None:
        times.append(state.started_at + state.definition.healthy_after)
    if state.probe_at is not None:
        times.append(state.probe_at)
    return min(times, default=None)


__all__ = ["alive", "counted_as", "initial", "saved_of", "step"]
