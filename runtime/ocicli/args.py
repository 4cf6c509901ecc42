"""A reader of runc's kind of command line: global options, a command, its options, words. Quick to import.

Options may stand between words, unless the command says that everything behind its first word is another program's.
`--name value`, `--name=value`, `-n value`, `-nvalue`; one dash before a long name is taken as well, as runc does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from config.errors import DefinitionError

FLAG, TEXT, NUMBER, LIST = "flag", "text", "number", "list"
_TRUE, _FALSE = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no"})


class Option:
    """One option. `names` without dashes, the first is its key; one letter is a short one."""

    __slots__ = ("help", "kind", "names")

    def __init__(self, names: str, kind: str, help: str) -> None:  # noqa: A002
        self.names = names.split()
        self.kind = kind
        self.help = help


class Values:
    """The options that were given."""

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[str, list[str]]) -> None:
        self._given = given

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def flag(self, name: str) -> bool:
        return self._given.get(name, ["false"])[-1] == "true"

    def text(self, name: str, default: str = "") -> str:
        return self._given.get(name, [default])[-1]

    def texts(self, name: str) -> list[str]:
        return self._given.get(name, [])

    def number(self, name: str) -> int | None:
        """None when it was not given."""
        given = self._given.get(name)
        return parse_number(given[-1], f"--{name}") if given else None


def parse_number(text: str, where: str, low: int = -(2**63), high: int = 2**64 - 1) -> int:
    """Decimal digits and nothing else: a number that is half understood has made root of users (CVE-2026-30892)."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20 and low <= int(text) <= high):
        raise DefinitionError(f"{text!r} is not a whole number" + (f" from {low}" if low == 0 else ""), where)
    return int(text)


def parse(words: Sequence[str], options: Iterable[Option], *, ordered: bool) -> tuple[Values, list[str]]:
    """Options and other words. `ordered`: the first other word ends the options. Raises DefinitionError."""
    known = {name: option for option in options for name in option.names}
    given: dict[str, list[str]] = {}
    rest: list[str] = []
    todo = list(words)
    while todo:
        word = todo.pop(0)
        if word == "--":
            return Values(given), rest + todo
        if len(word) < 2 or not word.startswith("-"):
            rest.append(word)
            if ordered:
                return Values(given), rest + todo
            continue
        name, equals, value = word.lstrip("-").partition("=")
        option = known.get(name)
        if option is None and not word.startswith("--"):
            option, equals, value = _bundled(word, known, todo)
        if option is None:
            raise DefinitionError(f"unknown option {word.partition('=')[0]!r}", hint="see --help")
        if option.kind == FLAG:
            if equals and value not in _TRUE | _FALSE:
                raise DefinitionError(f"{value!r} is neither true nor false", word.partition("=")[0])
            value = "false" if equals and value in _FALSE else "true"
        elif not equals:
            if not todo:
                raise DefinitionError("needs a value", word)
            value = todo.pop(0)
        given.setdefault(option.names[0], []).append(value)
    return Values(given), rest


def _bundled(word: str, known: Mapping[str, Option], todo: list[str]) -> tuple[Option | None, str, str]:
    """`-uVALUE`, and `-it` for `-i -t`: the first of them, the rest goes back to `todo`."""
    option = known.get(word[1])
    if option is None or option.kind != FLAG:
        return option, "=", word[2:]
    if word[2:3] == "=":
        return option, "=", word[3:]
    todo.insert(0, f"-{word[2:]}")
    return option, "", ""


def usage(head: str, options: Iterable[Option]) -> str:
    """The text of --help."""
    lines = [head, ""]
    for option in options:
        names = ", ".join(f"-{n}" if len(n) == 1 else f"--{n}" for n in sorted(option.names, key=len))
        value = "" if option.kind == FLAG else f" {option.kind.upper().replace('LIST', 'TEXT')}"
        lines.append(f"  {names + value:<34} {option.help}")
    return "\n".join(lines)
