"""What bundles of other programs ask for, from config.json to a running container."""

# ruff: noqa: ASYNC240 (tests look at a real kernel)

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.errors import LaunchError
from runtime.plan import compile_plan
from runtime.probe import HostFacts, probe
from tests.kernel.shimkit import Lab

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]
# 6.1, without time namespaces, and no id maps or devices on the tmpfs that the tests' directories lie on
host_only = pytest.mark.skipif(os.environ.get("WHARFINGER_VM") == "1", reason="not in the guest's kernel or its /tmp")

Spec = dict[str, Any]
MAPS = [{"containerID": 0, "hostID": 200000, "size": 65536}]


@pytest.fixture(scope="module")
def host() -> HostFacts:
    return probe()


def bundle(script: str, *, namespaces: tuple[str, ...] = ("pid", "mount", "ipc", "uts", "network")) -> Spec:
    """A small config.json as engines write them: all capabilities that matter, no seccomp."""
    caps = ["CAP_SYS_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_NICE"]
    return {
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {
            "args": ["/bin/sh", "-c", script],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), caps),
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in namespaces]},
    }


def add_mount(spec: Spec, target: str, fstype: str, *options: str, source: object = None, **more: Any) -> None:
    entry = {"destination": target, "type": fstype, "options": list(options), **more}
    spec["mounts"].append(entry if source is None else {**entry, "source": str(source)})


async def run(lab: Lab, host: HostFacts, spec: Spec) -> tuple[int, list[str]]:
    record, text = await lab.run(compile_plan(spec, lab.root, host).ops)
    return record.status, text.splitlines()


def own_root(lab: Lab, uid: int) -> None:
    for path in [lab.root, *lab.root.rglob("*")]:
        os.chown(path, uid, uid, follow_symlinks=False)
    for path in list(lab.root.parents)[:3]:
        path.chmod(0o755)


@pytest.fixture
def held() -> Iterator[int]:
    """A process in namespaces of its own; its pid in ours."""
    names = ["--net", "--ipc", "--uts", "--pid", "--cgroup"]
    command = ["unshare", *names, "--fork", "--kill-child", "sh", "-c", "hostname joined; echo; exec sleep 1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield int(children[0])
    finally:
        process.kill()
        process.wait(timeout=10)
        if process.stdout:
            process.stdout.close()


async def test_namespaces_are_joined_by_path(lab: Lab, host: HostFacts, held: int) -> None:
    kinds = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid", "cgroup": "cgroup"}
    spec = bundle("hostname; for n in net ipc uts pid cgroup; do readlink /proc/self/ns/$n; done; ls -d /proc/1")
    joined = [{"type": kind, "path": f"/proc/{held}/ns/{name}"} for kind, name in kinds.items()]
    spec["linux"]["namespaces"] = [{"type": "mount"}, *joined]
    code, lines = await run(lab, host, spec)
    assert (code, lines[0]) == (0, "joined")
    assert lines[1:6] == [os.readlink(f"/proc/{held}/ns/{name}") for name in kinds.values()]


async def test_a_user_namespace_is_joined_by_path(lab: Lab, host: HostFacts) -> None:
    own_root(lab, 200000)
    first = bundle("sleep 1000")
    first["linux"]["namespaces"].append({"type": "user"})
    first["linux"] |= {"uidMappings": MAPS, "gidMappings": MAPS}
    running = await lab.start(compile_plan(first, lab.root, host).ops)
    try:
        second = Lab(lab.shim_path, lab.root, lab.top, lab.run_dir / "b", lab.log_dir / "b", "second")
        for path in (second.run_dir, second.log_dir, second.parent):
            path.mkdir()
        spec = bundle("readlink /proc/self/ns/user; id -u; echo $$; touch /tmp/mine; echo x > /dev/null; hostname new")
        spec["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{running.pid}/ns/user"})
        expected = os.readlink(f"/proc/{running.pid}/ns/user")
        assert await run(second, host, spec) == (0, [expected, "0", "1"])
        assert (lab.root / "tmp/mine").stat().st_uid == 200000
        spec["process"]["cwd"] = "/bin/sh"
        with pytest.raises(LaunchError, match="CWD"):
            await run(second, host, spec)
        spec["linux"]["namespaces"][-1]["path"] = f"/proc/{running.pid}/ns/net"
        with pytest.raises(LaunchError, match="setns user"):
            await run(second, host, spec)
    finally:
        await running.signal(signal.SIGKILL)
        await running.wait_gone()
        running.close()


