"""The state directory: `<root>/<id>/{state.json, config.json, start.sock, lock}`. Quick to import.

A container's directory appears whole (made aside, renamed) and its files are replaced whole, so that a crash at any
moment leaves something that `state` can tell and `delete` can remove. Who changes a container holds its lock; `state`
and `list` never wait for one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from config.errors import DefinitionError, GoneError, HostError, RefusedError
from runtime.ocicli.process import Process

DEFAULT_ROOT = "/run/wharf-oci"
_ID = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_+.-]{0,1023}", re.ASCII)
_NAME_MAX = 255
LOCK_WAIT = 60.0  # hooks of a start may take their time

CREATING, CREATED, STARTING, RUNNING, PAUSED, STOPPED = (
    "creating",
    "created",
    "starting",
    "running",
    "paused",
    "stopped",
)
PHASES = (CREATING, CREATED, STARTING, RUNNING)


class State:
    """What is known of a container. `phase`: how far it has come; the status is told by `Entry.status`."""

    __slots__ = (
        "annotations",
        "bundle",
        "cgroup",
        "cgroup_id",
        "created",
        "id",
        "made",
        "owner",
        "phase",
        "process",
        "rootfs",
        "version",
    )

    def __init__(
        self,
        id: str,  # noqa: A002
        *,
        version: str,
        bundle: str,
        rootfs: str,
        created: str,
        owner: str = "root",
        annotations: Mapping[str, str] | None = None,
        phase: str = CREATING,
        process: Process | None = None,
        cgroup: str = "",
        cgroup_id: int = 0,
        made: tuple[str, ...] = (),
    ) -> None:
        self.id = id
        self.version = version
        self.bundle = bundle
        self.rootfs = rootfs
        self.created = created
        self.owner = owner
        self.annotations = dict(annotations or {})
        self.phase = phase
        self.process = process
        self.cgroup = cgroup  # absolute path of its directory
        self.cgroup_id = cgroup_id  # its inode, which no later cgroup of this boot gets; 0: not made yet
        self.made = made  # cgroups that were made for it, topmost first

    def to_json(self) -> str:
        values = {name: getattr(self, name) for name in self.__slots__ if name != "process"}
        return json.dumps({**values, "process": self.process.to_json() if self.process else None})

    @staticmethod
    def from_json(text: str | bytes) -> State:
        """Raises ValueError."""
        try:
            values = json.loads(text)
            process = values.pop("process")
            made = tuple(values.pop("made"))
            state = State(
                values.pop("id"), **values, made=made, process=Process.from_json(process) if process else None
            )
            state.check()
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a state: {error}") from None
        return state

    def check(self) -> None:
        """Raises ValueError for what was not written by us: a delete kills and removes what stands here."""
        words = (self.id, self.version, self.bundle, self.rootfs, self.created, self.owner, self.cgroup, *self.made)
        if not all(type(word) is str and "\0" not in word for word in words) or type(self.cgroup_id) is not int:
            raise ValueError("not a state: a value of another type")
        if self.phase not in PHASES:
            raise ValueError(f"not a state: phase {self.phase!r}")
        if self.cgroup and os.path.normpath(self.cgroup) != self.cgroup:
            raise ValueError("not a state: cgroup is no plain path")
        if not all(f"{self.cgroup}/".startswith(f"{path}/") and len(path) > 1 for path in self.made):
            raise ValueError("not a state: made is not above cgroup")

    def own_cgroup(self) -> str:
        """The path of its cgroup. Raises GoneError when it is another's by now."""
        if not self.is_own_cgroup():
            raise GoneError(f"its cgroup is gone: {self.cgroup}", f"container {self.id!r}")
        return self.cgroup

    def is_own_cgroup(self) -> bool:
        """Whether the directory is still the cgroup that was made for it. Gone is no; not made yet is no."""
        try:
            return bool(self.cgroup_id) and os.stat(self.cgroup).st_ino == self.cgroup_id
        except OSError:
            return False

    def oci(self, status: str) -> dict[str, Any]:
        """The state as the runtime spec has it (runtime.md, "State"), and as hooks read it."""
        return {
            "ociVersion": self.version,
            "id": self.id,
            "status": status,
            "pid": self.process.pid if self.process and status != STOPPED else 0,
            "bundle": self.bundle,
            "annotations": self.annotations,
        }

    def shown(self, status: str) -> dict[str, Any]:
        """As `state` and `list` print it: with runc's own fields."""
        values = self.oci(status)
        annotations = values.pop("annotations")
        values.update(rootfs=self.rootfs, created=self.created, owner=self.owner)
        return {**values, "annotations": annotations} if annotations else values


def now() -> str:
    """Wall time, RFC 3339 with nanoseconds."""
    ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"


def check_id(name: str) -> str:
    """Raises DefinitionError for what is no container id."""
    if not _ID.fullmatch(name) or len(name) > _NAME_MAX:
        raise DefinitionError(f"{name!r} is not a container id", hint="letters, digits and _ + - . but no . first")
    return name


