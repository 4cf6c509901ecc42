"""What `/metrics` shows: copies of the state, taken in the event loop and rendered in monitor's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from monitor.metrics import ContainerView, DaemonView
from runtime.probe import WANTED, HostFacts
from supervisor.definitions import Definitions
from supervisor.fleet import Fleet, Member
from supervisor.lifecycle.facts import Desired, End
from supervisor.ports import Clock


class Views:
    """The source of a `monitor.scrape.Scraper`."""

    def __init__(
        self,
        fleet: Fleet,
        definitions: Definitions,
        facts: HostFacts,
        controllers: frozenset[str],
        clock: Clock,
        loop_lag: Callable[[], float],
        degraded: Callable[[], bool],
    ) -> None:
        self._fleet = fleet
        self._definitions = definitions
        self._facts = facts
        self._controllers = controllers
        self._clock = clock
        self._loop_lag = loop_lag
        self._degraded = degraded

    def __call__(self) -> tuple[Sequence[ContainerView], DaemonView]:
        offset = self._clock.wall() - self._clock.boot()
        containers = [self._container(member, offset) for member in self._fleet.members.values()]
        daemon = DaemonView(
            version=version("wharfinger"),
            kernel=self._facts.release,
            controllers={name: name in self._controllers for name in WANTED},
            psi=self._facts.psi,
            reload_ok=self._definitions.successful,
            reload_ok_wall=self._definitions.last_success,
            definition_errors=len({p.split(":")[0] for p in self._definitions.problems()}),
            watch_degraded=self._degraded(),
            loop_lag=self._loop_lag(),
        )
        return containers, daemon

    def _container(self, member: Member, offset: float) -> ContainerView:
        state, hands = member.state, member.hands
        cgroup = hands.shared.launcher.tree.path(state.name)
        return ContainerView(
            name=state.name,
            cgroup=self._below_mount(cgroup),
            cgroup_dir=str(cgroup),
            image=state.definition.image or "",
            runtime=state.definition.runtime,
            labels=dict(state.definition.labels),
            phase=state.phase.lower(),
            desired=state.desired is Desired.UP,
            health=state.health,
            generation=state.generation,
            definition=state.definition.digest,
            started_wall=None if state.started_at is None else state.started_at + offset,
            restarts=dict(hands.tally.restarts),
            ends=dict(hands.tally.ends),
            oom_kills=dict(hands.tally.oom_kills),
            last_code=code_of(state.last_end),
            last_end_wall=hands.last_end_wall,
            backoff=state.backoff or 0.0,
            crash_looping=state.crash_looping,
            health_checks=dict(hands.checks),
            health_check_seconds=hands.check_seconds,
            recorder_samples=len(hands.ring),
            pressure_events=dict(hands.pressure),
            shim_losses=hands.care.losses,
            takeovers=hands.care.takeovers,
        )

    def _below_mount(self, cgroup: Path) -> str:
        mount = self._facts.cgroup_mount
        return f"/{cgroup.relative_to(mount)}" if mount is not None and cgroup.is_relative_to(mount) else str(cgroup)


def code_of(end: End | None) -> int | None:
    """Exit code in the shell's manner: 128 + n for signal n; None when unknown."""
    if end is None:
        return None
    return end.code if end.signal is None else 128 + end.signal
