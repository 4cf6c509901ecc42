"""HTTP/1.1 on one connection: requests in, responses out, by h11, within limits. Nothing that a peer does raises."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

import anyio
import h11
from anyio import BrokenResourceError, CancelScope, create_task_group, fail_after, move_on_after

from config.errors import RefusedError, WharfError
from supervisor.api.message import TEXT, App, HttpError, Request, Response, split_target
from supervisor.api.peer import Peer
from supervisor.api.wire import Wire

log = logging.getLogger("wharfinger.api")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one listener; seconds and bytes."""

    connections: int = 64
    per_user: int = 8
    root: int = 32  # an operator's terminals that follow logs must not keep the same operator's `status` out
    header: float = 5.0
    body_time: float = 30.0
    idle: float = 30.0
    send: float = 10.0  # a peer that takes nothing for so long is dropped
    header_size: int = 65536
    body_size: int = 1048576


class Gone(Exception):  # noqa: N818  not an error
    """The connection is of no use any more."""


class Exchange:
    """One connection. `busy` while a request is answered: then it is not the one to be dropped for a newer one."""

    def __init__(self, wire: Wire, app: App, peer: Peer | None, limits: Limits, server: bytes = b"wharfinger") -> None:
        self._wire = wire
        self._app = app
        self._peer = peer
        self._limits = limits
        self._server = server
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_size)
        self._late = ""
        self.busy = False
        self.scope = CancelScope()

    async def run(self, last: Callable[[], bool] = lambda: False) -> None:
        """Serve until the end. `last()`: this answer shall be the last one (fds are short, the daemon stops)."""
        first = True
        with self.scope, suppress(Gone, BrokenResourceError, TimeoutError):
            while True:
                self.busy = False
                try:
                    request = await self._request(first)
                except HttpError as refused:
                    await self._respond(None, refused.response(), close=True)
                    return
                if request is None:
                    return
                first, self.busy = False, True
                response = await self._answer(request)
                await self._respond(request, response, close=last())
                if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
                    return
                self._h11.start_next_cycle()

    # -- in -------------------------------------------------------------------------------------

    async def _request(self, first: bool) -> Request | None:
        """The next request with its body; None at the end. Raises HttpError, after which the connection ends."""
        try:
            head = await self._head(first)
            if head is None:
                return None
            self._check_framing(head)
            path, segments, query = split_target(head.target)
            body = await self._body()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint if error.error_status_hint in (400, 413, 431, 501) else 400
            raise HttpError(status, "bad request", "header too large" if status == 431 else "no proper HTTP") from None
        headers = [(bytes(k), bytes(v)) for k, v in head.headers]
        return Request(head.method.decode("ascii"), path, segments, query, headers, body, self._peer)

    async def _head(self, first: bool) -> h11.Request | None:
        limits = self._limits
        # A new peer has come to say something: only between requests is silence welcome for longer.
        deadline = limits.header if first else limits.idle
        spoken = bool(self._h11.trailing_data[0])
        if spoken:
            deadline = limits.header
        with move_on_after(deadline) as scope:
            while True:
                event = self._h11.next_event()
                if isinstance(event, h11.Request):
                    return event
                if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    return None
                data = await self._wire.receive()
                if data and not spoken:
                    spoken = True
                    if not first:
                        scope.deadline = anyio.current_time() + limits.header
                self._h11.receive_data(data)
        if spoken:
            raise HttpError(408, "timeout", "the request did not come in time")
        return None

    def _check_framing(self, head: h11.Request) -> None:
        if head.http_version not in (b"1.0", b"1.1"):
            raise HttpError(505, "bad request", "HTTP/1.0 or HTTP/1.1")
        # h11 takes any size that comes in one piece
        size = len(head.target) + sum(len(name) + len(value) + 4 for name, value in head.headers)
        if size > self._limits.header_size:
            raise HttpError(431, "bad request", "header too large")
        names = [name for name, _ in head.headers]
        if b"transfer-encoding" in names and b"content-length" in names:
            raise HttpError(400, "bad request", "both content-length and transfer-encoding")
        for name, value in head.headers:
            if name == b"content-length" and int(value[:19]) > self._limits.body_size:
                raise HttpError(413, "too large", "the body is too large")

    async def _body(self) -> bytes:
        if self._h11.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        body = bytearray()
        with move_on_after(self._limits.body_time):
            while True:
                event = self._h11.next_event()
                if isinstance(event, h11.EndOfMessage):
                    return bytes(body)
                if isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > self._limits.body_size:
                        raise HttpError(413, "too large", "the body is too large")
                elif event is h11.NEED_DATA:
                    data = await self._wire.receive()
                    if not data:
                        raise Gone
                    self._h11.receive_data(data)
                else:
                    raise Gone
        raise HttpError(408, "timeout", "the request did not come in time")

    # -- what the app says ----------------------------------------------------------------------

    async def _answer(self, request: Request) -> Response:
        """The app's response. When the peer goes meanwhile the app is cancelled and Gone is raised."""
        response: Response | None = None

        async def watch() -> None:
            await self._wire.wait_gone()
            tasks.cancel_scope.cancel()

        async with create_task_group() as tasks:
            tasks.start_soon(watch)
            response = await self._call(request)
            tasks.cancel_scope.cancel()
        if response is None:
            raise Gone
        return response

    async def _call(self, request: Request) -> Response:
        try:
            return await self._app(request)
        except HttpError as refused:
            return refused.response()
        except RefusedError as error:
            return HttpError(404 if error.what == "no such container" else 409, error.what, str(error)).response()
        except WharfError as error:
            log.warning('path="%s" error="%s"', request.path[:200], error)
            return HttpError(503, "host", str(error)).response()
        except TimeoutError:
            return HttpError(503, "timeout", "no answer in time").response()
        except Exception:  # a bug in one route must not end the daemon, nor be shown to the peer
            log.exception('path="%s"', request.path[:200])
            return HttpError(500, "internal", "internal error, see the log of wharfingerd").response()

    # -- out ------------------------------------------------------------------------------------

    async def _respond(self, request: Request | None, response: Response, close: bool) -> None:
        head_only = request is not None and request.method == "HEAD"
        stream = None if isinstance(response.body, bytes) else response.body
        headers = [
            (b"date", formatdate(usegmt=True).encode()),
            (b"server", self._server),
            (b"content-type", response.type.encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            *response.headers,
        ]
        if isinstance(response.body, bytes):
            headers.append((b"content-length", str(len(response.body)).encode()))
        elif self._h11.their_http_version is not None and self._h11.their_http_version >= b"1.1":
            headers.append((b"transfer-encoding", b"chunked"))
        if close:
            headers.append((b"connection", b"close"))
        try:
            if self._h11.our_state is h11.ERROR or self._h11.our_state is h11.CLOSED:
                raise Gone
            head = (
                self._h11.send(
                    h11.Response(status_code=response.status, headers=headers, reason=_reason(response.status))
                )
                or b""
            )
            if stream is not None:
                await self._flush(head)
                if not head_only:
                    await self._stream(stream)
            elif not head_only:
                assert isinstance(response.body, bytes)
                head += self._h11.send(h11.Data(data=response.body)) or b""
            head = b"" if stream is not None else head
            await self._flush(head + (self._h11.send(h11.EndOfMessage()) or b""))
        finally:
            await _close(stream)
        if close or self._h11.our_state is not h11.DONE:
            await self._drain()

    async def _stream(self, stream: AsyncIterator[bytes]) -> None:
        """Pull and send in turn: nothing is buffered beyond one piece. Ends when the peer is gone or takes nothing."""

        async def watch() -> None:
            await self._wire.wait_gone()
            tasks.cancel_scope.cancel()

        finished = False
        async with create_task_group() as tasks:
            tasks.start_soon(watch)
            try:
                async for piece in stream:
                    if piece:
                        await self._send(h11.Data(data=piece))
                finished = True
            except (HttpError, WharfError) as error:
                log.warning('stream error="%s"', error)
            except (BrokenResourceError, TimeoutError):
                pass
            except Exception:  # as in _call; the header is out, so the connection just ends
                log.exception("stream")
            tasks.cancel_scope.cancel()
        if not finished:
            raise Gone

    async def _send(self, event: h11.InformationalResponse | h11.Data) -> None:
        await self._flush(self._h11.send(event) or b"")

    async def _flush(self, data: bytes) -> None:
        """In pieces, so that the time limit is on progress and not on size. Raises TimeoutError."""
        for start in range(0, len(data), 65536):
            with fail_after(self._limits.send):
                await self._wire.send(data[start : start + 65536])

    async def _drain(self) -> None:
        """Read off what the peer still sends, for a moment, so that it gets to read our answer."""
        self._wire.linger()
        with move_on_after(1):
            for _ in range(64):
                if not await self._wire.receive():
                    return


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


async def _close(stream: AsyncIterator[bytes] | None) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        with move_on_after(5, shield=True):
            await close()


def too_busy() -> bytes:
    """The whole answer for a connection that is refused before it has said a word."""
    body = b'{"error":{"code":"busy","message":"too many connections"}}\n'
    head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: {TEXT}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\nretry-after: 1\r\n\r\n" + body
