"""Manifests, indexes and configs: what is taken, what is refused, which image of an index runs here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from config.errors import DefinitionError
from runtime.images import media
from runtime.images.media import Index, Manifest, Platform
from tests.fixtures.images import build, layer, member

D = "sha256:" + "a" * 64


def descriptor(kind: str = media.OCI_MANIFEST, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": D, "size": 3, **more}


def index(*platforms: str) -> Index:
    lines = []
    for n, text in enumerate(platforms):
        os, architecture, variant = (*text.split("/"), "", "")[:3]
        place = {"os": os, "architecture": architecture, "variant": variant}
        lines.append({**descriptor(), "digest": f"sha256:{n:064x}", "platform": place})
    found = media.parse_manifest(json.dumps({"schemaVersion": 2, "manifests": lines}).encode())
    assert isinstance(found, Index)
    return found


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ("linux/arm64", "linux/amd64"), 1),
        ("linux/arm/v7", ("linux/arm/v6", "linux/arm/v7", "linux/arm/v8"), 1),
        ("linux/arm/v7", ("linux/arm/v5", "linux/arm/v6"), 1),
        ("linux/arm64/v8", ("linux/arm64",), 0),
        ("linux/arm64", ("linux/arm64/v8",), 0),
        ("linux/amd64", ("unknown/unknown", "linux/amd64"), 1),
    ],
)
def test_the_nearest_platform_of_an_index_is_chosen(wanted: str, offered: tuple[str, ...], chosen: int) -> None:
    place = media.parse_platform(wanted)
    assert media.choose(index(*offered), place).digest == f"sha256:{chosen:064x}"


def test_an_index_without_our_platform_says_what_it_has() -> None:
    with pytest.raises(DefinitionError, match=r"no image for linux/riscv64; there is linux/amd64, linux/arm64/v8"):
        media.choose(index("linux/arm64/v8", "linux/amd64", "unknown/unknown"), Platform("linux", "riscv64"))


def test_a_manifest_that_is_an_index_too_is_refused() -> None:
    body = {"schemaVersion": 2, "manifests": [descriptor()], "layers": [], "config": descriptor()}
    with pytest.raises(DefinitionError, match="is an index, too"):
        media.parse_manifest(json.dumps(body).encode())


def test_a_manifest_that_says_another_type_than_it_was_sent_as_is_refused() -> None:
    built = build([layer(member("a"))])
    assert isinstance(media.parse_manifest(built.manifest, media.OCI_MANIFEST), Manifest)
    with pytest.raises(DefinitionError, match="was sent as"):
        media.parse_manifest(built.manifest, media.DOCKER_MANIFEST)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"schemaVersion":1}', b'{"schemaVersion":2}', b"{" * 100, b'{"a":1,"a":2}',
        json.dumps({"schemaVersion": 2, "layers": [], "config": {**descriptor(), "digest": "sha512:1"}}).encode(),
        json.dumps({"schemaVersion": 2, "layers": [], "config": descriptor(size=-1)}).encode(),
        json.dumps({"schemaVersion": 2, "layers": [], "config": descriptor(size=True)}).encode(),
        json.dumps({"schemaVersion": 2, "layers": [descriptor()] * 128, "config": descriptor()}).encode(),
        json.dumps({"schemaVersion": 2, "mediaType": "text/plain", "layers": [], "config": descriptor()}).encode(),
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(body: bytes) -> None:
    with pytest.raises(DefinitionError):
        media.parse_manifest(body)


def test_chain_ids_are_those_of_the_specification() -> None:
    import hashlib

    low, high = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    both = "sha256:" + hashlib.sha256(f"{low} {high}".encode()).hexdigest()
    assert media.chain_ids([low, high]) == [low, both]
