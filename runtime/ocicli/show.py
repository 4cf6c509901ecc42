"""`state`, `list`, `ps`: what there is. Quick to import: engines ask often."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from config.errors import DefinitionError, GoneError, WharfError
from runtime.ocicli.log import say
from runtime.ocicli.store import STOPPED

if TYPE_CHECKING:
    from runtime.ocicli.main import Call


def state(call: Call) -> int:
    """Print the state of one container."""
    entry = call.entry
    found = entry.load()
    say(json.dumps(found.shown(entry.status(found)), indent=2))
    return 0


def list_(call: Call) -> int:
    """Print all containers: a table, their ids, or JSON."""
    from runtime.ocicli.store import entries

    form = _format(call)
    rows: list[dict[str, Any]] = []
    for entry in entries(call.root):
        try:
            found = entry.load()
            rows.append(found.shown(entry.status(found)))
        except GoneError:
            continue  # deleted meanwhile
        except WharfError as error:
            call.log.error(str(error))
    if call.options.flag("quiet"):
        for row in rows:
            say(row["id"])
    elif form == "json":
        say(json.dumps(rows))
    else:
        _table(
            ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"),
            [tuple(str(row[key]) for key in ("id", "pid", "status", "bundle", "created", "owner")) for row in rows],
        )
    return 0


def _format(call: Call) -> str:
    form = call.options.text("format", "table")
    if form not in ("table", "json"):
        raise DefinitionError(f"{form!r} is neither table nor json", "--format")
    return form


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        say("   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def ps(call: Call) -> int:
    """Print the processes of a container: pids in JSON, or what ps(1) tells of them."""
    from runtime.ocicli.groups import processes

    form = _format(call)
    entry = call.entry
    found = entry.load()
    if entry.status(found) == STOPPED and not processes(found.cgroup):
        raise GoneError("container not running", f"container {entry.id!r}")
    pids = processes(found.cgroup)
    if form == "json":
        say(json.dumps(pids))
    else:
        _ps_table(pids, call.words[1:] or ["-ef"])
    return 0


def _ps_table(pids: list[int], options: list[str]) -> None:
    """The lines of ps(1) that are about `pids`; where it is missing, the pids and command names."""
    import subprocess

    try:
        output = subprocess.run(["ps", *options], check=True, capture_output=True, text=True, errors="replace").stdout
    except (OSError, subprocess.CalledProcessError) as error:
        if isinstance(error, subprocess.CalledProcessError):
            raise DefinitionError(f"ps says: {error.stderr.strip()}", "ps options") from None
        _table(("PID", "CMD"), [(str(pid), _command(pid)) for pid in pids])
        return
    head, *lines = output.splitlines() or [""]
    if "PID" not in head.split():
        raise DefinitionError("ps must print a column PID", "ps options")
    at = head.split().index("PID")
    wanted = {str(pid) for pid in pids}
    say(head)
    for line in lines:
        fields = line.split()
        if len(fields) > at and fields[at] in wanted:
            say(line)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read()).rstrip("\n")
    except OSError:
        return "?"
