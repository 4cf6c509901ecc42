"""How much disk each container takes: its root and its logs, looked at once in a while, off every hot path."""

from __future__ import annotations

import os

import anyio
from anyio import CapacityLimiter, to_thread

from monitor.devices import DeviceNames
from monitor.space import measure
from monitor.view import SpaceView
from supervisor.fleet import Fleet, Member

EVERY = 60.0  # seconds between two looks at one container
REST = 200  # a look that took a second of waiting and counting is not repeated for so many
TURN = 2.0


class Survey:
    """Fills `Hands.space`. One walk at a time, in a thread that rests nine tenths of it (monitor/space.py)."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._thread = CapacityLimiter(1)
        self._due: dict[str, tuple[object, float]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await anyio.sleep(TURN)
            members = dict(self._fleet.members)
            self._due = {name: due for name, due in self._due.items() if name in members}
            for name, member in members.items():
                state = member.state
                key = (state.definition.digest, state.generation, state.phase)
                known, due = self._due.get(name, (None, 0.0))
                # What does not run does not grow.
                if anyio.current_time() < due or (known == key and member.hands.shim is None):
                    continue
                began = anyio.current_time()
                member.hands.space = await to_thread.run_sync(
                    look, *places(member), limiter=self._thread, abandon_on_cancel=True
                )
                took = anyio.current_time() - began
                self._due[name] = (key, anyio.current_time() + max(EVERY, REST * took))


def places(member: Member) -> tuple[str, str]:
    """Directories of the root, or of the writable layer of one on an image, and of the logs."""
    launcher, name = member.hands.shared.launcher, member.state.name
    compiled = launcher.compiled(name)
    root: object = member.state.definition.rootfs
    if compiled is not None:
        root = compiled.rooted.stack.upper if compiled.rooted is not None else compiled.rootfs
    return str(root or ""), str(launcher.place(name).log_dir)


def look(root: str, logs: str) -> SpaceView:
    """Blocks, for minutes where there is much to count."""
    used = measure(root) if root else None
    device, limit = "", None
    if used is not None:
        state, number = os.statvfs(root), os.stat(root).st_dev
        device = DeviceNames().name(f"{os.major(number)}:{os.minor(number)}".encode())
        limit = state.f_frsize * state.f_blocks
    return SpaceView(used, device, limit, measure(logs))
