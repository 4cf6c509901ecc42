"""The words of the pure core: states, events, effects. Frozen dataclasses, nothing else.

Times are seconds of CLOCK_BOOTTIME unless a name says `wall`. `None` means unknown, never zero.
An event is something that the kernel, a user or an effect said; an effect is something that the
engine shall do. `step` (step.py) is the only place that turns the one into the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from config.model import Container
from supervisor.lifecycle.terms import Desired as Desired
from supervisor.lifecycle.terms import Health as Health
from supervisor.lifecycle.terms import Phase as Phase
from supervisor.lifecycle.terms import Reason as Reason
from supervisor.lifecycle.terms import Scope as Scope
from supervisor.lifecycle.terms import Source as Source


@dataclass(frozen=True, slots=True)
class Oom:
    """Verdict on OOM for one run: `killed` only if init itself was killed by it."""

    killed: bool = False
    group: bool = False
    scope: Scope | None = None
    kills: int | None = None  # kernel's count of kills in the run: "at least one", not processes


@dataclass(frozen=True, slots=True)
class End:
    """The end of one run. Exactly one of `code` and `signal` is set, or neither when unknown."""

    generation: int
    started: float | None
    ended: float
    code: int | None = None
    signal: int | None = None
    oom: Oom = Oom()
    source: Source = Source.SHIM
    detail: str = ""

    @property
    def lost(self) -> bool:
        return self.code is None and self.signal is None


@dataclass(frozen=True, slots=True)
class Cause:
    """Why the present state is as it is: a fixed code, and words for people."""

    # boot operator policy exit oom health pressure lost dependency launch-error exhausted update removed adopted new
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Saved:
    """What survives the daemon (and a reboot): written before the effects that follow from it."""

    generation: int = 0
    desired: Desired = Desired.UP
    explicit_stop: bool = False
    phase: Phase = Phase.STOPPED
    attempt: int = 0
    ends: tuple[float, ...] = ()  # times of ends in the window; void after a reboot
    last_end: End | None = None
    cause: Cause = Cause("new", "")
    wake_at: float | None = None  # void after a reboot
    health_stop: bool = False  # stopped by on_failure: stop
    stuck: bool = False
    pressure_at: float | None = None  # when pressure made us restart it last; void after a reboot


@dataclass(frozen=True, slots=True)
class Strain:
    """Pressure of one source that goes on in the present run. `told`: of the last Note, `pause`: until the next."""

    source: str
    since: float
    at: float  # of the last notice
    told: float | None = None
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """All that one container's decisions depend on. Its keeper's task is the only writer."""

    name: str
    seed: str  # host id and name: luck is a hash of it and the generation
    definition: Container
    phase: Phase = Phase.UNKNOWN
    desired: Desired = Desired.UP
    explicit_stop: bool = False
    generation: int = 0
    attempt: int = 0  # failed runs in a row: the k of the delay
    ends: tuple[float, ...] = ()
    crash_looping: bool = False
    wake_at: float | None = None  # the next Tick is wanted at this time
    backoff: float | None = None  # length of the present delay, for display and metrics
    started_at: float | None = None
    pid: int | None = None
    launching: bool = False  # a Launch effect is in flight
    stop_signalled_at: float | None = None
    killed_at: float | None = None  # cgroup.kill was asked for
    again: Reason | None = None  # after this stop, start again for this reason
    unmet: tuple[str, ...] = ()  # dependencies that are still waited for, with words
    health: Health = Health.NONE
    health_failures: int = 0
    health_output: str = ""
    probing: bool = False
    probe_at: float | None = None
    removed: bool = False
    done: bool = False  # removed, stopped and cleaned: the keeper may end
    last_end: End | None = None
    next_reason: Reason = Reason.BOOT  # reason of the start that is pending
    cause: Cause = Cause("new", "not looked at yet")
    ended_by: Reason | None = None  # we ended the run ourselves: HEALTH, OOM, PRESSURE, UPDATE or MANUAL
    retry_at: float | None = None  # end of BACKOFF, or of a start that is held
    kill_at_once: bool = False  # a kill came while the launch was under way
    restored: Saved | None = None  # what the store said, until it is known what runs
    requested: bool = False  # while UNKNOWN: an operator's request came, which no look overrules
    health_stop: bool = False  # stopped by on_failure: stop
    dependencies: tuple[str, ...] = ()  # not met, as last told; `unmet` is set only while a start waits for them
    slow: bool = False  # attempts are used up: one each slow_interval, until a run lasts
    kills: int = 0  # cgroup.kills of this run
    stuck: bool = False  # STOPPING, and a process outlives SIGKILL
    held_until: float | None = None  # no launch before: something of the last run may be alive
    clean_at: float | None = None  # when a Clean that failed is tried again
    untended: str = ""  # the shim was lost: why no other has taken over yet
    strains: tuple[Strain, ...] = ()  # pressure of the present run, by source
    pressure_at: float | None = None  # when pressure made us restart it last


# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Adopted:
    """A running container of this definition was found at daemon start."""

    generation: int
    pid: int
    started: float


@dataclass(frozen=True, slots=True)
class Absent:
    """Nothing runs. `end`: the end of the last run, if it is not recorded yet. `booted`: first look since a boot."""

    end: End | None = None
    booted: bool = False


@dataclass(frozen=True, slots=True)
class Redefined:
    """The definition changed. `restart`: the change cannot be made live."""

    definition: Container
    restart: bool
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Removed:
    """The definition is gone: stop, clean, forget."""


@dataclass(frozen=True, slots=True)
class StartAsked:
    request: int
    by: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """`kill`: no grace, straight to cgroup.kill."""

    request: int
    by: str
    kill: bool = False


@dataclass(frozen=True, slots=True)
class RestartAsked:
    request: int
    by: str


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Dependencies not met now, in words (`db is starting`). Empty: all are met."""

    unmet: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Launched:
    generation: int
    pid: int
    started: float


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """`permanent`: trying again cannot help until the definition or the root changes (missing binary, bad mount)."""

    generation: int
    error: str
    permanent: bool = False
    oom: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    end: End


