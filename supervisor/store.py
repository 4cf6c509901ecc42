"""Durable state in SQLite: intents, generations, ends, events (design, "Durable state").

Each write is one transaction with full sync; several belong together in `batch()`. Nothing is written
while nothing happens. A failed write raises HostError, and the store is as before. Thread-safe.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config.errors import HostError, one_line
from supervisor import store_codec as codec
from supervisor.lifecycle.facts import End, Saved
from supervisor.ports import Decision, Page, Query, Record, StoredEnd
from supervisor.store_events import Events
from supervisor.store_file import lock_state_dir, open_file, row_crc

__all__ = ["ENDS_KEPT", "SqliteStore", "lock_state_dir", "open_store"]

ENDS_KEPT = 100  # a container
SAMPLES_KEPT = 10  # a container: the newest ends that keep the samples of their last minute


def open_store(path: Path) -> SqliteStore:
    """The store at `path` (`state.db`). A bad file is set aside, see `SqliteStore.quarantined`. Raises HostError.

    The caller holds the lock of the directory (`lock_state_dir`).
    """
    db, quarantined = open_file(path)
    return SqliteStore(path, db, quarantined)


class SqliteStore:
    """`ports.Store`, on one connection."""

    def __init__(self, path: Path, db: sqlite3.Connection, quarantined: Sequence[str] = ()) -> None:
        self._path = path
        self._db = db
        self._lock = threading.RLock()
        self._depth = 0
        self._quarantined = list(quarantined)
        self._events = Events(db)
        self.writes = 0  # transactions committed since the store was opened

    @property
    def quarantined(self) -> Sequence[str]:
        """One line for each file or record that was set aside since the store was opened."""
        with self._lock:
            return tuple(self._quarantined)

    # -- reading --------------------------------------------------------------------------------

    def load(self) -> Mapping[str, Record]:
        """All containers. A row that cannot be read is set aside and hides no other."""
        with self._failing("load"):
            counters: dict[str, dict[str, dict[str, int]]] = {}
            bad: list[tuple[str, str, str, str]] = []
            for name, kind, label, value in self._db.execute("SELECT name, kind, label, value FROM counters"):
                if not isinstance(value, int) or value < 0:
                    bad.append(("counters", f"{name}\0{kind}\0{label}", "no count", str(value)))
                    continue
                counters.setdefault(name, {}).setdefault(kind, {})[label] = value
            records: dict[str, Record] = {}
            for name, boot_id, body, crc in self._db.execute("SELECT name, boot_id, body, crc FROM containers"):
                try:
                    if crc != row_crc(name, boot_id, body):
                        raise ValueError("check sum")
                    saved = codec.load_saved(body)
                except ValueError as error:
                    bad.append(("containers", str(name), str(error), str(body)))
                    continue
                mine = counters.get(name, {})
                records[name] = Record(
                    saved,
                    boot_id,
                    mine.get("restart", {}),
                    mine.get("end", {}),
                    mine.get("oom", {}),
                    mine.get("created", {}).get(""),
                )
            self._put_aside(bad)
            return records

    def ends(self, name: str, limit: int = ENDS_KEPT) -> Sequence[StoredEnd]:
        """The newest `limit` ends, the newest last."""
        with self._failing("ends"):
            found: list[StoredEnd] = []
            bad: list[tuple[str, str, str, str]] = []
            rows = self._db.execute(
                "SELECT generation, boot_id, wall, body, crc, samples FROM ends WHERE name = ?"
                " ORDER BY generation DESC LIMIT ?",
                (name, limit),
            )
            for generation, boot_id, wall, body, crc, samples in rows:
                try:
                    if crc != row_crc(name, generation, boot_id, body):
                        raise ValueError("check sum")
                    found.append(StoredEnd(codec.load_end(body), boot_id, float(wall), str(samples)))
                except ValueError as error:
                    bad.append(("ends", f"{name}\0{generation}", str(error), str(body)))
            self._put_aside(bad)
            return found[::-1]

    def decisions(self, name: str | None = None, since: int = 0, limit: int = 1000) -> Sequence[Decision]:
        """In order of their numbers. `since` 0: the newest `limit`; else the first `limit` after that number."""
        return self.page(since, limit, Query(name=name), newest=since == 0).events

    def page(self, after: int, limit: int, query: Query, newest: bool = False) -> Page:
        with self._failing("events"):
            return self._events.page(after, limit, query, newest)

    def place(self, boot_id: str, boot: float | None, wall: float | None) -> int:
        with self._failing("events"):
            return self._events.place(boot_id, boot, wall)

    def open_runs(self) -> Mapping[tuple[str, int], frozenset[str]]:
        """Runs of which `delete` was not said yet, and what was."""
        with self._failing("events"):
            return self._events.open_runs()

    # -- writing --------------------------------------------------------------------------------

    @contextmanager
    def batch(self) -> Iterator[None]:
        """All writes inside are one transaction: all are durable at its end, or none is. May be nested.

        Other threads wait. Raises HostError at the write that fails, or at the end.
        """
        with self._failing("write"):
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            before = self._db.total_changes
            try:
                yield
                self._db.execute("COMMIT")
                self.writes += self._db.total_changes != before
            except BaseException:
                self._events.recount()
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def persist(self, name: str, saved: Saved, boot_id: str) -> None:
        body = codec.dump_saved(saved)
        with self.batch():
            self._db.execute(
                "INSERT INTO containers (name, version, boot_id, body, crc) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET version = excluded.version, boot_id = excluded.boot_id,"
                " body = excluded.body, crc = excluded.crc",
                (name, codec.VERSION, boot_id, body, row_crc(name, boot_id, body)),
            )

    def record_end(self, name: str, end: End, boot_id: str, wall: float, samples: str, counted_as: str) -> bool:
        """False when this generation's end is recorded already, or is older than all that are kept."""
        body = codec.dump_end(end)
        with self.batch():
            oldest, kept = self._db.execute(
                "SELECT min(generation), count(*) FROM ends WHERE name = ?", (name,)
            ).fetchone()
            if kept >= ENDS_KEPT and end.generation < oldest:
                return False
            done = self._db.execute(
                "INSERT OR IGNORE INTO ends (name, generation, boot_id, wall, body, crc, samples)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (name, end.generation, boot_id, wall, body, row_crc(name, end.generation, boot_id, body), samples),
            )
            if done.rowcount == 0:
                return False
            nth = "SELECT generation FROM ends WHERE name = ? ORDER BY generation DESC LIMIT 1 OFFSET ?"
            self._db.execute(f"DELETE FROM ends WHERE name = ? AND generation <= ({nth})", (name, name, ENDS_KEPT))
            if samples:
                self._db.execute(
                    f"UPDATE ends SET samples = '' WHERE name = ? AND samples != '' AND generation <= ({nth})",
                    (name, name, SAMPLES_KEPT),
                )
            self._count(name, "end", counted_as)
            if end.oom.killed and end.oom.scope is not None:
                self._count(name, "oom", end.oom.scope, max(1, end.oom.kills or 1))
            return True

    def count_restart(self, name: str, reason: str) -> None:
        with self.batch():
            self._count(name, "restart", reason)

    def note_created(self, name: str, wall: int) -> int:
        with self.batch():
            self._db.execute("INSERT OR IGNORE INTO counters VALUES (?, 'created', '', ?)", (name, wall))
            row = self._db.execute("SELECT value FROM counters WHERE name = ? AND kind = 'created'", (name,)).fetchone()
            return int(row[0])

    def count_oom(self, name: str, scope: str, kills: int) -> None:
        """Kills of children while init lives: no end will tell them."""
        with self.batch():
            self._count(name, "oom", scope, kills)

    def decide(self, decision: Decision) -> int:
        with self.batch():
            return self._events.add(decision)

    def forget(self, name: str) -> None:
        """Drop all of a container but its events, which are the host's history."""
        with self.batch():
            for table in ("containers", "counters", "ends"):
                self._db.execute(f"DELETE FROM {table} WHERE name = ?", (name,))

    def close(self) -> None:
        """Idempotent; the write-ahead log is merged into the file."""
        with self._lock:
            self._db.close()

    # -- inside ---------------------------------------------------------------------------------

    def _count(self, name: str, kind: str, label: str, by: int = 1) -> None:
        self._db.execute(
            "INSERT INTO counters (name, kind, label, value) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (name, kind, label) DO UPDATE SET value = value + excluded.value",
            (name, kind, str(label), by),
        )

    def _put_aside(self, bad: Sequence[tuple[str, str, str, str]]) -> None:
        """Move undecodable rows out of the way, kept as they were. A full disk leaves them for the next time."""
        for kind, key, why, _ in bad:
            self._quarantined.append(one_line(f"{kind} {key}: {why}", 200))
        if not bad:
            return
        text = "CAST(? AS TEXT)"  # of bytes, which need not be UTF-8
        keys: Mapping[str, str] = {
            "containers": f"name = {text}",
            "counters": f"name = {text} AND kind = {text} AND label = {text}",
            "ends": f"name = {text} AND generation = CAST({text} AS INTEGER)",
        }
        try:
            with self.batch():
                for kind, key, why, body in bad:
                    raw = key.encode("utf-8", "surrogateescape")
                    self._db.execute(
                        "INSERT INTO set_aside VALUES (?, ?, ?, ?)",
                        (kind, raw, one_line(why), body.encode("utf-8", "surrogateescape")),
                    )
                    self._db.execute(f"DELETE FROM {kind} WHERE {keys[kind]}", raw.split(b"\0"))
                self._db.execute("DELETE FROM set_aside WHERE rowid <= (SELECT max(rowid) - 1000 FROM set_aside)")
        except HostError:
            pass

    @contextmanager
    def _failing(self, what: str) -> Iterator[Any]:
        """Errors of the disk and of SQLite become HostError."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise HostError(f"{what}: {error}", str(self._path)) from error
