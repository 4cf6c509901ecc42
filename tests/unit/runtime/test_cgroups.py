"""The tree of cgroups, on a hierarchy in memory with the kernel's rules; the real one: tests/kernel/test_cgroups.py."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from config.errors import DefinitionError, GoneError, HostError, RefusedError
from config.model import Container
from runtime.cgroupfs import CgroupFs
from runtime.cgroups import Tree, device_number
from runtime.devices import DEFAULTS, Rule

MOUNT = Path("/cg")
ROOT = MOUNT / "wharfinger"
ALL = ("cpuset", "cpu", "io", "memory", "pids")
FILES = {
    "memory": {
        "memory.min": "0",
        "memory.low": "0",
        "memory.high": "max",
        "memory.max": "max",
        "memory.swap.max": "max",
        "memory.oom.group": "0",
        "memory.current": "0",
        "memory.events": "oom 0",
    },
    "cpu": {"cpu.weight": "100", "cpu.max": "max 100000"},
    "pids": {"pids.max": "max"},
    "io": {"io.weight": "default 100", "io.max": ""},
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
}
CORE = {"cgroup.procs": "", "cgroup.subtree_control": "", "cgroup.events": "populated 0\nfrozen 0", "cgroup.kill": ""}


class FakeFs(CgroupFs):
    """A cgroup2 mount: directories with files by controller, subtree_control, internal processes, busy removal."""

    def __init__(self, controllers: tuple[str, ...] = ALL) -> None:
        self.dirs: dict[Path, dict[str, str]] = {MOUNT: {**CORE, "cgroup.controllers": " ".join(controllers)}}
        self.log: list[tuple[str, str]] = []
        self.refuse: dict[str, int] = {}  # file name -> errno of a write
        self.busy: dict[Path, int] = {}  # how many removals of it fail yet

    def _error(self, number: int, path: Path) -> OSError:
        return OSError(number, os.strerror(number), str(path))

    def read(self, path: Path) -> str | None:
        return self.dirs.get(path.parent, {}).get(path.name)

    def write(self, path: Path, value: str) -> None:
        files = self.dirs.get(path.parent)
        if files is None or path.name not in files:
            raise self._error(errno.ENOENT, path)
        if path.name in self.refuse:
            raise self._error(self.refuse[path.name], path)
        self.log.append((str(path.relative_to(MOUNT)), value))
        if path.name == "cgroup.subtree_control":
            if files["cgroup.procs"] and path.parent != MOUNT:
                raise self._error(errno.EBUSY, path)
            names = {*files[path.name].split(), value.removeprefix("+")}
            files[path.name] = " ".join(sorted(names))
            for child, content in self.dirs.items():
                if child.parent == path.parent:
                    self._give(child, content)
        elif path.name == "cgroup.procs":
            for content in self.dirs.values():
                content["cgroup.procs"] = content["cgroup.procs"].replace("self", "")
            files[path.name] = "self"
        elif path.name == "cgroup.kill":
            for child, content in self.dirs.items():
                if path.parent == child or path.parent in child.parents:
                    content["cgroup.events"] = "populated 0\nfrozen 0"
                    content["cgroup.procs"] = ""
        elif path.name == "io.max":
            device = value.split()[0]
            lines = {line.split()[0]: line for line in files["io.max"].splitlines()} | {device: value}
            lines = {d: line for d, line in lines.items() if set(line.split()[1:]) - {f"{k}=max" for k in
                     ("rbps", "wbps", "riops", "wiops")}}  # fmt: skip
            files["io.max"] = "\n".join(lines.values())
        else:
            files[path.name] = value

    def _give(self, path: Path, files: dict[str, str]) -> None:
        names = self.dirs[path.parent]["cgroup.subtree_control"].split()
        files["cgroup.controllers"] = " ".join(names)
        for name in names:
            for file, value in FILES[name].items():
                files.setdefault(file, value)

    def exists(self, path: Path) -> bool:
        return path in self.dirs or path.name in self.dirs.get(path.parent, {})

    def is_dir(self, path: Path) -> bool:
        return path in self.dirs or path in MOUNT.parents

    def mkdir(self, path: Path) -> bool:
        if self.exists(path):
            return False
        if path.parent not in self.dirs:
            raise self._error(errno.ENOENT, path)
        self.dirs[path] = dict(CORE)
        self._give(path, self.dirs[path])
        return True

    def children(self, path: Path) -> list[str]:
        return sorted(child.name for child in self.dirs if child.parent == path)

    def open_dir(self, path: Path) -> int:
        if path not in self.dirs:
            raise self._error(errno.ENOENT, path)
        return os.open("/", os.O_PATH)

    def remove(self, path: Path) -> bool:
        for name in self.children(path):
            if not self.remove(path / name):
                return False
        if self.busy.get(path, 0) > 0:
            self.busy[path] -= 1
            return False
        if path in self.dirs and "populated 1" in self.dirs[path]["cgroup.events"]:
            return False
        self.dirs.pop(path, None)
        return True

    def populate(self, path: Path) -> None:
        while path != MOUNT:
            self.dirs[path]["cgroup.events"] = "populated 1\nfrozen 0"
            path = path.parent


@pytest.fixture
def fs() -> FakeFs:
    return FakeFs()


@pytest.fixture
def slept() -> list[float]:
    return []


class Filters:
    """Takes device rules in the place of the kernel's BPF."""

    def __init__(self) -> None:
        self.rules: list[Sequence[Rule]] = []
        self.error = 0

    def __call__(self, fd: int, rules: Sequence[Rule]) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.rules.append(rules)


