"""How much room a tree takes: each file once, nothing outside of it, bounded, and nothing left open."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor import space


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


def du(path: Path) -> int:
    done = subprocess.run(["du", "-sx", "-B1", path], capture_output=True, check=True, text=True)
    return int(done.stdout.split()[0])


def test_it_is_what_du_says(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    for number in range(300):
        (tree / f"a/f{number}").write_bytes(b"x" * number * 31)
    os.link(tree / "a/f299", tree / "a/b/linked")
    os.truncate(tree / "a/b/linked", 9 << 20)  # mostly a hole
    (tmp_path / "outside").write_bytes(b"y" * 100_000)
    (tree / "a/out").symlink_to(tmp_path / "outside")
    (tree / "a/up").symlink_to(tmp_path)
    os.mkfifo(tree / "a/fifo")
    assert space.measure(tree) == du(tree)


def test_a_name_of_any_bytes_is_counted(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe\n"
    os.mkdir(path)
    with open(path + b"/\x80", "wb") as file:
        file.write(b"z" * 70_000)
    assert space.measure(tmp_path) == du(tmp_path)


def test_too_many_entries_or_levels_are_unknown(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"f{number}").touch()
    assert space.measure(tmp_path, entries_max=20) is not None
    assert space.measure(tmp_path, entries_max=19) is None
    deep = tmp_path / "deep"
    deep.joinpath(*["d"] * space.DEPTH_MAX).mkdir(parents=True)
    assert space.measure(deep) is None


def test_what_is_not_there_is_unknown(tmp_path: Path) -> None:
    assert space.measure(tmp_path / "none") is None
    (tmp_path / "file").touch()
    assert space.measure(tmp_path / "file") is None


def test_another_file_system_is_not_entered() -> None:
    if not os.path.ismount("/dev/shm") or os.stat("/dev").st_dev == os.stat("/dev/shm").st_dev:
        pytest.skip("/dev/shm is no mount of its own")
    assert space.measure("/dev") == du(Path("/dev"))


def test_a_tree_that_changes_underneath_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        (tmp_path / f"d{number}").mkdir()
    real = os.open

    def gone(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        if dir_fd is not None:
            os.rmdir(path, dir_fd=dir_fd)
        return real(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", gone)
    assert space.measure(tmp_path) is not None
