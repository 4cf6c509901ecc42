"""Which dependencies are not met, in words for the status line (Compose, "depends_on"). Pure."""

from __future__ import annotations

from collections.abc import Mapping

from config.model import Container, Dependency
from supervisor.lifecycle.facts import Health, Phase, State
from supervisor.lifecycle.restart import succeeded

FAILED = frozenset({Phase.STOPPED, Phase.EXITED, Phase.FATAL, Phase.BACKOFF})


def dependency_unmet(definition: Container, states: Mapping[str, State]) -> tuple[str, ...]:
    """`db (starting)` for each dependency that is still waited for, in the definition's order.

    One that is not `required` is no obstacle once it does not exist, is down or fails.
    """
    unmet = []
    for name, dependency in definition.depends_on.items():
        state = states.get(name)
        if state is None or state.removed:
            if dependency.required:
                unmet.append(f"{name} (not defined)")
        elif not _met(dependency, state):
            unmet.append(f"{name} ({_words(dependency, state)})")
    return tuple(unmet)


def _met(dependency: Dependency, state: State) -> bool:
    up = state.phase in (Phase.RUNNING, Phase.PAUSED)
    finished = (
        state.phase is Phase.EXITED and state.last_end is not None and succeeded(state.last_end, state.definition)
    )
    match dependency.condition:
        case "completed_successfully":
            met = finished
        case "healthy":
            met = up and state.health is Health.HEALTHY
        case _:
            met = up or finished  # a one-shot that is through was started
    return met or (not dependency.required and state.phase in FAILED)


def _words(dependency: Dependency, state: State) -> str:
    if dependency.condition == "healthy" and state.phase is Phase.RUNNING:
        return "has no healthcheck" if state.health is Health.NONE else f"health {state.health}"
    if dependency.condition == "completed_successfully" and state.phase is Phase.EXITED:
        return "failed"
    return state.phase.lower()
