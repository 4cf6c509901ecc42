"""Spans as a real collector gets them: a small OTLP receiver, decoded by the protocol's own classes."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest

from config.errors import HostError
from config.settings import load_settings
from monitor.histogram import Timing
from supervisor.lifecycle.facts import Absent, End, Ended, Event, Launch, Launched, LaunchFailed, Removed
from supervisor.timing import Watch
from supervisor.tracing import QUEUE, SEND_LIMIT, Tracer, open_tracer, traces_url
from tests.fixtures.collector import attributes, collector
from tests.fixtures.fake_control import REPO
from tests.unit.lifecycle.world import NOW, Life, define


@dataclass
class FakeClock:
    now: float = NOW

    def boot(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_795_590_000.0


class World:
    """A container's steps, told as its keeper tells them."""

    def __init__(self, tracer: Tracer, clock: FakeClock, **definition: Any) -> None:
        self.watch = Watch(Timing(), tracer)
        self.clock = clock
        self.life = Life(define(**definition))

    def tell(self, event: Event, heard: float = 0.0, after: float = 0.0) -> None:
        self.clock.now += after
        before = self.life.s
        self.life.tell(event, after)
        self.watch.decided(event, before, self.life.s, self.clock.now - heard, self.clock.now)

    def done(self, answer: Event, took: float) -> None:
        decided = self.clock.now
        self.clock.now += took
        launch = Launch(self.life.s.generation, self.life.s.next_reason)
        self.watch.done(self.life.s, launch, decided, self.clock.now, answer)


def seconds(span: Any) -> float:
    return float(round((span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, 3))


def test_a_start_a_restart_and_a_scrape_are_spans() -> None:
    clock = FakeClock()
    with collector() as found:
        tracer = open_tracer(found.url, clock, "1.2", "edge-7")
        world = World(tracer, clock, restart={"policy": "always", "interval": 0})
        world.tell(Absent(booted=True))
        world.done(Launched(1, 41, NOW), took=0.25)
        world.tell(Launched(1, 41, NOW))
        world.tell(Ended(End(1, NOW, NOW + 9, code=3)), heard=0.5, after=9)
        world.done(LaunchFailed(2, "no such file"), took=2)
        begin = clock.now
        clock.now += 0.125
        tracer.scraped(begin, 200, 1000)
        tracer.close()
    first, start, restart, scrape = found.spans
    assert (first.name, first.parent_span_id, seconds(first)) == ("start", b"", 0.25)
    assert attributes(first) == {
        "container": "web", "generation": 1, "cause": "new", "reason": "boot", "attempt": 0, "runtime": "native",
    }  # fmt: skip
    assert (start.name, restart.name) == ("start", "restart")
    assert (start.parent_span_id, start.trace_id) == (restart.span_id, restart.trace_id)
    assert (seconds(start), seconds(restart)) == (2.0, 2.5), "a restart begins when the end is heard"
    assert attributes(restart)["generation"] == 2
    assert attributes(restart)["cause"] == "exit"
    assert (start.status.message, start.status.code) == ("no such file", 2)
    assert (scrape.name, seconds(scrape)) == ("scrape", 0.125)
    assert attributes(scrape) == {"http.response.status_code": 200, "http.response.body.size": 1000}
    (resource,) = found.resources
    assert resource == {"service.name": "wharfinger", "service.version": "1.2", "host.name": "edge-7"}
    assert round(first.start_time_unix_nano / 1e9, 3) == NOW + 1_795_590_000.0


def test_nothing_is_kept_of_a_container_that_is_gone() -> None:
    clock = FakeClock()
    with collector() as found:
        tracer = open_tracer(found.url, clock, "1.2", "edge-7")
        world = World(tracer, clock)
        world.tell(Absent(booted=True))
        world.tell(Launched(1, 41, NOW))
        world.tell(Ended(End(1, NOW, NOW, code=1)))
        world.tell(Removed())
        assert (tracer._ended, tracer._launches) == ({}, {})
        tracer.close()
    assert found.spans == []


def test_a_collector_that_never_answers_costs_neither_time_nor_memory() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        tracer = open_tracer(f"http://127.0.0.1:{deaf.getsockname()[1]}", FakeClock(), "1.2", "edge-7")
        begin = time.monotonic()
        for _ in range(20 * QUEUE):
            tracer.scraped(NOW, 200, 1000)
        assert time.monotonic() - begin < SEND_LIMIT, "nobody waited for an answer"
        processor: Any = tracer._sink._provider._active_span_processor._span_processors[0]  # type: ignore[attr-defined]
        assert len(processor._batch_processor._queue) <= QUEUE
        threading.Thread(target=tracer.close, daemon=True).start()


def test_without_the_extra_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "supervisor.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(HostError, match=r"tracing_endpoint: no tracing: .*wharfinger\[tracing\]"):
        open_tracer("http://127.0.0.1:4318", FakeClock(), "1", "h")


def test_off_imports_nothing() -> None:
    code = "import sys, supervisor.daemon; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert done.stdout == "[]\n"


def test_where_spans_go() -> None:
    assert traces_url("http://otel:4318") == "http://otel:4318/v1/traces"
    assert traces_url("https://otel/") == "https://otel/v1/traces"
    assert traces_url("http://otel:4318/in/traces") == "http://otel:4318/in/traces"


@pytest.mark.parametrize("bad", ["otel:4318", "ftp://otel", "http://", "http://otel:99999", "http://a b"])
def test_a_bad_endpoint_is_refused(bad: str) -> None:
    with pytest.raises(HostError.__mro__[1], match="tracing-endpoint"):
        load_settings({"tracing_endpoint": bad})
