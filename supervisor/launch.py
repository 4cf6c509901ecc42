"""From a definition to a running process: the calls on `runtime`, in their order, undone when one fails.

A plan is compiled once per definition; a spare shim waits for its start message, so that a restart
costs a cgroup, a directory and one packet. Nothing here decides.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anyio import CancelScope, CapacityLimiter, fail_after, to_thread

from config.errors import HostError, LaunchError, RefusedError, WharfError
from config.model import Container
from runtime import peerbundle, shim, users, wire
from runtime.cgroups import Tree
from runtime.images.root import Rooted, Roots
from runtime.outputpage import OutputPage
from runtime.peer import Peer, Peers
from runtime.probe import HostFacts
from supervisor import clock
from supervisor.spares import Spares
from supervisor.specs import bind_sources_exist, make_dir, make_log_dir, plan_of, rooted_of, spec_of

log = logging.getLogger("wharfinger.launch")

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# errno of a launch that will not get better by trying again: the definition or the root must change first
PERMANENT = frozenset(
    {errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL}
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one container lives on this host."""

    run_dir: Path  # run_dir/c/<name>
    log_dir: Path

    def run(self, generation: int) -> Path:
        return self.run_dir / f"g{generation}"


@dataclass(slots=True)
class Compiled:
    digest: str
    spec: dict[str, Any]
    packed: bytes  # empty when another runtime makes it
    rootfs: Path
    root: users.Root  # where its users' names are
    definition: str  # as JSON, for the record of each run
    missing: tuple[str, ...] = ()  # controllers that a limit needs and the host lacks
    prepared: bool = False
    logged: bool = False  # its log directory is there
    peer: Peer | None = None  # the other runtime that makes it
    rooted: Rooted | None = None  # of a definition with an image

    @property
    def resources(self) -> Mapping[str, Any] | None:
        """`linux.resources` of a bundle's own spec; a spec that we built has its limits in the definition."""
        found: Mapping[str, Any] | None = self.spec.get("linux", {}).get("resources")
        return found


