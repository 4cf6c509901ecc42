"""One run from its first shim to its end: what is heard of it, and another shim when one was lost.

Losing a shim costs no container. A run is over when its exit record says so, or when its pidfd does and no shim can be
had that would write one. A shim that is only silent is waited for: slow is not dead, and a run never has two (the shim
itself holds a lock on the run directory).
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from anyio import fail_after, sleep

from config.errors import GoneError, LaunchError, WharfError
from config.model import Container
from runtime import orphan
from runtime import shim as shims
from supervisor import ends
from supervisor.launch import Launcher
from supervisor.lifecycle.facts import End, Event, ShimLost, Source, TakenOver

if TYPE_CHECKING:
    from supervisor.engine import Hands

log = logging.getLogger("wharfinger.tend")

TAKEOVER_LIMIT = 10.0
PAUSE, PAUSE_MAX = 0.02, 10.0  # between two attempts
HELPLESS = 6  # attempts without any shim after which an ended run is judged by what the pidfd tells


class Care:
    """How well a container is tended: its shims that were lost, and those that took over."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self.losses = 0
        self.takeovers = 0
        self.untended = False
        self.again = anyio.Event()  # set when another shim takes over; made anew then

    def lost(self, generation: int, why: str) -> None:
        """Told again with each attempt that fails; counted once."""
        self.losses += not self.untended
        self.untended = True
        self._tell(ShimLost(generation, why))

    def taken(self, generation: int, detail: str = "") -> None:
        self.untended = False
        self.takeovers += 1
        again, self.again = self.again, anyio.Event()
        again.set()
        self._tell(TakenOver(generation, detail))


async def until_end(hands: Hands, shim: shims.Shim) -> End | None:
    """The end of the run, once. None when somebody let go of it. Unbounded."""
    while True:
        detail = ""
        try:
            record = await shim.wait_exit()
            return ends.end_of(record, Source.SHIM, shim.generation in hands.killed)
        except WharfError as error:
            detail = str(error)
        if hands.shim is not shim:
            return None
        if (end := recorded(hands, shim.generation)) is not None:
            return end
        log.warning("container=%s generation=%d shim lost: %s", hands.name, shim.generation, detail)
        hands.care.lost(shim.generation, detail)
        found = await _replace(hands, shim)
        if not isinstance(found, shims.Shim):
            return found
        hands.swap(found)
        hands.care.taken(found.generation)
        shim = found


def recorded(hands: Hands, generation: int) -> End | None:
    try:
        record = shims.read_exit(hands.shared.launcher.place(hands.name).run(generation))
    except WharfError as error:
        log.error("container=%s generation=%d exit record: %s", hands.name, generation, error)
        return None
    return None if record is None else ends.end_of(record, Source.SHIM, generation in hands.killed)


async def _replace(hands: Hands, shim: shims.Shim) -> shims.Shim | End | None:
    """Another shim for the run, or its end. Tries on, with growing pauses: the container runs meanwhile."""
    pause, helpless = PAUSE, 0
    while hands.shim is shim:
        try:
            assert hands.definition is not None
            return await take_over(hands.shared.launcher, hands.definition, shim.generation, shim.pidfd, shim.output)
        except LaunchError as error:
            why = str(error)
            helpless += error.errno != errno.EAGAIN
        except (WharfError, TimeoutError, OSError) as error:
            why = str(error) or "no answer"
            helpless += not isinstance(error, TimeoutError)
        if (end := recorded(hands, shim.generation)) is not None:
            return end
        log.warning("container=%s generation=%d no other shim yet: %s", hands.name, shim.generation, why)
        hands.care.lost(shim.generation, why)
        if helpless >= HELPLESS and orphan.has_ended(shim.pidfd):
            return _told_by_kernel(hands, shim, why)
        await sleep(pause)
        pause = min(2 * pause, PAUSE_MAX)
    return None


async def take_over(
    launcher: Launcher, container: Container, generation: int, pidfd: int, output: Sequence[int]
) -> shims.Shim:
    """The shim that tends this run now: the old one if it lives, else another. `pidfd` and `output` are borrowed.

    Raises LaunchError, HostError, TimeoutError, OSError; the container runs on.
    """
    with suppress(GoneError):
        return await shims.connect(launcher.place(container.name).run(generation))
    with fail_after(TAKEOVER_LIMIT):
        return await launcher.take_over(container, generation, pidfd, output)


async def take_over_orphan(
    launcher: Launcher, container: Container, generation: int, boot_id: str
) -> tuple[shims.Shim, str] | None:
    """For a later daemon, which holds nothing of the run: found by what its first shim wrote down, and proven.

    With the new shim comes what cannot be had back, in words. None: its init is not there any more. Raises as
    `take_over`.
    """
    leaf = launcher.tree.path(container.name, generation)
    init = orphan.read_init(launcher.place(container.name).run(generation))
    pidfd = None if init is None or init.generation != generation else orphan.find_init(init, leaf, boot_id)
    if init is None or pidfd is None:
        return None
    output: Sequence[int] = ()
    try:
        output, missing = orphan.open_output(init, leaf)
        shim = await take_over(launcher, container, generation, pidfd, output)
    finally:
        for fd in (pidfd, *output):
            os.close(fd)
    return shim, f"its {' and '.join(missing)} cannot be read any more" if missing else ""


def _told_by_kernel(hands: Hands, shim: shims.Shim, why: str) -> End:
    """No shim is to be had at all, and init has ended: there will be no record."""
    status = orphan.wait_status(shim.pidfd)
    now = hands.shared.clock.boot()
    if status is None:
        return End(shim.generation, shim.started, now, source=Source.LOST, detail=f"{ends.UNTOLD}; no other: {why}")
    signal = status & 0x7F
    code = None if signal else status >> 8 & 0xFF
    return End(shim.generation, shim.started, now, code, signal or None, source=Source.KERNEL)
