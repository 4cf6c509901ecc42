"""The root of all our errors. Each class says whose fault it is, and carries the exit code that a command ends with.

`str()` is always one line, `where: what; hint`, fit for a log, a status line or a JSON answer.
"""

from __future__ import annotations

import errno as _errno
import os

_CUT = 1000


def one_line(text: str, limit: int = _CUT) -> str:
    """`text` on one line: control characters and lone surrogates escaped, at most `limit` characters."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


class WharfError(Exception):
    """Something that an operator should read: `where` it was, `what` it is, a `hint` for what to do."""

    exit_code = 1

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what, where, hint)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return one_line(f"{text}; {self.hint}" if self.hint else text)


class DefinitionError(WharfError):
    """A definition, a setting or an argument is wrong: the caller's fault. Lines and columns start at 1."""

    exit_code = 2

    def __init__(
        self,
        what: str,
        where: str = "",
        hint: str = "",
        *,
        file: str = "",
        line: int = 0,
        column: int = 0,
        container: str = "",
    ) -> None:
        super().__init__(what, where, hint)
        self.container = container  # whose definition it is; empty when the whole file is at fault
        self.file = file
        self.line = line
        self.column = column

    def __str__(self) -> str:
        spot = self.file
        if self.line:
            spot = f"{spot or '<text>'}:{self.line}:{self.column}"
        text = super().__str__()
        return f"{one_line(spot)}: {text}" if spot else text


class RefusedError(WharfError):
    """The state of the container or of the daemon forbids what was asked for."""


class LaunchError(WharfError):
    """A container could not be started: the `operation` that failed, its `path` and its `errno` (0 is unknown)."""

    def __init__(self, operation: str, path: str = "", errno: int = 0, detail: str = "", where: str = "") -> None:
        reason = f"{os.strerror(errno)} ({_errno.errorcode.get(errno, errno)})" if errno else ""
        what = " ".join(part for part in (operation, path) if part)
        super().__init__(": ".join(part for part in (what, reason, detail) if part), where)
        self.operation = operation
        self.path = path
        self.errno = errno
        self.detail = detail


class HostError(WharfError):
    """The kernel, the disk or another program of this host failed us."""


class GoneError(WharfError):
    """What was asked about has ended or vanished: an answer; the caller decides what it means."""
