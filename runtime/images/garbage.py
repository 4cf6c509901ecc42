"""What the store holds and nothing needs: marked from names, removed alone (the store's lock), moved away first.

Roots are the records of names, and the images that containers stand on; a name is a root when a definition uses it,
when it is pinned (imports are), or, for `collect`, always. A pull or an import holds the lock shared, so that what it
brings in is never garbage.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from config.errors import RefusedError, WharfError
from runtime.images import media
from runtime.images.media import Descriptor, Index
from runtime.images.reference import is_digest, parse_reference
from runtime.images.snapshots import Snapshots
from runtime.images.store import Record, Store, remove_tree, sync_dir


@dataclass(frozen=True, slots=True)
class Gone:
    """One thing that was removed, or would be; `size` in bytes."""

    what: str
    name: str
    size: int
    why: str


def prune(store: Store, snapshots: Snapshots, used: Collection[str], dry: bool) -> list[Gone]:
    """Names that are not `used` (canonical) and not pinned, and all that no other name needs. Raises RefusedError when
    another command is at work."""
    with store.lock(exclusive=True, wait=0):
        idle = [r for r in store.records() if not r.pinned and r.ref not in used and not _by_digest(r, used)]
        kept = [r for r in store.records() if r not in idle]
        gone = [Gone("name", parse_reference(r.ref).familiar, 0, "no definition uses it") for r in idle]
        if not dry:
            for record in idle:
                store.unname(parse_reference(record.ref))
        more, away = _sweep(store, snapshots, kept, dry)
    _remove(away)
    return gone + more


def collect(store: Store, snapshots: Snapshots, dry: bool = False) -> list[Gone]:
    """What no name needs. Nothing when another command is at work: it will be found the next time."""
    try:
        with store.lock(exclusive=True, wait=0):
            gone, away = _sweep(store, snapshots, store.records(), dry)
    except RefusedError:
        return []
    _remove(away)
    return gone


def _by_digest(record: Record, used: Collection[str]) -> bool:
    repository = parse_reference(record.ref).repository
    return any(f"{repository}@{digest}" in used for digest in (record.digest, record.index) if digest)


def _sweep(store: Store, snapshots: Snapshots, kept: Collection[Record], dry: bool) -> tuple[list[Gone], list[Path]]:
    """What goes, and where it was moved to: removing it takes its time, and needs no lock."""
    blobs, layers, broken = _marked(store, kept)
    if broken:  # what a damaged image needs is not known: nothing of any is removed
        return [], []
    gone = [_one(p, "blob", "no image has it") for p in store.blobs.iterdir() if p.name not in blobs]
    names = {snapshots.place(chain_id).name for chain_id in layers}
    gone += [_one(p, "layer", "no image has it") for p in store.layers.iterdir() if p.name not in names]
    places = [store.blobs / one.name if one.what == "blob" else store.layers / one.name for one in gone]
    return gone, [] if dry else _move_away(store, places)


def _marked(store: Store, kept: Collection[Record]) -> tuple[set[str], set[str], bool]:
    """Digests of blobs, without their `sha256:`, and chain ids."""
    blobs: set[str] = set()
    layers: set[str] = set()
    heads = [(record.descriptor, record.index) for record in kept]
    heads += [(descriptor, "") for descriptor in _of_containers(store)]
    heads += [(descriptor, "") for _, descriptor in store.foreign()]
    for descriptor, index in heads:
        blobs |= {descriptor.digest[7:], index[7:]}
        try:
            manifest = store.manifest(descriptor)
            if isinstance(manifest, Index):
                continue
            blobs |= {part.digest[7:] for part in (manifest.config, *manifest.layers)}
            config = media.parse_image_config(store.read(manifest.config, media.MAX_CONFIG))
        except WharfError:
            return blobs, layers, True
        layers |= set(media.chain_ids(config.diff_ids))
    return blobs, layers, False


def _of_containers(store: Store) -> list[Descriptor]:
    """Images that writable layers stand on, whatever has become of their names: a container may run on them."""
    found = []
    for path in store.containers.glob("*/image"):
        with suppress(OSError):
            digest = path.read_text()
            if is_digest(digest) and (blob := store.blob(digest)).exists():
                found.append(Descriptor(media.OCI_MANIFEST, digest, blob.stat().st_size))
    return found


def _one(path: Path, what: str, why: str) -> Gone:
    size = sum(p.lstat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
    return Gone(what, path.name, size, why)


def _move_away(store: Store, places: list[Path]) -> list[Path]:
    """By a rename: a power cut leaves nothing half there."""
    away = []
    for path in places:
        target = store.tmp / secrets.token_hex(8)
        path.rename(target)
        away.append(target)
    for directory in {path.parent for path in places}:
        sync_dir(directory)
    return away


def _remove(away: list[Path]) -> None:
    for path in away:
        remove_tree(path)
