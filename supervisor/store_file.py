"""The file under the store: made whole or not at all, checked before it is trusted, set aside when it is bad.

A file that cannot be used never stops the daemon and is never overwritten: it is renamed to
`state.db.corrupt-<n>`, what can be read from it is carried over, and a new one takes its place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

from config.errors import HostError, RefusedError, one_line
from supervisor.store_events import BASE
from supervisor.store_migrate import OLDEST, migrate, tables_of

APPLICATION_ID = 0x57484152  # "WHAR", in SQLite's header: another program's database is not ours
SCHEMA = 2  # user_version; a later schema that we can't read is set aside, not guessed at
KEPT_ASIDE = 5  # quarantined files kept; a box that corrupts its disk each day must not fill it with them
SEQ_STEP = 1_000_000_000  # numbers of events begin anew above all that a lost file can have given out
SIDES = ("-wal", "-shm", "-journal")

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE containers (
    name TEXT PRIMARY KEY, version INTEGER NOT NULL, boot_id TEXT NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE counters (
    name TEXT NOT NULL, kind TEXT NOT NULL, label TEXT NOT NULL, value INTEGER NOT NULL,
    PRIMARY KEY (name, kind, label)
) WITHOUT ROWID;
CREATE TABLE ends (
    name TEXT NOT NULL, generation INTEGER NOT NULL, boot_id TEXT NOT NULL, wall REAL NOT NULL,
    body TEXT NOT NULL, crc INTEGER NOT NULL, samples TEXT NOT NULL,
    PRIMARY KEY (name, generation)
) WITHOUT ROWID;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL,
    boot_id TEXT NOT NULL, boot REAL NOT NULL, wall REAL NOT NULL, phase TEXT NOT NULL, before TEXT NOT NULL,
    code TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL
);
CREATE TABLE set_aside (kind TEXT NOT NULL, key TEXT NOT NULL, why TEXT NOT NULL, body TEXT NOT NULL);
"""

# What a quarantined file is still read for, as far as its pages allow.
CARRIED = {
    "containers": ("name", "version", "boot_id", "body", "crc"),
    "counters": ("name", "kind", "label", "value"),
    "ends": ("name", "generation", "boot_id", "wall", "body", "crc", "samples"),
}

FILES_FAULT = frozenset(
    (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_CONSTRAINT,
    )
)


class BadFile(Exception):  # noqa: N818  not an error for a caller: it leads to the quarantine
    """The file is no usable store; says why."""


def row_crc(*fields: object) -> int:
    """Of a row's own fields: SQLite checks the structure of its pages, not what is written on them."""
    return crc32("\0".join(map(str, fields)).encode("utf-8", "surrogatepass"))


def lock_state_dir(path: Path) -> int:
    """Take the lock of the state directory; the fd holds it until it is closed, also by our death.

    Nothing in the file counts, so that a stale one is harmless. Never inherited (O_CLOEXEC).
    Raises RefusedError when another daemon has it, HostError.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(f"lock file: {error.strerror}", str(path)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise RefusedError(
                "another wharfingerd has this state directory", str(path), "one daemon a state directory"
            ) from error
        raise HostError(f"lock: {error.strerror}", str(path)) from error
    return fd


def open_file(path: Path) -> tuple[sqlite3.Connection, list[str]]:
    """A checked connection to the store at `path`, and what was set aside for it. Raises HostError."""
    quarantined: list[str] = []
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(path)
        if _present(path):
            try:
                return _open_checked(path), quarantined
            except BadFile as bad:
                aside = _set_aside(path)
                quarantined.append(f"{aside.name}: {one_line(str(bad), 200)}")
                carried = _make(path, aside)
                if carried:
                    quarantined.append(f"{aside.name}: carried over {carried}")
        else:
            _make(path, None)
        return _open_checked(path), quarantined
    except OSError as error:
        raise HostError(error.strerror or str(error), str(path)) from error
    except (sqlite3.Error, BadFile) as error:
        raise HostError(str(error), str(path)) from error


def _present(path: Path) -> bool:
    return any(os.path.lexists(f"{path}{side}") for side in ("", *SIDES))


def _open_checked(path: Path) -> sqlite3.Connection:
    """Raises BadFile when the file is not a sound store of ours; sqlite3.Error and OSError when the host fails."""
    _look_at_header(path)
    db = _connect(path)
    try:
        _check(db)
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 4194304")
        return db
    except sqlite3.DatabaseError as error:
        db.close()
        if _is_bad(error):
            raise BadFile(str(error)) from error
        raise
    except BaseException:
        db.close()
        raise


def _is_bad(error: sqlite3.Error) -> bool:
    """The file's fault, and not the disk's or the host's."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code & 0xFF == sqlite3.SQLITE_IOERR:
        return code == sqlite3.SQLITE_IOERR_SHORT_READ
    return code & 0xFF in FILES_FAULT


