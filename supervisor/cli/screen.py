"""A whole terminal for `top` and `stats`: its other page, keys one by one, and everything put back on every way out.

Plain termios and the sequences that all terminals of today know; nothing is imported before it is needed.
"""

from __future__ import annotations

import os
import select
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from supervisor.cli.terminal import held

ENTER = "\x1b[?1049h\x1b[?25l"  # other page, no cursor
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME, TO_EOL, BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
BOLD, REVERSE, PLAIN = "\x1b[1m", "\x1b[7m", "\x1b[0m"
KEYS = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down", "\x1b[5~": "page up", "\x1b[6~": "page down",
    "\x1b[H": "home", "\x1b[F": "end",
}  # fmt: skip


def is_screen() -> bool:
    """Both ends are a terminal that can do more than print."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")


class Screen:
    def __init__(self, wake: int) -> None:
        self._wake = wake
        self._keys = b""

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        try:
            found = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            return 80, 24
        return (found.columns or 80), (found.lines or 24)

    def draw(self, lines: Sequence[str]) -> None:
        """In one write, over what was there, so that nothing flickers. Lines are cut; a mark in front styles one."""
        columns, rows = self.size()
        out = [HOME]
        for number, line in enumerate(lines[:rows]):
            style, text = (line[0], line[1:]) if line[:1] in ("\1", "\2") else ("", line)
            begin = {"\1": BOLD, "\2": REVERSE}.get(style, "")
            text = "".join(c if c.isprintable() else "?" for c in text)[:columns]
            text = text.ljust(columns) if style == "\2" else text
            out.append(("\r\n" if number else "") + begin + text + (PLAIN if begin else "") + TO_EOL)
        out.append(BELOW)
        _say("".join(out))

    def key(self, seconds: float) -> str:
        """The next key; "" when the time is over, "resize" when the window changed, "end" when the input is gone."""
        if not self._keys:
            ready, _, _ = select.select([0, self._wake], [], [], max(0.0, seconds))
            if self._wake in ready:
                with suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                return "resize"
            if not ready:
                return ""
            self._keys = os.read(0, 256)
            if not self._keys:
                return "eof"
            if self._keys == b"\x1b" and select.select([0], [], [], 0.05)[0]:  # the rest of an arrow is on its way
                self._keys += os.read(0, 256)
        return self._next()

    def _next(self) -> str:
        text = self._keys.decode("latin-1")
        for code, name in KEYS.items():
            if text.startswith(code):
                self._keys = self._keys[len(code) :]
                return name
        if text.startswith("\x1b"):  # another function key, or Escape itself
            self._keys = b""
            return "escape" if text == "\x1b" else "other"
        self._keys = self._keys[1:]
        return text[0]


def _by_key(fd: int) -> None:
    """Keys one by one, without an echo; the output stays as it is."""
    mode = termios.tcgetattr(fd)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    mode[6][termios.VSUSP] = b"\0"  # a job that is stopped would leave the page and the cursor as they are
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSADRAIN, mode)


@contextmanager
def screen() -> Iterator[Screen]:
    """Inside, the terminal is ours. terminal.Ended may be raised there."""
    wake, other = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def resized() -> None:
        with suppress(BlockingIOError):
            os.write(other, b"r")

    try:
        with held(0, _by_key, resized):
            try:
                _say(ENTER)
                yield Screen(wake)
            finally:
                with suppress(OSError, ValueError):
                    _say(LEAVE)
    finally:
        os.close(wake)
        os.close(other)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
