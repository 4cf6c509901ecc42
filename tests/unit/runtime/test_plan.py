"""Launch plans: the order of steps, the same bytes for the same input, and whole plans against golden files.

`WHARFINGER_GOLDEN=write` writes the golden files anew.
"""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path
from typing import Any

import pytest

from config.errors import DefinitionError, LaunchError
from config.model import Container
from config.record import replace
from runtime import linux, wire
from runtime.plan import Plan, compile_exec, compile_plan
from runtime.probe import HostFacts
from runtime.spec import build_spec

GOLDEN = Path(__file__).parent / "golden"
ORDER = [
    "NAMESPACES",
    "USERMAP",
    "ROOT",
    "MOUNT",
    "BIND",
    "DEVNODE",
    "SYMLINK",
    "HOSTNAME",
    "DOMAINNAME",
    "SYSCTL",
    "LOOPBACK",
    "PIVOT",
    "MASK",
    "READONLY",
    "ROOTATTR",
    "RLIMIT",
    "OOMADJ",
    "UMASK",
    "SETSID",
    "KEYRING",
    "CAPS",
    "USER",
    "CWD",
    "NNP",
    "SECCOMP",
    "ENV",
    "ARG",
    "EXEC",
]


def full(root: Path, host: HostFacts, **fields: Any) -> dict[str, Any]:
    container = Container.model_validate(
        {
            "name": "web",
            "rootfs": str(root),
            "command": ["/bin/httpd", "-f"],
            "user": "33:33",
            "group_add": ["44"],
            "environment": {"SECRET": "hunter2"},
            "mounts": [{"source": "/usr", "target": "/srv/usr", "read_only": True}],
            "tmpfs": ["/run:size=16M,mode=755"],
            "read_only": True,
            "domainname": "shop",
            "sysctls": {"net.core.somaxconn": "128"},
            "ulimits": {"nproc": 64},
            "umask": "0027",
            "seccomp": "unconfined",
            **fields,
        }
    )
    return build_spec(container, host)


