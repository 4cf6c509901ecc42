"""Limits on a kernel that has the controllers: they hold, change live, and go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.errors import RefusedError
from config.model import Container
from runtime.cgroups import Tree
from runtime.limits import LEAF_SLACK
from runtime.probe import probe

pytestmark = [pytest.mark.vm, pytest.mark.kernel]

EAT = "import sys, time; x = bytearray(int(sys.argv[1]) << 20); x[::4096] = b'x' * len(x[::4096]); time.sleep(100)"


@pytest.fixture
def tree() -> Iterator[Tree]:
    host = probe()
    assert host.cgroup_mount is not None
    root = host.cgroup_mount / f"wharf-test-{os.getpid()}-{time.monotonic_ns()}"
    tree = Tree(root, host.controllers)
    assert tree.setup() == ()
    assert {"memory", "cpu", "io", "pids"} <= tree.controllers
    try:
        yield tree
    finally:
        for existing in tree.list_existing():
            assert tree.remove(existing.name)
        for name in ("supervisor", "shims", "containers", "."):
            (root / name).rmdir()


def web(group: bool = True, **resources: Any) -> Container:
    return Container.model_validate(
        {"name": "web", "rootfs": "/r", "command": ["x"], "resources": resources, "oom": {"group": group}}
    )


def read(tree: Tree, name: str, generation: int | None = None) -> str:
    return (tree.path("web", generation) / name).read_text().rstrip("\n")


def run_in(leaf: Path, *args: str) -> subprocess.Popen[bytes]:
    enter = "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0'); os.execvp(sys.argv[2], sys.argv[2:])"
    return subprocess.Popen([sys.executable, "-S", "-c", enter, str(leaf), *args])


def test_the_kernel_takes_every_limit(tree: Tree) -> None:
    tree.prepare(
        web(
            memory="128MiB",
            memory_high="100MiB",
            memory_low="8MiB",
            memory_min="4MiB",
            cpus="0.5",
            cpu_weight=50,
            pids=64,
        )
    )
    assert read(tree, "memory.max") == str(128 << 20)
    assert read(tree, "memory.high") == str(100 << 20)
    assert read(tree, "memory.low") == str(8 << 20)
    assert read(tree, "memory.min") == str(4 << 20)
    assert read(tree, "memory.oom.group") == "1"
    assert read(tree, "cpu.max") == "50000 100000"
    assert read(tree, "cpu.weight") == "50"
    assert read(tree, "pids.max") == "64"


def test_dropped_limits_are_the_kernels_defaults_again(tree: Tree) -> None:
    tree.prepare(web(memory="128MiB", cpus=1, cpu_weight=7, pids=64))
    assert tree.update(web(group=False, pids="max")) == ()
    found = {n: read(tree, n) for n in ("memory.max", "cpu.max", "cpu.weight", "pids.max", "memory.oom.group")}
    assert found == {
        "memory.max": "max",
        "cpu.max": "max 100000",
        "cpu.weight": "100",
        "pids.max": "max",
        "memory.oom.group": "0",
    }


def test_a_run_over_its_memory_dies_whole_and_the_parent_counts_it(tree: Tree) -> None:
    tree.prepare(web(memory="32MiB", memory_swap=0) if (Path(tree.containers) / "memory.swap.max").exists()
                 else web(memory="32MiB"))  # fmt: skip
    leaf = tree.open_leaf("web", 1)
    bystander = run_in(leaf, "sleep", "1000")
    eater = run_in(leaf, sys.executable, "-S", "-c", EAT, "64")
    assert eater.wait(60) == -signal.SIGKILL
    assert bystander.wait(10) == -signal.SIGKILL
    local = dict(line.split() for line in read(tree, "memory.events.local").splitlines())
    assert int(local["oom"]) >= 1  # our limit, not the run's copy of it
    assert "oom_kill 0" in read(tree, "memory.events.local", 1) or int(
        dict(line.split() for line in read(tree, "memory.events", 1).splitlines())["oom_kill"]
    )
    assert tree.remove_leaf("web", 1)
    assert int(dict(line.split() for line in read(tree, "memory.events").splitlines())["oom_kill"]) >= 1


def test_a_run_sees_its_limits_in_its_own_cgroup(tree: Tree) -> None:
    tree.prepare(web(memory="64MiB", cpus=1))
    tree.open_leaf("web", 1)
    assert read(tree, "memory.max", 1) == str((64 << 20) + LEAF_SLACK)
    assert read(tree, "cpu.max", 1) == "100000 100000"


def test_live_limits_below_use_are_refused_and_forced(tree: Tree) -> None:
    tree.prepare(web(memory="128MiB"))
    eater = run_in(tree.open_leaf("web", 1), sys.executable, "-S", "-c", EAT, "48")
    for _ in range(500):
        if int(read(tree, "memory.current")) > 45 << 20:
            break
        time.sleep(0.02)
    with pytest.raises(RefusedError, match="bytes in use"):
        tree.update(web(memory="16MiB"))
    assert read(tree, "memory.max") == str(128 << 20)
    assert eater.poll() is None
    assert tree.update(web(memory="256MiB", pids=9)) == ()
    assert (read(tree, "memory.max"), read(tree, "pids.max")) == (str(256 << 20), "9")
    tree.update(web(memory="16MiB"), force=True)
    assert eater.wait(60) == -signal.SIGKILL


def test_a_fork_bomb_is_bounded_and_dies(tree: Tree) -> None:
    tree.prepare(web(pids=10))
    leaf = tree.open_leaf("web", 1)
    bomb = run_in(leaf, "sh", "-c", "while :; do sleep 100 & done 2>/dev/null")
    for _ in range(500):
        if read(tree, "pids.events") != "max 0":
            break
        time.sleep(0.02)
    assert int(read(tree, "pids.current")) <= 10
    assert tree.remove_leaf("web", 1)
    assert bomb.wait(10) in (2, -signal.SIGKILL)  # a shell that cannot fork may give up by itself


def test_a_disk_limit_holds_a_device_of_this_kernel(tree: Tree) -> None:
    disks = sorted(Path("/sys/block").glob("ubd*/dev")) or sorted(Path("/sys/block").glob("*/dev"))
    if not disks:
        pytest.skip("no disk here")
    number = disks[0].read_text().strip()
    tree.prepare(web(io_max=[{"device": number, "rbps": "1MiB"}]))
    assert read(tree, "io.max") == f"{number} rbps=1048576 wbps=max riops=max wiops=max"
    tree.update(web())
    assert read(tree, "io.max") == ""


def test_a_disk_that_is_not_there_is_refused_and_no_cgroup_is_left(tree: Tree) -> None:
    with pytest.raises(RefusedError, match="no such disk: 4000:4000"):
        tree.prepare(web(io_max=[{"device": "4000:4000", "rbps": "1MiB"}]))
    assert not tree.path("web").exists()


def test_a_value_that_the_kernel_refuses_is_told_and_undone(tree: Tree) -> None:
    tree.prepare(web(memory="64MiB"))
    with pytest.raises(RefusedError, match="cpu.weight: the kernel refuses '0'"):
        tree.update(web(memory="32MiB"), {"unified": {"cpu.weight": "0"}})
    assert read(tree, "memory.max") == str(64 << 20)


def test_counters_go_on_over_runs(tree: Tree) -> None:
    tree.prepare(web(memory="64MiB"))
    used = []
    for generation in (1, 2):
        process = run_in(tree.open_leaf("web", generation), sys.executable, "-S", "-c", "sum(range(10**6))")
        assert process.wait(60) == 0
        assert tree.remove_leaf("web", generation)
        used.append(int(dict(line.split() for line in read(tree, "cpu.stat").splitlines())["usage_usec"]))
    assert 0 < used[0] < used[1]
