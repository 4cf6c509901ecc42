"""config-linux.md: namespaces, mappings, devices, cgroups, sysctl, seccomp, personality."""

from __future__ import annotations

import errno
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import DEVICES, LINKS
from tests.conformance.ocikit import Box, Seen, cgroups_named

KINDS = {"pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}
HERE = Path("/proc/self/ns")
GETPPID = 110  # x86_64
ONLY_X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls")


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_namespace_that_is_listed_is_new(plain: Seen, kind: str) -> None:
    """config-linux.md, "Namespaces": without a path MUST create a new one."""
    assert plain["namespaces"][KINDS[kind]] != os.readlink(HERE / KINDS[kind])


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "cgroup", "pid"])
def test_a_namespace_that_is_not_listed_is_inherited(box: Box, kind: str) -> None:
    """config-linux.md, "Namespaces": MUST inherit the runtime namespace."""
    box.linux["namespaces"] = [n for n in box.linux["namespaces"] if n["type"] != kind]
    box.config["mounts"] = [m for m in box.config["mounts"] if m["destination"] != "/sys"]
    assert box.run()["namespaces"][KINDS[kind]] == os.readlink(HERE / KINDS[kind])


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "pid"])
def test_a_namespace_with_a_path_is_joined(box: Box, kind: str) -> None:
    """config-linux.md, "Namespaces": MUST place the process in that namespace."""
    entry = next(n for n in box.linux["namespaces"] if n["type"] == kind)
    entry["path"] = f"/proc/{os.getpid()}/ns/{KINDS[kind]}"
    box.config["mounts"] = [m for m in box.config["mounts"] if m["destination"] != "/sys"]
    assert box.run()["namespaces"][KINDS[kind]] == os.readlink(HERE / KINDS[kind])


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "network", "path": "/proc/self/ns/uts"},
        {"type": "ipc", "path": "/no/such"},
        {"type": "uts", "path": "/etc/hostname"},
        {"type": "nosuch"},
        {"type": "uts", "path": "relative"},
    ],
    ids=["wrong type", "missing", "no namespace", "unknown", "relative"],
)
def test_a_namespace_that_cannot_be_is_an_error(box: Box, entry: dict[str, str]) -> None:
    """config-linux.md, "Namespaces": MUST generate an error."""
    box.linux["namespaces"] = [n for n in box.linux["namespaces"] if n["type"] != entry["type"]] + [entry]
    box.refused()


def test_a_namespace_that_is_listed_twice_is_an_error(box: Box) -> None:
    """config-linux.md, "Namespaces": duplicated."""
    box.linux["namespaces"].append({"type": "ipc"})
    box.refused()


def test_a_user_namespace_has_its_mappings(box: Box) -> None:
    """config-linux.md, "User namespace mappings"."""
    box.linux["namespaces"].append({"type": "user"})
    mapping = [{"containerID": 0, "hostID": 0, "size": 1000}, {"containerID": 1000, "hostID": 5000, "size": 10}]
    box.linux["uidMappings"] = box.linux["gidMappings"] = mapping
    seen = box.run()
    for name in ("uid_map", "gid_map"):
        assert [line.split() for line in seen[name].splitlines()] == [["0", "0", "1000"], ["1000", "5000", "10"]]
    assert seen["uids"] == [0, 0, 0]
    assert seen["namespaces"]["user"] != os.readlink(HERE / "user")


@pytest.mark.skipif(not (HERE / "time").exists(), reason="this kernel has no time namespaces")
def test_a_time_namespace_has_its_offsets(box: Box) -> None:
    """config-linux.md, "Offset for Time Namespace"."""
    box.linux["namespaces"].append({"type": "time"})
    box.linux["timeOffsets"] = {"monotonic": {"secs": 1000000}, "boottime": {"secs": 2000000}}
    seen = box.run()
    assert seen["namespaces"]["time"] != os.readlink(HERE / "time")
    assert seen["monotonic"] > 1000000
    assert seen["boottime"] > 2000000


