"""Names of block devices: `8:0` to `/dev/sda`, as cAdvisor's boards expect."""

from __future__ import annotations

import os


class DeviceNames:
    """Remembers names for `keep` collections without a look; a device that was not asked for since is forgotten."""

    def __init__(self, sys: str | os.PathLike[str] = "/sys", keep: int = 20) -> None:
        self._base = os.path.join(sys, "dev/block")
        self._keep = keep
        self._round = 0
        self._known: dict[bytes, tuple[str, int]] = {}
        self._asked: set[bytes] = set()

    def name(self, device: bytes) -> str:
        """`device` is MAJ:MIN of io.stat, checked by its parser; it is the answer, too, when it has no name."""
        self._asked.add(device)
        known = self._known.get(device)
        if known is None or self._round - known[1] >= self._keep:
            known = self._known[device] = (self._look(device.decode("ascii")), self._round)
        return known[0]

    def end_round(self) -> None:
        """After each collection."""
        for device in self._known.keys() - self._asked:
            del self._known[device]
        self._asked.clear()
        self._round += 1

    def _look(self, device: str) -> str:
        try:
            with open(os.path.join(self._base, device, "uevent"), encoding="utf-8", errors="replace") as file:
                lines = file.read(4096).splitlines()
        except OSError:
            return device
        for line in lines:
            if line.startswith("DEVNAME="):
                return "/dev/" + line.removeprefix("DEVNAME=")
        return device
