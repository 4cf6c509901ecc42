"""The definition directory: every change is told, few words are made of many, and no watch is no disaster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor import defdir
from monitor.defdir import Change, DefinitionWatch, is_ignored, signature

QUICK = {"quiet": 0.03, "bound": 0.2, "poll": 0.03, "retry": 0.2}


class Heard:
    """What a consumer was told."""

    def __init__(self, watch: DefinitionWatch) -> None:
        self.watch = watch
        self.changes: list[Change] = []

    async def listen(self) -> None:
        async for change in self.watch.changes():
            self.changes.append(change)

    async def change(self) -> str:
        """Waits for the next one, and that no other follows it at once."""
        with anyio.fail_after(5):
            while not self.changes:  # noqa: ASYNC110 - a poll shows what an event of our own would hide
                await anyio.sleep(0.005)
        await self.quiet(0.02)
        (change,) = self.changes
        self.changes.clear()
        return change.why

    async def quiet(self, seconds: float = 0.12) -> None:
        count = len(self.changes)
        await anyio.sleep(seconds)
        assert len(self.changes) == count


def drive(
    path: Path, script: Callable[[Heard], Coroutine[Any, Any, None]], watch: DefinitionWatch | None = None
) -> None:
    async def main() -> None:
        heard = Heard(watch or DefinitionWatch(path, **QUICK))  # type: ignore[arg-type]
        fds = len(os.listdir("/proc/self/fd"))
        async with anyio.create_task_group() as tg:
            tg.start_soon(heard.listen)
            await anyio.sleep(0.05)
            await script(heard)
            tg.cancel_scope.cancel()
        assert len(os.listdir("/proc/self/fd")) == fds, "the inotify instance was left open"

    anyio.run(main, backend="trio")


@pytest.mark.parametrize(
    "name",
    [".web.yaml.swp", "web.yaml~", "#web.yaml#", "4913", ".hidden", "web.yaml.tmp", "web.yaml.dpkg-new", "..2026_11"],
)
def test_hidden_and_temporary_names_are_of_no_interest(tmp_path: Path, name: str) -> None:
    async def script(heard: Heard) -> None:
        (tmp_path / name).write_text("x")
        (tmp_path / name).unlink()
        await heard.quiet()

    assert is_ignored(name)
    drive(tmp_path, script)


@given(st.text(max_size=30))
def test_any_name_is_judged(name: str) -> None:
    assert is_ignored(name) in (True, False)


def test_writing_renaming_and_removing_are_changes(tmp_path: Path) -> None:
    async def script(heard: Heard) -> None:
        (tmp_path / "web.yaml").write_text("a")
        assert await heard.change() == "changed"
        (tmp_path / ".new").write_text("b")
        (tmp_path / ".new").rename(tmp_path / "web.yaml")
        assert await heard.change() == "changed"
        (tmp_path / "web.yaml").chmod(0o600)
        assert await heard.change() == "changed"
        (tmp_path / "link.yaml").symlink_to("web.yaml")
        assert await heard.change() == "changed"
        (tmp_path / "web.yaml").unlink()
        assert await heard.change() == "changed"

    drive(tmp_path, script)


def test_a_configmap_that_is_swapped_by_its_data_link_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "..1").mkdir()
    (tmp_path / "..2").mkdir()
    (tmp_path / "..data").symlink_to("..1")

    async def script(heard: Heard) -> None:
        (tmp_path / "..tmp").symlink_to("..2")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        assert await heard.change() == "changed"

    drive(tmp_path, script)


def test_reading_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text("a")

    async def script(heard: Heard) -> None:
        for _ in range(5):
            assert (tmp_path / "web.yaml").read_text() == "a"
            os.listdir(tmp_path)
        await heard.quiet()

    drive(tmp_path, script)


def test_a_burst_is_one_change(tmp_path: Path) -> None:
    async def script(heard: Heard) -> None:
        for number in range(50):
            (tmp_path / f"{number}.yaml").write_text("a")
        assert await heard.change() == "changed"

    drive(tmp_path, script)


def test_writing_without_end_is_told_within_the_bound(tmp_path: Path) -> None:
    async def script(heard: Heard) -> None:
        begin = anyio.current_time()
        while not heard.changes and anyio.current_time() < begin + 5:
            (tmp_path / "web.yaml").write_text("a")
            await anyio.sleep(0.005)
        assert heard.changes
        assert anyio.current_time() - begin < 2

    drive(tmp_path, script)


def test_a_name_that_is_no_utf8_is_a_change_like_any_other(tmp_path: Path) -> None:
    async def script(heard: Heard) -> None:
        os.close(os.open(os.fsencode(tmp_path) + b"/\xff.yaml", os.O_CREAT | os.O_WRONLY))
        assert await heard.change() == "changed"
        (tmp_path / "next.yaml").touch()
        assert await heard.change() == "changed"

    drive(tmp_path, script)


def test_a_directory_may_come_late_and_go_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "wharfinger" / "containers.d"

    async def script(heard: Heard) -> None:
        path.mkdir(parents=True)
        (path / "web.yaml").write_text("a")
        assert await heard.change() == "moved"
        (path / "web.yaml").write_text("b")
        assert await heard.change() == "changed"
        shutil.rmtree(path)
        assert await heard.change() == "moved"
        path.mkdir()
        assert await heard.change() == "moved"
        (path / "web.yaml").write_text("b")
        assert await heard.change() == "changed"

    drive(path, script)


def test_a_renamed_directory_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "containers.d"
    path.mkdir()

    async def script(heard: Heard) -> None:
        path.rename(tmp_path / "old")
        assert await heard.change() == "moved"
        (tmp_path / "old" / "web.yaml").write_text("a")
        await heard.quiet()
        (tmp_path / "new").mkdir()
        (tmp_path / "new").rename(path)
        assert await heard.change() == "moved"
        (path / "web.yaml").write_text("a")
        assert await heard.change() == "changed"
        (tmp_path / "unrelated").touch()
        await heard.quiet()

    drive(path, script)


def test_a_renamed_parent_is_seen_too(tmp_path: Path) -> None:
    path = tmp_path / "wharfinger" / "containers.d"
    path.mkdir(parents=True)

    async def script(heard: Heard) -> None:
        path.parent.rename(tmp_path / "away")
        assert await heard.change() == "moved"
        path.mkdir(parents=True)
        assert await heard.change() == "moved"
        (path / "web.yaml").write_text("a")
        assert await heard.change() == "changed"

    drive(path, script)


def test_an_overflow_is_told_as_one(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip(f"max_queued_events is {limit}")

    async def script(heard: Heard) -> None:
        names = [tmp_path / f"{number}.yaml" for number in range(2)]
        for name in names:
            name.touch()
        for number in range(limit // 2 + 200):  # two different events, or the kernel merges them
            names[number % 2].rename(names[1 - number % 2])
            names[number % 2].touch()
            if number * 3 > limit + 200:
                break
        assert await heard.change() == "overflow"
        assert heard.watch.overflows == 1
        names[0].write_text("a")
        assert await heard.change() == "changed"

    drive(tmp_path, script)


@pytest.mark.parametrize("fails", ["instance", "watch"])
def test_without_a_watch_the_directory_is_polled_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    allowed = [False]
    real_init, real_add = defdir._Inotify.__init__, defdir._Inotify._add

    def init(self: defdir._Inotify) -> None:
        if fails == "instance" and not allowed[0]:
            raise OSError("Cannot initialize new instance of inotify, Errno=EMFILE")
        real_init(self)

    def add(self: defdir._Inotify, path: str, mask: int) -> int:
        if fails == "watch" and not allowed[0]:
            raise OSError("no inotify watch")
        return real_add(self, path, mask)

    monkeypatch.setattr(defdir._Inotify, "__init__", init)
    monkeypatch.setattr(defdir._Inotify, "_add", add)

    async def script(heard: Heard) -> None:
        assert heard.watch.degraded
        assert "inotify" in heard.watch.reason
        assert await heard.change() == "degraded"
        (tmp_path / ".web.yaml.swp").write_text("a")
        await heard.quiet()
        (tmp_path / "web.yaml").write_text("a")
        assert await heard.change() == "polled"
        shutil.rmtree(tmp_path)
        assert await heard.change() == "polled"
        os.mkdir(tmp_path)
        assert await heard.change() == "polled"
        allowed[0] = True
        with anyio.fail_after(5):
            while heard.watch.degraded:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert heard.watch.reason == ""
        await heard.quiet()
        (tmp_path / "web.yaml").write_text("b")
        assert await heard.change() == "changed"

    drive(tmp_path, script)


def test_a_signature_changes_with_what_is_there(tmp_path: Path) -> None:
    seen = {signature(str(tmp_path / "none")), signature(str(tmp_path))}
    (tmp_path / "web.yaml").write_text("a")
    seen.add(signature(str(tmp_path)))
    (tmp_path / "web.yaml").write_text("ab")
    seen.add(signature(str(tmp_path)))
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    seen.add(signature(str(tmp_path)))
    assert len(seen) == 5
    (tmp_path / ".hidden").write_text("a")
    assert signature(str(tmp_path)) in seen


def test_pyinotify_is_imported_late_and_is_silent() -> None:
    import subprocess
    import sys

    code = "import sys, monitor.defdir as d; assert 'pyinotify' not in sys.modules; d._load().log.error('loud')"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=True)
    assert done.stdout == done.stderr == b""
