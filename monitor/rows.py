"""One container's row of the exposition: a cell for each family, each a finished piece of text or None.

What rarely changes (info, state, counters of the supervisor) is kept as text and written again only when its values
change; monitor/kernel.py has the rest. A row is finished or is not there: a container that vanishes, or whose numbers
break something, leaves no half behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from monitor import labels
from monitor.families import (
    CHECK_RESULTS,
    END_REASONS,
    HEALTH,
    OOM_SCOPES,
    PHASES,
    PREFIX,
    RESTART_REASONS,
    SLOT,
)
from monitor.kernel import Cells, KernelRow
from monitor.view import ContainerView, SpaceView

_SPACE_SLOTS = (SLOT["container_fs_usage_bytes"], SLOT["container_fs_limit_bytes"])


def number(value: float) -> str:
    """An exact int as digits, a float as the shortest text that gives it back."""
    return str(int(value)) if value == int(value) else repr(float(value))


class Row(KernelRow):
    """The text of one container that outlives a collection."""

    def __init__(self, name: str, view: ContainerView, extra: Sequence[tuple[str, str]]) -> None:
        super().__init__(name, view, extra)
        self._name = labels.label_set([("name", name)])
        self._keys: list[object] = [None] * len(_GROUPS)

    def cells(self, view: ContainerView) -> Cells:
        """A new row with what the supervisor says."""
        static = self._static
        for index, (get, write) in enumerate(_GROUPS):
            key = get(view)
            if key != self._keys[index]:
                write(self, view, static)
                self._keys[index] = _copied(key)
        return static.copy()

    def put(self, cells: Cells, family: str, value: object, **extra: str) -> None:
        """One sample of one of our families; written rarely, so by name."""
        slot = SLOT[family]
        if family.startswith("container_"):
            cells[slot] = self._prefix[slot] + str(value).encode()
            return
        pairs = self._name + "".join(f',{key}="{labels.escape(text)}"' for key, text in extra.items())
        line = f"{family}{{{pairs}}} {value}".encode()
        before = cells[slot]
        cells[slot] = line if before is None else before + b"\n" + line

    # What the supervisor says, in groups that change together.

    def write_info(self, view: ContainerView, cells: Cells) -> None:
        more = labels.label_set((("digest", view.digest), ("runtime", view.runtime), ("cgroup", view.cgroup_dir)))
        cells[SLOT[f"{PREFIX}container_info"]] = (
            f"{PREFIX}container_info{{".encode() + self._base + b"," + more.encode() + b"} 1"
        )

    def write_state(self, view: ContainerView, cells: Cells) -> None:
        self._one_of(cells, "state", "state", PHASES, view.phase)
        self._one_of(cells, "health", "status", HEALTH, view.health)
        for name, value in (
            ("desired_running", int(view.desired)),
            ("generation", view.generation),
            ("crash_looping", int(view.crash_looping)),
            ("backoff_seconds", number(view.backoff)),
        ):
            self._single(cells, name, value)
        state = {"healthy": 1, "none": -1}.get(view.health, 0)
        self.put(cells, "container_health_state", state)
        self._wall(cells, "container_creation_time_seconds", view.created_wall)
        self._wall(cells, "container_start_time_seconds", view.started_wall if view.live else None)

    def write_counts(self, view: ContainerView, cells: Cells) -> None:
        self._counters(cells, "restarts_total", "reason", RESTART_REASONS, view.restarts)
        self._counters(cells, "exits_total", "reason", END_REASONS, view.ends)
        self._counters(cells, "oom_kills_total", "scope", OOM_SCOPES, view.oom_kills)
        self._single(cells, "last_exit_code", view.last_code)
        ended = view.last_end_wall
        self._single(cells, "last_exit_timestamp_seconds", None if ended is None else number(ended))

    def write_checks(self, view: ContainerView, cells: Cells) -> None:
        slot = SLOT[f"{PREFIX}container_health_check_duration_seconds"]
        self._counters(cells, "health_checks_total", "result", CHECK_RESULTS, view.health_checks)
        name = f"{PREFIX}container_health_check_duration_seconds"
        count = sum(view.health_checks.values())
        cells[slot] = (
            f"{name}_sum{{{self._name}}} {number(view.health_check_seconds)}\n{name}_count{{{self._name}}} {count}"
        ).encode()

    def write_rest(self, view: ContainerView, cells: Cells) -> None:
        family = f"{PREFIX}container_pressure_events_total"
        cells[SLOT[family]] = None
        for (resource, kind), count in sorted(view.pressure_events.items()):
            self.put(cells, family, count, resource=resource, kind=kind)
        self._single(cells, "shim_losses_total", view.shim_losses)
        self._single(cells, "takeovers_total", view.takeovers)
        self._single(cells, "recorder_samples", view.recorder_samples)
        self._single(cells, "log_bytes_total", view.log_bytes)
        self._single(cells, "log_dropped_bytes_total", view.log_dropped)

    def write_space(self, view: ContainerView, cells: Cells) -> None:
        space = view.space or SpaceView()
        self._single(cells, "log_size_bytes", space.logs)
        for slot, value in zip(_SPACE_SLOTS, (space.root, space.limit), strict=True):
            start = self._series("device", space.device, _SPACE_SLOTS)[_SPACE_SLOTS.index(slot)]
            cells[slot] = None if value is None else start + str(value).encode()

    def _single(self, cells: Cells, name: str, value: object | None) -> None:
        cells[SLOT[f"{PREFIX}container_{name}"]] = None
        if value is not None:
            self.put(cells, f"{PREFIX}container_{name}", value)

    def _wall(self, cells: Cells, family: str, value: float | None) -> None:
        cells[SLOT[family]] = None
        if value is not None:
            self.put(cells, family, number(value))

    def _one_of(self, cells: Cells, name: str, label: str, words: Sequence[str], word: str) -> None:
        cells[SLOT[f"{PREFIX}container_{name}"]] = None
        for each in words:
            self.put(cells, f"{PREFIX}container_{name}", int(each == word), **{label: each})

    def _counters(self, cells: Cells, name: str, label: str, words: Sequence[str], counts: Mapping[str, int]) -> None:
        """Every word from the start, at 0: increase() over a series that appears at 1 is 0."""
        cells[SLOT[f"{PREFIX}container_{name}"]] = None
        for word in (*words, *sorted(counts.keys() - set(words))):
            self.put(cells, f"{PREFIX}container_{name}", counts.get(word, 0), **{label: word})


def _copied(key: tuple[object, ...]) -> tuple[object, ...]:
    """A caller that goes on writing to a mapping would make it equal to itself."""
    return tuple(dict(each) if isinstance(each, Mapping) else each for each in key)


# Getters of several attributes: each gives a tuple.
_GROUPS: tuple[
    tuple[Callable[[ContainerView], tuple[object, ...]], Callable[[Row, ContainerView, Cells], None]], ...
] = (
    (attrgetter("digest", "runtime", "cgroup_dir"), Row.write_info),
    (
        attrgetter(
            "phase", "health", "desired", "generation", "crash_looping", "backoff", "created_wall", "started_wall"
        ),
        Row.write_state,
    ),
    (attrgetter("restarts", "ends", "oom_kills", "last_code", "last_end_wall"), Row.write_counts),
    (attrgetter("space", "name"), Row.write_space),
    (attrgetter("health_checks", "health_check_seconds"), Row.write_checks),
    (
        attrgetter("pressure_events", "shim_losses", "takeovers", "recorder_samples", "log_bytes", "log_dropped"),
        Row.write_rest,
    ),
)
