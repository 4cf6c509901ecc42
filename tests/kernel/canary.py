"""A tree of the host that a hostile root tries to reach, and what must stay as it was."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

TOKEN = "canary-e8f1"  # in every file of it: what of it is seen in a container says so


class Canary:
    """A directory with files of several kinds; `changed()` says what is not as it was."""

    def __init__(self, path: Path, near: Path) -> None:
        self.path = path
        self._near = near  # mounts of the host below it are looked at too
        (path / "dir/sub").mkdir(parents=True)
        (path / "etc").mkdir()
        for name in ("file", "null", "console", "dir/file", "dir/sub/file", "etc/passwd"):
            (path / name).write_text(f"{TOKEN}:x:4711:4711:{TOKEN}:/{TOKEN}:/bin/sh\n")
        (path / "file").chmod(0o640)
        (path / "link").symlink_to("file")
        os.mkfifo(path / "fifo", 0o600)
        with suppress(OSError):  # not every file system has these
            os.setxattr(path / "file", "user.canary", TOKEN.encode())
        self._before = self.state()

    def state(self) -> dict[str, object]:
        found: dict[str, object] = {"mounts": self._mounts()}
        for entry in [self.path, *sorted(self.path.rglob("*"))]:
            at = entry.lstat()
            content = entry.read_bytes() if entry.is_file() and not entry.is_symlink() else b""
            found[str(entry)] = (
                (at.st_mode, at.st_uid, at.st_gid, at.st_ino, at.st_nlink, at.st_size, at.st_rdev),
                (at.st_mtime_ns, at.st_ctime_ns),  # ctime: also a change that was taken back
                hashlib.sha256(content).hexdigest(),
                os.readlink(entry) if entry.is_symlink() else "",
                tuple((x, os.getxattr(entry, x, follow_symlinks=False)) for x in _xattrs(entry)),
            )
        return found

    def _mounts(self) -> list[str]:
        """Those of the host that are near: others come and go with others' tests."""
        return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self._near) in line]

    def changed(self) -> list[str]:
        now = self.state()
        return sorted(key for key in now.keys() | self._before.keys() if now.get(key) != self._before.get(key))


def _xattrs(path: Path) -> list[str]:
    with suppress(OSError):
        return sorted(os.listxattr(path, follow_symlinks=False))
    return []
