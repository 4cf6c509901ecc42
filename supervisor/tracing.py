"""Spans of starts, restarts and scrapes, sent by OpenTelemetry (OTLP over HTTP) when `tracing_endpoint` says where to.

The library is an extra (`wharfinger[tracing]`), and is imported only then. Spans wait in a bounded queue, a thread of
the library's own sends them: a collector that is dead or slow costs spans, never time or memory of the daemon.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from config.errors import HostError
from supervisor.lifecycle import facts
from supervisor.lifecycle.facts import Phase, State
from supervisor.ports import Clock

log = logging.getLogger("wharfinger.tracing")

QUEUE, BATCH = 512, 128  # spans
SEND_EVERY, SEND_LIMIT = 5.0, 5.0  # seconds
GOES_ON = frozenset({Phase.BACKOFF, Phase.STARTING})

Attributes = Mapping[str, str | int | float | bool]


class Sink(Protocol):
    """Where spans go; times are Unix nanoseconds."""

    def span(self, name: str, begin: int, end: int, attributes: Attributes, failed: str, parent: Any) -> Any:
        """Returns what a child names as its parent. `end` 0: it is not over yet."""
        ...

    def end(self, span: Any, end: int, failed: str) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Launch:
    """A decided start that has not been acknowledged. `since`: the end of the last run, when it is a restart."""

    generation: int
    decided: float
    attributes: Attributes
    since: float | None


class Tracer:
    """Told by keepers (timing.Watch) and by the scrape; keeps a few words a container."""

    def __init__(self, sink: Sink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._ended: dict[str, float] = {}
        self._launches: dict[str, _Launch] = {}

    def decided(self, event: facts.Event, before: State, after: State, heard: float, now: float) -> None:
        name = after.name
        if isinstance(event, facts.Ended) and after.phase in GOES_ON:
            self._ended[name] = heard
        elif after.phase not in GOES_ON:
            self._ended.pop(name, None)
        if after.done:
            self._launches.pop(name, None)
        elif after.launching and not before.launching:
            attributes: Attributes = {
                "container": name,
                "generation": after.generation,
                "cause": after.cause.code,
                "reason": after.next_reason.value,
                "attempt": after.attempt,
                "runtime": after.definition.runtime,
            }
            self._launches[name] = _Launch(after.generation, now, attributes, self._ended.pop(name, None))

    def done(self, name: str, effect: facts.Effect, now: float, answer: facts.Event | None) -> None:
        launch = self._launches.get(name)
        if not isinstance(effect, facts.Launch) or launch is None or launch.generation != effect.generation:
            return
        del self._launches[name]
        failed = answer.error if isinstance(answer, facts.LaunchFailed | facts.Failed) else ""
        parent = None
        if launch.since is not None:
            parent = self._sink.span("restart", self._wall(launch.since), 0, launch.attributes, failed, None)
        self._sink.span("start", self._wall(launch.decided), self._wall(now), launch.attributes, failed, parent)
        if parent is not None:
            self._sink.end(parent, self._wall(now), failed)

    def scraped(self, begin: float, status: int, size: int) -> None:
        failed = "" if status == 200 else f"status {status}"
        attributes: Attributes = {"http.response.status_code": status, "http.response.body.size": size}
        self._sink.span("scrape", self._wall(begin), self._wall(self._clock.boot()), attributes, failed, None)

    def close(self) -> None:
        """Sends what waits. Blocks, for a worker thread."""
        self._sink.close()

    def _wall(self, boot: float) -> int:
        """By the wall clock of now, so that a step of it makes no span long."""
        return int((self._clock.wall() - (self._clock.boot() - boot)) * 1e9)


def traces_url(endpoint: str) -> str:
    """OTLP's own path where the endpoint names none."""
    parts = urlsplit(endpoint)
    return urlunsplit(parts._replace(path="/v1/traces")) if parts.path in ("", "/") else endpoint


def open_tracer(endpoint: str, clock: Clock, version: str, host: str) -> Tracer:
    """Raises HostError when the library is not installed."""
    try:
        from supervisor.otlp import Otlp
    except ImportError as error:
        hint = "pip install 'wharfinger[tracing]', or leave tracing_endpoint out"
        raise HostError(f"no tracing: {error}", "tracing_endpoint", hint) from None
    return Tracer(Otlp(traces_url(endpoint), version, host), clock)
