"""Errors and warnings: on stderr, and where --log says, in the words that engines read there. Quick to import."""

from __future__ import annotations

import json
import os
import sys

from config.errors import DefinitionError, HostError
from runtime.ocicli.store import now


class Log:
    """`file`: "" for stderr alone. `form`: text or json. Raises DefinitionError, HostError (it cannot be made)."""

    __slots__ = ("_debug", "_fd", "_json")

    def __init__(self, file: str = "", form: str = "", debug: bool = False) -> None:
        if form not in ("", "text", "json"):
            raise DefinitionError(f"{form!r} is neither text nor json", "--log-format")
        self._json = form == "json"
        self._debug = debug
        self._fd = -1
        if file:
            try:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
                self._fd = os.open(file.removeprefix("file:"), flags, 0o644)
            except OSError as error:
                raise HostError(f"cannot be opened: {error.strerror}", f"--log {file}") from None

    def error(self, text: str) -> None:
        self._tell("error", text, aloud=True)

    def warning(self, text: str) -> None:
        self._tell("warning", text, aloud=self._fd < 0)

    def debug(self, text: str) -> None:
        if self._debug:
            self._tell("debug", text, aloud=self._fd < 0)

    def _tell(self, level: str, text: str, aloud: bool) -> None:
        if self._json:
            line = json.dumps({"level": level, "msg": text, "time": now()})
        else:
            line = f'time="{now()}" level={level} msg={json.dumps(text)}'
        try:
            if self._fd >= 0:
                os.write(self._fd, f"{line}\n".encode())
            if aloud:
                plain = line if self._json and self._fd < 0 else f"wharf-oci: {text}"
                os.write(2, f"{plain}\n".encode())
        except OSError:
            pass  # nobody listens: the exit code tells


def say(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(f"{text}\n")
