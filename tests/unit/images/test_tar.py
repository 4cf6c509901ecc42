"""The tar reader: what Python's tarfile and GNU tar write is read; what is broken is an error, never garbage."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.images.tar import DIRECTORY, FILE, LINK, MAX_HEADER, SYMLINK, Entry, Reader, TarError
from tests.fixtures.images import directory, hardlink, layer, member, symlink


def read(data: bytes, step: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    """All entries with their data, holes as zeros."""
    file = io.BytesIO(data)
    reader = Reader(lambda n: file.read(min(n, step)))
    found = []
    for entry in reader:
        body = bytearray(entry.size if entry.kind == FILE else 0)

        def put(at: int, piece: bytes, body: bytearray = body) -> None:
            body[at : at + len(piece)] = piece

        if entry.kind == FILE:
            reader.copy(entry, put)
        found.append((entry, bytes(body)))
    return found


def test_entries_come_as_tarfile_wrote_them() -> None:
    long = "d/" + "x" * 200 + "/" + "y" * 120
    data = layer(
        directory("d", 0o1777, uid=3, gid=70000),
        member(long, b"hello", mode=0o4755, uid=2**31, mtime=1.5),
        symlink("l", "/" + "t" * 300),
        hardlink("h", long),
        member("x", pax_headers={"SCHILY.xattr.user.a": "b"}),
    )
    (d, _), (f, body), (sym, _), (hard, _), (x, _) = read(data)
    assert (d.path, d.kind, d.mode, d.uid, d.gid) == (b"d/", DIRECTORY, 0o1777, 3, 70000)
    assert (f.path, f.mode, f.uid, f.mtime, body) == (long.encode(), 0o4755, 2**31, 1_500_000_000, b"hello")
    assert (sym.kind, sym.link) == (SYMLINK, b"/" + b"t" * 300)
    assert (hard.kind, hard.link) == (LINK, long.encode())
    assert x.xattrs == {b"user.a": b"b"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [1 << 20, 512, 7])
def test_every_format_is_read_in_pieces_of_any_size(form: int, step: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for n in range(5):
            info, data = member(f"dir{n}/" + "n" * 90, os.urandom(n * 700))
            tar.addfile(info, io.BytesIO(data))
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        wanted = [(m.name.encode(), tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    assert [(entry.path, body) for entry, body in read(file.getvalue(), step)] == wanted


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not here")
@pytest.mark.parametrize(
    "form", ["--format=gnu", *(f"--format=pax --sparse-version={version}" for version in ("0.0", "0.1", "1.0"))]
)
def test_sparse_files_of_gnu_tar_are_whole(tmp_path: Path, form: str) -> None:
    with (tmp_path / "holes").open("wb") as file:
        for n in range(30):  # more pieces than one block has
            file.seek(n * 100_000)
            file.write(b"%d" % n * 4096)
        file.truncate(5_000_000)
    (tmp_path / "after").write_bytes(b"after")
    command = ["tar", *form.split(), "--sparse", "-cf", "-", "-C", str(tmp_path), "holes", "after"]
    found = {e.path: (e, body) for e, body in read(subprocess.run(command, capture_output=True, check=True).stdout)}
    entry, body = found[b"holes"]
    assert entry.sparse is not None
    assert body == (tmp_path / "holes").read_bytes()
    assert found[b"after"][1] == b"after"


def broken(at: int, put: bytes, fix: bool = True) -> bytes:
    """A layer of one file with bytes of its header replaced, its checksum made right again."""
    data = bytearray(layer(member("file", b"12345")))
    data[at : at + len(put)] = put
    if fix:
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (broken(0, b"x", fix=False), "checksum"),
        (broken(124, b"99999999999\0"), "not a number"),
        (broken(124, b"77777777777\0"), "ends in the middle"),
        (broken(124, b"\x80" + b"\x7f" * 11), "out of range"),
        (broken(124, b"\xff" * 12), "out of range"),
        (broken(156, b"V"), "unknown type"),
        (broken(156, b"M"), "unknown type"),
        (layer(member("a", b"1"))[:700], "ends in the middle"),
        (layer(member("a", b"1"))[:300], "ends in the middle"),
        (b"\0" * 512 + layer(member("a")), "one block of zeros"),
        (b"hello" * 200, "not a number|checksum"),
    ],
)
def test_a_broken_archive_is_an_error(data: bytes, why: str) -> None:
    with pytest.raises(TarError, match=why):
        read(data)


def test_a_header_that_is_too_large_is_refused_before_it_is_read() -> None:
    head = bytearray(layer(member("a"))[:512])
    head[156:157] = b"x"
    head[124:136] = b"%011o\0" % (MAX_HEADER + 1)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    asked = []

    def feed(n: int) -> bytes:
        asked.append(n)
        return bytes(head) if len(asked) == 1 else b"x" * n

    with pytest.raises(TarError, match="more than 1048576"):
        list(Reader(feed))
    assert len(asked) < 3


@settings(max_examples=100)
@given(st.data())
def test_no_change_of_an_archive_makes_the_reader_fail_otherwise(data: st.DataObject) -> None:
    whole = bytearray(
        layer(directory("d"), member("d/" + "n" * 150, b"body" * 300), symlink("l", "d"), hardlink("h", "l"))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(TarError):
        read(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
