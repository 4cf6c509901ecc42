"""The declared side: reading the definition directory, last good versions, errors, and the watch on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread

from config import loader
from config.errors import DefinitionError
from config.model import Container
from supervisor.ports import Clock

MOST_TOLD = 20  # errors of one reload that become events

Result = TypeVar("Result")


class Definitions:
    """Holds what was loaded last. `read` changes nothing; `apply` brings the fleet to it."""

    def __init__(self, directory: Path, clock: Clock, refused: Callable[[DefinitionError], None]) -> None:
        """`refused` is told each error once, as long as it lasts."""
        self._directory = directory
        self._clock = clock
        self._refused = refused
        self._told: frozenset[str] = frozenset()
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
        for error in loaded.errors[:MOST_TOLD]:
            if str(error) not in self._told:
                self._refused(error)
        self._told = frozenset(map(str, loaded.errors))

    async def apply(
        self, put: Callable[[Mapping[str, Container], Mapping[str, str]], Result]
    ) -> tuple[Result, tuple[str, ...]]:
        """Read, and `put` (containers, their files) to work as one step: two reloads never interleave.

        Returns what `put` answered, and the errors of bad files, one line each.
        """
        async with self._lock:
            loaded = await self.read()
            self.keep(loaded)
            return put(loaded.containers, self.files()), self.problems()

    def files(self) -> dict[str, str]:
        return {} if self.current is None else {name: str(path) for name, path in self.current.files.items()}

    def problems(self) -> tuple[str, ...]:
        return () if self.current is None else tuple(str(error) for error in self.current.errors)

    def problem_of(self, name: str) -> str:
        """Why the last good definition of a container runs instead of the one that its file has now."""
        if self.current is None or name not in self.current.kept:
            return ""
        file = self.current.files.get(name, "")
        own = [e for e in self.current.errors if e.file == str(file) and e.container in (name, "")]
        return f"last good definition runs: {own[0]}" if own else "last good definition runs"

    def is_bad(self, file: str) -> bool:
        return self.current is not None and any(error.file == file for error in self.current.errors)

    def last_good(self, definition: Container, file: str) -> None:
        """Take the definition that runs as the last good one of a file that is bad at start."""
        if self.current is not None:
            self.current = loader.with_kept(self.current, definition, file)
