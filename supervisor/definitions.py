"""The declared side: reading the definition directory, last good versions, errors, and the watch on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
from anyio import to_thread

from config import loader
from config.model import Container
from supervisor.fleet import Applied, Fleet
from supervisor.ports import Clock


class Definitions:
    """Holds what was loaded last. `read` changes nothing; `apply` brings the fleet to it."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._lock = anyio.Lock()
        self.current: loader.Definitions | None = None
        self.last_success: float | None = None  # wall
        self.successful = True

    async def read(self) -> loader.Definitions:
        """Parse everything, keeping the last good version of a bad file. Never raises for bad input."""
        return await to_thread.run_sync(loader.load_dir, self._directory, self.current)

    def keep(self, loaded: loader.Definitions) -> None:
        self.current = loaded
        self.successful = not loaded.errors
        if self.successful:
            self.last_success = self._clock.wall()

    async def apply(self, fleet: Fleet) -> tuple[Applied, tuple[str, ...]]:
        """Read and apply as one step: two reloads never interleave."""
        async with self._lock:
            loaded = await self.read()
            self.keep(loaded)
            applied = fleet.apply(loaded.containers, self.files())
            return applied, tuple(str(error) for error in loaded.errors)

    def files(self) -> dict[str, str]:
        return {} if self.current is None else {name: str(path) for name, path in self.current.files.items()}

    def problems(self) -> Sequence[str]:
        return () if self.current is None else tuple(str(error) for error in self.current.errors)

    def problem_of(self, file: str) -> str:
        """The error of the file that a container was declared in, whose last good version runs."""
        if self.current is None or not file:
            return ""
        return next((f"last good definition runs: {e}" for e in self.current.errors if e.file == file), "")

    def last_good(self, name: str, definition: Container, file: str) -> None:
        """Take the definition that runs as the last good one of a file that is bad at start."""
        if self.current is not None:
            self.current = self.current.with_kept(name, definition, file)
