"""Layers unpacked by the real worker in its jail: what is right, what is refused, and that nothing else is touched."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from config.errors import DefinitionError, HostError, WharfError
from runtime.images import garbage, media, merged
from runtime.images.reference import parse_reference
from runtime.images.snapshots import Limits, Snapshots
from runtime.images.store import BrokenError, Image, Record, Store
from tests.fixtures.images import MTIME, Built, build, directory, hardlink, layer, member, symlink

pytestmark = pytest.mark.host
Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "state/images")
    made.make()
    return made


def put(store: Store, built: Built) -> Image:
    for data in built.blobs.values():
        store.add(data)
    ref = str(parse_reference("test/image"))
    store.name(Record(ref, built.digest, len(built.manifest), media.OCI_MANIFEST, "linux/amd64", 1.0, "test"))
    return store.image(parse_reference(ref))


def unpack(store: Store, *layers: bytes, limits: Limits | None = None) -> list[Path]:
    image = put(store, build(layers))
    snapshots = Snapshots(store, limits)
    snapshots.unpack(image)
    return snapshots.layers(image)


def one(store: Store, *members: Member, limits: Limits | None = None) -> Path:
    return unpack(store, layer(*members), limits=limits)[0]


def is_whiteout(path: Path) -> bool:
    kind = path.lstat()
    return stat.S_ISCHR(kind.st_mode) and kind.st_rdev == 0


def test_owners_modes_times_and_attributes_are_those_of_the_layer(store: Store) -> None:
    root = one(
        store,
        directory(".", 0o751, uid=4, gid=5),
        directory("d", 0o1777, uid=6),
        member("d/tool", b"x" * 5000, mode=0o6755, uid=7, gid=8, pax_headers={"SCHILY.xattr.user.note": "n"}),
        symlink("d/link", "../../../etc/shadow"),
        member("d/fifo", type=tarfile.FIFOTYPE, mode=0o640),
        hardlink("again", "d/tool"),
    )
    at = root.stat()
    assert (stat.S_IMODE(at.st_mode), at.st_uid, at.st_gid) == (0o751, 4, 5)
    tool = (root / "d/tool").stat()
    assert (stat.S_IMODE(tool.st_mode), tool.st_uid, tool.st_gid, tool.st_size) == (0o6755, 7, 8, 5000)
    assert os.getxattr(root / "d/tool", "user.note") == b"n"
    assert os.readlink(root / "d/link") == "../../../etc/shadow"
    assert stat.S_ISFIFO((root / "d/fifo").stat().st_mode)
    assert (root / "again").stat().st_ino == tool.st_ino
    assert {(root / p).lstat().st_mtime for p in (".", "d", "d/tool", "d/link", "d/fifo")} == {MTIME}


def test_removed_files_are_whiteouts_and_hidden_directories_are_opaque(store: Store) -> None:
    low = layer(directory("a"), member("a/x"), member("a/y"), directory("b", 0o700, uid=9), member("b/old"))
    high = layer(member("a/.wh.x"), member("b/.wh..wh..opq"), member("b/new"), hardlink("c/.wh.gone", "a"))
    lowest, top = unpack(store, low, high)
    assert is_whiteout(top / "a/x")
    assert is_whiteout(top / "c/gone")  # by its name, whatever the entry's type is
    assert os.getxattr(top / "b", merged.OPAQUE) == b"y"
    with merged.Layers([top, lowest]) as seen:
        assert [seen.find(p) is not None for p in ("a/x", "a/y", "b/old", "b/new")] == [False, True, False, True]


def test_a_directory_that_is_removed_and_made_again_in_one_layer_hides_what_was_below(store: Store) -> None:
    low = layer(directory("d"), member("d/old"))
    for high in (
        layer(member(".wh.d"), directory("d"), member("d/new")),
        layer(member(".wh.d"), member("d/new")),
        layer(directory("d"), member("d/new"), member(".wh.d")),
    ):
        lowest, top = unpack(store, low, high)
        with merged.Layers([top, lowest]) as seen:
            assert seen.find("d/old") is None
            assert seen.find("d/new") is not None


def test_what_a_layer_does_not_describe_is_as_it_is_below(store: Store) -> None:
    low = layer(
        directory(".", 0o711), directory("d", 0o750, uid=3, gid=4), directory("d/e", 0o2770), member("f", b"data")
    )
    _, top = unpack(store, low, layer(member("d/e/new"), hardlink("d/again", "f")))
    shown = [(stat.S_IMODE((top / p).stat().st_mode), (top / p).stat().st_uid) for p in (".", "d", "d/e")]
    assert shown == [(0o711, 0), (0o750, 3), (0o2770, 0)]
    assert (top / "d/again").read_bytes() == b"data"  # a link to a file of a lower layer is a copy of it


def test_later_entries_of_a_layer_win(store: Store) -> None:
    root = one(
        store,
        directory("d"), member("d/x"), member("d", b"now a file"),
        member("f", b"1"), member("f", b"22"),
        member("g"), directory("g"), member("g/in", b"3"),
        member("h/i"), directory("h", 0o700),
    )  # fmt: skip
    assert (root / "d").read_bytes() == b"now a file"
    assert (root / "f").read_bytes() == b"22"
    assert (root / "g/in").read_bytes() == b"3"
    assert stat.S_IMODE((root / "h").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("pack", "kind"),
    [
        (lambda raw: raw, ""),
        (lambda raw: gzip.compress(raw[:700]) + gzip.compress(raw[700:]) + b"\0" * 100, "+gzip"),
        (lambda raw: zstd.compress(raw[:700]) + zstd.compress(raw[700:]), "+zstd"),
    ],
)
def test_every_compression_gives_the_same_layer(store: Store, pack: Callable[[bytes], bytes], kind: str) -> None:
    raw = layer(member("f", os.urandom(300_000)), member("g", b"x" * 3_000_000))
    image = put(store, build([raw], pack=pack, kind=kind))
    snapshots = Snapshots(store)
    snapshots.unpack(image)
    assert (snapshots.layers(image)[0] / "g").read_bytes() == b"x" * 3_000_000


# -- hostile layers


def pax(name: str, **headers: str) -> Member:
    return member(name, pax_headers={key.replace("__", "."): value for key, value in headers.items()})


def raw_header(member_bytes: bytes, at: int, put_in: bytes) -> bytes:
    data = bytearray(member_bytes)
    data[at : at + len(put_in)] = put_in
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


DEVICE: dict[str, Any] = {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}
OVERLAY = "SCHILY.xattr.trusted.overlay."

REFUSED: dict[str, bytes] = {
    "parent": layer(member("../out")),
    "deep parent": layer(member("a/b/../../../out")),
    "absolute parent": layer(member("/../../out")),
    "hard link out": layer(hardlink("l", "../../etc/passwd")),
    "hard link to nothing": layer(hardlink("l", "etc/passwd")),
    "hard link to itself": layer(hardlink("l", "l")),
    "hard link to a directory": layer(directory("d"), hardlink("l", "d")),
    "root is a file": layer(member("./", b"x", type=tarfile.REGTYPE), member(".", b"")),
    "root is a link": layer(symlink(".", "/etc")),
    "device": layer(member("null", **DEVICE)),
    "block device": layer(member("sda", type=tarfile.BLKTYPE, devmajor=8)),
    "forged whiteout": layer(member("w", type=tarfile.CHRTYPE, devmajor=0, devminor=0)),
    "opaque forged": layer(pax("d", **{OVERLAY + "opaque": "y"})),
    "redirect forged": layer(pax("d", **{OVERLAY + "redirect": "/secret"})),
    "metacopy forged": layer(pax("d", **{OVERLAY + "metacopy": ""})),
    "user overlay forged": layer(pax("d", **{"SCHILY.xattr.user.overlay.opaque": "y"})),
    "whiteout of nothing": layer(member(".wh.")),
    "whiteout of dot": layer(member("d/.wh..")),
    "whiteout of parent": layer(member("d/.wh...")),
    "whiteout out": layer(member("../.wh.x")),
    "opaque out": layer(member("../../.wh..wh..opq")),
    "below a file": layer(member("f", b"x"), member("f/g")),
    "below a fifo": layer(member("f", type=tarfile.FIFOTYPE), member("f/g")),
    "below a link to nowhere": layer(symlink("l", "/nowhere"), member("l/g")),
    "below a link to a file": layer(member("f"), symlink("l", "f"), member("l/g")),
    "below a link to itself": layer(symlink("l", "l"), member("l/g")),
    "empty link": raw_header(layer(symlink("l", "x")), 157, b"\0"),
    "unknown type": raw_header(layer(member("f")), 156, b"Z"),
    "multi volume": raw_header(layer(member("f")), 156, b"M"),
    "checksum": layer(member("f"))[:100] + b"\1" + layer(member("f"))[101:],
    "cut off": layer(member("f", b"x" * 4000))[:1500],
    "size of a galaxy": raw_header(layer(member("f")), 124, b"\x80\0\0\0\x7f" + b"\xff" * 7),
    "negative size": raw_header(layer(member("f")), 124, b"\xff" * 12),
    "huge name": layer(member("n" * 5000)),
    "name of too many parts": layer(member("d/" * 1500 + "f")),
    "long component": layer(member("n" * 300)),
    "zero in a name": layer(pax("f", path="a\0b")),
    "huge header": layer(member("f", pax_headers={"comment": "c" * (2 << 20)})),
    "text": b"this is not a tar archive at all" * 50,
    "bomb": layer(member("f", bytes(90 << 20))),
    "sparse bomb": layer(
        member("f", pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 62), "GNU.sparse.name": "f"})
    ),
    "sparse lie": layer(
        member("f", b"12345", pax_headers={"GNU.sparse.map": "0,9", "GNU.sparse.size": "9", "GNU.sparse.name": "f"})
    ),
}

WHY: dict[str, str] = {
    "parent": "leads out of the root",
    "deep parent": "leads out of the root",
    "absolute parent": "leads out of the root",
    "hard link out": "leads out of the root",
    "hard link to nothing": "a hard link to 'etc/passwd'",
    "hard link to itself": "a hard link to what is no file",
    "hard link to a directory": "a hard link to what is no file",
    "root is a file": "the root itself",
    "root is a link": "the root itself",
    "device": "--allow-devices",
    "block device": "--allow-devices",
    "forged whiteout": "overlayfs's mark",
    "opaque forged": "overlayfs's own",
    "redirect forged": "overlayfs's own",
    "metacopy forged": "overlayfs's own",
    "user overlay forged": "overlayfs's own",
    "whiteout of nothing": "a whiteout of nothing",
    "whiteout of dot": "a whiteout of nothing",
    "whiteout of parent": "a whiteout of nothing",
    "whiteout out": "leads out of the root",
    "opaque out": "leads out of the root",
    "below a file": "below what is no directory",
    "below a fifo": "below what is no directory",
    "below a link to nowhere": "below what is no directory",
    "below a link to a file": "below what is no directory",
    "below a link to itself": "below what is no directory",
    "empty link": "a symbolic link to nothing",
    "unknown type": "unknown type",
    "multi volume": "unknown type",
    "checksum": "checksum",
    "cut off": "ends in the middle",
    "size of a galaxy": "out of range",
    "negative size": "out of range",
    "huge name": "longer than 4096",
    "name of too many parts": "more than 1024 directories",
    "long component": "File name too long",
    "zero in a name": "has a zero in it",
    "huge header": "a header of",
    "text": "is not a number",
    "bomb": "times its packed size",
    "sparse bomb": "pieces are not its data",
    "sparse lie": "pieces are not its data",
}

NEIGHBOURS: dict[str, tuple[Sequence[Member], str]] = {
    "dots that stay inside": ((member("a/../b"), member("./c"), member("/d")), "b c d"),
    "absolute link": ((symlink("l", "/etc/passwd"), symlink("up", "../../../../run")), "l up"),
    "below a link inside": ((directory("real"), symlink("l", "real"), member("l/f", b"x")), "l real real/f"),
    "hard link to a file": ((member("f"), hardlink("l", "f"), hardlink("m", "./l")), "f l m"),
    "names with dots": ((member("..a"), member("a.."), member(".wh"), member("x.wh.y")), "..a .wh a.. x.wh.y"),
    "aufs leftovers": ((member(".wh..wh.plnk/9.9"), member(".wh..wh.aufs"), member("f")), "f"),
    "other attributes": (
        (pax("f", **{"SCHILY.xattr.security.selinux": "x", "SCHILY.xattr.user.k": "v"}),), "f",
    ),
    "long names": (
        (member("n" * 255), member("d" * 100 + "/" + "e" * 100)),
        f"{'d' * 100} {'d' * 100}/{'e' * 100} {'n' * 255}",
    ),
    "many zeros": ((member("f", bytes(20 << 20)),), "f"),
    "old directory": ((member("olddir/", type=tarfile.AREGTYPE), member("olddir/f")), "olddir olddir/f"),
}  # fmt: skip


@pytest.fixture
def canary(tmp_path: Path) -> Callable[[], str]:
    """A fingerprint of all that stands around the store."""
    outside = tmp_path / "outside"
    (outside / "etc").mkdir(parents=True)
    (outside / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (tmp_path / "out").write_text("canary")

    def fingerprint() -> str:
        seen = hashlib.sha256()
        for top in (outside, tmp_path / "out", Path("/etc/passwd")):
            for path in sorted([top, *top.rglob("*")] if top.is_dir() else [top]):
                at = path.lstat()
                told = (str(path), at.st_mode, at.st_uid, at.st_mtime_ns, at.st_nlink, at.st_size)
                seen.update(repr(told).encode() + (path.read_bytes() if path.is_file() else b""))
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in line]
        return f"{seen.hexdigest()} {mounts}"

    return fingerprint


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_a_hostile_layer_is_refused_and_leaves_nothing(store: Store, canary: Callable[[], str], kind: str) -> None:
    before = canary()
    with pytest.raises(WharfError) as told:
        unpack(store, REFUSED[kind])
    assert re.fullmatch(rf"layer sha256:[0-9a-f]+: .*{re.escape(WHY[kind])}.*", str(told.value))
    assert not list(store.layers.iterdir())
    assert not list(store.tmp.iterdir())
    assert canary() == before


@pytest.mark.parametrize("kind", sorted(NEIGHBOURS))
def test_the_legal_neighbour_of_a_hostile_layer_is_taken(store: Store, canary: Callable[[], str], kind: str) -> None:
    before = canary()
    members, names = NEIGHBOURS[kind]
    root = one(store, *members)
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == names.split()
    assert canary() == before


def test_what_the_worker_sees_is_the_layer_and_nothing_else(store: Store) -> None:
    """A link that leads out, followed by the worker, ends in its own root."""
    root = one(store, directory("etc"), symlink("l", "/../../../../etc"), member("l/made", b"inside"))
    assert (root / "etc/made").read_bytes() == b"inside"
    assert not Path("/etc/made").exists()


def test_devices_are_made_where_they_are_allowed(store: Store) -> None:
    root = one(store, member("null", mode=0o666, **DEVICE), limits=Limits(devices=True))
    assert (root / "null").stat().st_rdev == os.makedev(1, 3)


def test_limits_of_size_and_ratio_end_the_worker(store: Store) -> None:
    data = layer(member("f", os.urandom(3 << 20)))
    with pytest.raises(DefinitionError, match="more than 1048576 bytes"):
        unpack(store, data, limits=Limits(size=1 << 20))
    with pytest.raises(HostError, match="more than 0 s"):
        unpack(store, data, limits=Limits(seconds=0))
    assert not list(store.tmp.iterdir())


def test_a_layer_whose_bytes_are_not_what_its_name_says_is_not_unpacked(store: Store) -> None:
    image = put(store, build([layer(member("f", b"good"))]))
    path = store.blob(image.manifest.layers[0].digest)
    path.write_bytes(gzip.compress(layer(member("f", b"evil")), 1))
    with pytest.raises(WharfError, match="damaged in the store|unpacks to"):
        Snapshots(store).unpack(image)
    assert not list(store.layers.iterdir())
    assert list(store.verify())


def test_a_layer_that_is_not_what_its_config_says_is_refused(store: Store) -> None:
    built = build([layer(member("f"))])
    other = build([layer(member("g"))])
    manifest = built.manifest.replace(next(iter(built.blobs)).encode(), next(iter(other.blobs)).encode()).replace(
        b'"size":%d' % len(next(iter(built.blobs.values()))), b'"size":%d' % len(next(iter(other.blobs.values())))
    )
    blobs = {**built.blobs, **other.blobs, f"sha256:{hashlib.sha256(manifest).hexdigest()}": manifest}
    lied = Built(f"sha256:{hashlib.sha256(manifest).hexdigest()}", manifest, blobs)
    with pytest.raises(DefinitionError, match="it unpacks to"):
        Snapshots(store).unpack(put(store, lied))


def test_layers_are_shared_and_unpacked_once(store: Store) -> None:
    base = layer(member("base"))
    first = unpack(store, base, layer(member("a")))
    second = unpack(store, base, layer(member("b")))
    assert first[0] == second[0]
    assert len(list(store.layers.iterdir())) == 3


def test_garbage_is_what_no_name_and_no_container_needs(store: Store) -> None:
    layers = unpack(store, layer(member("a")))
    digest = store.records()[0].digest
    store.unname(parse_reference("test/image"))
    (store.containers / "web").mkdir(parents=True)
    (store.containers / "web/image").write_text(digest)
    assert garbage.collect(store, Snapshots(store)) == []
    assert layers[0].is_dir()
    (store.containers / "web/image").unlink()
    would = garbage.collect(store, Snapshots(store), dry=True)
    assert len(would) == 4  # the layer, and three blobs
    assert layers[0].is_dir()
    assert garbage.collect(store, Snapshots(store)) == would
    assert not list(store.layers.iterdir())
    assert not list(store.blobs.iterdir())


def test_garbage_waits_for_who_is_at_work(store: Store) -> None:
    unpack(store, layer(member("a")))
    store.unname(parse_reference("test/image"))
    with store.lock(exclusive=False):
        assert garbage.collect(store, Snapshots(store)) == []
    assert len(garbage.collect(store, Snapshots(store))) == 4


def test_nothing_is_garbage_while_an_image_is_damaged(store: Store) -> None:
    unpack(store, layer(member("a")))
    store.blob(store.image(parse_reference("test/image")).manifest.config.digest).write_bytes(b"x")
    store.add(b"unused")
    assert garbage.collect(store, Snapshots(store)) == []
    with pytest.raises(BrokenError):
        store.image(parse_reference("test/image"))


@pytest.mark.parametrize("point", ["unpacked", "completed", "synced"])
def test_a_kill_in_the_middle_leaves_an_image_whole_or_absent(store: Store, point: str) -> None:
    """SIGKILL at each step; the next start sweeps, the next unpack completes."""
    image = put(store, build([layer(member("a")), layer(member("b"))]))
    steps = {"unpacked": "snapshots._complete", "completed": "Snapshots._sync", "synced": "Snapshots._commit"}
    code = f"""
