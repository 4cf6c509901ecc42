"""Images from files: OCI layouts, as directories and archives, and what `docker save` writes; also packed.

An archive is read once from its start to its end: blobs go to the store as they come, what names them is put together
after that. Where an archive is both, the OCI index counts (newer `docker save`). Layers of `docker save` are kept
plain as they are: packing them again would change every digest. Source: OCI image-spec image-layout.md, annotations.md;
Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from config.errors import DefinitionError, HostError
from runtime.bundle import parse_config
from runtime.images import inflate, media, tar
from runtime.images.apply import clean
from runtime.images.media import Descriptor, Index, Manifest, Platform
from runtime.images.reference import Reference, is_digest, parse_reference
from runtime.images.snapshots import Snapshots
from runtime.images.store import REF_NAME, BrokenError, Record, Store

MAX_JSON = 16 << 20
MAX_SMALL = 1000  # files of JSON in one archive
_CONTAINERD_NAME = "io.containerd.image.name"
_BLOBS = "blobs/sha256/"


@dataclass(slots=True)
class _Contents:
    """An archive's own names. `blobs`: what each file is in the store; `links`: of `docker save` to layers."""

    small: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, Descriptor] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Found:
    names: tuple[str, ...]
    descriptor: Descriptor
    index: str = ""


class Importer:
    """Takes images from files into one store. `name`: what an image without one is called."""

    def __init__(self, store: Store, snapshots: Snapshots, platform: Platform, now: Callable[[], float] = time.time):
        self._store = store
        self._snapshots = snapshots
        self._platform = platform
        self._now = now

    def run(self, path: Path, name: str = "") -> list[Record]:
        """All images in `path`, unpacked and named. Raises WharfError; then no name was changed."""
        with self._store.lock(exclusive=False):
            found = self._layout(path) if path.is_dir() else self._archive(path)
            if not found:
                raise DefinitionError(f"{path} has no image for {self._platform}")
            named = [(self._names(one, name, len(found), path), one) for one in found]
            records = []
            for names, one in named:
                record = Record(
                    ref="", digest=one.descriptor.digest, size=one.descriptor.size,
                    media_type=one.descriptor.media_type,
                    platform=str(self._platform), at=self._now(), source=f"import {path.name}"[:200], index=one.index,
                    pinned=True,
                )  # fmt: skip
                image = self._store.image_of(record)
                self._snapshots.unpack(image)
                records += [replace(record, ref=str(ref)) for ref in names]
            for record in records:
                self._store.name(record)
            return records

    def _names(self, one: _Found, name: str, images: int, path: Path) -> list[Reference]:
        if name:
            if images > 1:
                raise DefinitionError(f"{path} has {images} images: one name does not fit", hint="leave --name out")
            return [parse_reference(name)]
        if one.names:
            return [parse_reference(text) for text in one.names]
        raise DefinitionError(f"an image in {path} has no name", hint="give one with --name NAME:TAG")

    def _layout(self, path: Path) -> list[_Found]:
        """An OCI layout in a directory: what its index names, and all that this needs."""
        index = self._index((path / "index.json").read_bytes() if (path / "index.json").is_file() else b"", path)

        def fetch(wanted: Descriptor) -> None:
            if self._store.has(wanted):
                return
            try:
                with _regular(path / _BLOBS / wanted.digest.removeprefix("sha256:")) as file:
                    self._store.take(lambda n: os.read(file, n), wanted)
            except FileNotFoundError:
                raise DefinitionError(f"{path} lacks {wanted.digest}") from None

        return self._from_index(index, fetch)

    def _archive(self, path: Path) -> list[_Found]:
        contents = _Contents()
        with _regular(path) as file:
            start = os.pread(file, 8, 0)
            plain = inflate.OPENERS[inflate.compression_of(start)](lambda: os.read(file, 1 << 18))
            try:
                self._read(tar.Reader(plain), contents)
            except (tar.TarError, inflate.PackedError) as error:
                raise DefinitionError(f"{path} is no image archive: {error}") from None
        if "index.json" in contents.small:

            def fetch(wanted: Descriptor) -> None:
                if not self._store.has(wanted):
                    raise DefinitionError(f"{path} lacks {wanted.digest}")

            return self._from_index(self._index(contents.small["index.json"], path), fetch)
        if "manifest.json" in contents.small:
            return self._from_docker(contents, path)
        raise DefinitionError(f"{path} is no image archive: it has neither index.json nor manifest.json")

    def _read(self, reader: tar.Reader, contents: _Contents) -> None:
        """Blobs to the store, small files to memory."""
        for entry in reader:
            name = os.fsdecode(clean(entry.path))
            if entry.kind in (tar.SYMLINK, tar.LINK):
                base = os.path.dirname(name) if entry.kind == tar.SYMLINK else ""
                contents.links[name] = os.path.normpath(os.path.join(base, os.fsdecode(entry.link)))
            if entry.kind != tar.FILE:
                continue
            if len(contents.small) + len(contents.blobs) + len(contents.links) > 100_000:
                raise tar.TarError("an archive of more than 100000 files")
            digest = name.removeprefix(_BLOBS)
            blob = name.startswith(_BLOBS) and is_digest(f"sha256:{digest}")
            if name.endswith(".json") or name in ("repositories", "oci-layout", "VERSION"):
                if entry.size <= MAX_JSON and len(contents.small) < MAX_SMALL:
                    contents.small[name] = self._whole(reader, entry)
            elif blob or name.endswith(".tar"):
                wanted = Descriptor(media.OCI_LAYER, f"sha256:{digest}", entry.size) if blob else None
                if wanted is None or not self._store.has(wanted):
                    contents.blobs[name] = self._store.take(_pieces(reader, entry), wanted)
                else:
                    contents.blobs[name] = wanted

    def _whole(self, reader: tar.Reader, entry: tar.Entry) -> bytes:
        pieces: list[bytes] = []
        reader.copy(entry, lambda _, piece: pieces.append(piece))
        return b"".join(pieces)

    def _index(self, data: bytes, path: Path) -> Index:
        if not data:
            raise DefinitionError(f"{path} is no OCI layout: it has no index.json")
        found = media.parse_manifest(data, media.OCI_INDEX)
        if not isinstance(found, Index):
            raise DefinitionError(f"index.json of {path} is no index")
        return found

    def _from_index(self, index: Index, fetch: Callable[[Descriptor], None]) -> list[_Found]:
        """Each image or index that a layout's index names, one for each digest."""
        names: dict[str, list[str]] = {}
        heads: dict[str, Descriptor] = {}
        for line in index.manifests:
            if line.media_type in (*media.MANIFESTS, *media.INDEXES):
                heads.setdefault(line.digest, line)
                name = line.annotations.get(_CONTAINERD_NAME) or line.annotations.get(REF_NAME, "")
                if "/" in name or ":" in name:  # else it is a tag alone
                    names.setdefault(line.digest, []).append(name)
        found = []
        for digest, line in heads.items():
            fetch(line)
            head = self._store.manifest(line)
            one = line
            if isinstance(head, Index):
                one = media.choose(head, self._platform)
                fetch(one)
            self._fetch_all(one, fetch)
            found.append(_Found(tuple(names.get(digest, ())), one, digest if one is not line else ""))
        return found

    def _fetch_all(self, one: Descriptor, fetch: Callable[[Descriptor], None]) -> None:
        manifest = self._store.manifest(one)
        if not isinstance(manifest, Manifest):
            raise DefinitionError(f"{one.digest} is an index in an index")
        for part in (manifest.config, *manifest.layers):
            fetch(part)

    def _from_docker(self, contents: _Contents, path: Path) -> list[_Found]:
        lines = parse_config(contents.small["manifest.json"])
        if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
            raise DefinitionError(f"manifest.json of {path} is not a list of images")
        return [self._docker_image(line, contents, path) for line in lines[:MAX_SMALL]]

    def _docker_image(self, line: dict[str, Any], contents: _Contents, path: Path) -> _Found:
        """A manifest of our own for one line; its config keeps its bytes, and its digest (Docker's image id)."""
        config = line.get("Config")
        named = contents.blobs.get(str(config))
        data = contents.small.get(str(config))
        if data is None and named is not None:
            data = self._store.read(named, media.MAX_CONFIG)
        if data is None:
            raise DefinitionError(f"{path} lacks the config {str(config)[:100]!r}")
        layers = []
        for name in line.get("Layers") or ():
            target = contents.links.get(str(name), str(name))
            layer = contents.blobs.get(target)
            if layer is None:
                raise DefinitionError(f"{path} lacks the layer {str(name)[:100]!r}")
            with _regular(self._store.blob(layer.digest)) as file:
                packed = inflate.compression_of(os.pread(file, 8, 0))
            kind = media.OCI_LAYER if packed == "none" else f"{media.OCI_LAYER}+{packed}"
            layers.append(Descriptor(kind, layer.digest, layer.size).to_json())
        parsed = media.parse_image_config(data)
        if len(parsed.diff_ids) != len(layers):
            raise DefinitionError(
                f"{path}: an image of {len(layers)} layers, whose config names {len(parsed.diff_ids)}"
            )
        told = Descriptor(media.OCI_CONFIG, self._store.add(data), len(data)).to_json()
        made = media.canonical({"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": told, "layers": layers})
        tags = tuple(tag for tag in line.get("RepoTags") or () if isinstance(tag, str))
        return _Found(tags, Descriptor(media.OCI_MANIFEST, self._store.add(made), len(made)))


@contextmanager
def _regular(path: Path) -> Iterator[int]:
    """A file that is one: a fifo would hang us. Raises HostError, FileNotFoundError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise HostError(f"cannot be read: {error.strerror}", str(path)) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DefinitionError(f"{path} is no regular file")
        yield fd
    finally:
        os.close(fd)


def _pieces(reader: tar.Reader, entry: tar.Entry) -> Callable[[int], bytes]:
    """The data of an entry as read(n)."""
    if entry.sparse is not None:
        raise BrokenError("a sparse file in an image archive")
    left = entry.size

    def read(most: int) -> bytes:
        nonlocal left
        piece = reader.some(min(most, left)) if left else b""
        left -= len(piece)
        return piece

    return read
