"""Was it OOM? From the kernel's counters, never from an exit code (cgroup-v2.rst, "memory.events")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.lifecycle.facts import Oom, Scope

SIGKILL = 9


@dataclass(frozen=True, slots=True)
class Counters:
    """What the shim's exit record says of one run; None is unknown. `seen`: kills that were noticed while init lived."""

    signal: int | None
    we_killed: bool
    group: bool
    kills_start: int | None
    kills_end: int | None
    own_start: int | None
    own_end: int | None
    top_start: int | None
    top_end: int | None
    seen: int | None


def rise(start: int | None, end: int | None) -> int | None:
    return None if start is None or end is None else max(0, end - start)


def verdict(counters: Counters) -> Oom:
    """`killed` only if init itself died by it: SIGKILL, not ours, and kills that were not other processes'."""
    kills = rise(counters.kills_start, counters.kills_end)
    if kills is None or kills == 0:
        return Oom(group=counters.group, kills=kills)
    others = 0 if counters.group else counters.seen or 0
    if counters.signal != SIGKILL or counters.we_killed or kills <= others:
        return Oom(group=counters.group, kills=kills)
    if rise(counters.own_start, counters.own_end):
        scope = Scope.CONTAINER
    elif rise(counters.top_start, counters.top_end):
        scope = Scope.PARENT
    else:
        scope = Scope.HOST
    return Oom(killed=True, group=counters.group, scope=scope, kills=kills)


def scope_of_child_kill(deltas: Mapping[str, int]) -> Scope:
    """Scope of a kill while init lives, from what rose in the container's own memory.events."""
    return Scope.CONTAINER if deltas.get("oom", 0) > 0 else Scope.HOST
