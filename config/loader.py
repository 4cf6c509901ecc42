"""Definition files to containers. Nothing that a file or directory holds makes these functions raise.

Each fault is a DefinitionError with file, line and column. A fault of one container leaves the others of its file
alone; a file that cannot be read as a whole leaves the other files alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from config import order
from config.errors import DefinitionError
from config.explain import Fault, explain, suggestion
from config.fields import Path, Plain, kind, quote
from config.files import regular_file
from config.model import Container
from config.yamltext import MAX_BYTES, Spot, TextError, read

MAX_ERRORS = 100  # of one file
_TOP_KEYS = ("containers", "version")


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """What one file says.

    `declared`: the place of each name that it has, also of faulty ones. `whole` is False when a fault is not one
    container's: then a name that is missing may be missing by that fault.
    """

    path: str
    containers: Mapping[str, Container]
    errors: tuple[DefinitionError, ...]
    declared: Mapping[str, Spot] = field(default_factory=dict)
    whole: bool = True
    dependency_spots: Mapping[tuple[str, str], Spot] = field(default_factory=dict, repr=False)
    text: bytes = b""  # hash of what was read; empty: read it again


@dataclass(frozen=True, slots=True)
class Definitions:
    """What a directory says. `kept` names containers whose last good definition stands in for a faulty one."""

    containers: Mapping[str, Container] = field(default_factory=dict)
    errors: tuple[DefinitionError, ...] = ()  # by file and place; each says its file
    kept: frozenset[str] = frozenset()
    files: Mapping[str, str] = field(default_factory=dict)  # of each container
    parsed: Mapping[str, LoadedFile] = field(default_factory=dict, compare=False, repr=False)


def load_file(path: str | os.PathLike[str], known: LoadedFile | None = None) -> LoadedFile:
    """The containers of one file, and its faults. Names that it depends on are not looked up.

    `known` is what the same path gave before: the answer when the text is the same, for to parse costs milliseconds.
    """
    name = os.fspath(path)
    try:
        data = regular_file(name, MAX_BYTES)
    except (OSError, ValueError) as e:
        what = f"cannot be read: {e.strerror or e}" if isinstance(e, OSError) else str(e)
        return _unreadable(name, what)
    except MemoryError:
        return _unreadable(name, "needs more memory to read than there is")
    digest = hashlib.blake2b(data, digest_size=16).digest()
    if known is not None and known.text == digest and known.path == name:
        return known
    return replace(parse(data, name), text=digest)


def _unreadable(path: str, what: str, line: int = 0, column: int = 0) -> LoadedFile:
    return LoadedFile(path, {}, (DefinitionError(what, file=path, line=line, column=column),), whole=False)


def parse(data: bytes, path: str) -> LoadedFile:
    """The containers that the text of a file says; relative paths in it start at the directory of `path`."""
    try:
        tree = read(data)
    except TextError as e:
        return _unreadable(path, e.what, e.line, e.column)
    faults = [Fault(at, text, on_key=True) for at, _, text in tree.faults]
    spots = {id(f): spot for f, (_, spot, _) in zip(faults, tree.faults, strict=True)}
    faults += _top_faults(tree.value)
    declared = tree.value.get("containers") if isinstance(tree.value, dict) else None
    if not isinstance(declared, dict):
        declared = {}
    containers: dict[str, Container] = {}
    doubled = {f.path[1] for f in faults if len(f.path) > 1}
    base = os.path.dirname(os.path.abspath(path)) if "\0" not in path else "/"
    for name, value in declared.items():
        found, container = _container(name, value, base)
        faults += [Fault(("containers", name, *f.path), f.text, f.on_key) for f in found]
        if container and not found and name not in doubled:
            containers[name] = container
    errors = [_error(f, spots.get(id(f)) or tree.spot(f.path, on_key=f.on_key), path) for f in faults]
    errors.sort(key=lambda e: (e.line, e.column))
    return LoadedFile(
        path,
        containers,
        _bounded(errors, path),
        {name: tree.spot(("containers", name), on_key=True) for name in declared},
        all(f.path[:1] == ("containers",) and len(f.path) > 1 for f in faults),
        {
            (name, other): tree.spot(("containers", name, "depends_on", other), on_key=True)
            for name, container in containers.items()
            for other in container.depends_on
        },
    )


def _bounded(errors: list[DefinitionError], path: str) -> tuple[DefinitionError, ...]:
    if len(errors) <= MAX_ERRORS:
        return tuple(errors)
    more = DefinitionError(f"{len(errors) - MAX_ERRORS} more errors", file=path)
    return (*errors[:MAX_ERRORS], more)


def _top_faults(top: Any) -> Iterator[Fault]:
    if not isinstance(top, dict):
        yield Fault((), f"the file must be a mapping with the key containers, not {kind(top)}")
        return
    for key in top:
        if key == "services":
            yield Fault((key,), "unknown key, use containers", on_key=True)
        elif key not in _TOP_KEYS and not key.startswith("x-"):
            yield Fault((key,), "unknown key" + suggestion(key, _TOP_KEYS), on_key=True)
    if "version" in top and top["version"] != "1":
        yield Fault(("version",), "must be 1")
    if "containers" not in top:
        yield Fault((), "has no containers key")
    elif not isinstance(top["containers"], dict):
        empty = "is empty; to say that there are none, write `containers: {}`"
        given = top["containers"]
        yield Fault(("containers",), empty if given is None else f"must be a mapping of names, not {kind(given)}", True)


def _container(name: str, value: Any, base: str) -> tuple[list[Fault], Container | None]:
    """One container and its faults, by keys below its name."""
    if not isinstance(value, dict):
        return [
            Fault((), f"must be a mapping of keys, not {kind(value)}" if value is not None else "is empty", True)
        ], None
    found = [
        Fault(at, "is empty; remove it or give it a value", isinstance(at[-1], str))
        for at in _empty_places(value)
        if not str(at[0]).startswith("x-")
    ]
    given = _without_empty({key: v for key, v in value.items() if not key.startswith("x-")})
    if "name" in given:
        found.append(Fault(("name",), "unknown key, use the key above", on_key=True))
    try:
        container = Container.model_validate(
            {**given, "name": name}, by_alias=True, by_name=False, context={"base": base}
        )
    except ValidationError as e:
        taken = {f.path for f in found}
        for fault in explain(e, Container):
            here = fault._replace(path=(), on_key=True) if fault.path == ("name",) else fault
            if here.path not in taken:
                found.append(here)
        return found, None
    except (ValueError, RecursionError, MemoryError, OverflowError) as e:
        return [*found, Fault((), f"cannot be read ({type(e).__name__})", True)], None
    return found, container


def _empty_places(value: Any, at: Path = ()) -> Iterator[Path]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if inner is None:
            yield (*at, key)
        else:
            yield from _empty_places(inner, (*at, key))


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_empty(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_empty(Plain("0") if inner is None else inner) for inner in value]
    return value


def _error(fault: Fault, spot: Spot, path: str) -> DefinitionError:
    keys = fault.path[1:] if fault.path[:1] == ("containers",) and len(fault.path) > 1 else fault.path
    container = str(fault.path[1]) if keys is not fault.path else ""
    return DefinitionError(fault.text, dotted(keys), file=path, line=spot[0], column=spot[1], container=container)


def dotted(path: Path) -> str:
    """`web.mounts[0].target`."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            word = part if part and part.isprintable() and len(part) <= 63 and " " not in part else quote(part)
            out += f".{word}" if out else word
    return out


