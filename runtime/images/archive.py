"""An image as one file: an OCI archive, which skopeo, podman and `wharfctl images import` read."""

from __future__ import annotations

import io
import os
import secrets
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from config.errors import HostError
from runtime.images import media
from runtime.images.store import REF_NAME, Image, Store


def save(store: Store, image: Image, target: Path) -> None:
    """Digests stay. The file is whole or not there. Raises HostError."""
    line = replace(image.record.descriptor, annotations={REF_NAME: image.record.ref})
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [line.to_json()]}
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    parts = {part.digest: part for part in (image.record.descriptor, image.manifest.config, *image.manifest.layers)}
    try:
        with store.lock(exclusive=False), beside.open("xb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
                _add(tar, "index.json", media.canonical(index))
                for digest in parts:
                    tar.add(store.blob(digest), f"blobs/sha256/{digest[7:]}", filter=_plain)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, target)
    except OSError as error:
        raise HostError(f"not saved: {error.strerror}", where=str(target)) from None
    finally:
        with suppress(OSError):
            beside.unlink()


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime, info.mode = 0, 0o644
    return info


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(_plain(info), io.BytesIO(data))