class Launcher:
    """Starts runs. One per daemon; `tree`, directories and facts are injected."""

    def __init__(
        self,
        tree: Tree,
        facts: HostFacts,
        run_dir: Path,
        log_dir: Path,
        shim_path: Path,
        parallel: int,
        peers: Peers | None = None,
        roots: Roots | None = None,
    ) -> None:
        self.tree = tree
        self.facts = facts
        self.runs_dir = run_dir / "c"
        self._log_dir = log_dir
        self.peers = peers or Peers()
        self.roots = roots
        self.spares = Spares(shim_path, tree.shims_fd)
        self._limiter = CapacityLimiter(parallel)
        self._threads = CapacityLimiter(8)
        self._compiled: dict[str, Compiled] = {}
        self.pages: dict[str, OutputPage] = {}

    def place(self, name: str) -> Place:
        return Place(self.runs_dir / name, self._log_dir / name)

    def compiled(self, name: str) -> Compiled | None:
        return self._compiled.get(name)

    def drop(self, name: str) -> None:
        self._compiled.pop(name, None)

    async def start(self, container: Container, generation: int, boot_id: str, file: str) -> shim.Shim:
        """Start run `generation`, when its turn among the parallel starts has come; `start_timeout` counts from there.

        Raises LaunchError, HostError, RefusedError, DefinitionError; nothing is left then.
        """
        async with self._limiter:
            try:
                with fail_after(container.start_timeout):
                    return await self._start(container, generation, boot_id, file)
            except BaseException as error:
                with CancelScope(shield=True):
                    await to_thread.run_sync(self.clean, container.name, generation, limiter=self._threads)
                self.drop(container.name)  # sources and device numbers are in the plan, and may be others next time
                if isinstance(error, TimeoutError):
                    raise LaunchError("start", detail=f"not done within {container.start_timeout:g} s") from None
                raise

    async def _start(self, container: Container, generation: int, boot_id: str, file: str) -> shim.Shim:
        compiled = await to_thread.run_sync(self._prepare, container, generation, boot_id, file, limiter=self._threads)
        packed = self._packed(compiled, container, generation)

        async def start(spare: shim.SpareShim) -> shim.Shim:
            try:
                with self._request(container, generation) as request:
                    return await spare.start(packed, request)
            except BaseException:
                spare.close()  # its end of file tells an unstarted shim to go
                raise

        try:
            return await self.spares.use(start)
        except LaunchError as error:
            if compiled.peer is None:
                raise
            run, limit = self.place(container.name).run(generation), container.start_timeout
            raise await to_thread.run_sync(peerbundle.told, error, compiled.peer, run, limit) from None

    async def take_over(self, container: Container, generation: int, pidfd: int, output: Sequence[int]) -> shim.Shim:
        """Another shim for a run whose own was lost. fds are borrowed. Raises LaunchError, HostError, and the container
        runs on."""
        run = self.place(container.name).run(generation)
        try:
            make_dir(run)
        except OSError as error:
            raise HostError(f"no run directory: {error.strerror}", where=str(run)) from error
        taken = {wire.TAG_INIT: pidfd, wire.TAG_OUT_PIPE: output[0], wire.TAG_ERR_PIPE: output[1]}

        async def start(spare: shim.SpareShim) -> shim.Shim:
            try:
                with self._request(container, generation) as request:
                    return await spare.take_over(replace(request, fds={**request.fds, **taken}))
            except BaseException:
                spare.close()
                raise

        return await self.spares.use(start)

    def _prepare(self, container: Container, generation: int, boot_id: str, file: str) -> Compiled:
        """In a worker thread: compile if the definition is new, cgroup and directories of this run."""
        compiled = self._compile(container)
        if compiled.rooted is not None and self.roots is not None:
            self.roots.make(container.name, compiled.rooted)
        if container.runtime != "native":
            compiled.peer = self.peers.allowed(container.runtime, container.allow_vulnerable_runtime)
            if container.healthcheck is not None and not compiled.peer.joinable:
                raise RefusedError(f"a health check cannot run inside {compiled.peer.kind}", where=container.name)
        bind_sources_exist(container)
        if not compiled.prepared:
            compiled.missing = self.tree.prepare(container, compiled.resources)
            compiled.prepared = True
        self.tree.open_leaf(container.name, generation)
        place = self.place(container.name)
        if not compiled.logged:
            compiled.logged = make_log_dir(place.log_dir, container.name)
        run = place.run(generation)
        meta = {"version": 1, "name": container.name, "generation": generation, "boot_id": boot_id, "file": file}
        try:
            make_dir(run)
            (run / "meta.json").write_text(f'{json.dumps(meta)[:-1]}, "definition": {compiled.definition}}}')
        except OSError as error:
            raise HostError(
                f"cannot write the run directory: {os.strerror(error.errno or 0)}", where=str(run)
            ) from error
        if compiled.peer is not None:
            cgroup = peerbundle.cgroups_path(self.facts, self.tree.path(container.name, generation))
            spec = peerbundle.peer_spec(compiled.spec, compiled.rootfs, cgroup)
            number = peerbundle.container_id(container.name, generation)
            peerbundle.write(run, compiled.peer, number, boot_id, spec)
        return compiled

    def _packed(self, compiled: Compiled, container: Container, generation: int) -> bytes:
        if compiled.peer is None:
            return compiled.packed
        run, number = self.place(container.name).run(generation), peerbundle.container_id(container.name, generation)
        return peerbundle.peer_plan(run, compiled.peer, number, container.start_timeout, compiled.spec)

    def _compile(self, container: Container) -> Compiled:
        known = self._compiled.get(container.name)
        rooted = rooted_of(container, self.roots)
        if known is not None and known.digest == container.digest and known.rooted == rooted:
            return known
        stack = rooted.stack if rooted is not None else None
        spec, rootfs = spec_of(container, self.facts, rooted)
        native = container.runtime == "native"
        packed = plan_of(container, spec, rootfs, self.facts, stack).encode() if native else b""
        definition = json.dumps(container.model_dump(mode="json", exclude_unset=True))
        fresh = Compiled(container.digest, spec, packed, rootfs, stack or rootfs, definition, rooted=rooted)
        self._compiled[container.name] = fresh
        return fresh

    @contextmanager
    def _request(self, container: Container, generation: int) -> Iterator[shim.StartRequest]:
        """The start message with its directories opened; they are closed again when it is sent."""
        place = self.place(container.name)
        with ExitStack() as stack:

            def opened(fd: int) -> int:
                stack.callback(os.close, fd)
                return fd

            try:
                fds = {
                    wire.TAG_RUNDIR: opened(os.open(place.run(generation), DIRECTORY)),
                    wire.TAG_CGROUP: opened(os.open(self.tree.path(container.name, generation), DIRECTORY)),
                    wire.TAG_CGPARENT: opened(self.tree.open_parent(container.name)),
                    wire.TAG_SHIMCG: opened(self.tree.shims_fd()),
                }
                known = self._compiled.get(container.name)
                if container.bundle is not None and known is not None and known.spec.get("hooks"):
                    fds[wire.TAG_BUNDLE] = opened(os.open(container.bundle, DIRECTORY))
            except OSError as error:
                raise HostError(f"open: {error.strerror}", where=str(error.filename or place.run_dir)) from error
            try:
                fds[wire.TAG_LOGDIR] = opened(os.open(place.log_dir, DIRECTORY))
            except OSError as error:  # a container is worth more than its log: bounded, in the run directory
                log.error("container=%s logs go to the run directory: %s", container.name, error)
                fds[wire.TAG_LOGDIR] = opened(os.dup(fds[wire.TAG_RUNDIR]))
            if (top := self.tree.open_top()) is not None:
                fds[wire.TAG_CGTOP] = opened(top)
            if (page := self._page(container.name)) is not None:
                fds[wire.TAG_COUNTS] = page.fd
            yield shim.StartRequest(
                name=container.name,
                generation=generation,
                log_max_size=container.logging.max_size,
                log_max_files=container.logging.max_files,
                oom_group=container.oom.group,
                fds=fds,
                stdin=container.stdin_open,
            )

    def _page(self, name: str) -> OutputPage | None:
        if name not in self.pages:
            try:
                self.pages[name] = OutputPage()
            except OSError as error:
                log.warning("container=%s its output is not counted: %s", name, error.strerror)
        return self.pages.get(name)

    async def recall_page(self, name: str, running: shim.Shim) -> None:
        """Read on what the shim of an earlier daemon counts into."""
        try:
            fd = await running.counts()
            if fd >= 0:
                page = OutputPage(fd)
                if (old := self.pages.pop(name, None)) is not None:
                    old.close()
                self.pages[name] = page
        except (WharfError, OSError) as error:
            log.warning("container=%s its output is not counted: %s", name, error)

    def adopt(self, container: Container) -> None:
        """In a worker thread: know the spec of what runs, for exec and health checks. Its cgroup stays as it is."""
        try:
            compiled = self._compile(container)
            compiled.prepared = True
            if container.runtime != "native":
                compiled.peer = Peer(container.runtime, "", "")  # until it is known, nothing joins it
                compiled.peer = self.peers.look(container.runtime)
        except WharfError as error:
            log.warning("container=%s its definition cannot be compiled now: %s", container.name, error)

    def apply(self, container: Container) -> tuple[str, ...]:
        """In a worker thread: write the limits of a changed definition to the stable cgroup, without a restart."""
        known = self._compiled.get(container.name)
        missing = self.tree.update(container, known.resources if known else None)
        if known is not None:
            known.missing = missing
        return missing

    def clean(self, name: str, generation: int) -> bool:
        """In a worker thread: remove what run `generation` left. False when a process of it does not die."""
        if not self.tree.remove_leaf(name, generation):
            return False
        run = self.place(name).run(generation)
        if problem := peerbundle.delete(run, clock.boot_id()):
            log.warning("container=%s generation=%d %s", name, generation, problem)
        shutil.rmtree(run, ignore_errors=True)
        return True

    def forget(self, name: str) -> None:
        """In a worker thread: the container is gone for good; its logs stay, for people."""
        self.drop(name)
        if (page := self.pages.pop(name, None)) is not None:
            page.close()
        if self.roots is not None:
            try:
                self.roots.drop(name)
            except OSError as error:
                log.warning("container=%s its writable layer stays: %s", name, error)
        self.tree.remove(name)
        with suppress(OSError):
            self.place(name).run_dir.rmdir()
