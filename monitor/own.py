"""The daemon's own metrics, kept by prometheus_client: few, so its price does not matter.

Each collector is rendered by itself: one that raises costs its own families and a count, never the scrape (the client
fails all of it). docs/metrics.md lists the names.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterable, Mapping
from typing import TypeVar

from prometheus_client import Counter, Gauge, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from monitor.families import PREFIX
from monitor.histogram import Histogram, Timing
from monitor.labels import clean
from monitor.view import DaemonView

CONTROLLERS = ("cpu", "memory", "io", "pids", "cpuset")
ADOPTIONS = ("running", "taken_over", "ended", "lost")
DROP_REASONS = ("limit", "vanished", "label", "fault")

_C = TypeVar("_C", bound=Collector)
_log = logging.getLogger(__name__)


class _One(Collector):
    """One collector as a registry, without the `_created` families that the client adds to each counter."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        for metric in self._collector.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class OwnMetrics:
    """Uses no global registry. Other parts of the daemon bring their collectors by add()."""

    def __init__(self, proc: str = "/proc") -> None:
        self._collectors: dict[str, Collector | Histogram] = {}
        self.timing = Timing()
        for histogram in (self.timing.decision, self.timing.effect, self.timing.lag):
            self._collectors[histogram.name] = histogram
        self._hidden: set[str] = set()
        self._broken: set[str] = set()
        self._errors = self.counter("scrape_errors_total", "Failed cgroup reads, by file and errno.", "file", "errno")
        self._dropped = self.counter(
            "samples_dropped_total", "Containers, devices and labels left out, by cause.", "reason"
        )
        self.events_dropped = self.counter(
            "events_dropped_total", "Events that the disk did not take, beyond those kept."
        )
        self._broke = self.counter(
            "collector_errors_total", "Failed collectors of the daemon's own metrics.", "collector"
        )
        self._took = self.gauge("scrape_duration_seconds", "Duration of the last collection.", "phase")
        self._count = self.gauge("scrape_containers", "Containers in the last collection.")
        self._build = self.gauge(
            "build_info", "Build of the running supervisor.", "version", "revision", "python", "kernel"
        )
        self._enabled = self.gauge(
            "cgroup_controller_enabled", "1 if the controller is delegated to the supervisor's subtree.", "controller"
        )
        self._scrape_error = self.gauge(
            "scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", prefix="container_"
        )
        self._psi = self.gauge("psi_enabled", "1 if per-cgroup pressure files can be read.")
        self._reload = self.gauge(
            "config_last_reload_successful", "Whether the last configuration reload attempt was successful."
        )
        self._reload_wall = self.gauge(
            "config_last_reload_success_timestamp_seconds", "Timestamp of the last successful configuration reload."
        )
        self._refused = self.gauge("definition_errors", "Definition files that are refused now.")
        self._polled = self.gauge("definition_watch_degraded", "1 if the definition directory is polled, not watched.")
        self._adopted = self.counter("adoptions_total", "Containers that the daemon found when it started.", "found")
        self._disk = self.gauge("disk_size_bytes", "Size of the file system of the daemon's directory.", "holds")
        self._disk_free = self.gauge("disk_free_bytes", "Room left there for the daemon and its containers.", "holds")
        self._lag = self.gauge("event_loop_lag_seconds", "Largest event-loop delay since the previous scrape.")
        for reason in DROP_REASONS:
            self._dropped.labels(reason)
        self.gauge("cpu_cores", "Number of logical CPU cores.", prefix="machine_").set(os.cpu_count() or 0)
        self.gauge("memory_bytes", "Amount of memory installed on the machine.", prefix="machine_").set(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        )
        self.add("process", ProcessCollector(proc=proc, registry=None))
        self.add("python_info", PlatformCollector(registry=None))
        self._kernel = platform.release()

    def add(self, name: str, collector: _C) -> _C:
        """A collector of the daemon; name: unique, and the word under which its failures are counted."""
        if name in self._collectors:
            raise ValueError(f"there is a collector {name} already")
        self._collectors[name] = collector
        return collector

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A counter wharfinger_<name>; name ends in _total. Thread-safe."""
        return self.add(PREFIX + name, Counter(PREFIX + name, text, labels, registry=None))

    def gauge(self, name: str, text: str, *labels: str, prefix: str = PREFIX) -> Gauge:
        return self.add(prefix + name, Gauge(prefix + name, text, labels, registry=None))

    def read_failed(self, file: str, errno: str) -> None:
        self._errors.labels(file, errno).inc()

    def left_out(self, reason: str, count: int) -> None:
        if count > 0:
            self._dropped.labels(reason).inc(count)

    def took(self, **phases: float) -> None:
        for phase, seconds in phases.items():
            self._took.labels(phase).set(seconds)

    def describe(self, daemon: DaemonView, containers: int, failed: bool) -> None:
        """What is true of this collection."""
        self._count.set(containers)
        self._scrape_error.set(failed)
        for controller in CONTROLLERS:
            self._enabled.labels(controller).set(bool(daemon.controllers.get(controller)))
        for found in ADOPTIONS:
            counted = self._adopted.labels(found)
            counted.reset()
            counted.inc(daemon.adopted.get(found, 0))
        self._disks(daemon.disks)
        self._build.clear()
        build = (daemon.version, daemon.revision, platform.python_version(), daemon.kernel or self._kernel)
        self._build.labels(*map(clean, build)).set(1)
        for gauge, name, value in (
            (self._psi, "psi_enabled", daemon.psi),
            (self._reload, "config_last_reload_successful", daemon.reload_ok),
            (self._reload_wall, "config_last_reload_success_timestamp_seconds", daemon.reload_ok_wall),
            (self._refused, "definition_errors", daemon.definition_errors),
            (self._polled, "definition_watch_degraded", daemon.watch_degraded),
            (self._lag, "event_loop_lag_seconds", daemon.loop_lag),
        ):
            if value is None:
                self._hidden.add(PREFIX + name)
            else:
                self._hidden.discard(PREFIX + name)
                gauge.set(value)

    def _disks(self, disks: Mapping[str, str]) -> None:
        self._disk.clear()
        self._disk_free.clear()
        for holds, directory in disks.items():
            try:
                state = os.statvfs(directory)
            except OSError:
                continue
            self._disk.labels(holds).set(state.f_frsize * state.f_blocks)
            self._disk_free.labels(holds).set(state.f_frsize * state.f_bavail)

    def text(self) -> bytes:
        """All of it, ending in a newline."""
        parts = [self._render(name) for name in sorted(self._collectors) if name not in self._hidden]
        return b"".join(parts)

    def _render(self, name: str) -> bytes:
        try:
            collector = self._collectors[name]
            text = collector.text() if isinstance(collector, Histogram) else generate_latest(_One(collector))
        except Exception:  # noqa: BLE001 - a collector may be anybody's, and the scrape must not be its hostage
            self._broke.labels(name).inc()
            if name not in self._broken:
                self._broken.add(name)
                _log.exception("event=collector_failed collector=%s", name)
            return b""
        self._broken.discard(name)
        return text
