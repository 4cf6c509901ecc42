"""Event files, PSI triggers and samples of real cgroups: on the host of any kernel, in the VM of controllers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from config.errors import GoneError, HostError, RefusedError
from monitor import recorder
from monitor.cgroup import LIMIT_FILES, STAT_FILES, CgroupReader
from monitor.events import EventWatcher, Notice
from monitor.metrics import ContainerView, DaemonView, Exposition

_numbers = itertools.count(1)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    anyio.run(main, backend="trio")


class Group:
    """A cgroup of the test's own with one container: stable parent, leaf, and what was started in it."""

    def __init__(self, mount: Path) -> None:
        self.top = mount / f"wharf-test-{os.getpid()}-{next(_numbers)}"
        self.parent = self.top / "web"
        self.leaf = self.parent / "g1"
        self.children: list[subprocess.Popen[bytes]] = []
        self.top.mkdir()
        self._delegate(self.top)
        self.parent.mkdir()
        self._delegate(self.parent)
        self.leaf.mkdir()

    @staticmethod
    def _delegate(path: Path) -> None:
        names = (path / "cgroup.controllers").read_text().split()
        (path / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in names))

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Runs in the leaf from its first instruction on."""
        script = f'echo $$ > "{self.leaf}/cgroup.procs" && exec "$@"'
        child = subprocess.Popen(["sh", "-c", script, "sh", *command], stderr=subprocess.DEVNULL)
        self.children.append(child)
        return child

    def stop(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        self.children.clear()

    def remove(self, *paths: Path) -> None:
        """rmdir, as soon as the kernel has let go of what ran there."""
        for path in paths:
            for _ in range(200):
                try:
                    path.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)

    def close(self) -> None:
        self.stop()
        self.remove(self.leaf, self.parent, self.top)


@pytest.fixture
def group(cgroup2: Path) -> Iterator[Group]:
    made = Group(cgroup2)
    yield made
    made.close()


@pytest.fixture
def watcher() -> Iterator[EventWatcher]:
    made = EventWatcher(sweep=0.5)
    yield made
    made.close()


async def until(watcher: EventWatcher, wanted: Callable[[Notice], bool], limit: float = 20) -> list[Notice]:
    """The notices up to the first wanted one, which is the last."""
    seen: list[Notice] = []
    with anyio.fail_after(limit):
        while not seen or not wanted(seen[-1]):
            seen.append(await watcher.next())
    return seen


async def silence(watcher: EventWatcher, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        pytest.fail(f"unexpected: {await watcher.next()}")


@pytest.mark.kernel
def test_a_population_that_changes_is_told_with_its_difference(group: Group, watcher: EventWatcher) -> None:
    async def main() -> None:
        baseline = watcher.add("web", group.parent)
        assert baseline["cgroup.events"]["populated"] == 0
        child = group.start("sleep", "60")
        (notice,) = await until(watcher, lambda notice: notice.file == "cgroup.events")
        assert (notice.kind, notice.values["populated"], notice.deltas) == ("change", 1, {"populated": 1})
        child.kill()
        notice = (await until(watcher, lambda notice: notice.file == "cgroup.events"))[-1]
        assert notice.deltas == {"populated": -1}
        await silence(watcher, 0.2)
        assert watcher.values("web", "cgroup.events") == {"populated": 0, "frozen": 0}

    run(main)


@pytest.mark.kernel
def test_what_happened_between_baseline_and_wait_is_not_lost(group: Group, watcher: EventWatcher) -> None:
    async def main() -> None:
        watcher.add("web", group.parent)
        child = group.start("true")
        child.wait()
        group.start("sleep", "60")
        with anyio.fail_after(5):
            notice = await watcher.next()
        assert notice.values["populated"] == 1

    run(main)


@pytest.mark.kernel
def test_a_removed_cgroup_is_gone_once_and_the_loop_is_at_rest(group: Group, watcher: EventWatcher) -> None:
    async def main() -> None:
        fds = len(os.listdir("/proc/self/fd"))
        watcher.add("web", group.parent)
        group.remove(group.leaf, group.parent)
        notices = await until(watcher, lambda notice: notice.kind == "gone")
        assert notices[-1] == Notice("web", "gone")
        assert len(os.listdir("/proc/self/fd")) == fds
        assert watcher.keys() == frozenset()
        wakeups, cpu = watcher.wakeups, time.process_time()
        await silence(watcher, 1.0)
        assert watcher.wakeups == wakeups
        assert time.process_time() - cpu < 0.5, "the loop spins"

    run(main)


@pytest.mark.kernel
def test_an_idle_watch_costs_no_wakeup(group: Group) -> None:
    watcher = EventWatcher()

    async def main() -> None:
        watcher.add("web", group.parent)
        watcher.add("leaf", group.leaf)
        cpu = time.process_time()
        await silence(watcher, 1.0)
        assert watcher.wakeups == 0
        assert time.process_time() - cpu < 0.5, "the loop spins"

    run(main)
    watcher.close()


@pytest.mark.kernel
def test_no_such_cgroup_is_gone_and_nothing_is_held(group: Group, watcher: EventWatcher) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    with pytest.raises(GoneError):
        watcher.add("none", group.top / "none")
    with pytest.raises(GoneError):
        CgroupReader(group.top / "none")
    assert watcher.keys() == frozenset()
    assert len(os.listdir("/proc/self/fd")) == fds


@pytest.mark.kernel
def test_a_forgotten_key_says_nothing_any_more(group: Group, watcher: EventWatcher) -> None:
    async def main() -> None:
        fds = len(os.listdir("/proc/self/fd"))
        watcher.add("web", group.parent)
        watcher.add("web", group.parent)  # anew, not twice
        group.start("true").wait()
        watcher.sweep_nowait()
        watcher.remove("web")
        watcher.remove("web")
        assert len(os.listdir("/proc/self/fd")) == fds
        await silence(watcher, 0.2)

    run(main)


@pytest.mark.kernel
def test_a_watch_takes_a_directory_fd_that_stays_the_callers(group: Group, watcher: EventWatcher) -> None:
    async def main() -> None:
        fd = os.open(group.parent, os.O_RDONLY | os.O_DIRECTORY)
        watcher.add("web", fd)
        os.close(fd)
        group.start("sleep", "60")
        assert (await until(watcher, lambda notice: True))[0].values["populated"] == 1

    run(main)


@pytest.mark.kernel
def test_run_hands_over_every_notice(group: Group, watcher: EventWatcher) -> None:
    async def main() -> None:
        seen: list[Notice] = []
        watcher.add("web", group.parent)
        async with anyio.create_task_group() as tg:

            async def tell(notice: Notice) -> None:
                seen.append(notice)
                if notice.values["populated"] == 0:
                    tg.cancel_scope.cancel()

            tg.start_soon(watcher.run, tell)
            group.start("sleep", "0.1")
            with anyio.fail_after(10):
                await anyio.sleep_forever()
        assert [notice.deltas["populated"] for notice in seen] == [1, -1]

    run(main)


def has_psi(group: Group) -> bool:
    try:
        return bool((group.parent / "cpu.pressure").read_bytes())
    except OSError:
        return False


@pytest.mark.kernel
def test_a_trigger_fires_and_its_removed_cgroup_makes_no_spin(group: Group, watcher: EventWatcher) -> None:
    if not has_psi(group):
        with pytest.raises(HostError, match="no pressure information"):
            watcher.add_pressure("web", group.parent, "cpu", "some", 100_000, 2_000_000)
        pytest.skip("no PSI here; the refusal was tested")

    async def main() -> None:
        trigger = watcher.add_pressure("web", group.parent, "cpu", "some", 20_000, 500_000)
        assert trigger.window in (500_000, 2_000_000)
        assert trigger.adjusted is (trigger.window != 500_000)
        with pytest.raises(RefusedError):
            watcher.add_pressure("web", group.parent, "cpu", "some", 3_000_000, 2_000_000)
        for _ in range(2 * (os.cpu_count() or 1)):
            group.start(sys.executable, "-c", "while True: pass")
        (notice,) = await until(watcher, lambda notice: notice.kind == "pressure")
        assert notice == Notice("web", "pressure", "cpu.pressure", pressure="some")
        group.stop()
        group.remove(group.leaf, group.parent)
        await until(watcher, lambda notice: notice.kind == "gone")
        wakeups, cpu = watcher.wakeups, time.process_time()
        await silence(watcher, 0.5)
        assert watcher.wakeups <= wakeups + 1  # the thread may tell of the removal after the sweep did
        assert time.process_time() - cpu < 0.3, "the loop spins"

    run(main)


def open_triggers() -> list[str]:
    links = Path("/proc/self/fd")
    found = [os.readlink(links / fd) for fd in os.listdir(links) if (links / fd).is_symlink()]
    return sorted(Path(path).name for path in found if path.endswith(".pressure"))


@pytest.mark.kernel
def test_triggers_are_replaced_and_taken_away_one_by_one_and_the_loop_waits_for_none(group: Group) -> None:
    if not has_psi(group):
        pytest.skip("no PSI here")
    with closing(EventWatcher()) as watcher:
        before = open_triggers()
        for resource, kind in (("cpu", "some"), ("memory", "some"), ("memory", "full")):
            watcher.add_pressure("web", group.parent, resource, kind, 500_000, 2_000_000)
        assert open_triggers() == sorted([*before, "cpu.pressure", "memory.pressure", "memory.pressure"])
        watcher.add_pressure("web", group.parent, "cpu", "some", 900_000, 2_000_000)
        watcher.remove_pressure("web", "memory", "some")
        watcher.remove_pressure("web", "io", "some")  # there is none
    assert open_triggers() == before  # close() waits for the thread, which has closed what was let go


@pytest.mark.kernel
def test_a_sample_of_a_real_cgroup_and_its_end(group: Group) -> None:
    with CgroupReader(group.parent) as reader:
        sample = reader.read((*STAT_FILES, "cgroup.procs"))
        assert sample.errors == ()
        assert sample.flat("cpu.stat")["usage_usec"] >= 0
        recorder.row(sample)
        group.remove(group.leaf, group.parent)
        with pytest.raises(GoneError):
            reader.read()
        group.parent.mkdir()
        with pytest.raises(GoneError):
            reader.read()


@pytest.mark.vm
def test_an_oom_kill_is_seen_on_the_parent_also_of_the_next_run(group: Group, watcher: EventWatcher) -> None:
    async def main() -> None:
        (group.parent / "memory.max").write_text(str(24 << 20))
        baseline = watcher.add("web", group.parent)
        assert baseline["memory.events"]["oom_kill"] == 0
        hog = "x = [bytes(1 << 20) + b'x' for _ in range(100)]"
        for run_number in (1, 2):
            child = group.start(sys.executable, "-c", hog)
            notices = await until(watcher, lambda notice: notice.deltas.get("oom_kill", 0) > 0)
            assert notices[-1].file == "memory.events"
            assert notices[-1].values["oom_kill"] >= run_number
            assert child.wait() == -9
            group.remove(group.leaf)
            group.leaf.mkdir()
        assert (group.parent / "memory.events.local").read_text().splitlines()[3].split()[0] == "oom"

    run(main)


@pytest.mark.vm
def test_a_fork_that_was_refused_is_seen(group: Group, watcher: EventWatcher) -> None:
    async def main() -> None:
        (group.parent / "pids.max").write_text("2")
        assert watcher.add("web", group.parent)["pids.events"] == {"max": 0}
        # Before Linux 6.10 the refusal is counted where the fork was, not where the limit is (pids_localevents).
        watcher.add("web/g1", group.leaf, ["pids.events"])
        group.start("sh", "-c", "sleep 5 & sleep 5 & sleep 5 & wait")
        notices = await until(watcher, lambda notice: notice.file == "pids.events")
        assert notices[-1].deltas["max"] >= 1

    run(main)


@pytest.mark.vm
def test_all_controllers_give_their_files(group: Group) -> None:
    group.start("sleep", "60")
    with CgroupReader(group.parent) as reader:
        sample = reader.read(STAT_FILES + LIMIT_FILES)
        assert set(STAT_FILES) - {"memory.peak"} <= set(sample.files)
        assert set(LIMIT_FILES) <= set(sample.files)
        row = dict(zip(recorder.COLUMNS, recorder.row(sample), strict=True))
        assert row["pids"] in (0, 1)
        assert row["memory_some_usec"] is None  # this kernel has no PSI


@pytest.mark.vm
def test_the_exposition_of_real_cgroups_goes_on_over_runs(group: Group) -> None:
    exposition = Exposition()
    daemon = DaemonView(controllers={"memory": True}, psi=False)

    def scrape(generation: int, phase: str = "running") -> dict[str, float]:
        view = ContainerView("web", "/web", str(group.parent), phase=phase, generation=generation)
        lines = exposition.render([view], daemon, time.time()).decode().splitlines()
        found = {}
        for line in lines:
            if line.startswith("container_") and 'name="web"' in line and "pgmajfault" not in line:
                found[line.split("{")[0]] = float(line.rsplit(" ", 1)[1])
        return found

    busy = "import time\nwhile time.process_time() < 0.3: pass\nx = bytearray(8 << 20)\ntime.sleep(60)"
    values = []
    now: dict[str, float] = {}
    for generation in (1, 2):
        group.leaf = group.parent / f"g{generation}"
        group.leaf.mkdir(exist_ok=True)
        child = group.start(sys.executable, "-c", busy)
        for _ in range(600):
            if (now := scrape(generation)).get("container_memory_rss", 0) > 8 << 20:
                break
            time.sleep(0.05)
        values.append(now)
        child.kill()
        child.wait()
        group.remove(group.leaf)
    first, second = values
    assert second["container_cpu_usage_seconds_total"] >= first["container_cpu_usage_seconds_total"] + 0.2
    assert second["container_memory_failures_total"] > first["container_memory_failures_total"]
    assert first["container_threads"] == first["container_processes"] == 1
    assert first["container_spec_memory_limit_bytes"] == 0
    assert first["container_memory_working_set_bytes"] <= first["container_memory_usage_bytes"]
    stopped = scrape(2, "exited")
    assert stopped["container_cpu_usage_seconds_total"] >= second["container_cpu_usage_seconds_total"]
    assert "container_memory_usage_bytes" not in stopped
    exposition.close()
