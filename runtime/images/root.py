"""From an image to a container's root: its layers below, one writable layer of the container's own on top.

    containers/NAME/image      digest of the image that the writable layer belongs to
    containers/NAME/{u,w}      overlayfs's upper and work directories
    stacks/DIGEST/0,1,...      links to the layers of an image, the highest first: short names for the mount's options

A writable layer lives on over restarts, and is made anew for another image: overlayfs does not define what an upper
directory means on other layers. Source: kernel overlayfs.rst, "Changes to underlying filesystems".
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import DefinitionError, HostError
from config.model import Container
from config.words import signal_of
from runtime.images import merged
from runtime.images.merged import Stack
from runtime.images.reference import parse_reference
from runtime.images.snapshots import Snapshots
from runtime.images.store import BrokenError, Store, remove_tree, sync_dir

_NAMES = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SHORT = 20


@dataclass(frozen=True, slots=True)
class Rooted:
    """A definition with what its image says filled in, and its root."""

    container: Container
    digest: str
    stack: Stack


class Roots:
    """Roots of containers that are declared with `image`."""

    def __init__(self, store: Store, snapshots: Snapshots) -> None:
        self._store = store
        self._snapshots = snapshots
        self._containers = store.containers
        self._stacks = store.root / "stacks"
        self._making = store.root / "making"  # a daemon's own: who sweeps tmp/ is another

    def sweep(self) -> None:
        """At the daemon's start: what the one before had under way, or did not get to remove. Raises HostError."""
        try:
            if self._making.is_dir():
                remove_tree(self._making)
        except OSError as error:
            raise HostError(f"cannot be swept: {error.strerror}", where=str(error.filename)) from error

    def find(self, container: Container) -> Rooted:
        """Nothing is changed. Raises RefusedError when the image is not here, BrokenError, DefinitionError."""
        image = self._store.image(parse_reference(container.image or ""))
        layers = tuple(reversed(self._snapshots.layers(image)))
        own = self._containers / container.name
        names = tuple(_short_names(len(layers)))
        directory = self._stacks / image.record.digest.removeprefix("sha256:")[:_SHORT]
        stack = Stack(directory, names, layers, own / "u", own / "w")
        return Rooted(with_defaults(container, image.config.run), image.record.digest, stack)

    def make(self, name: str, rooted: Rooted) -> None:
        """What the mount needs, before a start: no process of the container lives.

        Raises HostError, BrokenError, RefusedError (the store is locked).
        """
        own = self._containers / name
        try:
            with self._store.lock(exclusive=False):
                self._own(own, name, rooted)
        except OSError as error:
            raise HostError(f"no writable layer: {error.strerror}", where=str(error.filename or own)) from error

    def _own(self, own: Path, name: str, rooted: Rooted) -> None:
        if not all(layer.is_dir() for layer in rooted.stack.layers):  # pruned since it was looked up
            raise BrokenError(f"the image of {name} is not unpacked", hint="import it again")
        self._link(rooted.stack)
        if _text(own / "image") != rooted.digest:
            self.drop(name)
        if not own.is_dir():
            self._new_upper(own, rooted)
        remove_tree(own / "w")  # of a run before a power cut; the kernel wants it empty
        os.mkdir(own / "w", 0o700)

    def drop(self, name: str) -> None:
        """The writable layer of a container, with what is in it. Raises OSError."""
        own = self._containers / name
        if not own.is_dir():
            return
        gone = self._fresh()
        os.rename(own, gone)
        remove_tree(gone)

    def _fresh(self) -> Path:
        """A name for what is to be renamed into its place, or away from it."""
        self._making.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._making / secrets.token_hex(8)

    def _link(self, stack: Stack) -> None:
        if all(_points(stack.directory / n, layer) for n, layer in zip(stack.names, stack.layers, strict=True)):
            return
        fresh = self._fresh()
        fresh.mkdir(mode=0o700)
        for name, layer in zip(stack.names, stack.layers, strict=True):
            os.symlink(os.path.relpath(layer, stack.directory), fresh / name)
        self._stacks.mkdir(mode=0o700, exist_ok=True)
        if stack.directory.exists():
            remove_tree(stack.directory)
        os.rename(fresh, stack.directory)

    def _new_upper(self, own: Path, rooted: Rooted) -> None:
        """Its root is what `/` is in the container: as the image has it."""
        fresh = self._fresh()
        (fresh / "u").mkdir(parents=True, mode=0o755)
        os.chmod(fresh, 0o700)
        source = os.open(rooted.stack.layers[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        target = os.open(fresh / "u", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            merged.copy_attributes(source, target)
        finally:
            os.close(source)
            os.close(target)
        (fresh / "image").write_text(rooted.digest)
        self._containers.mkdir(mode=0o700, exist_ok=True)
        os.rename(fresh, own)
        sync_dir(self._containers)


def with_defaults(container: Container, run: Mapping[str, Any]) -> Container:
    """The definition with what it leaves out taken from the image (image-spec config.md, "config"), as Compose does:
    an entrypoint of the definition's own takes the image's command away, too. Raises DefinitionError.
    """
    update: dict[str, Any] = {}
    if container.entrypoint is None:
        update["entrypoint"] = _words(run, "Entrypoint")
        if container.command is None:
            update["command"] = _words(run, "Cmd")
    both = (update.get("entrypoint") or container.entrypoint, update.get("command") or container.command)
    if not any(both):
        raise DefinitionError("the image says no command; give one", f"{container.name}.command")
    variables = dict(pair.partition("=")[::2] for pair in _words(run, "Env") or () if pair.partition("=")[0])
    update["environment"] = {**variables, **container.environment}
    if container.working_dir is None and (place := _word(run, "WorkingDir")):
        update["working_dir"] = os.path.normpath(f"/{place}")
    if container.user is None and (user := _word(run, "User")):
        update["user"] = user
    if container.stop_signal is None and (signal := _word(run, "StopSignal")):
        try:
            update["stop_signal"] = signal_of(signal)
        except ValueError as error:
            raise DefinitionError(f"StopSignal of the image's config: {error}") from None
    return container.model_copy(update=update)


def _words(run: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    value = run.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(word, str) and "\0" not in word for word in value):
        raise DefinitionError(f"{key} of the image's config is not a list of texts")
    return tuple(value)


def _word(run: Mapping[str, Any], key: str) -> str:
    value = run.get(key) or ""
    if not isinstance(value, str) or "\0" in value:
        raise DefinitionError(f"{key} of the image's config is not a text")
    return value


def _short_names(count: int) -> list[str]:
    """One character each as long as there are: before Linux 6.5, all of them have to fit in 255 bytes."""
    many = len(_NAMES)
    return [_NAMES[n] if n < many else _NAMES[n // many] + _NAMES[n % many] for n in range(count)]


def _points(link: Path, target: Path) -> bool:
    try:
        return os.path.samefile(link, target)
    except OSError:
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
