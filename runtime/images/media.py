"""Manifests, indexes and configs of images: bytes in, values out, with the limits of untrusted input (pure).

Source: OCI image-spec manifest.md, image-index.md, config.md, descriptor.md; Docker image manifest v2, schema 2.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from config.errors import DefinitionError
from runtime.bundle import parse_config
from runtime.images.reference import is_digest

MAX_MANIFEST = 4 << 20
MAX_CONFIG = 16 << 20
MAX_LAYERS = 127
MAX_BLOB = 1 << 40

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)

_LAYERS = {
    OCI_LAYER: "none",
    OCI_LAYER + "+gzip": "gzip",
    OCI_LAYER + "+zstd": "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "none",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "riscv64": ("riscv64", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
}
_DEFAULT_VARIANT = {"arm64": "v8", "arm": "v7"}  # what an index means that names none


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of a blob; `size` in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def compression(self) -> str:
        """Of a layer: `none`, `gzip` or `zstd`. Raises DefinitionError for what we cannot unpack."""
        if (found := _LAYERS.get(self.media_type)) is None:
            raise DefinitionError(f"a layer is {self.media_type[:100]!r}, which is no tar, tar+gzip or tar+zstd")
        return found

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.platform is not None:
            made["platform"] = {"architecture": self.platform.architecture, "os": self.platform.os}
            if self.platform.variant:
                made["platform"]["variant"] = self.platform.variant
        if self.annotations:
            made["annotations"] = dict(self.annotations)
        return made


@dataclass(frozen=True, slots=True)
class Manifest:
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    media_type: str
    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What a config says. `diff_ids`: digests of the layers uncompressed, the lowest first; `run`: its `config`."""

    platform: Platform
    diff_ids: tuple[str, ...]
    run: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...] = ()
    created: str = ""


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """A manifest or an index. `media_type`: what came with it; it must agree with what stands in it.

    Raises DefinitionError.
    """
    if len(data) > MAX_MANIFEST:
        raise DefinitionError(f"a manifest of more than {MAX_MANIFEST} bytes")
    body = _object(parse_config(data), "a manifest")
    if body.get("schemaVersion") != 2:
        raise DefinitionError("a manifest is not of schema version 2")
    inside = body.get("mediaType", "")
    both = "manifests" in body and ("layers" in body or "config" in body)
    if both:  # one digest that two readers take for two things
        raise DefinitionError("a manifest that is an index, too")
    kind = inside or media_type or (OCI_INDEX if "manifests" in body else OCI_MANIFEST)
    if inside and media_type and media_type in (*INDEXES, *MANIFESTS) and inside != media_type:
        raise DefinitionError(f"a manifest was sent as {media_type}, and says that it is {str(inside)[:100]}")
    if kind in INDEXES and "manifests" in body:
        return Index(kind, tuple(parse_descriptor(d) for d in _list(body["manifests"], "manifests", 1000)))
    if kind in MANIFESTS and "layers" in body:
        layers = tuple(parse_descriptor(d) for d in _list(body["layers"], "layers", MAX_LAYERS))
        return Manifest(kind, parse_descriptor(body.get("config")), layers)
    raise DefinitionError(f"a manifest is {str(kind)[:100]!r}, which is no image and no index")


def parse_descriptor(value: object) -> Descriptor:
    """Raises DefinitionError."""
    body = _object(value, "a descriptor")
    kind, digest, size = body.get("mediaType"), body.get("digest"), body.get("size")
    if not isinstance(kind, str) or not kind:
        raise DefinitionError("a descriptor without a media type")
    if not is_digest(digest):
        raise DefinitionError(f"a descriptor's digest {str(digest)[:80]!r} is not sha256: and 64 digits")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_BLOB:
        raise DefinitionError(f"a descriptor's size {str(size)[:40]!r} is not a number of bytes")
    where = body.get("platform")
    notes = body.get("annotations") or {}
    named = {k: v for k, v in _object(notes, "annotations").items() if isinstance(v, str)}
    return Descriptor(kind, str(digest), size, None if where is None else _platform(where), named)


