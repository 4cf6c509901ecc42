"""The types that fields of definitions are made of: each takes what an operator writes and says what is wrong with it.

A definition comes as text (`Plain` for an unquoted word of YAML), or as Python values when code builds a container.
So a field decides what a word means: `1.10` is a version where text is wanted and a number where a number is.
Pure: no file, clock or environment is read here.
"""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from config import quantity

MAX_TEXT = 131_071  # MAX_ARG_STRLEN of Linux, without the NUL
Path = tuple[str | int, ...]
_N = TypeVar("_N", int, float, Decimal)


class Plain(str):
    """The text of an unquoted scalar of YAML, exactly as the file has it."""

    __slots__ = ()


class Part(BaseModel):
    """Base of all definition models: frozen, strict about keys, silent about values in errors (they may be secrets)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True, hide_input_in_errors=True
    )


def problem(text: str, at: Path = ()) -> PydanticCustomError:
    """An error that an operator reads as it is; `at` is the key below the validated value that it is about."""
    return PydanticCustomError("wharfinger", "{text}", {"text": text, "at": at})


def problems(found: list[tuple[Path, str]]) -> PydanticCustomError:
    """Several errors of one model, each with its key."""
    text = "; ".join(text for _, text in found)
    return PydanticCustomError("wharfinger", "{text}", {"text": text, "all": tuple(found)})


def quote(text: object, limit: int = 60) -> str:
    """`text` in double quotes, on one line, cut."""
    raw = str(text)
    shown = raw if len(raw) <= limit else raw[:limit] + "..."
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown) + '"'


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    table = {k.lower().replace("-", "_"): k for k in known}
    found = difflib.get_close_matches(word[:100].lower().replace("-", "_"), list(table), n=1, cutoff=0.6)
    return table[found[0]] if found else None


def kind(value: object) -> str:
    """What a value is, in an operator's words."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return "text" if isinstance(value, str) else "a number" if isinstance(value, int | float) else type(value).__name__


def check_text(text: str) -> str:
    """Refuse what no argument, variable or path of a process can hold."""
    if "\0" in text:
        raise problem("must not hold a NUL byte")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise problem("must be valid Unicode; it has half of a surrogate pair") from None
    if size > MAX_TEXT:
        raise problem(f"is {size} bytes long; the kernel takes at most {MAX_TEXT}")
    return text


def text(value: object) -> str:
    """Any text; a number is taken as it is written."""
    if isinstance(value, str):
        return check_text(str(value))
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    raise problem(f"must be text, not {kind(value)}")


def line(value: object) -> str:
    """Text without control characters, not empty: fit for names and paths."""
    word = text(value)
    if not word:
        raise problem("must not be empty")
    if any(ord(c) < 32 or ord(c) == 127 for c in word):
        raise problem("must not hold a line break or another control character")
    return word


def argv(value: object) -> tuple[str, ...]:
    """A list of arguments; a single text is split as a shell splits words, but no shell runs."""
    if isinstance(value, str):
        whole_text = check_text(str(value))
        try:
            words = shlex.split(whole_text)
        except ValueError as e:
            raise problem(f"cannot be split into words: {str(e).lower()}") from None
        if not words:
            raise problem("must not be empty")
        return tuple(words)
    if not isinstance(value, list | tuple):
        raise problem(f"must be a list of arguments or a text, not {kind(value)}")
    if not value:
        raise problem("must not be empty")
    found: list[tuple[Path, str]] = []
    out = []
    for i, item in enumerate(value):
        try:
            out.append(text(item))
        except PydanticCustomError as e:
            found.append(((i,), e.message()))
    if found:
        raise problems(found)
    if not out[0]:
        raise problem("must not be empty", (0,))
    return tuple(out)


def flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, Plain) and value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return value.lower() == "true"
    raise problem(f"must be true or false, not {quote(value) if isinstance(value, str) else kind(value)}")


_INT = re.compile(r"[+-]?[0-9]{1,20}|0x[0-9a-fA-F]{1,16}|0o[0-7]{1,22}", re.ASCII)


