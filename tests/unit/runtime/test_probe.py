"""What the host is, from fake /proc and /sys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.probe import HostFacts, parse_kernel, parse_mountinfo, probe

STATUS = "Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t000001fffeffffff\nSeccomp:\t0\n"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n40 31 0:37 / /s rw - cgroup none rw,name=systemd\n"


class Machine:
    """A fake /proc and cgroup mount below tmp_path."""

    def __init__(self, base: Path) -> None:
        self.proc, self.sys, self.mount = base / "proc", base / "sys", base / "sys/fs/cgroup"
        self.mount.mkdir(parents=True)
        self.cgroup(self.mount, "cpuset cpu io memory pids hugetlb misc")
        for name in ("pid", "mnt", "uts", "ipc", "net", "cgroup"):
            self.write(self.proc / "self/ns" / name, "")
        self.write(self.proc / "self/status", STATUS)
        self.write(self.proc / "self/cgroup", "0::/\n")
        self.write(self.proc / "sys/kernel/seccomp/actions_avail", "allow")
        self.write(self.proc / "pressure/memory", "")
        self.mountinfo(f"41 31 0:38 / {self.mount} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n")

    def mountinfo(self, text: str) -> None:
        self.write(self.proc / "self/mountinfo", text)

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def cgroup(self, path: Path, controllers: str) -> Path:
        self.write(path / "cgroup.controllers", controllers + "\n")
        return path

    def probe(
        self, root: str = "auto", env: Mapping[str, str] = {}, delegated: tuple[str, ...] = (), **more: Any
    ) -> HostFacts:
        def getxattr(path: Any, name: str) -> bytes:
            if name == "trusted.delegate" and str(Path(path).relative_to(self.mount)) in delegated:
                return b"1"
            raise OSError(61, "No data")

        facts = {"release": "6.1.0", "machine": "x86_64", "nofile": 4096, **more}
        return probe(root, proc=self.proc, sys=self.sys, env=env, getxattr=getxattr, **facts)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_unified_host(machine: Machine) -> None:
    facts = machine.probe()
    assert (facts.mode, facts.cgroup_mount, facts.cgroup_root) == (
        "unified",
        machine.mount,
        machine.mount / "wharfinger",
    )
    assert facts.controllers == {"memory", "cpu", "io", "pids", "cpuset"}
    assert facts.psi
    assert facts.seccomp
    assert facts.cgroup_kill
    assert not facts.delegated
    assert "CAP_SYS_RESOURCE" in facts.capabilities
    assert "CAP_SYS_RESOURCE" not in facts.bounding
    assert facts.features == {"pid", "mnt", "uts", "ipc", "net", "cgroup"}
    assert facts.nofile == 4096
    assert facts.problems == ()


def test_a_hybrid_host_lacks_what_version_1_holds(machine: Machine) -> None:
    machine.cgroup(machine.mount, "hugetlb")
    machine.mountinfo(V1 + f"41 31 0:38 / {machine.mount} rw - cgroup2 cgroup2 rw\n")
    facts = machine.probe()
    assert facts.mode == "hybrid"
    assert facts.controllers == frozenset()
    assert facts.problems == (
        "cgroup v2 lacks memory, cpu, io, pids, cpuset here (version 1 hierarchies hold them): "
        "limits that need them are refused",
    )


def test_a_legacy_host_is_told_what_to_do(machine: Machine) -> None:
    machine.mountinfo(V1)
    facts = machine.probe()
    assert (facts.mode, facts.cgroup_mount, facts.cgroup_root) == ("legacy", None, None)
    assert "no cgroup2 file system is mounted" in facts.problems[0]


def test_a_named_hierarchy_of_systemd_alone_is_no_hybrid() -> None:
    text = "40 31 0:37 / /s rw - cgroup none rw,name=systemd\n41 31 0:38 / /c rw - cgroup2 cgroup2 rw\n"
    assert parse_mountinfo(text)[1] is False


def test_the_usual_mount_is_taken_of_many(machine: Machine) -> None:
    other = f"50 31 0:38 / {machine.mount}/x rw - cgroup2 cgroup2 rw\n"
    machine.mountinfo(other + f"41 31 0:38 / {machine.mount} rw - cgroup2 cgroup2 rw\n" + "nonsense\n\n- - -\n")
    assert machine.probe().cgroup_mount == machine.mount


def test_a_mount_point_with_spaces_is_read(machine: Machine) -> None:
    machine.mountinfo("41 31 0:38 / /a\\040b\\134 rw - cgroup2 cgroup2 rw\n")
    assert machine.probe().cgroup_mount == Path("/a b\\")


@pytest.mark.parametrize(
    ("release", "old"), [("5.13.19", True), ("5.14.0-rc1", False), ("6.18.44-fc", False), ("x", True)]
)
def test_the_kernel_floor_is_told(machine: Machine, release: str, old: bool) -> None:
    facts = machine.probe(release=release)
    assert facts.cgroup_kill is not old
    assert any("older than 5.14" in problem for problem in facts.problems) is old


def test_releases_are_read() -> None:
    assert parse_kernel("6.18.44-fc-v782") == (6, 18)
    assert parse_kernel("4.9") == (4, 9)


UNIT = "system.slice/wharfinger.service"
SERVICE = {"INVOCATION_ID": "abc"}


def test_a_unit_that_starts_us_in_a_subgroup_is_our_root(machine: Machine) -> None:
    machine.cgroup(machine.mount / UNIT, "memory pids")
    machine.cgroup(machine.mount / UNIT / "supervisor", "memory")
    machine.write(machine.proc / "self/cgroup", f"1:name=systemd:/x\n0::/{UNIT}/supervisor\n")
    for marked in ((UNIT,), (UNIT, f"{UNIT}/supervisor")):
        facts = machine.probe(env=SERVICE, delegated=marked)
        assert (facts.delegated, facts.cgroup_root) == (True, machine.mount / UNIT)
        assert facts.controllers == {"memory", "pids"}
        assert facts.own_cgroup == f"/{UNIT}/supervisor"


@pytest.mark.parametrize("marked", [(), (UNIT,)])
def test_a_unit_that_we_run_in_ourselves_holds_no_containers(machine: Machine, marked: tuple[str, ...]) -> None:
    """systemd could not start us there again while they run."""
    machine.cgroup(machine.mount / UNIT, "memory pids")
    machine.write(machine.proc / "self/cgroup", f"0::/{UNIT}\n")
    facts = machine.probe(env=SERVICE, delegated=marked)
    assert (facts.delegated, facts.cgroup_root) == (False, machine.mount / "wharfinger")
    assert facts.problems == ()


def test_a_shell_of_a_service_is_no_unit_of_ours(machine: Machine) -> None:
    machine.cgroup(machine.mount / "user.slice/session-1.scope", "")
    machine.write(machine.proc / "self/cgroup", "0::/user.slice/session-1.scope\n")
    facts = machine.probe(env=SERVICE)
    assert (facts.delegated, facts.problems) == (False, ())


def test_without_an_invocation_a_marked_cgroup_is_not_taken(machine: Machine) -> None:
    machine.cgroup(machine.mount / UNIT / "x", "memory")
    machine.write(machine.proc / "self/cgroup", f"0::/{UNIT}/x\n")
    assert not machine.probe(delegated=(UNIT,)).delegated


def test_a_cgroup_outside_of_the_namespace_is_not_followed(machine: Machine) -> None:
    machine.write(machine.proc / "self/cgroup", "0::/../../x.service\n")
    assert machine.probe(env=SERVICE).cgroup_root == machine.mount / "wharfinger"


def test_a_given_root_is_taken(machine: Machine) -> None:
    assert machine.probe(root=str(machine.mount / "a/b")).cgroup_root == machine.mount / "a/b"
    facts = machine.probe(root="/elsewhere")
    assert "is not below the cgroup2 mount" in facts.problems[0]


def test_controllers_come_from_the_nearest_ancestor(machine: Machine) -> None:
    machine.cgroup(machine.mount / "a", "memory")
    assert machine.probe(root=str(machine.mount / "a/b/c")).controllers == {"memory"}
    machine.cgroup(machine.mount / "wharfinger", "")  # made, and nothing handed down yet
    assert machine.probe().controllers == {"memory", "cpu", "io", "pids", "cpuset"}


def test_what_is_missing_is_told(machine: Machine) -> None:
    machine.mountinfo(f"41 31 0:38 / {machine.mount} ro - cgroup2 cgroup2 ro\n")
    (machine.proc / "sys/kernel/seccomp/actions_avail").unlink()
    machine.write(machine.proc / "self/status", "CapEff:\t0000000000000000\nCapBnd:\tx\n")
    facts = machine.probe()
    assert [problem.split(":")[0] for problem in facts.problems] == [
        f"{machine.mount} is mounted read-only",
        "this kernel has no seccomp",
        "CAP_SYS_ADMIN is missing",
    ]
    assert facts.bounding == frozenset()


def test_throttle_directories_are_listed(machine: Machine) -> None:
    for cpu in ("cpu0", "cpu1", "cpuidle"):
        (machine.sys / f"devices/system/cpu/{cpu}/thermal_throttle").mkdir(parents=True)
    prefix = "/sys/devices/system/cpu"
    assert machine.probe().thermal == (f"{prefix}/cpu0/thermal_throttle", f"{prefix}/cpu1/thermal_throttle")


def test_an_empty_proc_raises_nothing(tmp_path: Path) -> None:
    facts = probe(proc=tmp_path, sys=tmp_path, env={})
    assert facts.mode == "legacy"
    assert facts.problems


def test_this_very_host_can_be_probed() -> None:
    facts = probe()
    assert facts.release == os.uname().release
    assert isinstance(facts.problems, tuple)
