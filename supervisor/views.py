"""What `/metrics` shows: copies of the state, taken in the event loop and rendered in monitor's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from config.settings import Settings
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
        settings: Settings,
    ) -> None:
        self._fleet = fleet
        self._definitions = definitions
        self._facts = facts
        self._controllers = controllers
        self._clock = clock
        self._loop_lag = loop_lag
        self._degraded = degraded
        self._settings = settings
        self._began: dict[str, tuple[float, float]] = {}
        self._version = version("wharfinger")

    def __call__(self) -> tuple[Sequence[ContainerView], DaemonView]:
        offset = self._clock.wall() - self._clock.boot()
        members = self._fleet.members
        containers = [self._container(member, offset) for member in members.values()]
        for name in self._began.keys() - members.keys():
            del self._began[name]
        daemon = DaemonView(
            version=self._version,
            kernel=self._facts.release,
            controllers={name: name in self._controllers for name in WANTED},
            psi=self._facts.psi,
            reload_ok=self._definitions.successful,
            reload_ok_wall=self._definitions.last_success,
            definition_errors=len({p.split(":")[0] for p in self._definitions.problems()}),
            watch_degraded=self._degraded(),
            adopted=dict(self._fleet.found),
            disks={"state": str(self._settings.state_dir), "logs": str(self._settings.log_dir)},
            allow_labels=self._settings.metrics_labels,
            loop_lag=self._loop_lag(),
        )
        return containers, daemon

    def _container(self, member: Member, offset: float) -> ContainerView:
        state, hands = member.state, member.hands
        launcher = hands.shared.launcher
        cgroup = launcher.tree.path(state.name)
        page = launcher.pages.get(state.name)
        output = None if page is None else page.read()
        host_network = state.definition.bundle is None and state.definition.network == "host"
        return ContainerView(
            name=state.name,
            cgroup=below_mount(self._facts, cgroup),
            cgroup_dir=str(cgroup),
            image=state.definition.image or "",
            runtime=state.definition.runtime,
            labels=dict(state.definition.labels),
            phase=state.phase.lower(),
            desired=state.desired is Desired.UP,
            health=state.health,
            generation=state.generation,
            definition=state.definition.digest,
            created_wall=hands.tally.created,
            started_wall=self._start(state.name, state.started_at, offset),
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
            pressure_events=dict(hands.pressure.counts),
            shim_losses=hands.care.losses,
            takeovers=hands.care.takeovers,
            log_bytes=None if output is None else output.size,
            log_dropped=None if output is None else output.dropped,
            net_pid=None if hands.shim is None or host_network else hands.shim.pid,
            space=hands.space,
        )

    def _start(self, name: str, started: float | None, offset: float) -> float | None:
        """Wall time of a start, the same in every scrape: the clocks drift, and a change would look like a restart."""
        if started is None:
            return None
        known = self._began.get(name)
        if known is None or known[0] != started:
            known = self._began[name] = (started, float(round(started + offset)))
        return known[1]


def below_mount(facts: HostFacts, cgroup: Path) -> str:
    """The cgroup as /proc/PID/cgroup says it."""
    mount = facts.cgroup_mount
    return f"/{cgroup.relative_to(mount)}" if mount is not None and cgroup.is_relative_to(mount) else str(cgroup)


def code_of(end: End | None) -> int | None:
    """Exit code in the shell's manner: 128 + n for signal n; None when unknown."""
    if end is None:
        return None
    return end.code if end.signal is None else 128 + end.signal
