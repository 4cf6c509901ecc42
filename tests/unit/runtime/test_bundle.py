"""Bundles: what runs unchanged, and what is refused by name."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import DefinitionError, LaunchError
from runtime import oci
from runtime.bundle import MAX_CONFIG, load_bundle, parse_config
from runtime.devices import rules_of
from runtime.plan import compile_plan
from runtime.probe import HostFacts, probe
from runtime.resources import of_oci

Write = Callable[[Any], Path]


def put(spec: Any, pointer: str, value: Any) -> None:
    """Set what a JSON pointer names; "-" appends."""
    *parents, last = pointer.strip("/").split("/")
    for part in parents:
        spec = spec[int(part)] if isinstance(spec, list) else spec.setdefault(part, {})
    if isinstance(spec, list):
        spec.append(value) if last == "-" else spec.__setitem__(int(last), value)
    else:
        spec[last.replace("~1", "/")] = value


def test_the_articles_bundle_compiles(article: dict[str, Any], write_bundle: Write, host: HostFacts) -> None:
    spec, rootfs = load_bundle(write_bundle(article))
    plan = compile_plan(spec, rootfs, host)
    assert plan.warnings == ()
    assert [one.name for one in plan.ops].count("MOUNT") == 7
    assert plan.ops[-1].name == "EXEC"
    assert "MOUNT cgroup2 on /sys/fs/cgroup (ro, nosuid, nodev, noexec)" in plan.describe()


def test_a_terminal_is_made_of_the_containers_own_devpts(
    article: dict[str, Any], write_bundle: Write, host: HostFacts
) -> None:
    article["process"] |= {"terminal": True, "consoleSize": {"height": 24, "width": 80}}
    plan = compile_plan(*load_bundle(write_bundle(article)), host)
    names = [one.name for one in plan.ops]
    assert names.index("MOUNT") < names.index("CONSOLE") < names.index("PIVOT")
    assert "CONSOLE 24 80" in plan.describe()
    article["mounts"] = [m for m in article["mounts"] if m["destination"] not in ("/dev", "/dev/pts")]
    with pytest.raises(DefinitionError, match="/process/terminal: a terminal needs a devpts"):
        compile_plan(*load_bundle(write_bundle(article)), host)


def test_a_definition_error_names_the_file(article: dict[str, Any], write_bundle: Write) -> None:
    article["process"]["args"] = []
    with pytest.raises(DefinitionError) as caught:
        load_bundle(write_bundle(article))
    assert str(caught.value).endswith("config.json: /process/args: must not be empty")
    assert caught.value.exit_code == 2


SHAPE = [
    ("/ociVersion", "2.0.0", "/ociVersion: version '2.0.0' is not supported"),
    ("/ociVersion", 1, "/ociVersion: must be a string"),
    ("/process/args", ["a\0b"], "/process/args/0: must not contain NUL"),
    ("/process/args", "sh", "/process/args: must be a list"),
    ("/process/args", ["\ud800"], "/process/args/0: must be valid Unicode"),
    ("/process/cwd", "tmp", "/process/cwd: 'tmp' must be an absolute path"),
    ("/process/cwd", "/a/../..", "/process/cwd: '/a/../..' must not contain '..'"),
    ("/process/env", ["NOVALUE"], "/process/env/0: 'NOVALUE' is not NAME=value"),
    ("/process/env", ["=x"], "/process/env/0: '' is not NAME=value"),
    ("/process/user/uid", -1, "/process/user/uid: must be from 0 to 4294967295"),
    ("/process/user/uid", True, "/process/user/uid: must be a whole number"),
    ("/process/user/uid", 0.0, "/process/user/uid: must be a whole number"),
    ("/process/user/uid", "0", "/process/user/uid: must be a whole number"),
    ("/process/noNewPrivileges", 1, "/process/noNewPrivileges: must be true or false"),
    ("/process/noNewPriviledges", True, "/process/noNewPriviledges: is not known"),
    ("/process/apparmorProfile", 1, "/process/apparmorProfile: must be a string"),
    ("/process/scheduler", {"policy": "SCHED_FAST"}, "/process/scheduler/policy: must be one of"),
    ("/process/scheduler", {"policy": "SCHED_RR", "flags": ["X"]}, "/process/scheduler/flags/0: must be one of"),
    ("/process/scheduler", {"nice": 1}, "/process/scheduler/policy: is missing"),
    ("/process/ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}, "/process/ioPriority/priority: must be from"),
    ("/process/ioPriority", {"class": "RT", "priority": 0}, "/process/ioPriority/class: must be one of"),
    ("/process/execCPUAffinity", {"final": "0"}, "/process/execCPUAffinity: is not supported yet"),
    ("/process/oomScoreAdj", 1001, "/process/oomScoreAdj: must be from -1000 to 1000"),
    ("/process/capabilities/bound", [], "/process/capabilities/bound: is not known"),
    ("/process/rlimits/0/soft", -1, "/process/rlimits/0/soft: must be from 0"),
    ("/root/readOnly", True, "/root/readOnly: is not known"),
    ("/root/path", "", "/root/path: must not be empty"),
    ("/root/path", "missing", "missing is not a directory"),
    ("/root/path", "/", "the host's own root cannot be a container's root"),
    ("/mounts/0/destination", "", "/mounts/0/destination: must not be empty"),
    ("/mounts/0/destination", "/../etc", "/mounts/0/destination: '/../etc' must not contain '..'"),
    ("/mounts/0/uidMappings", [{"x": 1}], "/mounts/0/uidMappings/0/containerID: is missing"),
    ("/mounts/0/flags", 1, "/mounts/0/flags: is not known"),
    ("/hooks", {"prestart": [{"path": "x"}]}, "/hooks/prestart/0/path: 'x' must be an absolute path"),
    ("/hooks", {"poststop": [{"path": "/x", "timeout": 0}]}, "/hooks/poststop/0/timeout: must be from 1 to 2147483647"),
    ("/hooks", {"poststop": [{"path": "/x", "env": ["A"]}]}, "/hooks/poststop/0/env/0: 'A' is not NAME=value"),
    ("/hooks", {"prestart": [{}]}, "/hooks/prestart/0/path: is missing"),
    ("/windows", {"x": 1}, "/windows: is not supported: Linux only"),
    ("/linux/intelRdt", {"closID": "x"}, "/linux/intelRdt: is not supported yet"),
    ("/linux/personality", {"domain": "BSD"}, "/linux/personality/domain: must be one of LINUX, LINUX32"),
    ("/linux/timeOffsets", {"realtime": {"secs": 1}}, "/linux/timeOffsets/realtime: is not known"),
    ("/linux/timeOffsets", {"boottime": {"nanosecs": 10**9}}, "nanosecs: must be from 0 to 999999999"),
    ("/linux/memoryPolicy", {"mode": "MPOL_LOCAL"}, "/linux/memoryPolicy: is not supported yet"),
    ("/linux/netDevices", {"eth0": {}}, "/linux/netDevices: is not supported yet"),
    ("/linux/maskedPath", [], "/linux/maskedPath: is not known"),
    ("/linux/maskedPaths", ["proc"], "/linux/maskedPaths/0: 'proc' must be an absolute path"),
    ("/linux/rootfsPropagation", "none", "/linux/rootfsPropagation: must be one of"),
    ("/linux/resources/memory/swappiness", 60, "/linux/resources/memory/swappiness: is not supported: cgroup v1 only"),
    ("/linux/resources/hugepageLimits", [{"pageSize": "2MB"}], "hugepageLimits/0/limit: is missing"),
    ("/linux/resources/memory/limit", "1G", "/linux/resources/memory/limit: must be a whole number"),
    ("/linux/resources/foo", 1, "/linux/resources/foo: is not known"),
    ("/linux/seccomp", {"syscalls": []}, "/linux/seccomp/defaultAction: is missing"),
    ("/linux/seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}, "listenerPath: is not supported yet"),
    ("/annotations", {"a": 1}, "/annotations/a: must be a string"),
    ("/annotations", {"a~b/c": 1}, "/annotations/a~0b~1c: must be a string"),
]


@pytest.mark.parametrize(("pointer", "value", "message"), SHAPE, ids=[f"{p}={v!r:.30}" for p, v, _ in SHAPE])
def test_a_bad_shape_is_refused_with_its_pointer(
    article: dict[str, Any], write_bundle: Write, pointer: str, value: Any, message: str
) -> None:
    put(article, pointer, value)
    with pytest.raises(DefinitionError) as caught:
        load_bundle(write_bundle(article))
    assert message in str(caught.value)


MEANING = [
    ("/linux/namespaces", [], "/linux/namespaces: a mount namespace is needed"),
    ("/linux/namespaces/0", {"type": "space"}, "/linux/namespaces/0/type: namespace 'space' is not supported"),
    ("/linux/namespaces/0", {"type": "network"}, "/linux/namespaces/1: namespace 'network' stands twice"),
    (
        "/linux/namespaces/-",
        {"type": "time", "path": "ns"},
        "/path: 'ns' must be an absolute path",
    ),
    (
        "/linux/namespaces",
        [{"type": "mount", "path": "/proc/1/ns/mnt"}],
        "/linux/namespaces/0/path: joining a mount namespace is not supported",
    ),
    ("/linux/uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}], "needs a user namespace"),
    ("/process/capabilities/permitted", [], "/process/capabilities/effective: effective must be part of permitted"),
    ("/process/capabilities/ambient", ["CAP_KILL"], "ambient must be part of permitted and inheritable"),
    ("/process/rlimits/0/type", "NOFILE", "/process/rlimits/0/type: unknown limit 'NOFILE'"),
    ("/process/rlimits/0/type", "RLIMIT_FILES", "unknown limit 'RLIMIT_FILES'"),
    ("/process/rlimits/0/soft", 4096, "/process/rlimits/0: RLIMIT_NOFILE: soft 4096 is over hard 1024"),
    ("/process/rlimits/-", {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}, "RLIMIT_NOFILE stands twice"),
    ("/process/args/0", "", "/process/args/0: the program's name is empty"),
    ("/hostname", "h" * 65, "/hostname: is longer than 64 bytes"),
    ("/mounts/0/type", "ext4", "/mounts/0/type: ext4 cannot stand at /proc"),
    ("/mounts/0/type", "tmpfs", "/mounts/0/type: only proc can stand at /proc"),
    ("/mounts/5/type", "mqueue", "/mounts/5/type: mqueue cannot stand at /sys"),
    ("/mounts/1/destination", "/", "/mounts/1/destination: nothing can be mounted over the root"),
    ("/mounts/1/options/0", "nosuidd", "/mounts/1/options: tmpfs has no mount option 'nosuidd'"),
    ("/mounts/1/options/0", "size=lots", "bad value in mount option 'size=lots'"),
    ("/mounts/1/options/0", "mand", "mount option 'mand': mandatory locks are gone from Linux"),
    ("/mounts/1/options/0", "idmap", "/mounts/1/options: idmap needs mappings: the mount's own, or a user namespace's"),
    ("/mounts/1/options/0", "idmap=uids=0-1-1", "uids and gids are needed"),
    ("/mounts/1/options/0", "idmap=uids=0-1;gids=0-1-1", "bad mapping 'uids=0-1'"),
    (
        "/mounts/1/uidMappings",
        [{"containerID": 0, "hostID": 1, "size": 1}],
        "/mounts/1: uidMappings and gidMappings of a mount go together",
    ),
    ("/linux/timeOffsets", {"boottime": {"secs": 1}}, "/linux/timeOffsets: needs a new time namespace"),
    ("/process/scheduler", {"policy": "SCHED_DEADLINE", "deadline": 2000}, "needs 1024 <= runtime <= deadline"),
    ("/linux/personality", {"domain": "LINUX", "flags": ["X"]}, "no flag of personality is supported"),
    ("/linux/mountLabel", "x", "/linux/mountLabel: selinux is not on on this host"),
    ("/process/apparmorProfile", "x", "/process/apparmorProfile: apparmor is not on on this host"),
    ("/process/selinuxLabel", "x", "/process/selinuxLabel: selinux is not on on this host"),
    ("/mounts/-", {"destination": "/x", "type": "bind"}, "/mounts/7/source: a bind mount needs a source"),
    ("/mounts/-", {"destination": "/", "type": "bind", "source": "/etc"}, "nothing can be bound over /"),
    (
        "/mounts/-",
        {"destination": "/x", "type": "bind", "source": "/etc", "options": ["size=1"]},
        "mount option 'size=1' does not apply to a bind mount",
    ),
    (
        "/linux/sysctl",
        {"kernel.panic": "x"},
        "/linux/sysctl/kernel.panic: kernel.panic belongs to the whole host",
    ),
    ("/linux/sysctl", {"vm.swappiness": "1"}, "vm.swappiness belongs to the whole host"),
    ("/linux/sysctl", {"net/../kernel/core_pattern": "|x"}, "is not the name of a sysctl"),
    ("/linux/devices", [{"path": "/sys/x", "type": "c", "major": 1, "minor": 3}], "no device can be made at /sys/x"),
    ("/linux/sysctl", {"user.max_net_namespaces": "1"}, "needs a user namespace of the container's own"),
    ("/linux/devices", [{"path": "/dev/x", "type": "c"}], "/linux/devices/0: major and minor are needed"),
    ("/linux/seccomp", {"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY is not supported yet"),
    ("/linux/seccomp", {"defaultAction": "ALLOW"}, "unknown action 'ALLOW'"),
    (
        "/linux/seccomp",
        {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_VAX"]},
        "/linux/seccomp/architectures/0: unknown architecture 'SCMP_ARCH_VAX'",
    ),
    (
        "/linux/seccomp",
        {"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]},
        "/linux/seccomp/flags/0: 'SECCOMP_FILTER_FLAG_NEW_LISTENER' is not supported",
    ),
]


@pytest.mark.parametrize(("pointer", "value", "message"), MEANING, ids=[f"{p}={v!r:.40}" for p, v, _ in MEANING])
def test_what_cannot_be_run_is_refused_and_never_ignored(
    article: dict[str, Any], write_bundle: Write, host: HostFacts, pointer: str, value: Any, message: str
) -> None:
    put(article, pointer, value)
    spec, rootfs = load_bundle(write_bundle(article))
    with pytest.raises(DefinitionError) as caught:
        compile_plan(spec, rootfs, host)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff{}", "not UTF-8 at byte 0"),
        (b"[1]", "must be an object"),
        (b'{"a": 1, "a": 2}', "key 'a' stands twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is too large"),
        (b'{"a": ' * 2000, "nested deeper than 32"),
        (b"[" * 100_000, "nested deeper than 32"),
        (b'{"a": "' + b"x" * MAX_CONFIG + b'"}', f"is larger than {MAX_CONFIG} bytes"),
        (b"null", "must be an object"),
        (b"", "not JSON"),
    ],
)
def test_hostile_json_is_refused_quickly(write_bundle: Write, text: bytes, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        load_bundle(write_bundle(text))


def test_brackets_in_strings_are_no_depth(article: dict[str, Any], write_bundle: Write) -> None:
    article["annotations"] = {"a": '"\\' + "[" * 100}
    load_bundle(write_bundle(article))


def test_a_missing_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="cannot be read: No such file or directory"):
        load_bundle(tmp_path / "none")


def test_a_fifo_does_not_hang_the_reader(write_bundle: Write) -> None:
    bundle = write_bundle("{}")
    (bundle / "config.json").unlink()
    os.mkfifo(bundle / "config.json")
    with pytest.raises(DefinitionError, match="is not a regular file"):
        load_bundle(bundle)


def test_unknown_fields_outside_of_security_are_ignored(article: dict[str, Any], write_bundle: Write) -> None:
    article["org.example.extension"] = {"x": [1]}
    load_bundle(write_bundle(article))


def test_a_user_namespace_needs_both_maps_or_has_the_hosts_users(article: dict[str, Any], host: HostFacts) -> None:
    article["linux"]["namespaces"].append({"type": "user"})
    plan = compile_plan(article, "/srv/r", host)
    assert plan.ops[1].values == ("0 0 4294967295\n", "0 0 4294967295\n")
    assert any("without mappings" in warning for warning in plan.warnings)
    article["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 1, "size": 1}]
    with pytest.raises(DefinitionError, match="a user namespace needs uidMappings and gidMappings"):
        compile_plan(article, "/srv/r", host)


def test_an_engines_runtime_ignores_what_nobody_knows(article: dict[str, Any], write_bundle: Write) -> None:
    for pointer in ("/process/new~1field", "/mounts/0/novel", "/linux/resources/memory/x"):
        put(article, pointer, [1])
    ignored: list[str] = []
    spec, _ = load_bundle(write_bundle(article), ignored=ignored)
    assert len(ignored) == 3
    assert oci.check(spec) == spec
    article["root"]["readonly"] = "yes"
    with pytest.raises(DefinitionError, match="/root/readonly: must be true or false"):
        load_bundle(write_bundle(article), ignored=[])


def test_limits_of_huge_pages_and_rdma() -> None:
    pages = [{"pageSize": "2MB", "limit": 2**64 - 1}, {"pageSize": "64KB", "limit": 0}]
    limits = of_oci(
        {"hugepageLimits": pages, "rdma": {"mlx5_0": {"hcaHandles": 3}}, "unified": {"hugetlb.2MB.max": "4"}}
    )
    assert limits.raw == {"hugetlb.2MB.max": "4", "hugetlb.64KB.max": "0", "rdma.max": "mlx5_0 hca_handle=3"}
    bad_size = {"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}
    wrong: dict[str, Any]
    for wrong in (bad_size, {"rdma": {"a": {}}}, {"rdma": {"a b": {}}}):
        with pytest.raises(DefinitionError):
            of_oci(wrong)


def test_null_is_the_same_as_absent(article: dict[str, Any], write_bundle: Write, host: HostFacts) -> None:
    before = compile_plan(*load_bundle(write_bundle(article)), host)
    article |= {"hooks": None, "annotations": None}
    article["linux"] |= {"seccomp": None, "devices": None, "sysctl": None}
    article["process"] |= {"oomScoreAdj": None}
    assert compile_plan(*load_bundle(write_bundle(article)), host) == before


def test_a_relative_bind_source_is_the_bundles_own(
    article: dict[str, Any], write_bundle: Write, host: HostFacts
) -> None:
    put(article, "/mounts/-", {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "ro"]})
    bundle = write_bundle(article)
    (bundle / "data").mkdir()
    plan = compile_plan(*load_bundle(bundle), host)
    bind = next(one for one in plan.ops if one.name == "BIND")
    assert (bind["source"], bind["target"], bind["attr_set"], bind["flags"]) == (str(bundle / "data"), "/data", 1, 1)


def test_a_missing_bind_source_is_an_error_and_nothing_is_made(
    article: dict[str, Any], write_bundle: Write, host: HostFacts
) -> None:
    put(article, "/mounts/-", {"destination": "/data", "type": "bind", "source": "gone"})
    bundle = write_bundle(article)
    with pytest.raises(LaunchError, match="the source of a bind mount must exist"):
        compile_plan(*load_bundle(bundle), host)
    assert sorted(p.name for p in bundle.iterdir()) == ["config.json", "rootfs"]


def test_the_root_may_lie_outside_of_the_bundle(article: dict[str, Any], write_bundle: Write, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    article["root"]["path"] = "../elsewhere"
    assert load_bundle(write_bundle(article))[1] == tmp_path / "elsewhere"


def test_loading_changes_nothing_in_the_config(article: dict[str, Any], write_bundle: Write) -> None:
    bundle = write_bundle(article)
    assert load_bundle(bundle)[0] == json.loads((bundle / "config.json").read_text())


def pointers(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a JSON value."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, element in items:
        found += pointers(element, (*at, key))
    return found


ARTICLE = json.loads((Path(__file__).parents[2] / "fixtures/article-config.json").read_text())
ARTICLE["process"]["terminal"] = False
ARTICLE["linux"] |= {
    "seccomp": {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}
        ],
    },
    "sysctl": {"net.core.somaxconn": "1"},
    "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 1, "fileMode": 438, "uid": 1, "gid": 1}],
    "resources": {
        "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 1}],
        "memory": {"limit": 100, "swap": 200},
        "cpu": {"shares": 5, "quota": 5, "period": 5, "cpus": "0"},
        "blockIO": {"weight": 10, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]},
        "unified": {"memory.high": "5"},
    },
}
PLACES = pointers(ARTICLE)
HOST = probe()
SCALARS = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False) | st.text(max_size=5)
ODD = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), ODD), min_size=1, max_size=3))
def test_any_odd_value_anywhere_is_run_or_refused(changes: list[tuple[tuple[str | int, ...], Any]]) -> None:
    """Never a crash, which would be a fault of the daemon in place of a word to its user."""
    spec = copy.deepcopy(ARTICLE)
    for place, value in changes:
        inner = spec
        try:
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # gone by an earlier change
    try:
        parsed = oci.check(parse_config(json.dumps(spec).encode()))
        compile_plan(parsed, "/srv/r", HOST).encode()
        of_oci(parsed["linux"].get("resources") or {})
        rules_of((parsed["linux"].get("resources") or {}).get("devices"))
    except (DefinitionError, LaunchError):
        pass
