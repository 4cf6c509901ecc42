"""The routes of the control socket. A table: what is not in it does not exist (no lookup of attributes by name).

Reading needs the role VIEW, changing ACT. The shapes are in docs/wharfctl.md, "API".
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anyio import CapacityLimiter, to_thread

from config.errors import RefusedError
from supervisor.api import events, logs, shape
from supervisor.api.message import NDJSON, App, HttpError, Request, Response, json_line
from supervisor.api.peer import Role
from supervisor.ports import Control, Outcome, Snapshot

API_VERSION = 1
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
LONGEST_WAIT = 3600
MAX_TAIL = 1_000_000
LONGEST_RECORDING = 300  # seconds that a flight recorder holds
THREADS = 16
# Outcome.code to status: the request was understood, and the state forbids it
CONFLICT = 409
STATUS = {"no such container": 404, "bad signal name": 400, "busy": 503, "timeout": 504}


@dataclass(frozen=True, slots=True)
class Desk:
    """What the handlers work with. `threads` are their own: hung disks must not take those of the engine."""

    control: Control
    threads: CapacityLimiter


Handler = Callable[[Desk, Request], Awaitable[Response]]


def control_app(control: Control) -> App:
    """To be called in the event loop."""
    desk = Desk(control, CapacityLimiter(THREADS))

    async def app(request: Request) -> Response:
        handler, found = _find(request)
        if request.peer is None or request.peer.role is Role.NONE:
            raise HttpError(403, "forbidden", "only root and members of the socket's groups")
        if request.method == "POST" and request.peer.role is not Role.ACT:
            raise HttpError(403, "forbidden", "this needs root or the socket's group")
        if found and (not NAME.fullmatch(found) or found not in control.names()):
            raise HttpError(404, "no such container", f"{found[:80]}: no such container")
        return await handler(desk, request)

    return app


def _find(request: Request) -> tuple[Handler, str]:
    """The handler, and the container's name in the path or "". Raises HttpError 404, 405."""
    segments = request.segments
    name = ""
    if len(segments) >= 3 and segments[:2] == ("v1", "containers"):
        name = segments[2]
        segments = (*segments[:2], "NAME", *segments[3:])
    methods = ROUTES.get("/" + "/".join(segments))
    if methods is None or (not name and "NAME" in segments):
        raise HttpError(404, "not found", "no such path")
    handler = methods.get("GET" if request.method == "HEAD" else request.method)
    if handler is None:
        allowed = sorted(methods) + (["HEAD"] if "GET" in methods else [])
        allow = ", ".join(allowed).encode()
        raise HttpError(405, "method not allowed", f"only {', '.join(allowed)}", headers=[(b"allow", allow)])
    return handler, name


def _ok(value: object, status: int = 200) -> Response:
    return Response(status, json_line(value))


def _snapshot(desk: Desk, request: Request) -> Snapshot:
    name = request.segments[2]
    try:
        return desk.control.snapshot(name)
    except RefusedError:
        raise HttpError(404, "no such container", f"{name}: no such container") from None


# -- reading ------------------------------------------------------------------------------------


async def _list(desk: Desk, request: Request) -> Response:
    shown: list[dict[str, Any]] = []
    for name in desk.control.names():
        try:
            shown.append(shape.container(desk.control.snapshot(name)))
        except RefusedError:  # removed meanwhile
            continue
    return _ok({"containers": shown, "problems": list(desk.control.problems())})


async def _one(desk: Desk, request: Request) -> Response:
    return _ok(shape.container(_snapshot(desk, request)))


async def _why(desk: Desk, request: Request) -> Response:
    name = request.segments[2]
    # reads the store, which may wait for a slow disk
    found = await to_thread.run_sync(desk.control.why, name, abandon_on_cancel=True, limiter=desk.threads)
    return _ok({"name": name, **found, "container": shape.container(_snapshot(desk, request))})


async def _logs(desk: Desk, request: Request) -> Response:
    shown = _snapshot(desk, request)
    stream = request.query.get("stream", "")
    if stream not in ("", "stdout", "stderr"):
        raise HttpError(400, "bad request", "stream: stdout or stderr")
    form = request.query.get("format", "text")
    if form not in ("text", "json"):
        raise HttpError(400, "bad request", "format: text or json")
    tail = None if request.query.get("tail", "all") == "all" else request.number("tail", 0, MAX_TAIL)
    wanted = logs.Wanted(
        tail=tail,
        tail_bytes=None if "bytes" not in request.query else request.number("bytes", 0, 1 << 30),
        follow=request.flag("follow"),
        stream=stream,
        timestamps=request.flag("timestamps"),
        json=form == "json",
    )
    kind = NDJSON if wanted.json else "text/plain"
    return Response(200, logs.read(logs.directory(shown.log_path), wanted, desk.threads), kind)