def _look_at_header(path: Path) -> None:
    """SQLite takes an empty file for a new database, and a symbolic link for what it leads to: we do not."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadFile("a journal without its database") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise BadFile("not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadFile("not a regular file")
    with open(fd, "rb") as file:
        head = file.read(100)
    if not head.startswith(b"SQLite format 3\0"):
        raise BadFile("not a SQLite database" if head.strip(b"\0") else "empty")


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2.0, cached_statements=64)
    # One process only, which holds the directory's lock: no shared memory file, hence no SIGBUS on a full disk.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.text_factory = _text
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA cell_size_check = ON")
    return db


def _text(raw: bytes) -> str:
    """A row that is no UTF-8 must not hide those after it: its check sum will tell."""
    return raw.decode("utf-8", "surrogateescape")


def _check(db: sqlite3.Connection) -> None:
    application = db.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        raise BadFile("another program's database")
    schema = db.execute("PRAGMA user_version").fetchone()[0]
    if schema > SCHEMA:
        raise BadFile(f"written by a newer version (schema {schema}, this one knows {SCHEMA})")
    if schema < OLDEST:
        raise BadFile(f"unknown schema {schema}")
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise BadFile("no write-ahead log possible")
    found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise BadFile(found)
    wanted = sqlite3.connect(":memory:")
    with contextlib.closing(wanted):
        wanted.executescript(tables_of(schema, TABLES))
        names = "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
        if db.execute(names).fetchall() != wanted.execute(names).fetchall():
            raise BadFile("its tables are not ours")
    if schema < SCHEMA:
        db.execute("PRAGMA synchronous = FULL")
        migrate(db, schema, TABLES)


def _set_aside(path: Path) -> Path:
    """Rename the file and its sides to the next free number; the oldest beyond KEPT_ASIDE go."""
    taken = _asides(path)
    number = max(taken, default=0) + 1
    aside = path.with_name(f"{path.name}.corrupt-{number}")
    for side in ("", *SIDES):
        if os.path.lexists(f"{path}{side}"):
            os.rename(f"{path}{side}", f"{aside}{side}")
    _sync_dir(path.parent)
    for old in sorted(taken)[: max(0, len(taken) + 1 - KEPT_ASIDE)]:
        for side in ("", *SIDES):
            with contextlib.suppress(OSError):
                os.unlink(f"{path}.corrupt-{old}{side}")
    return aside


def _asides(path: Path) -> list[int]:
    pattern = re.compile(re.escape(path.name) + r"\.corrupt-(\d{1,9})(?:-wal|-shm|-journal)?")
    return sorted({int(m[1]) for name in os.listdir(path.parent) if (m := pattern.fullmatch(name))})


def _make(path: Path, aside: Path | None) -> str:
    """A new store under a temporary name, then renamed: a power cut leaves no half-made one. Says what was carried."""
    fresh = path.with_name(path.name + ".new")
    carried = ""
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    db = _connect(fresh)
    try:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.executescript(f"BEGIN; {TABLES} COMMIT;")
        base = max(_asides(path), default=0) * SEQ_STEP
        db.execute("INSERT INTO meta VALUES (?, ?)", (BASE, str(base)))
        if aside is not None:
            carried = _carry(aside, db)
    finally:
        db.close()
    _sync(fresh)
    os.rename(fresh, path)
    _sync_dir(path.parent)
    return carried


def _carry(aside: Path, db: sqlite3.Connection) -> str:
    """Copy what can still be read, row by row. Wrong rows are found later, by their check sums."""
    counts: dict[str, int] = {}
    with contextlib.suppress(sqlite3.Error, OSError, BadFile):
        _look_at_header(aside)
        with contextlib.closing(_connect(aside)) as old:
            if old.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                return ""
            for table, columns in CARRIED.items():
                counts[table] = _carry_table(old, db, table, columns)
    return ", ".join(f"{count} {table}" for table, count in counts.items() if count)


def _carry_table(old: sqlite3.Connection, db: sqlite3.Connection, table: str, columns: Sequence[str]) -> int:
    names = ", ".join(columns)
    marks = ", ".join("?" * len(columns))
    count = 0
    db.execute("BEGIN")
    with contextlib.suppress(sqlite3.Error):
        for row in _rows(old, f"SELECT {names} FROM {table}"):
            with contextlib.suppress(sqlite3.IntegrityError):
                count += db.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", row).rowcount
    db.execute("COMMIT")
    return count


def _rows(db: sqlite3.Connection, query: str) -> Iterator[tuple[object, ...]]:
    yield from db.execute(query)


def _sweep(path: Path) -> None:
    """What an interrupted `_make` left."""
    for side in ("", *SIDES):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.new{side}")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