async def test_a_namespace_of_another_kind_or_none_is_refused(lab: Lab, host: HostFacts) -> None:
    for path, error in (("/proc/self/ns/ipc", 22), ("/proc/self/ns/none", 2), ("/dev/null", 22)):
        spec = bundle("true", namespaces=("mount",))
        spec["linux"]["namespaces"].append({"type": "network", "path": path})
        with pytest.raises(LaunchError) as caught:
            await run(lab, host, spec)
        assert (caught.value.operation, caught.value.errno) == ("JOINNS", error)


@host_only
async def test_clocks_of_a_time_namespace_are_shifted(lab: Lab, host: HostFacts) -> None:
    spec = bundle("cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets", namespaces=("mount", "pid", "time"))
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": 7}}
    code, lines = await run(lab, host, spec)
    assert code == 0
    assert int(lines[0]) > 1_000_000
    assert [line.split() for line in lines[1:]] == [["monotonic", "7", "0"], ["boottime", "1000000", "5"]]
    code, lines = await run(lab, host, bundle("readlink /proc/self/ns/time"))  # and the shim's own is the host's again
    assert lines[-1] == os.readlink("/proc/self/ns/time")


def share(top: Path) -> None:
    subprocess.run(["mount", "--make-rshared", top], check=True)


def make_mount_tree(top: Path) -> None:
    """A private mount with another below it, as sources of recursive binds."""
    for path in (top, top / "sub"):
        path.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "test", path], check=True)
    (top / "sub/file").write_text("x")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    top = tmp_path / "tree"
    make_mount_tree(top)
    try:
        yield top
    finally:
        subprocess.run(["umount", "-R", "-l", top], check=True)


async def test_recursive_attributes_reach_the_mounts_below(lab: Lab, host: HostFacts, tree: Path) -> None:
    spec = bundle("grep ' /[abc]' /proc/self/mountinfo | cut -d' ' -f5,6")
    add_mount(spec, "/a", "bind", "rbind", "rro", "nosuid", source=tree)
    add_mount(spec, "/b", "bind", "rbind", "ro", source=tree)
    add_mount(spec, "/c", "bind", "rbind", source=tree)
    add_mount(spec, "/c", "bind", "remount", "rnoexec", "noatime", source="none")
    code, lines = await run(lab, host, spec)
    found = {line.split()[0]: set(line.split()[1].split(",")) for line in lines}
    assert code == 0
    assert {"ro", "nosuid"} <= found["/a"]
    assert "ro" in found["/a/sub"]
    assert "nosuid" not in found["/a/sub"]
    assert "ro" in found["/b"]
    assert "rw" in found["/b/sub"]
    assert {"noexec", "noatime"} <= found["/c"]
    assert {"noexec", "relatime"} <= found["/c/sub"]


@pytest.mark.parametrize(
    ("word", "expected"), [("", "master"), ("rprivate", ""), ("rslave", "master"), ("rshared", "shared")]
)
async def test_propagation_of_a_bind(lab: Lab, host: HostFacts, tree: Path, word: str, expected: str) -> None:
    share(tree)
    spec = bundle("grep ' /a/sub ' /proc/self/mountinfo")
    add_mount(spec, "/a", "bind", "rbind", *([word] if word else []), source=tree)
    code, lines = await run(lab, host, spec)
    tags = [tag.partition(":")[0] for tag in lines[0].split(" - ")[0].split()[6:]]
    assert code == 0
    assert tags == ([expected] if expected else [])


async def test_a_mount_in_a_shared_bind_reaches_the_host(lab: Lab, host: HostFacts, tree: Path) -> None:
    share(tree)
    spec = bundle("mkdir /a/new && mount -t tmpfs new /a/new && touch /a/new/seen")
    add_mount(spec, "/a", "bind", "rbind", "rshared", source=tree)
    code, lines = await run(lab, host, spec)
    assert (code, lines) == (0, [])
    assert os.listdir(tree / "new") == ["seen"]


