"""One container's row of the exposition: a cell for each family, each a finished piece of text or None.

What rarely changes (info, state, counters of the supervisor) is kept as text and written again only when its values
change. What the kernel counts is the kernel's own digits behind a prefix that is written once a container. A row is
finished or is not there: a container that vanishes, or whose numbers break something, leaves no half behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter

from monitor import labels, readers
from monitor.cgroup import Sample
from monitor.devices import DeviceNames
from monitor.families import (
    CHECK_RESULTS,
    END_REASONS,
    FAMILIES,
    HEALTH,
    OOM_SCOPES,
    PHASES,
    PREFIX,
    RESTART_REASONS,
    SLOT,
)
from monitor.view import ContainerView, SpaceView

Cells = list[bytes | None]

MAX_DEVICES = 16


def number(value: float) -> str:
    """An exact int as digits, a float as the shortest text that gives it back."""
    return str(int(value)) if value == int(value) else repr(float(value))


def seconds(usec: bytes) -> bytes:
    """Microseconds to seconds by a dot: exact."""
    return usec[:-6] + b"." + usec[-6:] if len(usec) > 6 else b"0." + usec.zfill(6)


class _Pick:
    """Which keys of a flat file go to which families: gives (slot, digits) of those that are there."""

    def __init__(self, families: Mapping[str, str]) -> None:
        self._keys = tuple(key.encode() for key in families)
        self._slots = tuple(SLOT["container_" + name] for name in families.values())
        self._get = itemgetter(*self._keys)

    def __call__(self, values: Mapping[bytes, bytes]) -> Iterable[tuple[int, bytes]]:
        try:
            return zip(self._slots, self._get(values), strict=True)
        except KeyError:
            pairs = zip(self._slots, self._keys, strict=True)
            return [(slot, values[key]) for slot, key in pairs if key in values]


_CPU = _Pick({"usage_usec": "cpu_usage_seconds_total", "user_usec": "cpu_user_seconds_total",
              "system_usec": "cpu_system_seconds_total"})  # fmt: skip
_CFS = _Pick({"nr_periods": "cpu_cfs_periods_total", "nr_throttled": "cpu_cfs_throttled_periods_total",
              "nr_bursts": "cpu_cfs_burst_periods_total"})  # fmt: skip
_CFS_TIME = _Pick({"throttled_usec": "cpu_cfs_throttled_seconds_total", "burst_usec": "cpu_cfs_burst_seconds_total"})
_MEMORY = _Pick({"anon": "memory_rss", "file": "memory_cache", "file_mapped": "memory_mapped_file",
                 "kernel": "memory_kernel_usage", "active_file": "memory_total_active_file_bytes",
                 "inactive_file": "memory_total_inactive_file_bytes", "file_dirty": "memory_file_dirty_bytes",
                 "file_writeback": "memory_file_writeback_bytes"})  # fmt: skip
_MEMORY_COUNTERS = _Pick({"pgscan": "memory_pgscan_total", "pgsteal": "memory_pgsteal_total",
                          "workingset_refault_file": "memory_workingset_refault_file_total",
                          "workingset_refault_anon": "memory_workingset_refault_anon_total"})  # fmt: skip
_EVENTS = _Pick({"high": "memory_events_high_total", "oom_kill": "oom_events_total", "max": "memory_events_max_total"})
_FAULTS = (b"pgfault", b"pgmajfault")
_FAILURES, _WORKING, _FAILCNT = (
    SLOT["container_memory_" + name] for name in ("failures_total", "working_set_bytes", "failcnt")
)
_LEVELS = (
    ("memory.current", SLOT["container_memory_usage_bytes"]),
    ("memory.swap.current", SLOT["container_memory_swap"]),
    ("memory.peak", SLOT["container_memory_max_usage_bytes"]),
    ("pids.current", SLOT["container_threads"]),
)
_PRESSURE = tuple(
    (
        f"{resource}.pressure",
        SLOT[f"container_pressure_{resource}_waiting_seconds_total"],
        SLOT[f"container_pressure_{resource}_stalled_seconds_total"],
    )
    for resource in ("cpu", "memory", "io")
)
_IO_KEYS = (b"rbytes", b"wbytes", b"rios", b"wios")
_IO_SLOTS = tuple(
    SLOT["container_fs_" + name] for name in ("reads_bytes_total", "writes_bytes_total", "reads_total", "writes_total")
)
_NET_KEYS = ("receive_bytes", "receive_packets", "receive_errors", "receive_packets_dropped",
             "transmit_bytes", "transmit_packets", "transmit_errors", "transmit_packets_dropped")  # fmt: skip
_NET_SLOTS = tuple(SLOT[f"container_network_{name}_total"] for name in _NET_KEYS)
_SPEC = (
    ("memory.max", SLOT["container_spec_memory_limit_bytes"]),
    ("memory.swap.max", SLOT["container_spec_memory_swap_limit_bytes"]),
    ("memory.low", SLOT["container_spec_memory_reservation_limit_bytes"]),
    ("pids.max", SLOT["container_threads_max"]),
)
_SPACE_SLOTS = (SLOT["container_fs_usage_bytes"], SLOT["container_fs_limit_bytes"])
_PROCESSES, _SEEN = SLOT["container_processes"], SLOT["container_last_seen"]
_QUOTA, _PERIOD, _SHARES = (SLOT["container_spec_cpu_" + name] for name in ("quota", "period", "shares"))


class Row:
    """The text of one container that outlives a collection."""

    def __init__(self, name: str, view: ContainerView, extra: Sequence[tuple[str, str]]) -> None:
        self.identity = (view.cgroup, view.image, name, tuple(extra))
        base = labels.label_set((("id", view.cgroup), ("name", name), ("image", view.image), *extra))
        self._base = base.encode()
        self._name = labels.label_set([("name", name)])
        self._prefix = [
            f"{family.name}{{{base}}} ".encode() if family.name.startswith("container_") else b"" for family in FAMILIES
        ]
        self._prefix[SLOT["container_cpu_usage_seconds_total"]] = (
            f'container_cpu_usage_seconds_total{{{base},cpu="total"}} '.encode()
        )
        self._faults = [
            f'container_memory_failures_total{{{base},failure_type="{kind.decode()}",scope="container"}} '.encode()
            for kind in _FAULTS
        ]
        self._more: dict[tuple[str, str], list[bytes]] = {}
        self._static: Cells = [None] * len(FAMILIES)
        self._keys: list[object] = [None] * len(_GROUPS)
        self.has_quota = False

    def cells(self, view: ContainerView) -> Cells:
        """A new row with what the supervisor says."""
        static = self._static
        for index, (get, write) in enumerate(_GROUPS):
            key = get(view)
            if key != self._keys[index]:
                write(self, view, static)
                self._keys[index] = key
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

    def put_limits(self, sample: Sample) -> None:
        """Keeps what the limit files say until the next time."""
        self.drop_limits()
        spec, prefix = self._static, self._prefix
        for file, slot in _SPEC:
            limit = sample.limit(file)
            if limit is not None:
                spec[slot] = prefix[slot] + str(max(0, limit)).encode()  # 0 is cAdvisor's word for unlimited
        cpu = readers.parse_cpu_max(sample.files.get("cpu.max", b""))
        self.has_quota = cpu is not None and cpu.quota is not None
        if cpu is not None:
            spec[_PERIOD] = prefix[_PERIOD] + str(cpu.period).encode()
            if cpu.quota is not None:
                spec[_QUOTA] = prefix[_QUOTA] + str(cpu.quota).encode()
        weight = sample.number("cpu.weight")
        if weight is not None and 1 <= weight <= 10_000:
            spec[_SHARES] = prefix[_SHARES] + str(2 + (weight - 1) * 262142 // 9999).encode()

    def drop_limits(self) -> None:
        for slot in _SPEC_SLOTS:
            self._static[slot] = None
        self.has_quota = False

    def fill(self, cells: Cells, sample: Sample, now: bytes, live: bool, names: DeviceNames) -> int:
        """Adds what the kernel says; a level only while a run is there. Returns the number of devices left out."""
        files, prefix = sample.files, self._prefix
        if "cpu.stat" in files:
            values = readers.flat_digits(files["cpu.stat"])
            for slot, text in _CPU(values):
                cells[slot] = prefix[slot] + seconds(text)
            if self.has_quota:
                for slot, text in _CFS(values):
                    cells[slot] = prefix[slot] + text
                for slot, text in _CFS_TIME(values):
                    cells[slot] = prefix[slot] + seconds(text)
        if "memory.events" in files:
            values = readers.flat_digits(files["memory.events"])
            for slot, text in _EVENTS(values):
                cells[slot] = prefix[slot] + text
            if b"max" in values:
                cells[_FAILCNT] = prefix[_FAILCNT] + values[b"max"]
        if "memory.stat" in files:
            values = readers.flat_digits(files["memory.stat"])
            for slot, text in _MEMORY_COUNTERS(values):
                cells[slot] = prefix[slot] + text
            faults = [start + values[key] for start, key in zip(self._faults, _FAULTS, strict=True) if key in values]
            if faults:
                cells[_FAILURES] = b"\n".join(faults)
            if live:
                for slot, text in _MEMORY(values):
                    cells[slot] = prefix[slot] + text
                current, inactive = sample.number("memory.current"), values.get(b"inactive_file", b"")
                if current is not None and readers.is_number(inactive):
                    cells[_WORKING] = prefix[_WORKING] + str(max(0, current - int(inactive))).encode()
        for file, some, full in _PRESSURE:
            if file in files:
                values = readers.pressure_digits(files[file])
                if b"some" in values:
                    cells[some] = prefix[some] + seconds(values[b"some"])
                if b"full" in values:
                    cells[full] = prefix[full] + seconds(values[b"full"])
        if live:
            for file, slot in _LEVELS:
                if file in files:
                    text = files[file].strip()
                    if readers.is_number(text):
                        cells[slot] = prefix[slot] + text
            cells[_SEEN] = prefix[_SEEN] + now
        return self._io(cells, files["io.stat"], names) if "io.stat" in files else 0

    def _io(self, cells: Cells, data: bytes, names: DeviceNames) -> int:
        lines: tuple[list[bytes], ...] = ([], [], [], [])
        taken: set[str] = set()
        found = readers.io_digits(data)
        for device, values in list(found.items())[:MAX_DEVICES]:
            name = names.name(device)
            if name in taken:
                name = device.decode("ascii")  # two numbers, one name: a device that was replaced
            taken.add(name)
            starts = self._series("device", name, _IO_SLOTS)
            for texts, start, key in zip(lines, starts, _IO_KEYS, strict=True):
                text = values.get(key, b"")
                if text.isdigit():
                    texts.append(start + text)
        for slot, texts in zip(_IO_SLOTS, lines, strict=True):
            if texts:
                cells[slot] = b"\n".join(texts)
        return max(0, len(found) - MAX_DEVICES)

    def _series(self, label: str, value: str, slots: Sequence[int]) -> list[bytes]:
        """The starts of series with one more label, kept."""
        starts = self._more.get((label, value))
        if starts is None:
            if len(self._more) >= 4 * MAX_DEVICES:
                self._more.clear()  # devices come and go on a long-lived host
            text = f'{label}="{labels.escape(labels.clean(value))}"'.encode()
            starts = [FAMILIES[slot].name.encode() + b"{" + self._base + b"," + text + b"} " for slot in slots]
            self._more[label, value] = starts
        return starts

    def put_processes(self, cells: Cells, data: bytes) -> None:
        cells[_PROCESSES] = self._prefix[_PROCESSES] + str(readers.count_lines(data)).encode()

    def put_network(self, cells: Cells, data: bytes) -> int:
        """Interfaces but the loopback. Returns the number of interfaces left out."""
        lines: dict[int, list[bytes]] = {slot: [] for slot in _NET_SLOTS}
        found = {name: values for name, values in readers.net_digits(data).items() if name != b"lo"}
        for name, values in list(found.items())[:MAX_DEVICES]:
            starts = self._series("interface", name.decode("utf-8", "replace"), _NET_SLOTS)
            for slot, start, key in zip(_NET_SLOTS, starts, _NET_KEYS, strict=True):
                lines[slot].append(start + values[key])
        for slot, texts in lines.items():
            if texts:
                cells[slot] = b"\n".join(texts)
        return max(0, len(found) - MAX_DEVICES)

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


_SPEC_SLOTS = (*(slot for _, slot in _SPEC), _QUOTA, _PERIOD, _SHARES)


def _state_key(view: ContainerView) -> object:
    return (
        view.phase, view.health, view.desired, view.generation, view.crash_looping, view.backoff,
        view.created_wall, view.started_wall,
    )  # fmt: skip


def _count_key(view: ContainerView) -> object:
    # Copies: a caller that goes on writing to a mapping would make it equal to itself.
    return (
        tuple(view.restarts.items()), tuple(view.ends.items()), tuple(view.oom_kills.items()), view.last_code,
        view.last_end_wall,
    )  # fmt: skip


_GROUPS: tuple[tuple[Callable[[ContainerView], object], Callable[[Row, ContainerView, Cells], None]], ...] = (
    (lambda view: (view.digest, view.runtime, view.cgroup_dir), Row.write_info),
    (_state_key, Row.write_state),
    (_count_key, Row.write_counts),
    (lambda view: view.space, Row.write_space),
    (lambda view: (tuple(view.health_checks.items()), view.health_check_seconds), Row.write_checks),
    (
        lambda view: (
            tuple(view.pressure_events.items()),
            view.shim_losses,
            view.takeovers,
            view.recorder_samples,
            view.log_bytes,
            view.log_dropped,
        ),
        Row.write_rest,
    ),
)