@pytest.fixture
def filters() -> Filters:
    return Filters()


@pytest.fixture
def tree(fs: FakeFs, slept: list[float], filters: Filters) -> Tree:
    tree = Tree(ROOT, frozenset(ALL), fs=fs, sleep=slept.append, device=str, filter_devices=filters)
    assert tree.setup() == ()
    return tree


def web(**resources: Any) -> Container:
    oom = {"group": resources.pop("group", True)}
    return Container.model_validate(
        {"name": "web", "rootfs": "/r", "command": ["x"], "resources": resources, "oom": oom}
    )


def files(fs: FakeFs, path: Path = ROOT / "containers/web") -> dict[str, str]:
    return {name: value for name, value in fs.dirs[path].items() if name.split(".")[0] in FILES}


# Set-up


def test_set_up_makes_the_tree_and_hands_controllers_down(tree: Tree, fs: FakeFs) -> None:
    assert fs.children(ROOT) == ["containers", "shims", "supervisor"]
    assert tree.controllers == set(ALL)
    for path in (MOUNT, ROOT, ROOT / "containers"):
        assert set(fs.dirs[path]["cgroup.subtree_control"].split()) == set(ALL)
    assert fs.dirs[ROOT / "shims"]["cgroup.subtree_control"] == ""


def test_set_up_again_writes_nothing(tree: Tree, fs: FakeFs) -> None:
    fs.log.clear()
    assert tree.setup() == ()
    assert fs.log == []


def test_no_process_is_moved_unless_it_is_ours_to_move(tree: Tree, fs: FakeFs) -> None:
    assert not [path for path, _ in fs.log if path.endswith("cgroup.procs")]


def test_in_a_delegated_unit_we_move_first_and_write_nothing_above(fs: FakeFs) -> None:
    unit = MOUNT / "system.slice"
    fs.mkdir(unit)
    fs.dirs[MOUNT]["cgroup.subtree_control"] = "memory pids"
    fs._give(unit, fs.dirs[unit])
    fs.dirs[unit]["cgroup.procs"] = "self"
    tree = Tree(unit, frozenset(ALL), delegated=True, fs=fs)
    assert tree.setup() == ()
    assert tree.controllers == {"memory", "pids"}
    assert fs.log[0] == ("system.slice/supervisor/cgroup.procs", "0")
    assert all(path.startswith("system.slice/") for path, _ in fs.log)


def test_a_foreign_process_in_our_unit_costs_controllers_and_is_told(fs: FakeFs) -> None:
    unit = MOUNT / "system.slice"
    fs.mkdir(unit)
    fs.write(MOUNT / "cgroup.subtree_control", "+memory")
    fs.dirs[unit]["cgroup.procs"] = "77"
    tree = Tree(unit, frozenset(ALL), delegated=True, fs=fs)
    problems = tree.setup()
    assert problems == (f"{unit}: controller memory cannot be handed down: Device or resource busy",)
    assert tree.controllers == frozenset()
    assert fs.dirs[unit]["cgroup.procs"] == "77"


def test_a_host_without_controllers_has_a_tree_all_the_same(filters: Filters) -> None:
    fs = FakeFs(("hugetlb",))
    tree = Tree(ROOT, frozenset(), fs=fs, filter_devices=filters)
    assert tree.setup() == ()
    assert tree.controllers == frozenset()
    assert tree.prepare(web()) == ()
    assert tree.open_leaf("web", 1) == ROOT / "containers/web/g1"


