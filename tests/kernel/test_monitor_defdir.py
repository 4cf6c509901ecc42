"""The definition directory where the kernel has no inotify instance, no watch or no room in its queue left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from monitor.defdir import DefinitionWatch

LIMITS = Path("/proc/sys/fs/inotify")


@pytest.fixture
def limits() -> Iterator[Path]:
    """The guest's own limits, put back afterwards."""
    before = {path: path.read_text() for path in LIMITS.iterdir()}
    yield LIMITS
    for path, text in before.items():
        path.write_text(text)


def changes(path: Path, steps: int, limits: Path | None = None) -> tuple[DefinitionWatch, list[str]]:
    """Touches a file `steps` times, each after the last was told; what was told, and the watch as it was."""
    watch = DefinitionWatch(path, quiet=0.05, poll=0.1, retry=0.5)
    told: list[str] = []

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            heard = anyio.Event()

            async def listen() -> None:
                nonlocal heard
                async for change in watch.changes():
                    told.append(change.why)
                    heard.set()
                    heard = anyio.Event()

            tg.start_soon(listen)
            await anyio.sleep(0.2)
            for number in range(steps):
                waiting = heard
                (path / f"{number}.yaml").write_text("a")
                with anyio.fail_after(20):
                    await waiting.wait()
            tg.cancel_scope.cancel()

    anyio.run(main, backend="trio")
    return watch, told


@pytest.mark.vm
@pytest.mark.parametrize("limit", ["max_user_instances", "max_user_watches"])
def test_at_the_limit_the_directory_is_polled_and_later_watched_again(tmp_path: Path, limits: Path, limit: str) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    (limits / limit).write_text("0")
    watch, told = changes(tmp_path, 2)
    assert watch.degraded
    assert told == ["degraded", "polled", "polled"]
    assert len(os.listdir("/proc/self/fd")) == fds
    (limits / limit).write_text("128")
    again, told = changes(tmp_path, 2)
    assert not again.degraded
    assert told == ["changed", "changed"]


@pytest.mark.vm
def test_a_queue_that_overflowed_is_told_and_forgotten(tmp_path: Path, limits: Path) -> None:
    (limits / "max_queued_events").write_text("16")
    watch = DefinitionWatch(tmp_path, quiet=0.05)
    told: list[str] = []

    async def main() -> None:
        async with anyio.create_task_group() as tg:

            async def listen() -> None:
                async for change in watch.changes():
                    told.append(change.why)
                    if len(told) == 1:
                        (tmp_path / "late.yaml").write_text("a")
                    else:
                        tg.cancel_scope.cancel()

            tg.start_soon(listen)
            await anyio.sleep(0.2)
            for number in range(60):
                (tmp_path / f"{number}.yaml").write_text("a")
            with anyio.fail_after(20):
                await anyio.sleep_forever()

    anyio.run(main, backend="trio")
    assert told == ["overflow", "changed"]
    assert watch.overflows == 1
