"""From a definition to what `runtime` compiles: its spec, its root, and what must be there before a start."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

from config.errors import LaunchError, RefusedError
from config.model import Container
from runtime.bundle import load_bundle
from runtime.images.merged import Stack
from runtime.images.root import Rooted, Roots
from runtime.plan import Plan, compile_plan
from runtime.planhooks import Owner
from runtime.probe import HostFacts
from runtime.spec import build_spec

log = logging.getLogger("wharfinger.launch")


def make_dir(path: Path) -> None:
    """The directory and those above it; usually only the last is missing."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)


def make_log_dir(path: Path, name: str) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        log.warning("container=%s no log directory: %s", name, error)
        return False
    return True


def spec_of(container: Container, facts: HostFacts, rooted: Rooted | None = None) -> tuple[dict[str, Any], Path]:
    """The OCI spec and the root of a definition: its bundle's own, or built from its fields; `rooted`: on an image."""
    if rooted is not None:
        return build_spec(rooted.container, facts, rooted.stack), rooted.stack.directory
    if container.bundle is not None:
        return load_bundle(Path(container.bundle))
    if container.rootfs is None:
        raise RefusedError("neither rootfs nor bundle", where=container.name)
    rootfs = Path(container.rootfs)
    if not rootfs.is_dir():
        raise LaunchError("rootfs", str(rootfs), errno.ENOENT)
    return build_spec(container, facts), rootfs


def rooted_of(container: Container, roots: Roots | None) -> Rooted | None:
    """What a definition with an image means now; its image may be another one than at the last start."""
    if container.image is None:
        return None
    if roots is None:
        raise RefusedError("there is no store of images here", where=container.name)
    return roots.find(container)


def plan_of(
    container: Container, spec: dict[str, Any], rootfs: Path, facts: HostFacts, stack: Stack | None = None
) -> Plan:
    map_root = container.user_namespace is not None and container.user_namespace.idmap
    return compile_plan(spec, rootfs, facts, owner_of(container), map_root=map_root, stack=stack)


def owner_of(container: Container) -> Owner | None:
    """Only bundles have hooks."""
    return None if container.bundle is None else Owner(container.name, os.path.abspath(container.bundle))


def bind_sources_exist(container: Container) -> None:
    """A missing bind source is an error and never a directory made in its place (moby#17485)."""
    for mount in container.mounts:
        if mount.type == "bind" and not os.path.exists(mount.source or ""):
            raise LaunchError("bind", mount.source or "", errno.ENOENT, "the source of a mount is missing")
