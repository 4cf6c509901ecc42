"""What the supervisor tells the exposition about a container and about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from monitor.families import LIVE_PHASES


@dataclass(frozen=True, slots=True)
class SpaceView:
    """Bytes on disk, measured a while ago. device: what the root is on, `/dev/sda`. None is unknown: no sample."""

    root: int | None = None
    device: str = ""
    limit: int | None = None
    """Size of the file system that the root is on."""
    logs: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container. Mappings are copies that nobody writes to any more: they are read in another thread.

    Times are Unix seconds of the wall clock, durations seconds. None is unknown, or not yet: no sample.
    """

    name: str
    cgroup: str
    """Path of the stable cgroup below the cgroup mount, the `id` label: /wharfinger/containers/web."""
    cgroup_dir: str
    """The same in the file system."""
    image: str = ""
    """Reference without digest; empty for a rootfs or a bundle."""
    digest: str = ""
    runtime: str = "native"
    labels: Mapping[str, str] = field(default_factory=dict)
    phase: str = "stopped"
    desired: bool = False
    health: str = "none"
    generation: int = 0
    definition: str = ""
    """Digest of the definition: when it changes, or the generation does, the limits are read again."""
    created_wall: float | None = None
    started_wall: float | None = None
    """Start of the current run."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """By reason; a reason that is missing is 0. Kept by the store over restarts of the daemon, as are the next two."""
    ends: Mapping[str, int] = field(default_factory=dict)
    oom_kills: Mapping[str, int] = field(default_factory=dict)
    """By scope: container, parent, host."""
    last_code: int | None = None
    last_end_wall: float | None = None
    backoff: float = 0.0
    """The delay that was decided, not what is left of it; 0 when no restart is pending."""
    crash_looping: bool = False
    health_checks: Mapping[str, int] = field(default_factory=dict)
    health_check_seconds: float = 0.0
    pressure_events: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By (resource, kind) for each trigger that is set."""
    shim_losses: int = 0
    takeovers: int = 0
    recorder_samples: int | None = None
    log_bytes: int | None = None
    """Counted since the page was made that daemon and shims share; the next too."""
    log_dropped: int | None = None
    leaf: str = ""
    """Directory of the run's cgroup below cgroup_dir, `g3`; empty: `g<generation>`."""
    net_pid: int | None = None
    """Its init, for the network; None when it has the host's by definition."""
    space: SpaceView | None = None

    @property
    def live(self) -> bool:
        """A run may exist."""
        return self.phase in LIVE_PHASES


@dataclass(frozen=True, slots=True)
class DaemonView:
    """The daemon itself. None is unknown, or not yet: no sample."""

    version: str = ""
    revision: str = ""
    kernel: str = ""
    controllers: Mapping[str, bool] = field(default_factory=dict)
    """cpu, memory, io, pids, cpuset: whether it is usable below our root."""
    psi: bool | None = None
    reload_ok: bool | None = None
    reload_ok_wall: float | None = None
    definition_errors: int | None = None
    """Definition files that are refused now."""
    watch_degraded: bool | None = None
    loop_lag: float | None = None
    """Largest delay of the event loop since the last collection; LoopLag.take() gives it."""
    allow_labels: tuple[str, ...] = ()
    """Labels of definitions that become labels of series."""
    adopted: Mapping[str, int] = field(default_factory=dict)
    """Containers that were found at the daemon's start, by what was found: running, taken_over, ended, lost."""
    disks: Mapping[str, str] = field(default_factory=dict)
    """Directories whose file systems are shown, by what they hold: state, logs."""
