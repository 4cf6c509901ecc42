"""`run` and `exec`: a program in the foreground, or left alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.errors import DefinitionError, GoneError, RefusedError
from runtime import wire
from runtime.bundle import parse_config
from runtime.ocicli import groups, stdio
from runtime.ocicli.args import parse_number
from runtime.ocicli.end import destroy
from runtime.ocicli.given import read_given
from runtime.ocicli.make import launch, make
from runtime.ocicli.start import poststart
from runtime.ocicli.store import CREATED, PAUSED, RUNNING, State
from runtime.ocicli.tty import Terminal
from runtime.ocicli.wait import Signals, become_reaper
from runtime.plan import compile_exec_process

if TYPE_CHECKING:
    from runtime.ocicli.main import Call

_U32 = 2**32 - 1


def run(call: Call) -> int:
    """Create and start; in the foreground the container is deleted at its end."""
    if call.options.flag("detach"):
        made = make(call, gate=False)
        os.close(made.pidfd)
        poststart(made.entry, made.state)
        return 0
    become_reaper()
    own = "console-socket" not in call.options
    with Signals() as signals, Terminal() as terminal:
        made = make(call, gate=False, detach=False, terminal=terminal.theirs if own else None)
        try:
            relayed = terminal if own and made.spec["process"].get("terminal") else None
            if relayed:
                relayed.open()
            poststart(made.entry, made.state)
            code = signals.wait(made.pid, made.pidfd, relayed)
        finally:
            os.close(made.pidfd)
            if not call.options.flag("keep"):
                with made.entry.lock():
                    destroy(call, made.entry, made.state)
    return code


def exec_(call: Call) -> int:
    """Run another program in a container, as confined as its first."""
    options = call.options
    detach = options.flag("detach")
    if not detach:
        become_reaper()
    with ExitStack() as stack:
        signals = None if detach else stack.enter_context(Signals())
        terminal = stack.enter_context(Terminal())
        pid, pidfd, relayed = _join(call, terminal)
        stack.callback(os.close, pidfd)
        if "pidfd-socket" in options:
            stdio.send_pidfd(options.text("pidfd-socket"), pidfd)
        if "pid-file" in options:
            stdio.write_pid(options.text("pid-file"), pid)
        if signals is None:
            return 0
        if relayed:
            terminal.open()
        return signals.wait(pid, pidfd, terminal if relayed else None)


def _join(call: Call, terminal: Terminal) -> tuple[int, int, bool]:
    """Launch it; pid, pidfd, and whether `terminal` is its. The container's lock keeps a pause away meanwhile."""
    options, entry = call.options, call.entry
    with entry.lock(shared=True), ExitStack() as stack:
        state = entry.load()
        status = entry.status(state, held=True)
        if status == PAUSED and not options.flag("ignore-paused"):
            raise RefusedError("cannot exec in a paused container", entry.id, "resume it, or use --ignore-paused")
        if status not in (CREATED, RUNNING, PAUSED) or state.process is None:
            raise GoneError(f"cannot exec in a container that is not running: it is {status}", entry.id)
        spec = entry.config()
        process = build_process(call, spec["process"])
        stdio.complete_env(process, state.rootfs)
        stdio.check_console(process, "console-socket" in options, options.flag("detach"))
        kept = stdio.kept_fds(options.number("preserve-fds"))
        kept.extend_env(process)
        plan = compile_exec_process(spec, process)
        for warning in plan.warnings:
            call.log.warning(warning)
        init = state.process.open()
        stack.callback(os.close, init)
        tags = [(wire.TAG_INIT, init), (wire.TAG_CGROUP, _cgroup(stack, state, options.text("cgroup")))]
        relayed = bool(process.get("terminal")) and "console-socket" not in options
        if "console-socket" in options:
            sock = stack.enter_context(stdio.to_socket(options.text("console-socket"), "--console-socket"))
            tags.append((wire.TAG_CONSOLE_SOCKET, sock.fileno()))
        elif relayed:
            tags.append((wire.TAG_CONSOLE_SOCKET, terminal.theirs.fileno()))
        tags += [(wire.TAG_FDS, fd) for fd in kept.fds]
        return *launch(plan.encode(), tags, wire.START_EXEC, state.id), relayed


def _cgroup(stack: ExitStack, state: State, below: str) -> int:
    """The container's cgroup, or one that is there below it."""
    if ".." in below.split("/"):
        raise DefinitionError(f"{below!r} must not contain '..'", "--cgroup")
    path = Path(state.own_cgroup()) / below.lstrip("/")
    fd = groups.open_dir(path)
    stack.callback(os.close, fd)
    return fd


def build_process(call: Call, base: Mapping[str, Any]) -> dict[str, Any]:
    """What to run: the file of --process, or another command as the container's own process. Raises DefinitionError."""
    options, args = call.options, call.words[1:]
    if "process" in options:
        process = _from_file(options.text("process"))
        if args:
            process["args"] = args
    else:
        if not args:
            raise DefinitionError("neither a command nor --process was given", "exec")
        process = {**base, "args": args, "terminal": False}
        process.pop("consoleSize", None)
    user = dict(process.get("user") or {})
    if "user" in options:
        user.update(zip(("uid", "gid"), parse_user(options.text("user")), strict=False))
    if "additional-gids" in options:
        gids = [parse_number(gid, "--additional-gids", 0, _U32) for gid in options.texts("additional-gids")]
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *gids]
    process["user"] = user
    if "cwd" in options:
        process["cwd"] = options.text("cwd")
    process["env"] = [*(process.get("env") or ()), *options.texts("env")]
    if options.texts("cap"):
        process["capabilities"] = _with_caps(process.get("capabilities") or {}, options.texts("cap"))
    for option, key in (("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if option in options:
            process[key] = options.text(option)
    for option, key in (("no-new-privs", "noNewPrivileges"), ("tty", "terminal")):
        if option in options:
            process[key] = options.flag(option)
    return process


def _from_file(name: str) -> dict[str, Any]:
    data = read_given(name)
    try:
        process = parse_config(data)
    except DefinitionError as error:
        error.file = name
        raise
    if not isinstance(process, dict):
        raise DefinitionError("must be an object", file=name)
    return process


def parse_user(text: str) -> tuple[int, ...]:
    """`UID` or `UID:GID`, numbers only. Raises DefinitionError."""
    return tuple(parse_number(part, "--user", 0, _U32) for part in text.split(":", 1))


def _with_caps(sets: Mapping[str, list[str]], names: list[str]) -> dict[str, list[str]]:
    return {
        **sets,
        **{key: [*(sets.get(key) or ()), *names] for key in ("bounding", "effective", "permitted")},
    }
