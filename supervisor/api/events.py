"""`GET /v1/events`: what a reader asks for, and lines of JSON as they come (docs/events.md)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from config.quantity import parse_duration
from supervisor.api.message import HttpError, Request, json_line
from supervisor.ports import Control, Query, Since
from supervisor.topics import types_of

MAX_TAIL = 10_000
MOST_CAUSES = 50


def query_of(request: Request) -> Query:
    """Raises HttpError 400."""
    given = request.query
    try:
        types = types_of(given.get("type", "")[:2000])
    except ValueError as error:
        raise HttpError(400, "bad request", f"type: there is no type or topic {str(error)[:80]!r}") from None
    return Query(
        since=_since(given["since"]) if "since" in given else None,
        follow=request.flag("follow"),
        tail=None if "tail" not in given else request.number("tail", 0, MAX_TAIL),
        name=given.get("name") or None,
        types=types,
        causes=tuple(filter(None, given.get("cause", "").split(",")))[:MOST_CAUSES],
    )


def _since(text: str) -> int | Since:
    """`120`: after that number. `10m`: so long ago. `2026-11-25T06:00:00Z`: from then on (no zone: UTC)."""
    if text.isascii() and text.isdigit() and len(text) < 17:
        return int(text)
    try:
        return Since(ago=parse_duration(text))
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
        return Since(wall=(at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise HttpError(400, "bad request", "since: a number, a duration (10m) or a time (ISO 8601)") from None


async def lines(control: Control, query: Query) -> AsyncIterator[bytes]:
    async with aclosing(_closable(control.events(query))) as events:
        async for event in events:
            yield json_line(event)


async def _closable(events: AsyncIterator[Mapping[str, Any]]) -> AsyncGenerator[Mapping[str, Any], None]:
    """So that the source is closed with its reader, whatever kind of iterator it is."""
    try:
        async for event in events:
            yield event
    finally:
        if hasattr(events, "aclose"):
            await events.aclose()
