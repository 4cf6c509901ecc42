"""One directory fd, one read a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from config.errors import GoneError, HostError
from monitor import cgroup, readers
from monitor.cgroup import CgroupReader, Sample
from tests.fixtures import tree


def test_a_sample_has_the_kernels_own_bytes_and_answers_in_ints(tmp_path: Path) -> None:
    with CgroupReader(tree.build(tmp_path / "web", tree.cgroup(7))) as reader:
        sample = reader.read(cgroup.STAT_FILES + cgroup.PRESSURE_FILES + cgroup.LIMIT_FILES)
    assert sample.errors == ()
    assert sample.files["memory.peak"] == b"128000007\n"
    assert sample.number("memory.peak") == 128_000_007
    assert sample.limit("pids.max") == readers.NO_LIMIT
    assert sample.flat("memory.events")["oom_kill"] == 1
    assert sample.io()["253:1"]["wbytes"] == 4096
    assert sample.pressure("memory")["some"].total == 7


def test_a_missing_file_is_unknown_never_zero(tmp_path: Path) -> None:
    with CgroupReader(tree.build(tmp_path / "web", {"cgroup.procs": "", "cpu.stat": "usage_usec 5\n"})) as reader:
        sample = reader.read(cgroup.STAT_FILES)
    assert list(sample.files) == ["cpu.stat"]
    assert sample.errors == ()
    assert sample.number("memory.current") is None
    assert sample.limit("memory.max") is None
    assert sample.flat("memory.events") == {}


def test_a_removed_cgroup_is_gone_at_once_and_for_ever(tmp_path: Path) -> None:
    path = tree.build(tmp_path / "web", tree.cgroup())
    reader = CgroupReader(path)
    tree.remove(path)
    tree.build(path, tree.cgroup())
    with pytest.raises(GoneError):
        reader.read()
    reader.close()
    reader.close()
    with pytest.raises(GoneError, match="closed"):
        reader.read()


def test_no_such_cgroup_is_gone_and_another_failure_is_the_hosts(tmp_path: Path) -> None:
    with pytest.raises(GoneError):
        CgroupReader(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(HostError):
        CgroupReader(tmp_path / "file")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOMEM])
def test_another_errno_costs_that_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = cgroup.read_at

    def read_at(fd: int, name: str) -> bytes:
        if name == "io.stat":
            raise OSError(number, os.strerror(number))
        return real(fd, name)

    monkeypatch.setattr(cgroup, "read_at", read_at)
    with CgroupReader(tree.build(tmp_path / "web", tree.cgroup())) as reader:
        sample = reader.read()
    assert sample.errors == (("io.stat", number),)
    assert set(sample.files) == set(cgroup.STAT_FILES) - {"io.stat"}


def test_enodev_means_that_the_cgroup_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_at(fd: int, name: str) -> bytes:
        raise OSError(errno.ENODEV, "gone")

    monkeypatch.setattr(cgroup, "read_at", read_at)
    with CgroupReader(tree.build(tmp_path / "web", tree.cgroup())) as reader, pytest.raises(GoneError):
        reader.read()


def test_a_leaf_that_went_is_missing_and_its_parent_is_not_gone(tmp_path: Path) -> None:
    with CgroupReader(tree.build(tmp_path / "web", tree.cgroup())) as reader:
        assert reader.read(("g1/cgroup.procs", "g2/cgroup.procs")) == Sample({"g1/cgroup.procs": b"1000\n1001\n"})


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    path = tree.build(tmp_path / "web", tree.cgroup())
    (path / "io.stat").unlink()
    (path / "io.stat").symlink_to("/etc/hostname")
    with CgroupReader(path) as reader:
        assert reader.read(("io.stat",)).errors == (("io.stat", errno.ELOOP),)


def test_a_long_file_is_read_whole(tmp_path: Path) -> None:
    data = b"".join(b"%d\n" % pid for pid in range(100_000))
    with CgroupReader(tree.build(tmp_path / "web", {"cgroup.procs": data})) as reader:
        assert reader.read(("cgroup.procs",)).files["cgroup.procs"] == data


def test_reading_leaks_no_fd(tmp_path: Path) -> None:
    path = tree.build(tmp_path / "web", tree.cgroup())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with CgroupReader(path) as reader:
            reader.read()
    assert len(os.listdir("/proc/self/fd")) == before
