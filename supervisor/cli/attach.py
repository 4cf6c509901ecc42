"""attach: what a container says as it comes, and what is typed here to its stdin. The wire: docs/runtime.md, "Attached
clients". The daemon only makes the connection, which outlives it."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from config.errors import RefusedError
from supervisor.cli import terminal
from supervisor.cli.client import TIMEOUT, NoDaemonError, RefusalError, quoted
from supervisor.cli.execute import connect, say_refusal
from supervisor.cli.keys import DEFAULT, Watch, parse_keys
from supervisor.cli.main import Context
from supervisor.cli.relay import Flow, turn

PACKET = 65536
INPUT = 4096  # of one packet
MOST_OUTPUT, MOST_INPUT = 1 << 20, 1 << 16  # held here; a keyboard is read on, for the detach keys
AGAIN, RECORDED = 20.0, 5.0  # seconds for a lost connection to be made anew, and for an end to be recorded
EXITED, SIGNALED, CORE = 1, 2, 3


class _Left(Exception):  # noqa: N818  no error
    """The detach keys were typed."""


class _Typed(Flow):
    """From our stdin to the container's."""

    def __init__(self, sock: socket.socket, watch: Watch) -> None:
        super().__init__(0, sock.fileno(), theirs=True, most=MOST_INPUT)
        self._sock = sock
        self._watch = watch

    def passed(self, data: bytes) -> bytes:
        out, left = self._watch.feed(data)
        if left:
            self.held += out
            self.give()
            raise _Left
        return out

    def write(self, data: bytes) -> int:
        return self._sock.send(b"i" + data[:INPUT], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) - 1


class _Shown:
    """From the container to our stdout and stderr. `end`: how and with what it ended; `lost`: nothing more comes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.end: tuple[int, int] | None = None
        self.lost = False
        self.flows = {b"o": Flow(-1, 1), b"e": Flow(-1, 2)}
        for flow in self.flows.values():
            flow.ended = True  # it is filled here

    @property
    def has_room(self) -> bool:
        return sum(len(flow.held) for flow in self.flows.values()) < MOST_OUTPUT

    def take(self) -> None:
        """All that is there and fits: the container waits for nobody, and who does not read is dropped."""
        while self.has_room and not self.lost:
            try:
                data = self._sock.recv(PACKET, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            kind, rest = data[:1], data[1:]
            if kind in self.flows:
                self.flows[kind].held += rest
            elif kind == b"x" and len(rest) == 2:
                self.end = (rest[0], rest[1])
            self.lost = not data

    def finish(self) -> None:
        for flow in self.flows.values():
            flow.finish()


class _Session:
    """One connection, and what it may do. Raises RefusalError, NoDaemonError."""

    def __init__(self, context: Context, name: str, watch: Watch) -> None:
        self._passing = not context.args.on("no_stdin")
        self._end_stdin = context.args.on("end_stdin")
        self._size_due = False
        self.sock, said = _open(context, name)
        self.tty: bool = said["tty"]
        self.stdin: bool = self._passing and said["stdin"]
        self.generation: int = said["generation"]
        self._shown = _Shown(self.sock)
        self._typed = _Typed(self.sock, watch)

    def begin(self, typing: bool) -> None:
        """`typing`: our own stdin has not ended before."""
        self._typed.ended = not (self.stdin and typing)
        size = terminal.size_of(0, 1)
        if self.tty and self._passing and size is not None:  # a size that is new makes its program draw all of it
            self._say(b"s" + struct.pack("<HH", size[0], max(1, size[1] - 1)))
        self.resized()

    @property
    def typing(self) -> bool:
        return not self._typed.ended

    def resized(self) -> None:
        size = terminal.size_of(0, 1)
        if self.tty and self._passing and size is not None:
            self._size_due = not self._say(b"s" + struct.pack("<HH", *size))

    def _say(self, packet: bytes) -> bool:
        """False: there is no room for it now."""
        try:
            self.sock.send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def run(self) -> tuple[int, int] | None:
        """Until the container's end: how, and code or signal. None: the connection was lost. Raises _Left."""
        shown, number = self._shown, self.sock.fileno()
        flows = [*shown.flows.values(), self._typed]
        while not shown.lost:
            if number in turn(flows, (number,) if shown.has_room else (), self._over):
                shown.take()
            if self._size_due:
                self.resized()
        shown.finish()
        return shown.end

    def _over(self, flow: Flow) -> None:
        if flow is self._typed and flow.ended and self._end_stdin:
            self._say(b"c")


