"""The routes of the metrics listener: no credentials there, hence nothing that changes or names a secret."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from supervisor.api.message import TEXT, App, HttpError, Request, Response

Pairs = list[tuple[bytes, bytes]]
# Given the request's headers: status, headers of the answer (content-type among them), body.
Scrape = Callable[[Pairs], Awaitable[tuple[int, list[tuple[bytes, bytes]], bytes]]]


def public_app(scrape: Scrape, ready: Callable[[], bool]) -> App:
    async def app(request: Request) -> Response:
        if request.path not in ("/metrics", "/healthz", "/readyz", "/"):
            raise HttpError(404, "not found", "no such path")
        if request.method not in ("GET", "HEAD"):
            raise HttpError(405, "method not allowed", "only GET, HEAD", headers=[(b"allow", b"GET, HEAD")])
        match request.path:
            case "/metrics":
                return await _metrics(scrape, request)
            case "/healthz":
                return Response(200, b"ok\n", TEXT)
            case "/readyz":
                return Response(200, b"ready\n", TEXT) if ready() else Response(503, b"not ready\n", TEXT)
            case _:
                return Response(200, b"wharfinger: /metrics /healthz /readyz\n", TEXT)

    return app


async def _metrics(scrape: Scrape, request: Request) -> Response:
    status, headers, body = await scrape(list(request.headers))
    kind = TEXT
    rest: Pairs = []
    for name, value in headers:
        if name.lower() == b"content-type":
            kind = value.decode("ascii", "replace")
        elif name.lower() != b"content-length":
            rest.append((name, value))
    return Response(status, body, kind, rest)