@pytest.mark.parametrize("name", list(DEVICES))
def test_the_default_devices_are_there(plain: Seen, name: str) -> None:
    """config-linux.md, "Default Devices"."""
    code, words = plain.did[list(DEVICES).index(name)]
    kind, number, mode, *_ = words.split()
    assert (code, kind, number, mode) == (0, "c", DEVICES[name], "666")


@pytest.mark.parametrize("name", list(LINKS))
def test_the_links_of_dev_are_there(plain: Seen, name: str) -> None:
    """runtime-linux.md, "Dev symbolic links"."""
    assert plain.did[len(DEVICES) + list(LINKS).index(name)] == (0, LINKS[name])


@pytest.mark.parametrize("path", ["/dev/mine", "/mnt/mine"])
@pytest.mark.parametrize("kind", ["c", "b", "p"])
def test_a_device_is_made(box: Box, kind: str, path: str) -> None:
    """config-linux.md, "Devices": anywhere in the container; mode, uid, gid."""
    box.linux["devices"] = [{"path": path, "type": kind, "fileMode": 0o640, "uid": 12, "gid": 34}]
    if kind != "p":
        box.linux["devices"][0] |= {"major": 10, "minor": 229}
    [(code, words)] = box.run(f"stat:{path}").did
    found = words.split()
    assert code == 0
    assert found[0] == kind
    assert found[2:4] == ["640", "12:34"]
    assert kind == "p" or found[1] == "10:229"


@pytest.mark.parametrize(
    "device",
    [
        {"path": "/dev/x", "type": "q", "major": 1, "minor": 3},
        {"type": "c", "major": 1, "minor": 3},
        {"path": "/etc/taken", "type": "c", "major": 1, "minor": 3},
    ],
    ids=["type", "no path", "another file there"],
)
def test_a_device_that_cannot_be_is_an_error(box: Box, device: dict[str, Any]) -> None:
    """config-linux.md, "Devices": a file that does not match MUST generate an error."""
    (box.rootfs / "etc/taken").write_text("x")
    box.linux["devices"] = [device]
    box.refused()


def test_the_process_is_in_the_cgroup_of_its_path(box: Box) -> None:
    """config-linux.md, "Cgroups Path": absolute MUST be relative to the cgroups mount point."""
    seen = box.up()
    assert cgroups_named(box.name)
    pid = box.state()["pid"]
    assert any(f"/{box.name}" in line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    assert "0::/\n" in seen["cgroup"] or "0::/" in seen["cgroup"]


@pytest.mark.parametrize("path", ["/../../x", "/a/../../b"])
def test_a_cgroup_path_that_leads_out_is_refused_or_stays_inside(box: Box, path: str) -> None:
    """config-linux.md, "Cgroups Path": values that are invalid MUST generate an error."""
    box.linux["cgroupsPath"] = f"{path}/{box.name}"
    code, said = box.try_create()
    if code != 0:
        assert "cgroup" in said.lower()
        return
    lines = Path(f"/proc/{box.state()['pid']}/cgroup").read_text().splitlines()
    (place,) = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    assert place.endswith(f"/{path.rpartition('/')[2]}/{box.name}")
    assert ".." not in place.split("/")  # so the kernel shows one that is outside of its reader's root


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("net.ipv4.ip_forward", "1", "net/ipv4/ip_forward"),
        ("net.ipv4.ping_group_range", "0 7", "net/ipv4/ping_group_range"),
        ("kernel.msgmax", "8000", "kernel/msgmax"),
        ("kernel.shmmni", "4000", "kernel/shmmni"),
    ],
)
def test_a_sysctl_is_set_in_the_container_alone(box: Box, name: str, value: str, path: str) -> None:
    """config-linux.md, "Sysctl"."""
    ours = Path("/proc/sys") / path
    before = ours.read_text()
    box.linux["sysctl"] = {name: value}
    [(code, words)] = box.run(f"read:/proc/sys/{path}").did
    assert (code, words.split()) == (0, value.split())
    assert ours.read_text() == before


