"""The metric families of a container: names, types, labels, HELP, and where each comes from (pure data).

docs/metrics.md lists the same table; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

from monitor import cadvisor

PREFIX = "wharfinger_"
IDENTITY = ("id", "name", "image")
"""On each container_* series, besides the labels of the definition that the settings allow."""

PHASES = (
    "stopped", "starting", "running", "backoff", "stopping", "exited", "fatal", "unknown", "pulling", "paused",
)  # fmt: skip
LIVE_PHASES = frozenset({"starting", "running", "stopping", "unknown", "paused"})
"""Phases in which a run's processes may exist, so that usage is of today."""
RESTART_REASONS = ("exit", "error", "signal", "oom", "health", "pressure", "lost", "update", "manual")
END_REASONS = ("success", "error", "signal", "oom", "start_failure", "lost")
OOM_SCOPES = ("container", "parent", "host")
HEALTH = ("none", "starting", "healthy", "unhealthy")
CHECK_RESULTS = ("success", "failure", "timeout")

# fmt: off
_OURS: tuple[tuple[str, str, str, tuple[str, ...], str], ...] = (
    ("state", "gauge", "state", ("state",),
     "1 for the container's current state, 0 for the others."),
    ("desired_running", "gauge", "desired", (),
     "1 if the supervisor is meant to keep the container running."),
    ("generation", "gauge", "state", (),
     "Number of the container's latest run, counted since its first one."),
    ("crash_looping", "gauge", "state", (),
     "1 if the container ended too often in the window of its restart policy."),
    ("restarts_total", "counter", "store", ("reason",),
     "Restarts performed by the supervisor, by cause."),
    ("exits_total", "counter", "store", ("reason",),
     "Ends of the container's main process, by cause."),
    ("last_exit_code", "gauge", "last end", (),
     "Exit code of the last run (128+n for signal n); absent before the first exit."),
    ("last_exit_timestamp_seconds", "gauge", "last end", (),
     "Unix time of the last exit."),
    ("oom_kills_total", "counter", "store", ("scope",),
     "OOM kills in the container, by whose limit was hit; host: not the container's."),
    ("backoff_seconds", "gauge", "state", (),
     "Delay before the next restart, 0 if none is pending."),
    ("health", "gauge", "health", ("status",),
     "1 for the container's current health status."),
    ("health_checks_total", "counter", "health", ("result",),
     "Health checks run, by result."),
    ("health_check_duration_seconds", "summary", "health", (),
     "Time spent in health checks."),
    ("pressure_events_total", "counter", "PSI triggers", ("resource", "kind"),
     "Notices of pressure: PSI triggers that fired, memory.high exceeded."),
    ("recorder_samples", "gauge", "recorder", (),
     "Rows that the container's flight recorder holds."),
    ("shim_losses_total", "counter", "this process", (),
     "Shims of the container that were killed; it runs on."),
    ("takeovers_total", "counter", "this process", (),
     "Shims that took over a running container after a loss."),
    ("log_bytes_total", "counter", "shim", (),
     "Bytes of output that were written to the container's log."),
    ("log_dropped_bytes_total", "counter", "shim", (),
     "Bytes of output that could not be written to the log."),
    ("log_size_bytes", "gauge", "log directory, once a minute", (),
     "Disk space that the container's log files take."),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    type: str
    help: str
    source: str
    labels: tuple[str, ...] = ()

    def header(self) -> bytes:
        text = self.help.replace("\\", r"\\").replace("\n", r"\n")
        return f"# HELP {self.name} {text}\n# TYPE {self.name} {self.type}".encode()


_INFO = Family(
    f"{PREFIX}container_info",
    "gauge",
    "Identity of the container; join on name.",
    "definition",
    (*IDENTITY, "digest", "runtime", "cgroup"),
)

FAMILIES: tuple[Family, ...] = tuple(
    sorted(
        (
            _INFO,
            *(Family(f"container_{name}", kind, text, source, (*IDENTITY, *labels))
              for name, kind, source, labels, text in cadvisor.ROWS),
            *(Family(f"{PREFIX}container_{name}", kind, text, source, ("name", *labels))
              for name, kind, source, labels, text in _OURS),
        ),
        key=lambda family: family.name,
    )
)  # fmt: skip
SLOT: dict[str, int] = {family.name: slot for slot, family in enumerate(FAMILIES)}
"""Where a family stands in a row of the exposition."""