class Entry:
    """A container's directory."""

    __slots__ = ("id", "path", "root")

    def __init__(self, root: str, id: str) -> None:  # noqa: A002
        self.root = root
        self.id = check_id(id)
        self.path = f"{root}/{id}"

    def load(self) -> State:
        """Raises GoneError (there is none), HostError (it cannot be read)."""
        try:
            state = State.from_json(_read(f"{self.path}/state.json"))
            if state.id != self.id:
                raise ValueError(f"it is that of {state.id!r}")
            return state
        except FileNotFoundError:
            raise GoneError(f"container {self.id!r} does not exist") from None
        except (OSError, ValueError) as error:
            raise HostError(f"its state cannot be read: {error}", self.path, "delete --force removes it") from None

    def save(self, state: State) -> None:
        self.write("state.json", state.to_json().encode())

    def write(self, name: str, data: bytes) -> None:
        """Replace a file of the directory whole. Raises HostError."""
        write_whole(f"{self.path}/{name}", data)

    def config(self) -> dict[str, Any]:
        """The spec that the container was made of. Raises HostError."""
        try:
            spec: dict[str, Any] = json.loads(_read(f"{self.path}/config.json"))
        except (OSError, ValueError) as error:
            raise HostError(f"its config.json cannot be read: {error}", self.path) from None
        return spec

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    def status(self, state: State, *, held: bool = False) -> str:
        """One of the words of the runtime spec, or `paused`. `held`: the lock is the caller's."""
        if state.process is None:
            return CREATING if not held and self._locked() else STOPPED  # who makes it is at it, or died
        if not state.process.alive():
            return STOPPED
        if _frozen(state.cgroup):
            return PAUSED
        if state.phase == STARTING:  # `start` is at it, or died meanwhile
            return CREATED if state.process.at_gate() else RUNNING
        return state.phase

    def _locked(self) -> bool:
        try:
            fd = os.open(f"{self.path}/lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    @contextmanager
    def lock(self, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
        """Hold the container's lock. Raises GoneError (it went meanwhile), RefusedError (taken, and not `wait`)."""
        fd = self._take(fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
        try:
            yield
        finally:
            os.close(fd)

    def _take(self, kind: int, wait: bool) -> int:
        gone = GoneError(f"container {self.id!r} does not exist")
        while True:
            try:
                fd = os.open(f"{self.path}/lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise gone from None
            try:
                _flock(fd, kind, LOCK_WAIT if wait else 0.0)
                ours = os.fstat(fd)
                there = os.stat(f"{self.path}/lock")
                if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
                    return fd
            except BlockingIOError:
                os.close(fd)
                raise RefusedError("another command is at work on it", f"container {self.id!r}") from None
            except FileNotFoundError:
                os.close(fd)
                raise gone from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def remove(self) -> None:
        """Take the directory away: at once for everyone else, then what is in it. Gone is success."""
        grave = f"{self.root}/.old.{self.id[:100]}.{os.getpid()}"
        try:
            os.rename(self.path, grave)
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostError(f"cannot be removed: {error.strerror}", self.path) from None
        _clear(grave)


@contextmanager
def new_entry(root: str, state: State, config: bytes) -> Iterator[Entry]:
    """Make the container's directory; its lock is held inside. Raises RefusedError (the id is taken), HostError."""
    entry = Entry(root, state.id)
    aside = f"{root}/.new.{os.getpid()}"
    try:
        os.makedirs(root, 0o711, exist_ok=True)
        _sweep(root)
        _clear(aside)
        os.mkdir(aside, 0o711)
        fd = os.open(f"{aside}/lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"cannot make a state directory: {error.strerror}", root) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            write_whole(f"{aside}/state.json", state.to_json().encode())
            write_whole(f"{aside}/config.json", config)
            os.rename(aside, entry.path)
        except OSError as error:
            _clear(aside)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise RefusedError(f"container {state.id!r} already exists") from None
            raise HostError(f"cannot make a state directory: {error.strerror}", entry.path) from None
        yield entry
    finally:
        os.close(fd)


def _clear(path: str) -> None:
    import shutil  # slow, and not for `state`

    if os.path.lexists(path):
        shutil.rmtree(path, ignore_errors=True)


def _sweep(root: str) -> None:
    """Remove what a crash left half made or half removed: nobody holds its lock any more."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.name.startswith((".new.", ".old."))]
    for name in names:
        path = f"{root}/{name}"
        try:
            fd = os.open(f"{path}/lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            if name.startswith(".old."):
                _clear(path)
            continue  # a new one has no lock yet
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(path)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)


def _flock(fd: int, kind: int, wait: float) -> None:
    """Bounded, which flock itself is not. Raises BlockingIOError."""
    pause, end = 0.001, time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def entries(root: str) -> list[Entry]:
    """The containers that are there, by id."""
    try:
        with os.scandir(root) as found:
            names = sorted(e.name for e in found if _ID.fullmatch(e.name) and e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    return [Entry(root, name) for name in names]


def write_whole(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a file aside and rename it. Raises OSError."""
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}.{os.getpid()}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.rename(aside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)
        raise


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _frozen(cgroup: str) -> bool:
    try:
        return b"frozen 1" in _read(f"{cgroup}/cgroup.events").splitlines() if cgroup else False
    except OSError:
        return False