def golden(name: str, plan: Plan) -> None:
    text = "\n".join(plan.describe()) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("WHARFINGER_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_the_articles_plan(article: dict[str, Any], host: HostFacts) -> None:
    golden("article", compile_plan(article, "/srv/manual-container/rootfs", host))


def test_a_whole_definitions_plan(host: HostFacts) -> None:
    golden("web", compile_plan(full(Path("/srv/web"), host), "/srv/web", host))


def test_a_user_namespaces_plan(host: HostFacts) -> None:
    space = {"uid_base": 100000, "gid_base": 100000, "size": 65536}
    golden("userns", compile_plan(full(Path("/srv/web"), host, user_namespace=space), "/srv/web", host))


def test_an_exec_plan(host: HostFacts) -> None:
    spec = full(Path("/srv/web"), host)
    golden("exec", compile_exec(spec, ["sh", "-c", "id"], {"TERM": "xterm"}, "0", "/tmp"))


def test_steps_come_in_the_order_that_the_shim_needs(host: HostFacts) -> None:
    plan = compile_plan(full(Path("/srv/web"), host, seccomp="default"), "/srv/web", host)
    names = [one.name for one in plan.ops if one.name != "BIND"]
    assert names == sorted(names, key=ORDER.index)
    assert set(names) | {"BIND"} == set(ORDER) - {"USERMAP"}


def test_the_same_input_gives_the_same_bytes(article: dict[str, Any], host: HostFacts) -> None:
    first = compile_plan(article, "/srv/r", host).encode()
    assert compile_plan(copy.deepcopy(article), Path("/srv/r"), host).encode() == first
    assert wire.encode(wire.decode(first)) == first


def test_compiling_leaves_the_spec_alone(article: dict[str, Any], host: HostFacts) -> None:
    before = copy.deepcopy(article)
    compile_plan(article, "/srv/r", host)
    compile_exec(article, ["x"], {"A": "b"}, "5", "/")
    assert article == before


def test_values_of_the_environment_are_not_described(host: HostFacts) -> None:
    spec = full(Path("/srv/web"), host)
    for plan in (compile_plan(spec, "/srv/web", host), compile_exec(spec, ["sh"], {"TOKEN": "hunter3"})):
        assert "hunter" not in "\n".join(plan.describe())
        assert b"hunter2" in plan.encode()


def test_a_compile_is_quick_once_the_filter_is_kept(host: HostFacts) -> None:
    spec = full(Path("/srv/web"), host, seccomp="default")
    compile_plan(spec, "/srv/web", host)
    started = time.process_time()
    for _ in range(20):
        compile_plan(spec, "/srv/web", host).encode()
    assert (time.process_time() - started) / 20 < 0.02  # some 1.5 ms; the bound is for slow machines


def test_a_read_only_dev_is_filled_first(article: dict[str, Any], host: HostFacts) -> None:
    article["mounts"][1]["options"].append("ro")
    plan = compile_plan(article, "/srv/r", host)
    dev = next(one for one in plan.ops if one.name == "MOUNT" and one["target"] == "/dev")
    assert dev["attr"] == linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_STRICTATIME
    names = plan.describe()
    assert names.index("READONLY /dev") > names.index("PIVOT")


def test_with_nothing_at_dev_the_roots_own_is_filled(article: dict[str, Any], host: HostFacts) -> None:
    article["mounts"] = [m for m in article["mounts"] if not m["destination"].startswith("/dev")]
    plan = compile_plan(article, "/srv/r", host)
    assert {"DEVNODE", "SYMLINK"} < {one.name for one in plan.ops}
    assert "ROOTATTR ro" in plan.describe()  # and not nodev: its nodes are all that it has


def test_the_hosts_dev_is_left_as_it_is(article: dict[str, Any], host: HostFacts) -> None:
    article["mounts"] = [m for m in article["mounts"] if not m["destination"].startswith("/dev")]
    article["mounts"].append({"destination": "dev", "type": "bind", "source": "/dev", "options": ["rbind"]})
    article["linux"]["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]
    plan = compile_plan(article, "/srv/r", host)
    assert not {"DEVNODE", "SYMLINK"} & {one.name for one in plan.ops}
    assert plan.warnings == ("devices are not made: something else than a tmpfs is at /dev",)


def test_an_image_with_mknod_keeps_its_nodes_usable(article: dict[str, Any], host: HostFacts) -> None:
    article["process"]["capabilities"]["bounding"].append("CAP_MKNOD")
    assert "ROOTATTR ro" in compile_plan(article, "/srv/r", host).describe()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["rbind", "ro"], [("BIND", 1, 0, 1)]),
        (["rbind", "rro"], [("BIND", 1, 0, 5)]),
        (["rbind", "rro", "suid"], [("BIND", 1, 0, 5), ("MOUNTATTR", 0, 2, 0)]),
        (["rbind", "rro", "rw", "nosuid"], [("BIND", 1, 0, 5), ("MOUNTATTR", 2, 0, 0)]),
        (["remount", "bind", "ro", "rnosuid"], [("MOUNTATTR", 1, 0, 0), ("MOUNTATTR", 2, 0, 1)]),
    ],
)
def test_words_for_all_mounts_and_for_the_top(
    article: dict[str, Any], host: HostFacts, options: list[str], expected: list[Any]
) -> None:
    article["mounts"] = [{"destination": "x", "type": "bind", "source": "/usr", "options": options}]
    ops = [o for o in compile_plan(article, "/srv/r", host).ops if o.name in ("BIND", "MOUNTATTR")]
    assert [(o.name, o["attr_set"], o["attr_clr"], o["flags"]) for o in ops] == expected


def test_a_new_file_system_can_be_shared(article: dict[str, Any], host: HostFacts) -> None:
    article["mounts"].append({"destination": "/s", "type": "tmpfs", "options": ["rshared"]})
    lines = compile_plan(article, "/srv/r", host).describe()
    assert lines[lines.index("MOUNT tmpfs on /s") + 1] == "PROPAGATION /s (rshared)"


def test_a_bind_hears_of_the_hosts_mounts_unless_all_is_private(article: dict[str, Any], host: HostFacts) -> None:
    article["mounts"] = [{"destination": "/x", "type": "bind", "source": "/usr"}]
    for word, expected in (("", "rslave"), ("rprivate", "rprivate")):
        article["linux"]["rootfsPropagation"] = word
        assert f"BIND /usr on /x ({expected})" in compile_plan(article, "/srv/r", host).describe()


def test_the_hosts_cgroups_are_bound_not_mounted_anew(article: dict[str, Any], host: HostFacts) -> None:
    spaces = article["linux"]["namespaces"]
    article["linux"]["namespaces"] = [entry for entry in spaces if entry["type"] != "cgroup"]
    host = replace(host, cgroup_mount=Path("/usr"))
    names = compile_plan(article, "/srv/r", host).describe()
    assert "BIND /usr on /sys/fs/cgroup (recursive, ro, nosuid, nodev, noexec, rslave)" in names


MAPS = [{"containerID": 0, "hostID": 1000, "size": 2}]


