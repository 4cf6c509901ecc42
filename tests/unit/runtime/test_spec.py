"""Definitions as OCI specs: our defaults, and what a definition changes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.errors import DefinitionError
from config.model import Container
from config.record import replace
from runtime import oci
from runtime.capabilities import DEFAULT
from runtime.plan import compile_plan
from runtime.probe import HostFacts
from runtime.spec import MASKED, READONLY, build_spec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/srv/web:/bin/sh\n")
    (root / "etc/group").write_text("web:x:1001:\naudio:x:29:web\n")
    return root


def build(root: Path, host: HostFacts, **fields: Any) -> dict[str, Any]:
    container = Container.model_validate({"name": "web", "rootfs": str(root), "command": ["sleep", "1"], **fields})
    spec = build_spec(container, host)
    oci.check(spec)
    compile_plan(spec, root, host)
    return spec


def mounts(spec: dict[str, Any]) -> dict[str, list[str]]:
    return {m["destination"]: m["options"] for m in spec["mounts"]}


def kinds(spec: dict[str, Any]) -> set[str]:
    return {entry["type"] for entry in spec["linux"]["namespaces"]}


def test_the_defaults_are_the_safe_ones(root: Path, host: HostFacts) -> None:
    spec = build(root, host)
    process, linux = spec["process"], spec["linux"]
    assert process["capabilities"]["bounding"] == sorted(DEFAULT)
    assert len(DEFAULT) == 11
    assert process["capabilities"]["inheritable"] == process["capabilities"]["ambient"] == []
    assert process["noNewPrivileges"] is True
    assert linux["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert kinds(spec) == {"pid", "mount", "uts", "ipc", "cgroup", "network"}
    assert linux["maskedPaths"] == list(MASKED)
    assert linux["readonlyPaths"] == list(READONLY)
    assert spec["hostname"] == "web"
    assert process["env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=web",
        "HOME=/root",
    ]
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 524288}]
    assert "ro" in mounts(spec)["/sys/fs/cgroup"]
    assert "ro" in mounts(spec)["/sys"]


def test_another_user_has_no_capability_to_use(root: Path, host: HostFacts) -> None:
    process = build(root, host, user="web")["process"]
    assert (process["user"]["uid"], process["user"]["gid"], process["user"]["additionalGids"]) == (1000, 1001, [29])
    assert process["capabilities"]["bounding"] == sorted(DEFAULT)
    assert process["capabilities"]["effective"] == process["capabilities"]["permitted"] == []
    assert "HOME=/srv/web" in process["env"]


def test_the_definitions_environment_wins(root: Path, host: HostFacts) -> None:
    env = build(root, host, environment={"HOME": "/x", "A": "b=c"}, hostname="box")["process"]["env"]
    assert env[1:] == ["HOSTNAME=box", "HOME=/x", "A=b=c"]


@pytest.mark.parametrize(("given", "term"), [({}, "TERM=xterm"), ({"TERM": "vt100"}, "TERM=vt100")])
def test_a_terminal_comes_with_its_type(root: Path, host: HostFacts, given: dict[str, str], term: str) -> None:
    process = build(root, host, tty=True, environment=given)["process"]
    assert process["terminal"] is True
    assert [entry for entry in process["env"] if entry.startswith("TERM=")] == [term]
    without = build(root, host, stdin_open=True)["process"]
    assert without["terminal"] is False
    assert not any(entry.startswith("TERM=") for entry in without["env"])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"cap_drop": ["ALL"]}, set()),
        ({"cap_drop": ["ALL"], "cap_add": ["NET_RAW"]}, {"CAP_NET_RAW"}),
        ({"cap_add": ["SYS_TIME"]}, DEFAULT | {"CAP_SYS_TIME"}),
        ({"cap_drop": ["CHOWN"]}, DEFAULT - {"CAP_CHOWN"}),
    ],
)
def test_capabilities_are_added_and_dropped(
    root: Path, host: HostFacts, fields: dict[str, Any], expected: set[str]
) -> None:
    assert set(build(root, host, **fields)["process"]["capabilities"]["bounding"]) == expected


def test_all_capabilities_are_all_that_the_host_can_give(root: Path, host: HostFacts) -> None:
    host = replace(host, bounding=host.bounding - {"CAP_SYS_RESOURCE"})
    spec = build(root, host, cap_add=["ALL"], cap_drop=["SYS_BOOT"])
    assert set(spec["process"]["capabilities"]["bounding"]) == host.bounding - {"CAP_SYS_BOOT"}
    allowed = {name for rule in spec["linux"]["seccomp"]["syscalls"] if "args" not in rule for name in rule["names"]}
    assert {"mount", "clone", "clone3", "setns"} <= allowed


def test_a_capability_that_the_host_lacks_is_refused(root: Path, host: HostFacts) -> None:
    host = replace(host, bounding=host.bounding - {"CAP_SYS_TIME"})
    with pytest.raises(DefinitionError, match=r"web.cap_add: this host cannot give CAP_SYS_TIME"):
        build(root, host, cap_add=["SYS_TIME"])


def test_a_default_capability_that_the_host_lacks_is_left_out(root: Path, host: HostFacts) -> None:
    host = replace(host, bounding=host.bounding - {"CAP_SETFCAP"})
    assert set(build(root, host)["process"]["capabilities"]["bounding"]) == DEFAULT - {"CAP_SETFCAP"}


def test_the_hosts_network_brings_no_network_namespace(root: Path, host: HostFacts) -> None:
    spec = build(root, host, network="host")
    assert "network" not in kinds(spec)
    assert [m["type"] for m in spec["mounts"] if m["destination"] == "/sys"] == ["sysfs"]


def test_a_user_namespace_is_mapped_and_sysfs_bound_where_a_new_one_is_forbidden(root: Path, host: HostFacts) -> None:
    space = {"uid_base": 100000, "gid_base": 200000, "size": 1000}
    spec = build(root, host, network="host", user_namespace=space)
    assert "user" in kinds(spec)
    assert spec["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 100000, "size": 1000}]
    assert spec["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 200000, "size": 1000}]
    assert [m["type"] for m in spec["mounts"] if m["destination"] == "/sys"] == ["bind"]
    assert "gid=5" in mounts(spec)["/dev/pts"]
    small = build(root, host, user_namespace=space | {"size": 1})
    assert "gid=5" not in mounts(small)["/dev/pts"]


def test_in_a_user_namespace_the_hosts_device_nodes_are_bound(root: Path, host: HostFacts) -> None:
    container = Container.model_validate(
        {
            "name": "a",
            "rootfs": str(root),
            "command": ["x"],
            "user_namespace": {"uid_base": 1, "gid_base": 1, "size": 9},
        }
    )
    plan = compile_plan(build_spec(container, host), root, host)
    names = [one.name for one in plan.ops]
    assert "DEVNODE" not in names
    assert sum(1 for one in plan.ops if one.name == "BIND" and str(one["target"]).startswith("/dev/")) == 6
    assert names[1] == "USERMAP"
    assert plan.ops[1]["uid_map"] == "0 1 9\n"


def test_mounts_of_a_definition_stand_after_ours_or_in_their_place(root: Path, host: HostFacts, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    spec = build(
        root,
        host,
        mounts=[
            {"source": str(tmp_path / "data"), "target": "/data", "read_only": True},
            {"source": str(tmp_path / "data"), "target": "/rw", "propagation": "rslave", "options": ["noexec"]},
            {"type": "tmpfs", "target": "/dev/shm", "size": "1MiB", "mode": "700"},
        ],
        tmpfs=["/run:size=16M,mode=755"],
    )
    found = mounts(spec)
    assert found["/data"] == ["rbind", "rprivate", "rnodev", "rro"]
    assert found["/rw"] == ["rbind", "rslave", "rnodev", "rnoexec"]
    assert found["/dev/shm"] == ["nosuid", "nodev", "size=1048576", "mode=700"]
    assert found["/run"] == ["nosuid", "nodev", "size=16777216", "mode=755"]
    assert [m["destination"] for m in spec["mounts"]].count("/dev/shm") == 1


def test_a_device_is_bound_only_when_the_definition_says_so(root: Path, host: HostFacts) -> None:
    def rules(*options: str, source: str = "/dev/null") -> tuple[list[str], list[dict[str, Any]]]:
        spec = build(root, host, mounts=[{"source": source, "target": "/x", "options": list(options)}])
        return mounts(spec)["/x"], spec["linux"]["resources"]["devices"]

    denied = {"allow": False, "access": "rwm"}
    assert rules() == (["rbind", "rprivate", "rnodev"], [denied])
    allowed = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}
    assert rules("dev") == (["rbind", "rprivate", "rdev"], [denied, allowed])
    assert allowed in rules("dev", source="/dev")[1]
    assert rules("dev", source="/etc") == (["rbind", "rprivate", "rdev"], [denied])


def test_lesser_fields_reach_the_spec(root: Path, host: HostFacts) -> None:
    spec = build(
        root,
        host,
        entrypoint=["/bin/init"],
        command=["a"],
        working_dir="/srv",
        umask="0077",
        domainname="d",
        read_only=True,
        oom_score_adj=500,
        shm_size="1MiB",
        sysctls={"net.core.somaxconn": 128},
        ulimits={"nofile": 100, "nproc": {"soft": 5, "hard": "unlimited"}},
        masked_paths=[],
        readonly_paths=["/proc/sys"],
        no_new_privileges=False,
        seccomp="unconfined",
        labels={"b": "2", "a": "1"},
    )
    process = spec["process"]
    assert process["args"] == ["/bin/init", "a"]
    assert process["cwd"] == "/srv"
    assert process["user"]["umask"] == 0o77
    assert process["oomScoreAdj"] == 500
    assert process["noNewPrivileges"] is False
    assert process["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100},
        {"type": "RLIMIT_NPROC", "soft": 5, "hard": 2**64 - 1},
    ]
    assert spec["root"] == {"path": str(root), "readonly": True}
    assert spec["domainname"] == "d"
    assert spec["annotations"] == {"a": "1", "b": "2"}
    assert spec["linux"]["sysctl"] == {"net.core.somaxconn": "128"}
    assert spec["linux"]["maskedPaths"] == []
    assert "seccomp" not in spec["linux"]
    assert "size=1048576" in mounts(spec)["/dev/shm"]


def test_throttle_files_of_this_host_are_masked(root: Path, host: HostFacts) -> None:
    path = "/sys/devices/system/cpu/cpu0/thermal_throttle"
    assert path in build(root, replace(host, thermal=(path,)))["linux"]["maskedPaths"]