@pytest.mark.parametrize(
    ("word", "tags"), [("private", []), ("slave", []), ("shared", ["shared"]), ("unbindable", ["unbindable"])]
)
async def test_propagation_of_the_root_and_of_a_new_file_system(
    lab: Lab, host: HostFacts, word: str, tags: list[str]
) -> None:
    spec = bundle("grep -E ' (/|/new) ' /proc/self/mountinfo")
    spec["linux"]["rootfsPropagation"] = word
    add_mount(spec, "/new", "tmpfs", word)
    code, lines = await run(lab, host, spec)
    found = {line.split()[4]: [t.partition(":")[0] for t in line.split(" - ")[0].split()[6:]] for line in lines}
    assert code == 0
    assert found["/new"] == tags
    assert [tag for tag in found["/"] if tag != "master"] == tags


async def test_a_tmpfs_begins_with_what_the_image_has_there(lab: Lab, host: HostFacts) -> None:
    data = lab.root / "data"
    (data / "deep/er").mkdir(parents=True)
    (data / "deep/er/file").write_text("text" * 5000)
    (data / "link").symlink_to("/etc/passwd")
    os.mkfifo(data / "pipe", 0o600)
    os.chown(data / "deep/er/file", 5, 6)
    (data / "deep/er/file").chmod(0o4710)
    data.chmod(0o1770)
    script = "cd /data; stat -c '%n %a %u:%g %s %F' . deep/er/file pipe; readlink link; touch x"
    spec = bundle(f"{script}; cd /plain; stat -c %a .; ls | wc -l; touch /ro/x || cat /ro/one")
    (lab.root / "plain").mkdir(mode=0o700)
    (lab.root / "plain/hidden").touch()
    (lab.root / "ro").mkdir()
    (lab.root / "ro/one").write_text("one\n")
    add_mount(spec, "/data", "tmpfs", "rw", "rprivate", "nosuid", "nodev", "tmpcopyup", source="tmpfs")
    add_mount(spec, "/plain", "tmpfs")
    add_mount(spec, "/ro", "tmpfs", "tmpcopyup", "ro")
    code, lines = await run(lab, host, spec)
    assert code == 0
    assert lines[0].split()[:3] == [".", "1770", "0:0"]
    assert lines[1] == "deep/er/file 4710 5:6 20000 regular file"
    assert lines[2].split()[:3] == ["pipe", "600", "0:0"]
    assert lines[3] == "/etc/passwd"
    assert lines[4:6] == ["700", "0"]  # the image's mode, where none is asked for
    assert "one" in lines  # two pipes: no order between them
    assert not (data / "x").exists()


async def test_what_does_not_fit_is_a_fault_that_names_it(lab: Lab, host: HostFacts) -> None:
    (lab.root / "data").mkdir()
    (lab.root / "data/large").write_bytes(bytes(1 << 20))
    spec = bundle("true")
    add_mount(spec, "/data", "tmpfs", "tmpcopyup", "size=64k")
    with pytest.raises(LaunchError, match=r"MOUNT: copy large|large") as caught:
        await run(lab, host, spec)
    assert caught.value.errno == 28


@host_only
async def test_ids_of_a_mount_are_mapped(lab: Lab, host: HostFacts, tree: Path) -> None:
    os.chown(tree / "sub/file", 5, 6)
    maps = [{"containerID": 0, "hostID": 1000, "size": 100}]
    spec = bundle("stat -c %u:%g /a/sub/file /b/sub/file /c/sub/file")
    add_mount(spec, "/a", "bind", "rbind", "ridmap", source=tree, uidMappings=maps, gidMappings=maps)
    add_mount(spec, "/b", "bind", "rbind", "idmap", source=tree, uidMappings=maps, gidMappings=maps)
    add_mount(spec, "/c", "bind", "rbind", source=tree)
    assert await run(lab, host, spec) == (0, ["1005:1006", "5:6", "5:6"])


@host_only
async def test_a_new_file_system_can_have_its_ids_mapped(lab: Lab, host: HostFacts) -> None:
    maps = [{"containerID": 0, "hostID": 1000, "size": 100}]
    spec = bundle("stat -c %u:%g /a /b")
    add_mount(spec, "/a", "tmpfs", "idmap", "uid=5,gid=6", uidMappings=maps, gidMappings=maps)
    add_mount(spec, "/b", "tmpfs", "uid=5,gid=6")
    assert await run(lab, host, spec) == (0, ["1005:1006", "5:6"])


