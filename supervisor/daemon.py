"""`wharfingerd`: wires the real clock, kernel, disk and sockets to the core, in the order that start-up needs.

Lock, store, cgroup tree; then the API answers; then what runs is found and adopted; then the rest is started.
SIGTERM ends the daemon and leaves the containers running (I1); SIGHUP reads the definitions again.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import resource
import shutil
import signal
import socket
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
from anyio import open_signal_receiver, to_thread
from anyio.abc import TaskGroup

from config.errors import DefinitionError, HostError, RefusedError, WharfError
from config.settings import Settings, load_settings
from monitor.defdir import DefinitionWatch
from monitor.events import EventWatcher, Notice
from monitor.metrics import Exposition
from monitor.scrape import SWITCH_INTERVAL, Scraper
from runtime.cgroups import Tree
from runtime.images.root import Roots
from runtime.images.snapshots import Snapshots
from runtime.images.store import Store
from runtime.peer import Peers
from runtime.probe import HostFacts, probe
from supervisor import api, systemd
from supervisor import log as logs
from supervisor.adopt import generations
from supervisor.api.public import Pairs
from supervisor.clock import SystemClock, boot_id
from supervisor.control import Daemon
from supervisor.definitions import Definitions
from supervisor.fleet import Fleet, leaves_of
from supervisor.journal import Journal
from supervisor.launch import Launcher
from supervisor.lifecycle.history import Said
from supervisor.ports import Clock
from supervisor.sampler import Sampler
from supervisor.shared import Shared
from supervisor.store import SqliteStore, lock_state_dir, open_store
from supervisor.stream import Stream
from supervisor.survey import Survey
from supervisor.timing import Watch
from supervisor.tracing import Tracer, open_tracer
from supervisor.views import Views

log = logging.getLogger("wharfinger")

LOCK_TRIES, LOCK_PAUSE = 16, 0.05  # seconds: a true second daemon is told within one
LOOK_LIMIT = 10.0  # seconds until the daemon says that it is ready, whatever a shim does
STOP_LIMIT = 2.0  # seconds for the last event, whatever the disk does
LOOK_TOGETHER = 16  # shims that are asked at once at start


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="wharfingerd", description="Keep the containers that definitions declare.")
    parser.add_argument("--version", action="version", version=f"wharfingerd {version('wharfinger')}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    parser.add_argument("--config-file", metavar="PATH", help="settings (default /etc/wharfinger/config.toml)")
    arguments = parser.parse_args(argv)
    flags = dict(pair.partition("=")[::2] for pair in arguments.set)
    if arguments.config_file:
        flags["config_file"] = arguments.config_file
    try:
        settings, sources = load_settings(flags)
        logs.setup(settings.log_level)
        sys.setswitchinterval(SWITCH_INTERVAL)
        anyio.run(serve, settings, sources, backend="trio")
    except (WharfError, BaseExceptionGroup) as error:
        first = _first(error)
        if not isinstance(first, WharfError):
            raise
        sys.stderr.write(f"wharfingerd: {first}\n")
        return first.exit_code
    return 0


def _first(error: BaseException) -> BaseException:
    """Task groups wrap what ends them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def serve(settings: Settings, sources: Mapping[str, str]) -> None:
    """Until SIGTERM or SIGINT. Raises WharfError when it cannot begin; nothing was touched then."""
    if os.geteuid() != 0:
        raise HostError("wharfingerd must run as root", hint="start it by systemd, or with sudo")
    for directory in (settings.state_dir, settings.run_dir, settings.log_dir):
        _make(directory)
    lock = await _lock(settings.state_dir)
    try:
        await _locked(settings, sources)
    finally:
        os.close(lock)


async def _lock(directory: Path) -> int:
    """A daemon that was killed while it started a shim leaves the lock to that fork until its exec: wait a moment."""
    for _ in range(LOCK_TRIES):
        try:
            return lock_state_dir(directory)
        except RefusedError:
            await anyio.sleep(LOCK_PAUSE)
    return lock_state_dir(directory)


async def _locked(settings: Settings, sources: Mapping[str, str]) -> None:
    _raise_nofile()
    facts = probe(settings.cgroup_root or "auto")
    tree = Tree.from_host(facts)
    for problem in await to_thread.run_sync(tree.setup):
        log.warning("cgroup %s", problem)
    store = open_store(settings.state_dir / "state.db")
    watcher = EventWatcher()
    try:
        async with anyio.create_task_group() as tasks:
            await _run(settings, sources, facts, tree, store, watcher, tasks)
    finally:
        watcher.close()
        store.close()
        log.info("wharfingerd ends; containers go on")


