"""Types of fields that name something: paths, containers, users, variables, signals, capabilities. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from config import kernel_names
from config.fields import Path, Scalar, check_text, kind, line, nearest, problem, problems, quote, text
from config.image_name import ImageNameError, parse_image_name

MAX_PATH = 4095


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
        except PydanticCustomError as e:
            found.append(((i,), e.message()))
        except ValueError:
            near = nearest(str(item).removeprefix("CAP_"), [c.removeprefix("CAP_") for c in kernel_names.CAPABILITIES])
            hint = f', did you mean "{near}"?' if near else ""
            found.append(((i,), f"{quote(item)} is not a capability of Linux{hint}"))
    if found:
        raise problems(found)
    return ("ALL",) if "ALL" in out else tuple(sorted(out))


RUNTIMES = ("native", "crun", "runc", "runsc")


def runtime(value: object) -> str:
    """What makes a container: a runtime by its name, or a program by its path."""
    word = line(value)
    if word.startswith("/"):
        return container_path(word)
    if word not in RUNTIMES:
        near = nearest(word, list(RUNTIMES))
        hint = f', did you mean "{near}"?' if near else ""
        raise problem(
            f"must be {', '.join(RUNTIMES[:-1])}, {RUNTIMES[-1]} or the path of a runtime, not {quote(word)}{hint}"
        )
    return word


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


ContainerPath = Annotated[str, BeforeValidator(container_path, json_schema_input_type=str)]
HostPath = Annotated[str, BeforeValidator(host_path, json_schema_input_type=str)]
Name = Annotated[str, BeforeValidator(name, json_schema_input_type=str | int)]
Variables = Annotated[dict[str, str], BeforeValidator(variables, json_schema_input_type=dict[str, Scalar] | list[str])]
Labels = Annotated[dict[str, str], BeforeValidator(label_map, json_schema_input_type=dict[str, Scalar] | list[str])]
User = Annotated[str, BeforeValidator(user, json_schema_input_type=str | int)]
Group = Annotated[str, BeforeValidator(group, json_schema_input_type=str | int)]
Runtime = Annotated[str, BeforeValidator(runtime, json_schema_input_type=str)]


def image_name(value: object) -> str:
    """An image's name as it is written; what it lacks (host, tag) is filled in when it is looked up."""
    word = line(value)
    try:
        parse_image_name(word)
    except ImageNameError as error:
        raise problem(str(error)) from None
    return word


ImageName = Annotated[str, BeforeValidator(image_name, json_schema_input_type=str)]
Signal = Annotated[str, BeforeValidator(signal_of, json_schema_input_type=str | int)]
Capabilities = Annotated[tuple[str, ...], BeforeValidator(capabilities, json_schema_input_type=list[str])]
Cpuset = Annotated[str, BeforeValidator(cpuset, json_schema_input_type=str | int)]
