"""`create`: from a bundle to a container that waits; `run` goes on from there.

Whatever fails leaves nothing: no process, no cgroup, no directory. Source: runtime-spec runtime.md, "Lifecycle".
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from config.errors import DefinitionError, GoneError, HostError, LaunchError, RefusedError, WharfError
from runtime import launchlink, oci, probe, wire
from runtime.bundle import load_bundle
from runtime.ocicli import groups, stdio
from runtime.ocicli.hooks import inherit_env, run_poststop
from runtime.ocicli.process import Process
from runtime.ocicli.start import GATE, known
from runtime.ocicli.store import CREATED, RUNNING, STOPPED, State, entries, new_entry, now
from runtime.plan import Plan, compile_plan
from runtime.planhooks import Owner
from runtime.wire import Op

if TYPE_CHECKING:
    from runtime.ocicli.main import Call


class Making:
    """A container on its way, and when it is launched: `pid`, `pidfd` (the caller's to close)."""

    __slots__ = ("bundle", "call", "console", "entry", "kept", "launching", "pid", "pidfd", "spec", "state")

    def __init__(self, call: Call, spec: oci.Spec, state: State, kept: stdio.Kept, console: int | None) -> None:
        self.call = call
        self.spec = spec
        self.state = state
        self.kept = kept
        self.console = console
        self.entry = call.entry
        self.launching = False
        self.pid = 0
        self.pidfd = -1


def create(call: Call) -> int:
    """Make a container that waits for `start`."""
    made = make(call, gate=True)
    os.close(made.pidfd)
    return 0


def make(call: Call, *, gate: bool, detach: bool = True, terminal: socket.socket | None = None) -> Making:
    """Launch the bundle's container; without `gate` its program runs at once. Raises WharfError, and nothing is left.

    `terminal`: gets the master of the container's terminal when nobody else does.
    """
    options = call.options
    if options.flag("no-pivot"):
        raise DefinitionError("is not supported: the root is always pivoted", "--no-pivot")
    bundle = os.path.abspath(options.text("bundle", "."))
    config = os.path.abspath(options.text("config")) if "config" in options else "config.json"
    ignored: list[str] = []
    spec, rootfs = load_bundle(bundle, config, ignored)
    for pointer in ignored:
        call.log.warning(f"{config}: {pointer}: is not known, ignored")
    state = State(
        call.entry.id,
        version=spec["ociVersion"],
        bundle=bundle,
        rootfs=str(rootfs),
        created=now(),
        owner=_owner(),
        annotations=spec.get("annotations"),
    )
    stdio.complete_env(spec["process"], rootfs)
    inherit_env(spec)
    stdio.check_console(spec["process"], "console-socket" in options, detach)
    kept = stdio.kept_fds(options.number("preserve-fds"))
    kept.extend_env(spec["process"])
    with ExitStack() as stack:
        console = terminal if spec["process"].get("terminal") else None
        if "console-socket" in options:
            console = stack.enter_context(stdio.to_socket(options.text("console-socket"), "--console-socket"))
        making = Making(call, spec, state, kept, console.fileno() if console else None)
        stack.enter_context(new_entry(call.root, state, json.dumps(spec).encode()))
        try:
            _launch(making, _prepare(making, rootfs), gate)
        except BaseException:
            _undo(making)
            raise
    return making


def _owner() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _prepare(making: Making, rootfs: Path) -> Plan:
    """Cgroup with its limits, and the plan."""
    host = probe.probe()
    if host.cgroup_mount is None:
        raise HostError("no cgroup2 file system is mounted", "cgroups")
    call, state, config = making.call, making.state, making.spec["linux"]
    plan = compile_plan(making.spec, rootfs, host, Owner(making.state.id, making.state.bundle))
    cgroup = groups.place(config.get("cgroupsPath") or "", state.id, host.cgroup_mount, host.own_cgroup or "/")
    resources = config.get("resources") or {}
    controllers = groups.limits_of(resources).controllers()
    missing = _claim(making, cgroup, host.cgroup_mount)
    state.cgroup, state.made = str(cgroup), missing
    making.entry.save(state)  # before it is there, so that a crash leaves nothing unknown
    groups.make(cgroup, host.cgroup_mount, controllers)
    state.cgroup_id = os.stat(cgroup).st_ino
    making.entry.save(state)
    groups.limit(cgroup, resources)
    groups.limit_devices(cgroup, resources.get("devices"), call.log.warning)
    for warning in plan.warnings:
        call.log.warning(warning)
    return plan


def _claim(making: Making, cgroup: Path, mount: Path) -> tuple[str, ...]:
    """What has to be made, topmost first. Raises RefusedError for a cgroup that is somebody's: a delete kills in it."""
    if groups.populated(cgroup):
        raise RefusedError("this cgroup has processes already", str(cgroup), "each container needs its own cgroupsPath")
    above = [path for path in [*reversed(cgroup.parents), cgroup] if mount in path.parents]
    missing = tuple(str(path) for path in above if not path.is_dir())
    if missing:
        return missing
    for other in entries(making.call.root):
        if other.id == making.entry.id:
            continue
        with suppress(WharfError):
            if other.load().cgroup != str(cgroup):
                continue
            raise DefinitionError(f"{cgroup} is the cgroup of container {other.id!r}", "/linux/cgroupsPath")
    return missing


def _launch(making: Making, plan: Plan, gate: bool) -> None:
    call, entry, state = making.call, making.entry, making.state
    ops = [op for op in plan.ops if not (op.name == "KEYRING" and call.options.flag("no-new-keyring"))]
    with ExitStack() as stack:
        tags = [(wire.TAG_CGROUP, _directory(stack, state.cgroup)), (wire.TAG_BUNDLE, _directory(stack, state.bundle))]
        if gate:
            tags.append((wire.TAG_GATE, stack.enter_context(launchlink.listen(f"{entry.path}/{GATE}")).fileno()))
        if making.console is not None:
            tags.append((wire.TAG_CONSOLE_SOCKET, making.console))
        tags += [(wire.TAG_FDS, fd) for fd in making.kept.fds]
        making.launching = True
        flags = wire.START_CREATE if gate else 0
        making.pid, making.pidfd = launch(_encode(ops), tags, flags, state.id)
    try:
        state.process = Process.of(making.pid, making.pidfd)
    except GoneError:
        state.process = Process(making.pid, 0, "")  # it ran, and its reaper was quick
    state.phase = CREATED if gate else RUNNING
    entry.save(state)
    if "pidfd-socket" in call.options:
        stdio.send_pidfd(call.options.text("pidfd-socket"), making.pidfd)
    if "pid-file" in call.options:
        stdio.write_pid(call.options.text("pid-file"), making.pid)


def _encode(ops: list[Op]) -> bytes:
    return Plan(tuple(ops)).encode()


def launch(plan: bytes, tags: list[tuple[int, int]], flags: int, name: str) -> tuple[int, int]:
    """Run `wharf-launch`; pid and pidfd. Raises LaunchError, in words that engines know."""
    try:
        launched = launchlink.launch(stdio.find_launch(), plan, tags, flags, name=name[:63])
    except LaunchError as error:
        raise known(error) from None
    return launched.pid, launched.pidfd


def _directory(stack: ExitStack, path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot be opened: {error.strerror}", path) from None
    stack.callback(os.close, fd)
    return fd


def _undo(making: Making) -> None:
    """Take back what was made. What cannot be is left for `delete`, and told."""
    state, warn = making.state, making.call.log.warning
    try:
        if making.pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(making.pidfd, signal.SIGKILL)
            os.close(making.pidfd)
        if state.cgroup_id:
            groups.remove(state.cgroup, state.made)
        else:
            groups.remove_empty(state.cgroup, state.made)
        making.entry.remove()
    except (WharfError, OSError) as error:
        warn(str(error))
    if "pid-file" in making.call.options and making.pid:
        stdio.remove_pid(making.call.options.text("pid-file"))
    if making.launching:
        run_poststop(making.spec, state.oci(STOPPED), warn)
