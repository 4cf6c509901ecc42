"""`wharf-oci [OPTIONS] COMMAND [OPTIONS] [WORDS]`: reads the line, runs the command, tells what went wrong."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from config.errors import DefinitionError, WharfError
from runtime.ocicli import args, commands
from runtime.ocicli.log import Log, say
from runtime.ocicli.store import DEFAULT_ROOT, Entry, entries

EXEC_FAILED = 255  # what `exec` ends with when nothing was run, as runc's does


class Call:
    """One command line, read."""

    __slots__ = ("log", "name", "options", "root", "systemd", "words")

    def __init__(self, name: str, root: str, log: Log, options: args.Values, words: list[str], systemd: bool) -> None:
        self.name = name
        self.root = root
        self.log = log
        self.options = options
        self.words = words
        self.systemd = systemd

    @property
    def entry(self) -> Entry:
        """The container that the first word names."""
        return Entry(self.root, self.words[0])

    def chosen(self) -> list[Entry]:
        """The container, or with --regex all whose ids it fits."""
        if not self.options.flag("regex"):
            return [self.entry]
        import re

        try:
            pattern = re.compile(self.words[0])
        except re.error as error:
            raise DefinitionError(f"{self.words[0]!r} is no regular expression: {error}", "--regex") from None
        return [entry for entry in entries(self.root) if pattern.search(entry.id)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    log = Log()
    name = ""
    try:
        options, rest = args.parse(words, commands.GLOBAL, ordered=True)
        if options.flag("version") or rest[:1] == ["version"]:
            return _version()
        if options.flag("help") or not rest or rest[0] == "help":
            say(_help())
            return 0
        log = Log(options.text("log"), options.text("log-format"), options.flag("debug"))
        name = rest[0]
        call, command = _read(name, rest[1:], options, log)
        if call is None:
            return 0
        code = command(call)
        sys.stdout.flush()
        return code
    except WharfError as error:
        log.error(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes stdout once more at its end
    except OSError as error:
        log.error(f"{error.filename or name}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130
    return EXEC_FAILED if name == "exec" else 1


def _read(name: str, words: list[str], given: args.Values, log: Log) -> tuple[Call | None, Callable[[Call], int]]:
    command = commands.COMMANDS.get(name)
    if command is None:
        raise DefinitionError(f"unknown command {name!r}", hint="see --help")
    options, rest = args.parse(words, command.options, ordered=command.ordered)
    if options.flag("help"):
        say(args.usage(f"usage: wharf-oci {name} [OPTIONS] {command.words}\n\n{command.help}", command.options))
        return None, lambda _: 0
    if len(rest) < command.least or (command.most is not None and len(rest) > command.most):
        raise DefinitionError(f"usage: wharf-oci {name} [OPTIONS] {command.words}".rstrip())
    manager = given.text("cgroup-manager", "cgroupfs")
    if manager not in ("cgroupfs", "systemd"):
        raise DefinitionError(f"{manager!r} is not supported", "--cgroup-manager", "cgroupfs is")
    root = os.path.abspath(given.text("root") or DEFAULT_ROOT)
    call = Call(name, root, log, options, rest, manager == "systemd" or given.flag("systemd-cgroup"))
    module, _, function = command.where.partition(":")
    run: Callable[[Call], int] = getattr(importlib.import_module(f"runtime.ocicli.{module}"), function)
    return call, run


def _help() -> str:
    lines = [args.usage("usage: wharf-oci [OPTIONS] COMMAND [OPTIONS] [WORDS]", commands.GLOBAL), "", "commands:"]
    lines += [f"  {name:<10} {command.help}" for name, command in commands.COMMANDS.items()]
    return "\n".join([*lines, "", "`wharf-oci COMMAND --help` tells the options of one."])


def _version() -> int:
    from importlib.metadata import version

    say(f"wharf-oci version {version('wharfinger')}\nspec: 1.3.0")
    return 0


def entry() -> None:
    """The program. It ends at once: the interpreter would take down every module first, which takes 7 ms."""
    code = main()
    try:
        sys.stdout.flush()
    except OSError:
        code = code or 1
    os._exit(code)


if __name__ == "__main__":
    entry()
