"""The exit record: what a shim writes down durably before it tells anyone how a run ended (docs/runtime.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from config.errors import HostError, WharfError

RECORD_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a run ended, as its shim wrote it down. Times: seconds of CLOCK_BOOTTIME in the boot `boot_id`.

    `status`: exit code or signal number, by `how`. `told`: `shim` (it reaped init), `kernel` (init was another, lost
    shim's child, and the kernel told). `numbers`: the kernel's counters, by key; absent is unknown.
    """

    generation: int
    pid: int
    started: float
    ended: float
    boot_id: str
    how: str  # exited signaled unknown
    status: int
    core: bool
    numbers: Mapping[str, int] = field(default_factory=dict)
    told: str = "shim"

    def get(self, key: str) -> int | None:
        return self.numbers.get(key)


def parse_exit(data: bytes) -> ExitRecord:
    """Read an exit record. Unknown keys are kept if they are numbers, else ignored. Raises WharfError."""
    texts: dict[str, str] = {}
    for line in data.decode("ascii", "replace").splitlines():
        key, equals, value = line.partition("=")
        if not equals:
            raise WharfError("exit record: a line without '='")
        texts[key] = value
    try:
        if texts["version"] != "1" or texts["how"] not in ("exited", "signaled", "unknown"):
            raise WharfError(f"exit record: unknown version {texts['version']!r} or end {texts['how']!r}")
        numbers = {key: int(value) for key, value in texts.items() if value.isascii() and value.isdigit()}
        return ExitRecord(
            generation=numbers["generation"],
            pid=numbers["pid"],
            started=numbers["started_ns"] / 1e9,
            ended=numbers["ended_ns"] / 1e9,
            boot_id=texts.get("boot_id", ""),
            how=texts["how"],
            status=0 if texts["how"] == "unknown" else numbers["status"],
            core=numbers.get("core") == 1,
            numbers=numbers,
            told=texts.get("told", "shim"),
        )
    except KeyError as error:
        raise WharfError(f"exit record: {error.args[0]} is missing") from None


def read_exit(run_dir: Path) -> ExitRecord | None:
    """The exit record of a run; None if there is none. Raises WharfError when it is corrupt or unreadable."""
    path = run_dir / "exit"
    try:
        with open(path, "rb") as file:
            data = file.read(RECORD_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HostError(error.strerror or str(error), where=str(path)) from error
    if len(data) > RECORD_MAX:
        raise WharfError("exit record: too long", where=str(path))
    try:
        return parse_exit(data)
    except WharfError as error:
        raise WharfError(error.what, where=str(path)) from None