def test_a_tree_that_cannot_be_made_is_a_host_error(fs: FakeFs) -> None:
    tree = Tree(Path("/nowhere/at/all"), frozenset(), fs=fs)
    with pytest.raises(HostError, match="cannot make cgroup"):
        tree.setup()


# Limits


def test_limits_are_written_before_any_process_is_there(tree: Tree, fs: FakeFs) -> None:
    assert (
        tree.prepare(
            web(memory="128MiB", memory_high="100MiB", memory_swap=0, cpus="0.5", cpu_weight=50, pids=64, io_weight=200)
        )
        == ()
    )
    assert files(fs) == {
        "memory.min": "0",
        "memory.low": "0",
        "memory.high": "104857600",
        "memory.max": "134217728",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "memory.current": "0",
        "memory.events": "oom 0",
        "cpu.weight": "50",
        "cpu.max": "50000 100000",
        "pids.max": "64",
        "io.weight": "default 200",
        "io.max": "",
        "cpuset.cpus": "",
        "cpuset.mems": "",
    }


def test_a_limit_that_went_goes_back_to_the_default(tree: Tree, fs: FakeFs) -> None:
    tree.prepare(
        web(memory="128MiB", cpus=2, pids=64, io_weight=5, cpuset="0-1", io_max=[{"device": "8:0", "rbps": 5}])
    )
    assert tree.update(web(pids="max", group=False)) == ()
    changed = {n: v for n, v in files(fs).items() if n not in ("memory.current", "memory.events", "io.max")}
    defaults = {n: v for group in FILES.values() for n, v in group.items()}
    assert changed == {n: defaults[n] for n in changed}
    assert files(fs)["io.max"] == ""


def test_only_what_differs_is_written(tree: Tree, fs: FakeFs) -> None:
    tree.prepare(web(memory="128MiB", cpus=1))
    fs.log.clear()
    tree.update(web(memory="128MiB", cpus=2))
    assert fs.log == [("wharfinger/containers/web/cpu.max", "200000 100000")]


def test_a_limit_below_what_is_in_use_is_refused_and_nothing_changes(tree: Tree, fs: FakeFs) -> None:
    tree.prepare(web(memory="128MiB", cpus=1))
    fs.populate(tree.open_leaf("web", 1))
    fs.dirs[tree.path("web")]["memory.current"] = str(100 << 20)
    before = files(fs)
    with pytest.raises(RefusedError, match="web: memory limit 67108864 is below the 104857600 bytes in use"):
        tree.update(web(memory="64MiB", cpus=2))
    assert files(fs) == before
    assert tree.update(web(memory="64MiB"), force=True) == ()
    assert files(fs)["memory.max"] == str(64 << 20)


def test_a_stopped_containers_limit_may_fall_below_its_leftover_pages(tree: Tree, fs: FakeFs) -> None:
    tree.prepare(web(memory="128MiB"))
    fs.dirs[tree.path("web")]["memory.current"] = str(100 << 20)
    assert tree.update(web(memory="64MiB")) == ()


def test_a_value_that_the_kernel_refuses_leaves_all_as_it_was(tree: Tree, fs: FakeFs) -> None:
    tree.prepare(web(memory="128MiB", cpuset="0"))
    before = files(fs)
    fs.refuse = {"pids.max": errno.EINVAL}
    with pytest.raises(RefusedError, match=r"containers/web/pids.max: the kernel refuses '5': Invalid argument"):
        tree.update(web(memory="64MiB", cpuset="1", pids=5, memory_high="32MiB"))
    assert files(fs) == before


def test_a_prepare_that_fails_leaves_no_cgroup(tree: Tree, fs: FakeFs) -> None:
    fs.refuse = {"cpuset.cpus": errno.ERANGE}
    with pytest.raises(RefusedError):
        tree.prepare(web(cpuset="500"))
    assert not fs.exists(tree.path("web"))


def test_a_missing_controller_is_refused_unless_a_warning_is_enough() -> None:
    fs = FakeFs(("pids",))
    tree = Tree(ROOT, frozenset({"pids"}), fs=fs)
    tree.setup()
    with pytest.raises(RefusedError, match="no cgroup v2 controller cpu, memory for its limits"):
        tree.prepare(web(memory="128MiB", cpus=1, pids=5))
    assert not fs.exists(tree.path("web"))
    assert set(tree.prepare(web(memory="128MiB", cpus=1, pids=5, on_missing="warn"))) >= {"cpu", "memory"}
    assert files(fs) == {"pids.max": "5"}


