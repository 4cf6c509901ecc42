"""CPU and wall time of one collection: ours, the same samples by prometheus_client, and the reads alone.

    python tests/bench/scrape.py [--real] [containers ...]

Cgroups are fake ones in /dev/shm with every file, or, as root, real ones of this host with what its kernel has. Both
texts are parsed and compared sample by sample before anything is timed, and timed in turns. Then the event loop's
delay while 100 containers are scraped again and again over HTTP's own path (thread, gzip).
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
from prometheus_client import CollectorRegistry, generate_latest

sys.path.insert(0, str(Path(__file__).parents[2]))

from monitor.cgroup import PRESSURE_FILES, STAT_FILES
from monitor.metrics import ContainerView, DaemonView, Exposition
from monitor.scrape import SWITCH_INTERVAL, Scraper, gzip
from tests.bench.naive import FILES, Naive, parse
from tests.e2e.host import cgroup_mount
from tests.fixtures import tree

ROUNDS = 9
DAEMON = DaemonView(psi=True, controllers={"memory": True})
READ = (*STAT_FILES, *PRESSURE_FILES, "g1/cgroup.procs")


@contextmanager
def fake(count: int) -> Iterator[list[Path]]:
    root = Path(tempfile.mkdtemp(prefix="wharf-bench-", dir="/dev/shm"))
    try:
        yield [tree.build(root / f"c{number}", tree.cgroup(number + 1)) for number in range(count)]
    finally:
        shutil.rmtree(root)


@contextmanager
def real(count: int) -> Iterator[list[Path]]:
    top = cgroup_mount() / f"wharf-bench-{os.getpid()}"
    made = [top / f"c{number}" for number in range(count)]
    usable = (cgroup_mount() / "cgroup.controllers").read_text().split()
    top.mkdir()
    try:
        for level in (cgroup_mount(), top):
            for controller in usable:
                (level / "cgroup.subtree_control").write_text(f"+{controller}")
        for path in made:
            path.mkdir()
            (path / "g1").mkdir()
        yield made
    finally:
        for path in made:
            for each in (path / "g1", path):
                if each.exists():
                    each.rmdir()
        top.rmdir()


def views_of(paths: Sequence[Path]) -> list[ContainerView]:
    return [
        ContainerView(
            path.name,
            f"/wharfinger/containers/{path.name}",
            str(path),
            image="registry.local/shop/web:1.4",
            phase="running",
            generation=1,
            started_wall=1.5,
        )
        for path in paths
    ]


def reads_alone(directories: Sequence[int]) -> None:
    """What nobody can do without: open, read, close."""
    for directory in directories:
        for name in READ:
            try:
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
            except FileNotFoundError:
                continue
            os.read(fd, 4096)
            os.close(fd)


def in_turns(*calls: Callable[[], object]) -> list[tuple[float, float]]:
    """Median CPU and wall time of each, in ms."""
    cpu: list[list[float]] = [[] for _ in calls]
    wall: list[list[float]] = [[] for _ in calls]
    for number in range(ROUNDS + 1):
        for call, cpus, walls in zip(calls, cpu, wall, strict=True):
            gc.collect()
            begin, at = time.process_time(), time.perf_counter()
            call()
            if number:  # the first time warms up
                cpus.append((time.process_time() - begin) * 1000)
                walls.append((time.perf_counter() - at) * 1000)
    return [(statistics.median(cpus), statistics.median(walls)) for cpus, walls in zip(cpu, wall, strict=True)]


def compare(paths: Sequence[Path], what: str) -> float:
    """Prints one line; returns our CPU time a container, in ms."""
    count, views = len(paths), views_of(paths)
    sysfs = tempfile.mkdtemp(prefix="wharf-bench-sys-", dir="/dev/shm")
    exposition = Exposition(sys=tree.build(Path(sysfs), tree.SYS))
    ours = parse(exposition.render(views, DAEMON, time.time()))
    same, files = CollectorRegistry(), CollectorRegistry()
    same.register(Naive(views, ours))
    files.register(Naive(views))
    theirs = parse(generate_latest(same))
    moving = {family.name for family in FILES}  # real counters go on between the two
    wrong = [
        key
        for key, value in theirs.items()
        if key not in ours or (what == "fake" and key[0] in moving and ours[key] != value)
    ]
    missing = [key for key in ours if key not in theirs and key[0].startswith(("container_", "wharfinger_container_"))]
    missing = [key for key in missing if not key[0].endswith(("_failcnt", "_sum", "_count", "_scrape_error"))]
    wrong = [key for key in wrong if not key[0].startswith("container_memory_failcnt")]
    if wrong or missing:
        raise SystemExit(f"{len(wrong)} samples differ, {len(missing)} are missing, first {(wrong + missing)[0]}")
    directories = [os.open(path, os.O_RDONLY) for path in paths]
    body = exposition.render(views, DAEMON, time.time())
    (slow, slow_wall), (part, _), (quick, wall), (reads, _), (packing, _) = in_turns(
        lambda: generate_latest(same),
        lambda: generate_latest(files),
        lambda: exposition.render(views, DAEMON, time.time()),
        lambda: reads_alone(directories),
        lambda: gzip(body),
    )
    for directory in directories:
        os.close(directory)
    exposition.close()
    shutil.rmtree(sysfs)
    print(
        f"{what} {count:5}: ours {quick:6.1f} ms CPU {wall:6.1f} wall, {quick / count:5.3f} a container;"
        f" reads alone {reads:5.1f} ({reads / quick:3.0%}); gzip {packing:4.1f}; {len(body)} bytes\n"
        f"  prometheus_client, the same {len(ours) // count} samples each: {slow:6.1f} CPU {slow_wall:6.1f} wall,"
        f" {slow / quick:4.1f} x; those of files alone: {part:6.1f} CPU, {part / quick:4.1f} x",
        flush=True,
    )
    return quick / count


async def loop_delay(paths: Sequence[Path], seconds: float = 5.0) -> None:
    """Delay of a 1 ms ticker while scrapes follow one another, and without them."""
    exposition = Exposition()
    views = views_of(paths)

    async def ticks(until: float) -> list[float]:
        late: list[float] = []
        while anyio.current_time() < until:
            due = anyio.current_time() + 0.001
            await anyio.sleep_until(due)
            late.append((anyio.current_time() - due) * 1000)
        return sorted(late)

    def told(late: list[float]) -> str:
        return f"p50 {late[len(late) // 2]:.2f} p99 {late[int(len(late) * 0.99)]:.2f} max {late[-1]:.2f} ms"

    idle = await ticks(anyio.current_time() + seconds / 2)
    scraper = Scraper(exposition, lambda: (views, DAEMON), share=0.0)
    async with anyio.create_task_group() as tasks:

        async def scrape() -> None:
            while True:
                answer = await scraper.scrape("gzip")
                assert answer.status == 200

        tasks.start_soon(scrape)
        busy = await ticks(anyio.current_time() + seconds)
        tasks.cancel_scope.cancel()
    print(f"event loop, {len(paths)} containers: {scraper.collections / seconds:.0f} scrapes a second: {told(busy)}")
    print(f"  without: {told(idle)}", flush=True)


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # a directory of each cgroup stays open
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(SWITCH_INTERVAL)
    words = sys.argv[1:]
    make, what = (real, "real") if "--real" in words else (fake, "fake")
    counts = [int(word) for word in words if word.isdigit()] or [10, 100, 500, 1000]
    each = []
    for count in counts:
        with make(count) as paths:
            each.append(compare(paths, what))
            if count == 100:
                anyio.run(loop_delay, paths, backend="trio")
    print(f"growth: {each[-1] / each[0]:.2f} x a container from {counts[0]} to {counts[-1]} containers")


if __name__ == "__main__":
    main()
