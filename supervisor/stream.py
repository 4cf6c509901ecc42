"""The stream of events: numbered, durable, resumable; what `events` and `events --follow` read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

import anyio
from anyio import to_thread

from monitor import recorder
from supervisor.ports import Decision, Store

PAGE = 500


class Stream:
    """Readers are woken by `publish` and read from the store by number: a slow one holds no memory here."""

    def __init__(self, store: Store, threads: anyio.CapacityLimiter) -> None:
        self._store = store
        self._threads = threads
        self._more = anyio.Event()

    def publish(self, decision: Decision) -> None:
        """`decision` is stored already."""
        self._more.set()
        self._more = anyio.Event()

    async def read(self, since: int, follow: bool) -> AsyncIterator[Mapping[str, Any]]:
        """Events with a number above `since`, then, with `follow`, each new one."""
        while True:
            more = self._more
            page = await to_thread.run_sync(self._store.decisions, None, since, PAGE, limiter=self._threads)
            for decision in page:
                since = decision.seq
                yield asdict(decision)
            if len(page) == PAGE:
                continue
            if not follow:
                return
            await more.wait()


def unpack(samples: str) -> Mapping[str, Any]:
    """The recorder's columns of an end, and `times`; {} when they cannot be read."""
    try:
        track = recorder.unpack(json.loads(samples))
    except (ValueError, RecursionError):
        return {}
    return {"times": track.times, **track.columns} if track is not None else {}