def test_a_missing_file_of_a_controller_is_refused_too(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "memory", {k: v for k, v in FILES["memory"].items() if "swap" not in k})
    with pytest.raises(RefusedError, match="this kernel has no memory.swap.max"):
        tree.prepare(web(memory="128MiB", memory_swap=0))
    assert tree.prepare(web(memory="128MiB")) == ()
    assert tree.update(web(memory="128MiB", memory_swap=0, on_missing="warn")) == ("memory.swap.max",)


def test_weights_go_to_bfq_where_it_rules(tree: Tree, fs: FakeFs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "io", {"io.bfq.weight": "default 100", "io.max": ""})
    tree.prepare(web(io_weight=10000))
    assert files(fs)["io.bfq.weight"] == "default 1000"
    tree.update(web())
    assert files(fs)["io.bfq.weight"] == "default 100"


def test_disk_limits_are_whole_lines_and_go_when_they_are_dropped(tree: Tree, fs: FakeFs) -> None:
    tree.prepare(web(io_max=[{"device": "8:0", "rbps": 100}, {"device": "8:16", "wiops": 5}]))
    assert files(fs)["io.max"].splitlines() == [
        "8:0 rbps=100 wbps=max riops=max wiops=max",
        "8:16 rbps=max wbps=max riops=max wiops=5",
    ]
    fs.log.clear()
    tree.update(web(io_max=[{"device": "8:0", "rbps": 100}]))
    assert fs.log == [("wharfinger/containers/web/io.max", "8:16 rbps=max wbps=max riops=max wiops=max")]


def test_a_partition_is_named_as_such(tree: Tree, fs: FakeFs) -> None:
    fs.refuse = {"io.max": errno.ENODEV}
    with pytest.raises(RefusedError, match=r"no such disk: 8:1; limits are a whole disk's"):
        tree.prepare(web(io_max=[{"device": "8:1", "rbps": 100}]))


def test_a_bundles_limits_hold_and_the_definition_overrides(tree: Tree, fs: FakeFs) -> None:
    oci = {
        "memory": {"limit": 100 << 20},
        "pids": {"limit": 10},
        "cpu": {"shares": 512},
        "unified": {"memory.high": "5"},
    }
    tree.prepare(web(cpu_weight=7), oci)
    found = files(fs)
    assert (found["memory.max"], found["pids.max"], found["cpu.weight"], found["memory.high"]) == (
        str(100 << 20), "10", "7", "5",
    )  # fmt: skip


