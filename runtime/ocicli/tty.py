"""The terminal of a program in the foreground: what is typed here goes there, what it writes comes here."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import tty
from collections.abc import Collection
from contextlib import suppress
from typing import Self

from config.errors import HostError

_CHUNK = 65536


class Terminal:
    """`theirs` goes to the launcher, which sends the master of the new terminal to us."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._master = -1
        self._saved: list[object] | None = None
        self._typing = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            with suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
        for sock in (self._ours, self.theirs):
            sock.close()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def open(self) -> None:
        """Take the master, and put our own terminal into raw mode. Raises HostError."""
        self._ours.settimeout(10.0)
        try:
            _, fds, _, _ = socket.recv_fds(self._ours, 4096, 1)
        except OSError as error:
            raise HostError(f"the launcher sent no terminal: {error}", "terminal") from None
        if not fds:
            raise HostError("the launcher sent no terminal", "terminal")
        self._master = fds[0]
        os.set_inheritable(self._master, False)
        os.set_blocking(self._master, True)
        if os.isatty(0):
            self._saved = list(termios.tcgetattr(0))
            tty.setraw(0)

    def resize(self) -> None:
        """Give it our own terminal's size."""
        with suppress(OSError):
            size = fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8))
            if any(struct.unpack("4H", size)[:2]):
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def files(self) -> list[int]:
        """The fds to wait for."""
        found = [self._master] if self._master >= 0 else []
        return [*found, 0] if self._typing and found else found

    def take(self, ready: Collection[int]) -> list[int]:
        """Copy what is there; the fds that have ended."""
        ended = []
        if self._master in ready and not self._copy():
            ended.append(self._master)
            if self._typing:
                ended.append(0)
                self._typing = False
            os.close(self._master)
            self._master = -1
        if 0 in ready and self._typing:
            data = _read(0)
            if data:
                _write(self._master, data)
            else:
                self._typing = False
                ended.append(0)
                _write(self._master, b"\x04")  # end of file, as a terminal says it
        return ended

    def drain(self) -> None:
        """What it wrote before it ended."""
        if self._master < 0:
            return
        os.set_blocking(self._master, False)
        while self._copy():
            pass

    def _copy(self) -> bool:
        data = _read(self._master)
        return bool(data) and _write(1, data)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except OSError:  # EIO: nobody has the other end open; EAGAIN: no more
        return b""


def _write(fd: int, data: bytes) -> bool:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        return False
    return True
