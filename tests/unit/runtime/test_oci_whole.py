"""Every property of a config.json is acted on, refused by name, or left out for a reason that the manual gives.

The list of properties is the specification's own (tests/fixtures/oci-properties.txt). One spec sets all that we act on;
each property in turn gets another value, and then what is done must be another thing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from config.errors import DefinitionError
from config.record import replace
from runtime import devices, oci, resources
from runtime.bundle import load_bundle
from runtime.ocicli import groups
from runtime.plan import compile_plan
from runtime.planhooks import Owner
from runtime.probe import HostFacts

REPO = Path(__file__).parents[3]
LISTED = REPO / "tests/fixtures/oci-properties.txt"
MANUAL = REPO / "docs/wharf-oci.md"
KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
CAPS = ["CAP_CHOWN", "CAP_KILL"]
THROTTLE = {"major": 8, "minor": 0, "rate": 1000}
MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]

WHOLE: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "host",
    "domainname": "domain",
    "annotations": {"org.example.a": "1"},
    "hooks": {kind: [{"path": "/bin/a", "args": ["a", "b"], "env": ["A=1"], "timeout": 5}] for kind in KINDS},
    "mounts": [
        {
            "destination": "/mnt",
            "type": "bind",
            "source": "/proc",
            "options": ["rbind", "ro"],
            "uidMappings": MAPS,
            "gidMappings": MAPS,
        },
        {"destination": "/dev/pts", "type": "devpts"},
        {"destination": "/tmp", "type": "tmpfs"},
    ],
    "process": {
        "terminal": True,
        "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 0o22, "additionalGids": [3]},
        "args": ["/bin/sh"],
        "env": ["A=1"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), CAPS),
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
        "noNewPrivileges": True,
        "oomScoreAdj": 100,
        "apparmorProfile": "a",
        "selinuxLabel": "b",
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "scheduler": {
            "policy": "SCHED_DEADLINE",
            "nice": 1,
            "priority": 1,
            "flags": ["SCHED_FLAG_RECLAIM"],
            "runtime": 10000,
            "deadline": 20000,
            "period": 30000,
        },
    },
    "linux": {
        "namespaces": [
            {"type": "mount"},
            {"type": "uts"},
            {"type": "time"},
            {"type": "network", "path": "/proc/1/ns/net"},
        ],
        "timeOffsets": {kind: {"secs": 5, "nanosecs": 6} for kind in ("monotonic", "boottime")},
        "devices": [
            {"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 4, "gid": 5},
        ],
        "cgroupsPath": "/a/b",
        "resources": {
            "devices": [{"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rw"}],
            "memory": {"limit": 1 << 26, "reservation": 1 << 25, "swap": 1 << 27},
            "cpu": {"shares": 2000, "quota": 5000, "period": 10000, "burst": 100, "idle": 0, "cpus": "0", "mems": "0"},
            "pids": {"limit": 100},
            "blockIO": {
                "weight": 500,
                "throttleReadBpsDevice": [THROTTLE],
                "throttleWriteBpsDevice": [THROTTLE],
                "throttleReadIOPSDevice": [THROTTLE],
                "throttleWriteIOPSDevice": [THROTTLE],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 30}],
            "rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 4}},
            "unified": {"memory.high": "100000000"},
        },
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {
                    "names": ["personality"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 1,
                    "args": [{"index": 0, "value": 8, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}],
                },
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
            ],
        },
        "rootfsPropagation": "shared",
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "c",
        "personality": {"domain": "LINUX32"},
    },
}

# where adding one, turning round or appending a letter makes no valid value
OTHER: dict[str, Any] = {
    "/ociVersion": "1.0.0",
    "/mounts/-/type": "tmpfs",
    "/mounts/-/source": "/sys",
    "/mounts/-/options": ["bind", "nosuid"],
    "/root/path": "other",
    "/process/cwd": "/tmp",
    "/process/env": ["A=2"],
    "/process/ioPriority/class": "IOPRIO_CLASS_IDLE",
    "/process/scheduler/policy": "SCHED_BATCH",
    "/process/scheduler/flags": ["SCHED_FLAG_RESET_ON_FORK"],
    "/process/rlimits/-/type": "RLIMIT_CORE",
    "/process/capabilities/effective": CAPS[:1],
    "/process/capabilities/ambient": CAPS[:1],
    "/process/capabilities/bounding": CAPS[:1],
    "/process/capabilities/permitted": [*CAPS, "CAP_FOWNER"],
    "/process/capabilities/inheritable": [*CAPS, "CAP_FOWNER"],
    "/linux/devices/-/type": "b",
    "/linux/namespaces/-/type": "ipc",
    "/linux/namespaces/-/path": "/proc/2/ns/net",
    "/linux/resources/unified": {"memory.high": "200000000"},
    "/linux/resources/devices/-/type": "b",
    "/linux/resources/devices/-/access": "r",
    "/linux/resources/cpu/cpus": "1",
    "/linux/resources/cpu/mems": "1",
    "/linux/resources/hugepageLimits/-/pageSize": "1GB",
    "/linux/sysctl": {"net.ipv4.ip_forward": "0"},
    "/linux/rootfsPropagation": "unbindable",
    "/linux/seccomp/defaultAction": "SCMP_ACT_TRACE",
    "/linux/seccomp/flags": ["SECCOMP_FILTER_FLAG_TSYNC"],
    "/linux/seccomp/architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "/linux/seccomp/syscalls/-/names": ["uname"],
    "/linux/seccomp/syscalls/-/action": "SCMP_ACT_TRACE",
    "/linux/seccomp/syscalls/-/args/-/valueTwo": 0,
    "/linux/seccomp/syscalls/-/args/-/op": "SCMP_CMP_GE",
    "/linux/personality/domain": "LINUX",
}

# what is asked for in vain is asked for with these
REFUSED: dict[str, Any] = {
    "/process/commandLine": "x",
    "/process/user/username": "x",
    "/process/execCPUAffinity/initial": "0",
    "/process/execCPUAffinity/final": "0",
    "/linux/netDevices/*/name": "eth0",
    "/linux/resources/blockIO/leafWeight": 10,
    "/linux/resources/blockIO/weightDevice/-/major": 8,
    "/linux/resources/blockIO/weightDevice/-/minor": 1,
    "/linux/resources/blockIO/weightDevice/-/weight": 10,
    "/linux/resources/blockIO/weightDevice/-/leafWeight": 10,
    "/linux/resources/cpu/realtimePeriod": 1,
    "/linux/resources/cpu/realtimeRuntime": 1,
    "/linux/resources/memory/kernel": 1,
    "/linux/resources/memory/kernelTCP": 1,
    "/linux/resources/memory/swappiness": 0,  # "never swap" is a wish
    "/linux/resources/memory/disableOOMKiller": True,
    "/linux/resources/network/classID": 1,
    "/linux/resources/network/priorities/-/name": "eth0",
    "/linux/resources/network/priorities/-/priority": 1,
    "/linux/seccomp/listenerPath": "/run/x",
    "/linux/seccomp/listenerMetadata": "x",
    "/linux/intelRdt/closID": "x",
    "/linux/intelRdt/schemata": ["x"],
    "/linux/intelRdt/l3CacheSchema": "x",
    "/linux/intelRdt/memBwSchema": "MB:0=20",
    "/linux/intelRdt/enableMonitoring": True,
    "/linux/memoryPolicy/mode": "MPOL_BIND",
    "/linux/memoryPolicy/nodes": "0",
    "/linux/memoryPolicy/flags": ["MPOL_F_STATIC_NODES"],
    "/linux/personality/flags": ["x"],
    **{f"/{name}": {"x": 1} for name in ("solaris", "windows", "vm", "zos", "freebsd")},
}

# accepted, and nothing is done at a launch; the manual says why
LEFT_OUT: dict[str, Any] = {
    "/linux/resources/memory/useHierarchy": True,
    "/linux/resources/memory/checkBeforeUpdate": True,
}


def listed() -> list[str]:
    lines = LISTED.read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def leaves() -> list[str]:
    whole = listed()
    return [one for one in whole if not any(other.startswith(f"{one}/") for other in whole)]


def set_at(spec: Any, pointer: str, value: Any) -> Any:
    """`value` at `pointer` in `spec`; what is missing on the way is made."""
    words = pointer.split("/")[1:]
    inner = spec
    for word, after in pairwise(words):
        empty: Any = [{}] if after == "-" else {"any": {}} if after == "*" else {}
        if word == "-":
            inner = inner[0]
        elif word == "*":
            inner = next(iter(inner.values()))
        else:
            inner = inner.setdefault(word, empty)
    inner[words[-1]] = value
    return spec


def get_at(spec: Any, pointer: str) -> Any:
    def step(inner: Any, word: str) -> Any:
        return inner[0] if word == "-" else next(iter(inner.values())) if word == "*" else inner[word]

    return reduce(step, pointer.split("/")[1:], spec)


def other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return f"{value}x"
        case list():
            return [other(value[0]), *value[1:]]
        case dict():
            return {key: other(one) for key, one in value.items()}
    raise AssertionError(value)


def base(pointer: str) -> Any:
    """The spec in which `pointer` is changed: some exclude each other."""
    spec = copy.deepcopy(WHOLE)
    if pointer.startswith(("/linux/uidMappings", "/linux/gidMappings")):
        spec["linux"] |= {"uidMappings": copy.deepcopy(MAPS), "gidMappings": copy.deepcopy(MAPS), "devices": []}
        spec["linux"]["namespaces"].append({"type": "user"})
    if pointer.startswith("/linux/namespaces/-/path"):
        spec["linux"]["namespaces"].reverse()
    if pointer.startswith("/linux/namespaces/-/type"):
        spec["linux"]["namespaces"].insert(0, {"type": "pid"})
    if pointer.startswith("/mounts/-/type"):
        spec["mounts"].insert(0, {"destination": "/x", "type": "mqueue"})
    return spec


Done = Callable[[Any], object]


@pytest.fixture
def done(write_bundle: Callable[[Any], Path], host: HostFacts) -> Done:
    """All that would be done about a spec, as a value that can be compared."""
    able = replace(host, lsms=frozenset({"apparmor", "selinux"}))

    def done(spec: Any) -> object:
        bundle = write_bundle(spec)
        (bundle / "other").mkdir(exist_ok=True)
        ignored: list[str] = []
        loaded, rootfs = load_bundle(bundle, ignored=ignored)
        assert not ignored
        config = loaded["linux"]
        plan = compile_plan(loaded, rootfs, able, Owner("c", "/b"))
        return (
            plan.ops,
            resources.of_oci(config["resources"]),
            devices.rules_of(config["resources"]["devices"]),
            groups.place(config["cgroupsPath"], "c", Path("/sys/fs/cgroup"), "/own/x"),
        )

    return done


def test_every_property_is_in_one_table_only() -> None:
    for pointer in leaves():
        try:
            get_at(base(pointer), pointer)
            acted = True
        except KeyError:
            acted = False
        assert acted + (pointer in REFUSED) + (pointer in LEFT_OUT) == 1, pointer
    assert set(REFUSED) | set(LEFT_OUT) | set(OTHER) <= set(leaves())


def manual() -> list[dict[str, set[str]]]:
    """The columns of the manual's table: acted on, refused, nothing to do."""
    text = MANUAL.read_text().partition("| object | acted on |")[2].partition("\n\n")[0]
    columns: list[dict[str, set[str]]] = [{}, {}, {}]
    for line in text.splitlines()[2:]:
        objects, *cells = ([*re.findall("`([^`]+)`", cell)] for cell in line.strip("|").split("|"))
        for thing in objects:
            for column, names in zip(columns, cells, strict=True):
                column.setdefault(thing.rstrip("/"), set()).update(names)
    return columns