def test_devices_are_filtered_by_the_bundles_rules_and_ours(tree: Tree, filters: Filters) -> None:
    tree.prepare(web())
    tree.update(web(), {"devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 188}]})
    assert filters.rules == [DEFAULTS, (Rule(False), Rule(True, "c", 188), *DEFAULTS)]


def test_a_kernel_that_cannot_filter_devices_is_told_of(tree: Tree, fs: FakeFs, filters: Filters) -> None:
    filters.error = errno.ENOSYS
    assert tree.prepare(web()) == ("devices",)
    assert tree.remove("web")
    fields = {"name": "web", "rootfs": "/r", "command": ["x"], "cap_add": ["MKNOD"]}
    with pytest.raises(RefusedError, match="cannot filter devices"):
        tree.prepare(Container.model_validate(fields))
    with pytest.raises(RefusedError, match="cannot filter devices"):
        tree.prepare(Container.model_validate({"name": "web", "bundle": "/b"}), {})
    assert not fs.exists(tree.path("web"))
    lenient = Container.model_validate({**fields, "resources": {"on_missing": "warn"}})
    assert tree.prepare(lenient) == ("devices",)


def test_updating_what_is_gone_says_so(tree: Tree) -> None:
    with pytest.raises(GoneError):
        tree.update(web())


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", ".hidden", "x" * 64, "a\0b"])
def test_a_name_is_no_path(tree: Tree, fs: FakeFs, name: str) -> None:
    before = set(fs.dirs)
    for call in (tree.kill, tree.remove, tree.populated, lambda n: tree.open_leaf(n, 1)):
        with pytest.raises(RefusedError):
            call(name)
    assert set(fs.dirs) == before


def test_a_name_of_a_kernel_file_is_refused(tree: Tree) -> None:
    container = Container.model_validate({"name": "memory.max", "rootfs": "/r", "command": ["x"]})
    with pytest.raises(RefusedError, match="a file of the kernel has this name"):
        tree.prepare(container)


# Runs


def test_a_run_can_read_its_limits_where_runtimes_look(tree: Tree, fs: FakeFs) -> None:
    tree.prepare(web(memory="128MiB", cpus=2))
    leaf = tree.open_leaf("web", 3)
    shown = files(fs, leaf)
    assert int(shown["memory.max"]) == (128 << 20) + (4 << 20)  # above the real limit: the parent must fill up first
    assert shown["cpu.max"] == "200000 100000"
    tree.update(web(cpus=1))
    shown = files(fs, leaf)
    assert (shown["memory.max"], shown["cpu.max"]) == ("max", "100000 100000")


def test_a_leftover_leaf_is_made_anew(tree: Tree, fs: FakeFs) -> None:
    tree.prepare(web())
    leaf = tree.open_leaf("web", 1)
    fs.mkdir(leaf / "nested")
    assert tree.open_leaf("web", 1) == leaf
    assert fs.children(leaf) == []


def test_a_leaf_with_processes_is_never_reused(tree: Tree, fs: FakeFs) -> None:
    tree.prepare(web())
    fs.populate(tree.open_leaf("web", 1))
    with pytest.raises(RefusedError, match="run 1 has processes already"):
        tree.open_leaf("web", 1)
    assert tree.populated("web", 1)


def test_a_removal_kills_and_takes_nested_cgroups_along(tree: Tree, fs: FakeFs, slept: list[float]) -> None:
    tree.prepare(web())
    leaf = tree.open_leaf("web", 1)
    fs.mkdir(leaf / "a")
    fs.mkdir(leaf / "a/b")
    fs.populate(leaf / "a/b")
    assert tree.remove_leaf("web", 1)
    assert fs.children(tree.path("web")) == []
    assert slept == []
    assert ("wharfinger/containers/web/g1/cgroup.kill", "1") in fs.log


def test_a_busy_cgroup_is_tried_again_and_not_for_ever(tree: Tree, fs: FakeFs, slept: list[float]) -> None:
    tree.prepare(web())
    leaf = tree.open_leaf("web", 1)
    fs.busy[leaf] = 3
    assert tree.remove_leaf("web", 1)
    assert slept == [0.001, 0.002, 0.004]
    slept.clear()
    leaf = tree.open_leaf("web", 2)
    fs.busy[leaf] = 10**6
    assert not tree.remove_leaf("web", 2, wait=1.5)
    assert sum(slept) == pytest.approx(1.5)
    assert fs.exists(leaf)


def test_what_is_gone_needs_no_killing_nor_removal(tree: Tree) -> None:
    tree.kill("web", 1)
    tree.kill("web")
    assert tree.remove_leaf("web", 1)
    assert tree.remove("web")
    assert not tree.populated("web", 1)
    with pytest.raises(GoneError):
        tree.open_parent("web")


def test_a_kernel_without_cgroup_kill_is_told(tree: Tree, fs: FakeFs) -> None:
    tree.prepare(web())
    del fs.dirs[tree.open_leaf("web", 1)]["cgroup.kill"]
    with pytest.raises(HostError, match=r"no cgroup.kill; Linux 5.14 has"):
        tree.kill("web", 1)


def test_what_exists_is_listed(tree: Tree, fs: FakeFs) -> None:
    tree.prepare(web())
    for generation in (2, 10):
        tree.open_leaf("web", generation)
    fs.populate(tree.path("web", 10))
    fs.mkdir(tree.path("web") / "other")
    fs.mkdir(ROOT / "containers/empty")
    found = {e.name: (e.generations, e.populated) for e in tree.list_existing()}
    assert found == {"web": ((2, 10), (10,)), "empty": ((), ())}


def test_directory_fds_are_handed_out(tree: Tree) -> None:
    tree.prepare(web())
    top = tree.open_top()
    assert top is not None
    for fd in (tree.open_parent("web"), tree.shims_fd(), top):
        os.close(fd)


def test_the_top_is_the_first_ancestor_that_counts_memory_events(fs: FakeFs, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def open_dir(path: Path) -> int:
        opened.append(path)
        return 0

    monkeypatch.setattr(fs, "open_dir", open_dir)
    fs.write(MOUNT / "cgroup.subtree_control", "+memory")
    fs.mkdir(MOUNT / "system.slice")
    fs.write(MOUNT / "system.slice/cgroup.subtree_control", "+memory")
    fs.mkdir(MOUNT / "system.slice/unit")
    Tree(MOUNT / "system.slice/unit", frozenset(), fs=fs).open_top()
    assert opened == [MOUNT / "system.slice"]
    assert Tree(MOUNT / "none", frozenset(), fs=FakeFs(())).open_top() is None


def test_devices_are_numbers(tmp_path: Path) -> None:
    assert device_number("8:0") == "8:0"
    for path, why in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "is not a block device"),
        (Path("/dev/null"), "block"),
    ):
        with pytest.raises(DefinitionError, match=why):
            device_number(str(path))
