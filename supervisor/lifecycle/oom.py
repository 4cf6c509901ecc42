"""Was it OOM? From the kernel's counters, never from an exit code (cgroup-v2.rst, "memory.events"). Pure.

Theory. `oom_kill` of the stable parent cgroup counts kills in the container, at least one each time (6.1 counts one
victim twice, so it is no number of processes). A kill counts as the run's end only when init itself died of SIGKILL
and that SIGKILL was not ours: with `memory.oom.group` every kill takes init along; without it the kills that the shim
saw while init lived were of children, and are subtracted. An end that nobody could tell (its shim was lost, and the
kernel is too old to say) counts as a SIGKILL with a group only, where a kill leaves nobody. Whose limit it was is told
by `oom`, which rises in the cgroup whose limit was hit and in those above it: ours first, then the topmost; when
neither rose the host ran out of memory. Absent counters are unknown, and unknown is never "OOM".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.lifecycle.facts import Oom, Scope

SIGKILL = 9


@dataclass(frozen=True, slots=True)
class Counters:
    """What the shim's exit record says of one run; None is unknown.

    `kills_*`: oom_kill of the stable parent (or, when that is absent, of the leaf). `own_*`: its `oom`. `top_*`:
    `oom` of the topmost ancestor. `seen`: kills that were noticed while init lived.
    `unknown`: nobody could tell how init ended.
    """

    signal: int | None = None
    we_killed: bool = False
    group: bool = False
    kills_start: int | None = None
    kills_end: int | None = None
    own_start: int | None = None
    own_end: int | None = None
    top_start: int | None = None
    top_end: int | None = None
    seen: int | None = None
    unknown: bool = False


def rise(start: int | None, end: int | None) -> int | None:
    """None when either is unknown. A counter that fell was of another cgroup: nothing is known then either."""
    return None if start is None or end is None or end < start else end - start


def verdict(counters: Counters) -> Oom:
    """Total: any combination gives a verdict, `killed` only by evidence."""
    kills = rise(counters.kills_start, counters.kills_end)
    others = 0 if counters.group else counters.seen or 0
    died = (counters.signal == SIGKILL or (counters.unknown and counters.group)) and not counters.we_killed
    if not died or kills is None or kills <= others:
        return Oom(group=counters.group, kills=kills)
    return Oom(killed=True, group=counters.group, scope=_scope(counters), kills=kills)


def _scope(counters: Counters) -> Scope | None:
    own = rise(counters.own_start, counters.own_end)
    if own is None:
        return None
    if own > 0:
        return Scope.CONTAINER
    return Scope.PARENT if rise(counters.top_start, counters.top_end) else Scope.HOST


def detail(counters: Counters) -> str:
    """What `End.detail` should say beside the verdict: only where a SIGKILL's cause cannot be known."""
    killed = counters.signal == SIGKILL and not counters.we_killed
    unknown = rise(counters.kills_start, counters.kills_end) is None
    return "OOM or not is unknown: no memory counters" if killed and unknown else ""


def scope_of_child_kill(deltas: Mapping[str, int]) -> Scope:
    """Scope of a kill while init lives, from what rose in the container's own memory.events."""
    return Scope.CONTAINER if deltas.get("oom", 0) > 0 else Scope.HOST
