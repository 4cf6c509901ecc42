"""Tells when the definition directory changed. The only file that knows pyinotify.

One inotify instance, one watch manager, two watches: the directory, and its nearest existing ancestor, so that the
directory may be removed, renamed, made again or come later. What is told is only "something changed, read it all": lost
events (an overflow), names that pyinotify cannot decode, and events of editors' temporary files then need no care.
Without an instance or a watch left (EMFILE, ENOSPC) the directory is read every 2 s, and `degraded` says so.
Not seen: a change of a file elsewhere that a symbolic link points to, and changes made by another host on a network
file system; `wharfctl reread` is for those.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import anyio

QUIET = 0.3
BOUND = 2.0
POLL = 2.0
RETRY = 60.0

_TEMP_ENDS = ("~", ".swp", ".swx", ".swo", ".tmp", ".bak", ".part", ".dpkg-new", ".dpkg-tmp", ".rpmnew")
_DATA_LINK = "..data"  # what Kubernetes swaps when a mounted ConfigMap changes: the files themselves see nothing

Signature = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """Something changed. why: changed, overflow, moved (the directory), polled; degraded, restored (the watch)."""

    why: str


def is_ignored(name: str) -> bool:
    """Hidden and temporary names, which no definition has."""
    if name == _DATA_LINK:
        return False
    return name.startswith((".", "#", "_tmp")) or name.endswith(_TEMP_ENDS) or name.isdigit()  # vim's probe is 4913


def signature(path: str) -> Signature:
    """What a directory's definitions look like from outside; equal as long as nothing was written or renamed."""
    try:
        with os.scandir(path) as entries:
            found = [(entry.name, *_stamp(entry)) for entry in entries if not is_ignored(entry.name)]
    except OSError as e:
        return ("unreadable", e.errno)
    return tuple(sorted(found))


