"""Unpacked layers, by the name of the stack below them (chain id), and the overlay that stands on them.

A layer is unpacked by a worker in a jail (worker.py) into tmp/, completed here with what takes more rights, and is
renamed into layers/ after syncfs, its meta.json inside: a layer is whole or not there. Layers are completed the lowest
first, because directories that a layer does not describe take their attributes from the ones below.
Source: OCI image-spec config.md, "Layer ChainID"; kernel overlayfs.rst; syncfs(2).
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import DefinitionError, HostError
from runtime.images import media, merged
from runtime.images.apply import clean
from runtime.images.media import Descriptor
from runtime.images.store import BrokenError, Image, Store, remove_tree, sync_dir
from runtime.images.tar import TarError

_START = "import sys; sys.path[:] = sys.argv.pop().split(':'); from runtime.images.worker import main; main()"
MAX_ANSWER = 64 << 20
OPAQUE = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHORT = 20  # digits of a chain id in a path: a mount's options are one page long


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one layer: bytes unpacked, times its packed size, seconds, bytes of the worker's memory."""

    size: int = 64 << 30
    ratio: int = 200
    seconds: float = 3600
    memory: int = 1 << 30
    devices: bool = False
    workers: int = 2


@dataclass(slots=True)
class _Fresh:
    """A layer that is unpacked, and not complete."""

    place: Path
    made: dict[str, Any]


