"""Ways out that go by /proc: something that only looks like it, magic links, fds of the host; the CVEs of others."""

# ruff: noqa: ASYNC220, ASYNC240 (tests look at a real kernel)

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from config.errors import LaunchError
from runtime import launchlink, linux, shim, wire
from runtime.wire import Op, op
from tests.kernel import shimkit
from tests.kernel.canary import TOKEN, Canary
from tests.kernel.shimkit import Lab, exec_ops, root_ops, self_ops

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]

CREATING, CREATE_CONTAINER = 0, 2
NO_DIRECTORY = (errno.ENOENT, errno.ENOTDIR)  # not EXDEV: nothing is found outside, since nothing is there
FAKE_PROC = """#!/bin/sh
mount -t tmpfs none /proc && mkdir -p /proc/self/attr/apparmor || exit 9
: >/proc/self/attr/exec; : >/proc/self/attr/apparmor/exec
"""


@pytest.mark.parametrize("label", ["APPARMOR", "SELINUX"])
async def test_a_label_is_written_to_a_real_proc_only(lab: Lab, tmp_path: Path, label: str) -> None:
    """CVE-2019-16884, CVE-2025-52881. What stands at /proc when labels are set was mounted there by a hook."""
    hook = tmp_path / "hook"
    hook.write_text(FAKE_PROC)
    hook.chmod(0o755)
    ops = root_ops(lab.root)
    hooks = [
        op("STATE", kind=CREATING, prefix='{"pid": ', suffix="}"),
        op("HOOK", kind=CREATE_CONTAINER, timeout_ms=9000, path=str(hook)),
        op("HOOKENV", text=f"PATH={os.environ['PATH']}"),
    ]
    ops = [ops[0], *hooks, op(label, label="confined"), *ops[1:]]
    with pytest.raises(LaunchError) as caught:
        await lab.start([*ops, *self_ops(), *exec_ops("true")])
    assert (caught.value.operation, caught.value.path, caught.value.errno) == (label, "/proc", errno.EXDEV)
    assert Path("/proc/self/stat").exists()  # the hook's mount was the container's


@pytest.mark.parametrize("program", ["wharf-shim", "wharf-launch"])
def test_our_programs_do_not_start_with_another_proc(lab: Lab, program: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        script = f"mount -t tmpfs none /proc && exec {lab.shim_path.with_name(program)} 3<&0"
        ran = subprocess.run(
            ["unshare", "-m", "sh", "-c", script], stdin=theirs.fileno(), capture_output=True, timeout=20, check=False
        )
        theirs.close()
        ours.settimeout(20)
        assert ours.recv(1) == b""  # the shim leaves its starter at once: its end tells
    assert ran.returncode == (2 if program == "wharf-launch" else 0)


@contextmanager
def open_fds(path: Path, count: int) -> Iterator[list[int]]:
    """As many fds of a directory, which a child inherits."""
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(count)]
    for fd in fds:
        os.set_inheritable(fd, True)
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


async def test_no_fd_of_the_host_is_a_working_directory(lab: Lab, tmp_path: Path) -> None:
    """CVE-2024-21626, CVE-2016-9962."""
    canary = Canary(tmp_path / "canary", tmp_path)
    with open_fds(canary.path / "dir", 12) as fds:
        for fd in [*range(3, 12), *fds[-2:]]:
            for tail in ("", "/../file"):
                lab.generation += 1
                cwd = f"/proc/self/fd/{fd}{tail}"
                with pytest.raises(LaunchError) as caught:
                    await lab.start([*root_ops(lab.root), *self_ops(cwd=cwd), *exec_ops("true")])
                assert (caught.value.operation, caught.value.path) == ("CWD", cwd)
                assert caught.value.errno in NO_DIRECTORY
        lab.generation += 1
        running = await lab.start([*root_ops(lab.root), *self_ops(), *exec_ops("sleep", "1000")])
        try:
            for fd in range(3, 10):
                for tail in ("", "/.."):
                    error = await exec_error(running, f"/proc/self/fd/{fd}{tail}")
                    assert error.operation == "CWD"
                    assert error.errno in NO_DIRECTORY
        finally:
            await running.signal(9)
            await running.wait_gone()
            running.close()
        assert not canary.changed()