def _stamp(entry: os.DirEntry[str]) -> tuple[int, ...]:
    try:
        stat = entry.stat()
    except OSError:
        return (0, 0, 0, 0)
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class DefinitionWatch:
    """Watches one directory, whether it exists or not. One task iterates over changes()."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        quiet: float = QUIET,
        bound: float = BOUND,
        poll: float = POLL,
        retry: float = RETRY,
        open_inotify: Callable[[], _Inotify] | None = None,
    ) -> None:
        self.path = os.path.abspath(path)
        self.degraded = False
        self.reason = ""
        self.overflows = 0
        self._quiet, self._bound, self._poll, self._retry = quiet, bound, poll, retry
        self._open = open_inotify or _Inotify
        self._inotify: _Inotify | None = None
        self._signature: Signature | None = None

    async def changes(self) -> AsyncIterator[Change]:
        """Each change once it was quiet for `quiet` seconds, `bound` seconds after the first event at the latest.

        The first watch is set before the first wait; a consumer that reads the directory after it began to iterate
        misses nothing. Ends by cancellation; the inotify instance is closed then.
        """
        try:
            why = self._arm()
            while True:
                if why:
                    yield Change(why)
                if self._inotify is None:
                    async for change in self._polled():
                        yield change
                    why = self._arm()
                else:
                    # The watches are set again before the consumer reads, or a change between the two would be lost.
                    seen = await self._next(self._inotify)
                    why = self._arm() or seen
        finally:
            self._disarm()

    def arm(self) -> None:
        """Sets the watch now, so that nothing is missed between a first read of the directory and changes()."""
        self._arm()

    def _arm(self) -> str:
        """Makes sure of both watches; the reason of a change when that itself is one, else an empty string."""
        was_degraded = self.degraded
        try:
            if self._inotify is None:
                self._inotify = self._open()
            moved = self._inotify.watch(self.path)
        except OSError as e:
            self._disarm()
            self.degraded, self.reason = True, str(e)
            self._signature = signature(self.path)
            return "" if was_degraded else "degraded"
        self.degraded, self.reason = False, ""
        before, self._signature = self._signature, None
        if was_degraded:
            return "restored" if before != signature(self.path) else ""
        return "moved" if moved else ""

    def _disarm(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    async def _next(self, inotify: _Inotify) -> str:
        why = ""
        while not why:
            await anyio.wait_readable(inotify.fd)
            why = inotify.read()
        with anyio.move_on_after(self._bound):
            quiet = False
            while not quiet:
                with anyio.move_on_after(self._quiet) as scope:
                    await anyio.wait_readable(inotify.fd)
                    why = max(why, inotify.read())  # by alphabet: overflow after moved after changed
                quiet = scope.cancelled_caught
        self.overflows += why == "overflow"
        return why

    async def _polled(self) -> AsyncIterator[Change]:
        """Reads the directory every `poll` seconds; ends when it is time to try inotify again."""
        until = anyio.current_time() + self._retry
        while anyio.current_time() < until:
            await anyio.sleep(self._poll)
            now = await anyio.to_thread.run_sync(signature, self.path)
            if now != self._signature:
                self._signature = now
                yield Change("polled")


class _Inotify:
    """pyinotify, tamed: no asyncore notifier, no thread, silent on the console. Raises OSError when it cannot work."""

    def __init__(self) -> None:
        self._lib = _load()
        self._manager: Any = self._lib.WatchManager()  # OSError without an errno when no instance is left
        self.fd: int = self._manager.get_fd()
        os.set_inheritable(self.fd, False)
        os.set_blocking(self.fd, False)
        self._found = ""
        self._notifier = self._lib.Notifier(self._manager, self._saw)
        self._target = ""
        self._dirs: tuple[int, int] = (-1, -1)

    def watch(self, path: str) -> bool:
        """Watches `path` and its nearest existing ancestor, as they are now; True when that is not what was watched.

        Raises OSError when a watch is refused although its directory is there.
        """
        self._target = path
        parent = os.path.dirname(path)
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        mask = self._lib
        inside = (
            mask.IN_CLOSE_WRITE | mask.IN_CREATE | mask.IN_DELETE | mask.IN_MOVED_FROM | mask.IN_MOVED_TO
            | mask.IN_ATTRIB | mask.IN_DELETE_SELF | mask.IN_MOVE_SELF | mask.IN_ONLYDIR
        )  # fmt: skip
        above = (
            mask.IN_CREATE | mask.IN_DELETE | mask.IN_MOVED_FROM | mask.IN_MOVED_TO
            | mask.IN_DELETE_SELF | mask.IN_MOVE_SELF | mask.IN_ONLYDIR
        )  # fmt: skip
        now = (self._add(path, inside), self._add(parent, above))
        before, self._dirs = self._dirs, now
        for wd in set(before) - set(now) - {-1}:
            self._manager.rm_watch(wd, quiet=True)
        return before not in (now, (-1, -1))

    def _add(self, path: str, mask: int) -> int:
        """Watch descriptor; the kernel gives the same one for the same directory. -1: there is no such directory."""
        # Past the manager, whose add_watch ignores a path that it knows, also when another directory has it now.
        for wd, known in list(self._manager.watches.items()):
            if known.path == path:
                self._manager.watches.pop(wd)
        found: int = self._manager.add_watch(path, mask, quiet=True).get(path, -1)
        if found < 0 and os.path.isdir(path):
            raise OSError(f"no inotify watch for {path}: out of watches?")
        return found

    def read(self) -> str:
        """What happened since the last read, in one word; empty when it is nothing of interest. Never blocks."""
        self._found = ""
        try:
            self._notifier.read_events()
        except self._lib.NotifierError:
            return ""  # nothing to read after all
        except UnicodeDecodeError:
            self._found = "changed"  # the rest of that read is lost
        self._notifier.process_events()
        return self._found

    def _saw(self, event: Any) -> None:
        lib = self._lib
        if event.mask & lib.IN_Q_OVERFLOW:
            why = "overflow"
        elif event.mask & (lib.IN_IGNORED | lib.IN_UNMOUNT | lib.IN_DELETE_SELF | lib.IN_MOVE_SELF):
            why = "moved"
        elif event.wd == self._dirs[0]:
            why = "" if is_ignored(event.name) else "changed"
        else:
            # An ancestor: only the next step of the way to the directory is of interest.
            step = os.path.join(event.path, event.name)
            why = "moved" if self._target == step or self._target.startswith(step + "/") else ""
        self._found = max(self._found, why)

    def close(self) -> None:
        self._manager.close()


def _load() -> ModuleType:
    """Imported late: it needs asyncore, which Python 3.12 dropped and pyasyncore brings back, and speaks on stderr."""
    try:
        import pyinotify
    except ImportError as e:
        raise OSError(f"pyinotify cannot be imported: {e}") from e
    log = logging.getLogger("pyinotify")
    log.handlers.clear()
    log.addHandler(logging.NullHandler())
    log.propagate = False
    module: ModuleType = pyinotify
    return module
