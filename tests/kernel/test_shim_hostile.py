"""A root made to harm the host: nothing outside of it is touched or reached."""

# ruff: noqa: ASYNC240 (tests look at a real kernel)

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from config.errors import LaunchError
from runtime import linux, wire
from runtime.wire import Op, op
from tests.kernel import shimkit
from tests.kernel.shimkit import Lab, exec_ops, root_ops, self_ops

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A directory of the host that must stay as it is."""
    path = tmp_path / "canary"
    (path / "dir").mkdir(parents=True)
    (path / "file").write_text("alive\n")
    return path


def state(path: Path) -> list[tuple[str, int, int, bytes]]:
    found = []
    for entry in sorted([path, *path.rglob("*")]):
        stat = entry.lstat()
        found.append((str(entry), stat.st_mode, stat.st_ino, entry.read_bytes() if entry.is_file() else b""))
    return found


def make_link(root: Path, at: str, to: str) -> None:
    place = root / at.lstrip("/")
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(to)


@pytest.mark.parametrize("where", ["/proc", "/dev", "/sys"])
@pytest.mark.parametrize("how", ["absolute", "relative", "inside"])
async def test_a_link_where_a_system_mount_belongs_is_refused(lab: Lab, canary: Path, where: str, how: str) -> None:
    up = "../" * 20
    to = {"absolute": f"{canary}/dir", "relative": f"{up}{canary}/dir", "inside": "/tmp"}[how]
    make_link(lab.root, where, to)
    before, mounts = state(canary), Path("/proc/self/mountinfo").read_text()
    extra = [shimkit.mount("sysfs", "/sys")]
    with pytest.raises(LaunchError) as caught:
        await lab.start([*root_ops(lab.root, extra=extra), *self_ops(), *exec_ops("true")])
    assert caught.value.errno == 40, caught.value  # ELOOP
    assert (state(canary), Path("/proc/self/mountinfo").read_text()) == (before, mounts)


@pytest.mark.parametrize("to", ["{canary}/dir", "../../../../../../../../../..{canary}/dir", "{canary}/missing/deep"])
@pytest.mark.parametrize("kind", ["tmpfs", "bind-dir", "bind-file"])
async def test_a_mount_through_a_link_stays_inside(lab: Lab, canary: Path, kind: str, to: str) -> None:
    make_link(lab.root, "/mnt", to.format(canary=canary))
    before = state(canary)
    extra: Op = {
        "tmpfs": shimkit.mount("tmpfs", "/mnt/sub/dir"),
        "bind-dir": shimkit.bind(lab.log_dir, "/mnt/sub/dir"),
        "bind-file": shimkit.bind("/etc/hostname", "/mnt/sub/file", flags=wire.BIND_FILE),
    }[kind]
    record, text = await lab.run([*root_ops(lab.root, extra=[extra]), *self_ops(), *exec_ops("cat", "/proc/mounts")])
    assert record.status == 0
    assert f"{canary}" in text  # the same path, but in the container's own root
    assert state(canary) == before
    assert (lab.root / str(canary).lstrip("/")).is_dir()


@pytest.mark.parametrize("leaf", ["/etc/target", "/etc/link/target"])
async def test_a_dangling_link_at_a_file_target_is_made_inside(lab: Lab, canary: Path, leaf: str) -> None:
    (lab.root / "run").mkdir()
    make_link(lab.root, "/etc/link", "../run")
    make_link(lab.root, leaf, f"{canary}/new")
    before = state(canary)
    extra = [shimkit.bind(canary / "file", leaf, flags=wire.BIND_FILE)]
    _, text = await lab.run([*root_ops(lab.root, extra=extra), *self_ops(), *exec_ops("cat", leaf)])
    assert text == "alive\n"
    assert state(canary) == before
    assert (lab.root / str(canary).lstrip("/") / "new").is_file()


async def test_links_without_end_are_refused(lab: Lab) -> None:
    make_link(lab.root, "/a", "/b")
    make_link(lab.root, "/b", "/a")
    with pytest.raises(LaunchError) as caught:
        await lab.start([*root_ops(lab.root, extra=[shimkit.mount("tmpfs", "/a")]), *self_ops(), *exec_ops("true")])
    assert (caught.value.operation, caught.value.errno) == ("MOUNT", 40)


@pytest.mark.parametrize("what", ["DEVNODE", "SYMLINK"])
async def test_nodes_and_links_of_dev_are_not_made_through_links(lab: Lab, canary: Path, what: str) -> None:
    """Without a tmpfs at /dev, which the plan compiler refuses; the launcher must hold by itself (CVE-2026-41579)."""
    make_link(lab.root, "/dev", f"{canary}/dir")
    before = state(canary)
    made = shimkit.node("/dev/null", 3) if what == "DEVNODE" else op("SYMLINK", target="x", path="/dev/x")
    base = root_ops(lab.root)
    ops = [base[0], base[1], made, op("PIVOT")]
    with pytest.raises(LaunchError) as caught:
        await lab.start([*ops, *self_ops(), *exec_ops("true")])
    assert (caught.value.operation, caught.value.errno) == (what, 40)
    assert state(canary) == before


@pytest.mark.parametrize("kind", ["link", "file", "other device"])
async def test_a_swapped_null_device_is_not_what_masks(lab: Lab, canary: Path, kind: str) -> None:
    """CVE-2025-31133: with no /dev of ours, the image's own "null" must not be what is put over a masked path."""
    null = lab.root / "dev/null"
    if kind == "link":
        null.symlink_to(canary / "file")
    elif kind == "file":
        null.write_text("image's\n")
    else:
        os.mknod(null, 0o20666, os.makedev(1, 5))
    (lab.root / "etc/key").write_text("secret\n")
    before = state(canary)
    base = root_ops(lab.root)
    ops = [base[0], base[1], base[2], op("PIVOT"), op("MASK", path="/etc/key"), op("MASK", path="/proc/keys")]
    script = "for f in /etc/key /proc/keys; do stat -c %t:%T $f; cat $f; done; stat -L -c %t:%T /proc/self/fd/0"
    _, text = await lab.run([*ops, *self_ops(), *exec_ops("sh", "-c", script)])
    assert text.splitlines()[:2] == ["1:3", "1:3"]
    assert text.splitlines()[2:] == ["1:3"]  # stdin is the host's, opened before
    assert state(canary) == before


