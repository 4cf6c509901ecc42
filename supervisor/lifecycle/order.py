"""Which dependencies are not met, in words for the status line (Compose, "depends_on"). Pure."""

from __future__ import annotations

from collections.abc import Mapping

from config.model import Container
from supervisor.lifecycle.facts import Health, Phase, State
from supervisor.lifecycle.restart import succeeded


def dependency_unmet(definition: Container, states: Mapping[str, State]) -> tuple[str, ...]:
    """`db (starting)` for each dependency that is not there yet. One that is not `required` and unknown does not count."""
    unmet = []
    for name, dependency in definition.depends_on.items():
        state = states.get(name)
        if state is None:
            if dependency.required:
                unmet.append(f"{name} (not defined)")
            continue
        if not _met(dependency.condition, state):
            said = state.health if dependency.condition == "healthy" and state.phase is Phase.RUNNING else state.phase
            unmet.append(f"{name} ({said.lower()})")
    return tuple(unmet)


def _met(condition: str, state: State) -> bool:
    if condition == "completed_successfully":
        return state.phase is Phase.EXITED and state.last_end is not None and succeeded(state.last_end, state.definition)
    if condition == "healthy":
        return state.phase is Phase.RUNNING and state.health in (Health.HEALTHY, Health.NONE)
    return state.phase in (Phase.RUNNING, Phase.PAUSED)
