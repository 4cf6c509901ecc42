"""Exec on the caller's own stdio: one SOCK_SEQPACKET connection a command, fds by SCM_RIGHTS, nothing is proxied.

Packets are JSON objects. The first one asks: `{"name", "args", "env", "user", "cwd"}` with exactly three fds.
Then `{"signal": "SIGINT"}` may follow, as often as wanted. The answer is `{"exit": 0}` or
`{"error": {"code", "message"}}`. A caller that goes away ends its command.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Mapping, Sequence
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
            with move_on_after(FIRST_WORD):
                asked = await _receive(sock, fds)
                if asked is None:
                    return b""
                return await self._run(sock, peer, asked, fds)
            raise _Bad("timeout", "the request did not come in time")
        except _Bad as bad:
            return _error(bad.code, bad.message)
        except OSError as error:
            return _error("host", error.strerror or "error")

    async def _run(self, sock: socket.socket, peer: Peer, asked: Mapping[str, Any], fds: Sequence[int]) -> bytes:
        name, args, options = _checked(asked, self._control.names())
        if len(fds) != 3:
            raise _Bad("bad request", "exactly three file descriptors are needed")
        send, receive = create_memory_object_stream[str](16)
        answer = b""
        log.info('container=%s exec="%s" by="%s"', name, args[0][:80], peer.by)
        with anyio.CancelScope() as scope, send, receive:
            async with create_task_group() as tasks:
                tasks.start_soon(_listen, sock, send, scope)
                options |= {"signals": receive, "by": peer.by}
                answer = await self._exec(name, args, (fds[0], fds[1], fds[2]), options)
                tasks.cancel_scope.cancel()
        return answer

    async def _exec(
        self, name: str, args: Sequence[str], stdio: tuple[int, int, int], options: Mapping[str, Any]
    ) -> bytes:
        """The answer. Faults end here: a task group would wrap them."""
        try:
            return json_line({"exit": await self._control.exec(name, args, stdio, options)})
        except RefusedError as error:
            return _error(error.what, str(error))
        except WharfError as error:
            return _error("host", str(error))
        except Exception:  # a bug in an exec must not end the daemon, nor be shown to the peer
            log.exception("container=%s exec", name)
            return _error("internal", "internal error, see the log of wharfingerd")


def _checked(asked: Mapping[str, Any], names: Sequence[str]) -> tuple[str, list[str], dict[str, Any]]:
    name, args = asked.get("name"), asked.get("args")
    if not isinstance(name, str) or not NAME.fullmatch(name) or name not in names:
        raise _Bad("no such container", f"{str(name)[:80]}: no such container")
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
    return name, args, options


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


def _send(sock: socket.socket, data: bytes) -> None:
    if data:
        with suppress(OSError):
            sock.send(data, socket.MSG_NOSIGNAL)


def _error(code: str, message: str) -> bytes:
    return json_line({"error": {"code": code, "message": message}})