async def _run(
    settings: Settings,
    sources: Mapping[str, str],
    facts: HostFacts,
    tree: Tree,
    store: SqliteStore,
    watcher: EventWatcher,
    tasks: TaskGroup,
) -> None:
    clock, boot = SystemClock(), boot_id()
    images = Store(settings.state_dir / "images")
    roots = Roots(images, Snapshots(images))
    await anyio.to_thread.run_sync(roots.sweep)
    launcher = Launcher(
        tree,
        facts,
        settings.run_dir,
        settings.log_dir,
        shim_path(settings),
        settings.parallel_starts,
        peers(settings),
        roots,
    )
    threads = anyio.CapacityLimiter(1)
    exposition = Exposition()
    tracer, untraced = _tracer(settings, clock)
    timed = Watch(exposition.own.timing, tracer)
    events = Stream(store, threads, clock, boot)
    journal = Journal(store, clock, boot, tasks, threads, events.publish, exposition.own.events_dropped.inc)
    thresholds = {"memory": settings.pressure_memory, "cpu": settings.pressure_cpu, "io": settings.pressure_io}
    shared = Shared(launcher, store, clock, boot, watcher, tasks, journal, timed, threads, thresholds)
    fleet = Fleet(shared, tasks, settings.host_id or socket.gethostname(), store.load())
    definitions = Definitions(settings.definitions_dir, clock, partial(_refused, journal))
    watch = DefinitionWatch(settings.definitions_dir)
    watch.arm()

    def troubles() -> list[str]:
        said = [*untraced, *facts.problems, *(f"record set aside: {q}" for q in store.quarantined)]
        return [*said, f"definitions are polled: {watch.reason}"] if watch.degraded else said

    def info() -> Mapping[str, Any]:
        return {
            "version": version("wharfinger"),
            "pid": os.getpid(),
            "python": platform.python_version(),
            "kernel": facts.release,
            "cgroup_root": str(tree.root),
            "controllers": sorted(facts.controllers),
            "settings": {k: {"value": str(getattr(settings, k)), "source": s} for k, s in sources.items()},
        }

    control = Daemon(fleet, definitions, events, info, troubles)
    sampler = Sampler(fleet, clock, timed.woke)
    ready = False
    views = Views(
        fleet, definitions, facts, tree.controllers, clock, sampler.loop_lag, lambda: watch.degraded, settings
    )
    scraper = Scraper(exposition, views, wall=clock.wall)
    tasks.start_soon(watcher.run, lambda notice: _noticed(fleet, notice))
    begun: dict[str, str | int | bool | None] = {"pid": os.getpid(), "clean": journal.ended_cleanly()}
    begun["version"] = version("wharfinger")
    journal.daemon("daemon-start", "wharfingerd starts", begun)
    await _declare(fleet, definitions)
    serving = await api.serve(settings, control, partial(_scrape, scraper, tracer, clock), tasks, ready=lambda: ready)
    await _look(fleet, definitions, launcher, tasks)
    journal.settle_rest(fleet.members)
    tasks.start_soon(sampler.run)
    tasks.start_soon(Survey(fleet).run)
    tasks.start_soon(_follow, watch, definitions, fleet)
    with suppress(WharfError):
        await launcher.spares.refill()
    ready = True
    log.info("ready version=%s containers=%d cgroup=%s", version("wharfinger"), len(fleet.members), tree.root)
    systemd.notify("READY=1")
    try:
        with open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            async for number in received:
                if number != signal.SIGHUP:
                    break
                await _apply(definitions, fleet)
    finally:
        systemd.notify("STOPPING=1")
        launcher.spares.close()
        journal.daemon("daemon-stop", "wharfingerd ends; containers go on", {"pid": os.getpid()})
        with anyio.CancelScope(shield=True), anyio.move_on_after(STOP_LIMIT), suppress(HostError):
            await journal.flush()
        serving.close()
        if tracer is not None:
            with anyio.CancelScope(shield=True), anyio.move_on_after(STOP_LIMIT):
                await to_thread.run_sync(tracer.close, abandon_on_cancel=True)
    tasks.cancel_scope.cancel()


def _tracer(settings: Settings, clock: Clock) -> tuple[Tracer | None, Sequence[str]]:
    """And why there is none though one is wanted: no reason to leave containers alone."""
    if settings.tracing_endpoint is None:
        return None, ()
    try:
        host = settings.host_id or socket.gethostname()
        return open_tracer(settings.tracing_endpoint, clock, version("wharfinger"), host), ()
    except HostError as error:
        log.warning("%s", error)
        return None, (str(error),)


