"""The exposition: all containers and the daemon as Prometheus text, format 0.0.4.

One pass: each container's row (monitor/rows.py); the rows turned by family, one HELP and TYPE each, sorted by name;
then the daemon's own metrics (monitor/own.py). Blocks, and is for one thread at a time: monitor/scrape.py sees to both.
"""

from __future__ import annotations

import errno as errnos
import logging
import os
import time
from collections.abc import Iterable, Sequence

from config.errors import GoneError, HostError
from monitor import labels
from monitor.cgroup import LIMIT_FILES, PRESSURE_FILES, STAT_FILES, CgroupReader, Sample
from monitor.columns import Columns, joined
from monitor.devices import DeviceNames
from monitor.families import FAMILIES, SLOT
from monitor.kernel import Cells
from monitor.network import RunNetwork
from monitor.own import OwnMetrics
from monitor.rows import Row
from monitor.view import ContainerView as ContainerView
from monitor.view import DaemonView as DaemonView

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_CONTAINERS = 1000
LIMITS_FOR = 60.0
"""Seconds that limits are believed: they may be written by others, but hardly ever are."""

_HEADERS = tuple(family.header() for family in FAMILIES)
_OOM_EVENTS = SLOT["container_oom_events_total"]
_log = logging.getLogger(__name__)


