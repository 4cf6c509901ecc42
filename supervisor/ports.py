"""What the shell around the pure core needs from outside, as Protocols, and what it shows to the API.

Nothing here does anything. `daemon.py` wires the real ones, tests wire fakes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from supervisor.lifecycle.facts import End, Saved, State


class Clock(Protocol):
    """Two clocks: `boot()` decides (CLOCK_BOOTTIME, seconds), `wall()` is shown (Unix time, seconds)."""

    def boot(self) -> float: ...

    def wall(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """One event with its cause, as it is stored, streamed, and, where it is a transition, shown by `why`."""

    seq: int
    name: str
    generation: int
    boot_id: str
    boot: float
    wall: float
    phase: str  # the phase after it
    before: str
    code: str  # Cause.code
    text: str  # Cause.text
    type: str = "state"  # topics.KINDS
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """Events in the order of their numbers. `oldest` and `newest`: numbers that are kept, over all; 0 and the last
    number that a lost history can have given out, when there are none."""

    events: Sequence[Decision]
    upto: int  # the number up to which this page looked
    oldest: int
    newest: int


@dataclass(frozen=True, slots=True)
class Since:
    """A place in time. `ago`: seconds back from now, by CLOCK_BOOTTIME within this boot; or `wall`: Unix time."""

    ago: float | None = None
    wall: float | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What a reader of events wants. `since`: after this number, or from that time; None: all that is kept."""

    since: int | Since | None = None
    follow: bool = False
    tail: int | None = None  # at first only the newest so many of those
    name: str | None = None
    types: Sequence[str] = ()  # topics.KINDS; empty: all
    causes: Sequence[str] = ()  # Cause.code; empty: all


@dataclass(frozen=True, slots=True)
class StoredEnd:
    """An end in the history, with the wall time at which it was recorded and the samples of its last minute."""

    end: End
    boot_id: str
    wall: float
    samples: str  # JSON of the recorder's columns, or ""


@dataclass(frozen=True, slots=True)
class Record:
    """What the store knows of one container. `boot_id`: the boot in which `saved` was written."""

    saved: Saved
    boot_id: str
    restarts: Mapping[str, int]  # by Reason
    ends: Mapping[str, int]  # by success error signal oom start_failure lost
    oom_kills: Mapping[str, int]  # by Scope
    created: int | None = None  # wall, when it was first stored


class Store(Protocol):
    """Durable state. Synchronous: callers use a worker thread. Raises HostError (disk) and changes nothing then."""

    def batch(self) -> AbstractContextManager[None]:
        """Everything inside is one transaction: all of it is written, or none."""
        ...

    def load(self) -> Mapping[str, Record]: ...

    def persist(self, name: str, saved: Saved, boot_id: str) -> None: ...

    def record_end(self, name: str, end: End, boot_id: str, wall: float, samples: str, counted_as: str) -> bool:
        """False when this generation's end is recorded already. Also counts ends (and oom kills by scope)."""
        ...

    def count_restart(self, name: str, reason: str) -> None: ...

    def note_created(self, name: str, wall: int) -> int:
        """The first time counts; what it was is the answer."""
        ...

    def count_oom(self, name: str, scope: str, kills: int) -> None: ...

    def decide(self, decision: Decision) -> int:
        """Append; returns its seq (numbered for ever, over restarts)."""
        ...

    def ends(self, name: str, limit: int = 100) -> Sequence[StoredEnd]: ...

    def decisions(self, name: str | None = None, since: int = 0, limit: int = 1000) -> Sequence[Decision]: ...

    def page(self, after: int, limit: int, query: Query, newest: bool = False) -> Page:
        """The first `limit` events after that number that `query` asks for, or the newest of them."""
        ...

    def place(self, boot_id: str, boot: float | None, wall: float | None) -> int:
        """The number before the first event of this boot from `boot` on, or of another (any, without `boot`) from
        `wall` on; the newest when there is none. None: never."""
        ...

    def forget(self, name: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One container as the API shows it: the core's state and what the engine knows beside it."""

    state: State
    boot: float  # now, CLOCK_BOOTTIME
    wall: float  # now, Unix time
    restarts: Mapping[str, int]
    ends: Mapping[str, int]
    oom_kills: Mapping[str, int]
    cgroup: str
    log_path: str
    file: str  # definition file
    problem: str = ""  # error of its definition file (the last good one runs), limits not enforced, shim lost ...
    last_end_wall: float | None = None  # Unix time at which the last end was recorded, also over a reboot


@dataclass(frozen=True, slots=True)
class Outcome:
    """Answer to a request. `code`: supervisorctl's fault word, lower case (`already started`), or ""."""

    ok: bool
    message: str
    code: str = ""


class Control(Protocol):
    """What the API may ask of the daemon. Every call is bounded; an acknowledged request is durable (I4).

    Unknown names raise RefusedError(code "no such container").
    """

    def names(self) -> Sequence[str]: ...

    def snapshot(self, name: str) -> Snapshot: ...

    def problems(self) -> Sequence[str]:
        """One line each: definition errors, missing controllers, degraded watching, quarantined records."""
        ...

    def info(self) -> Mapping[str, Any]:
        """version, pid, uptime, host facts, settings with sources."""
        ...

    async def start(self, name: str, by: str, wait: float | None) -> Outcome:
        """`wait`: seconds to wait for RUNNING (None: do not wait). not ok with code "spawn error" when it failed."""
        ...

    async def stop(self, name: str, by: str, wait: float | None, kill: bool = False) -> Outcome: ...

    async def restart(self, name: str, by: str, wait: float | None) -> Outcome: ...

    async def signal(self, name: str, signal: str, by: str) -> Outcome: ...

    async def exec(self, name: str, args: Sequence[str], stdio: Sequence[int], options: Mapping[str, Any]) -> int:
        """Run args inside the container on the caller's own stdio (three fds, borrowed), or on a terminal of its own,
        whose size is `options["tty"]` and whose master `options["terminal"]` is called with. Returns the exit code
        (128+n)."""
        ...

    async def attach(self, name: str, sock: int) -> Mapping[str, Any]:
        """Serve a running container's output at the other end of this SOCK_SEQPACKET socket (borrowed), and take its
        input there (docs/runtime.md, "Attached clients"). What it has: {"tty", "stdin",
        "generation"}."""
        ...

    async def reread(self) -> Mapping[str, Sequence[str]]:
        """Look at the definitions, change nothing: {"available", "changed", "disappeared", "errors"}, lists."""
        ...

    async def update(self, by: str) -> Mapping[str, Sequence[str]]:
        """Apply the definitions: {"added", "live", "restarted", "removed", "errors"}."""
        ...

    def why(self, name: str) -> Mapping[str, Any]:
        """{"text": [lines], "chain": [Decision as dict], "last_end": ..., "samples": {column: [...]}}"""
        ...

    async def stats(self, names: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """What each uses now, from the flight recorders; names that are not known are left out."""
        ...

    def recording(self, name: str, seconds: float) -> Mapping[str, Any]:
        """The flight recorder's rows of the last `seconds`: {"times", column: [...]}"""
        ...

    def events(self, query: Query) -> AsyncIterator[Mapping[str, Any]]:
        """Lines of the stream (docs/events.md)."""
        ...
