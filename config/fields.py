"""The types that fields of definitions are made of: each takes what an operator writes and says what is wrong with it.

A definition comes as text (`Plain` for an unquoted word of YAML), or as Python values when code builds a container.
So a field decides what a word means: `1.10` is a version where text is wanted and a number where a number is.
Pure: no file, clock or environment is read here.
"""

from __future__ import annotations

import difflib
import math
import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationInfo
from pydantic_core import PydanticCustomError

from config import kernel_names, quantity

MAX_TEXT = 131_071  # MAX_ARG_STRLEN of Linux, without the NUL
MAX_PATH = 4095
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
    return "text" if isinstance(value, str) else f"{type(value).__name__}"


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
        try:
            words = shlex.split(check_text(str(value)))
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

    return BeforeValidator(check, json_schema_input_type=int)


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

    return BeforeValidator(check, json_schema_input_type=float)


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


def container_path(value: object) -> str:
    """An absolute path inside the container, without `..`; repeated and trailing slashes go."""
    path = line(value)
    if not path.startswith("/"):
        raise problem(f"must be an absolute path, not {quote(path)}")
    if ".." in path.split("/"):
        raise problem('must not have ".." in it')
    if len(path.encode()) > MAX_PATH:
        raise problem(f"is longer than {MAX_PATH} bytes")
    return "/" + posixpath.normpath(path).lstrip("/")


def host_path(value: object, info: ValidationInfo) -> str:
    """A path of the host; a relative one is taken from the definition file's directory (context `base`)."""
    path = line(value)
    if not path.startswith("/"):
        base = (info.context or {}).get("base", "")
        if not base:
            raise problem(f"must be an absolute path, not {quote(path)}")
        path = posixpath.join(base, path)
    if len(path.encode()) > MAX_PATH:
        raise problem(f"is longer than {MAX_PATH} bytes")
    return "/" + posixpath.normpath(path).lstrip("/")


def name(value: object) -> str:
    """A container's name: safe as a file name, a cgroup and a label."""
    word = text(value)
    if not NAME.fullmatch(word):
        raise problem(f"{quote(word)} is not a name: up to 63 of a-z 0-9 _ . -, the first a letter or digit")
    return word


NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)


def variables(value: object) -> dict[str, str]:
    """Environment: a mapping, or a list of NAME=VALUE. Values are never shown in errors: they may be secrets."""
    return _pairs(value, "environment", "a variable's name")


def label_map(value: object) -> dict[str, str]:
    """Labels: a mapping, or a list of NAME=VALUE."""
    return _pairs(value, "labels", "a label's name")


def _pairs(value: object, what: str, key_is: str) -> dict[str, str]:
    found: list[tuple[Path, str]] = []
    out: dict[str, str] = {}
    items: list[tuple[Path, str, object]] = []
    if isinstance(value, Mapping):
        items = [((str(k),), str(k), v) for k, v in value.items()]
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            key, equals, val = item.partition("=") if isinstance(item, str) else ("", "", "")
            if not equals:
                found.append(((i,), "must be NAME=VALUE"))
            elif key in {k for _, k, _ in items}:
                found.append(((i,), f"{quote(key)} is given twice"))
            else:
                items.append(((i,), key, val))
    else:
        raise problem(f"must be a mapping or a list of NAME=VALUE, not {kind(value)}")
    for at, key, given in items:
        try:
            if "=" in line(key):
                raise problem(f'{key_is} must not have "=" in it')
            out[check_text(key)] = _scalar(given)
        except PydanticCustomError as e:
            found.append((at, e.message()))
    if found:
        raise problems(found)
    return out


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return text(value)


_ID = re.compile(r"[0-9]{1,10}", re.ASCII)
_USER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,254}\$?", re.ASCII)


