"""Images from files: OCI layouts and archives, and what `docker save` writes. (Unpacking: tests/kernel.)"""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from config.errors import DefinitionError, WharfError
from runtime.images import archive, media
from runtime.images.importer import Importer
from runtime.images.media import Platform
from runtime.images.reference import parse_reference
from runtime.images.snapshots import Snapshots
from runtime.images.store import Image, Record, Store
from tests.fixtures.images import Built, build, layer, member, named, sha, tar_up, write_layout

HOST = media.host_platform()


class Packed(Snapshots):
    """Keeps layers packed: unpacking needs root."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked: list[str] = []

    def unpack(self, image: Image) -> None:
        self.asked.append(image.record.digest)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "state/images")
    made.make()
    return made


def take(store: Store, path: Path, name: str = "", platform: Platform = HOST) -> list[Record]:
    return Importer(store, Packed(store), platform, now=lambda: 7.0).run(path, name)


def docker_archive(path: Path, built: Built, layers: list[bytes], tags: list[str]) -> Path:
    """As `docker save` wrote it before it wrote OCI layouts: plain layers, one of them a link to another place."""
    config = next(data for data in built.blobs.values() if b"rootfs" in data)
    path.mkdir()
    (path / "cfg.json").write_bytes(config)
    names = []
    for n, raw in enumerate(layers):
        (path / f"l{n}").mkdir()
        (path / f"l{n}/layer.tar").write_bytes(raw)
        names.append(f"l{n}/layer.tar")
    (path / "manifest.json").write_text(json.dumps([{"Config": "cfg.json", "RepoTags": tags, "Layers": names}]))
    return tar_up(path, path.with_suffix(".tar"))


def test_a_layout_is_taken_with_its_digest_and_name(store: Store, tmp_path: Path) -> None:
    built = build([layer(member("a")), layer(member("b"))])
    (record,) = take(store, write_layout(tmp_path / "l", [named(built, "shop/web:1")], built.blobs))
    assert (record.ref, record.digest, record.at, record.pinned) == ("docker.io/shop/web:1", built.digest, 7.0, True)
    assert store.image(parse_reference("shop/web:1")).record == record
    assert json.loads((store.layout / "index.json").read_text())["manifests"][0]["digest"] == built.digest


@pytest.mark.parametrize("pack", [lambda raw: raw, gzip.compress, zstd.compress])
def test_an_archive_may_be_packed(store: Store, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    built = build([layer(member("a"))])
    path = tar_up(write_layout(tmp_path / "l", [named(built, "web:1")], built.blobs), tmp_path / "i.tar")
    path.write_bytes(pack(path.read_bytes()))
    assert take(store, path)[0].digest == built.digest


def test_what_is_saved_is_what_is_imported(store: Store, tmp_path: Path) -> None:
    built = build([layer(member("a"))])
    take(store, write_layout(tmp_path / "l", [named(built, "web:1")], built.blobs))
    archive.save(store, store.image(parse_reference("web:1")), tmp_path / "saved.tar")
    other = Store(tmp_path / "other/images")
    other.make()
    assert take(other, tmp_path / "saved.tar")[0].digest == built.digest
    with tarfile.open(tmp_path / "saved.tar") as tar:
        assert tar.getnames()[0] == "oci-layout"


def test_an_index_gives_the_image_of_the_platform_and_keeps_its_own_digest(store: Store, tmp_path: Path) -> None:
    arm, amd = (build([layer(member(n))], platform=Platform("linux", n)) for n in ("arm64", "amd64"))
    lines = [{**b.line, "platform": {"os": "linux", "architecture": n}} for b, n in ((arm, "arm64"), (amd, "amd64"))]
    index = media.canonical({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": lines})
    digest = sha(index)
    name = {"org.opencontainers.image.ref.name": "web:1"}
    line = {"mediaType": media.OCI_INDEX, "digest": digest, "size": len(index), "annotations": name}
    path = write_layout(tmp_path / "l", [line], {**arm.blobs, **amd.blobs, digest: index})
    (record,) = take(store, path, platform=Platform("linux", "amd64"))
    assert (record.digest, record.index) == (amd.digest, digest)
    assert store.record(parse_reference(f"web@{digest}")) == record
    assert store.record(parse_reference(f"web@{amd.digest}")) == record
    assert store.record(parse_reference(f"other@{digest}")) is None
    with pytest.raises(DefinitionError, match="there is linux/amd64, linux/arm64"):
        take(store, path, platform=Platform("linux", "s390x"))


def test_docker_save_keeps_the_config_and_the_layers_plain(store: Store, tmp_path: Path) -> None:
    layers = [layer(member("a")), layer(member("b"))]
    built = build(layers)
    (record,) = take(store, docker_archive(tmp_path / "d", built, layers, ["shop/web:2"]))
    image = store.image(parse_reference("shop/web:2"))
    assert image.record == record
    assert image.manifest.config.digest in built.blobs  # Docker's image id
    assert [one.digest for one in image.manifest.layers] == list(image.config.diff_ids)


def test_an_archive_that_is_both_is_read_as_oci(store: Store, tmp_path: Path) -> None:
    built = build([layer(member("a"))])
    path = write_layout(tmp_path / "l", [named(built, "web:1")], built.blobs)
    (path / "manifest.json").write_text(json.dumps([{"Config": "blobs/sha256/nothing", "Layers": []}]))
    assert take(store, tar_up(path, tmp_path / "both.tar"))[0].digest == built.digest


def test_a_name_is_asked_for_where_there_is_none(store: Store, tmp_path: Path) -> None:
    built = build([layer(member("a"))])
    path = write_layout(tmp_path / "l", [named(built, "latest")], built.blobs)
    with pytest.raises(DefinitionError, match="has no name; give one with --name"):
        take(store, path)
    assert take(store, path, "web:9")[0].ref == "docker.io/library/web:9"


def spoiled(built: Built, change: Callable[[bytes], bytes]) -> dict[str, bytes]:
    first = next(iter(built.blobs))
    return {**built.blobs, first: change(built.blobs[first])}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-1], "came as"),
        (lambda data: data + b"x", "longer than"),
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "came as"),
    ],
)
@pytest.mark.parametrize("as_archive", [False, True])
def test_a_blob_that_is_not_what_its_name_says_is_refused_and_not_kept(
    store: Store, tmp_path: Path, change: Callable[[bytes], bytes], why: str, as_archive: bool
) -> None:
    built = build([layer(member("a", b"x" * 2000))])
    path = write_layout(tmp_path / "l", [named(built, "web:1")], spoiled(built, change))
    if as_archive:
        path = tar_up(path, tmp_path / "i.tar")
    with pytest.raises(WharfError, match=f"{why}|came as|lacks"):
        take(store, path)
    assert store.records() == []
    assert not list(store.ingest.iterdir())
    assert all(store.blob(f"sha256:{p.name}") and len(p.name) == 64 for p in store.blobs.iterdir())
    assert list(store.verify()) == []


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("text.tar", b"no archive " * 100, "is no image archive"),
        ("cut.tgz", gzip.compress(b"x" * 5000)[:-9], "is no image archive"),
        ("empty.tar", b"", "neither index.json nor manifest.json"),
        ("zeros.tar", bytes(10240), "neither index.json nor manifest.json"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(
    store: Store, tmp_path: Path, name: str, data: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WharfError, match=why) as told:
        take(store, tmp_path / name)
    assert "\n" not in str(told.value)
    assert store.records() == []


def test_names_that_others_put_into_the_index_stay_there(store: Store, tmp_path: Path) -> None:
    """skopeo writes into the same layout: our changes lose none of its names, and that it lost ours loses nothing."""
    built = build([layer(member("a"))])
    take(store, write_layout(tmp_path / "l", [named(built, "web:1")], built.blobs))
    index = store.layout / "index.json"
    body = json.loads(index.read_text())
    body["manifests"] = [{**built.line, "annotations": {"org.opencontainers.image.ref.name": "theirs:1"}}]
    index.write_text(json.dumps(body))
    assert [name for name, _ in store.foreign()] == ["theirs:1"]
    assert store.record(parse_reference("web:1")) is not None
    store.unname(parse_reference("web:1"))
    assert [name for name, _ in store.foreign()] == ["theirs:1"]


def test_a_record_that_cannot_be_read_hides_no_other(store: Store, tmp_path: Path) -> None:
    built = build([layer(member("a"))])
    take(store, write_layout(tmp_path / "l", [named(built, "web:1")], built.blobs))
    (store.refs / ("0" * 64 + ".json")).write_bytes(b"{broken")
    (store.refs / ("1" * 64 + ".json")).write_bytes(b'{"version": 1, "ref": 5}')
    assert [record.ref for record in store.records()] == ["docker.io/library/web:1"]
