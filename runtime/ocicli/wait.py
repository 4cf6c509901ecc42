"""In the foreground: be the reaper of what was launched, hand signals on, and end as it ends."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
from contextlib import suppress
from types import FrameType
from typing import Self

from config.errors import HostError
from runtime.ocicli.tty import Terminal

_PR_SET_CHILD_SUBREAPER = 36
_OURS = frozenset({signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGKILL, signal.SIGSTOP})


def become_reaper() -> None:
    """What the launcher leaves becomes our child. Raises HostError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise HostError(os.strerror(ctypes.get_errno()), "PR_SET_CHILD_SUBREAPER")


def exit_code(status: int) -> int:
    """Of a wait status: 128 and the number for a signal, as shells tell it."""
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


class Signals:
    """From here on every signal is kept until `wait` hands it on."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)

    def __enter__(self) -> Self:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with suppress(OSError, ValueError):  # two that the C library keeps for itself
                signal.signal(number, _noted)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()

    def wait(self, pid: int, pidfd: int, terminal: Terminal | None = None) -> int:
        """Until the process ends; its exit code. Raises HostError when it is not our child."""
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self._reader, select.POLLIN)
        if terminal:
            terminal.resize()
        while True:
            for fd in terminal.files() if terminal else ():
                poll.register(fd, select.POLLIN)
            ready = dict(poll.poll())
            if self._reader.fileno() in ready:
                self._hand_on(pidfd, terminal)
            if terminal:
                for fd in terminal.take(ready.keys()):
                    poll.unregister(fd)
            status = _reap(pid)
            if status is not None:
                if terminal:
                    terminal.drain()
                return exit_code(status)
            if pidfd in ready:
                with suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    continue
                raise HostError("its exit code is not known: another process reaped it", f"process {pid}")

    def _hand_on(self, pidfd: int, terminal: Terminal | None) -> None:
        for number in self._reader.recv(4096):
            if number == signal.SIGWINCH and terminal:
                terminal.resize()
            elif number not in _OURS:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, number)


def _noted(number: int, frame: FrameType | None) -> None:
    """The wake-up fd has it."""


def _reap(pid: int) -> int | None:
    """Reap all that have ended, its descendants that outlived their parents too. The status of `pid`, if it has."""
    found = None
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if ended == 0:
            return found
        if ended == pid:
            found = status
