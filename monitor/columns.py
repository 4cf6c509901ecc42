"""The kernel files of containers that are as usual, read and written column by column.

A kernel writes its files in one form for all cgroups. One pattern says that form for all files of a container, learned
from the first one: a match has checked everything, and gives the digits of what is wanted. Digits are then put behind
the containers' prefixes a family at a time, which costs a fraction of going container by container. What no pattern
fits is read by keys (monitor/kernel.py); nothing is ever read by its position alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat

from monitor import kernel
from monitor.kernel import KernelRow

FORMS_MAX = 8  # of a host: with and without a quota, and a few that are odd; more are read by keys
_NUMBER = b"([0-9]{1,20})"
_PRESSURE = rb"some [^\n]* total=([0-9]{1,20})\nfull [^\n]* total=([0-9]{1,20})\n"

_FLAT: Mapping[str, Mapping[bytes, tuple[int, ...]]] = {
    "cpu.stat": {key: (slot,) for key, slot in kernel.CPU.wanted.items()},
    "memory.stat": {
        **{key: (slot,) for key, slot in (kernel.MEMORY.wanted | kernel.MEMORY_COUNTERS.wanted).items()},
        **dict.fromkeys(kernel.FAULTS, (kernel.FAILURES,)),
    },
    "memory.events": {
        key: (slot, kernel.FAILCNT) if key == b"max" else (slot,) for key, slot in kernel.EVENTS.wanted.items()
    },
}
_QUOTA = {key: (slot,) for key, slot in (kernel.CFS.wanted | kernel.CFS_TIME.wanted).items()}


@dataclass(slots=True)
class _Form:
    """How all files of a container look, and what was read of those that look so. Groups of the pattern by number."""

    files: tuple[str, ...]
    pattern: re.Pattern[bytes]
    fields: list[tuple[int, int, bytes]]  # slot, group, key
    working: tuple[int, int] | None  # groups of what it is made from
    rows: list[KernelRow] = field(default_factory=list)
    values: list[tuple[bytes, ...]] = field(default_factory=list)


class Columns:
    """Collects rows with `take`, gives them back with `lines`. For one thread."""

    def __init__(self) -> None:
        self._forms: dict[tuple[bool, tuple[str, ...]], list[_Form]] = {}
        self._learned = 0

    def take(self, row: KernelRow, files: dict[str, bytes]) -> bool:
        """Keep what these files say of a container that runs; False: nothing is kept, read them by their keys."""
        names = tuple(files)
        if names and "/" in names[-1]:
            names = names[:-1]  # the run's own, not the stable cgroup's
        forms = self._forms.get((row.has_quota, names))
        if forms is not None:
            text = b"\0".join([files[name] for name in forms[0].files])
            for form in forms:
                found = form.pattern.fullmatch(text)
                if found is not None:
                    form.values.append(found.groups())
                    form.rows.append(row)
                    return True
        if self._learned < FORMS_MAX:
            self._learned += 1
            learned = _learn(names, files, row.has_quota)
            if learned is not None:
                self._forms.setdefault((row.has_quota, names), []).append(learned)
                return self.take(row, files)
        return False

    def lines(self) -> dict[int, Iterable[bytes]]:
        """By slot: pieces of text, each line begun by a newline. What was taken is forgotten."""
        found: dict[int, Iterable[bytes]] = {}

        def put(slot: int, starts: list[bytes], digits: Iterable[bytes]) -> None:
            found[slot] = chain(found.get(slot, ()), chain.from_iterable(zip(repeat(b"\n"), starts, digits)))

        for form in chain.from_iterable(self._forms.values()):
            columns = list(zip(*form.values, strict=True))
            rows = form.rows
            form.rows, form.values = [], []
            if not columns:
                continue
            for slot, group, key in form.fields:
                digits: Iterable[bytes] = columns[group]
                if key.endswith(b"_usec"):
                    digits = [u[:-6] + b"." + u[-6:] if len(u) > 6 else kernel.seconds(u) for u in columns[group]]
                put(slot, [row.start(slot, key) for row in rows], digits)
            if form.working is not None:
                pairs = zip(columns[form.working[0]], columns[form.working[1]], strict=True)
                working = [b"%d" % max(0, int(current) - int(inactive)) for current, inactive in pairs]
                put(kernel.WORKING, [row.start(kernel.WORKING) for row in rows], working)
        return found


def _learn(names: tuple[str, ...], files: Mapping[str, bytes], quota: bool) -> _Form | None:
    patterns: list[bytes] = []
    used: list[str] = []
    fields: list[tuple[int, int, bytes]] = []
    groups = 0
    parts: dict[tuple[str, bytes], int] = {}
    for name in names:
        made = _form_of(name, files[name], quota)
        if made is None:
            continue
        pattern, keys = made
        for key, slots in keys:
            fields += [(slot, groups, key) for slot in slots]
            parts[name, key] = groups
            groups += 1
        patterns.append(pattern)
        used.append(name)
    whole = re.compile(b"\0".join(patterns))
    if not used or whole.fullmatch(b"\0".join([files[name] for name in used])) is None:
        return None
    made_of = (parts.get(("memory.current", b"")), parts.get(("memory.stat", b"inactive_file")))
    working = None if made_of[0] is None or made_of[1] is None else (made_of[0], made_of[1])
    return _Form(tuple(used), whole, fields, working)


def _form_of(name: str, data: bytes, quota: bool) -> tuple[bytes, list[tuple[bytes, tuple[int, ...]]]] | None:
    """Pattern of one file, and its groups: key and slots. None: this file is not for columns."""
    if name in kernel.LEVELS:
        return _NUMBER + b"\n", [(b"", (kernel.LEVELS[name],))]
    if name in kernel.PRESSURE:
        some, full = kernel.PRESSURE[name]
        return _PRESSURE, [(b"some_usec", (some,)), (b"full_usec", (full,))]
    if name not in _FLAT:
        return None
    wanted = {**_FLAT[name], **(_QUOTA if quota and name == "cpu.stat" else {})}
    keys = [line.split(b" ")[0] for line in data.split(b"\n")[:-1]]
    if len(set(keys)) != len(keys):
        return b"(?!)", []  # matches nothing, so all of this container is read by keys
    text = b"".join(re.escape(key) + b" " + (_NUMBER if key in wanted else b"[0-9]+") + b"\n" for key in keys)
    return text, [(key, wanted[key]) for key in keys if key in wanted]


def joined(header: bytes, cells: Iterable[bytes | None], more: Iterable[bytes]) -> bytes:
    """One family: its header, the finished cells, and the lines of columns; empty when it has none."""
    rest: Iterator[bytes] = chain(chain.from_iterable(zip(repeat(b"\n"), filter(None, cells))), more)
    first = next(rest, None)
    return b"" if first is None else b"".join(chain((header, first), rest))