@pytest.mark.parametrize("name", ["kernel.panic", "net.no.such", "vm.swappiness"])
def test_a_sysctl_of_the_host_or_of_nobody_is_refused(box: Box, name: str) -> None:
    """runtime.md, "Create": what cannot be applied is an error."""
    before = Path("/proc/sys/kernel/panic").read_text()
    box.linux["sysctl"] = {name: "7"}
    box.refused()
    assert Path("/proc/sys/kernel/panic").read_text() == before


def rule(action: str, **more: Any) -> dict[str, Any]:
    return {"names": ["getppid"], "action": action, **more}


@ONLY_X86
@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        (rule("SCMP_ACT_ERRNO"), errno.EPERM),
        (rule("SCMP_ACT_ERRNO", errnoRet=errno.ENOTTY), errno.ENOTTY),
        (rule("SCMP_ACT_ALLOW"), 0),
        (rule("SCMP_ACT_LOG"), 0),
    ],
    ids=["errno", "errnoRet", "allow", "log"],
)
def test_a_seccomp_action(box: Box, entry: dict[str, Any], wanted: int) -> None:
    """config-linux.md, "Seccomp": action, errnoRet."""
    box.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry]}
    seen = box.run(f"syscall:{GETPPID}")
    assert seen.did[0][0] == wanted
    assert seen["seccomp"] == 2


COMPARED = {
    "NE": (5, [4, 6]), "LT": (5, [3, 4]), "LE": (5, [4, 5]), "EQ": (5, [5]), "GE": (5, [5, 6]), "GT": (5, [6, 7]),
}  # fmt: skip


@ONLY_X86
@pytest.mark.parametrize("op", list(COMPARED))
def test_a_seccomp_comparison(box: Box, op: str) -> None:
    """config-linux.md, "Seccomp": args."""
    value, hit = COMPARED[op]
    args = [{"index": 0, "value": value, "op": f"SCMP_CMP_{op}"}]
    box.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [rule("SCMP_ACT_ERRNO", errnoRet=95, args=args)],
    }
    numbers = range(3, 8)
    got = [n for n, (code, _) in zip(numbers, box.run(*[f"syscall:{GETPPID}:{n}" for n in numbers]).did, strict=True)
           if code == 95]  # fmt: skip
    assert set(hit) <= set(got)
    assert all(n in hit or op in ("NE", "LT", "LE", "GE", "GT") for n in got)
    assert (5 in got) == (5 in hit)


@ONLY_X86
def test_a_seccomp_comparison_of_masked_bits(box: Box) -> None:
    """config-linux.md, "Seccomp": args."""
    args = [{"index": 0, "value": 0xF0, "valueTwo": 0x50, "op": "SCMP_CMP_MASKED_EQ"}]
    box.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [rule("SCMP_ACT_ERRNO", errnoRet=95, args=args)],
    }
    assert [c for c, _ in box.run(*[f"syscall:{GETPPID}:{n}" for n in ("0x57", "0x67")]).did] == [95, 0]


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
@ONLY_X86
def test_a_seccomp_action_that_kills(box: Box, action: str) -> None:
    """config-linux.md, "Seccomp"."""
    box.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule(action)]}
    box.args(f"syscall:{GETPPID}")
    assert box.raw_run().returncode in (128 + signal.SIGSYS, 0x9F)


@pytest.mark.parametrize(
    "change",
    [
        {"defaultAction": "SCMP_ACT_NOSUCH"},
        {"architectures": ["SCMP_ARCH_NOSUCH"]},
        {"syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_NOSUCH"}]},
        {"syscalls": [{"names": [], "action": "SCMP_ACT_ERRNO"}]},
        {"syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_KILL", "errnoRet": 5}]},
        {"defaultErrnoRet": 5},
        {"flags": ["SECCOMP_FILTER_FLAG_NOSUCH"]},
    ],
    ids=["default", "architecture", "action", "no names", "errno of kill", "errno of allow", "flag"],
)
def test_a_filter_that_cannot_be_is_refused(box: Box, change: dict[str, Any]) -> None:
    """config-linux.md, "Seccomp": MUST; config.md, "Valid values"."""
    box.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", **change}
    box.refused()


