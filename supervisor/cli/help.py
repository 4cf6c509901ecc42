"""help, in general and of one command."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.cli.args import UsageError
from supervisor.cli.main import Context
from supervisor.cli.table import COMMANDS, GLOBAL, Command, Option, command


def show(context: Context) -> int:
    """`help`, `help NAME`, `NAME --help`."""
    args = context.args
    chosen = args.command if args.command is not None and args.command.name != "help" else None
    if chosen is None and args.names:
        chosen = command(args.names[0])
        if chosen is None:
            raise UsageError(f"unknown command: {args.names[0]}")
    for line in _of(chosen) if chosen else _all():
        context.say(line)
    return 0


def _all() -> list[str]:
    lines = ["usage: wharfctl [--json] [--socket PATH] COMMAND ...", "", "commands:"]
    lines += [f"  {one.usage:<36}{one.help}" for one in COMMANDS]
    lines += ["", "options:", *_options(GLOBAL), "", "wharfctl help COMMAND shows the options of a command."]
    return lines


def _of(one: Command) -> list[str]:
    lines = [f"usage: wharfctl {one.usage}", "", one.help[:1].upper() + one.help[1:] + "."]
    if one.options:
        lines += ["", "options:", *_options(one.options)]
    return lines


def _options(options: Iterable[Option]) -> list[str]:
    lines = []
    for one in options:
        flags = ", ".join(one.flags) + (f" {one.value}" if one.value else "")
        lines.append(f"  {flags:<26}{one.help}")
    return lines
