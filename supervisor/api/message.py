"""What an app is given and what it gives back; no socket in sight."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from supervisor.api.peer import Peer

Headers = Sequence[tuple[bytes, bytes]]
JSON = "application/json"
NDJSON = "application/x-ndjson"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """`segments`: the path between slashes, percent-decoded each; `peer` is None on TCP."""

    method: str
    path: str
    segments: tuple[str, ...]
    query: Mapping[str, str]
    headers: Headers
    body: bytes
    peer: Peer | None

    def flag(self, name: str) -> bool:
        """`?follow`, `?follow=1`, `?follow=true`. Raises HttpError."""
        word = self.query.get(name)
        if word is None or word.lower() in ("0", "false", "no"):
            return False
        if word.lower() in ("", "1", "true", "yes"):
            return True
        raise HttpError(400, "bad request", f"{name}: not a yes or no")

    def number(self, name: str, default: int, top: int) -> int:
        """A count in the query. Raises HttpError."""
        word = self.query.get(name)
        if word is None:
            return default
        if not (word.isascii() and word.isdigit() and len(word) < 19):
            raise HttpError(400, "bad request", f"{name}: not a number")
        return min(int(word), top)

    def json(self) -> dict[str, Any]:
        """The body as an object; an empty one is `{}`. Raises HttpError."""
        if not self.body.strip():
            return {}
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            raise HttpError(400, "bad request", "the body is no JSON") from None
        if not isinstance(found, dict):
            raise HttpError(400, "bad request", "the body is no JSON object")
        return found


@dataclass(slots=True)
class Response:
    """A body of bytes, or a stream of them that the front sends as it comes and closes (`aclose`) at the end."""

    status: int
    body: bytes | AsyncIterator[bytes] = b""
    type: str = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


App = Callable[[Request], Awaitable[Response]]


class HttpError(Exception):
    """An answer that is no success; `code` is a fixed word for programs, `message` one line for people."""

    def __init__(self, status: int, code: str, message: str = "", headers: Headers = ()) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message or code
        self.headers = headers

    def response(self) -> Response:
        return Response(
            self.status,
            json_line({"error": {"code": self.code, "message": self.message}}),
            headers=list(self.headers),
        )


def json_line(value: object) -> bytes:
    """One line of ASCII, so that no surrogate and no odd separator can break a reader."""
    return json.dumps(value, separators=(",", ":"), default=str).encode() + b"\n"


def split_target(target: bytes) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Path, its decoded segments and the query of a request target, in origin or absolute form. Raises HttpError."""
    text = target.decode("ascii", "replace")
    if "://" in text.split("?", 1)[0]:
        text = "/" + text.split("://", 1)[1].partition("/")[2]
    if not text.startswith("/"):
        raise HttpError(400, "bad request", "the target is no path")
    path, _, query = text.partition("#")[0].partition("?")
    try:
        segments = tuple(unquote(part, errors="strict") for part in path.split("/")[1:])
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=32, errors="strict")
    except ValueError:
        raise HttpError(400, "bad request", "the target cannot be read") from None
    if any("/" in part or "\0" in part or part in (".", "..") for part in segments):
        raise HttpError(404, "not found", "no such path")
    return path, segments, dict(pairs)
