"""Starts that nobody answers, and the first look of a later daemon: nothing of them can begin after it was judged."""

from __future__ import annotations

import os
import select
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from config.errors import LaunchError
from config.model import Container
from runtime import shim
from runtime.cgroups import Tree
from runtime.probe import probe
from supervisor import adopt
from supervisor.launch import Launcher
from tests.kernel.shimkit import make_root, remove_cgroup

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


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
    container = Container.model_validate({**values, "start_timeout": "200ms"})
    await launcher.spares.refill()
    pidfd = os.pidfd_open(int((tree.root / "shims/cgroup.procs").read_text()))
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        with pytest.raises(LaunchError, match="not done within 0.2 s"):
            await launcher.start(container, 2, "boot", "web.yaml")
        assert not tree.path("web", 2).exists()
        assert not launcher.place("web").run(2).exists()
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        assert ended.poll(10_000), "its shim goes on"
        assert not tree.populated("web")
    finally:
        os.close(pidfd)