def test_the_personality_is_what_is_configured(box: Box) -> None:
    """config-linux.md, "Personality": LINUX32."""
    box.linux["personality"] = {"domain": "LINUX32"}
    assert box.run()["personality"] == 8


def test_an_unknown_personality_is_refused(box: Box) -> None:
    """config.md, "Valid values"."""
    box.linux["personality"] = {"domain": "NOSUCH"}
    box.refused()


@pytest.mark.skipif(Path("/sys/fs/resctrl/tasks").exists(), reason="resctrl is mounted")
def test_rdt_without_its_file_system_is_an_error(box: Box) -> None:
    """config-linux.md, "IntelRdt": MUST generate an error."""
    box.linux["intelRdt"] = {"closID": box.name}
    box.refused()


def test_a_controller_that_is_not_there_is_an_error(box: Box) -> None:
    """config-linux.md, "Unified": MUST generate an error."""
    box.linux["resources"] = {"unified": {"nosuch.max": "1"}}
    box.refused()


UNIFIED: list[tuple[dict[str, Any], str, str]] = [
    ({"memory": {"limit": 64 << 20}}, "memory.max", str(64 << 20)),
    ({"memory": {"limit": -1}}, "memory.max", "max"),
    ({"memory": {"reservation": 8 << 20}}, "memory.low", str(8 << 20)),
    ({"cpu": {"quota": 20000, "period": 50000}}, "cpu.max", "20000 50000"),
    ({"cpu": {"idle": 1}}, "cpu.idle", "1"),
    ({"pids": {"limit": 20}}, "pids.max", "20"),
    ({"pids": {"limit": -1}}, "pids.max", "max"),
    ({"unified": {"memory.high": str(32 << 20)}}, "memory.high", str(32 << 20)),
    ({"unified": {"pids.max": "33"}}, "pids.max", "33"),
]


@pytest.mark.vm
@pytest.mark.parametrize(("resources", "name", "value"), UNIFIED, ids=[f"{n}={v}" for _, n, v in UNIFIED])
def test_a_resource_is_written_to_the_cgroup(box: Box, resources: dict[str, Any], name: str, value: str) -> None:
    """config-linux.md, "Control groups", "Unified"."""
    box.linux["resources"] = resources
    box.create()
    assert (Path("/sys/fs/cgroup") / box.name / name).read_text().strip() == value


@pytest.mark.vm
def test_device_rules_are_applied_in_their_order(box: Box) -> None:
    """config-linux.md, "Allowed Device list": MUST apply entries in the listed order."""
    allow = {"type": "c", "major": 10, "minor": 200, "access": "rwm", "allow": True}
    box.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}, allow]}
    box.process["capabilities"] = {k: ["CAP_MKNOD"] for k in ("bounding", "effective", "permitted")}
    seen = box.run(
        "mknod:/dev/a:c:10:200", "mknod:/dev/b:c:10:201", "rw:/dev/a", "rw:/dev/b", "rw:/dev/null"
    )  # nodes of any device can be made, as with runc and crun: to open them is what is decided
    made_a, made_b, open_a, open_b, null = [n for n, _ in seen.did]
    assert (made_a, made_b, open_b, null) == (0, 0, errno.EPERM, 0)
    assert open_a != errno.EPERM


def test_a_device_in_the_default_list_can_be_used(box: Box) -> None:
    """config-linux.md, "Default Devices"."""
    box.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    assert [n for n, _ in box.run("rw:/dev/null", "open:/dev/zero", "open:/dev/urandom").did] == [0, 0, 0]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
