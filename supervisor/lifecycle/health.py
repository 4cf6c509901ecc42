"""Health checks: when the next one is, and what its result means (Compose, "healthcheck"). Pure."""

from __future__ import annotations

from dataclasses import replace

from supervisor.lifecycle.facts import Health, Probe, Probed, State


def begin(state: State, now: float) -> State:
    """A run starts with a clean slate: an old verdict says nothing of it."""
    check = state.definition.healthcheck
    if check is None:
        return replace(state, health=Health.NONE, health_failures=0, health_output="", probing=False, probe_at=None)
    return replace(
        state,
        health=Health.STARTING,
        health_failures=0,
        health_output="",
        probing=False,
        probe_at=now + (check.start_interval if check.start_period > 0 else check.interval),
    )


def begin_if_new(state: State, now: float) -> State:
    """After a live change: a check that appeared begins, one that went is forgotten, one that stays goes on."""
    check = state.definition.healthcheck
    if (check is None) == (state.health is Health.NONE) or state.pid is None:
        return state
    return begin(state, now)


def probe(state: State) -> Probe:
    return Probe(state.generation)


def judge(state: State, event: Probed, now: float) -> tuple[State, str]:
    """The state after one result, and words when the verdict changed."""
    check = state.definition.healthcheck
    if check is None:
        return replace(state, probing=False, probe_at=None), ""
    starting = state.health is Health.STARTING and now < (state.started_at or now) + check.start_period
    if event.ok:
        verdict, failures = Health.HEALTHY, 0
    elif starting:
        verdict, failures = Health.STARTING, 0
    else:
        failures = state.health_failures + 1
        verdict = Health.UNHEALTHY if failures >= check.retries else state.health
    pause = check.start_interval if verdict is Health.STARTING and starting else check.interval
    after = replace(
        state,
        health=verdict,
        health_failures=failures,
        health_output=event.output,
        probing=False,
        probe_at=now + pause,
    )
    return after, f"{verdict}: {event.output}".rstrip(": ") if verdict is not state.health else ""
