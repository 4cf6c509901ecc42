"""The daemon's log: one line an event on stderr, `key=value`, the most important first.

The service manager keeps the lines and their time; a time of our own is written only where nobody does.
Untrusted text is quoted, escaped and cut, so that no container can forge a line or fill the disk.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from config.errors import one_line

CUT = 400  # characters of one value
LINE = 2000  # characters of one line
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@+%,")


def value(text: object) -> str:
    """One value as it stands in a line: bare when harmless, else quoted."""
    shown = str(text)
    if shown and len(shown) <= CUT and _PLAIN.issuperset(shown):
        return shown
    return '"' + one_line(shown, CUT).replace("\\", "\\\\").replace('"', '\\"') + '"'


def fields(**pairs: object) -> str:
    """`container=web generation=3 text="exit 1"`; pairs that are None are left out."""
    return " ".join(f"{key}={value(item)}" for key, item in pairs.items() if item is not None)


class LineFormatter(logging.Formatter):
    """`level=info logger=keeper message`; a trace stays on the line of its event, escaped."""

    def __init__(self, timestamps: bool) -> None:
        super().__init__()
        self._timestamps = timestamps

    def format(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        parts = [f"level={record.levelname.lower()}", one_line(message, LINE)]
        if record.exc_info and record.exc_info[0] is not None:
            parts.append("trace=" + value(_short_trace(self.formatException(record.exc_info))))
        if self._timestamps:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            parts.insert(0, f"{stamp}.{int(record.msecs):03d}Z")
        return " ".join(parts)


def _short_trace(text: str) -> str:
    """The end of a trace, where the fault is."""
    return text if len(text) <= CUT else "..." + text[-(CUT - 3) :]


def setup(
    level: str = "info", stream: TextIO | None = None, environment: Mapping[str, str] = os.environ
) -> logging.Logger:
    """Send the loggers below `wharfinger` to stderr. Returns the top one; a second call replaces the first."""
    out = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        LineFormatter(timestamps="JOURNAL_STREAM" not in environment and "INVOCATION_ID" not in environment)
    )
    top = logging.getLogger("wharfinger")
    top.handlers[:] = [handler]
    top.propagate = False
    top.setLevel(LEVELS.get(level.lower(), logging.INFO))
    logging.raiseExceptions = False  # a broken stderr must not become a fault of the daemon
    return top
