"""The shim that waits ready for the next start."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from anyio import Lock

from config.errors import GoneError
from runtime import shim

log = logging.getLogger("wharfinger.launch")


@dataclass(slots=True)
class Spares:
    """A shim that waits ready, so that starting one is not on the way from an exit to the next exec."""

    path: Path
    cgroup: Callable[[], int]  # opens the directory of the shims' cgroup
    _lock: Lock = field(default_factory=Lock)
    _ready: shim.SpareShim | None = None

    async def take(self) -> shim.SpareShim:
        async with self._lock:
            ready, self._ready = self._ready, None
        if ready is not None and ready.alive():
            return ready
        return await self._spawn()

    async def use(self, start: Callable[[shim.SpareShim], Awaitable[shim.Shim]]) -> shim.Shim:
        """Start by the spare one. One that ended before it read its message did nothing: then by a fresh one, once.

        `start` closes what it is given when it fails. Raises what it raises.
        """
        try:
            return await start(await self.take())
        except GoneError as error:
            log.warning("%s; another is taken", error)
        return await start(await self._spawn())

    async def refill(self) -> None:
        async with self._lock:
            if self._ready is None or not self._ready.alive():
                self._ready = await self._spawn()

    async def _spawn(self) -> shim.SpareShim:
        cgroup = self.cgroup()
        try:
            return await shim.spawn_shim(self.path, cgroup)
        finally:
            os.close(cgroup)

    def close(self) -> None:
        if self._ready is not None:
            self._ready.close()
