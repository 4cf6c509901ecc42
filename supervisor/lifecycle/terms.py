"""The words of a container's life: phases, what is wanted, and why. Shown, stored and exported as they are."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

STUCK: Final = "stuck: a process does not die (D state?)"  # how a cause tells it; State.stuck is what counts


class Phase(StrEnum):
    """State of a container, in supervisord's words (design, "Life of a container")."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    FATAL = "FATAL"
    UNKNOWN = "UNKNOWN"
    PULLING = "PULLING"
    PAUSED = "PAUSED"


class Desired(StrEnum):
    """What shall be: the intent, which is stored durably before anything is signalled."""

    UP = "up"
    DOWN = "down"


class Health(StrEnum):
    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Source(StrEnum):
    """Who told the end of a run."""

    SHIM = "shim"  # it reaped the process
    KERNEL = "kernel"  # its shim was lost, and the kernel told another one
    ADOPTED = "adopted"  # exit record read by a later daemon
    LOST = "lost"  # nobody knows the code


class Scope(StrEnum):
    """Whose memory limit an OOM kill came from."""

    CONTAINER = "container"
    PARENT = "parent"
    HOST = "host"


class Reason(StrEnum):
    """Why a run begins again; label values of the restart counter."""

    EXIT = "exit"
    ERROR = "error"
    SIGNAL = "signal"
    OOM = "oom"
    HEALTH = "health"
    PRESSURE = "pressure"
    LOST = "lost"
    UPDATE = "update"
    MANUAL = "manual"
    BOOT = "boot"  # the first run after a boot or of a new definition: not a restart
