"""What the hands of all containers share, and what each counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from monitor.events import EventWatcher
from supervisor.journal import Journal
from supervisor.launch import Launcher
from supervisor.ports import Clock
from supervisor.store import SqliteStore
from supervisor.timing import Watch


@dataclass(slots=True)
class Shared:
    """What the hands of all containers share."""

    launcher: Launcher
    store: SqliteStore
    clock: Clock
    boot_id: str
    watcher: EventWatcher
    tasks: TaskGroup
    journal: Journal
    watch: Watch
    store_threads: anyio.CapacityLimiter  # one: writes are in order
    pressure: Mapping[str, str] = field(default_factory=dict)  # thresholds of the settings, by resource


@dataclass(slots=True)
class Tally:
    """Counters of one container as the store has them, kept beside it so that a scrape reads no disk."""

    restarts: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    oom_kills: dict[str, int] = field(default_factory=dict)
    created: int | None = None  # wall, when it was first stored


def add(counter: dict[str, int], key: str, by: int = 1) -> None:
    counter[key] = counter.get(key, 0) + by
