"""Stores of an earlier schema, made into the present one in one transaction: all of it, or the file is as it was.

Schema 1 (0.1.0, before events had types) kept `decisions`, with an index and SQLite's own counter.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

from supervisor.lifecycle.history import type_of

EVENTS_1 = """
CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, generation INTEGER NOT NULL, boot_id TEXT NOT NULL,
    boot REAL NOT NULL, wall REAL NOT NULL, phase TEXT NOT NULL, before TEXT NOT NULL, code TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX decisions_by_name ON decisions (name, seq);
"""
OLDEST = 1


def tables_of(schema: int, tables: str) -> str:
    """The tables that a file of `schema` has, from those of the present one."""
    if schema != 1:
        return tables
    a, b = tables.index("CREATE TABLE events"), tables.index("CREATE TABLE set_aside")
    return tables[:a] + EVENTS_1.strip() + "\n" + tables[b:]


def migrate(db: sqlite3.Connection, schema: int, tables: str) -> None:
    """Bring a sound file of an older schema to the next ones. Raises sqlite3.Error, nothing changed then."""
    for number in range(schema, max(STEPS) + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            STEPS[number](db, tables)
            db.execute(f"PRAGMA user_version = {number + 1}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def _typed(db: sqlite3.Connection, tables: str) -> None:
    """1 to 2: decisions become events. What they were is told by their cause: notes left the state as it was."""
    a = tables.index("CREATE TABLE events")
    db.execute(tables[a : tables.index(";", a)])
    db.create_function("note_type", 1, type_of, deterministic=True)
    db.execute(
        "INSERT INTO events SELECT seq, CASE WHEN phase = before THEN note_type(code)"
        " WHEN phase = 'BACKOFF' THEN 'restart-scheduled' ELSE 'state' END,"
        " name, generation, boot_id, boot, wall, phase, before, code, text, '' FROM decisions"
    )
    given = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'decisions'").fetchone()
    if given is not None:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('events_base', ?)", (str(int(given[0])),))
    db.execute("DROP TABLE decisions")


STEPS: Mapping[int, Callable[[sqlite3.Connection, str], None]] = {1: _typed}
