"""The tree on a real cgroup2 mount: what is made is removed again, whatever a container did in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.errors import GoneError
from config.model import Container
from runtime.cgroupfs import CgroupFs
from runtime.cgroups import Tree
from runtime.probe import probe

pytestmark = pytest.mark.kernel


def remove_all(path: Path) -> None:
    for child in sorted(path.iterdir()) if path.is_dir() else ():
        if child.is_dir():
            remove_all(child)
    if path.is_dir():
        path.rmdir()


@pytest.fixture
def tree(cgroup2: Path) -> Iterator[Tree]:
    root = cgroup2 / f"wharf-test-{os.getpid()}-{time.monotonic_ns()}"
    tree = Tree(root, probe(root).controllers)
    tree.setup()
    try:
        yield tree
    finally:
        (root / "cgroup.kill").write_text("1")
        for _ in range(100):
            try:
                remove_all(root)
                break
            except OSError:
                time.sleep(0.02)


@pytest.fixture
def web() -> Container:
    return Container.model_validate({"name": "web", "rootfs": "/r", "command": ["x"]})


def sleeper(cgroup: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["sleep", "1000"])
    (cgroup / "cgroup.procs").write_text(str(process.pid))
    return process


def test_set_up_moves_nobody_and_is_repeatable(tree: Tree) -> None:
    before = Path("/proc/self/cgroup").read_text()
    assert tree.setup() == ()
    assert {p.name for p in tree.root.iterdir() if p.is_dir()} == {"supervisor", "shims", "containers"}
    assert Path("/proc/self/cgroup").read_text() == before


def test_entering_moves_our_own_process_only(tree: Tree) -> None:
    code = (
        "import sys; from pathlib import Path; from runtime.cgroups import Tree;"
        "print(Tree(Path(sys.argv[1]), frozenset(), enter=True).setup());"
        "print(open('/proc/self/cgroup').read())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tree.root)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("()\n")
    assert f"/{tree.root.name}/supervisor\n" in done.stdout
    assert tree.root.name not in Path("/proc/self/cgroup").read_text()


def test_a_run_is_killed_as_a_whole_and_leaves_nothing(tree: Tree, web: Container) -> None:
    tree.prepare(web)
    leaf = tree.open_leaf("web", 1)
    assert not tree.populated("web", 1)
    (leaf / "a/b").mkdir(parents=True)
    processes = [sleeper(leaf / place) for place in (".", "a", "a/b")]
    assert tree.populated("web", 1)
    assert [e.populated for e in tree.list_existing()] == [(1,)]
    tree.kill("web", 1)
    assert [process.wait(10) for process in processes] == [-signal.SIGKILL] * 3
    assert tree.remove_leaf("web", 1)
    assert not leaf.exists()
    assert tree.path("web").is_dir()
    assert tree.remove("web")
    assert not tree.path("web").exists()


def test_a_frozen_run_dies_too(tree: Tree, web: Container) -> None:
    tree.prepare(web)
    leaf = tree.open_leaf("web", 1)
    process = sleeper(leaf)
    (leaf / "cgroup.freeze").write_text("1")
    assert tree.remove_leaf("web", 1)
    assert process.wait(10) == -signal.SIGKILL


def test_only_the_given_run_is_killed(tree: Tree, web: Container) -> None:
    tree.prepare(web)
    old, new = sleeper(tree.open_leaf("web", 1)), sleeper(tree.open_leaf("web", 2))
    assert tree.remove_leaf("web", 1)
    assert old.wait(10) == -signal.SIGKILL
    assert new.poll() is None
    assert tree.populated("web", 2)
    assert tree.remove("web")
    assert new.wait(10) == -signal.SIGKILL


def test_a_deep_chain_of_cgroups_is_removed(tree: Tree, web: Container) -> None:
    tree.prepare(web)
    leaf = tree.open_leaf("web", 1)
    fd = os.open(leaf, os.O_DIRECTORY)
    for _ in range(700):  # deeper than PATH_MAX allows with these names
        os.mkdir("n" * 20, dir_fd=fd)
        below = os.open("n" * 20, os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    (leaf / "wide").mkdir()
    for n in range(50):
        (leaf / f"wide/{n}").mkdir()
    assert tree.remove_leaf("web", 1)
    assert not leaf.exists()


class Unkillable(CgroupFs):
    """As with a process in D state: it was killed, and is still there."""

    def write(self, path: Path, value: str) -> None:
        if path.name != "cgroup.kill":
            super().write(path, value)


def test_what_does_not_die_is_waited_for_and_told(tree: Tree, web: Container) -> None:
    slept: list[float] = []
    stuck = Tree(tree.root, tree.controllers, fs=Unkillable(), sleep=slept.append)
    stuck.prepare(web)
    process = sleeper(stuck.open_leaf("web", 1))
    assert not stuck.remove_leaf("web", 1, wait=3.0)
    assert sum(slept) == pytest.approx(3.0)
    assert process.poll() is None
    assert tree.remove_leaf("web", 1)
    assert process.wait(10) == -signal.SIGKILL


def test_what_is_gone_is_gone(tree: Tree, web: Container) -> None:
    tree.kill("web", 1)
    assert tree.remove_leaf("web", 1)
    assert tree.remove("web")
    assert tree.list_existing() == ()
    tree.prepare(web)
    tree.path("web").rmdir()
    with pytest.raises(GoneError):
        tree.update(web)


def test_fds_work_for_a_clone_into_the_cgroup(tree: Tree, web: Container) -> None:
    tree.prepare(web)
    leaf = tree.open_leaf("web", 1)
    for fd in (tree.open_dir(leaf), tree.open_parent("web"), tree.shims_fd()):
        assert "cgroup.procs" in os.listdir(fd)
        assert not os.get_inheritable(fd)
        os.close(fd)


def opened(leaf: Path, *paths: str) -> list[str]:
    code = (
        "import sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n"
        "for path in sys.argv[2:]:\n"
        "    try: open(path, 'rb', buffering=0).close(); print('yes')\n"
        "    except OSError as e: print(e.strerror)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(leaf), *paths], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_only_the_usual_devices_can_be_used(tree: Tree, web: Container) -> None:
    paths = ("/dev/kmsg", "/dev/null")
    if not Path(paths[0]).is_char_device():
        pytest.skip("no /dev/kmsg here")
    assert tree.prepare(web) == ()
    leaf = tree.open_leaf("web", 1)
    assert opened(leaf, *paths) == ["Operation not permitted", "yes"]
    tree.update(web, {"devices": [{"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]})
    assert opened(leaf, *paths) == ["yes", "yes"]
    for _ in range(70):  # rules are replaced, not piled up: 64 programs are the kernel's limit
        tree.update(web, {"devices": [{"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]})
        tree.update(web)
    assert opened(leaf, *paths) == ["Operation not permitted", "yes"]


def test_nothing_outside_of_the_tree_changes(tree: Tree, web: Container, cgroup2: Path) -> None:
    def others() -> list[str]:
        return sorted(p.name for p in cgroup2.iterdir() if p.is_dir() and not p.name.startswith("wharf"))

    before = others()
    for generation in range(1, 20):
        tree.prepare(web)
        tree.open_leaf("web", generation)
        assert tree.remove_leaf("web", generation)
    assert tree.remove("web")
    assert others() == before
    assert list(tree.containers.glob("*/")) == []