class Snapshots:
    """The unpacked layers of one store."""

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        self._store = store
        self._limits = limits or Limits()

    def layers(self, image: Image) -> list[Path]:
        """The directories of an image's layers, the lowest first. Raises BrokenError when one lacks."""
        chain = media.chain_ids(image.config.diff_ids)
        for chain_id in chain:
            if not self.has(chain_id):
                raise BrokenError(f"{image.record.ref} is not unpacked", hint="import it again")
        return [self.place(chain_id) / "f" for chain_id in chain]

    def ready(self, image: Image) -> bool:
        return all(self.has(chain_id) for chain_id in media.chain_ids(image.config.diff_ids))

    def place(self, chain_id: str) -> Path:
        return self._store.layers / chain_id.removeprefix("sha256:")[:_SHORT]

    def has(self, chain_id: str) -> bool:
        """Whether the layer is whole. Two chain ids that begin alike are told apart here."""
        found = self.meta(chain_id)
        if found is not None and found.get("chain_id") != chain_id:
            raise HostError(f"{self.place(chain_id)} is of another layer than {chain_id}")
        return found is not None

    def meta(self, chain_id: str) -> dict[str, Any] | None:
        try:
            body = json.loads((self.place(chain_id) / "meta.json").read_bytes())
        except (OSError, ValueError):
            return None
        return body if isinstance(body, dict) else None

    def unpack(self, image: Image) -> None:
        """All layers of an image that are not here yet, two at a time.

        Raises DefinitionError for a layer that is not taken, BrokenError for a blob that is not what it should be,
        HostError. What was not completed is removed.
        """
        chain = media.chain_ids(image.config.diff_ids)
        todo = [n for n, chain_id in enumerate(chain) if not self.has(chain_id)]
        if not todo:
            return
        fresh: dict[int, _Fresh] = {}
        pool = ThreadPoolExecutor(self._limits.workers)
        try:
            running = {n: pool.submit(self._worker, image.manifest.layers[n], image.config.diff_ids[n]) for n in todo}
            for n in todo:
                fresh[n] = running[n].result()
                below = [(fresh[k].place if k in fresh else self.place(chain[k])) / "f" for k in range(n)]
                _complete(fresh[n], below)
            self._sync()
            for n in todo:
                parent = chain[n - 1] if n else ""
                self._commit(fresh[n], chain[n], parent, image.config.diff_ids[n])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for future in running.values():
                with suppress(Exception):
                    remove_tree(future.result(0).place)

    def _worker(self, layer: Descriptor, diff_id: str) -> _Fresh:
        place = self._store.tmp / secrets.token_hex(8)
        (place / "f").mkdir(parents=True)
        os.chmod(place, 0o700)
        os.chmod(place / "f", 0o755)
        try:
            return _Fresh(place, self._unpack(layer, diff_id, place / "f"))
        except BaseException:
            remove_tree(place)
            raise

    def _unpack(self, layer: Descriptor, diff_id: str, root: Path) -> dict[str, Any]:
        limits = self._limits
        order = {
            "root": str(root), "compression": layer.compression, "limit": limits.size, "ratio": limits.ratio,
            "memory": limits.memory, "cpu": int(limits.seconds), "devices": limits.devices,
        }  # fmt: skip
        where = f"layer {layer.digest[:19]}"
        try:
            blob = os.open(self._store.blob(layer.digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BrokenError(f"{where} is not in the store") from None
        try:
            made = _run(order, blob, limits.seconds)
        finally:
            os.close(blob)
        if "error" in made:
            text = str(made["error"])[:500]
            raise HostError(text, where) if made.get("errno") else DefinitionError(text, where)
        if made["digest"] != layer.digest:
            raise BrokenError(f"{where} is damaged in the store")
        if made["diff_id"] != diff_id:
            raise DefinitionError(f"it unpacks to {made['diff_id']}, and its image says {diff_id}", where)
        return made

    def _sync(self) -> None:
        fd = os.open(self._store.tmp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(fd) < 0:
                code = ctypes.get_errno()
                raise HostError(f"syncfs: {os.strerror(code)}", str(self._store.root))
        finally:
            os.close(fd)

    def _commit(self, fresh: _Fresh, chain_id: str, parent: str, diff_id: str) -> None:
        meta = {
            "chain_id": chain_id, "parent": parent, "diff_id": diff_id, "digest": fresh.made["digest"],
            "entries": fresh.made["entries"], "size": fresh.made["size"],
        }  # fmt: skip
        self._store.write(fresh.place / "meta.json", media.canonical(meta))
        with suppress(FileExistsError, OSError):  # another pull was faster: its layer is as good
            os.rename(fresh.place, self.place(chain_id))
        if not self.has(chain_id):
            raise HostError(f"layer {chain_id[:19]} could not be put in its place", str(self._store.layers))
        sync_dir(self._store.layers)


def _run(order: dict[str, Any], blob: int, seconds: float) -> dict[str, Any]:
    """The worker's answer. It is killed when its time is over; its memory and the disk are bounded by its limits."""
    command = [
        sys.executable,
        "-I",
        "-c",
        "import sys; sys.path[:] = sys.argv.pop().split(':')\nfrom runtime.images.worker import main\nmain()",
    ]
    command = [*command, json.dumps(order), ":".join(p for p in sys.path if p and ":" not in p)]
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, stdin=blob, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd="/", start_new_session=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stderr is not None
        until = time.monotonic() + seconds
        data = {worker.stdout: b"", worker.stderr: b""}
        poll = select.poll()
        by_fd = {pipe.fileno(): pipe for pipe in data}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        try:
            while by_fd:
                left = until - time.monotonic()
                if left <= 0:
                    raise HostError(f"unpacking took more than {seconds:.0f} s")
                for fd, _ in poll.poll(left * 1000):
                    piece = os.read(fd, 1 << 16)
                    pipe = by_fd[fd]
                    if not piece:
                        poll.unregister(fd)
                        del by_fd[fd]
                    elif len(data[pipe]) < (MAX_ANSWER if pipe is worker.stdout else 4096):
                        data[pipe] += piece
                    elif pipe is worker.stdout:
                        raise DefinitionError("a layer with too many parts that it does not describe")
        finally:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
        answer, said = data[worker.stdout], data[worker.stderr]
    try:
        made = json.loads(answer)
    except ValueError:
        why = said.decode(errors="replace").strip().rpartition("\n")[2] or f"status {worker.returncode}"
        raise HostError(f"the unpacking process ended early: {why[:300]}") from None
    return _checked(made)


def _checked(made: object) -> dict[str, Any]:
    """The worker has read a stranger's bytes: what it says is taken for what it is."""
    if isinstance(made, dict) and "error" in made:
        return made
    if not isinstance(made, dict) or not _is_answer(made):
        raise HostError("the unpacking process gave no answer that can be used")
    return made


def _is_answer(made: dict[str, Any]) -> bool:
    try:
        numbers = [made["entries"], made["size"]]
        names = [*made["implicit"], *made["opaque"], *(name for pair in made["links"] for name in pair)]
        pairs = all(len(pair) == 2 for pair in made["links"])
        whole = all(isinstance(n, int) and n >= 0 for n in numbers)
        return pairs and whole and all(os.fsdecode(clean(os.fsencode(name))) == name for name in names)
    except (KeyError, TypeError, TarError, UnicodeError):
        return False


def _complete(fresh: _Fresh, below: Sequence[Path]) -> None:
    """What the worker had no rights for. Raises HostError."""
    try:
        _add_marks(fresh, below)
    except OSError as error:
        what = error.filename if isinstance(error.filename, str) else ""
        where = f"layer {fresh.made['digest'][:19]}"
        raise HostError(f"could not be completed: {error.strerror} {what!r}", where) from None


def _add_marks(fresh: _Fresh, below: Sequence[Path]) -> None:
    """By directory fds that follow no link."""
    root, where = fresh.place / "f", f"layer {fresh.made['digest'][:19]}"
    with merged.Layers([*reversed(below)]) as lower:
        for path in fresh.made["implicit"]:
            _like_below(root, path, lower)
        for path, target in fresh.made["links"]:
            _copy_up(root, path, target, lower, where)
    for path in fresh.made["opaque"]:
        with merged.opened(root, path, _DIRECTORY) as fd:
            os.setxattr(fd, OPAQUE, b"y")


def _like_below(root: Path, path: str, lower: merged.Layers) -> None:
    """A directory that the layer does not describe is as it is below, else one of root's."""
    found = lower.find(path)
    if found is None or not stat.S_ISDIR(found.mode):
        return
    with (
        merged.opened(root, path, _DIRECTORY) as fd,
        found.open(_DIRECTORY) as source,
    ):
        merged.copy_attributes(source, fd)


def _copy_up(root: Path, path: str, target: str, lower: merged.Layers, where: str) -> None:
    """A hard link to a file of a lower layer is a copy of it, as overlayfs itself would make one."""
    found = lower.find(target)
    if found is None or not stat.S_ISREG(found.mode):
        raise DefinitionError(f"a hard link to {target[:200]!r}, which is no file of this image", where)
    directory, _, name = path.rpartition("/")
    with merged.opened(root, directory, _DIRECTORY) as parent, found.open(os.O_RDONLY) as source:
        try:
            fd = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent
            )
        except FileExistsError:  # a later entry of the layer has the name
            return
        try:
            while os.copy_file_range(source, fd, 1 << 30):
                pass
            merged.copy_attributes(source, fd)
        finally:
            os.close(fd)