async def _stats(desk: Desk, request: Request) -> Response:
    known = desk.control.names()
    asked = list(filter(None, request.query.get("names", "").split(",")))
    shown = await desk.control.stats([name for name in known if not asked or name in asked])
    return _ok({"stats": list(shown), "unknown": [name[:80] for name in asked if name not in known]})


async def _recording(desk: Desk, request: Request) -> Response:
    name = request.segments[2]
    seconds = request.number("seconds", LONGEST_RECORDING, LONGEST_RECORDING)
    try:
        found = desk.control.recording(name, float(seconds))
    except RefusedError:
        raise HttpError(404, "no such container", f"{name}: no such container") from None
    return _ok({"name": name, **found})


async def _events(desk: Desk, request: Request) -> Response:
    return Response(200, events.lines(desk.control, events.query_of(request)), NDJSON)


async def _version(desk: Desk, request: Request) -> Response:
    info = desk.control.info()
    return _ok({"version": info.get("version"), "api": API_VERSION, "pid": info.get("pid")})


async def _config(desk: Desk, request: Request) -> Response:
    return _ok(dict(desk.control.info()))


# -- changing -----------------------------------------------------------------------------------


def _wait(request: Request, body: Mapping[str, Any]) -> float | None:
    """Seconds from `?wait`, `?wait=30` or `{"wait": 30}`; None: don't. Raises HttpError."""
    asked = request.query.get("wait", body.get("wait"))
    if asked is None or asked is False:
        return None
    if asked is True or asked == "":
        return 60.0
    try:
        seconds = float(asked)
    except (TypeError, ValueError):
        raise HttpError(400, "bad request", "wait: not a number of seconds") from None
    if not 0 <= seconds <= LONGEST_WAIT:
        raise HttpError(400, "bad request", f"wait: 0 to {LONGEST_WAIT} seconds")
    return seconds


def _by(request: Request) -> str:
    return request.peer.by if request.peer is not None else "unknown"


def _told(name: str, outcome: Outcome) -> Response:
    status = 200 if outcome.ok else STATUS.get(outcome.code, CONFLICT)
    answer = {"name": name, "ok": outcome.ok, "code": outcome.code, "message": outcome.message}
    if not outcome.ok:
        answer["error"] = {"code": outcome.code or "refused", "message": outcome.message}
    return _ok(answer, status)


async def _start(desk: Desk, request: Request) -> Response:
    name, wait = request.segments[2], _wait(request, request.json())
    return _told(name, await desk.control.start(name, _by(request), wait))


async def _stop(desk: Desk, request: Request) -> Response:
    name, wait = request.segments[2], _wait(request, request.json())
    return _told(name, await desk.control.stop(name, _by(request), wait))


async def _kill(desk: Desk, request: Request) -> Response:
    name, wait = request.segments[2], _wait(request, request.json())
    return _told(name, await desk.control.stop(name, _by(request), wait, kill=True))


async def _restart(desk: Desk, request: Request) -> Response:
    name, wait = request.segments[2], _wait(request, request.json())
    return _told(name, await desk.control.restart(name, _by(request), wait))


async def _signal(desk: Desk, request: Request) -> Response:
    name = request.segments[2]
    word = request.query.get("signal", request.json().get("signal"))
    if not isinstance(word, str | int) or isinstance(word, bool) or not 0 < len(str(word)) <= 20:
        raise HttpError(400, "bad signal name", "signal: a name or a number")
    return _told(name, await desk.control.signal(name, str(word), _by(request)))


async def _reread(desk: Desk, request: Request) -> Response:
    return _ok({key: list(names) for key, names in (await desk.control.reread()).items()})


async def _update(desk: Desk, request: Request) -> Response:
    return _ok({key: list(names) for key, names in (await desk.control.update(_by(request))).items()})


ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/v1/containers": {"GET": _list},
    "/v1/containers/NAME": {"GET": _one},
    "/v1/containers/NAME/why": {"GET": _why},
    "/v1/containers/NAME/logs": {"GET": _logs},
    "/v1/containers/NAME/recording": {"GET": _recording},
    "/v1/containers/NAME/start": {"POST": _start},
    "/v1/containers/NAME/stop": {"POST": _stop},
    "/v1/containers/NAME/restart": {"POST": _restart},
    "/v1/containers/NAME/kill": {"POST": _kill},
    "/v1/containers/NAME/signal": {"POST": _signal},
    "/v1/events": {"GET": _events},
    "/v1/stats": {"GET": _stats},
    "/v1/reread": {"POST": _reread},
    "/v1/update": {"POST": _update},
    "/v1/reload": {"POST": _update},  # one verb is enough: a reload is an update
    "/v1/version": {"GET": _version},
    "/v1/config": {"GET": _config},
}
