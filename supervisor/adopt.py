"""At start: find what runs. Every run directory becomes one answer, also when its records are damaged.

A run is proven ours by its shim's answer on the socket in our directory, or by its cgroup in our subtree;
a number from disk is never signalled.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from config.errors import WharfError
from config.model import Container
from runtime import orphan
from runtime import shim as shims
from runtime.exitrecord import ExitRecord
from supervisor import ends, tend
from supervisor.launch import Launcher
from supervisor.lifecycle.facts import End, Source

log = logging.getLogger("wharfinger.adopt")

CONNECT_LIMIT = 2.0
GONE = "daemon and shim were both gone"
NO_CODE = "it ended meanwhile, with a code that nobody saw"
NO_PROOF = "nothing proves which process is its init, so it was ended"
META_LIMIT = 1 << 20


Untold = Callable[[Path, int, float], ExitRecord | None]


@dataclass(slots=True)
class Found:
    """What is there of one container. At most one of `shim` (it runs) and `end` (it ended meanwhile)."""

    name: str
    shim: shims.Shim | None = None
    end: End | None = None
    definition: Container | None = None  # as it was when the run began, from meta.json
    file: str = ""
    taken: str | None = None  # its shim was lost, and another took over: what cannot be had back, in words
    silent: bool = False  # a shim is there and does not answer: ask again, decide nothing
    stale: list[int] = field(default_factory=list)  # generations whose leftovers are to be removed
    trouble: list[str] = field(default_factory=list)


def generations(run_dir: Path, leaves: Iterable[int] = ()) -> list[int]:
    """Generations with a run directory or a leaf cgroup, newest first."""
    found = set(leaves)
    try:
        for entry in run_dir.iterdir():
            if entry.name[:1] == "g" and entry.name[1:].isdigit() and len(entry.name) < 20:
                found.add(int(entry.name[1:]))
    except OSError:
        pass
    return sorted(found, reverse=True)


async def find(
    launcher: Launcher, name: str, leaves: Iterable[int], boot_id: str, now: float, declared: Container | None = None
) -> Found:
    """Look at one container's runs. Bounded; never raises: what cannot be read is in `trouble`."""
    found = Found(name)
    place = launcher.place(name)
    for generation in generations(place.run_dir, leaves):
        run = place.run(generation)
        meta = _meta(run, found)
        if found.shim is not None or found.end is not None:
            await _end_leftover(launcher, name, generation)
            found.stale.append(generation)
            continue
        if meta:
            found.file = str(meta.get("file", ""))
            found.definition = _definition(meta, name, found)
        if meta and meta.get("boot_id") not in (None, boot_id):
            # The run directory is not on a tmpfs here: this run ended with its boot.
            found.end = _record_end(run, generation, found, now, "the host was restarted")
        else:
            shim = await _connect(run, generation, found)
            if shim is None and not found.silent and not (run / "exit").exists():
                shim = await _take_over(launcher, found, generation, boot_id, declared)
            if shim is not None:
                found.shim = shim
                continue
            if found.silent:
                return found
            begun = (run / "exit").exists() or (run / "sock").exists()
            held = launcher.tree.populated(name, generation)
            if not (run / "exit").exists() and not await _remove_leftover(launcher, found, generation):
                return found
            if begun:
                words = f"{GONE}: {NO_PROOF if held else NO_CODE}"
                found.end = _record_end(run, generation, found, now, words, _untold(launcher, found, boot_id, declared))
            # else its shim never got to launch: the core knows that a generation was given and nothing came of it
        found.stale.append(generation)
    return found


async def _connect(run: Path, generation: int, found: Found) -> shims.Shim | None:
    try:
        with anyio.fail_after(CONNECT_LIMIT):
            shim = await shims.connect(run)
    except TimeoutError:
        found.silent = True  # slow is not dead
        found.trouble.append(f"shim of run {generation} does not answer")
        return None
    except WharfError as error:
        log.debug("container=%s generation=%d %s", found.name, generation, error)
        return None
    if shim.generation == generation and not shim.ended:
        return shim
    shim.close()
    return None


async def _take_over(
    launcher: Launcher, found: Found, generation: int, boot_id: str, declared: Container | None
) -> shims.Shim | None:
    """Daemon and shim are both gone, and the container need not be: another shim, if its init is there and ours."""
    container = found.definition or declared
    if container is None or not launcher.tree.populated(found.name, generation):
        return None
    try:
        taken = await tend.take_over_orphan(launcher, container, generation, boot_id)
    except (WharfError, TimeoutError, OSError) as error:
        found.silent = True  # it runs on, and is tried again
        found.trouble.append(f"run {generation} has no shim, and no other yet: {error}")
        return None
    if taken is None:
        return None
    shim, found.taken = taken
    return shim


def _untold(launcher: Launcher, found: Found, boot_id: str, declared: Container | None) -> Untold:
    """What the run's own notes and the kernel's counters say of an end that nobody saw."""
    container, tree = found.definition or declared, launcher.tree
    group = container is not None and container.oom.group
    parent, top = tree.path(found.name), tree.top()
    return lambda run, generation, now: orphan.untold(run, generation, boot_id, now, group, parent, top)


def _record_end(
    run: Path, generation: int, found: Found, now: float, otherwise: str, untold: Untold | None = None
) -> End:
    """The real end from the exit record, or `lost` with what is known."""
    try:
        record = shims.read_exit(run)
    except WharfError as error:
        found.trouble.append(str(error))
        record = None
    if record is None or record.generation != generation:
        known = untold(run, generation, now) if untold else None
        if known is not None:
            return replace(ends.end_of(known, Source.LOST, we_killed=False), detail=otherwise)
        return End(generation, None, now, source=Source.LOST, detail=otherwise)
    return ends.end_of(record, Source.ADOPTED, we_killed=False)


async def _end_leftover(launcher: Launcher, name: str, generation: int) -> None:
    """Kill what is left of an ended or unreachable run: by its cgroup, which is ours."""
    try:
        await to_thread.run_sync(launcher.tree.kill, name, generation)
    except (WharfError, OSError) as error:
        log.debug("container=%s generation=%d kill: %s", name, generation, error)


async def _remove_leftover(launcher: Launcher, found: Found, generation: int) -> bool:
    """Nothing can begin in a cgroup that is not there: a shim may still read a start message that a daemon sent before
    it died. False while a process of it does not die: what comes next would be a second run."""
    try:
        if await to_thread.run_sync(launcher.tree.remove_leaf, found.name, generation):
            return True
    except (WharfError, OSError) as error:
        log.debug("container=%s generation=%d remove: %s", found.name, generation, error)
    if not launcher.tree.populated(found.name, generation):
        return True
    found.silent = True
    found.trouble.append(f"a process of run {generation} does not die (D state?)")
    return False


def _meta(run: Path, found: Found) -> dict[str, Any]:
    path = run / "meta.json"
    try:
        with path.open("rb") as file:
            meta = json.loads(file.read(META_LIMIT))
        if isinstance(meta, dict):
            return meta
        raise ValueError("not an object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        found.trouble.append(f"{path}: unreadable record set aside: {error}")
        return {}


def _definition(meta: dict[str, Any], name: str, found: Found) -> Container | None:
    try:
        return Container.model_validate(meta["definition"] | {"name": name})
    except (KeyError, TypeError, ValueError) as error:
        found.trouble.append(f"definition of the running {name} is not readable: {type(error).__name__}")
        return None