class _Entry:
    """What is kept of a container between two collections."""

    __slots__ = ("limits_at", "limits_key", "network", "reader", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.reader: CgroupReader | None = None
        self.network: RunNetwork | None = None
        self.limits_key: object = None
        self.limits_at = 0.0


class Exposition:
    """Renders; keeps one directory fd and the text that does not change of each container.

    proc, sys: where those are mounted. own: the daemon's own registry; the errors of a collection are counted there.
    """

    def __init__(
        self,
        own: OwnMetrics | None = None,
        *,
        proc: str | os.PathLike[str] = "/proc",
        sys: str | os.PathLike[str] = "/sys",
        max_containers: int = MAX_CONTAINERS,
    ) -> None:
        self.own = own or OwnMetrics()
        self._proc = os.fspath(proc)
        self._names = DeviceNames(sys)
        self._columns = Columns()
        self._max = max_containers
        self._entries: dict[str, _Entry] = {}
        self._kept: list[str] = []
        self._values: dict[str, str] = {}
        self._failing: set[tuple[str, int]] = set()
        self._failed: set[tuple[str, int]] = set()

    def render(self, containers: Sequence[ContainerView], daemon: DaemonView, now: float) -> bytes:
        """The whole text. now: the wall clock's Unix seconds. One container that breaks something is left out, counted
        and logged, never the cause of a failed collection."""
        begin = time.perf_counter()
        self._failed = set()
        views = {view.name: view for view in sorted(containers, key=lambda view: view.name)}
        kept = list(views)[: self._max]
        self.own.left_out("limit", len(views) - len(kept))
        self._forget(views)
        if kept != self._kept:
            self._kept, self._values = kept, labels.unique(kept)
        values = self._values
        seen = f"{now:.3f}".encode()
        files = STAT_FILES if daemon.psi is False else STAT_FILES + PRESSURE_FILES
        rows: list[Cells] = []
        for name in kept:
            try:
                rows.append(self._row(views[name], values[name], daemon, files, seen))
            except Exception:  # noqa: BLE001 - the fence of this room: one container must not cost the others their metrics
                self.own.left_out("fault", 1)
                _log.exception("container=%s event=metrics_fault", name)
        self._names.end_round()
        read = time.perf_counter()
        parts: list[bytes] = []
        lines = self._columns.lines()
        for slot, column in enumerate(zip(*rows, strict=True)):
            # Joined one by one: a join of everything would keep the event loop from the interpreter for too long.
            parts.append(joined(_HEADERS[slot], column, lines.get(slot, ())))
        parts = list(filter(None, parts))
        self._report_errors()
        self.own.describe(daemon, containers=len(rows), failed=bool(self._failed))
        end = time.perf_counter()
        self.own.took(read=read - begin, render=end - read, total=end - begin)
        parts.append(self.own.text())
        return b"\n".join(parts)

    def close(self) -> None:
        self._forget({})

    def _row(self, view: ContainerView, name: str, daemon: DaemonView, files: Sequence[str], seen: bytes) -> Cells:
        extra: tuple[tuple[str, str], ...] = ()
        if daemon.allow_labels:
            extra, collisions = labels.allowed(view.labels, daemon.allow_labels)
            self.own.left_out("label", collisions)
        entry = self._entries.get(view.name)
        if entry is None or entry.row.identity != (view.cgroup, view.image, name, extra):
            fresh = _Entry(Row(name, view, extra))
            if entry is not None:
                fresh.reader, fresh.network = entry.reader, entry.network
            entry = self._entries[view.name] = fresh
        sample = self._read(entry, view, files)
        if sample is None:
            entry.row.drop_limits()
            entry.limits_key = None
            cells = entry.row.cells(view)
            if daemon.controllers.get("memory") and not os.path.isdir(view.cgroup_dir):
                # Not started yet, so the kernel's counter will begin at 0: an alert needs to see it there.
                entry.row.put(cells, "container_oom_events_total", 0)
            return cells
        cells = entry.row.cells(view)
        if "io.stat" in sample.files:
            self.own.left_out("limit", entry.row.put_io(cells, sample.files["io.stat"], self._names))
        if view.live:
            entry.row.put_seen(cells, seen)
            leaf = leaf_of(view)
            if (processes := sample.files.get(f"{leaf}/cgroup.procs")) is not None:
                entry.row.put_processes(cells, processes)
            self._fill_network(entry, view, f"{view.cgroup}/{leaf}", cells)
        if not (view.live and self._columns.take(entry.row, sample.files)):  # the last step: it leaves no half behind
            entry.row.fill(cells, sample, view.live)
        return cells

    def _read(self, entry: _Entry, view: ContainerView, files: Sequence[str]) -> Sample | None:
        """None: there is no such cgroup (now), or it cannot be opened."""
        if entry.reader is not None and entry.reader.path != view.cgroup_dir:
            entry.reader.close()
            entry.reader = None
        if view.live:
            files = (*files, f"{leaf_of(view)}/cgroup.procs")
        for _ in range(2):  # the second time for a cgroup that was removed and made again
            try:
                if entry.reader is None:
                    entry.reader = CgroupReader(view.cgroup_dir)
                sample = entry.reader.read(files)
                key = (view.generation, view.definition)
                if key != entry.limits_key or time.monotonic() - entry.limits_at >= LIMITS_FOR:
                    limits = entry.reader.read(LIMIT_FILES)
                    self._count(limits.errors)
                    entry.row.put_limits(limits)
                    entry.limits_key, entry.limits_at = key, time.monotonic()
            except GoneError:
                if entry.reader is None:
                    break
                entry.reader.close()
                entry.reader = None
            except HostError as e:
                cause = e.__cause__
                self._count([("cgroup", cause.errno or 0 if isinstance(cause, OSError) else 0)])
                return None
            else:
                self._count(sample.errors)
                return sample
        if view.live:
            self.own.left_out("vanished", 1)
        return None

    def _fill_network(self, entry: _Entry, view: ContainerView, member: str, cells: Cells) -> None:
        if entry.network is not None and entry.network.pid != view.net_pid:
            entry.network.close()
            entry.network = None
        if view.net_pid is None:
            return
        try:
            if entry.network is None:
                entry.network = RunNetwork(self._proc, view.net_pid, member)
            self.own.left_out("limit", entry.row.put_network(cells, entry.network.read()))
        except OSError as e:
            if e.errno not in (errnos.ENOENT, errnos.ESRCH, errnos.EINVAL):
                self._count([("net/dev", e.errno or 0)])

    def _forget(self, views: Sequence[str] | dict[str, ContainerView]) -> None:
        for name in self._entries.keys() - set(views):
            entry = self._entries.pop(name)
            for kept in (entry.reader, entry.network):
                if kept is not None:
                    kept.close()

    def _count(self, errors: Iterable[tuple[str, int]]) -> None:
        for path, number in errors:
            file = path.rpartition("/")[2]
            self._failed.add((file, number))
            self.own.read_failed(file, errnos.errorcode.get(number, str(number)))

    def _report_errors(self) -> None:
        """One line when a kind of error begins, not one a collection."""
        for file, number in sorted(self._failed - self._failing):
            _log.warning("event=metrics_read_failed file=%s errno=%s", file, errnos.errorcode.get(number, number))
        self._failing = self._failed


def leaf_of(view: ContainerView) -> str:
    """The run's own cgroup, below the stable one."""
    return view.leaf or f"g{view.generation}"
