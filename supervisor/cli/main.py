"""`wharfctl`: finds the command, runs it, and turns whatever happens into one line and an exit code.

Exit codes (supervisorctl's, without its faults; docs/wharfctl.md): 0 done, 1 error, 2 wrong arguments, 3 `status` shows
something that is not as it shall be, 4 unknown name or no daemon for `status`, 7 not running or not started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from config.errors import WharfError
from supervisor.cli.args import Args, UsageError, parse
from supervisor.cli.client import DEFAULT_SOCKET, Client, NoDaemonError, RefusalError

ERROR, USAGE, NOT_THERE, UNKNOWN, NOT_RUNNING = 1, 2, 3, 4, 7
NO_DAEMON = {"status": UNKNOWN, "reread": ERROR, "update": ERROR, "reload": ERROR, "version": ERROR}

Run = Callable[["Context"], int]


class Context:
    """What a command works with."""

    def __init__(self, args: Args, client: Client) -> None:
        self.args = args
        self.client = client
        self.json = args.on("json")

    def say(self, line: str) -> None:
        sys.stdout.write(line + "\n")

    def warn(self, line: str) -> None:
        sys.stdout.flush()  # so that the order is the same in one terminal
        sys.stderr.write(line + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Never raises, never prints a trace."""
    try:
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")
        code = _main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _silence()
        return 141
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        _complain(f"wharfctl: {error.strerror or error}")
        _silence()
        return ERROR
    except Exception as error:  # noqa: BLE001  a trace helps nobody at three in the morning
        _complain(f"wharfctl: internal error: {type(error).__name__}: {error}")
        return ERROR


def _main(argv: Sequence[str]) -> int:
    try:
        args = parse(argv)
    except UsageError as error:
        sys.stderr.write(f"wharfctl: {error}\n")
        return USAGE
    socket = args.text("socket") or os.environ.get("WHARFINGER_SOCKET") or DEFAULT_SOCKET
    context = Context(args, Client(socket.removeprefix("unix://")))
    try:
        return _run(args)(context)
    except UsageError as error:
        context.warn(f"wharfctl: {error}")
        return USAGE
    except NoDaemonError as error:
        context.warn(str(error))
        return NO_DAEMON.get(args.command.name if args.command else "", NOT_RUNNING)
    except RefusalError as error:
        context.warn(f"ERROR: {error}")
        return code_of(error)
    except WharfError as error:
        context.warn(f"ERROR: {error}")
        return error.exit_code


def _run(args: Args) -> Run:
    where = "help:show"
    if args.on("version"):
        where = "status:own_version"
    elif args.command is not None and not args.on("help"):
        where = args.command.run
    module, _, name = where.partition(":")
    found: Run = getattr(import_module(f"supervisor.cli.{module}"), name)
    return found


def code_of(refusal: RefusalError) -> int:
    if refusal.code in ("spawn error", "abnormal termination", "not running", "timeout"):
        return NOT_RUNNING
    return UNKNOWN if refusal.code == "forbidden" else ERROR


def _complain(line: str) -> None:
    try:
        sys.stderr.write(line + "\n")
    except OSError:
        pass


def _silence() -> None:
    """So that the interpreter's own flush at the end has nothing to complain about."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())
