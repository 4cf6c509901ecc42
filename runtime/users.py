"""Who runs in a container: `user: name:group` against the /etc/passwd and /etc/group of its own root.

The root is written by strangers. Files in it are opened one component at a time by directory fds, without
following links by the kernel; links are resolved here, inside the root, as openat2's RESOLVE_IN_ROOT does.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from config.errors import DefinitionError
from config.record import record

MAX_FILE = 1 << 20
MAX_LINKS = 40
MAX_ID = 2**32 - 2  # 2^32-1 is "no change" to setresuid
MAX_GROUPS = 1024
_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@record
class User:
    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary, without gid
    home: str


@record
class _Passwd:
    name: str
    uid: int
    gid: int
    home: str


@record
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


class Opener(Protocol):
    """A root that is no one directory: the layers of an image."""

    def open_file(self, path: str) -> int:
        """A read-only fd of a regular file, links followed inside of the root. Raises OSError."""


Root = Path | Opener


def open_in_root(root: Path, path: str) -> int:
    """A read-only fd of the regular file `path` inside `root`, wherever links in it point. Raises OSError."""
    parts = deque(part for part in path.split("/") if part not in ("", "."))
    stack = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    links = 0
    try:
        while parts:
            part = parts.popleft()
            if part == "..":
                if len(stack) > 1:
                    os.close(stack.pop())
                continue
            fd = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stack[-1])
            kind = os.fstat(fd).st_mode
            if stat.S_ISLNK(kind):
                os.close(fd)
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink(part, dir_fd=stack[-1])
                if target.startswith("/"):
                    while len(stack) > 1:
                        os.close(stack.pop())
                parts.extendleft(reversed([p for p in target.split("/") if p not in ("", ".")]))
            elif parts:
                stack.append(fd)  # a file here fails the next open with ENOTDIR
            else:
                try:
                    if not stat.S_ISREG(kind):
                        raise OSError(errno.EINVAL, "not a regular file", path)
                    # by the fd that was checked: the name may be another file by now
                    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
                finally:
                    os.close(fd)
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    finally:
        for fd in stack:
            os.close(fd)


def read_in_root(root: Root, path: str, limit: int = MAX_FILE) -> bytes | None:
    """The content of `path` inside `root`, None when there is no such file. Raises DefinitionError when too large."""
    try:
        fd = open_in_root(root, path) if isinstance(root, Path) else root.open_file(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise DefinitionError(f"{path} cannot be read: {error.strerror}", str(root)) from None
    with os.fdopen(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DefinitionError(f"{path} is larger than {limit} bytes", str(root))
    return data


def _lines(data: bytes | None) -> list[list[str]]:
    text = (data or b"").decode("utf-8", errors="surrogateescape")
    return [line.split(":") for line in text.split("\n") if line and not line.startswith("#")]


def _id(text: str) -> int | None:
    """A whole decimal number in range, else None (CVE-2026-30892: a lax parse made uid 0 of it)."""
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > MAX_ID:
        return None
    return int(text)


def parse_passwd(data: bytes | None) -> list[_Passwd]:
    found = []
    for fields in _lines(data):
        if len(fields) >= 6:
            uid, gid = _id(fields[2]), _id(fields[3])
            if fields[0] and uid is not None and gid is not None:
                found.append(_Passwd(fields[0], uid, gid, fields[5]))
    return found


def parse_group(data: bytes | None) -> list[_Group]:
    found = []
    for fields in _lines(data):
        gid = _id(fields[2]) if len(fields) >= 4 else None
        if fields[0] and gid is not None:
            found.append(_Group(fields[0], gid, tuple(m for m in fields[3].strip().split(",") if m)))
    return found


def resolve(root: Root | None, user: str | None, group_add: Sequence[str] = ()) -> User:
    """`user` is uid, uid:gid, name, name:group or None (root). Raises DefinitionError for a name that is not there.

    As in Docker: a uid without entry has gid 0 and home "/"; supplementary groups come from /etc/group only
    when no group was given; numbers need no files.
    """
    name, colon, group = (user or "0").partition(":")
    if not name or (colon and not group):
        raise DefinitionError(f"{user!r} is not uid[:gid] or name[:group]", "user")
    people = parse_passwd(read_in_root(root, "/etc/passwd")) if root else []
    groups = parse_group(read_in_root(root, "/etc/group")) if root else []
    uid = _id(name)
    entry = next((p for p in people if (p.uid == uid if uid is not None else p.name == name)), None)
    if uid is None:
        if entry is None:
            raise DefinitionError(f"no user {name!r} in {root}/etc/passwd", "user", "give a number")
        uid = entry.uid
    extra: list[int] = []
    if group:
        gid = _gid(groups, group, root, "user")
    else:
        gid = entry.gid if entry else 0
        extra = [g.gid for g in groups if entry and entry.name in g.members]
    extra += [_gid(groups, item, root, "group_add") for item in group_add]
    unique = tuple(sorted({g for g in extra if g != gid}))
    if len(unique) > MAX_GROUPS:
        raise DefinitionError(f"user is in more than {MAX_GROUPS} groups", "user")
    home = entry.home if entry and entry.home.startswith("/") and "\0" not in entry.home else "/"
    return User(uid, gid, unique, home)


def _gid(groups: Sequence[_Group], text: str, root: Root | None, where: str) -> int:
    gid = _id(text)
    if gid is not None:
        return gid
    found = next((g.gid for g in groups if g.name == text), None)
    if found is None:
        raise DefinitionError(f"no group {text!r} in {root}/etc/group", where, "give a number")
    return found
