"""`start`: let the program of a created container run. Quick to import."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from config.errors import GoneError, HostError, LaunchError, RefusedError
from runtime import launchlink
from runtime.ocicli import groups
from runtime.ocicli.hooks import run_hooks
from runtime.ocicli.store import CREATED, PAUSED, RUNNING, STARTING, STOPPED, Entry, State

if TYPE_CHECKING:
    from runtime.ocicli.main import Call

GATE = "start.sock"


def start(call: Call) -> int:
    """Let the program of a created container run."""
    entry = call.entry
    with entry.lock():
        state = entry.load()
        status = entry.status(state, held=True)
        if status != CREATED or state.process is None:
            words = {STOPPED: "has stopped", RUNNING: "is running already", PAUSED: "is paused"}
            raise RefusedError(f"cannot start a container that {words.get(status, 'is ' + status)}", entry.id)
        state.phase = STARTING
        entry.save(state)
        try:
            launchlink.start(f"{entry.path}/{GATE}")
        except GoneError:
            raise RefusedError("cannot start a container that has stopped", entry.id) from None
        except LaunchError as error:
            groups.kill(state.own_cgroup())
            raise known(error) from None
        state.phase = RUNNING
        entry.save(state)
        with suppress(OSError):
            os.unlink(f"{entry.path}/{GATE}")
    poststart(entry, state)
    return 0


def poststart(entry: Entry, state: State) -> None:
    """Run the poststart hooks. Raises HostError when one fails; the container is killed then."""
    try:
        run_hooks(entry.config(), "poststart", state.oci(RUNNING))
    except HostError:
        groups.kill(state.own_cgroup())
        raise


def known(error: LaunchError) -> LaunchError:
    """Engines read from the text whether the program was not found (exit code 127) or not allowed (126)."""
    if error.operation == "EXEC" and error.errno == 2 and "/" not in error.path:
        return LaunchError("EXEC", error.path, error.errno, "executable file not found in $PATH")
    return error
