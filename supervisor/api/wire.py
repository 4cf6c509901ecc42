"""A connected socket for one task: receive, send, notice that the peer is gone. Every wait's bound is the caller's."""

from __future__ import annotations

import select
import socket

import anyio
import anyio.lowlevel

CHUNK = 65536


class Wire:
    """Owns `sock`. Errors of the connection end in b"" (receive) or anyio.BrokenResourceError (send)."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.closed = False

    async def receive(self) -> bytes:
        """Up to CHUNK bytes; b"" at the end, however it came."""
        while True:
            try:
                return self._sock.recv(CHUNK)
            except (BlockingIOError, InterruptedError):
                await anyio.wait_readable(self._sock)
            except OSError:
                return b""

    async def send(self, data: bytes) -> None:
        """All of `data`. Cancelled: part of it may be sent, the connection is of no use any more."""
        view = memoryview(data)
        while view:
            try:
                sent = self._sock.send(view, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                await anyio.wait_writable(self._sock)
            except OSError as error:
                raise anyio.BrokenResourceError from error
            else:
                view = view[sent:]
                if view:
                    await anyio.lowlevel.checkpoint()

    async def wait_gone(self) -> None:
        """Returns when the peer is gone. One that only shut down its sending half, or has sent a further request,
        still wants its answer: the socket stays readable, so it is looked at each second from then on."""
        while True:
            await anyio.wait_readable(self._sock)
            try:
                self._sock.recv(1, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError:
                return
            if self._hung_up():
                return
            await anyio.sleep(1)

    def _hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._sock, 0)  # POLLHUP and POLLERR are always told
        return bool(poll.poll(0))

    def send_last(self, data: bytes) -> None:
        """What the peer's buffer takes at once, for a connection that is refused."""
        try:
            self._sock.send(data, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError:
            pass

    def linger(self) -> None:
        """End our half first: a close with unread bytes would reset the connection, and the answer with it (TCP)."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            anyio.notify_closing(self._sock)
            self._sock.close()
