"""Reading a file that an operator names: only a regular one, never more than a bound, never waiting."""

from __future__ import annotations

import os
import stat


def regular_file(path: str, limit: int) -> bytes:
    """The bytes of a regular file; of a longer one, `limit` + 1 bytes.

    A fifo or device is not waited for. Raises OSError, and ValueError for what is not a regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("is a directory, not a file" if stat.S_ISDIR(mode) else "is not a regular file")
        chunks, left = [], limit + 1
        while left > 0 and (chunk := os.read(fd, left)):
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)
