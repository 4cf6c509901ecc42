"""What /metrics would be with prometheus_client alone: open, read, split, add_metric; for the benches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from monitor import families
from monitor.metrics import ContainerView

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
FROM_FILES = ("cpu.stat", "memory.", "io.stat", "pids.current", "cgroup.procs", ".pressure")
FILES = tuple(
    family for family in families.FAMILIES
    if family.name.startswith("container_") and any(word in family.source for word in FROM_FILES)
    and "_spec_" not in family.name and not family.name.startswith("container_pids")
)  # fmt: skip
DEVICES = {"8:0": "/dev/sda", "253:1": "/dev/dm-1"}


def parse(text: bytes) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


class Naive(Collector):
    """As one writes it. `known`: samples of families that come from no file, which it has at hand as numbers."""

    def __init__(self, views: Sequence[ContainerView], known: Samples | None = None) -> None:
        self.views = views
        self.known: dict[families.Family, list[tuple[list[str], float]]] = {}
        files = {family.name for family in FILES}
        for (name, labels), value in (known or {}).items():
            slot = families.SLOT.get(name)
            if slot is not None and name not in files:
                family = families.FAMILIES[slot]
                given = dict(labels)
                self.known.setdefault(family, []).append(([given[label] for label in family.labels], value))

    def collect(self) -> Iterator[Metric]:
        made: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for family in (*FILES, *self.known):
            kind = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
            made[family.name] = kind(family.name, family.help, labels=family.labels)
        for family, samples in self.known.items():
            for labels, value in samples:
                made[family.name].add_metric(labels, value)
        for view in self.views:
            self._container(view, lambda name, labels, value: made["container_" + name].add_metric(labels, value))
        yield from made.values()

    def _container(self, view: ContainerView, add: Callable[[str, list[str], float], None]) -> None:
        path, labels = Path(view.cgroup_dir), [view.cgroup, view.name, view.image]

        def read(name: str) -> str:
            try:
                with open(path / name) as file:
                    return file.read()
            except FileNotFoundError:
                return ""

        def flat(name: str) -> Mapping[str, int]:
            return {key: int(value) for key, value in (line.split() for line in read(name).splitlines())}

        def put(values: Mapping[str, int], words: Mapping[str, str], by: float = 1) -> None:
            for key, name in words.items():
                if key in values:
                    add(name, labels, values[key] / by if by != 1 else values[key])

        cpu = flat("cpu.stat")
        if "usage_usec" in cpu:
            add("cpu_usage_seconds_total", [*labels, "total"], cpu["usage_usec"] / 1e6)
        quota = not read("cpu.max").startswith("max")
        put(cpu, {"user_usec": "cpu_user_seconds_total", "system_usec": "cpu_system_seconds_total"}, 1e6)
        if quota:
            put(cpu, {"throttled_usec": "cpu_cfs_throttled_seconds_total", "burst_usec": "cpu_cfs_burst_seconds_total"},
                1e6)  # fmt: skip
            put(cpu, {"nr_periods": "cpu_cfs_periods_total", "nr_throttled": "cpu_cfs_throttled_periods_total",
                      "nr_bursts": "cpu_cfs_burst_periods_total"})  # fmt: skip
        stat = flat("memory.stat")
        put(stat, {"anon": "memory_rss", "file": "memory_cache", "file_mapped": "memory_mapped_file",
                   "kernel": "memory_kernel_usage", "active_file": "memory_total_active_file_bytes",
                   "inactive_file": "memory_total_inactive_file_bytes", "file_dirty": "memory_file_dirty_bytes",
                   "file_writeback": "memory_file_writeback_bytes", "pgscan": "memory_pgscan_total",
                   "pgsteal": "memory_pgsteal_total",
                   "workingset_refault_file": "memory_workingset_refault_file_total",
                   "workingset_refault_anon": "memory_workingset_refault_anon_total"})  # fmt: skip
        for key in ("pgfault", "pgmajfault"):
            if key in stat:
                add("memory_failures_total", [*labels, key, "container"], stat[key])
        put(flat("memory.events"), {"high": "memory_events_high_total", "max": "memory_events_max_total",
                                    "oom_kill": "oom_events_total"})  # fmt: skip
        put(flat("memory.events"), {"max": "memory_failcnt"})
        current = read("memory.current")
        if current:
            add("memory_usage_bytes", labels, int(current))
            add("memory_working_set_bytes", labels, max(0, int(current) - stat["inactive_file"]))
        for file, name in (("memory.swap.current", "memory_swap"), ("memory.peak", "memory_max_usage_bytes"),
                           ("pids.current", "threads")):  # fmt: skip
            if text := read(file):
                add(name, labels, int(text))
        add("processes", labels, len(read("g1/cgroup.procs").split()))
        for resource in ("cpu", "memory", "io"):
            for line in read(f"{resource}.pressure").splitlines():
                word = "waiting" if line.startswith("some") else "stalled"
                add(f"pressure_{resource}_{word}_seconds_total", labels, int(line.rsplit("=", 1)[1]) / 1e6)
        for line in read("io.stat").splitlines():
            device, *pairs = line.split()
            if pairs:
                values = dict(pair.split("=") for pair in pairs)
                for key, word in (("rbytes", "reads_bytes"), ("wbytes", "writes_bytes"), ("rios", "reads"),
                                  ("wios", "writes")):  # fmt: skip
                    add(f"fs_{word}_total", [*labels, DEVICES.get(device, device)], int(values[key]))