@pytest.mark.parametrize(
    ("mount", "container", "expected"),
    [
        ({"options": ["idmap"], "uidMappings": MAPS, "gidMappings": MAPS}, False, ("0 1000 2\n", "0 1000 2\n", 0)),
        ({"uidMappings": MAPS, "gidMappings": MAPS}, False, ("0 1000 2\n", "0 1000 2\n", 0)),
        ({"options": ["ridmap"]}, True, ("0 1000 2\n", "0 1000 2\n", 1)),
        ({"options": ["idmap=gids=0-5-6;uids=1-2-3#4-5-6"]}, True, ("1 2 3\n4 5 6\n", "0 5 6\n", 0)),
    ],
)
def test_ids_of_a_mount_are_mapped(
    article: dict[str, Any], host: HostFacts, mount: dict[str, Any], container: bool, expected: tuple[Any, ...]
) -> None:
    if container:
        article["linux"]["namespaces"].append({"type": "user"})
        article["linux"] |= {"uidMappings": MAPS, "gidMappings": MAPS}
    article["mounts"] = [{"destination": "/x", "type": "bind", "source": "/usr", **mount}]
    ops = compile_plan(article, "/srv/r", host).ops
    at = next(i for i, one in enumerate(ops) if one.name == "IDMAP")
    assert ops[at].values == expected
    assert ops[at + 1]["target"] == "/x"


def test_namespaces_that_are_there_are_joined(article: dict[str, Any], host: HostFacts) -> None:
    article["linux"]["namespaces"] = [
        {"type": "mount"},
        {"type": "network", "path": "/run/netns/a"},
        {"type": "uts", "path": "/proc/5/ns/uts"},
        {"type": "time"},
    ]
    article["linux"]["timeOffsets"] = {"boottime": {"secs": -3, "nanosecs": 4}, "monotonic": {"secs": 1}}
    article["linux"]["sysctl"] = {"net.core.somaxconn": "1"}
    lines = compile_plan(article, "/srv/r", host).describe()
    assert lines[:4] == [
        "NAMESPACES mount time",
        "JOINNS network /run/netns/a",
        "JOINNS uts /proc/5/ns/uts",
        "TIMENS monotonic 1 0, boottime -3 4",
    ]
    assert "LOOPBACK" not in lines
    assert compile_exec(article, ["sh"]).describe()[0] == "JOIN mount uts network time"


def test_scheduling_and_labels_reach_init_and_exec(article: dict[str, Any], host: HostFacts) -> None:
    article["process"] |= {
        "scheduler": {"policy": "SCHED_BATCH", "nice": -3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 7},
        "apparmorProfile": "a-profile",
        "selinuxLabel": "a:b:c:s0",
    }
    article["linux"]["personality"] = {"domain": "LINUX32"}
    article["linux"]["mountLabel"] = "m:n:o:s0:c1,c2"
    host = replace(host, lsms=frozenset({"apparmor", "selinux"}))
    lines = compile_plan(article, "/srv/r", host).describe()
    wanted = ["PERSONALITY 8", "IOPRIO IOPRIO_CLASS_BE 7", "SCHED SCHED_BATCH -3 0 1 0 0 0", "APPARMOR a-profile"]
    wanted.append("SELINUX a:b:c:s0")
    assert [line for line in lines if line in wanted] == wanted
    assert set(wanted) <= set(compile_exec(article, ["sh"]).describe())
    assert any(line.startswith("MOUNT mqueue") and 'context="m:n:o:s0:c1' in line for line in lines)
    assert not any(line.startswith("MOUNT proc") and "context" in line for line in lines)


def test_devices_of_a_bundle_are_made_beside_the_usual_ones(article: dict[str, Any], host: HostFacts) -> None:
    article["linux"]["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 5, "gid": 6},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o622},
        {"path": "/dev/pipe", "type": "p"},
    ]
    nodes = {one["path"]: one.values[1:] for one in compile_plan(article, "/srv/r", host).ops if one.name == "DEVNODE"}
    assert len(nodes) == 8
    assert nodes["/dev/fuse"] == (0o020600, 10, 229, 5, 6)
    assert nodes["/dev/null"] == (0o020622, 1, 3, 0, 0)
    assert nodes["/dev/pipe"] == (0o010666, 0, 0, 0, 0)


def test_a_device_in_a_user_namespace_is_the_hosts_own_or_refused(article: dict[str, Any], host: HostFacts) -> None:
    maps = [{"containerID": 0, "hostID": 1000, "size": 10}]
    article["linux"] |= {"uidMappings": maps, "gidMappings": maps}
    article["linux"]["namespaces"].append({"type": "user"})
    null = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 5}
    article["linux"]["devices"] = [null]
    plan = compile_plan(article, "/srv/r", host)
    assert [one["source"] for one in plan.ops if one.name == "BIND" and one["target"] == "/dev/null"] == ["/dev/null"]
    assert plan.warnings == ("/dev/null is the host's own node in a user namespace: fileMode, uid are its too",)
    for wrong in ({"minor": 5}, {"type": "b"}):
        article["linux"]["devices"] = [null | wrong]
        with pytest.raises(DefinitionError, match="/linux/devices/0: the host's /dev/null is another device"):
            compile_plan(article, "/srv/r", host)
    article["linux"]["devices"] = [null | {"path": "/dev/wharf-has-none"}]
    with pytest.raises(LaunchError, match="wharf-has-none"):
        compile_plan(article, "/srv/r", host)


