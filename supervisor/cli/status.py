"""status, pid, version: what the daemon knows now."""

from __future__ import annotations

import json
from typing import Any

from supervisor.cli.client import RefusalError
from supervisor.cli.main import ERROR, NOT_RUNNING, NOT_THERE, UNKNOWN, Context

NAME_COLUMN, STATE_COLUMN = 33, 10  # supervisorctl's


def status(context: Context) -> int:
    """3 when something is not as it shall be, 4 for an unknown name."""
    found = context.client.get("/v1/containers")
    containers, unknown = _chosen(found["containers"], context.args.names)
    if context.json:
        found["containers"] = containers
        found["unknown"] = unknown
        context.say(json.dumps(found))
    else:
        width = max([NAME_COLUMN, *(len(one["name"]) + 3 for one in containers)])
        for one in containers:
            line = f"{one['name']:<{width}}{one['state']:<{STATE_COLUMN}}{one['description']}"
            context.say(line.rstrip())
        for name in unknown:
            context.say(f"{name}: ERROR (no such container)")
        if not context.args.names:
            for problem in found.get("problems", ()):
                context.warn(f"problem: {problem}")
    if unknown:
        return UNKNOWN
    return 0 if all(one["ok"] for one in containers) else NOT_THERE


def _chosen(containers: list[dict[str, Any]], names: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    if not names or "all" in names:
        return containers, []
    by_name = {one["name"]: one for one in containers}
    return [by_name[n] for n in names if n in by_name], [n for n in names if n not in by_name]


def pid(context: Context) -> int:
    """The daemon's without a name. 0 and exit code 7 for what does not run."""
    if not context.args.names:
        number = context.client.get("/v1/version")["pid"]
        context.say(json.dumps({"pid": number}) if context.json else str(number))
        return 0
    containers, unknown = _chosen(context.client.get("/v1/containers")["containers"], context.args.names)
    if context.json:
        context.say(json.dumps({one["name"]: one["pid"] for one in containers}))
    else:
        for one in containers:
            context.say(str(one["pid"] or 0))
    for name in unknown:
        context.warn(f"No such container {name}")
    if unknown:
        return ERROR
    idle = "all" not in context.args.names and any(not one["pid"] for one in containers)
    return NOT_RUNNING if idle else 0


def version(context: Context) -> int:
    try:
        found = context.client.get("/v1/version")
    except RefusalError as error:
        context.warn(f"ERROR: {error}")
        return ERROR
    context.say(json.dumps(found) if context.json else str(found["version"]))
    return 0


def own_version(context: Context) -> int:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        number = installed("wharfinger")
    except PackageNotFoundError:
        number = "unknown (not installed)"
    context.say(json.dumps({"version": number}) if context.json else f"wharfctl {number}")
    return 0
