"""Dependencies between definitions: each name known, no circle. Pure.

A definition that fails here gives way to the last good one of its name, or to none; that can make the next one fail,
so the check is repeated until nothing changes. Each round takes one fresh definition away, so it ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from config.explain import suggestion
from config.model import Container


class OrderFault(NamedTuple):
    """`name` cannot depend on `other`; why, in words."""

    name: str
    other: str
    text: str


def settle(
    fresh: Mapping[str, Container], last_good: Mapping[str, Container], declared: frozenset[str]
) -> tuple[dict[str, Container], list[OrderFault]]:
    """The containers that stand, and why others do not. `declared`: all names in the files, faulty or not."""
    standing: dict[str, Container] = {**last_good, **fresh}
    new = set(fresh)
    faults: list[OrderFault] = []
    while found := _missing(standing, new, declared) or _circular(standing, new):
        faults += found
        for name in {fault.name for fault in found}:
            new.discard(name)
            if name in last_good:
                standing[name] = last_good[name]
            else:
                del standing[name]
    return standing, faults


def _missing(standing: Mapping[str, Container], new: set[str], declared: frozenset[str]) -> list[OrderFault]:
    out = []
    for name in sorted(new):
        for other, dependency in standing[name].depends_on.items():
            if other in standing or not dependency.required:
                continue
            if other in declared:
                text = "its definition has errors"
            else:
                text = "there is no such container" + suggestion(other, (n for n in standing if n != name))
            out.append(OrderFault(name, other, text))
    return out


def _circular(standing: Mapping[str, Container], new: set[str]) -> list[OrderFault]:
    """The fresh members of one circle. A circle of last good definitions alone is left: nothing better is known."""
    done: set[str] = set()
    for start in sorted(new):
        circle = _circle_from(start, standing, done)
        fresh = [name for name in circle if name in new]
        if not fresh:
            continue
        out = []
        for name in fresh:
            i = circle.index(name)
            way = [*circle[i:], *circle[:i], name]
            out.append(OrderFault(name, way[1], f"depends on itself: {' -> '.join(_short(way))}"))
        return out
    return []


def _short(way: list[str]) -> list[str]:
    return way if len(way) <= 8 else [*way[:4], "...", *way[-3:]]


def _circle_from(start: str, standing: Mapping[str, Container], done: set[str]) -> list[str]:
    """A circle that can be reached from `start`, or []. Without recursion: a chain may be long."""
    way: list[str] = []
    on_way: set[str] = set()
    stack: list[tuple[str, bool]] = [(start, True)]
    while stack:
        name, enter = stack.pop()
        if not enter:
            way.pop()
            on_way.discard(name)
            done.add(name)
        elif name in on_way:
            return way[way.index(name) :]
        elif name not in done and name in standing:
            way.append(name)
            on_way.add(name)
            stack.append((name, False))
            stack.extend((other, True) for other in sorted(standing[name].depends_on, reverse=True))
    return []