def _refused(journal: Journal, error: DefinitionError) -> None:
    said = Said("definition-error", 0, "definition", str(error), {"file": error.file, "line": error.line})
    journal.later([journal.event(error.container, said)])


async def _declare(fleet: Fleet, definitions: Definitions) -> None:
    """A keeper for each definition, UNKNOWN until it was looked at: so the first answer names all containers."""
    loaded = await definitions.read()
    definitions.keep(loaded)
    files = definitions.files()
    for name, definition in loaded.containers.items():
        fleet.add(definition, files.get(name, ""))


async def _look(fleet: Fleet, definitions: Definitions, launcher: Launcher, tasks: TaskGroup) -> None:
    """Find what runs; what nobody declares any more is stopped.

    Returns when all was looked at, or after a while: a silent shim is asked on and on by its own task.
    """
    leaves = await to_thread.run_sync(leaves_of, launcher.tree)
    strangers = (set(leaves) | _run_names(launcher)) - set(fleet.members)
    await fleet.take_in_undeclared(sorted(strangers), leaves, definitions)
    limiter = anyio.CapacityLimiter(LOOK_TOGETHER)
    unseen = {name for name, member in fleet.members.items() if not member.adopted}
    seen = anyio.Event()

    async def look(name: str) -> None:
        await fleet.look(fleet.members[name], leaves.get(name, ()), limiter)
        unseen.discard(name)
        if not unseen:
            seen.set()

    for name in list(unseen):
        tasks.start_soon(look, name)
    if unseen:
        with anyio.move_on_after(LOOK_LIMIT):
            await seen.wait()


def _run_names(launcher: Launcher) -> set[str]:
    try:
        return {entry.name for entry in launcher.runs_dir.iterdir() if generations(entry)}
    except OSError:
        return set()


async def _follow(watch: DefinitionWatch, definitions: Definitions, fleet: Fleet) -> None:
    async for change in watch.changes():
        log.info('definitions changed="%s"', change)
        await _apply(definitions, fleet)


async def _apply(definitions: Definitions, fleet: Fleet) -> None:
    applied, errors = await definitions.apply(fleet.apply)
    for error in errors:
        log.error("definition %s", error)
    if applied.added or applied.live or applied.restarted or applied.removed:
        log.info("definitions applied %s", applied)


async def _scrape(scraper: Scraper, tracer: Tracer | None, clock: Clock, headers: Pairs) -> tuple[int, Pairs, bytes]:
    """The exposition as the metrics listener answers it."""
    encodings, kinds = (
        ", ".join(value.decode("latin-1") for name, value in headers if name.lower() == wanted)
        for wanted in (b"accept-encoding", b"accept")
    )
    begin = clock.boot()
    made = await scraper.scrape(encodings, kinds)
    if tracer is not None:
        tracer.scraped(begin, made.status, len(made.body))
    return made.status, [(name.encode(), value.encode()) for name, value in made.headers], made.body


def _noticed(fleet: Fleet, notice: Notice) -> None:
    member = fleet.members.get(notice.key.partition("/")[0])
    if member is not None:
        member.hands.noticed(notice)


def _root(facts: HostFacts) -> Path:
    if facts.cgroup_root is None:
        raise HostError("no cgroup v2 is mounted", hint="mount -t cgroup2 none /sys/fs/cgroup")
    return facts.cgroup_root


def shim_path(settings: Settings) -> Path:
    """`wharf-shim` beside our own scripts, unless a setting says otherwise. Raises HostError when it is missing."""
    if settings.shim_path:
        return Path(settings.shim_path)
    found = shutil.which(
        "wharf-shim", path=os.pathsep.join([sysconfig.get_path("scripts"), os.path.dirname(sys.executable)])
    )
    if found is None:
        raise HostError("wharf-shim is not installed beside wharfingerd", hint="set shim_path")
    return Path(found)


def peers(settings: Settings) -> Peers:
    given = {"crun": settings.crun_path, "runc": settings.runc_path, "runsc": settings.runsc_path}
    return Peers({name: path for name, path in given.items() if path})


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise HostError(f"cannot make the directory: {error.strerror}", where=str(directory)) from error


def _raise_nofile() -> None:
    """Six fds a container: the soft limit of 1,024 would end at some 150."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
