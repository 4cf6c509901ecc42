"""What became of a container's output: a page that its shims count into and the daemon reads, so that nobody is woken.

One per container, for all its runs; it lives as long as a daemon or a shim holds it. docs/runtime.md, "Protocol".
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass
from typing import Final

SIZE: Final = 4096
_SEALS: Final = 0x1 | 0x2 | 0x4  # SEAL, SHRINK, GROW: a page that is cut off would kill who counts into it
_ADD_SEALS: Final = 1033  # <fcntl.h>, not in the `fcntl` module of Python 3.11


@dataclass(frozen=True, slots=True)
class Output:
    """Counters since the page was made. `size` and `lines`: written; `dropped`: bytes that the disk did not take."""

    size: int
    lines: int
    dropped: int
    errors: int


class OutputPage:
    """Owns `fd`, which shims get a copy of. Raises OSError when it cannot be made or is no such page."""

    __slots__ = ("_map", "fd")

    def __init__(self, fd: int | None = None) -> None:
        """fd: a page that a shim gave back, owned from here on; None: a new one."""
        self.fd = os.memfd_create("output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) if fd is None else fd
        try:
            if fd is None:
                os.ftruncate(self.fd, SIZE)
                fcntl.fcntl(self.fd, _ADD_SEALS, _SEALS)
            self._map = mmap.mmap(self.fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError) as error:
            os.close(self.fd)
            raise error if isinstance(error, OSError) else OSError(str(error)) from error

    def read(self) -> Output:
        """Never blocks, and is one look at memory."""
        return Output(*memoryview(self._map)[:32].cast("Q"))

    def close(self) -> None:
        if self.fd >= 0:
            self._map.close()
            os.close(self.fd)
            self.fd = -1
