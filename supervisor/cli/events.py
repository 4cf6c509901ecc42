"""events: what happened, one line each."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

from supervisor.cli.client import query
from supervisor.cli.main import Context

RECENT = 20


def events(context: Context) -> int:
    args = context.args
    if args.on("schema"):
        from supervisor.topics import schema  # only here: it costs start-up

        context.say(json.dumps(schema(), indent=2))
        return 0
    follow, since = args.on("follow"), _since(args.text("since"))
    tail = args.number("tail")
    if follow and tail is None and not since:
        tail = RECENT
    asked = query(
        since=since or None,
        follow=1 if follow else None,
        tail=tail,
        type=args.text("type") or None,
        cause=args.text("cause") or None,
        name=args.text("name") or None,
    )
    rest = b""
    for piece in context.client.stream(f"/v1/events{asked}"):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            context.say(line.decode() if context.json else words(json.loads(line)))
        sys.stdout.flush()
    return 0


def _since(text: str) -> str:
    """A time without a zone is of this host's clock."""
    try:
        at = None if text.isdigit() else datetime.fromisoformat(text)
    except ValueError:
        return text
    return text if at is None else at.astimezone(UTC).isoformat()


def words(event: dict[str, Any]) -> str:
    """`12 2026-11-25 05:58:01 restart-scheduled web RUNNING -> BACKOFF oom: oom-killed, retry 1 in 1s`."""
    if event.get("type") == "gap":
        return f"-- {event.get('text')}"
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(event.get("wall") or 0)))
    before, phase = event.get("before", ""), event.get("phase", "")
    change = f"{before} -> {phase}" if before and before != phase else phase
    said = ": ".join(filter(None, (event.get("code"), event.get("text"))))
    return " ".join(filter(None, (str(event.get("seq")), stamp, event.get("type"), event.get("name"), change, said)))