@pytest.mark.parametrize("path", ["/proc/self/root/etc/passwd", "/proc/1/cwd"])
async def test_magic_links_are_not_followed(lab: Lab, path: str) -> None:
    for late in ([op("MASK", path=path)], [op("READONLY", path=path)]):
        with pytest.raises(LaunchError) as caught:
            await lab.start([*root_ops(lab.root, late=late), *self_ops(), *exec_ops("true")])
        assert caught.value.errno == 40


async def test_a_working_directory_outside_is_refused(lab: Lab, canary: Path) -> None:
    """CVE-2024-21626: no fd of a host directory is left to be a working directory."""
    for cwd in ("/proc/self/fd/3", "/proc/self/fd/7", "/proc/self/fd/8", "/proc/self/cwd/../../../.."):
        try:
            _, text = await lab.run([*root_ops(lab.root), *self_ops(cwd=cwd), *exec_ops("sh", "-c", "pwd; ls")])
        except LaunchError as error:
            assert error.operation == "CWD"  # noqa: PT017
            continue
        assert text.splitlines()[0] == "/"
        assert str(canary) not in text
        lab.log.unlink()
        lab.generation += 1


async def test_a_sysctl_is_written_to_a_proc_of_our_own(lab: Lab, canary: Path) -> None:
    """CVE-2019-16884: what the image has at /proc is never written to."""
    fake = lab.root / "proc/sys/net/ipv4"
    fake.mkdir(parents=True)
    (fake / "ip_unprivileged_port_start").symlink_to(canary / "file")
    before = state(canary)
    base = [one for one in root_ops(lab.root) if one.name != "MOUNT"]
    pivot = next(i for i, one in enumerate(base) if one.name == "PIVOT")
    base = [one for one in base[:pivot] if one.name not in ("DEVNODE", "SYMLINK")] + [
        op("SYSCTL", key="net.ipv4.ip_unprivileged_port_start", value="5"),
        op("PIVOT"),
    ]
    script = "mkdir -p /real; mount -t proc proc /real; cat /real/sys/net/ipv4/ip_unprivileged_port_start"
    caps = shimkit.DEFAULT_CAPS | 1 << linux.CAPABILITIES["CAP_SYS_ADMIN"]
    _, text = await lab.run([*base, *self_ops(caps=caps), *exec_ops("sh", "-c", script)])
    assert text == "5\n"
    assert state(canary) == before


async def test_an_image_that_runs_our_program_cannot_write_to_it(lab: Lab) -> None:
    """CVE-2019-5736: the image's program is a link to /proc/self/exe, which is the launcher's at that time."""
    before = lab.shim_path.read_bytes()
    make_link(lab.root, "/bin/self", "/proc/self/exe")
    if shimkit.SANITIZED:
        pytest.skip("a dynamic program cannot run in there")
    record, text = await lab.run([*root_ops(lab.root), *self_ops(), *exec_ops("/bin/self")])
    assert (record.status, text) == (2, "wharf-shim is started by wharfingerd, with a socket at fd 3\n")
    running = await lab.start([*root_ops(lab.root), *self_ops(), *exec_ops("sleep", "1000")])
    await running.hello()
    assert os.statvfs(f"/proc/{running.shim_pid}/exe").f_flag & os.ST_RDONLY  # also when it is not busy any more
    await running.signal(9)
    await running.wait_gone()
    running.close()
    assert lab.shim_path.read_bytes() == before
