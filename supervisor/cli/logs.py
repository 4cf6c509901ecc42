"""logs, tail: bytes of the container's log, as they are."""

from __future__ import annotations

import sys

from supervisor.cli.args import UsageError
from supervisor.cli.client import query, quoted
from supervisor.cli.main import Context

TAIL_BYTES = 1600  # supervisorctl's
STREAMS = ("stdout", "stderr")


def logs(context: Context) -> int:
    args = context.args
    stream = args.text("stream") or None
    if stream is not None and stream not in STREAMS:
        raise UsageError(f"--stream: stdout or stderr, not {stream}")
    return _copy(
        context,
        query(
            tail=args.number("tail"),
            follow=1 if args.on("follow") else None,
            timestamps=1 if args.on("timestamps") else None,
            stream=stream,
            format="json" if context.json else None,
        ),
    )


def tail(context: Context) -> int:
    args = context.args
    follow = args.on("follow")
    if follow and sys.stdout.isatty():
        context.say("==> Press Ctrl-C to exit <==")
    size = args.number("bytes")
    return _copy(
        context,
        query(
            bytes=TAIL_BYTES if size is None else size,
            follow=1 if follow else None,
            format="json" if context.json else None,
        ),
    )


def _copy(context: Context, asked: str) -> int:
    sys.stdout.flush()
    out = sys.stdout.buffer
    for piece in context.client.stream(f"/v1/containers/{quoted(context.args.names[0])}/logs{asked}"):
        out.write(piece)
        out.flush()
    return 0
