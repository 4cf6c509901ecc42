"""`kill` and `delete`: a signal to a container, and its end."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from config.errors import DefinitionError, GoneError, HostError, RefusedError
from runtime.ocicli import groups
from runtime.ocicli.hooks import run_poststop
from runtime.ocicli.store import CREATED, CREATING, STOPPED, Entry, State

if TYPE_CHECKING:
    from runtime.ocicli.main import Call

_REALTIME = r"RT(MIN|MAX)(?:([+-])(\d{1,2}))?"


def parse_signal(word: str) -> int:
    """`9`, `KILL`, `SIGKILL`, `RTMIN+3`. Raises DefinitionError."""
    name = word.upper().removeprefix("SIG")
    number = -1
    if word.isascii() and word.isdigit():
        number = int(word)
    elif match := re.fullmatch(_REALTIME, name, re.ASCII):
        number = int(signal.SIGRTMIN if match[1] == "MIN" else signal.SIGRTMAX)
        number += int(f"{match[2]}{match[3]}") if match[2] else 0
    elif f"SIG{name}" in signal.Signals.__members__:
        number = int(signal.Signals[f"SIG{name}"])
    if not 1 <= number < signal.NSIG:
        raise DefinitionError(f"{word!r} is not a signal", "kill")
    return number


def kill(call: Call) -> int:
    """Send a signal to a container's first process, or to all."""
    number = parse_signal(call.words[1] if len(call.words) > 1 else "TERM")
    for entry in call.chosen():
        _kill(entry, number, everyone=call.options.flag("all"))
    return 0


def _kill(entry: Entry, number: int, *, everyone: bool) -> None:
    state = entry.load()
    status = entry.status(state)
    if status == CREATING:
        raise RefusedError("it is being created", f"container {entry.id!r}")
    if everyone:
        groups.signal_all(state.own_cgroup(), number)  # what a stopped one left behind too: nothing else ends that
        return
    if status == STOPPED or state.process is None:
        raise GoneError("container not running", f"container {entry.id!r}")
    state.process.signal(number)
    if number == signal.SIGKILL and state.is_own_cgroup() and not _own_pids(entry):
        groups.kill(state.cgroup)  # its other processes do not die with the first one


def _own_pids(entry: Entry) -> bool:
    spaces = (entry.config().get("linux") or {}).get("namespaces") or ()
    return any(space.get("type") == "pid" and not space.get("path") for space in spaces)


def delete(call: Call) -> int:
    """Remove what stopped containers left."""
    force = call.options.flag("force")
    if len(call.words) > 1:
        raise DefinitionError("one container at a time", "delete")
    for entry in call.chosen():
        try:
            _delete(call, entry, force)
        except GoneError:
            if not force:
                raise
    return 0


def _delete(call: Call, entry: Entry, force: bool) -> None:
    if force:
        try:
            _end(entry.load())  # without the lock: a command that hangs with the container must not keep it alive
        except HostError as error:
            call.log.warning(str(error))
    with entry.lock():
        try:
            state = entry.load()
        except HostError:
            if not force:
                raise
            call.log.warning(f"container {entry.id!r}: where its cgroup was is not known")
            entry.remove()
            return
        except GoneError:  # a directory without a state
            entry.remove()
            raise
        status = entry.status(state, held=True)
        if status not in (STOPPED, CREATED) and not force:
            raise RefusedError(f"cannot delete container {entry.id!r} that is not stopped: {status}")
        destroy(call, entry, state)


def destroy(call: Call, entry: Entry, state: State) -> None:
    """Kill what runs, remove cgroup and state, run the poststop hooks. The lock is the caller's."""
    _end(state)
    if state.is_own_cgroup():
        groups.remove(state.cgroup, state.made)
    elif groups.is_cgroup(state.cgroup) and (state.cgroup_id or not groups.remove_empty(state.cgroup, state.made)):
        call.log.warning(f"{state.cgroup} is not the cgroup that was made for container {entry.id!r}: left alone")
    else:
        groups.remove_made(state.made)
    try:
        spec = entry.config()
    except HostError as error:
        call.log.warning(str(error))
        spec = {}
    entry.remove()
    run_poststop(spec, state.oci(STOPPED), call.log.warning)


def _end(state: State) -> None:
    if state.process is not None:
        try:
            state.process.signal(signal.SIGKILL)
        except GoneError:
            pass
    if state.is_own_cgroup():
        groups.kill(state.cgroup)
