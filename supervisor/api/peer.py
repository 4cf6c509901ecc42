"""Who is at the other end of a Unix socket, by what the kernel says (unix(7), SO_PEERCRED), and what they may do."""

from __future__ import annotations

import grp
import pwd
import socket
import struct
from dataclasses import dataclass
from enum import Enum

SO_PEERGROUPS = getattr(socket, "SO_PEERGROUPS", 59)


class Role(Enum):
    """What a peer may do."""

    NONE = "none"
    VIEW = "view"  # read
    ACT = "act"  # and change


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, at the time at which it did."""

    pid: int
    uid: int
    gid: int
    role: Role

    @property
    def by(self) -> str:
        """For a cause: `root (pid 4123)`."""
        return f"{_user(self.uid)} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Roles:
    """Group ids that act and that view; None where the host has no such group. uid 0 always acts."""

    act: int | None = None
    view: int | None = None

    @classmethod
    def of_groups(cls, act: str, view: str) -> Roles:
        return cls(group_id(act), group_id(view))

    def role(self, uid: int, gids: frozenset[int]) -> Role:
        if uid == 0 or (self.act is not None and self.act in gids):
            return Role.ACT
        if self.view is not None and self.view in gids:
            return Role.VIEW
        return Role.NONE


def peer_of(sock: socket.socket, roles: Roles) -> Peer:
    """Raises OSError when the socket is no Unix socket or has no peer."""
    pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(pid, uid, gid, roles.role(uid, frozenset((gid, *_groups(sock)))))


def _groups(sock: socket.socket) -> tuple[int, ...]:
    """Supplementary groups; never an error: fewer groups are fewer rights."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)  # Python's limit; more groups give ERANGE
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)


def group_id(name: str) -> int | None:
    """Of a group's name, or of a number as text; None when there is no such group."""
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError, OSError):
        return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return f"uid {uid}"
