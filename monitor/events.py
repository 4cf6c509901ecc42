"""Changes of cgroup event files through one private epoll fd, and PSI triggers.

The files are registered as EPOLLPRI | EPOLLET, one fd a file, without inotify and its per-user limits. The loop waits
for the epoll fd only: a kernfs file given to the loop itself is always readable and would make it spin. After a wake-up
the file is read again; what is told are levels and their difference, so that wake-ups may be lost or merged. Triggers
are no levels, see monitor/triggers.py.

A removed cgroup: its files answer ENODEV for ever. All of its fds are closed at the first sight and told as one `gone`.
memory.events does not wake for a removal at all, hence the sweep. Source: cgroup-v2.rst; psi.rst; fs/kernfs/file.c.
"""

from __future__ import annotations

import errno
import logging
import os
import select
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import anyio

from config.errors import GoneError, HostError
from monitor import psi, readers
from monitor.triggers import TriggerThread

EVENT_FILES = ("memory.events", "cgroup.events", "pids.events")
SWEEP = 30.0

_CHUNK = 4096
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something happened in the cgroup that was added as `key`.

    change: `values` of the event file now, and `deltas`, those that differ from the last time, from add() on.
    pressure: a trigger of `pressure` (some or full) fired; at most once in its window.
    gone: the cgroup was removed; nothing more comes for this key and nothing of it is held.
    """

    key: str
    kind: Literal["change", "pressure", "gone"]
    file: str = ""
    values: Mapping[str, int] = field(default_factory=dict)
    deltas: Mapping[str, int] = field(default_factory=dict)
    pressure: str = ""


@dataclass(slots=True)
class _Watch:
    key: str
    file: str
    fd: int
    pressure: str = ""
    values: dict[str, int] = field(default_factory=dict)


class EventWatcher:
    """One for the daemon. Not for several threads; one task at a time waits in next() or run()."""

    def __init__(self, sweep: float = SWEEP) -> None:
        """sweep: seconds between two readings of every file, which find removals and whatever a wake-up missed."""
        self._epoll = select.epoll()
        self._sweep = sweep
        self._by_fd: dict[int, _Watch] = {}
        self._by_key: dict[str, dict[tuple[str, str], _Watch]] = {}
        self._ready: deque[Notice] = deque()
        self._triggers: TriggerThread | None = None
        self._swept = 0.0
        self.wakeups = 0

    def add(
        self, key: str, cgroup: str | os.PathLike[str] | int, files: Sequence[str] = EVENT_FILES
    ) -> Mapping[str, Mapping[str, int]]:
        """Watches event files of a cgroup, by path or directory fd (borrowed), and reads where they stand.

        Returns the baseline of each file that exists; a file of a missing controller is left out. Adding a file that is
        watched already starts it anew. Raises GoneError (no such cgroup), HostError; nothing was changed then.
        """
        opened: list[_Watch] = []
        try:
            for name in files:
                watch = _open_watch(key, cgroup, name)
                if watch is not None:
                    opened.append(watch)
            for watch in opened:
                self._epoll.register(watch.fd, select.EPOLLPRI | select.EPOLLET)
        except OSError as e:
            _close_all(opened)
            if e.errno == errno.ENODEV:
                raise GoneError("the cgroup was removed", key) from None
            raise HostError(f"cannot watch the cgroup: {e.strerror}", key) from e
        except BaseException:
            _close_all(opened)
            raise
        self._keep(opened)
        return {watch.file: dict(watch.values) for watch in opened}

    def add_pressure(
        self,
        key: str,
        cgroup: str | os.PathLike[str] | int,
        resource: str,
        kind: str,
        threshold_us: int,
        window_us: int,
    ) -> psi.Trigger:
        """Sets a PSI trigger: resource cpu, memory or io; kind some or full. Replaces one of the same two.

        Returns the trigger that the kernel took, which differs from what was asked for where only windows of a multiple
        of 2 s are allowed (`.adjusted` says so). Raises RefusedError (impossible numbers, or the privilege is missing),
        GoneError, HostError (no PSI here); nothing was changed then.
        """
        fd, trigger = psi.open_trigger(cgroup, resource, kind, threshold_us, window_us, where=key)
        watch = _Watch(key, f"{resource}.pressure", fd, pressure=kind)
        try:
            if self._triggers is None:
                self._triggers = TriggerThread()
                self._epoll.register(self._triggers.fd, select.EPOLLIN)
            self._triggers.add(fd)
        except OSError as e:
            os.close(fd)
            raise HostError(f"cannot watch {watch.file}: {e.strerror}", key) from e
        self._keep([watch])
        return trigger

    def remove_pressure(self, key: str, resource: str, kind: str) -> None:
        """Takes one trigger away; nothing when there is none."""
        watch = self._by_key.get(key, {}).pop((f"{resource}.pressure", kind), None)
        if watch is not None:
            self._drop(watch)

    def remove(self, key: str) -> None:
        """Forgets the key: its fds are closed, notices of it that were not taken yet are dropped."""
        for watch in self._by_key.pop(key, {}).values():
            self._drop(watch)
        self._ready = deque(notice for notice in self._ready if notice.key != key)

    def keys(self) -> frozenset[str]:
        return frozenset(self._by_key)

    def values(self, key: str, file: str) -> Mapping[str, int] | None:
        """What the file said when it was read last; None when it is not watched."""
        watch = self._by_key.get(key, {}).get((file, ""))
        return None if watch is None else dict(watch.values)

    async def next(self) -> Notice:
        """The next notice. Cancellable, without a loss."""
        while True:
            await anyio.lowlevel.checkpoint_if_cancelled()
            if self._ready:
                return self._ready.popleft()
            rest = self._swept + self._sweep - anyio.current_time()
            if rest <= 0:
                self.sweep_nowait()
                continue
            with anyio.move_on_after(rest):
                await anyio.wait_readable(self._epoll.fileno())
                self.wakeups += 1
                self._drain()

    async def run(self, tell: Callable[[Notice], Awaitable[None] | None]) -> None:
        """Hands every notice to `tell` until cancelled."""
        while True:
            done = tell(await self.next())
            if done is not None:
                await done

    def sweep_nowait(self) -> None:
        """Reads every event file again now; differences and removals become notices."""
        self._swept = anyio.current_time()
        for watch in list(self._by_fd.values()):
            self._look(watch)

    def close(self) -> None:
        for key in list(self._by_key):
            self.remove(key)
        self._epoll.close()
        if self._triggers is not None:
            self._triggers.close()

    def _drain(self) -> None:
        events = self._epoll.poll(0, len(self._by_fd) + 1)
        if self._triggers is not None:
            events += self._triggers.take()
        for fd, mask in events:
            watch = self._by_fd.get(fd)
            if watch is not None:
                self._look(watch, mask)

    def _look(self, watch: _Watch, mask: int = 0) -> None:
        if self._by_fd.get(watch.fd) is not watch:
            return  # its key went with an earlier event of the same round
        try:
            data = os.pread(watch.fd, _CHUNK, 0)
        except OSError as e:
            if e.errno != errno.ENODEV:
                # A file that cannot be read cannot be waited for either: it would stay ready, and the loop would spin.
                _log.warning("cgroup=%s file=%s event=watch_failed errno=%s", watch.key, watch.file, e.errno)
            self._gone(watch.key)
            return
        if watch.pressure:
            if mask & select.EPOLLPRI and not mask & select.EPOLLERR:
                self._ready.append(Notice(watch.key, "pressure", watch.file, pressure=watch.pressure))
            return
        values = readers.parse_flat(data)
        deltas = {name: value - watch.values.get(name, 0) for name, value in values.items()}
        deltas = {name: delta for name, delta in deltas.items() if delta}
        watch.values = values
        if deltas:
            self._ready.append(Notice(watch.key, "change", watch.file, values, deltas))

    def _gone(self, key: str) -> None:
        for watch in self._by_key.pop(key, {}).values():
            self._drop(watch)
        self._ready.append(Notice(key, "gone"))

    def _keep(self, watches: Sequence[_Watch]) -> None:
        for watch in watches:
            mine = self._by_key.setdefault(watch.key, {})
            old = mine.pop((watch.file, watch.pressure), None)
            if old is not None:
                self._drop(old)
            mine[watch.file, watch.pressure] = watch
            self._by_fd[watch.fd] = watch

    def _drop(self, watch: _Watch) -> None:
        del self._by_fd[watch.fd]
        if watch.pressure and self._triggers is not None:
            self._triggers.discard(watch.fd)
        else:
            self._epoll.unregister(watch.fd)
            os.close(watch.fd)


def _open_watch(key: str, cgroup: str | os.PathLike[str] | int, name: str) -> _Watch | None:
    """None: the cgroup is there and the file is not. Raises GoneError, OSError."""
    try:
        fd = psi.open_in(cgroup, name, os.O_RDONLY)
    except FileNotFoundError:
        try:
            os.close(psi.open_in(cgroup, "cgroup.procs", os.O_PATH))
        except FileNotFoundError:
            raise GoneError("no such cgroup", key) from None
        return None
    try:
        return _Watch(key, name, fd, values=readers.parse_flat(os.pread(fd, _CHUNK, 0)))
    except BaseException:
        os.close(fd)
        raise


def _close_all(watches: Sequence[_Watch]) -> None:
    for watch in watches:
        os.close(watch.fd)  # a closed fd leaves the epoll set by itself
