"""What `stats` and `top` show of a container's use: one row of words each, from the API's JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from supervisor.cli.args import UsageError
from supervisor.cli.curves import human

One = Mapping[str, Any]
HEAD = ("NAME", "STATE", "CPU %", "MEM USAGE / LIMIT", "MEM %", "PIDS", "NET I/O", "BLOCK I/O", "PRESSURE C/M/I %")
LEFT = 2  # columns that begin at the left; numbers end at the right


def shown(size: float | None) -> str:
    return "-" if size is None else human(size)


def percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{share * 100:.{digits}f}"


def memory_share(one: One) -> float | None:
    if one["memory"] is None or not one["memory_limit"]:
        return None
    return float(one["memory"] / one["memory_limit"])


def cells(one: One) -> tuple[str, ...]:
    """In the order of HEAD. A dash is what nobody knows, or what there is none of."""
    pressure = "/".join(percent(one[f"{name}_pressure"], 0) for name in ("cpu", "memory", "io"))
    up = one["memory"] is not None
    return (
        one["name"],
        one["state"],
        percent(one["cpu"]),
        f"{shown(one['memory'])} / {shown(one['memory_limit'])}" if up else "-",
        percent(memory_share(one)),
        "-" if one["pids"] is None else str(one["pids"]),
        "-" if one["net_read"] is None else f"{shown(one['net_read'])} / {shown(one['net_write'])}",
        "-" if one["io_read"] is None else f"{shown(one['io_read'])} / {shown(one['io_write'])}",
        "-" if pressure == "-/-/-" else pressure,
    )


def table(rows: Sequence[One]) -> list[str]:
    """Lines, the head first."""
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return ["  ".join(map(_placed, line, widths, range(len(HEAD)))).rstrip() for line in lines]


def _placed(word: str, width: int, column: int) -> str:
    return word.ljust(width) if column < LEFT else word.rjust(width)


def _number(*keys: str) -> Callable[[One], float]:
    """Largest first; what is unknown comes last."""

    def value(one: One) -> float:
        known = [one[key] for key in keys if one[key] is not None]
        return -sum(known) if known else 1.0

    return value


# By the key that is typed in `top`, and the word of --sort.
SORTS: Mapping[str, tuple[str, Callable[[One], Any]]] = {
    "c": ("cpu", _number("cpu")),
    "m": ("memory", _number("memory")),
    "p": ("pids", _number("pids")),
    "n": ("name", lambda one: one["name"]),
    "i": ("io", _number("read", "write")),
    "t": ("net", _number("net_read", "net_write")),
    "r": ("pressure", _number("cpu_pressure", "memory_pressure", "io_pressure")),
    "s": ("state", lambda one: one["state"]),
}


def sorting(word: str) -> str:
    """The key of a word. Raises UsageError."""
    for key, (name, _) in SORTS.items():
        if name == word:
            return key
    raise UsageError(f"--sort: one of {', '.join(name for name, _ in SORTS.values())}, not {word}")


def ordered(rows: Sequence[One], key: str) -> list[One]:
    return sorted(rows, key=lambda one: (SORTS[key][1](one), one["name"]))
