"""Names of images, as Docker's users write them (pure).

`alpine`, `shop/web:1.4`, `registry.local:5000/a/b@sha256:...`. Source: distribution/reference, grammar of a reference;
OCI distribution-spec, "Pulling manifests".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"
MAX_NAME = 255
MAX_TEXT = 512

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageNameError(ValueError):
    """`text` is no name of an image; one line."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A whole name: `host` with its port, `path` of the repository, then a tag, a digest or both."""

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        return f"{self.host}/{self.path}"

    def __str__(self) -> str:
        """The canonical name, by which the store knows it."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}{'@' + self.digest if self.digest else ''}"

    @property
    def familiar(self) -> str:
        """As people write it: without what Docker adds of itself."""
        path = self.path.removeprefix("library/") if self.host == DEFAULT_HOST else self.path
        host = "" if self.host == DEFAULT_HOST else f"{self.host}/"
        tag = f":{self.tag}" if self.tag and (self.tag != DEFAULT_TAG or self.digest) else ""
        return f"{host}{path}{tag}{'@' + self.digest if self.digest else ''}"


def parse_image_name(text: str) -> Reference:
    """The reference that `text` means; without tag and digest it means `latest`. Raises ImageNameError."""
    if not text or len(text) > MAX_TEXT:
        raise _wrong(text, "is empty" if not text else f"is longer than {MAX_TEXT} characters")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _wrong(text, "its digest is not sha256: and 64 hexadecimal digits")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, "its tag is not 1 to 128 of letters, digits, '_', '.' and '-'")
    host, path = _split(f"{head}{slash}{last}")
    if not _HOST.fullmatch(host):
        raise _wrong(text, f"{host!r} is not a registry's host")
    if not all(_COMPONENT.fullmatch(part) for part in path.split("/")):
        hint = "names of repositories are lower case" if path != path.lower() else "a name is [HOST[:PORT]/]PATH[:TAG]"
        raise ImageNameError(f"{text!r} is not an image's name; {hint}")
    if len(host) + 1 + len(path) > MAX_NAME:
        raise _wrong(text, f"its repository is longer than {MAX_NAME} characters")
    return Reference(host, path, tag or ("" if digest else DEFAULT_TAG), digest)


def is_digest(text: object) -> bool:
    """Whether `text` is a digest that we can check: sha256 alone."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def _split(name: str) -> tuple[str, str]:
    """Host and path: the first part is a host when it has a dot or a port, is localhost or not lower case."""
    first, slash, rest = name.partition("/")
    if slash and (any(c in first for c in ".:[") or first == "localhost" or first != first.lower()):
        host = DEFAULT_HOST if first == "index.docker.io" else first
        return host, rest if host != DEFAULT_HOST or "/" in rest else f"library/{rest}"
    return DEFAULT_HOST, name if slash else f"library/{name}"


def _wrong(text: str, why: str) -> ImageNameError:
    return ImageNameError(f"{text[:80]!r} is not an image's name: {why}")