def principal(word: str) -> str:
    """A user or group: a name or a number."""
    if _ID.fullmatch(word) and int(word) < 2**32 - 1:
        return str(int(word))
    if not _USER.fullmatch(word):
        raise problem(f"{quote(word)} is neither a name nor a number of a user or group")
    return word


def user(value: object) -> str:
    """`uid`, `uid:gid`, or names."""
    first, colon, second = text(value).partition(":")
    return principal(first) + (":" + principal(second) if colon else "")


def group(value: object) -> str:
    return principal(text(value))


def signal_of(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise problem(f"must be a signal such as TERM, not {kind(value)}")
    try:
        return kernel_names.signal_name(value)
    except ValueError as e:
        raise problem(str(e)) from None


def capabilities(value: object) -> tuple[str, ...]:
    """Capabilities in one spelling and order (`CAP_NET_ADMIN`, or `ALL` alone)."""
    if not isinstance(value, list | tuple):
        raise problem(f"must be a list of capabilities, not {kind(value)}")
    found: list[tuple[Path, str]] = []
    out = set()
    for i, item in enumerate(value):
        try:
            out.add(kernel_names.capability_name(text(item)))
        except ValueError:
            near = nearest(str(item).removeprefix("CAP_"), [c.removeprefix("CAP_") for c in kernel_names.CAPABILITIES])
            hint = f', did you mean "{near}"?' if near else ""
            found.append(((i,), f"{quote(item)} is not a capability of Linux{hint}"))
        except PydanticCustomError as e:
            found.append(((i,), e.message()))
    if found:
        raise problems(found)
    return ("ALL",) if "ALL" in out else tuple(sorted(out))


_CPUSET = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*", re.ASCII)


def cpuset(value: object) -> str:
    """A list of processors or memory nodes: `0-3,6`."""
    word = text(value).replace(" ", "")
    if not _CPUSET.fullmatch(word) or len(word) > 1000:
        raise problem(f"must be a list such as 0-3,6, not {quote(word)}")
    for part in word.split(","):
        low, dash, high = part.partition("-")
        if dash and int(low) > int(high):
            raise problem(f"the range {part} runs backwards")
    return word


def as_list(value: object) -> object:
    """A single text where a list is wanted is a list of one."""
    return [value] if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(text, json_schema_input_type=str | int | float)]
Line = Annotated[str, BeforeValidator(line, json_schema_input_type=str | int | float)]
Argv = Annotated[tuple[str, ...], BeforeValidator(argv, json_schema_input_type=str | list[str | int | float])]
Flag = Annotated[bool, BeforeValidator(flag, json_schema_input_type=bool)]
Cpus = Annotated[Decimal, BeforeValidator(cpus, json_schema_input_type=str | int | float), PlainSerializer(_cpus_text)]
Octal = Annotated[int, BeforeValidator(octal, json_schema_input_type=str | int)]
ContainerPath = Annotated[str, BeforeValidator(container_path, json_schema_input_type=str)]
HostPath = Annotated[str, BeforeValidator(host_path, json_schema_input_type=str)]
Name = Annotated[str, BeforeValidator(name, json_schema_input_type=str | int)]
Scalar = str | int | float | bool
Variables = Annotated[dict[str, str], BeforeValidator(variables, json_schema_input_type=dict[str, Scalar] | list[str])]
Labels = Annotated[dict[str, str], BeforeValidator(label_map, json_schema_input_type=dict[str, Scalar] | list[str])]
User = Annotated[str, BeforeValidator(user, json_schema_input_type=str | int)]
Group = Annotated[str, BeforeValidator(group, json_schema_input_type=str | int)]
Signal = Annotated[str, BeforeValidator(signal_of, json_schema_input_type=str | int)]
Capabilities = Annotated[tuple[str, ...], BeforeValidator(capabilities, json_schema_input_type=list[str])]
Cpuset = Annotated[str, BeforeValidator(cpuset, json_schema_input_type=str | int)]
Duration = Annotated[float, duration()]
Size = Annotated[int, size()]
