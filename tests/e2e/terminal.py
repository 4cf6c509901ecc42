"""A person at a terminal: wharfctl on a pty of its own, as a shell would start it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from typing import Any, Self

from tests.e2e.host import BIN

LIMIT = 20.0


class Person:
    """`wharfctl ARGS` with this terminal as its stdin, stdout and stderr."""

    def __init__(self, env: Mapping[str, str], *args: str, size: tuple[int, int] = (30, 100)) -> None:
        self.master, slave = os.openpty()
        self.seen = b""
        self.resize(*size, tell=False)
        self.before = self.mode(slave)
        self.slave = slave  # kept: its settings outlive wharfctl
        self.run = subprocess.Popen(
            [BIN / "wharfctl", *args],
            env=dict(env),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=lambda: os.login_tty(slave),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.run.poll() is None:
            self.run.kill()
            self.run.wait()
        os.close(self.master)
        os.close(self.slave)

    @staticmethod
    def mode(fd: int) -> list[Any]:
        return termios.tcgetattr(fd)

    def restored(self) -> bool:
        return self.mode(self.slave) == self.before

    def ready(self, limit: float = LIMIT) -> Self:
        """Attached: its terminal is in raw mode."""
        deadline = time.monotonic() + limit
        while self.restored():
            assert time.monotonic() < deadline, f"not attached: {self.seen!r} (ended: {self.run.poll()})"
            self.read(0.01)
        return self

    def resize(self, rows: int, columns: int, tell: bool = True) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        if tell:
            self.run.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read(self, limit: float = 0.0) -> bool:
        """Something came."""
        if not select.select([self.master], [], [], limit)[0]:
            return False
        self.seen += os.read(self.master, 65536)
        return True

    def sees(self, *texts: str, limit: float = LIMIT) -> str:
        """Waits for the texts, in this order; what was seen until then is not looked at again. Returns it."""
        deadline, shown = time.monotonic() + limit, ""
        for text in texts:
            while text.encode() not in self.seen:
                came = self.read(max(0.0, deadline - time.monotonic()))
                assert came, f"no {text!r}, only {self.seen!r} (ended: {self.run.poll()})"
            until, _, self.seen = self.seen.partition(text.encode())
            shown += until.decode(errors="replace") + text
        return shown

    def ends(self, limit: float = LIMIT) -> int:
        """Its exit code; what it says is read on, as a terminal does."""
        deadline = time.monotonic() + limit
        while self.run.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.seen!r}"
            self.read(0.01)
        while self.read():
            pass
        return self.run.returncode