@host_only
async def test_in_a_user_namespace_a_mount_with_its_maps_shows_plain_owners(
    lab: Lab, host: HostFacts, tree: Path
) -> None:
    own_root(lab, 200000)
    os.chown(tree / "sub/file", 5, 6)
    spec = bundle("stat -c %u:%g /a/sub/file /b/sub/file; cat /proc/self/uid_map | tr -s ' '")
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"] |= {"uidMappings": MAPS, "gidMappings": MAPS}
    add_mount(spec, "/a", "bind", "rbind", "ridmap", source=tree)
    add_mount(spec, "/b", "bind", "rbind", source=tree)
    code, lines = await run(lab, host, spec)
    assert (code, lines[:2]) == (0, ["5:6", "65534:65534"])


async def test_scheduling_priority_and_personality(lab: Lab, host: HostFacts) -> None:
    spec = bundle("uname -m; cut -d' ' -f19,41 /proc/self/stat")
    spec["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    spec["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    spec["linux"]["personality"] = {"domain": "LINUX32"}
    code, lines = await run(lab, host, spec)
    libc = ctypes.CDLL(None, use_errno=True)
    old = libc.personality(ctypes.c_ulong(0xFFFFFFFF))
    try:
        libc.personality(ctypes.c_ulong(8))
        expected = os.uname().machine
    finally:
        libc.personality(ctypes.c_ulong(old))
    assert (code, lines) == (0, [expected, "5 3"])


@host_only
async def test_with_nothing_at_dev_the_roots_own_is_filled(lab: Lab, host: HostFacts) -> None:
    (lab.root / "dev/null").write_text("a file of an image\n")
    (lab.root / "dev/fd").symlink_to("elsewhere")
    spec = bundle("echo x > /dev/null; stat -c %F /dev/null; readlink /dev/fd; head -c 3 /dev/zero | wc -c")
    spec["mounts"] = spec["mounts"][:1]
    code, lines = await run(lab, host, spec)
    assert (code, lines) == (0, ["character special file", "/proc/self/fd", "3"])


@host_only
async def test_devices_of_a_bundle_anywhere_in_its_root(lab: Lab, host: HostFacts) -> None:
    spec = bundle("stat -c '%n %a %t:%T %u' /opt/null /dev/one; echo x > /opt/null")
    spec["linux"]["devices"] = [
        {"path": "/opt/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o622},
        {"path": "/dev/one", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7},
    ]
    assert await run(lab, host, spec) == (0, ["/opt/null 622 1:3 0", "/dev/one 640 1:5 7"])


async def test_a_proc_of_the_host_can_be_bound_and_nothing_else_there(
    lab: Lab, host: HostFacts, tmp_path: Path
) -> None:
    spec = bundle("cat /proc/1/comm", namespaces=("mount",))
    spec["mounts"] = spec["mounts"][1:]
    add_mount(spec, "/proc", "bind", "rbind", source="/proc")
    code, lines = await run(lab, host, spec)
    assert (code, lines) == (0, [Path("/proc/1/comm").read_text().strip()])
    spec["mounts"][-1]["source"] = str(tmp_path)
    with pytest.raises(LaunchError, match="only a proc file system"):
        await run(lab, host, spec)


@host_only
async def test_a_foreign_file_system_takes_its_own_options(lab: Lab, host: HostFacts, tmp_path: Path) -> None:
    lower, name = tmp_path / "lower", f"f{uuid.uuid4().hex[:6]}"
    for path in (lower, tmp_path / "upper", tmp_path / "work"):
        path.mkdir()
    (lower / name).write_text("below\n")
    spec = bundle(f"cat /o/{name}; echo above > /o/{name}")
    options = [f"lowerdir={lower}", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"]
    add_mount(spec, "/o", "overlay", *options, source="overlay")
    assert await run(lab, host, spec) == (0, ["below"])
    assert (tmp_path / "upper" / name).read_text() == "above\n"
    spec["mounts"][-1]["options"].append("nonsense=1")
    with pytest.raises(LaunchError, match="nonsense"):
        await run(lab, host, spec)
