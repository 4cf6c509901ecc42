"""What a stack of layers shows, without a mount: the rules of overlayfs by directory fds that follow no link.

Directories are opened one component at a time, so that a layer, which a stranger made, leads nowhere else.
Source: kernel overlayfs.rst, "Upper and Lower", "whiteouts and opaque directories".
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

OPAQUE = "trusted.overlay.opaque"
MAX_LINKS = 40
_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ANY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Found:
    """One name of the stack; `fd` is O_PATH, and the stack's."""

    fd: int
    mode: int
    uid: int
    gid: int

    @contextmanager
    def open(self, flags: int) -> Iterator[int]:
        """By the fd that was found: the name is not looked up again. Raises OSError."""
        fd = os.open(f"/proc/self/fd/{self.fd}", flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            yield fd
        finally:
            os.close(fd)


class Layers:
    """A stack of directories, the highest first. Everything it found is closed at its end."""

    def __init__(self, stack: Sequence[Path]) -> None:
        self._paths = stack
        self._roots: list[int] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        try:
            for path in self._paths:
                fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                self._open.callback(os.close, fd)
                self._roots.append(fd)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, _a: type[BaseException] | None, _b: BaseException | None, _c: TracebackType | None) -> None:
        self._open.close()

    def find(self, path: str) -> Found | None:
        """What stands at `path` from the root, links not followed; None when nothing does. Raises OSError."""
        parts = [part for part in path.split("/") if part]
        for root in self._roots:
            with ExitStack() as walk:
                fd, hides = root, False
                for n, part in enumerate(parts):
                    hides = hides or _is_opaque(fd)
                    try:
                        fd = os.open(part, _ANY, dir_fd=fd)
                    except FileNotFoundError:
                        break
                    walk.callback(os.close, fd)
                    kind = os.fstat(fd)
                    if stat.S_ISCHR(kind.st_mode) and kind.st_rdev == 0:
                        return None
                    if n + 1 < len(parts) and not stat.S_ISDIR(kind.st_mode):
                        return None
                else:
                    kept = os.dup(fd)
                    self._open.callback(os.close, kept)
                    kind = os.fstat(kept)
                    return Found(kept, kind.st_mode, kind.st_uid, kind.st_gid)
                if hides:
                    return None
        return None

    def follow(self, path: str) -> Found | None:
        """What `path` leads to inside the stack, links followed. Raises OSError (ELOOP)."""
        parts = deque(part for part in path.split("/") if part not in ("", "."))
        here: list[str] = []
        links = 0
        found = self.find("")
        while parts:
            part = parts.popleft()
            if part == "..":
                here = here[:-1]
                continue
            found = self.find("/".join([*here, part]))
            if found is None:
                return None
            if stat.S_ISLNK(found.mode):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink("", dir_fd=found.fd)
                here = [] if target.startswith("/") else here
                parts.extendleft(reversed([p for p in target.split("/") if p not in ("", ".")]))
            else:
                here = [*here, part]
        return found if not here or found is None else self.find("/".join(here))


@dataclass(frozen=True, slots=True)
class Stack:
    """What a container of an image sees, and how it is mounted; `layers`: the highest first."""

    directory: Path
    names: tuple[str, ...]
    layers: tuple[Path, ...]
    upper: Path
    work: Path

    def open_file(self, path: str) -> int:
        """A read-only fd of a regular file in what is seen, links followed inside. Raises OSError."""
        stack = [self.upper, *self.layers] if self.upper.is_dir() else self.layers
        with Layers(list(stack)) as layers:
            found = layers.follow(path)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if not stat.S_ISREG(found.mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            return os.open(f"/proc/self/fd/{found.fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)

    def __str__(self) -> str:
        return str(self.directory)


@contextmanager
def opened(root: Path, path: str, flags: int) -> Iterator[int]:
    """An fd of `path` in one directory, no link followed. Raises OSError."""
    with ExitStack() as walk:
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        walk.callback(os.close, fd)
        for part in (p for p in path.split("/") if p):
            fd = os.open(part, _DIR, dir_fd=fd)
            walk.callback(os.close, fd)
        fd = os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
        walk.callback(os.close, fd)
        yield fd


def copy_attributes(source: int, target: int) -> None:
    """Owner, mode, xattrs but overlayfs's own, and times. Raises OSError."""
    kind = os.fstat(source)
    os.fchown(target, kind.st_uid, kind.st_gid)
    os.fchmod(target, stat.S_IMODE(kind.st_mode))
    for key in os.listxattr(source):
        if not key.startswith(("trusted.overlay.", "user.overlay.")):
            os.setxattr(target, key, os.getxattr(source, key))
    os.utime(target, ns=(kind.st_atime_ns, kind.st_mtime_ns))


def _is_opaque(fd: int) -> bool:
    with suppress(OSError):  # not there
        return os.getxattr(f"/proc/self/fd/{fd}", OPAQUE) == b"y"
    return False
