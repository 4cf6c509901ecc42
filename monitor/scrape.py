"""Answers to GET /metrics: one collection at a time, in a worker thread, bounded, shared by scrapers.

The HTTP front gives what it likes of the request (its Accept-Encoding) and sends what it gets; methods, paths and HEAD
are its affair. GET /-/healthy is for probes, so that nobody probes /metrics.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio

from monitor import openmetrics
from monitor.metrics import CONTENT_TYPE, Exposition
from monitor.view import ContainerView, DaemonView

SWITCH_INTERVAL = 0.001
"""Seconds after which the interpreter takes a collection off for the event loop; Python's own 5 ms is felt there."""
SHARE = 1.0
BOUND = 10.0

Key = tuple[bool, bool]
"""Whether OpenMetrics, whether gzip."""
PLAIN: Key = (False, False)

Source = Callable[[], tuple[Sequence[ContainerView], DaemonView]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(slots=True)
class _Made:
    """One collection, finished or under way. Bodies by form and encoding; error: why there is none.

    status 0 when it is finished: the scraper that made it hung up, so whoever waited for it starts another.
    """

    done: anyio.Event = field(default_factory=anyio.Event)
    at: float = 0.0
    bodies: dict[Key, bytes] = field(default_factory=dict)
    status: int = 0
    error: str = ""


def accepts_gzip(accept_encoding: str) -> bool:
    """RFC 9110, 12.5.3: gzip, x-gzip or * with a weight above 0; gzip's own weight goes before that of *."""
    weights: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        weights.setdefault("gzip" if name == "x-gzip" else name, weight)
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def gzip(body: bytes) -> bytes:
    """Level 1: a fifteenth of the size for a quarter of the time that level 9 takes (measured)."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


class Scraper:
    """Shares what it made for `share` seconds, and gives up after `bound`.

    source: copies the state, called in the event loop. A collection that hangs in the kernel cannot be cancelled: its
    thread stays, one at most, and scrapes are answered 503 until it comes back.
    """

    def __init__(
        self,
        exposition: Exposition,
        source: Source,
        *,
        wall: Callable[[], float] = time.time,
        share: float = SHARE,
        bound: float = BOUND,
    ) -> None:
        self._exposition = exposition
        self._source = source
        self._wall = wall
        self._share = share
        self._bound = bound
        self._limiter = anyio.CapacityLimiter(1)
        self._made: _Made | None = None
        self.collections = 0

    async def scrape(self, accept_encoding: str = "", accept: str = "") -> Response:
        """Never raises but for cancellation; a failure is an answer of one line of text."""
        key = (openmetrics.is_wanted(accept), accepts_gzip(accept_encoding))
        made = await self._latest(key)
        if made.error:
            return _refusal(made.status, made.error)
        if key not in made.bodies:
            made.bodies[key] = await anyio.to_thread.run_sync(_form, made.bodies[PLAIN], key)
        headers = [
            ("Content-Type", openmetrics.CONTENT_TYPE if key[0] else CONTENT_TYPE),
            ("Content-Length", str(len(made.bodies[key]))),
            ("Cache-Control", "no-store"),
            ("Vary", "Accept, Accept-Encoding"),
        ]
        if key[1]:
            headers.append(("Content-Encoding", "gzip"))
        return Response(200, tuple(headers), made.bodies[key])

    async def _latest(self, key: Key) -> _Made:
        while True:
            made = self._made
            done = made is not None and made.done.is_set()
            if made is None or (done and (not made.status or anyio.current_time() - made.at >= self._share)):
                made = self._made = _Made()
                await self._collect(made, key)
                return made
            await made.done.wait()
            if made.status:
                return made

    async def _collect(self, made: _Made, key: Key) -> None:
        try:
            with anyio.fail_after(self._bound):
                containers, daemon = self._source()
                made.bodies.update(
                    await anyio.to_thread.run_sync(
                        self._work, containers, daemon, key, limiter=self._limiter, abandon_on_cancel=True
                    )
                )
            made.status = 200
        except TimeoutError:
            made.status, made.error = 503, f"the collection took more than {self._bound:g} s"
        except Exception:  # noqa: BLE001 - the answer to an HTTP request; the trace is logged
            _log.exception("event=metrics_failed")
            made.status, made.error = 500, "the collection failed; the log says why"
        finally:
            made.at = anyio.current_time()
            self.collections += 1
            made.done.set()

    def _work(self, containers: Sequence[ContainerView], daemon: DaemonView, key: Key) -> dict[Key, bytes]:
        body = self._exposition.render(containers, daemon, self._wall())
        return {PLAIN: body, key: _form(body, key)}


def _form(body: bytes, key: Key) -> bytes:
    text = openmetrics.convert(body) if key[0] else body
    return gzip(text) if key[1] else text


def _refusal(status: int, reason: str) -> Response:
    body = f"{reason}\n".encode()
    return Response(
        status,
        (
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ),
        body,
    )


class LoopLag:
    """Measures how late the event loop is, by a sleep of `every` seconds; run() is a task of the daemon."""

    def __init__(self, every: float = 1.0) -> None:
        self._every = every
        self._worst = 0.0

    async def run(self) -> None:
        while True:
            due = anyio.current_time() + self._every
            await anyio.sleep_until(due)
            self._worst = max(self._worst, anyio.current_time() - due)

    def take(self) -> float:
        """The largest delay since the last call, in seconds."""
        worst, self._worst = self._worst, 0.0
        return worst
