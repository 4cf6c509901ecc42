"""This terminal: its size, and raw mode that is undone on every way out."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class Ended(BaseException):
    """A signal that ends us came. As KeyboardInterrupt it interrupts whatever blocks."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def size_of(*fds: int) -> tuple[int, int] | None:
    """Rows and columns of the first of these that is a terminal and knows."""
    for fd in fds:
        with suppress(OSError):
            rows, columns = struct.unpack("4H", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))[:2]
            if rows and columns:
                return rows, columns
    return None


def set_size(fd: int, size: tuple[int, int]) -> None:
    with suppress(OSError):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))


def raw(fd: int) -> None:
    """Every key goes through as it is."""
    tty.setraw(fd, termios.TCSANOW)


@contextmanager
def held(fd: int, mode: Callable[[int], None] | None, resized: Callable[[], None]) -> Iterator[None]:
    """Inside, signals that end us raise Ended, once; the terminal `fd` is in the `mode` that is asked for; `resized` is
    called when its size changes. In whatever way this is left, it is as before."""

    def end(number: int, _: FrameType | None) -> None:
        for one in ENDING:
            signal.signal(one, signal.SIG_IGN)
        raise Ended(number)

    def resize(_: int, __: FrameType | None) -> None:
        resized()

    blocked = {*ENDING, signal.SIGWINCH, signal.SIGTTOU}  # TTOU: we may be in the background when it is put back
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    before = {number: signal.signal(number, end) for number in ENDING}
    before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, resize)
    saved = termios.tcgetattr(fd) if mode is not None else None
    try:
        try:
            if mode is not None:
                mode(fd)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked - {signal.SIGTTOU})
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    finally:
        if saved is not None:
            with suppress(termios.error):  # it is gone
                termios.tcsetattr(fd, termios.TCSANOW, saved)
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


def is_terminal(fd: int) -> bool:
    """Also of what is closed."""
    try:
        return os.isatty(fd)
    except OSError:
        return False
