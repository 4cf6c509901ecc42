"""Starts that nobody answers, and the first look of a later daemon: nothing of them can begin after it was judged."""

from __future__ import annotations

import os
import select
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from config.errors import LaunchError
from config.model import Container
from monitor import pidfd as pidfds
from runtime import shim, wire
from runtime.cgroups import Tree
from runtime.probe import probe
from supervisor import adopt
from supervisor.clock import boot_id
from supervisor.launch import Launcher
from tests.kernel.shimkit import Lab, killed_after, make_root, remove_cgroup, sh

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


def sleeper(lab: Lab) -> Container:
    values = {"name": "web", "rootfs": str(lab.root), "command": ["sleep", "1000"], "stop_signal": "KILL"}
    return Container.model_validate(values)


@dataclass
class Left:
    launcher: Launcher
    run: Path
    leaf: Path


@pytest.fixture
def left(cgroup2: Path, shim_path: Path, tmp_path: Path) -> Iterator[Left]:
    """A run that was given its places, and of which no shim has said anything."""
    tree = Tree(cgroup2 / f"wharf-test-{uuid.uuid4().hex[:8]}", frozenset(), enter=False)
    launcher = Launcher(tree, probe(), tmp_path / "run", tmp_path / "log", shim_path, 1)
    run, leaf = launcher.place("web").run(1), tree.path("web", 1)
    run.mkdir(parents=True)
    leaf.mkdir(parents=True)
    try:
        yield Left(launcher, run, leaf)
    finally:
        for path in sorted(tree.root.rglob("*"), key=lambda p: -len(p.parts)):
            if path.is_dir():
                remove_cgroup(path)
        remove_cgroup(tree.root)


async def test_a_run_that_never_began_has_no_place_any_more(left: Left) -> None:
    """Its shim may still read the start message of the daemon that died."""
    found = await adopt.find(left.launcher, "web", [1], "boot", 0.0)
    assert (found.shim, found.end, found.silent, found.stale) == (None, None, False, [1])
    assert not left.leaf.exists()


async def test_while_a_process_does_not_die_nothing_is_concluded(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left.launcher.tree, "remove_leaf", lambda *_: False)
    monkeypatch.setattr(left.launcher.tree, "populated", lambda *_: True)
    found = await adopt.find(left.launcher, "web", [1], "boot", 0.0)
    assert (found.shim, found.end, found.silent, found.stale) == (None, None, True, [])
    assert found.trouble == ["a process of run 1 does not die (D state?)"]
    assert left.leaf.exists()


async def test_a_start_that_nobody_answers_is_bounded_and_cannot_begin_later(
    left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout never means dead: all of it is ended before the next run may begin."""
    monkeypatch.setattr(shim, "UNDO_LIMIT", 0.2)
    launcher, tree = left.launcher, left.launcher.tree
    tree.setup()
    values = {"name": "web", "rootfs": str(make_root(tmp_path / "root")), "command": ["sleep", "1000"]}
    container = Container.model_validate({**values, "start_timeout": "1s"})
    await launcher.spares.refill()
    pidfd = os.pidfd_open(int((tree.root / "shims/cgroup.procs").read_text()))
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        with pytest.raises(LaunchError, match="not done within 1 s"):
            await launcher.start(container, 2, "boot", "web.yaml")
        assert not tree.path("web", 2).exists()
        assert not launcher.place("web").run(2).exists()
        launcher.spares.close()  # on a slow host it was not even asked
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        assert ended.poll(10_000), "its shim goes on"
        assert not tree.populated("web")
    finally:
        os.close(pidfd)


async def test_a_run_of_which_no_daemon_was_told_is_found_by_the_next_one(lab: Lab, tmp_path: Path) -> None:
    """Shim and daemon die around the answer: the run is not forgotten, and not begun again beside itself."""
    launcher = Launcher(
        Tree(lab.top, frozenset(), enter=False), probe(), tmp_path / "r", tmp_path / "l", lab.shim_path, 1
    )
    launcher.tree.setup()
    lab.run_dir = launcher.place("web").run(1)
    lab.run_dir.mkdir(parents=True)
    spare = await shim.spawn_shim(lab.shim_path)
    plan = shim.sealed_plan(wire.encode(sh(lab.root, "exec sleep 1000")))
    with lab.request() as request:
        spare._send(request, {wire.TAG_PLAN: plan, **request.fds})  # whose answer nobody reads
    os.close(plan)
    with anyio.fail_after(10):
        while not (lab.run_dir / "init").exists():  # noqa: ASYNC110 (the kernel tells nobody)
            await anyio.sleep(0.01)
    shims = [int(pid) for pid in (lab.top / "shims/cgroup.procs").read_text().split()]
    pidfd = os.pidfd_open(shims[0])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with anyio.fail_after(10):
        await pidfds.wait_exit(pidfd)
    os.close(pidfd)
    spare.close()
    (pid,) = (int(line) for line in (lab.leaf / "cgroup.procs").read_text().split())
    found = await adopt.find(launcher, "web", [1], boot_id(), 0.0, sleeper(lab))
    assert found.shim is not None
    async with killed_after(found.shim):
        assert (found.shim.pid, found.shim.generation, found.taken, found.end) == (pid, 1, "", None)