def parse_image_config(data: bytes) -> ImageConfig:
    """Raises DefinitionError."""
    if len(data) > MAX_CONFIG:
        raise DefinitionError(f"an image's config of more than {MAX_CONFIG} bytes")
    body = _object(parse_config(data), "an image's config")
    rootfs = _object(body.get("rootfs"), "rootfs of an image's config")
    if rootfs.get("type") != "layers":
        raise DefinitionError("an image's rootfs is not of type layers")
    diff_ids = _list(rootfs.get("diff_ids"), "diff_ids", MAX_LAYERS)
    if not all(is_digest(d) for d in diff_ids):
        raise DefinitionError("an image's diff_ids are not digests")
    run = _object(body.get("config") or {}, "config of an image's config")
    history = tuple(h for h in body.get("history") or () if isinstance(h, dict))[: 4 * MAX_LAYERS]
    return ImageConfig(_platform(body), tuple(diff_ids), run, history, str(body.get("created") or "")[:64])


def parse_platform(text: str) -> Platform:
    """`linux/arm64` or `linux/arm/v7`, as `platform:` has it. Raises DefinitionError."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(p.isalnum() and p.isascii() and p == p.lower() for p in parts):
        raise DefinitionError(f"{text[:60]!r} is not a platform", hint="write linux/amd64 or linux/arm/v7")
    return Platform(*parts)


def host_platform() -> Platform:
    machine = os.uname().machine
    return Platform("linux", *_ARCHITECTURES.get(machine, (machine, "")))


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The image of `index` that runs on `wanted`: the same variant, else the highest one below.

    Raises DefinitionError.
    """
    fits: list[tuple[int, Descriptor]] = []
    for d in index.manifests:
        have = d.platform
        if d.media_type not in MANIFESTS or have is None:
            continue
        if have.os == wanted.os and have.architecture == wanted.architecture:
            ours, theirs = _rank(wanted), _rank(have)
            if theirs <= ours:
                fits.append((theirs, d))
    if fits:
        return max(fits, key=lambda pair: pair[0])[1]
    alone = [d for d in index.manifests if d.media_type in MANIFESTS]
    if len(alone) == 1 and alone[0].platform is None:
        return alone[0]
    offered = sorted({str(d.platform) for d in alone if d.platform is not None and d.platform.os != "unknown"})
    raise DefinitionError(f"no image for {wanted}", hint=f"there is {', '.join(offered)[:300] or 'none at all'}")


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The name of each stack of layers, the lowest first (image-spec config.md, "Layer ChainID")."""
    chain: list[str] = []
    for diff in diff_ids:
        text = f"{chain[-1]} {diff}" if chain else ""
        chain.append("sha256:" + hashlib.sha256(text.encode()).hexdigest() if text else diff)
    return chain


def canonical(body: Mapping[str, Any]) -> bytes:
    """JSON as we write manifests."""
    return json.dumps(body, separators=(",", ":"), sort_keys=True).encode()


def _rank(platform: Platform) -> int:
    variant = platform.variant or _DEFAULT_VARIANT.get(platform.architecture, "")
    return int(variant[1:]) if variant[:1] == "v" and variant[1:].isdigit() and len(variant) < 4 else 0


def _platform(value: object) -> Platform:
    body = _object(value, "a platform")
    parts = [body.get("os", ""), body.get("architecture", ""), body.get("variant", "")]
    if not all(isinstance(p, str) and len(p) <= 32 for p in parts):
        raise DefinitionError("a platform is not of three short words")
    return Platform(*parts)


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DefinitionError(f"{what} is not a JSON object")
    return value


def _list(value: object, what: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise DefinitionError(f"{what} is not a list")
    if len(value) > most:
        raise DefinitionError(f"{what} has {len(value)} entries, more than {most}")
    return value