@dataclass(frozen=True, slots=True)
class ShimLost:
    """The shim of a run is gone, and the run goes on. Told again when taking over fails, with the reason."""

    generation: int
    error: str


@dataclass(frozen=True, slots=True)
class TakenOver:
    """Another shim tends the run. `detail`: what was lost with the first one, if anything."""

    generation: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ChildOom:
    """A process of the container was OOM-killed and init lives."""

    generation: int
    kills: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """Tasks of the run wait: `source` is memory, cpu or io (a trigger fired; `kind` some or full), or memory_high.

    `window`: seconds; told at most once in it while the pressure lasts.
    """

    generation: int
    source: str
    kind: str
    window: float


@dataclass(frozen=True, slots=True)
class Probed:
    """Result of one health check."""

    generation: int
    ok: bool
    output: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """An effect could not be done; `effect` is its class name."""

    effect: str
    generation: int
    error: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; step compares `now` with what it waits for."""


Event = (
    Adopted
    | Absent
    | Redefined
    | Removed
    | StartAsked
    | StopAsked
    | RestartAsked
    | Dependencies
    | Launched
    | LaunchFailed
    | Ended
    | ShimLost
    | TakenOver
    | ChildOom
    | Pressure
    | Probed
    | Failed
    | Tick
)


# --- effects: one step's effects are done in this order, one after the other; when Persist fails, the rest is not done


@dataclass(frozen=True, slots=True)
class Persist:
    """Store durably (full sync) before what follows."""

    saved: Saved


@dataclass(frozen=True, slots=True)
class RecordEnd:
    """Add to the history of ends; a second record for one generation is ignored by the store."""

    end: End


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell a waiting request whether it is accepted (its intent is stored) or refused."""

    request: int
    ok: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Launch:
    """Start run `generation`. Ends in Launched or LaunchFailed."""

    generation: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Signal:
    """Send `signal` (a name, `SIGTERM`) to the init of run `generation`, by its pidfd."""

    generation: int
    signal: str


@dataclass(frozen=True, slots=True)
class KillAll:
    """cgroup.kill on the leaf of run `generation`."""

    generation: int


@dataclass(frozen=True, slots=True)
class Clean:
    """Remove what run `generation` left: leaf cgroup, run directory."""

    generation: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Run the health check in run `generation`. Ends in Probed."""

    generation: int


@dataclass(frozen=True, slots=True)
class ApplyLive:
    """Write limits and log settings of the present definition to what runs."""

    generation: int


@dataclass(frozen=True, slots=True)
class Note:
    """An event for the stream: no change of state by itself."""

    kind: str  # oom-child health pressure crash-looping shim-lost taken-over ...
    text: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The container is gone for good: drop its cgroup, records and series."""

    generation: int = field(default=0)


Effect = Persist | RecordEnd | Answer | Launch | Signal | KillAll | Clean | Probe | ApplyLive | Note | Forget