def test_a_variable_that_stands_twice_has_its_last_value(article: dict[str, Any], host: HostFacts) -> None:
    article["process"]["env"] = ["A=1", "B=2", "A=3"]
    plan = compile_plan(article, "/srv/r", host)
    assert [one["text"] for one in plan.ops if one.name == "ENV"] == ["B=2", "A=3"]


def test_a_capability_that_the_host_cannot_give_is_told(article: dict[str, Any], host: HostFacts) -> None:
    host = replace(host, bounding=host.bounding - {"CAP_KILL"})
    plan = compile_plan(article, "/srv/r", host)
    caps = next(one for one in plan.ops if one.name == "CAPS")
    assert caps["bounding"] == 1 << 29 | 1 << 10
    assert plan.warnings[0] == "this host cannot give CAP_KILL (bounding)"


def test_no_capabilities_in_a_bundle_are_none(article: dict[str, Any], host: HostFacts) -> None:
    del article["process"]["capabilities"]
    caps = next(one for one in compile_plan(article, "/srv/r", host).ops if one.name == "CAPS")
    assert caps.values == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("word", "during", "after"),
    [
        ("", linux.MS_SLAVE | linux.MS_REC, None),
        ("rprivate", linux.MS_PRIVATE | linux.MS_REC, None),
        ("rslave", linux.MS_SLAVE | linux.MS_REC, None),
        ("shared", linux.MS_SLAVE | linux.MS_REC, linux.MS_SHARED),
        ("unbindable", linux.MS_SLAVE | linux.MS_REC, linux.MS_UNBINDABLE),
    ],
)
def test_root_propagation(article: dict[str, Any], host: HostFacts, word: str, during: int, after: int | None) -> None:
    article["root"]["readonly"] = False
    article["linux"]["rootfsPropagation"] = word
    ops = compile_plan(article, "/srv/r", host).ops
    assert next(one for one in ops if one.name == "ROOT")["propagation"] == during
    attributes = next(one for one in ops if one.name == "ROOTATTR")
    assert attributes.values == (linux.MOUNT_ATTR_NODEV, after or 0)


@pytest.mark.parametrize("rootfs", ["rootfs", "/", "/.."])
def test_a_root_must_be_a_path_of_its_own(article: dict[str, Any], host: HostFacts, rootfs: str) -> None:
    with pytest.raises(DefinitionError, match="/root/path"):
        compile_plan(article, rootfs, host)


def test_exec_is_as_confined_as_init(host: HostFacts) -> None:
    spec = full(Path("/srv/web"), host, seccomp="default", cap_drop=["CHOWN"])
    names = [one.name for one in compile_exec(spec, ["sh"], user="0").ops]
    assert {"NNP", "SECCOMP", "RLIMIT", "OOMADJ"} <= set(names)
    caps = next(one for one in compile_exec(spec, ["sh"], user="0").ops if one.name == "CAPS")
    assert isinstance(caps["effective"], int)
    assert caps["effective"] == caps["bounding"]
    assert not caps["effective"] & 1
    assert next(one for one in compile_exec(spec, ["sh"], user="7").ops if one.name == "CAPS")["effective"] == 0


def test_exec_keeps_the_containers_variables(host: HostFacts) -> None:
    spec = full(Path("/srv/web"), host)
    env = [one["text"] for one in compile_exec(spec, ["sh"], {"SECRET": "other"}).ops if one.name == "ENV"]
    assert "SECRET=other" in env
    assert "SECRET=hunter2" not in env
    assert any(str(e).startswith("PATH=") for e in env)


@pytest.mark.parametrize(
    ("own", "given", "term"),
    [
        ([], None, "TERM=xterm"),
        (["TERM=vt100"], None, "TERM=vt100"),
        ([], {"TERM": "linux"}, "TERM=linux"),
        (["TERM=vt100"], {"TERM": "linux"}, "TERM=linux"),
    ],
)
def test_an_exec_on_a_terminal_knows_its_type(
    host: HostFacts, own: list[str], given: dict[str, str] | None, term: str
) -> None:
    spec = full(Path("/srv/web"), host)
    spec["process"]["env"] = ["PATH=/bin", *own]
    ops = compile_exec(spec, ["sh"], given, terminal=(24, 80)).ops
    assert [one["text"] for one in ops if one.name == "ENV" and str(one["text"]).startswith("TERM=")] == [term]
    assert next((one["rows"], one["columns"]) for one in ops if one.name == "CONSOLE") == (24, 80)


def test_exec_of_nothing_is_refused(host: HostFacts) -> None:
    with pytest.raises(DefinitionError, match="nothing to run"):
        compile_exec(full(Path("/srv/web"), host), [])
