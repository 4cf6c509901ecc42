"""Health checks: when the next one is, and what its result means (Compose, "healthcheck"). Pure.

One check at a time: `probing` from Probe to Probed, which the engine bounds; else `probe_at` says when. A run begins
with a clean slate (moby#27361: a stale "unhealthy" killed the next run).
"""

from __future__ import annotations

from dataclasses import replace

from config.model import HealthCheck
from supervisor.lifecycle.facts import Health, State

OUTPUT = 4096


def begin(state: State, now: float) -> State:
    """For a run that is alive since `started_at`."""
    check = state.definition.healthcheck
    if check is None:
        return clear(state)
    state = replace(clear(state), health=Health.STARTING)
    return replace(state, probe_at=now + pause(state, check, now))


def clear(state: State) -> State:
    return replace(state, health=Health.NONE, health_failures=0, health_output="", probing=False, probe_at=None)


def end(state: State) -> State:
    """The run is over or ending: nothing more is asked of it. The last output stays, for people."""
    return replace(state, health=Health.NONE, health_failures=0, probing=False, probe_at=None)


def redefine(state: State, before: HealthCheck | None, now: float) -> State:
    """After a live change: a check that is new or other begins anew, the same goes on."""
    if state.pid is None or state.definition.healthcheck == before:
        return state
    return begin(state, now)


def in_start_period(state: State, check: HealthCheck, now: float) -> bool:
    """Failures do not count, until the first success."""
    started = now if state.started_at is None else state.started_at
    return state.health is Health.STARTING and now < started + check.start_period


def pause(state: State, check: HealthCheck, now: float) -> float:
    return check.start_interval if in_start_period(state, check, now) else check.interval


def judge(state: State, ok: bool, output: str, now: float) -> State:
    """The state after one result."""
    check = state.definition.healthcheck
    if check is None:
        return clear(state)
    failures, verdict = state.health_failures, state.health
    if ok:
        failures, verdict = 0, Health.HEALTHY
    elif not in_start_period(state, check, now):
        failures += 1
        if failures >= check.retries:
            verdict = Health.UNHEALTHY
    state = replace(state, health=verdict, health_failures=failures, health_output=output[:OUTPUT], probing=False)
    return replace(state, probe_at=now + pause(state, check, now))
