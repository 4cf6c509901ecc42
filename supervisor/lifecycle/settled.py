"""Whether a container is where it shall be, for exit codes and for who waits. Pure."""

from __future__ import annotations

from supervisor.lifecycle.facts import Desired, Health, Phase, State
from supervisor.lifecycle.restart import succeeded

RESTS = frozenset({Phase.STOPPED, Phase.EXITED, Phase.FATAL})


def is_settled(state: State) -> bool:
    """Nothing is under way: it runs steadily, or is down until somebody wants it up."""
    return state.done or state.phase in RESTS or state.phase in (Phase.RUNNING, Phase.PAUSED)


def is_stuck(state: State) -> bool:
    """A process of it outlives SIGKILL: the kernel holds it, and only the kernel's disk or server can let it go."""
    return state.phase is Phase.STOPPING and state.stuck


def in_desired_state(state: State) -> bool:
    """Nobody needs to look. On its way counts as there; a run that ended counts when it was a success for good."""
    match state.phase:
        case Phase.RUNNING:
            return state.desired is Desired.UP and state.health is not Health.UNHEALTHY
        case Phase.STARTING | Phase.STOPPING | Phase.PULLING:
            return not state.crash_looping and not is_stuck(state)
        case Phase.STOPPED:
            return state.desired is Desired.DOWN or not state.definition.autostart
        case Phase.EXITED:
            end = state.last_end
            return state.desired is Desired.DOWN or (end is not None and succeeded(end, state.definition))
        case _:
            return False
