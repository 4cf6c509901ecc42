"""The stream of events: numbered, durable, resumable; what `events` and `events --follow` read (docs/events.md)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
from anyio import to_thread

from monitor import recorder
from supervisor.ports import Clock, Decision, Page, Query, Since, Store
from supervisor.topics import GAP, topic_of

PAGE = 500


class Stream:
    """Readers are woken by `publish` and read from the store by number: a slow one holds no memory here."""

    def __init__(self, store: Store, threads: anyio.CapacityLimiter, clock: Clock, boot_id: str) -> None:
        self._store = store
        self._threads = threads
        self._clock = clock
        self._boot_id = boot_id
        self._more = anyio.Event()

    def publish(self) -> None:
        """More is stored."""
        self._more.set()
        self._more = anyio.Event()

    async def read(self, query: Query) -> AsyncIterator[Mapping[str, Any]]:
        """What `query` asks for, in order of the numbers; then, with `follow`, each new event.

        A reader that comes back for a number that it cannot have any more is told so by a line of type `gap`.
        """
        resumed = isinstance(query.since, int)
        after = await self._place(query.since)
        if query.tail is not None:
            page = await self._page(after, query.tail, query, newest=True) if query.tail else None
            for event in page.events if page else ():
                yield line(event)
            after = page.upto if page else (await self._page(after, 1, query, newest=True)).newest
            resumed = True
            if not query.follow:
                return
        while True:
            more = self._more
            page = await self._page(after, PAGE, query)
            if resumed and (lost := gap(after, page)) is not None:
                yield lost
                if after > page.newest:  # the numbers began anew: all that there is follows
                    after, resumed = 0, False
                    continue
            resumed = True
            for event in page.events:
                yield line(event)
            after = page.upto
            if len(page.events) == PAGE:
                continue
            if not query.follow:
                return
            await more.wait()

    async def _page(self, after: int, limit: int, query: Query, newest: bool = False) -> Page:
        return await to_thread.run_sync(self._store.page, after, limit, query, newest, limiter=self._threads)

    async def _place(self, since: int | Since | None) -> int:
        if not isinstance(since, Since):
            return since or 0
        boot, wall = None, since.wall
        if since.ago is not None:  # by the clock that nobody sets, as far back as this boot goes
            boot = max(0.0, self._clock.boot() - since.ago)
            wall = self._clock.wall() - since.ago if boot == 0.0 else None
        return await to_thread.run_sync(self._store.place, self._boot_id, boot, wall, limiter=self._threads)


def line(event: Decision) -> dict[str, Any]:
    """An event as its readers get it."""
    return {
        "seq": event.seq,
        "type": event.type,
        "topic": topic_of(event.type),
        "name": event.name,
        "generation": event.generation,
        "boot_id": event.boot_id,
        "boot": event.boot,
        "wall": event.wall,
        "phase": event.phase,
        "before": event.before,
        "code": event.code,
        "text": event.text,
        "data": event.data,
    }


def gap(after: int, page: Page) -> dict[str, Any] | None:
    """What a reader that has had everything up to `after` cannot have; None: it misses nothing."""
    if after > page.newest:
        text = f"number {after} was never given: the history began anew, all that there is follows"
        return {"type": "gap", "topic": GAP.topic, "seq": 0, "from": None, "to": None, "text": text}
    first = page.oldest or page.newest + 1
    if first <= after + 1:
        return None
    text = f"events {after + 1} to {first - 1} are no longer kept"
    return {"type": "gap", "topic": GAP.topic, "seq": first - 1, "from": after + 1, "to": first - 1, "text": text}


def unpack(samples: str) -> Mapping[str, Any]:
    """The recorder's columns of an end, and `times`; {} when they cannot be read."""
    try:
        track = recorder.unpack(json.loads(samples))
    except (ValueError, RecursionError):
        return {}
    return {"times": track.times, **track.columns} if track is not None else {}
