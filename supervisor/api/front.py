"""The accept loop: it lives through a lack of file descriptors, bounds its connections, and knows its peers.

(anyio's own listener ends with the first EMFILE, and its task group with it.)
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio
from anyio import TASK_STATUS_IGNORED, create_task_group
from anyio.abc import TaskStatus

from supervisor.api.exchange import Exchange, Limits, too_busy
from supervisor.api.message import App, HttpError, Request, Response
from supervisor.api.peer import Peer, Role, Roles, peer_of
from supervisor.api.wire import Wire

log = logging.getLogger("wharfinger.api")

SHORT_OF = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
FLEETING = frozenset((errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR, errno.EAGAIN, errno.EWOULDBLOCK))
LIMITS = Limits()
PAUSE = 0.1  # after a failed accept: no busy loop while there is no descriptor to be had


class Spare:
    """One file descriptor kept for the time when there is no other (the old reserve trick)."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self.refill()

    @property
    def ready(self) -> bool:
        return self._fd is not None

    def refill(self) -> None:
        if self._fd is None:
            with suppress(OSError):
                self._fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def spend(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Acceptor:
    """`accept()` that never raises for a lack of anything. Each listener has its own spare descriptor."""

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._spare = Spare()
        self._short = False

    @property
    def short(self) -> bool:
        """Descriptors are short: connections should end soon."""
        return not self._spare.ready

    async def accept(self) -> socket.socket:
        self._spare.refill()
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
                    self._spare.refill()
                    await anyio.wait_readable(self._listener)
                elif error.errno in SHORT_OF:
                    self._say(error)
                    if self._spare.ready:
                        self._spare.spend()  # the next peer is served with it
                    else:
                        await anyio.sleep(PAUSE)
                else:
                    if error.errno not in FLEETING:
                        log.warning('accept error="%s"', error.strerror)
                    await anyio.sleep(PAUSE)
            else:
                self._spare.refill()
                if self._spare.ready:
                    self._short = False
                return sock

    def _say(self, error: OSError) -> None:
        if not self._short:
            log.warning('accept error="%s" file descriptors are short', error.strerror)
        self._short = True

    def close(self) -> None:
        self._spare.spend()
        anyio.notify_closing(self._listener)
        self._listener.close()


@dataclass(slots=True, eq=False)
class _Guest:
    exchange: Exchange
    uid: int | None


class Front:
    """Serves an app on one listener. `roles` is None on TCP, where nobody has a uid."""

    def __init__(self, app: App, roles: Roles | None, limits: Limits = LIMITS) -> None:
        self._app = app
        self._roles = roles
        self._limits = limits
        self._guests: list[_Guest] = []
        self.served = 0
        self.dropped = 0

    @property
    def connections(self) -> int:
        return len(self._guests)

    async def serve(self, listener: socket.socket, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Owns the listener; open connections are cut when it ends."""
        acceptor = Acceptor(listener)
        try:
            async with create_task_group() as tasks:
                task_status.started()
                while True:
                    sock = await acceptor.accept()
                    guest = self._admit(sock)
                    if guest is not None:
                        wire, entry = guest
                        tasks.start_soon(self._host, wire, entry, lambda: acceptor.short)
        finally:
            acceptor.close()

    def _admit(self, sock: socket.socket) -> tuple[Wire, _Guest] | None:
        wire = Wire(sock)
        peer: Peer | None = None
        app = self._app
        if self._roles is not None:
            try:
                peer = peer_of(sock, self._roles)
            except OSError:
                wire.close()
                return None
            if peer.role is Role.NONE:
                app = _refuse
        uid = peer.uid if peer is not None else None
        if not self._room(uid):
            self.dropped += 1
            wire.send_last(too_busy())
            wire.close()
            return None
        guest = _Guest(Exchange(wire, app, peer, self._limits), uid)
        self._guests.append(guest)
        return wire, guest

    def _room(self, uid: int | None) -> bool:
        """Whether one more fits; a connection that says nothing makes room for a new one, the oldest first."""
        limits = self._limits
        if uid is not None:
            same = [guest for guest in self._guests if guest.uid == uid]
            if len(same) >= (limits.root if uid == 0 else limits.per_user) and not self._drop_idle(same):
                return False
        return len(self._guests) < limits.connections or self._drop_idle(self._guests)

    def _drop_idle(self, guests: list[_Guest]) -> bool:
        for guest in guests:
            if not guest.exchange.busy:
                guest.exchange.scope.cancel()
                self._guests.remove(guest)
                self.dropped += 1
                return True
        return False

    async def _host(self, wire: Wire, guest: _Guest, last: Callable[[], bool]) -> None:
        try:
            await guest.exchange.run(last)
            self.served += 1
        finally:
            wire.close()
            if guest in self._guests:
                self._guests.remove(guest)


async def _refuse(_: Request) -> Response:
    raise HttpError(403, "forbidden", "only root and members of the socket's groups")