def integer(value: object) -> int:
    """A whole number: YAML 1.2's decimal, 0x and 0o."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _INT.fullmatch(value):
        return int(value, 0) if value[:2] in ("0x", "0o") else int(value)
    raise problem(f"must be a whole number, not {quote(value) if isinstance(value, str) else kind(value)}")


def whole(low: int, high: int) -> BeforeValidator:
    """A whole number from `low` to `high`."""

    def check(value: object) -> int:
        return whole_number(value, low, high)

    return BeforeValidator(check, json_schema_input_type=Annotated[int, Field(ge=low, le=high)])


def whole_number(value: object, low: int, high: int) -> int:
    out = integer(value)
    if not low <= out <= high:
        raise problem(f"must be from {low} to {high}, not {out}")
    return out


_NUMBER = r"[0-9]{1,12}(\.[0-9]{1,12})?"


def number(low: float, high: float) -> BeforeValidator:
    """A number from `low` to `high`."""

    def check(value: object) -> float:
        numeric = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        if not numeric and not (isinstance(value, str) and re.fullmatch(_NUMBER, value, re.ASCII)):
            raise problem(f"must be a number, not {quote(value) if isinstance(value, str) else kind(value)}")
        out = float(str(value)[:40])
        if not low <= out <= high:
            raise problem(f"must be from {low:g} to {high:g}, not {out:g}")
        return out

    return BeforeValidator(check, json_schema_input_type=Annotated[float, Field(ge=low, le=high)])


def one_of(literal: Any, aliases: Mapping[str, str] | None = None) -> BeforeValidator:
    """One of the words of a Literal, or an alias of one."""
    words: tuple[str, ...] = get_args(literal)
    other = dict(aliases or {})

    def check(value: object) -> str:
        if isinstance(value, str):
            word = other.get(value, str(value))
            if word in words:
                return word
            near = nearest(value, [*words, *other])
            hint = f', did you mean "{near}"?' if near else ""
            raise problem(f"must be one of {', '.join(words)}, not {quote(value)}{hint}")
        if isinstance(value, bool):
            raise problem(f"must be one of {', '.join(words)}, not {str(value).lower()}")
        raise problem(f"must be one of {', '.join(words)}, not {kind(value)}")

    return BeforeValidator(check, json_schema_input_type=literal)


def duration(low: float = 0.0) -> BeforeValidator:
    """Seconds, `low` or more."""

    def check(value: object) -> float:
        out = _quantity(value, quantity.parse_duration, "a duration such as 10s or 1m30s")
        if out < low:
            raise problem(f"must be at least {quantity.format_duration(low)}, not {quantity.format_duration(out)}")
        if low == 0.0 and out == 0.0:
            return 0.0
        return out

    return BeforeValidator(check, json_schema_input_type=str | float)


def size(low: int = 0, why: str = "") -> BeforeValidator:
    """Bytes, `low` or more."""

    def check(value: object) -> int:
        out = _quantity(value, quantity.parse_size, "a size such as 128MiB")
        if out < low:
            unit = f" ({why})" if why else ""
            raise problem(f"must be at least {quantity.format_size(low)}, not {out} bytes{unit}")
        return out

    return BeforeValidator(check, json_schema_input_type=str | int)


def _quantity(value: object, parse: Callable[[str], _N], what: str) -> _N:
    if isinstance(value, str):
        text = str(value)
    elif isinstance(value, int | Decimal) and not isinstance(value, bool):
        text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    elif isinstance(value, float) and math.isfinite(value):
        text = f"{Decimal(repr(value)):f}"
    else:
        raise problem(f"must be {what}, not {kind(value)}")
    try:
        return parse(text)
    except ValueError as e:
        raise problem(str(e)) from None


def cpus(value: object) -> Decimal:
    """Processors, at least a hundredth: the kernel takes no quota under 1 ms a 100 ms."""
    out = _quantity(value, quantity.parse_cpus, "a number of processors such as 0.5")
    if not Decimal("0.01") <= out <= 10_000:
        raise problem(f"must be from 0.01 to 10000, not {quantity.format_cpus(out)}")
    return out


def _cpus_text(value: Decimal) -> str:
    return quantity.format_cpus(value)


def octal(value: object) -> int:
    """Permission bits: written text is octal (`0022`, `22`, `0o22`), as chmod reads it."""
    if isinstance(value, int) and not isinstance(value, bool):
        out = value
    elif isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{1,6}", value, re.ASCII):
        out = int(value.removeprefix("0o"), 8)
    else:
        raise problem(f"must be octal permission bits such as 0755, not {quote(value)}")
    if not 0 <= out <= 0o7777:
        raise problem(f"must be from 0 to 07777, not {out:#o}")
    return out


def as_list(value: object) -> object:
    """A single text where a list is wanted is a list of one."""
    return [value] if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(text, json_schema_input_type=str | int | float)]
Line = Annotated[str, BeforeValidator(line, json_schema_input_type=str | int | float)]
Argv = Annotated[tuple[str, ...], BeforeValidator(argv, json_schema_input_type=str | list[str | int | float])]
Flag = Annotated[bool, BeforeValidator(flag, json_schema_input_type=bool)]
Cpus = Annotated[Decimal, BeforeValidator(cpus, json_schema_input_type=str | int | float), PlainSerializer(_cpus_text)]
Octal = Annotated[int, BeforeValidator(octal, json_schema_input_type=str | int)]
Scalar = str | int | float | bool
Duration = Annotated[float, duration()]
Size = Annotated[int, size()]
