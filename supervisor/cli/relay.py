"""Copies between file descriptors, as fast as the slower side takes it: one loop, bounded buffers, no threads."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence

CHUNK = 8192  # small: what is typed gets its turn beside a flood of output
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Flow:
    """What is read at `source` is written at `sink`, at most `most` bytes are held. Borrows both fds.

    A sink of the other side (`theirs`) may go away, and what is left for it is dropped; one of ours raises.
    """

    def __init__(self, source: int, sink: int, *, theirs: bool = False, most: int = CHUNK) -> None:
        self.source = source
        self.sink = sink
        self.held = bytearray()
        self.ended = False  # nothing more will be read
        self.broken = False  # nothing more will be written
        self._theirs = theirs
        self._most = most

    @property
    def over(self) -> bool:
        return self.broken or (self.ended and not self.held)

    def wants(self) -> list[tuple[int, int]]:
        found = []
        if not self.ended and not self.broken and len(self.held) < self._most:
            found.append((self.source, select.POLLIN))
        if self.held and not self.broken:
            found.append((self.sink, select.POLLOUT))
        return found

    def take(self) -> None:
        """Read what is there."""
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: a terminal that nobody has open any more
            data = b""
        self.ended = not data
        self.held += self.passed(data)

    def give(self) -> None:
        """Write what the sink takes."""
        try:
            del self.held[: self.write(bytes(self.held[:CHUNK]))]
        except BlockingIOError:
            pass
        except OSError:
            if not self._theirs:
                raise
            self.broken = True
            self.held.clear()

    def passed(self, data: bytes) -> bytes:
        return data

    def write(self, data: bytes) -> int:
        return os.write(self.sink, data)

    def finish(self) -> None:
        """The other side has ended: copy what it wrote before. The source does not block."""
        while not self.broken:
            while self.held and not self.broken:
                self.give()
            before = len(self.held)
            if not self.ended:
                self.take()
            if len(self.held) == before:
                return


def turn(flows: Sequence[Flow], others: Sequence[int] = (), after: Callable[[Flow], None] | None = None) -> set[int]:
    """Wait, then let each flow go on. Which of the `others` can be read. `after`: told of a flow that is over."""
    masks: dict[int, int] = dict.fromkeys(others, select.POLLIN)
    for flow in flows:
        for fd, mask in flow.wants():
            masks[fd] = masks.get(fd, 0) | mask
    poll = select.poll()
    for fd, mask in masks.items():
        poll.register(fd, mask)
    ready = dict(poll.poll())
    for flow in flows:
        over = flow.over
        for fd, mask in flow.wants():
            if ready.get(fd, 0) & (mask | _GONE):
                flow.take() if mask == select.POLLIN else flow.give()
        if flow.over and not over and after is not None:
            after(flow)
    return {fd for fd in others if fd in ready}
