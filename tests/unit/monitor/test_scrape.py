"""Scrapes: shared, bounded, compressed when that is wanted, and never a traceback for an answer."""

from __future__ import annotations

import gzip as reference
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from monitor import scrape
from monitor.metrics import CONTENT_TYPE, ContainerView, DaemonView, Exposition
from monitor.scrape import LoopLag, Response, Scraper, accepts_gzip
from tests.fixtures import tree


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    anyio.run(main, backend="trio")


def empty() -> tuple[Sequence[ContainerView], DaemonView]:
    return (), DaemonView()


class Slow(Exposition):
    """Blocks in its thread until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.began = threading.Event()

    def render(self, containers: Sequence[ContainerView], daemon: DaemonView, now: float) -> bytes:
        self.began.set()
        assert self.go.wait(10)
        return b"slow 1\n"


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", False),
        ("gzip", True),
        ("GZip, deflate", True),
        ("x-gzip", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, *", False),
        ("gzip;q=0.001", True),
        ("*", True),
        ("*;q=0", False),
        ("identity", False),
        ("deflate, br;q=1.0, gzip;q=0.5", True),
        ("gzip;q=abc", False),
        (";;,,=;q", False),
        ("\xff", False),
    ],
)
def test_gzip_when_it_is_accepted(header: str, wanted: bool) -> None:
    assert accepts_gzip(header) is wanted


def test_an_answer_is_complete(tmp_path: Path) -> None:
    path = tree.build(tmp_path / "web", tree.cgroup())
    view = ContainerView("web", "/wharfinger/containers/web", str(path), phase="running", generation=1)

    async def main() -> None:
        scraper = Scraper(Exposition(), lambda: ((view,), DaemonView(psi=True)), wall=lambda: 5.5)
        plain = await scraper.scrape()
        packed = await scraper.scrape("gzip")
        assert plain.status == packed.status == 200
        headers = dict(plain.headers)
        assert headers["Content-Type"] == CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
        assert headers["Content-Length"] == str(len(plain.body))
        assert headers["Cache-Control"] == "no-store"
        assert "Content-Encoding" not in headers
        assert dict(packed.headers)["Content-Encoding"] == "gzip"
        assert dict(packed.headers)["Content-Length"] == str(len(packed.body))
        assert reference.decompress(packed.body) == plain.body
        assert b"container_last_seen{" in plain.body
        assert b"} 5.500\n" in plain.body

    run(main)


def test_scrapers_share_one_collection_for_a_second() -> None:
    async def main() -> None:
        scraper = Scraper(Exposition(), empty, share=0.2)
        answers: list[Response] = []

        async def one(accept: str) -> None:
            answers.append(await scraper.scrape(accept))

        async with anyio.create_task_group() as tg:
            for number in range(10):
                tg.start_soon(one, "gzip" if number % 2 else "")
        assert scraper.collections == 1
        assert len({answer.body for answer in answers}) == 2
        await anyio.sleep(0.25)
        await scraper.scrape()
        assert scraper.collections == 2

    run(main)


def test_a_collection_that_hangs_is_a_503_and_never_two_threads() -> None:
    async def main() -> None:
        slow = Slow()
        scraper = Scraper(slow, empty, bound=0.05, share=0.0)
        before = threading.active_count()
        for _ in range(4):
            answer = await scraper.scrape("gzip")
            assert answer.status == 503
            assert answer.body == b"the collection took more than 0.05 s\n"
            assert dict(answer.headers)["Content-Type"] == "text/plain; charset=utf-8"
        assert threading.active_count() <= before + 1
        slow.go.set()
        with anyio.fail_after(5):
            while (await scraper.scrape()).status != 200:  # noqa: ASYNC110
                await anyio.sleep(0.01)

    run(main)


def test_a_failed_collection_is_a_500_of_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> tuple[Sequence[ContainerView], DaemonView]:
        raise RuntimeError("state")

    async def main() -> None:
        answer = await Scraper(Exposition(), broken).scrape()
        assert answer.status == 500
        assert answer.body.count(b"\n") == 1
        assert b"state" not in answer.body

    run(main)
    assert "event=metrics_failed" in caplog.messages


def test_a_scraper_that_hangs_up_takes_nobody_with_it() -> None:
    async def main() -> None:
        slow = Slow()
        scraper = Scraper(slow, empty, share=1e6)  # a loop that waits for nothing would not end
        answers: list[Response] = []

        async def patient() -> None:
            answers.append(await scraper.scrape())

        async with anyio.create_task_group() as tg:
            first = anyio.CancelScope()

            async def hasty() -> None:
                with first:
                    await scraper.scrape()

            tg.start_soon(hasty)
            await anyio.to_thread.run_sync(slow.began.wait, 5)
            tg.start_soon(patient)
            await anyio.sleep(0.02)
            first.cancel()
            await anyio.sleep(0.02)
            slow.go.set()
        assert [answer.status for answer in answers] == [200]

    run(main)


def test_the_event_loop_goes_on_while_a_collection_hangs() -> None:
    async def main() -> None:
        slow = Slow()
        scraper = Scraper(slow, empty)
        async with anyio.create_task_group() as tg:
            tg.start_soon(scraper.scrape)
            with anyio.fail_after(1):
                for _ in range(20):
                    await anyio.sleep(0.001)
            slow.go.set()

    run(main)


def test_loop_lag_tells_the_worst_since_it_was_asked() -> None:
    async def main() -> None:
        lag = LoopLag(every=0.01)
        async with anyio.create_task_group() as tg:
            tg.start_soon(lag.run)
            await anyio.sleep(0.03)
            threading.Event().wait(0.1)  # what no task should do
            await anyio.sleep(0.03)
            assert 0.05 < lag.take() < 5
            await anyio.sleep(0.03)
            assert lag.take() < 0.05
            tg.cancel_scope.cancel()

    run(main)


def test_level_one_is_a_real_gzip() -> None:
    body = b"container_last_seen 1\n" * 1000
    assert reference.decompress(scrape.gzip(body)) == body
    assert len(scrape.gzip(body)) < len(body) // 10
