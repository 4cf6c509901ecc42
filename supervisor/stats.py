"""What the containers use now, for `wharfctl stats` and `top`: from the flight recorders, so looking costs no reading.

Only the network's counters are read when somebody looks: a recorder has no columns for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from anyio import CapacityLimiter, to_thread

from monitor import readers
from monitor.network import RunNetwork
from monitor.usage import WINDOW, Usage, usage
from supervisor.fleet import Fleet, Member
from supervisor.lifecycle.facts import Phase
from supervisor.views import below_mount

UP = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.PAUSED})
STALE = 5.0  # seconds: an older row says nothing of now


class Stats:
    """One for the daemon. At most one reading of networks at a time."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._threads = CapacityLimiter(1)

    async def of(self, names: Sequence[str]) -> list[Mapping[str, Any]]:
        members = [self._fleet.members[name] for name in names if name in self._fleet.members]
        asked = [run for member in members if (run := _run(member)) is not None]
        networks = await to_thread.run_sync(_networks, asked, limiter=self._threads) if asked else {}
        return [_one(member, networks.get(member.state.name)) for member in members]


def _run(member: Member) -> tuple[str, int, str] | None:
    """Name, pid, and the path of its cgroup, by which the pid is proven; None when there is no network to read."""
    state, launcher = member.state, member.hands.shared.launcher
    if state.pid is None or state.definition.network == "host":
        return None
    return state.name, state.pid, below_mount(launcher.facts, launcher.tree.path(state.name, state.generation))


def _networks(asked: Iterable[tuple[str, int, str]]) -> dict[str, tuple[int, int]]:
    """Bytes received and sent by name, of runs that have a network of their own."""
    found = {}
    for name, pid, member in asked:
        with suppress(OSError):
            network = RunNetwork("/proc", pid, member)
            try:
                if network.own:
                    found[name] = _bytes(network.read())
            finally:
                network.close()
    return found


def _bytes(data: bytes) -> tuple[int, int]:
    faces = [values for name, values in readers.net_digits(data).items() if name != b"lo"]
    return sum(int(face["receive_bytes"]) for face in faces), sum(int(face["transmit_bytes"]) for face in faces)


def _one(member: Member, network: tuple[int, int] | None) -> Mapping[str, Any]:
    state, hands = member.state, member.hands
    resources, now = state.definition.resources, hands.shared.clock.boot()
    track = hands.ring.last(WINDOW)
    fresh = state.phase in UP and len(track) > 0 and now - track.times[-1] < STALE
    return {
        "name": state.name,
        "state": str(state.phase),
        "generation": state.generation,
        "pid": state.pid,
        "uptime": None if state.started_at is None else round(max(0.0, now - state.started_at), 3),
        **{key: _rounded(value) for key, value in asdict(usage(track) if fresh else Usage()).items()},
        "cpu_limit": None if resources.cpus is None else float(resources.cpus),
        "memory_limit": resources.memory,
        "pids_limit": resources.pids,
        "net_read": None if network is None else network[0],
        "net_write": None if network is None else network[1],
    }


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if isinstance(value, float) else value
