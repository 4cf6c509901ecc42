"""Files that a command is given by name: any kind may be there, also a pipe, so what is read has bounds."""

from __future__ import annotations

import os
import select
import time

from config.errors import DefinitionError
from runtime.bundle import MAX_CONFIG

SECONDS = 10.0  # for all of it: who writes into a pipe may never come


def read_given(name: str) -> bytes:
    """The content of the file, or of standard input for `-`. Raises DefinitionError."""
    try:
        fd = os.dup(0) if name == "-" else os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise DefinitionError(f"cannot be read: {error.strerror}", name) from None
    try:
        return _all_of(fd, name)
    except OSError as error:
        raise DefinitionError(f"cannot be read: {error.strerror}", name) from None
    finally:
        os.close(fd)


def _all_of(fd: int, name: str) -> bytes:
    parts: list[bytes] = []
    size, until = 0, time.monotonic() + SECONDS
    wait = name == "-"  # a read could block; of a file opened here it fails then
    while True:
        if wait and not select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
            raise DefinitionError(f"not at its end after {SECONDS:g} s", name)
        try:
            part = os.read(fd, 1 << 16)
        except BlockingIOError:
            wait = True
            continue
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > MAX_CONFIG:
            raise DefinitionError(f"is larger than {MAX_CONFIG} bytes", name)
