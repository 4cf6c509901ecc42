"""Waits for PSI triggers in a thread of its own.

Asking a trigger whether it fired takes its event away (psi_trigger_poll). Where an epoll fd is itself waited for, the
outer wait asks first and the inner one finds nothing any more: on Linux 6.18 no event ever arrived (measured). A thread
that blocks in epoll_wait is the only one to ask. It is started with the first trigger. It also closes the triggers:
each close waits for a grace period of the kernel (synchronize_rcu in psi_trigger_destroy), which the loop cannot.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from contextlib import suppress


class TriggerThread:
    """`fd` becomes readable when take() has something. Borrows the triggers' fds until they are discarded."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._lock = threading.Lock()  # of the two below
        self._fired: deque[tuple[int, int]] = deque()
        self._discarded: list[int] = []
        self._ends = False
        self._thread: threading.Thread | None = None

    def add(self, fd: int) -> None:
        """Raises OSError; nothing is waited for then."""
        # Edge-triggered: a trigger whose cgroup was removed is ready without end, and would make the thread spin.
        self._epoll.register(fd, select.EPOLLPRI | select.EPOLLET)
        if self._thread is None:
            self._thread = threading.Thread(target=self._wait, name="psi-triggers", daemon=True)
            self._thread.start()

    def discard(self, fd: int) -> None:
        """Takes an added fd over and closes it soon; until then take() may still name it."""
        with suppress(OSError):
            self._epoll.unregister(fd)
        with self._lock:
            self._discarded.append(fd)
        os.eventfd_write(self._wake, 1)

    def take(self) -> list[tuple[int, int]]:
        """(fd, mask) of those that fired. Never blocks."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        with self._lock:
            taken = list(self._fired)
            self._fired.clear()
        return taken

    def close(self) -> None:
        """Waits until all that was discarded is closed."""
        if self._thread is not None:
            self._ends = True
            os.eventfd_write(self._wake, 1)
            self._thread.join()
        self._epoll.close()
        os.close(self._wake)
        os.close(self.fd)

    def _wait(self) -> None:
        while True:
            events = [event for event in self._epoll.poll() if event[0] != self._wake]
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            with self._lock:
                gone, self._discarded = self._discarded, []
                self._fired.extend(events)
                self._fired = deque(event for event in self._fired if event[0] not in gone)
            if events:
                os.eventfd_write(self.fd, 1)
            for fd in gone:
                os.close(fd)
            if self._ends and not self._discarded:
                return
