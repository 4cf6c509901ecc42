"""CPU time of one collection: ours against a collector written with prometheus_client, same files, same samples.

    python tests/bench/scrape.py [containers ...]

The cgroups are fake ones in /dev/shm; what the kernel adds by formatting real files is 1 to 3 us a read for both. The
outputs are parsed and compared before anything is timed.
"""

from __future__ import annotations

import gc
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

sys.path.insert(0, str(Path(__file__).parents[2]))

from monitor import families
from monitor.metrics import ContainerView, DaemonView, Exposition
from monitor.scrape import gzip
from tests.fixtures import tree

ROUNDS = 15
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
KERNEL = [family for family in families.FAMILIES if family.name.startswith("container_")]


class Naive(Collector):
    """As one writes it: open, read, split, add_metric; the families that come from files."""

    def __init__(self, views: Sequence[ContainerView]) -> None:
        self.views = views

    def collect(self) -> Iterator[Metric]:
        made: dict[str, Metric] = {}
        for family in KERNEL:
            kind = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
            made[family.name] = kind(family.name, family.help, labels=family.labels)

        def add(name: str, labels: list[str], value: float) -> None:
            made["container_" + name].add_metric(labels, value)  # type: ignore[attr-defined]

        for view in self.views:
            path, labels = Path(view.cgroup_dir), [view.cgroup, view.name, view.image]

            def read(name: str, path: Path = path) -> str:
                with open(path / name) as file:
                    return file.read()

            def flat(name: str, read: Callable[[str], str] = read) -> dict[str, int]:
                return {key: int(value) for key, value in (line.split() for line in read(name).splitlines())}

            cpu = flat("cpu.stat")
            add("cpu_usage_seconds_total", [*labels, "total"], cpu["usage_usec"] / 1e6)
            for name, key in (("user", "user_usec"), ("system", "system_usec"), ("cfs_throttled", "throttled_usec"),
                              ("cfs_burst", "burst_usec")):  # fmt: skip
                add(f"cpu_{name}_seconds_total", labels, cpu[key] / 1e6)
            for name, key in (("periods", "nr_periods"), ("throttled_periods", "nr_throttled"),
                              ("burst_periods", "nr_bursts")):  # fmt: skip
                add(f"cpu_cfs_{name}_total", labels, cpu[key])
            stat = flat("memory.stat")
            for name, key in (("rss", "anon"), ("cache", "file"), ("mapped_file", "file_mapped"),
                              ("kernel_usage", "kernel"), ("total_active_file_bytes", "active_file"),
                              ("total_inactive_file_bytes", "inactive_file"), ("file_dirty_bytes", "file_dirty"),
                              ("file_writeback_bytes", "file_writeback"), ("pgscan_total", "pgscan"),
                              ("pgsteal_total", "pgsteal"),
                              ("workingset_refault_file_total", "workingset_refault_file"),
                              ("workingset_refault_anon_total", "workingset_refault_anon")):  # fmt: skip
                add("memory_" + name, labels, stat[key])
            for key in ("pgfault", "pgmajfault"):
                add("memory_failures_total", [*labels, key, "container"], stat[key])
            events = flat("memory.events")
            add("memory_events_high_total", labels, events["high"])
            add("memory_events_max_total", labels, events["max"])
            add("memory_failcnt", labels, events["max"])
            add("oom_events_total", labels, events["oom_kill"])
            current = int(read("memory.current"))
            add("memory_usage_bytes", labels, current)
            add("memory_working_set_bytes", labels, max(0, current - stat["inactive_file"]))
            add("memory_swap", labels, int(read("memory.swap.current")))
            add("memory_max_usage_bytes", labels, int(read("memory.peak")))
            add("threads", labels, int(read("pids.current")))
            add("processes", labels, len(read("g1/cgroup.procs").split()))
            for resource in ("cpu", "memory", "io"):
                for line in read(f"{resource}.pressure").splitlines():
                    word = "waiting" if line.startswith("some") else "stalled"
                    add(f"pressure_{resource}_{word}_seconds_total", labels, int(line.rsplit("=", 1)[1]) / 1e6)
            for line in read("io.stat").splitlines():
                device, *pairs = line.split()
                if pairs:
                    values = dict(pair.split("=") for pair in pairs)
                    name = {"8:0": "/dev/sda", "253:1": "/dev/dm-1"}[device]
                    for key, word in (("rbytes", "reads_bytes"), ("wbytes", "writes_bytes"), ("rios", "reads"),
                                      ("wios", "writes")):  # fmt: skip
                        add(f"fs_{word}_total", [*labels, name], int(values[key]))
        yield from made.values()


def parse(text: bytes) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def timed(call: Callable[[], bytes]) -> tuple[float, int]:
    call()
    took, size = [], 0
    for _ in range(ROUNDS):
        gc.collect()
        begin = time.process_time()
        size = len(call())
        took.append(time.process_time() - begin)
    return statistics.median(took) * 1000, size


def compare(root: Path, count: int) -> None:
    views = [
        ContainerView(
            f"c{number}",
            f"/wharfinger/containers/c{number}",
            str(tree.build(root / str(count) / f"c{number}", tree.cgroup(number + 1))),
            image="registry.local/shop/web:1.4",
            phase="running",
            generation=1,
        )
        for number in range(count)
    ]
    exposition = Exposition(sys=tree.build(root / "sys", tree.SYS))
    daemon = DaemonView(psi=True)
    registry = CollectorRegistry()
    registry.register(Naive(views))
    ours, naive = parse(exposition.render(views, daemon, time.time())), parse(generate_latest(registry))
    naive.pop(("container_memory_failcnt_total", ()), None)
    wrong = [key for key, value in naive.items() if ours.get(key) != value]
    if wrong:
        raise SystemExit(f"{len(wrong)} samples differ, first {wrong[0]}: {naive[wrong[0]]} and {ours.get(wrong[0])}")
    slow, slow_size = timed(lambda: generate_latest(registry))
    quick, size = timed(lambda: exposition.render(views, daemon, time.time()))
    body = exposition.render(views, daemon, time.time())
    packing, packed = timed(lambda: gzip(body))
    print(f"{count} containers, median of {ROUNDS}, CPU time")
    print(f"  prometheus_client  {slow:8.1f} ms  {len(naive) / count:5.1f} samples a container  {slow_size:>9} bytes")
    print(f"  ours               {quick:8.1f} ms  {len(ours) / count:5.1f} samples a container  {size:>9} bytes")
    print(f"  per 1000 samples   {slow / len(naive) * 1000:8.2f} ms  {quick / len(ours) * 1000:5.2f} ms")
    print(f"  ratio              {slow / quick:8.1f} x, though ours has {len(ours) / len(naive):.2f} x the samples")
    print(f"  gzip level 1       {packing:8.1f} ms  {packed} bytes")
    exposition.close()


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="wharf-bench-", dir="/dev/shm"))
    try:
        for count in [int(word) for word in sys.argv[1:]] or [100, 1000]:
            compare(root, count)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
