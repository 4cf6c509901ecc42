"""The kernel's part of one container's row: files of its cgroup, and its network, as finished text.

The kernel's own digits go behind prefixes that are written once a container: a template a file (monitor/layout.py),
filled and cut in one go. What is unusual, or of a container that does not run, is read key by key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter

from monitor import labels, readers
from monitor.cgroup import Sample
from monitor.devices import DeviceNames
from monitor.families import FAMILIES, SLOT
from monitor.view import ContainerView

Cells = list[bytes | None]

MAX_DEVICES = 16


def seconds(usec: bytes) -> bytes:
    """Microseconds to seconds by a dot: exact."""
    return usec[:-6] + b"." + usec[-6:] if len(usec) > 6 else b"0." + usec.zfill(6)


class _Pick:
    """Which keys of a flat file go to which families: gives (slot, digits) of those that are there."""

    def __init__(self, families: Mapping[str, str]) -> None:
        self._keys = tuple(key.encode() for key in families)
        self._slots = tuple(SLOT["container_" + name] for name in families.values())
        self._get = itemgetter(*self._keys)
        self.wanted = dict(zip(self._keys, self._slots, strict=True))

    def __call__(self, values: Mapping[bytes, bytes]) -> Iterable[tuple[int, bytes]]:
        try:
            return zip(self._slots, self._get(values), strict=True)
        except KeyError:
            pairs = zip(self._slots, self._keys, strict=True)
            return [(slot, values[key]) for slot, key in pairs if key in values]


CPU = _Pick({"usage_usec": "cpu_usage_seconds_total", "user_usec": "cpu_user_seconds_total",
              "system_usec": "cpu_system_seconds_total"})  # fmt: skip
CFS = _Pick({"nr_periods": "cpu_cfs_periods_total", "nr_throttled": "cpu_cfs_throttled_periods_total",
              "nr_bursts": "cpu_cfs_burst_periods_total"})  # fmt: skip
CFS_TIME = _Pick({"throttled_usec": "cpu_cfs_throttled_seconds_total", "burst_usec": "cpu_cfs_burst_seconds_total"})
MEMORY = _Pick({"anon": "memory_rss", "file": "memory_cache", "file_mapped": "memory_mapped_file",
                 "kernel": "memory_kernel_usage", "active_file": "memory_total_active_file_bytes",
                 "inactive_file": "memory_total_inactive_file_bytes", "file_dirty": "memory_file_dirty_bytes",
                 "file_writeback": "memory_file_writeback_bytes"})  # fmt: skip
MEMORY_COUNTERS = _Pick({"pgscan": "memory_pgscan_total", "pgsteal": "memory_pgsteal_total",
                          "workingset_refault_file": "memory_workingset_refault_file_total",
                          "workingset_refault_anon": "memory_workingset_refault_anon_total"})  # fmt: skip
EVENTS = _Pick({"high": "memory_events_high_total", "oom_kill": "oom_events_total", "max": "memory_events_max_total"})
FAULTS = (b"pgfault", b"pgmajfault")
FAILURES, WORKING, FAILCNT = (
    SLOT["container_memory_" + name] for name in ("failures_total", "working_set_bytes", "failcnt")
)
LEVELS = {
    "memory.current": SLOT["container_memory_usage_bytes"],
    "memory.swap.current": SLOT["container_memory_swap"],
    "memory.peak": SLOT["container_memory_max_usage_bytes"],
    "pids.current": SLOT["container_threads"],
}
PRESSURE = {
    f"{resource}.pressure": (
        SLOT[f"container_pressure_{resource}_waiting_seconds_total"],
        SLOT[f"container_pressure_{resource}_stalled_seconds_total"],
    )
    for resource in ("cpu", "memory", "io")
}
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
_PROCESSES, _SEEN = SLOT["container_processes"], SLOT["container_last_seen"]
_QUOTA, _PERIOD, _SHARES = (SLOT["container_spec_cpu_" + name] for name in ("quota", "period", "shares"))
_SPEC_SLOTS = (*(slot for _, slot in _SPEC), _QUOTA, _PERIOD, _SHARES)


_USUAL_IO = re.compile(
    rb"^([0-9]{1,10}:[0-9]{1,10}) rbytes=([0-9]+) wbytes=([0-9]+) rios=([0-9]+) wios=([0-9]+)(?=[ \n])", re.MULTILINE
).findall


def _io_by_key(data: bytes) -> list[tuple[bytes, ...]]:
    found = readers.io_digits(data).items()
    texts = [(device, *(values.get(key, b"") for key in _IO_KEYS)) for device, values in found]
    return [(device, *(text if text.isdigit() else b"" for text in rest)) for device, *rest in texts]


class KernelRow:
    """Prefixes and templates of one container, and its limits."""

    def __init__(self, name: str, view: ContainerView, extra: Sequence[tuple[str, str]]) -> None:
        self.identity = (view.cgroup, view.image, name, tuple(extra))
        base = labels.label_set((("id", view.cgroup), ("name", name), ("image", view.image), *extra))
        self._base = base.encode()
        self._prefix = [
            f"{family.name}{{{base}}} ".encode() if family.name.startswith("container_") else b"" for family in FAMILIES
        ]
        self._prefix[SLOT["container_cpu_usage_seconds_total"]] = (
            f'container_cpu_usage_seconds_total{{{base},cpu="total"}} '.encode()
        )
        self._faults = [
            f'container_memory_failures_total{{{base},failure_type="{kind.decode()}",scope="container"}} '.encode()
            for kind in FAULTS
        ]
        self._more: dict[tuple[str, str], list[bytes]] = {}
        self._static: Cells = [None] * len(FAMILIES)
        self.has_quota = False

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

    def start(self, slot: int, key: bytes = b"") -> bytes:
        """What stands before a family's value."""
        return self._faults[FAULTS.index(key)] if slot == FAILURES else self._prefix[slot]

    def fill(self, cells: Cells, sample: Sample, live: bool) -> None:
        """Adds what the kernel says, key by key; a level only while a run is there."""
        files, prefix = sample.files, self._prefix
        if "cpu.stat" in files:
            values = readers.flat_digits(files["cpu.stat"])
            for slot, text in CPU(values):
                cells[slot] = prefix[slot] + seconds(text)
            if self.has_quota:
                for slot, text in CFS(values):
                    cells[slot] = prefix[slot] + text
                for slot, text in CFS_TIME(values):
                    cells[slot] = prefix[slot] + seconds(text)
        if "memory.events" in files:
            values = readers.flat_digits(files["memory.events"])
            for slot, text in EVENTS(values):
                cells[slot] = prefix[slot] + text
            if b"max" in values:
                cells[FAILCNT] = prefix[FAILCNT] + values[b"max"]
        if "memory.stat" in files:
            values = readers.flat_digits(files["memory.stat"])
            for slot, text in MEMORY_COUNTERS(values):
                cells[slot] = prefix[slot] + text
            faults = [start + values[key] for start, key in zip(self._faults, FAULTS, strict=True) if key in values]
            if faults:
                cells[FAILURES] = b"\n".join(faults)
            if live:
                for slot, text in MEMORY(values):
                    cells[slot] = prefix[slot] + text
                current, inactive = sample.number("memory.current"), values.get(b"inactive_file", b"")
                if current is not None and readers.is_number(inactive):
                    cells[WORKING] = prefix[WORKING] + str(max(0, current - int(inactive))).encode()
        for file, (some, full) in PRESSURE.items():
            if file in files:
                values = readers.pressure_digits(files[file])
                if b"some" in values:
                    cells[some] = prefix[some] + seconds(values[b"some"])
                if b"full" in values:
                    cells[full] = prefix[full] + seconds(values[b"full"])
        for file, slot in LEVELS.items() if live else ():
            if file in files:
                text = files[file].strip()
                if readers.is_number(text):
                    cells[slot] = prefix[slot] + text

    def put_seen(self, cells: Cells, now: bytes) -> None:
        cells[_SEEN] = self._prefix[_SEEN] + now

    def put_io(self, cells: Cells, data: bytes, names: DeviceNames) -> int:
        """io.stat. Returns the number of devices left out."""
        usual = _USUAL_IO(data)
        if len(usual) != data.count(b"rbytes="):
            usual = _io_by_key(data)
        taken: set[str] = set()
        columns: list[list[bytes]] = []
        for device, *values in usual[:MAX_DEVICES]:
            name = names.name(device)
            if name in taken:
                name = device.decode("ascii")  # two numbers, one name: a device that was replaced
            taken.add(name)
            starts = self._series("device", name, _IO_SLOTS)
            columns.append([start + text if text else b"" for start, text in zip(starts, values, strict=True)])
        for slot, texts in zip(_IO_SLOTS, zip(*columns, strict=True), strict=False):
            cells[slot] = b"\n".join(filter(None, texts)) or None
        return max(0, len(usual) - MAX_DEVICES)

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
