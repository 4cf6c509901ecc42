"""exec: a command inside a running container, on this terminal's own file descriptors."""

from __future__ import annotations

import json
import os
import signal
import socket
from types import FrameType
from typing import Any

from supervisor.cli.args import UsageError
from supervisor.cli.client import NoDaemonError, RefusalError
from supervisor.cli.main import Context, code_of

FORWARDED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH
)  # fmt: skip


def execute(context: Context) -> int:
    """The command's exit code (128+n for signal n); our own codes when it could not be run."""
    path = os.path.join(os.path.dirname(context.client.path), "attach.sock")
    sock = context.client.connect(socket.SOCK_SEQPACKET, path, None)
    with sock:
        try:
            return _run(context, sock)
        except RefusalError as refusal:
            name = context.args.names[0]
            context.warn(f"{name}: ERROR ({refusal.code})")
            if refusal.message not in (refusal.code, f"{name}: {refusal.code}"):
                context.warn(f"  {refusal.message}")
            return code_of(refusal)


def _run(context: Context, sock: socket.socket) -> int:
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

    def forward(number: int, _: FrameType | None) -> None:
        try:
            sock.send(json.dumps({"signal": signal.Signals(number).name}).encode(), socket.MSG_NOSIGNAL)
        except OSError:
            pass

    # Held back until the request is out: before it there is nobody to pass a signal to.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        try:
            socket.send_fds(sock, [json.dumps(asked).encode()], _stdio())
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        data = sock.recv(65536)  # a signal interrupts it, is forwarded, and it goes on waiting
    except OSError:
        data = b""
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    if not data:
        raise NoDaemonError(f"unix://{context.client.path} broke off; the command's end is not known")
    answer = json.loads(data)
    if "exit" in answer:
        return int(answer["exit"])
    refused = answer.get("error", {})
    raise RefusalError(0, str(refused.get("code", "")), str(refused.get("message", "")))


def _stdio() -> list[int]:
    """0, 1, 2; what is closed there is replaced by /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    return [fd if _is_open(fd) else null for fd in (0, 1, 2)]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
