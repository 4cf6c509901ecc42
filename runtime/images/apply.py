"""Entries of a layer to files, in the root of this process, which is the layer's own directory and nothing else.

Whiteouts become overlayfs's own: a character device 0:0. Opaque directories are only named, in `Applied`: their mark
is an xattr that needs CAP_SYS_ADMIN, which nothing that reads a stranger's tar has. The same holds for links to files
of lower layers, which are not here. Source: OCI image-spec layer.md; kernel overlayfs.rst, "whiteouts and opaque
directories".
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

from runtime.images import tar
from runtime.images.tar import Entry, TarError

MAX_ENTRIES = 1_000_000
MAX_DEPTH = 1024
MAX_PENDING = 100_000

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."  # what aufs kept for itself
_KEPT_XATTRS = (b"user.", b"security.capability", b"system.posix_acl_")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Applied:
    """What was made, and what is left to one with more rights: names are paths from the layer's root."""

    entries: int = 0
    size: int = 0
    implicit: dict[bytes, None] = field(default_factory=dict)  # directories that the layer uses, and does not describe
    opaque: set[bytes] = field(default_factory=set)
    links: list[tuple[bytes, bytes]] = field(default_factory=list)  # (path, the file of a lower layer)


class Applier:
    """Applies one layer. Errors are TarError, or OSError of the disk."""

    def __init__(self, reader: tar.Reader, devices: bool, root: bytes = b"/") -> None:
        self._reader = reader
        self._devices = devices
        self._root = root if root.endswith(b"/") else root + b"/"
        self._known: set[bytes] = {b""}  # directories that are there
        self._times: dict[bytes, int] = {}
        self.done = Applied(implicit={b"": None})  # the root, too, until an entry describes it

    def run(self) -> Applied:
        os.umask(0)
        for entry in self._reader:
            self.done.entries += 1
            if self.done.entries > MAX_ENTRIES:
                raise TarError(f"a layer of more than {MAX_ENTRIES} entries")
            self._apply(entry)
        for path in sorted(self._times, key=lambda p: p.count(b"/"), reverse=True):
            when = self._times[path]
            with_root = self._root + path
            os.utime(with_root, ns=(when, when), follow_symlinks=False)
        return self.done

    def _apply(self, entry: Entry) -> None:
        path = clean(entry.path)
        parent, _, name = path.rpartition(b"/")
        if path.startswith(_AUFS) and path != _OPAQUE:
            return
        if name.startswith(_WHITEOUT):
            self._whiteout(parent, name)
            return
        if not path:
            if entry.kind != tar.DIRECTORY:
                raise TarError("an entry for the root itself that is no directory")
            self.done.implicit.pop(path, None)
            self._metadata(path, entry)
            return
        self._parents(parent)
        there = self._kind(path)
        if there is not None and not (stat.S_ISDIR(there) and entry.kind == tar.DIRECTORY):
            whiteout = stat.S_ISCHR(there)
            self._remove(path)
            if whiteout and entry.kind == tar.DIRECTORY:  # removed and made anew in one layer
                self.done.opaque.add(path)
            there = None
        self._make(path, entry, there is not None)

    def _make(self, path: bytes, entry: Entry, exists: bool) -> None:
        full = self._root + path
        if entry.kind == tar.FILE:
            self._file(full, entry)
            return
        if entry.kind == tar.LINK:
            self._link(path, clean(entry.link))
            return
        if entry.kind == tar.DIRECTORY:
            if not exists:
                os.mkdir(full, 0o700)
            self.done.implicit.pop(path, None)
            self._known.add(path)
        elif entry.kind == tar.SYMLINK:
            if not entry.link:
                raise TarError(f"a symbolic link to nothing: {_shown(path)}")
            os.symlink(entry.link, full)
        elif entry.kind == tar.FIFO:
            os.mkfifo(full, 0o600)
        else:
            self._device(full, path, entry)
        self._metadata(path, entry)

    def _file(self, full: bytes, entry: Entry) -> None:
        fd = os.open(full, _NEW, 0o600)
        try:
            if entry.sparse is not None:
                os.ftruncate(fd, entry.size)

            def write(offset: int, piece: bytes) -> None:
                self.done.size += len(piece)
                while piece:
                    n = os.pwrite(fd, piece, offset)
                    piece, offset = piece[n:], offset + n

            if entry.size:
                self._reader.copy(entry, write)
            if entry.uid or entry.gid:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            for key, value in _xattrs(entry):  # after chown, which clears capabilities
                _set_xattr(fd, key, value)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _link(self, path: bytes, target: bytes) -> None:
        there = self._kind(target)
        if there is None and target != path:
            if len(self.done.links) >= MAX_PENDING:
                raise TarError(f"more than {MAX_PENDING} hard links to files of other layers")
            self.done.links.append((path, target))
            return
        if there is None or not (stat.S_ISREG(there) or stat.S_ISLNK(there)):
            raise TarError(f"a hard link to what is no file: {_shown(path)}")
        os.link(self._root + target, self._root + path, follow_symlinks=False)

    def _device(self, full: bytes, path: bytes, entry: Entry) -> None:
        if entry.kind == tar.CHAR and (entry.major, entry.minor) == (0, 0):
            raise TarError(f"a device that is overlayfs's mark of a removed file: {_shown(path)}")
        if not self._devices:
            raise TarError(f"a device node, which --allow-devices would take: {_shown(path)}")
        kind = stat.S_IFCHR if entry.kind == tar.CHAR else stat.S_IFBLK
        os.mknod(full, kind | 0o600, os.makedev(entry.major, entry.minor))

    def _metadata(self, path: bytes, entry: Entry) -> None:
        """Of everything but regular files: owner, then mode, then xattrs, then times."""
        full = self._root + path
        os.chown(full, entry.uid, entry.gid, follow_symlinks=False)
        if entry.kind != tar.SYMLINK:
            os.chmod(full, entry.mode)
        for key, value in _xattrs(entry):
            _set_xattr(full, key, value)
        if entry.kind == tar.DIRECTORY:
            self._times[path] = entry.mtime  # what comes into it later would change it
        else:
            os.utime(full, ns=(entry.mtime, entry.mtime), follow_symlinks=False)

    def _whiteout(self, parent: bytes, name: bytes) -> None:
        """By name, whatever the type of its entry is."""
        if name == _OPAQUE:
            self._parents(parent)
            self.done.opaque.add(parent)
            return
        if name.startswith(_AUFS):
            return
        gone = name[len(_WHITEOUT) :]
        if gone in (b"", b".", b".."):
            raise TarError(f"a whiteout of nothing: {_shown(parent + b'/' + name)}")
        self._parents(parent)
        path = parent + b"/" + gone if parent else gone
        there = self._kind(path)
        if there is None:
            os.mknod(self._root + path, stat.S_IFCHR | 0o000, os.makedev(0, 0))
        elif stat.S_ISDIR(there):  # of this layer: hides what is below, and stays
            self.done.opaque.add(path)

    def _parents(self, path: bytes) -> None:
        """The directory and those above it, made as a layer means it that does not name them."""
        if path in self._known:
            return
        if path.count(b"/") > MAX_DEPTH:
            raise TarError(f"a path of more than {MAX_DEPTH} directories")
        parts = path.split(b"/")
        for n in range(1, len(parts) + 1):
            here = b"/".join(parts[:n])
            if here in self._known:
                continue
            there = self._kind(here)
            if there is not None and stat.S_ISCHR(there):  # a whiteout of this layer
                os.unlink(self._root + here)
                self.done.opaque.add(here)
                there = None
            if there is None:
                os.mkdir(self._root + here, 0o755)
                self.done.implicit[here] = None
            elif not stat.S_ISDIR(there) and not os.path.isdir(self._root + here):  # a link is followed in this root
                raise TarError(f"an entry below what is no directory: {_shown(here)}")
            self._known.add(here)

    def _kind(self, path: bytes) -> int | None:
        try:
            return os.lstat(self._root + path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _remove(self, path: bytes) -> None:
        """What an entry of this layer replaces, with all below it."""
        stack = [path]
        while stack:
            here = stack[-1]
            full = self._root + here
            if not stat.S_ISDIR(os.lstat(full).st_mode):
                os.unlink(full)
                stack.pop()
                continue
            with os.scandir(full) as found:
                below = [here + b"/" + item.name for item in found]
            if below:
                stack += below
            else:
                os.rmdir(full)
                stack.pop()
        if path not in self._known:  # no directory: nothing is known of it but a link
            self.done.links = [(p, t) for p, t in self.done.links if p != path] if self.done.links else []
            return
        below_it = path + b"/"
        self._known = {p for p in self._known if p != path and not p.startswith(below_it)}
        self._times = {p: t for p, t in self._times.items() if p != path and not p.startswith(below_it)}
        self.done.opaque = {p for p in self.done.opaque if p != path and not p.startswith(below_it)}
        self.done.implicit = {p: None for p in self.done.implicit if p != path and not p.startswith(below_it)}
        self.done.links = [(p, t) for p, t in self.done.links if p != path and not p.startswith(below_it)]


def clean(path: bytes) -> bytes:
    """`path` from the root, without a slash at its ends, `.` and `..`. Raises TarError when it leads out."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if not parts:
                raise TarError(f"a path that leads out of the root: {_shown(path)}")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _xattrs(entry: Entry) -> list[tuple[bytes, bytes]]:
    """Those that an image may have. A label of SELinux, or a signature of IMA, is of the host that made it."""
    for key in entry.xattrs:
        if key.startswith((b"trusted.overlay.", b"user.overlay.")):  # it would forge what lower layers show
            raise TarError(f"the attribute {_shown(key)}, which is overlayfs's own")
    return [(k, v) for k, v in entry.xattrs.items() if k.startswith(_KEPT_XATTRS)]


def _set_xattr(where: int | bytes, key: bytes, value: bytes) -> None:
    try:
        os.setxattr(where, key, value, follow_symlinks=isinstance(where, int))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise TarError(f"the attribute {_shown(key)}, which the file system of the store cannot hold") from None


def _shown(path: bytes) -> str:
    return repr(path[:200])[1:]
