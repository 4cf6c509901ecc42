"""config.md: Root, Mounts; config-linux.md: masked and read-only paths, propagation."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.conformance.ocikit import Box, Seen

SET = {
    "ro": "ro", "nosuid": "nosuid", "nodev": "nodev", "noexec": "noexec", "noatime": "noatime",
    "nodiratime": "nodiratime", "relatime": "relatime",
}  # fmt: skip
CLEAR = {
    "rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "atime": "noatime", "diratime": "nodiratime",
    "norelatime": "noatime", "strictatime": "relatime", "async": "sync", "loud": "silent", "nolazytime": "lazytime",
    "nostrictatime": "noatime", "noiversion": "iversion", "silent": "ro", "defaults": "ro", "iversion": "ro",
}  # fmt: skip
SUPER = {"sync": "sync", "dirsync": "dirsync", "lazytime": "lazytime"}
PROPAGATION = {
    "private": set(), "slave": {"master"}, "shared": {"shared"}, "unbindable": {"unbindable"},
    "rprivate": set(), "rslave": {"master"}, "rshared": {"shared"}, "runbindable": {"unbindable"},
}  # fmt: skip


@pytest.mark.parametrize("absolute", [True, False])
def test_the_root_is_at_a_path_absolute_or_of_the_bundle(box: Box, absolute: bool) -> None:
    """config.md, "Root": path."""
    (box.rootfs / "mark").write_text("here")
    box.config["root"]["path"] = str(box.rootfs) if absolute else "rootfs"
    assert box.run("read:/mark").did == [(0, "here")]


@pytest.mark.parametrize("path", ["nosuch", "config.json", None])
def test_a_root_that_is_no_directory_is_refused(box: Box, path: str | None) -> None:
    """config.md, "Root": A directory MUST exist; root is REQUIRED."""
    box.config["root"] = {"path": path}
    if path is None:
        del box.config["root"]
    box.refused()


def test_a_readonly_root_cannot_be_written(box: Box) -> None:
    """config.md, "Root": readonly."""
    box.config["root"]["readonly"] = True
    assert box.run("create:/x", "create:/dev/x").did == [(errno.EROFS, ""), (0, "")]


def test_a_root_is_writable_by_default(box: Box) -> None:
    """config.md, "Root": readonly defaults to false."""
    assert box.run("create:/x").did == [(0, "")]
    assert (box.rootfs / "x").exists()


def test_nothing_of_the_host_is_mounted(plain: Seen) -> None:
    """config.md, "Mounts"."""
    assert set(plain.mounted()) == {"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys"}


def test_mounts_are_made_in_the_listed_order(box: Box) -> None:
    """config.md, "Mounts": MUST mount entries in the listed order."""
    for target in ("/mnt", "/mnt/a", "/mnt/a/b", "/mnt"):
        box.mount(target)
    assert [t for t in box.run("list:/mnt").mounted() if t.startswith("/mnt")] == ["/mnt", "/mnt/a", "/mnt/a/b", "/mnt"]


@pytest.mark.parametrize("target", ["/new/deep/er", "mnt", "new"])
def test_a_destination_may_be_missing_or_relative(box: Box, target: str) -> None:
    """config.md, "Mounts": relative MUST be interpreted as relative to "/"."""
    box.mount(target)
    assert box.run().mount("/" + target.lstrip("/")).type == "tmpfs"


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_bind_mount_shows_its_source(box: Box, relative: bool, kind: str) -> None:
    """config.md, "Mounts": source absolute or relative to the bundle."""
    source = box.bundle / "source"
    if kind == "file":
        source.write_text("mine")
    else:
        source.mkdir()
        (source / "f").write_text("mine")
    box.mount("/data", "none", "source" if relative else str(source), ("bind",))
    assert box.run("read:/data" + ("/f" if kind == "directory" else "")).did == [(0, "mine")]


@pytest.mark.parametrize("option", ["ro", "nosuid", "nodev", "noexec", "noatime"])
def test_a_bind_mount_has_its_options(box: Box, option: str) -> None:
    """config.md, "Linux mount options"."""
    box.mount("/mnt", "none", str(box.bundle), ("rbind", option))
    assert option in box.run().mount("/mnt").options


@pytest.mark.parametrize("option", list(SET))
def test_an_option_is_set(box: Box, option: str) -> None:
    """config.md, "Linux mount options"."""
    box.mount("/mnt", options=(option,))
    assert SET[option] in box.run().mount("/mnt").options


@pytest.mark.parametrize("option", list(CLEAR))
def test_an_option_is_taken_and_sets_nothing_else(box: Box, option: str) -> None:
    """config.md, "Linux mount options"."""
    box.mount("/mnt", options=(option,))
    mount = box.run().mount("/mnt")
    assert CLEAR[option] not in mount.options | mount.data


@pytest.mark.parametrize("option", list(SUPER))
def test_an_option_of_the_file_system_is_set(box: Box, option: str) -> None:
    """config.md, "Linux mount options"."""
    box.mount("/mnt", options=(option,))
    assert SUPER[option] in box.run().mount("/mnt").data


def test_the_later_of_two_options_wins(box: Box) -> None:
    """config.md, "Linux mount options", as mount(8)."""
    box.mount("/mnt", options=("ro", "rw", "exec", "noexec"))
    assert {"rw", "noexec"} <= box.run().mount("/mnt").options


@pytest.mark.parametrize("option", list(PROPAGATION))
def test_the_propagation_of_a_mount(box: Box, option: str) -> None:
    """config.md, "Linux mount options"; a slave without a master is private."""
    box.mount("/mnt", options=(option,))
    assert box.run().mount("/mnt").tags - {"master"} == PROPAGATION[option] - {"master"}


@pytest.mark.parametrize("option", ["size=64k", "mode=711", "nr_inodes=77"])
def test_other_options_are_data_of_the_file_system(box: Box, option: str) -> None:
    """config.md, "Linux mount options": unknown options are filesystem-specific."""
    box.mount("/mnt", options=(option,))
    assert option in box.run().mount("/mnt").data


@pytest.mark.parametrize(
    ("type", "source", "options"),
    [
        ("nosuchfs", "none", ()),
        ("none", "/no/such/source", ("bind",)),
        ("tmpfs", "tmpfs", ("nosuchoption=1",)),
        ("none", "/tmp", ("bind", "idmap")),
    ],
    ids=["type", "source", "option", "idmap without a mapping"],
)
def test_a_mount_that_cannot_be_is_an_error(box: Box, type: str, source: str, options: tuple[str, ...]) -> None:  # noqa: A002
    """runtime.md, "Create"; config.md, "Linux mount options": idmap."""
    box.mount("/mnt", type, source, options)
    box.refused()


@pytest.mark.parametrize("type", ["proc", "sysfs", "devpts", "mqueue", "tmpfs"])
def test_a_file_system_of_the_kernel_can_be_mounted(box: Box, type: str) -> None:  # noqa: A002
    """config.md, "Mounts"; config-linux.md, "Default Filesystems"."""
    box.mount("/mnt", type, type)
    assert box.run().mount("/mnt").type == type


def test_a_destination_by_a_link_stays_in_the_root(box: Box, tmp_path: Path) -> None:
    """config.md, "Mounts": destination is a path inside the container."""
    (box.rootfs / "trap").symlink_to(tmp_path)
    box.mount("/trap/x")
    assert f"{tmp_path}/x" in box.run().mounted()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_masked_path_cannot_be_read(box: Box, kind: str) -> None:
    """config-linux.md, "Masked Paths"."""
    secret = box.rootfs / "secret"
    if kind == "file":
        secret.write_text("x")
    else:
        secret.mkdir()
        (secret / "f").write_text("x")
    box.linux["maskedPaths"] = ["/secret", "/no/such"]
    seen = box.run("read:/secret" if kind == "file" else "list:/secret", "create:/secret/g")
    assert seen.did[0] in [(0, ""), (errno.EACCES, "")]
    assert seen.did[1][0] != 0


@pytest.mark.parametrize("path", ["/etc", "/etc/f", "/proc/sys"])
def test_a_readonly_path_cannot_be_written(box: Box, path: str) -> None:
    """config-linux.md, "Readonly Paths"."""
    (box.rootfs / "etc/f").write_text("x")
    box.linux["readonlyPaths"] = [path, "/no/such"]
    target = "/proc/sys/kernel/msgmax" if path == "/proc/sys" else "/etc/f"
    seen = box.run(f"write:{target}:1", f"open:{target}", "create:/tmp/g")
    assert [n for n, _ in seen.did] == [errno.EROFS, 0, 0]


@pytest.mark.parametrize(
    ("value", "tag"), [("shared", "shared"), ("private", ""), ("unbindable", "unbindable"), ("slave", "")]
)
def test_the_propagation_of_the_root(box: Box, value: str, tag: str) -> None:
    """config-linux.md, "Rootfs Mount Propagation"."""
    box.linux["rootfsPropagation"] = value
    tags = box.run().mount("/").tags - {"master"}
    assert tags == ({tag} if tag else set())


def test_an_unknown_propagation_of_the_root_is_refused(box: Box) -> None:
    """config.md, "Valid values"."""
    box.linux["rootfsPropagation"] = "nosuch"
    box.refused()
