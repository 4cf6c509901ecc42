"""stats and top: what the containers use, once, line by line, or live on a whole terminal."""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any

from supervisor.cli.client import NoDaemonError, query
from supervisor.cli.main import ERROR, Context
from supervisor.cli.screen import Screen, is_screen, screen
from supervisor.cli.terminal import Ended
from supervisor.cli.top import Top
from supervisor.cli.usage import ordered, sorting, table

EVERY = 1.0  # seconds: a flight recorder has no newer row


def stats(context: Context) -> int:
    """Without a terminal it prints one table; `--json` alone goes on line by line."""
    args = context.args
    if context.json and not args.on("no_stream"):
        while True:
            found = _ask(context)
            context.say(json.dumps(found))
            sys.stdout.flush()
            time.sleep(EVERY)
    if args.on("no_stream") or not is_screen():
        return _once(context, "n")
    return _live(context, Top("n", titled=False))


def top(context: Context) -> int:
    key = sorting(context.args.text("sort", "cpu"))
    if context.args.on("once") or context.json or not is_screen():
        return _once(context, key)
    return _live(context, Top(key))


def _ask(context: Context) -> dict[str, Any]:
    names = ",".join(context.args.names) if "all" not in context.args.names else ""
    found: dict[str, Any] = context.client.get(f"/v1/stats{query(names=names or None)}")
    return found


def _once(context: Context, key: str) -> int:
    found = _ask(context)
    rows = ordered(found["stats"], key)
    if context.json:
        context.say(json.dumps({**found, "stats": rows}))
    else:
        for line in table(rows):
            context.say(line)
    for name in found["unknown"]:
        context.warn(f"{name}: ERROR (no such container)")
    return ERROR if found["unknown"] else 0


def _live(context: Context, shown: Top) -> int:
    """Until q or Ctrl-C. A daemon that goes away is waited for: the terminal is for looking."""
    shown.rows = _ask(context)["stats"]
    try:
        with screen() as page:
            _watch(context, shown, page)
    except Ended as ended:
        return 0 if ended.number in (signal.SIGINT, signal.SIGHUP) else 128 + ended.number
    return 0


def _watch(context: Context, shown: Top, page: Screen) -> None:
    due = time.monotonic() + EVERY
    _curves(context, shown)
    while True:
        page.draw(shown.lines(*page.size()))
        key = page.key(due - time.monotonic())
        if key in ("q", "eof", "\x04"):
            return
        if key and key != "resize":
            if shown.key(key):
                _curves(context, shown)
            continue
        if time.monotonic() < due:
            continue
        due = time.monotonic() + EVERY
        try:
            shown.rows = _ask(context)["stats"]
            shown.trouble = ""
        except NoDaemonError as error:
            shown.trouble = str(error)
        _curves(context, shown)


def _curves(context: Context, shown: Top) -> None:
    """The recording of the one that is chosen."""
    shown.recording = {}
    if shown.titled and (name := shown.chosen()):
        from config.errors import WharfError

        try:
            shown.recording = context.client.get(f"/v1/containers/{name}/recording?seconds=60")
        except WharfError:  # gone meanwhile, or the daemon is
            pass