def test_the_manual_has_every_property_in_its_column() -> None:
    columns = [{f"{thing}/{name}" for thing, names in column.items() for name in names} for column in manual()]
    refused, left_out = set(REFUSED), set(LEFT_OUT)
    assert columns == [set(leaves()) - refused - left_out, refused, left_out]


@pytest.mark.parametrize("pointer", leaves())
def test_every_property_is_acted_on_or_refused_by_name(done: Done, pointer: str) -> None:
    """Never ignored: another value does another thing, or the refusal says where."""
    spec = base(pointer)
    before = done(spec)
    if pointer in REFUSED:
        with pytest.raises(DefinitionError) as caught:
            done(set_at(spec, pointer, REFUSED[pointer]))
        told = caught.value.where
        assert told not in ("", "/")
        assert f"{pointer}/".startswith(f"{told}/")
    elif pointer in LEFT_OUT:
        assert done(set_at(spec, pointer, LEFT_OUT[pointer])) == before, "the manual says that it is left out"
    else:
        value = OTHER[pointer] if pointer in OTHER else other(get_at(spec, pointer))
        assert done(set_at(spec, pointer, value)) != before, "it is ignored"


def test_the_schema_has_no_property_of_its_own() -> None:
    """What `oci.check` takes for known is what the specification has."""
    spec = copy.deepcopy(WHOLE)
    oci.check(spec)
    assert oci.drop_unknown(set_at(spec, "/linux/resources/memory/soft", 1)) == ["/linux/resources/memory/soft"]
