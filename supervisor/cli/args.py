"""Arguments of the command line by the table. (argparse costs as much start-up as all the rest.)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from config.errors import WharfError
from supervisor.cli.table import GLOBAL, Command, Option, command


class UsageError(WharfError):
    """The command line is wrong; exit code 2, as supervisorctl's."""

    exit_code = 2


class Args:
    """What was typed. `names` are the arguments that are no options."""

    __slots__ = ("command", "given", "names")

    def __init__(self) -> None:
        self.command: Command | None = None
        self.given: dict[str, list[str]] = {}
        self.names: list[str] = []

    def on(self, key: str) -> bool:
        return key in self.given

    def text(self, key: str, default: str = "") -> str:
        return self.given[key][-1] if key in self.given else default

    def all(self, key: str) -> list[str]:
        return self.given.get(key, [])

    def number(self, key: str) -> int | None:
        """Raises UsageError."""
        if key not in self.given:
            return None
        text = self.given[key][-1]
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise UsageError(f"--{key}: not a number: {text}")
        return int(text)

    def seconds(self, key: str) -> float | None:
        if key not in self.given:
            return None
        try:
            found = float(self.given[key][-1])
        except ValueError:
            found = -1.0
        if not 0 <= found <= 3600:
            raise UsageError(f"--{key}: 0 to 3600 seconds, not {self.given[key][-1]}")
        return found


def parse(argv: Sequence[str]) -> Args:
    """Options may stand anywhere; after `--`, and in `exec` after the container's name, nothing is an option.

    Raises UsageError.
    """
    args = Args()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            args.names += rest
            break
        if len(word) > 1 and word.startswith("-"):
            _option(args, word, rest)
        elif args.command is None:
            args.command = command(word)
            if args.command is None:
                raise UsageError(f"unknown command: {word}", hint="wharfctl help lists the commands")
        else:
            args.names.append(word)
            if args.command.name == "exec" and rest:
                args.names += rest[1:] if rest[0] == "--" else rest
                break
    _count(args)
    return args


def _count(args: Args) -> None:
    wanted = args.command
    if wanted is None or args.on("help"):
        return
    if len(args.names) < wanted.least:
        raise UsageError(f"{wanted.name} requires {wanted.missing}", hint=f"usage: wharfctl {wanted.usage}")
    if len(args.names) > wanted.most:
        raise UsageError(f"too many arguments: {args.names[wanted.most]}", hint=f"usage: wharfctl {wanted.usage}")


def _option(args: Args, word: str, rest: list[str]) -> None:
    if args.command is not None and args.command.name == "tail" and word[1:].isdigit():
        args.given.setdefault("bytes", []).append(word[1:])
        return
    known = [*GLOBAL, *(args.command.options if args.command else ())]
    flag, equals, value = word.partition("=")
    if not word.startswith("--") and len(word) > 2:
        flag, equals, value = _short(word, known)
    option = next((one for one in known if flag in one.flags), None)
    if option is None:
        of = f" of {args.command.name}" if args.command else ""
        raise UsageError(f"unknown option{of}: {flag}", hint="wharfctl help COMMAND lists them")
    if not option.value:
        if equals:
            raise UsageError(f"{flag} takes no value")
        args.given.setdefault(option.key, []).append("")
        if not word.startswith("--") and len(word) > 2:  # -ft
            _option(args, "-" + word[2:], rest)
        return
    if not equals:
        if not rest:
            raise UsageError(f"{flag} needs {option.value}")
        value = rest.pop(0)
    args.given.setdefault(option.key, []).append(value)


def _short(word: str, known: Iterable[Option]) -> tuple[str, str, str]:
    """`-n20` is `-n 20`; of `-ft` the first."""
    flag = word[:2]
    takes = any(flag in one.flags and one.value for one in known)
    return (flag, "=", word[2:].removeprefix("=")) if takes else (flag, "", "")
