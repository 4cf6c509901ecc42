"""exec: a command inside a running container, on this terminal's own files or on a terminal of its own.

A terminal of ours is never handed into a container: what is left running there could read what is typed later. A pipe
stands between; other files are passed as they are.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from config.errors import RefusedError
from supervisor.cli import terminal
from supervisor.cli.args import UsageError
from supervisor.cli.client import NoDaemonError, RefusalError
from supervisor.cli.main import Context, code_of
from supervisor.cli.relay import Flow, turn

FORWARDED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH
)  # fmt: skip


def execute(context: Context) -> int:
    """The command's exit code (128+n for signal n); our own codes when it could not be run."""
    on_terminal = context.args.on("tty")
    if on_terminal and not terminal.is_terminal(0):
        raise RefusedError("--tty needs a terminal here, and stdin is none", hint="leave it out, or use -i alone")
    asked = _request(context)
    with connect(context) as sock:
        try:
            return _on_terminal(context, sock, asked) if on_terminal else _on_files(context, sock, asked)
        except RefusalError as refusal:
            return say_refusal(context, refusal)


def connect(context: Context) -> socket.socket:
    path = os.path.join(os.path.dirname(context.client.path), "attach.sock")
    return context.client.connect(socket.SOCK_SEQPACKET, path, None)


def say_refusal(context: Context, refusal: RefusalError) -> int:
    name = context.args.names[0]
    context.warn(f"{name}: ERROR ({refusal.code})")
    if refusal.message not in (refusal.code, f"{name}: {refusal.code}"):
        context.warn(f"  {refusal.message}")
    return code_of(refusal)


def _request(context: Context) -> dict[str, Any]:
    name, *command = context.args.names
    asked: dict[str, Any] = {"name": name, "args": command}
    env = {}
    for pair in context.args.all("env"):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"--env: not KEY=VALUE: {pair}")
        env[key] = value
    if env:
        asked["env"] = env
    if context.args.on("user"):
        asked["user"] = context.args.text("user")
    if context.args.on("workdir"):
        asked["cwd"] = context.args.text("workdir")
    return asked


# On files.


def _on_files(context: Context, sock: socket.socket, asked: dict[str, Any]) -> int:
    def forward(number: int, _: FrameType | None) -> None:
        try:
            sock.send(json.dumps({"signal": signal.Signals(number).name}).encode(), socket.MSG_NOSIGNAL)
        except OSError:
            pass

    # Held back until the request is out: before it there is nobody to pass a signal to.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        with _stdio(context.args.on("interactive")) as (given, flows):
            try:
                socket.send_fds(sock, [json.dumps(asked).encode()], given)
            except (BrokenPipeError, ConnectionResetError):
                pass  # what it said before it closed is read below
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
            for fd in given:
                os.close(fd)
            given.clear()  # the command's alone
            while sock.fileno() not in turn(flows, (sock.fileno(),), _close_input):
                pass
            code = answer(context, sock)
            for flow in flows:
                if flow.sink in (1, 2):
                    flow.finish()
            return code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _close_input(flow: Flow) -> None:
    """Its reader sees the end of file."""
    if flow.source == 0:
        os.close(flow.sink)
        flow.sink = -1


@contextmanager
def _stdio(interactive: bool) -> Iterator[tuple[list[int], list[Flow]]]:
    """Three fds to give away, and what to copy for those that are pipes. What is closed is /dev/null there."""
    given: list[int] = []
    flows: list[Flow] = []
    try:
        for fd in (0, 1, 2):
            if not _is_open(fd) or (fd == 0 and not interactive):
                given.append(os.open(os.devnull, os.O_RDWR))
            elif not os.isatty(fd):
                given.append(os.dup(fd))
            else:
                read, write = os.pipe()
                given.append(write if fd else read)
                flows.append(Flow(read, fd) if fd else Flow(fd, write, theirs=True))
                os.set_blocking(read if fd else write, False)
        yield given, flows
    finally:
        for fd in (*given, *(fd for flow in flows for fd in (flow.source, flow.sink))):
            if fd > 2:
                os.close(fd)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# On a terminal of its own.


def _on_terminal(context: Context, sock: socket.socket, asked: dict[str, Any]) -> int:
    interactive = context.args.on("interactive")
    asked["tty"] = terminal.size_of(0, 1) or (0, 0)
    master = -1

    def resized() -> None:
        size = terminal.size_of(0, 1)
        if master >= 0 and size is not None:
            terminal.set_size(master, size)

    with suppress(BrokenPipeError, ConnectionResetError):  # what it said before it closed is read below
        sock.send(json.dumps(asked).encode())
    master = _master(context, sock)
    os.set_blocking(master, False)
    try:
        with terminal.held(0, terminal.raw if interactive else None, resized):
            resized()
            return _copy(context, sock, master, interactive)
    except terminal.Ended as ended:  # the terminal is closed with us, and its command hung up
        return 128 + ended.number
    finally:
        os.close(master)


def _master(context: Context, sock: socket.socket) -> int:
    data, fds, _, _ = socket.recv_fds(sock, 65536, 1, socket.MSG_CMSG_CLOEXEC)
    if fds:
        return fds[0]
    _told(context, data)
    raise NoDaemonError(f"unix://{context.client.path} gave no terminal")


def _copy(context: Context, sock: socket.socket, master: int, interactive: bool) -> int:
    shown = Flow(master, 1)
    flows = [shown, *([Flow(0, master, theirs=True)] if interactive else [])]

    def typed_end(flow: Flow) -> None:
        if flow.sink == master and flow.ended:
            with suppress(OSError):
                os.write(master, b"\x04")  # the end of file, as a terminal says it

    while True:
        ready = turn(flows, (sock.fileno(),), typed_end)
        if sock.fileno() not in ready:
            continue
        data = _packet(sock)
        if not data and not shown.over:  # the daemon has gone, and the command has not: it needs none
            while not shown.over:
                turn(flows, (), typed_end)
        shown.finish()
        return _told(context, data)


# What the daemon says.


def answer(context: Context, sock: socket.socket) -> int:
    """The command's exit code. Raises RefusalError, NoDaemonError."""
    return _told(context, _packet(sock))


def _packet(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except OSError:
        return b""


def _told(context: Context, data: bytes) -> int:
    if not data:
        raise NoDaemonError(f"unix://{context.client.path} broke off; the command's end is not known")
    said = json.loads(data)
    if "exit" in said:
        return int(said["exit"])
    refused = said.get("error", {})
    raise RefusalError(0, str(refused.get("code", "")), str(refused.get("message", "")))
