"""Waits for PSI triggers in a thread of its own.

Asking a trigger whether it fired takes its event away (psi_trigger_poll). Where an epoll fd is itself waited for, the
outer wait asks first and the inner one finds nothing any more: on Linux 6.18 no event ever arrived (measured). A thread
that blocks in epoll_wait is the only one to ask. It is started with the first trigger and does nothing else.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from contextlib import suppress


class TriggerThread:
    """`fd` becomes readable when take() has something. Borrows the triggers' fds."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._stop, select.EPOLLIN)
        self._fired: deque[tuple[int, int]] = deque()
        self._thread: threading.Thread | None = None

    def add(self, fd: int) -> None:
        """Raises OSError; nothing is waited for then."""
        # Edge-triggered: a trigger whose cgroup was removed is ready without end, and would make the thread spin.
        self._epoll.register(fd, select.EPOLLPRI | select.EPOLLET)
        if self._thread is None:
            self._thread = threading.Thread(target=self._wait, name="psi-triggers", daemon=True)
            self._thread.start()

    def remove(self, fd: int) -> None:
        """Before the fd is closed. The thread may just be telling of it: the caller looks again at what it is told."""
        with suppress(OSError):
            self._epoll.unregister(fd)

    def take(self) -> list[tuple[int, int]]:
        """(fd, mask) of those that fired. Never blocks."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self._fired.popleft())
        return taken

    def close(self) -> None:
        if self._thread is not None:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
        self._epoll.close()
        os.close(self._stop)
        os.close(self.fd)

    def _wait(self) -> None:
        while True:
            events = self._epoll.poll()
            if any(fd == self._stop for fd, _ in events):
                return
            if events:
                self._fired.extend(events)
                os.eventfd_write(self.fd, 1)