def is_definition_name(name: str) -> bool:
    """Whether a file of this name is read: hidden files and what editors leave are not."""
    return name.endswith((".yaml", ".yml")) and not name.startswith((".", "#"))


def load_dir(path: str | os.PathLike[str], previous: Definitions | None = None) -> Definitions:
    """All definition files of a directory, in the order of their names.

    A container whose new definition is faulty keeps the one that `previous` has; a removed file removes its
    containers. A name belongs to the first file that has it. A directory that cannot be read changes nothing.
    """
    before = previous or Definitions()
    root = os.fspath(path)
    try:
        names = sorted(name for name in os.listdir(root) if is_definition_name(name))
    except (OSError, ValueError) as e:
        what = f"cannot be read: {e.strerror}" if isinstance(e, OSError) else str(e)
        error = DefinitionError(what, file=root)
        return Definitions(before.containers, (error,), frozenset(before.containers), before.files, before.parsed)
    paths = [full for name in names if os.path.lexists(full := os.path.join(root, name))]
    loaded = [load_file(full, before.parsed.get(full)) for full in paths]
    return merge(loaded, before)


def merge(loaded: list[LoadedFile], before: Definitions) -> Definitions:
    """The containers of all files together: names once, dependencies known and without a circle. Pure."""
    errors = [error for file in loaded for error in file.errors]
    by_path = {file.path: file for file in loaded}
    owner: dict[str, str] = {}
    fresh: dict[str, Container] = {}
    for file in loaded:
        for name, spot in file.declared.items():
            if name in owner:
                what = f"is already defined in {owner[name]}"
                error = DefinitionError(what, name, file=file.path, line=spot[0], column=spot[1], container=name)
                errors.append(error)
                continue
            owner[name] = file.path
            if name in file.containers:
                fresh[name] = file.containers[name]

    def stays(name: str) -> bool:
        home = by_path.get(before.files.get(name, ""))
        return name in owner or (home is not None and not home.whole)

    last_good = {name: container for name, container in before.containers.items() if stays(name)}
    settled, faults = order.settle(fresh, last_good, frozenset(owner))
    for fault in faults:
        file = by_path[owner[fault.name]]
        line, column = file.dependency_spots[(fault.name, fault.other)]
        where = f"{fault.name}.depends_on.{fault.other}"
        error = DefinitionError(fault.text, where, file=file.path, line=line, column=column, container=fault.name)
        errors.append(error)
    return Definitions(
        {name: settled[name] for name in sorted(settled)},
        tuple(sorted(errors, key=lambda e: (e.file, e.line, e.column))),
        frozenset(name for name in settled if fresh.get(name) is not settled[name]),
        {name: owner.get(name) or before.files[name] for name in settled},
        by_path,
    )


def with_kept(definitions: Definitions, container: Container, file: str) -> Definitions:
    """`definitions` with the last good `container` of `file`, known from elsewhere, unless the name is taken."""
    name = container.name
    if name in definitions.containers:
        return definitions
    return Definitions(
        dict(sorted({**definitions.containers, name: container}.items())),
        definitions.errors,
        definitions.kept | {name},
        {**definitions.files, name: file},
        definitions.parsed,
    )
