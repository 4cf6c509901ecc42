"""reread, update: the definitions, in supervisorctl's words."""

from __future__ import annotations

import json
from typing import Any

from supervisor.cli.main import ERROR, Context

NOTHING = "No config updates to containers"
LIMIT = 60.0
REREAD = (("available", "available"), ("changed", "changed"), ("disappeared", "disappeared"))
UPDATE = (("removed", "removed"), ("live", "updated"), ("restarted", "updated (restarted)"), ("added", "added"))


def reread(context: Context) -> int:
    return _show(context, context.client.post("/v1/reread", timeout=LIMIT), REREAD)


def update(context: Context) -> int:
    return _show(context, context.client.post("/v1/update", timeout=LIMIT), UPDATE)


def _show(context: Context, found: dict[str, Any], words: tuple[tuple[str, str], ...]) -> int:
    errors = found.get("errors", [])
    if context.json:
        context.say(json.dumps(found))
        return ERROR if errors else 0
    lines = [f"{name}: {word}" for key, word in words for name in found.get(key, ())]
    for line in lines or ([] if errors else [NOTHING]):
        context.say(line)
    for error in errors:
        context.warn(f"ERROR: {error}")
    return ERROR if errors else 0
