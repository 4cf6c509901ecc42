"""An OCI bundle: a directory with config.json and a root. Taken as it is, checked whole before anything runs.

Source: runtime-spec bundle.md, config.md.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from config.errors import DefinitionError
from runtime import oci

MAX_CONFIG = 1 << 20
MAX_DEPTH = 32


def load_bundle(
    path: str | Path, config: str | Path = "config.json", ignored: list[str] | None = None
) -> tuple[oci.Spec, Path]:
    """The spec and the absolute root of the bundle at `path`; `config`: its file, from there. With `ignored`,
    fields that nobody knows are left out and named there, as the spec wants it of a runtime; else they are refused.

    Raises DefinitionError with file and JSON pointer.
    """
    bundle = Path(path)
    file = bundle / config
    try:
        spec = parse_config(_read(file))
        if ignored is not None:
            ignored += oci.drop_unknown(spec)
        spec = oci.check(spec)
        rootfs = _rootfs(bundle, spec["root"]["path"])
        _absolute_sources(spec, os.path.abspath(bundle))
    except DefinitionError as error:
        error.file = error.file or str(file)
        raise
    return spec, rootfs


def _read(file: Path) -> bytes:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)  # a FIFO must not hang us
    except OSError as error:
        hint = "a bundle is a directory with config.json"
        raise DefinitionError(f"cannot be read: {error.strerror}", hint=hint) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DefinitionError("is not a regular file")
    with os.fdopen(fd, "rb") as opened:
        data = opened.read(MAX_CONFIG + 1)
    if len(data) > MAX_CONFIG:
        raise DefinitionError(f"is larger than {MAX_CONFIG} bytes")
    return data


def parse_config(data: bytes) -> Any:
    """JSON with the limits of untrusted input: no duplicate keys, no NaN, bounded depth. Raises DefinitionError."""
    _bound_depth(data)
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise DefinitionError(f"not JSON: {error.msg}", line=error.lineno, column=error.colno) from None
    except UnicodeDecodeError as error:
        raise DefinitionError(f"not UTF-8 at byte {error.start}") from None


def _bound_depth(data: bytes) -> None:
    """Before the parser recurses. Brackets inside strings do not count."""
    depth = 0
    quoted = escaped = False
    for byte in data:
        if quoted:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                quoted = False
        elif byte == 0x22:
            quoted = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise DefinitionError(f"nested deeper than {MAX_DEPTH}")
        elif byte in b"]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DefinitionError(f"key {twice!r} stands twice in one object")
    return {key: value for key, value in made.items() if value is not None}  # null is the same as absent


def _constant(word: str) -> Any:
    raise DefinitionError(f"{word} is not JSON")


def _integer(text: str) -> int:
    if len(text) > 20:
        raise DefinitionError(f"number {text[:12]}... is too large")
    return int(text)


def _absolute_sources(spec: oci.Spec, bundle: str) -> None:
    """Relative sources of bind mounts are the bundle's own (config.md, "Mounts")."""
    for mount in spec.get("mounts") or ():
        bind = mount.get("type") in (None, "", "bind", "none") or {"bind", "rbind"} & set(mount.get("options") or ())
        source = mount.get("source")
        if bind and source and not source.startswith("/"):
            mount["source"] = os.path.normpath(os.path.join(bundle, source))


def _rootfs(bundle: Path, path: str) -> Path:
    if not path:
        raise DefinitionError("must not be empty", "/root/path")
    rootfs = Path(os.path.realpath(bundle / path))
    if not rootfs.is_dir():
        raise DefinitionError(f"{rootfs} is not a directory", "/root/path")
    if rootfs == Path("/"):
        raise DefinitionError("the host's own root cannot be a container's root", "/root/path")
    return rootfs
