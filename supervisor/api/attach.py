"""Exec and attach: one SOCK_SEQPACKET connection each, fds by SCM_RIGHTS, nothing is proxied.

Packets are JSON objects. The first one asks:

- `{"name", "args", "env", "user", "cwd"}` with exactly three fds runs a command on them. With `"tty": [rows, columns]`
  there are none: `{"terminal": true}` comes, with the master of a terminal that the command has for itself.
  Then `{"signal": "SIGINT"}` may follow, as often as wanted. The answer is `{"exit": 0}` or
  `{"error": {"code", "message"}}`. A caller that goes away ends its command.
- `{"name", "attach": true}` with one SOCK_SEQPACKET socket attaches its other end to the container. The answer is
  `{"tty", "stdin", "generation"}`, and that is all: who is attached speaks with the container's shim, and outlives
  this daemon.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import anyio
from anyio import create_memory_object_stream, create_task_group, move_on_after
from anyio.streams.memory import MemoryObjectSendStream

from config.errors import RefusedError, WharfError
from supervisor.api.app import NAME
from supervisor.api.front import Acceptor
from supervisor.api.message import json_line
from supervisor.api.peer import Peer, Role, Roles, peer_of
from supervisor.ports import Control

log = logging.getLogger("wharfinger.api")

PACKET = 131072
MOST = 32  # commands at once
FIRST_WORD = 5.0  # seconds for the request to come
MAX_ARGS, MAX_ARG_BYTES = 4096, 100_000


class _Bad(Exception):  # noqa: N818  an answer
    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class Attach:
    """Serves attach.sock."""

    def __init__(self, control: Control, roles: Roles) -> None:
        self._control = control
        self._roles = roles
        self._running = 0

    async def serve(self, listener: socket.socket) -> None:
        """Until cancelled; commands that run then are cancelled with it. Owns the listener."""
        acceptor = Acceptor(listener)
        try:
            async with create_task_group() as tasks:
                while True:
                    sock = await acceptor.accept()
                    sock.setblocking(False)
                    if self._running >= MOST:
                        _send(sock, _error("busy", "too many commands"))
                        sock.close()
                        continue
                    self._running += 1
                    tasks.start_soon(self._host, sock)
        finally:
            acceptor.close()

    async def _host(self, sock: socket.socket) -> None:
        fds: list[int] = []
        try:
            _send(sock, await self._serve(sock, fds))
        finally:
            self._running -= 1
            for fd in fds:
                os.close(fd)
            anyio.notify_closing(sock)
            sock.close()

    async def _serve(self, sock: socket.socket, fds: list[int]) -> bytes:
        """The answer. Never raises but when cancelled."""
        try:
            peer = peer_of(sock, self._roles)
            if peer.role is not Role.ACT:
                raise _Bad("forbidden", "this needs root or the socket's group")
            with move_on_after(FIRST_WORD) as limit:
                asked = await _receive(sock, fds)
            if limit.cancelled_caught:
                raise _Bad("timeout", "the request did not come in time")
            return b"" if asked is None else await self._run(sock, peer, asked, fds)
        except _Bad as bad:
            return _error(bad.code, bad.message)
        except OSError as error:
            return _error("host", error.strerror or "error")

    async def _run(self, sock: socket.socket, peer: Peer, asked: Mapping[str, Any], fds: Sequence[int]) -> bytes:
        name = _name(asked, self._control.names())
        if "attach" in asked:
            if asked["attach"] is not True or len(fds) != 1:
                raise _Bad("bad request", "attach: true, and exactly one socket is needed")
            log.info('container=%s attach by="%s"', name, peer.by)
            return await self._answer(name, self._attach(name, fds[0]))
        args, options = _checked(asked)
        if len(fds) != (0 if "tty" in options else 3):
            raise _Bad("bad request", "exactly three file descriptors are needed, or none with a tty")
        if "tty" in options:
            options["terminal"] = lambda master: _send(sock, json_line({"terminal": True}), master)
        send, receive = create_memory_object_stream[str](16)
        answer = b""
        log.info('container=%s exec="%s" by="%s"', name, args[0][:80], peer.by)
        with anyio.CancelScope() as scope, send, receive:
            async with create_task_group() as tasks:
                tasks.start_soon(_listen, sock, send, scope)
                options |= {"signals": receive, "by": peer.by}
                answer = await self._answer(name, self._exec(name, args, fds, options))
                tasks.cancel_scope.cancel()
        return answer

    async def _exec(
        self, name: str, args: Sequence[str], stdio: Sequence[int], options: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        return {"exit": await self._control.exec(name, args, stdio, options)}

    async def _attach(self, name: str, sock: int) -> Mapping[str, Any]:
        return await self._control.attach(name, sock)

    async def _answer(self, name: str, asked: Awaitable[Mapping[str, Any]]) -> bytes:
        """Faults end here: a task group would wrap them."""
        try:
            return json_line(await asked)
        except RefusedError as error:
            return _error(error.what, str(error))
        except WharfError as error:
            return _error("host", str(error))
        except Exception:  # a bug in an exec must not end the daemon, nor be shown to the peer
            log.exception("container=%s exec", name)
            return _error("internal", "internal error, see the log of wharfingerd")


def _name(asked: Mapping[str, Any], names: Sequence[str]) -> str:
    name = asked.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name) or name not in names:
        raise _Bad("no such container", f"{str(name)[:80]}: no such container")
    return name


def _checked(asked: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    args = asked.get("args")
    if not isinstance(args, list) or not 0 < len(args) <= MAX_ARGS or not all(_argument(arg) for arg in args):
        raise _Bad("bad request", "args: a list of texts, not empty")
    if not args[0]:
        raise _Bad("bad request", "args: the first is the program")
    options: dict[str, Any] = {}
    env = asked.get("env")
    if env is not None:
        if not isinstance(env, dict) or not all(_argument(k) and _argument(v) and "=" not in k for k, v in env.items()):
            raise _Bad("bad request", "env: an object of texts")
        options["env"] = env
    for key in ("user", "cwd"):
        value = asked.get(key)
        if value is not None:
            if not _argument(value):
                raise _Bad("bad request", f"{key}: a text")
            options[key] = value
    size = asked.get("tty")
    if size is not None:
        if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 0 <= n < 65536 for n in size):
            raise _Bad("bad request", "tty: a list of rows and columns")
        options["tty"] = (size[0], size[1])
    return args, options


def _argument(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value and len(value) <= MAX_ARG_BYTES


async def _listen(sock: socket.socket, signals: MemoryObjectSendStream[str], scope: anyio.CancelScope) -> None:
    """Signals of the caller; its end cancels the command."""
    while True:
        extra: list[int] = []
        try:
            asked = await _receive(sock, extra)
        except _Bad:
            asked = {}
        finally:
            for fd in extra:
                os.close(fd)
        if asked is None:
            scope.cancel()
            return
        word = asked.get("signal")
        if isinstance(word, str) and len(word) <= 20:
            with suppress(anyio.WouldBlock, anyio.BrokenResourceError):
                signals.send_nowait(word)


async def _receive(sock: socket.socket, fds: list[int]) -> Mapping[str, Any] | None:
    """One packet; its fds are appended to `fds`, whatever comes. None at the end. Raises _Bad."""
    while True:
        try:
            data, passed, flags, _ = socket.recv_fds(sock, PACKET, 8, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            await anyio.wait_readable(sock)
            continue
        except OSError:
            return None
        break
    fds.extend(passed)
    if not data:
        return None
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise _Bad("bad request", "the packet is too large, or has too many file descriptors")
    try:
        asked = json.loads(data)
    except (ValueError, RecursionError):
        raise _Bad("bad request", "no JSON") from None
    if not isinstance(asked, dict):
        raise _Bad("bad request", "no JSON object")
    return asked


def _send(sock: socket.socket, data: bytes, *fds: int) -> None:
    if data:
        with suppress(OSError):
            socket.send_fds(sock, [data], fds, socket.MSG_NOSIGNAL)


def _error(code: str, message: str) -> bytes:
    return json_line({"error": {"code": code, "message": message}})
