"""The store of one host: an OCI image layout that skopeo reads and writes, and our own records of names beside it.

    oci/oci-layout index.json blobs/sha256/...    the layout
    ingest/SHA256.part                            what a pull has so far
    refs/SHA256.json                              a record for each name: the truth; index.json is made from them
    layers/CHAIN/{f,meta.json}                    unpacked layers (snapshots.py)
    tmp/ lock

index.json is a mirror, because skopeo's own changes of it lose tags when two of them race: what stands in it and is
not in our records is taken in, and what lacks in it removes nothing. Every file is written beside, synced, renamed, and
its directory synced; a record comes last, so that a name is of a whole image or not there.
Source: OCI image-spec image-layout.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from config.errors import DefinitionError, HostError, RefusedError
from runtime.images import media
from runtime.images.media import Descriptor, ImageConfig, Index, Manifest
from runtime.images.reference import Reference, is_digest, parse_reference

CHUNK = 1 << 20
REF_NAME = "org.opencontainers.image.ref.name"
_OURS = "dev.wharfinger.record"  # of a line of index.json that mirrors a record of ours
_VERSION = 1
_MAX_INDEX = 16 << 20


class BrokenError(HostError):
    """What the store holds is not whole; a pull or an import mends it."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one name means here. `digest`: of the image's manifest; `index`: of the index that it was chosen from;
    `at`: wall time in seconds; `pinned`: garbage collection leaves it; `verified`: by which key or verifier."""

    ref: str
    digest: str
    size: int
    media_type: str
    platform: str
    at: float
    source: str
    index: str = ""
    pinned: bool = False
    verified: str = ""

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, self.size)


@dataclass(frozen=True, slots=True)
class Image:
    """One image, whole."""

    record: Record
    manifest: Manifest
    config: ImageConfig


class Store:
    """Blobs by digest and names by record. Every method may raise HostError of the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = root / "oci"
        self.blobs = self.layout / "blobs" / "sha256"
        self.ingest = root / "ingest"
        self.refs = root / "refs"
        self.layers = root / "layers"
        self.tmp = root / "tmp"
        self.containers = root.parent / "containers"  # writable layers, one directory for each

    def make(self) -> None:
        """Its directories, where they are not there."""
        for place in (self.blobs, self.ingest, self.refs, self.layers, self.tmp):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        marker = self.layout / "oci-layout"
        if not marker.exists():
            self.write(marker, b'{"imageLayoutVersion":"1.0.0"}')
        if not (self.layout / "index.json").exists():
            self._mirror()

    @contextmanager
    def lock(self, exclusive: bool, wait: float = 10.0) -> Iterator[None]:
        """Shared by those that add and read; whoever removes is alone. Gone with the process.

        `wait`: seconds for others to end. Raises RefusedError.
        """
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, wait)
            yield
        finally:
            os.close(fd)

    def blob(self, digest: str) -> Path:
        return self.blobs / digest.removeprefix("sha256:")

    def has(self, wanted: Descriptor) -> bool:
        """By name and size; whoever reads it checks the digest."""
        try:
            return os.stat(self.blob(wanted.digest)).st_size == wanted.size
        except FileNotFoundError:
            return False

    def read(self, wanted: Descriptor, most: int) -> bytes:
        """A small blob, checked. Raises BrokenError."""
        if wanted.size > most:
            raise DefinitionError(f"{wanted.digest} is of {wanted.size} bytes, more than {most}")
        try:
            data = self.blob(wanted.digest).read_bytes()
        except FileNotFoundError:
            raise BrokenError(f"{wanted.digest} is not in the store") from None
        if len(data) != wanted.size or digest_of(data) != wanted.digest:
            raise BrokenError(f"{wanted.digest} is damaged in the store")
        return data

    def add(self, data: bytes) -> str:
        """A small blob; its digest."""
        digest = digest_of(data)
        if not self.blob(digest).exists():
            self.write(self.blob(digest), data)
        return digest

    def take(
        self, read: Callable[[int], bytes], wanted: Descriptor | None = None, most: int = media.MAX_BLOB
    ) -> Descriptor:
        """A blob of any size from read(n), which gives nothing at its end. Checked against `wanted`.

        Raises DefinitionError when it is another; then nothing is kept.
        """
        limit = wanted.size if wanted is not None else most
        seen, size = hashlib.sha256(), 0
        path = self.ingest / f"{secrets.token_hex(8)}.part"
        try:
            with path.open("xb", buffering=0) as file:
                while piece := read(CHUNK):
                    size += len(piece)
                    if size > limit:
                        raise DefinitionError(f"a blob is longer than the {limit} bytes it should have")
                    seen.update(piece)
                    view = memoryview(piece)
                    while view:
                        view = view[file.write(view) :]
                os.fsync(file.fileno())
            digest = f"sha256:{seen.hexdigest()}"
            if wanted is not None and (size, digest) != (wanted.size, wanted.digest):
                raise DefinitionError(f"{wanted.digest} came as {size} bytes of {digest}")
            self.commit(path, digest)
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise
        return Descriptor(wanted.media_type if wanted else media.OCI_LAYER, digest, size)

    def commit(self, part: Path, digest: str) -> None:
        """A synced file whose bytes were checked becomes the blob."""
        os.rename(part, self.blob(digest))
        sync_dir(self.blobs)

    def manifest(self, wanted: Descriptor) -> Manifest | Index:
        """Of its own media type: what a record or an index says of it was checked when it came."""
        return media.parse_manifest(self.read(wanted, media.MAX_MANIFEST))

    def image(self, ref: Reference) -> Image:
        """The whole image of a name. Raises GoneError-like RefusedError when there is none, BrokenError."""
        if (record := self.record(ref)) is None:
            raise RefusedError(f"there is no image {ref.familiar}", hint="wharfctl images import FILE brings it in")
        return self.image_of(record)

    def image_of(self, record: Record) -> Image:
        manifest = self.manifest(record.descriptor)
        if isinstance(manifest, Index):
            raise BrokenError(f"{record.ref} is an index, not an image")
        config = media.parse_image_config(self.read(manifest.config, media.MAX_CONFIG))
        if len(config.diff_ids) != len(manifest.layers):
            raise BrokenError(
                f"{record.ref} has {len(manifest.layers)} layers, and {len(config.diff_ids)} in its config"
            )
        return Image(record, manifest, config)

    def record(self, ref: Reference) -> Record | None:
        """The record of a name; a name with a digest also finds the image under another tag of its repository."""
        found = self._load(self._place(str(ref)))
        if found is not None or not ref.digest:
            return found
        for record in self.records():
            if ref.digest in (record.digest, record.index) and parse_reference(record.ref).repository == ref.repository:
                return record
        return None

    def records(self) -> list[Record]:
        """All that can be read, by name."""
        found = [self._load(path) for path in self.refs.glob("*.json")]
        return sorted((r for r in found if r is not None), key=lambda r: r.ref)

    def name(self, record: Record) -> None:
        """From now on its name is of this image, whose parts are all here."""
        body = {"version": _VERSION, **asdict(record)}
        self.write(self._place(record.ref), media.canonical(body))
        self._mirror()

    def unname(self, ref: Reference) -> bool:
        """Whether there was such a name."""
        try:
            os.unlink(self._place(str(ref)))
        except FileNotFoundError:
            return False
        sync_dir(self.refs)
        self._mirror()
        return True

    def pin(self, ref: Reference, pinned: bool) -> None:
        record = self.record(ref)
        if record is None:
            raise RefusedError(f"there is no image {ref.familiar}")
        self.name(replace(record, pinned=pinned))

    def foreign(self) -> list[tuple[str, Descriptor]]:
        """Names in index.json that are not ours: others have put them there. Unreadable lines are passed over."""
        try:
            body = json.loads((self.layout / "index.json").read_bytes()[:_MAX_INDEX])
            lines = body["manifests"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        ours = {record.ref for record in self.records()}
        found = []
        for line in lines if isinstance(lines, list) else ():
            with suppress(DefinitionError):
                descriptor = media.parse_descriptor(line)
                name = descriptor.annotations.get(REF_NAME, "")
                mirrored = _OURS in descriptor.annotations
                if name and not mirrored and str(parse_reference(name)) not in ours:
                    found.append((name, descriptor))
        return found

    def verify(self) -> Iterator[str]:
        """Reads every blob; a line for each that is not what its name says."""
        for path in sorted(self.blobs.iterdir()):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != path.name:
                yield f"blob {path.name} is damaged: its bytes are {found[:19]}"

    def write(self, path: Path, data: bytes) -> None:
        """The whole file or, after a power cut, the one before."""
        beside = self.tmp / secrets.token_hex(8) if path.parent != self.layout else path.with_suffix(".new")
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, path)
        sync_dir(path.parent)

    def sweep(self) -> None:
        """At a start, alone: what was under way when a process died. Pulls go on from their parts."""
        for path in self.tmp.iterdir():
            remove_tree(path)
        for path in self.ingest.iterdir():
            if not is_digest(f"sha256:{path.stem}"):
                path.unlink()

    def _place(self, name: str) -> Path:
        return self.refs / f"{hashlib.sha256(name.encode()).hexdigest()}.json"

    def _load(self, path: Path) -> Record | None:
        try:
            body: dict[str, Any] = json.loads(path.read_bytes())
            body.pop("version")
            known = {key: body[key] for key in Record.__dataclass_fields__ if key in body}
            record = Record(**known)
            parse_reference(record.ref)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, DefinitionError):
            return None
        return record if is_digest(record.digest) else None

    def _mirror(self) -> None:
        """index.json anew: our records, and what others have put there."""
        lines = [
            replace(record.descriptor, annotations={REF_NAME: record.ref, _OURS: "1"}).to_json()
            for record in self.records()
        ]
        with suppress(OSError, ValueError, AttributeError):
            lines += [d.to_json() for _, d in self.foreign()]
        body = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": lines}
        self.write(self.layout / "index.json", media.canonical(body))


def _flock(fd: int, kind: int, wait: float) -> None:
    """flock(2) has no limit of its own; those who hold it long are few, and ask for it seldom."""
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                hint = "try again when it has ended"
                raise RefusedError("another command is at work on the images", hint=hint) from None
        time.sleep(0.05)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Of ours or of an image; links are removed, not followed (shutil.rmtree works by directory fds).

    Somebody else may be removing it, too.
    """
    while path.is_dir() and not path.is_symlink():
        with suppress(FileNotFoundError):
            shutil.rmtree(path)
    path.unlink(missing_ok=True)