import os, signal, sys
from pathlib import Path
from runtime.images.reference import parse_reference
from runtime.images import snapshots
from runtime.images.snapshots import Snapshots
from runtime.images.store import Store
store = Store(Path({str(store.root)!r}))
{steps[point]} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
Snapshots(store).unpack(store.image(parse_reference("test/image")))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == -9
    assert not Snapshots(store).ready(image)
    assert list(store.tmp.iterdir())
    store.sweep()
    assert not list(store.tmp.iterdir())
    Snapshots(store).unpack(image)
    assert Snapshots(store).ready(image)


def test_entries_that_tar_wrote_are_what_tar_unpacks(store: Store, tmp_path: Path) -> None:
    """A tree of this host, by GNU tar and by us: the same names, kinds, modes, owners, contents."""
    packed = subprocess.run(
        ["tar", "--format=pax", "--sort=name", "-C", "/usr/share", "-cf", "-", "misc", "dpkg", "perl5"],
        capture_output=True, check=False,
    ).stdout  # fmt: skip
    target = tmp_path / "by-tar"
    target.mkdir()
    subprocess.run(["tar", "-C", str(target), "-xpf", "-"], input=packed, check=True)

    def seen(root: Path) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for path in sorted(root.rglob("*")):
            at = path.lstat()
            body = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            link = os.readlink(path) if path.is_symlink() else ""
            found.append((str(path.relative_to(root)), at.st_mode, at.st_uid, at.st_gid, int(at.st_mtime), link, body))
        return found

    image = put(store, build([packed]))
    Snapshots(store).unpack(image)
    ours = seen(Snapshots(store).layers(image)[0])
    assert len(ours) > 10
    assert ours == seen(target)
