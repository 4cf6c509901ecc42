"""Listening sockets: there at once with the right owner and mode, and instead of what a dead daemon left."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

from config.errors import HostError

BACKLOG = 1024  # a client of a full one gets EAGAIN at once (unix(7)); the kernel cuts it to somaxconn
MODE = 0o660
# linux/posix_acl_xattr.h: version 2, then entries of tag, permissions, id
_ACL_VERSION = struct.pack("<I", 2)
_OWNER, _GROUP, _SOME_GROUP, _MASK, _OTHER = 0x01, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF


def bind_unix(path: Path, group: int | None, view: int | None = None, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A listening socket at `path`, 0660 root:group; `view` is a second group that may connect.

    It is bound under another name, with no rights for anyone else from its first moment, and renamed when
    it is complete: a stale socket is replaced, a client sees the old one or the new one. The caller holds
    the lock of the state directory. Raises HostError.
    """
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    temporary = path.with_name(f".{path.name}.new")
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _bind(sock, parent, temporary.name)
            os.chown(temporary.name, 0 if os.geteuid() == 0 else -1, -1 if group is None else group, dir_fd=parent)
            os.chmod(temporary.name, MODE, dir_fd=parent)
            if view is not None:
                _let_group(temporary, view, read=6)
            sock.listen(BACKLOG)
            _refuse_other_kind(path)
            os.rename(temporary.name, path.name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            os.close(parent)
    except OSError as error:
        sock.close()
        with suppress(OSError):
            os.unlink(temporary)
        raise HostError(f"socket: {error.strerror or error}", str(path)) from error
    return sock


def _bind(sock: socket.socket, parent: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
    before = os.umask(0o177)  # of the whole process, hence as short as can be, and nothing waits in between
    try:
        sock.bind(f"/proc/self/fd/{parent}/{name}")  # sun_path holds 107 bytes only
    finally:
        os.umask(before)


def _refuse_other_kind(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "in the way is something that is no socket")


def prepare_run_dir(path: Path, group: int | None, view: int | None = None) -> None:
    """The directory of the sockets: 0750 root:group, passable for the view group. Raises HostError."""
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(path, 0, 0 if group is None else group)
        os.chmod(path, 0o750)
        if view is not None:
            _let_group(path, view, read=1)
    except OSError as error:
        raise HostError(f"run directory: {error.strerror}", str(path)) from error


def _let_group(path: Path, group: int, read: int) -> None:
    """A POSIX ACL entry for one more group (acl(5)); where there are no ACLs, that group cannot connect."""
    mode = stat.S_IMODE(os.lstat(path).st_mode)
    own = mode >> 3 & 7
    entries = (
        (_OWNER, mode >> 6 & 7, _NOBODY),
        (_GROUP, own, _NOBODY),
        (_SOME_GROUP, read, group),
        (_MASK, own | read, _NOBODY),
        (_OTHER, mode & 7, _NOBODY),
    )
    acl = _ACL_VERSION + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    with suppress(OSError):
        os.setxattr(path, "system.posix_acl_access", acl)


def bind_tcp(address: str) -> socket.socket:
    """A listening socket at `host:port` (`[::1]:9627` too); port 0 takes any. Raises HostError."""
    host, _, port = address.rpartition(":")
    try:
        number = int(port)
        family, kind, protocol, _, where = socket.getaddrinfo(
            host.strip("[]") or None, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (ValueError, OSError) as error:
        raise HostError("not an address and a port", address, "as 127.0.0.1:9627") from error
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise HostError(f"listen: {error.strerror}", address) from error
    return sock
