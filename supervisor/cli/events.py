"""events: what happened, one line each."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from supervisor.cli.client import query
from supervisor.cli.main import Context

RECENT = 20


def events(context: Context) -> int:
    args = context.args
    follow, since = args.on("follow"), args.number("since")
    tail = args.number("tail")
    if follow and tail is None and since is None:
        tail = RECENT
    asked = query(
        since=since,
        follow=1 if follow else None,
        tail=tail,
        type=args.text("type") or None,
        name=args.text("name") or None,
    )
    rest = b""
    for piece in context.client.stream(f"/v1/events{asked}"):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            context.say(line.decode() if context.json else words(json.loads(line)))
        sys.stdout.flush()
    return 0


def words(event: dict[str, Any]) -> str:
    """`12 2026-11-25 05:58:01 web RUNNING -> BACKOFF oom: out of memory`."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(event.get("wall") or 0)))
    before, phase = event.get("before", ""), event.get("phase", "")
    change = f"{before} -> {phase}" if before and before != phase else phase
    text = event.get("text", "")
    return f"{event.get('seq')} {stamp} {event.get('name')} {change} {event.get('code')}" + (
        f": {text}" if text else ""
    )
