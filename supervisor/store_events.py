"""The history of events in the store: numbered without a hole, bounded in rows and in bytes, the oldest go.

Used by `SqliteStore`, under its lock. The number is the row's key: no index and no counter beside it, so that an event
costs one page of the write-ahead log and not three.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from config.errors import one_line
from supervisor.ports import Decision, Page, Query

EVENTS_KEPT = 20_000  # in all
BYTES_KEPT = 8 << 20  # in all
PRUNE_EVERY = 256  # events beyond that before the oldest are deleted: one delete is worth several inserts
DATA_CUT = 2000  # characters of an event's data
ROW = 120  # bytes of a row beside its texts, about
BASE = "events_base"  # in `meta`: the highest number that a lost history can have given out

FIELDS = "seq, name, generation, boot_id, boot, wall, phase, before, code, text, type, data"
SIZE = f"{ROW} + length(name) + length(boot_id) + length(code) + length(text) + length(type) + length(data)"


class Events:
    """On the store's connection; raises sqlite3.Error."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._rows = self._bytes = -1  # not counted yet

    def recount(self) -> None:
        """After a transaction that was taken back."""
        self._rows = -1

    def add(self, event: Decision) -> int:
        data = json.dumps(event.data, separators=(",", ":")) if event.data else ""
        row = (
            event.name, event.generation, event.boot_id, event.boot, event.wall, str(event.phase), str(event.before),
            event.code, one_line(event.text), event.type, data if len(data) <= DATA_CUT else "",
        )  # fmt: skip
        if self._rows < 0:
            self._count()
        seq = self.newest() + 1
        self._db.execute(f"INSERT INTO events ({FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (seq, *row))
        self._rows += 1
        self._bytes += ROW + sum(len(part) for part in row if isinstance(part, str))
        if self._rows >= EVENTS_KEPT + PRUNE_EVERY or self._bytes > BYTES_KEPT:
            self._prune()
        return seq

    def newest(self) -> int:
        found = self._db.execute("SELECT max(seq) FROM events").fetchone()[0]
        return int(found) if found is not None else self._base()

    def oldest(self) -> int:
        found = self._db.execute("SELECT min(seq) FROM events").fetchone()[0]
        return int(found) if found is not None else 0

    def page(self, after: int, limit: int, query: Query, newest: bool) -> Page:
        where, values = ["seq > ?"], [after]
        texts: list[str] = []
        if query.name is not None:
            where.append("name = ?")
            texts.append(query.name)
        for column, wanted in (("type", query.types), ("code", query.causes)):
            if wanted:
                where.append(f"{column} IN ({', '.join('?' * len(wanted))})")
                texts += wanted
        rows = self._db.execute(
            f"SELECT {FIELDS} FROM events WHERE {' AND '.join(where)}"
            f" ORDER BY seq {'DESC' if newest else 'ASC'} LIMIT ?",
            (*values, *texts, limit),
        ).fetchall()
        if newest:
            rows.reverse()
        last = self.newest()
        upto = rows[-1][0] if len(rows) == limit and rows and not newest else max(after, last)
        return Page([_event(row) for row in rows], upto, self.oldest(), last)

    def place(self, boot_id: str, boot: float | None, wall: float | None) -> int:
        here, there = "boot_id = ? AND boot >= ?", "boot_id != ? AND wall >= ?"
        values: tuple[str | float | None, ...] = (boot_id, boot, boot_id, wall)
        where = f"({here}) OR ({there})"
        if boot is None:
            where, values = "wall >= ?", (wall,)
        elif wall is None:
            where, values = here, values[:2]
        found = self._db.execute(f"SELECT min(seq) FROM events WHERE {where}", values).fetchone()[0]
        return self.newest() if found is None else int(found) - 1

    def open_runs(self) -> Mapping[tuple[str, int], frozenset[str]]:
        """Runs of which `delete` was not said yet, and what was."""
        rows = self._db.execute(
            "SELECT name, generation, type FROM events WHERE type IN ('create', 'start', 'exit', 'delete')"
        )
        found: dict[tuple[str, int], set[str]] = {}
        for name, generation, type_ in rows:
            found.setdefault((name, generation), set()).add(type_)
        return {run: frozenset(types) for run, types in found.items() if "delete" not in types}

    def _base(self) -> int:
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (BASE,)).fetchone()
        return int(found[0]) if found is not None and found[0].isdigit() else 0

    def _count(self) -> None:
        self._rows, size = self._db.execute(f"SELECT count(*), sum({SIZE}) FROM events").fetchone()
        self._bytes = size or 0

    def _prune(self) -> None:
        """Down to the bounds, and in bytes a little below, so that not each event deletes another."""
        least = BYTES_KEPT * 15 // 16
        last = 0
        for seq, size in self._db.execute(f"SELECT seq, {SIZE} FROM events ORDER BY seq LIMIT ?", (self._rows - 1,)):
            if self._rows <= EVENTS_KEPT and self._bytes <= least:
                break
            self._rows -= 1
            self._bytes -= size
            last = seq
        self._db.execute("DELETE FROM events WHERE seq <= ?", (last,))


def _event(row: tuple[Any, ...]) -> Decision:
    return Decision(*(*row[:11], _data(row[11])))


def _data(text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