async def exec_error(running: shim.Shim, cwd: str) -> LaunchError:
    """What refused it."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        packed = wire.encode([op("JOIN", flags=shimkit.NAMESPACES), *self_ops(cwd=cwd), *exec_ops("true")])
        with anyio.fail_after(10), pytest.raises(LaunchError) as caught:
            await running.exec(packed, null, null, null)
        return caught.value
    finally:
        os.close(null)


async def test_in_the_hosts_pid_namespace_roots_of_others_are_not_reached(lab: Lab, tmp_path: Path) -> None:
    """There /proc has processes of the host, whose magic links lead out."""
    canary = Canary(tmp_path / "canary", tmp_path)
    stranger = subprocess.Popen(["sleep", "60"], cwd=canary.path)
    spaces = shimkit.NAMESPACES & ~linux.CLONE_NEWPID
    try:
        for link in ("root", "cwd"):
            out = f"/proc/{stranger.pid}/{link}"
            below = f"{canary.path}/dir" if link == "root" else "/dir"
            for name, extra, late, cwd in cases(out, below):
                lab.generation += 1
                ops = root_ops(lab.root, namespaces=spaces, extra=extra, late=late)
                with pytest.raises(LaunchError) as caught:
                    await lab.start([*ops, *self_ops(cwd=cwd), *exec_ops("true")])
                assert caught.value.operation == name, caught.value
                assert caught.value.errno == (errno.EXDEV if name == "CWD" else errno.ELOOP), caught.value
        assert not canary.changed()
    finally:
        stranger.kill()
        stranger.wait()


def cases(out: str, below: str) -> list[tuple[str, list[Op], list[Op], str]]:
    at = out + below
    return [
        ("CWD", [], [], at),
        ("MOUNT", [shimkit.mount("tmpfs", at)], [], "/"),
        ("BIND", [shimkit.bind("/etc/hostname", f"{at}/file", flags=wire.BIND_FILE)], [], "/"),
        ("DEVNODE", [shimkit.node(f"{at}/null", 3)], [], "/"),
        ("SYMLINK", [op("SYMLINK", target="x", path=f"{at}/x")], [], "/"),
        ("MASK", [], [op("MASK", path=f"{at}/file")], "/"),
        ("READONLY", [], [op("READONLY", path=at)], "/"),
    ]


async def test_a_huge_file_below_a_tmpfs_stays_a_hole(lab: Lab) -> None:
    data = lab.root / "data"
    data.mkdir()
    with (data / "image").open("wb") as file:
        file.truncate(1 << 42)
        file.seek(1 << 41)
        file.write(b"amid\n")
    (data / "small").write_text("whole\n")
    extra = [shimkit.mount("tmpfs", "/data", data="size=4m", flags=wire.MOUNT_CREATE | wire.MOUNT_COPY_UP)]
    script = (
        "stat -c %s /data/image; cat /data/small; dd if=/data/image bs=1M skip=2097152 count=1 2>/dev/null | head -n 1"
    )
    with anyio.fail_after(20):
        record, text = await lab.run([*root_ops(lab.root, extra=extra), *self_ops(), *exec_ops("sh", "-c", script)])
    assert (record.status, text.split("\0")[0]) == (0, f"{1 << 42}\nwhole\namid\n")
    lab.generation += 1
    (data / "dense").write_bytes(b"x" * (5 << 20))
    with pytest.raises(LaunchError) as caught:
        await lab.start([*root_ops(lab.root, extra=extra), *self_ops(), *exec_ops("true")])
    assert (caught.value.operation, caught.value.path, caught.value.errno) == ("MOUNT", "dense", errno.ENOSPC)


async def test_a_name_of_the_image_cannot_forge_a_line(lab: Lab) -> None:
    """It is told in a fault, on one line, without its control characters."""
    name = "x\n2026-01-01 forged\x1b[2J"
    (lab.root / "data").mkdir()
    (lab.root / "data" / name).write_bytes(b"x" * 100_000)
    extra = [shimkit.mount("tmpfs", "/data", data="size=8k", flags=wire.MOUNT_CREATE | wire.MOUNT_COPY_UP)]
    with pytest.raises(LaunchError) as caught:
        await lab.start([*root_ops(lab.root, extra=extra), *self_ops(), *exec_ops("true")])
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value).isprintable()
    assert "forged" in str(caught.value)


@pytest.mark.parametrize("thing", ["the host's", "a file"])
async def test_a_container_without_a_devpts_of_its_own_gets_no_terminal(lab: Lab, tmp_path: Path, thing: str) -> None:
    """CVE-2025-52565. What the image has as ptmx is not opened, also when it is a device."""
    canary = Canary(tmp_path / "canary", tmp_path)
    pts = lab.root / "dev/pts"
    pts.mkdir()
    if thing == "a file":
        (pts / "ptmx").write_text("x")
    else:
        os.mknod(pts / "ptmx", 0o20666, os.makedev(5, 2))
    (lab.root / "dev/console").symlink_to(canary.path / "console")
    base = root_ops(lab.root)
    ops: Sequence[Op] = [base[0], base[1], base[2], op("CONSOLE", rows=0, columns=0), op("PIVOT")]
    with pytest.raises(LaunchError) as caught:
        await lab.start([*ops, *self_ops(), *exec_ops("true")])
    assert (caught.value.operation, caught.value.errno) == ("CONSOLE", errno.ENODEV)
    assert not canary.changed()
    assert TOKEN in (canary.path / "console").read_text()


def test_a_launch_inherits_no_fd(lab: Lab, tmp_path: Path) -> None:
    canary = Canary(tmp_path / "canary", tmp_path)
    lab.leaf.mkdir(parents=True)
    read, write = os.pipe2(os.O_CLOEXEC)
    leaf = os.open(lab.leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with open_fds(canary.path, 20):
        plan = wire.encode([*root_ops(lab.root), *self_ops(), *exec_ops("ls", "/proc/self/fd")])
        tags = [(wire.TAG_CGROUP, leaf), (wire.TAG_STDOUT, write), (wire.TAG_STDERR, write)]
        one = launchlink.launch(lab.shim_path.with_name("wharf-launch"), plan, tags)
        os.close(write)
    with open(read, "rb") as file:
        assert file.read().split() == [b"0", b"1", b"2", b"3"]  # 3 is its own, of the directory that it lists
    os.close(one.pidfd)
    os.close(leaf)
