"""The reference of definitions and settings for operators, from the models: `python -m config.reference DIRECTORY`.

A test holds docs/definitions.md and docs/settings.md to what is written here, and reads every example.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from config import reference_text as words
from config.explain import ELSEWHERE, LATER
from config.model import (
    Container,
    Dependency,
    HealthCheck,
    IoMax,
    Logging,
    Mount,
    Oom,
    Pressure,
    Resources,
    Restart,
    UserNs,
)
from config.quantity import format_duration, format_size
from config.settings import Settings

BLOCKS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("restart", Restart),
    ("resources", Resources),
    ("resources.io_max", IoMax),
    ("oom", Oom),
    ("pressure", Pressure),
    ("healthcheck", HealthCheck),
    ("depends_on", Dependency),
    ("mounts", Mount),
    ("user_namespace", UserNs),
    ("logging", Logging),
)


def definitions() -> str:
    """docs/definitions.md."""
    parts = [words.DEFINITIONS]
    for title, keys in words.GROUPS:
        parts.append(f"### {title}\n\n" + _table(Container, "", keys))
    for path, model in BLOCKS:
        about = (model.__doc__ or "").strip()
        parts.append(f"### `{path}`\n\n{about}\n\n" + _table(model, path, list(model.model_fields)))
    parts.append(words.LATER.format(fields=_listed(LATER[""]), checks=_listed(LATER["healthcheck"])))
    rows = "\n".join(f"| `{key}` | {_code(here)} |" for key, here in sorted(ELSEWHERE[""].items()))
    parts.append(f"{words.ELSEWHERE}\n| elsewhere | here |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


def settings() -> str:
    """docs/settings.md."""
    rows = [
        f"| `{key}` | {words.TYPES[f'settings.{key}']} | {_default(info.default, words.TYPES[f'settings.{key}'])} "
        f"| {info.description} | `{words.EXAMPLES[f'settings.{key}']}` |"
        for key, info in Settings.model_fields.items()
    ]
    return (
        words.SETTINGS
        + "\n| key | type | default | meaning | example |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _table(model: type[BaseModel], path: str, keys: list[str]) -> str:
    lines = ["| field | type | default | meaning | example |", "|---|---|---|---|---|"]
    for key in keys:
        info = model.model_fields[key]
        field = info.alias or key
        full = f"{path}.{field}" if path else field
        kind = words.TYPES[full]
        lines.append(
            f"| `{field}` | {kind} | {_default(info.default, kind)} | {info.description} | `{words.EXAMPLES[full]}` |"
        )
    return "\n".join(lines) + "\n"


def _default(value: Any, kind: str) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None and kind.endswith("`auto`"):
        return "`auto`"
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{_spelled(value, kind)}`"


def _spelled(value: Any, kind: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if kind.startswith("duration"):
        return format_duration(value)
    if kind.startswith("size"):
        return format_size(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(str(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _code(here: str) -> str:
    return here if " " in here else f"`{here}`"


def main() -> None:
    directory = Path(sys.argv[1])
    (directory / "definitions.md").write_text(definitions())
    (directory / "settings.md").write_text(settings())


if __name__ == "__main__":
    main()