class _Client:
    """The session that there is, and the next one when it is lost: a shim was, or we were too slow for it."""

    def __init__(self, context: Context) -> None:
        self.name = context.args.names[0]
        self._context = context
        self._watch = Watch(parse_keys(context.args.text("detach_keys", DEFAULT)))
        self.session = _Session(context, self.name, self._watch)

    def run(self) -> tuple[int, int] | None:
        typing = True
        while True:
            self.session.begin(typing)
            if (end := self.session.run()) is not None:
                return end
            typing = self.session.typing
            self.session.sock.close()
            if not self._again():
                return None

    def _again(self) -> bool:
        """False when it does not run any more."""
        deadline, pause = time.monotonic() + AGAIN, 0.02
        while True:
            try:
                self.session = _Session(self._context, self.name, self._watch)
                os.write(2, b"\r\nwharfctl: attached anew, output may be missing\r\n")
                return True
            except NoDaemonError:
                if time.monotonic() > deadline:
                    raise
            except RefusalError as refusal:
                if refusal.code != "busy":
                    return False
                if time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(1.0, 2 * pause)


def attach(context: Context) -> int:
    """The container's exit code (128+n for signal n); 0 when it was left with the detach keys."""
    try:
        client = _Client(context)
        try:
            return _attached(context, client)
        finally:
            client.session.sock.close()
    except RefusalError as refusal:
        return say_refusal(context, refusal)


def _attached(context: Context, client: _Client) -> int:
    first = client.session
    raw = first.stdin and first.tty
    if raw and not terminal.is_terminal(0):
        raise RefusedError("its stdin is a terminal, and ours is none", client.name, "use --no-stdin")
    try:
        with terminal.held(0, terminal.raw if raw else None, lambda: client.session.resized()):
            end = client.run()
    except terminal.Ended as ended:
        return 128 + ended.number
    except _Left:
        context.warn(f"\n{client.name}: detached")  # the cursor may be amid a line
        return 0
    how, status = end or _recorded(context, client.name, client.session.generation)
    if how in (SIGNALED, CORE):
        return 128 + status
    if how == EXITED:
        return status
    context.warn(f"{client.name}: it has ended, and nobody knows how")
    return 1


def _open(context: Context, name: str) -> tuple[socket.socket, dict[str, Any]]:
    """Our end of the connection to the container, and what the daemon says of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs, connect(context) as sock:
            sock.settimeout(TIMEOUT)
            with suppress(BrokenPipeError, ConnectionResetError):  # what it said before it closed is read below
                socket.send_fds(sock, [json.dumps({"name": name, "attach": True}).encode()], [theirs.fileno()])
            try:
                data = sock.recv(PACKET)
            except OSError:
                data = b""
        if not data:
            raise NoDaemonError(f"unix://{context.client.path} does not answer")
        said: dict[str, Any] = json.loads(data)
        if "error" in said:
            raise RefusalError(0, str(said["error"].get("code", "")), str(said["error"].get("message", "")))
        return ours, said
    except BaseException:
        ours.close()
        raise


def _recorded(context: Context, name: str, generation: int) -> tuple[int, int]:
    """How this run ended, from whoever writes it down; that takes a moment."""
    deadline = time.monotonic() + RECORDED
    while True:
        end = context.client.get(f"/v1/containers/{quoted(name)}").get("last_end") or {}
        if end.get("generation") == generation:
            if end.get("code") is not None:
                return EXITED, int(end["code"])
            return (SIGNALED, int(end["signal"])) if end.get("signal") is not None else (0, 0)
        if time.monotonic() > deadline:
            return 0, 0
        time.sleep(0.1)
