"""Whatever file it finds, the store starts, shows what it set aside, keeps what can be read (I8, kubernetes#135711)."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from config.errors import HostError, RefusedError
from supervisor.lifecycle.facts import Cause, End, Saved
from supervisor.ports import Decision
from supervisor.store import SqliteStore, lock_state_dir, open_store
from supervisor.store_file import KEPT_ASIDE, SEQ_STEP, SIDES
from tests.fixtures.fake_control import REPO

ENV = {**os.environ, "PYTHONPATH": str(REPO)}
SAVED = {f"c{i}": Saved(generation=i, cause=Cause("operator", "x" * 200)) for i in range(20)}


def fill(store: SqliteStore) -> None:
    with store.batch():
        for name, saved in SAVED.items():
            store.persist(name, saved, "boot")
            store.record_end(name, End(saved.generation, 1.0, 2.0, code=1), "boot", 3.0, "", "error")
            store.decide(Decision(0, name, 1, "boot", 1.0, 2.0, "RUNNING", "STARTING", "x", "y"))


def saved_of(store: SqliteStore) -> dict[str, Saved]:
    return {name: record.saved for name, record in store.load().items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A cleanly closed file."""
    path = tmp_path_factory.mktemp("whole") / "state.db"
    store = open_store(path)
    fill(store)
    store.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files as a power cut finds them, with everything in the write-ahead log."""
    folder = tmp_path_factory.mktemp("live")
    store = open_store(folder / "state.db")
    fill(store)
    store.persist("c0", Saved(generation=99), "boot")
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    store.close()
    return files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def usable(store: SqliteStore) -> bool:
    """Takes writes, and gives them back."""
    store.persist("new", Saved(generation=5), "boot")
    store.decide(Decision(0, "new", 1, "boot", 1.0, 2.0, "RUNNING", "STARTING", "x", "y"))
    return store.load()["new"].saved == Saved(generation=5)


def put(path: Path, data: bytes) -> None:
    for old in path.parent.iterdir():
        old.unlink()
    path.write_bytes(data)


def test_truncated_anywhere_it_starts_and_nothing_is_lost_silently(path: Path, whole: bytes) -> None:
    # each byte where the headers are, then steps that meet every place within a page
    for size in (*range(0, 128, 9), *range(128, len(whole), 1201), len(whole) - 1):
        put(path, whole[:size])
        store = open_store(path)
        found = saved_of(store)
        assert store.quarantined or found == SAVED, size
        assert found.items() <= SAVED.items(), f"{size}: nothing may be invented"
        assert usable(store), size
        store.close()


def test_a_zero_filled_stretch_anywhere_is_survived(path: Path, whole: bytes) -> None:
    for start in range(0, len(whole), 2048):
        put(path, whole[:start] + bytes(min(2048, len(whole) - start)) + whole[start + 2048 :])
        store = open_store(path)
        found = saved_of(store)
        assert store.quarantined or found == SAVED, start
        assert found.items() <= SAVED.items(), start
        assert usable(store), start
        store.close()


def test_a_flipped_bit_never_becomes_another_state(path: Path, whole: bytes) -> None:
    for at in range(0, len(whole), 331):
        put(path, whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        store = open_store(path)
        found = saved_of(store)
        assert found.items() <= SAVED.items(), at
        assert store.quarantined or found == SAVED, at
        store.close()


@pytest.mark.parametrize("garbage", [b'"', b"\0" * 5000, b"SQLite format 3\0" * 300], ids=["quote", "zeros", "headers"])
def test_garbage_at_the_end_loses_nothing(path: Path, whole: bytes, garbage: bytes) -> None:
    put(path, whole + garbage)
    store = open_store(path)
    assert saved_of(store) == SAVED
    assert usable(store)
    store.close()


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 40960, b'"', b"{}", os.urandom(20000), b"SQLite format 3\0" + b"\xff" * 8000],
    ids=["empty", "zeros", "quote", "json", "random", "header only"],
)
def test_what_is_no_database_is_set_aside_as_it_was(path: Path, data: bytes) -> None:
    put(path, data)
    store = open_store(path)
    assert len(store.quarantined) == 1
    assert store.quarantined[0].startswith("state.db.corrupt-1: ")
    assert (path.parent / "state.db.corrupt-1").read_bytes() == data
    assert usable(store)
    store.close()


def alien(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE containers (name TEXT, version INTEGER, boot_id TEXT, body TEXT, crc INTEGER)")
    db.execute("INSERT INTO containers VALUES ('web', 1, 'b', '{}', 0)")
    db.commit()
    db.close()


def newer(path: Path) -> None:
    open_store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 9")
    db.close()


def other_tables(path: Path) -> None:
    open_store(path).close()
    db = sqlite3.connect(path)
    db.execute("CREATE TRIGGER t AFTER INSERT ON containers BEGIN DELETE FROM ends; END")
    db.commit()
    db.close()


def a_link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"precious")
    path.symlink_to(path.parent / "elsewhere")


def a_directory(path: Path) -> None:
    path.mkdir()


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (alien, "another program's database"), (newer, "newer version"), (other_tables, "not ours"),
        (a_link, "not a regular file"), (a_directory, "not a regular file"), (a_fifo, "not a regular file"),
    ],
)  # fmt: skip
def test_foreign_files_are_set_aside_and_named(path: Path, make: Callable[[Path], None], word: str) -> None:
    make(path)
    store = open_store(path)
    assert word in store.quarantined[0]
    assert saved_of(store) == {}
    assert usable(store)
    store.close()
    assert os.path.lexists(path.parent / "state.db.corrupt-1")
    if make is a_link:
        assert (path.parent / "elsewhere").read_bytes() == b"precious"


def test_a_journal_without_its_database_is_set_aside(path: Path, live: dict[str, bytes]) -> None:
    path.with_name("state.db-wal").write_bytes(live["state.db-wal"])
    store = open_store(path)
    assert "without its database" in store.quarantined[0]
    assert (path.parent / "state.db.corrupt-1-wal").exists()
    assert usable(store)
    store.close()


def test_swapped_files_are_survived(path: Path, live: dict[str, bytes]) -> None:
    path.write_bytes(live["state.db-wal"])
    path.with_name("state.db-wal").write_bytes(live["state.db"])
    store = open_store(path)
    assert store.quarantined
    assert usable(store)
    store.close()


def test_a_log_torn_anywhere_gives_an_acknowledged_state(path: Path, live: dict[str, bytes]) -> None:
    """What a power cut leaves of the log: each transaction is there whole or not at all."""
    log = live["state.db-wal"]
    full = {**SAVED, "c0": Saved(generation=99)}
    seen = set()
    for size in (*range(0, 64, 5), *range(64, len(log), 997), len(log)):
        put(path, live["state.db"])
        path.with_name("state.db-wal").write_bytes(log[:size])
        store = open_store(path)
        assert store.quarantined == ()
        found = saved_of(store)
        assert found in ({}, SAVED, full), size
        seen.add((len(found), found.get("c0", Saved()).generation))
        store.close()
    assert seen == {(0, 0), (20, 0), (20, 99)}


def test_rows_that_cannot_be_read_are_set_aside_and_hide_no_other(path: Path) -> None:
    store = open_store(path)
    fill(store)
    store.close()
    db = sqlite3.connect(path)
    db.execute("UPDATE containers SET body = replace(body, 'operator', 'operatox') WHERE name = 'c3'")
    db.execute("UPDATE containers SET body = CAST(x'ff00fe' AS TEXT) WHERE name = 'c4'")
    db.execute("UPDATE containers SET name = CAST(x'ff' AS TEXT) WHERE name = 'c5'")
    db.execute("UPDATE ends SET body = '{' WHERE name = 'c6'")
    db.execute("UPDATE counters SET value = 'many' WHERE name = 'c7'")
    db.commit()
    db.close()
    store = open_store(path)
    assert store.quarantined == ()
    assert saved_of(store) == {n: s for n, s in SAVED.items() if n not in ("c3", "c4", "c5")}
    assert len(store.quarantined) == 4
    assert store.ends("c6") == []
    assert len(store.quarantined) == 5
    again = len(store.quarantined)
    assert saved_of(store).keys() == SAVED.keys() - {"c3", "c4", "c5"}
    assert len(store.quarantined) == again, "they are told once"
    store.close()
    store = open_store(path)
    store.load()
    assert store.quarantined == ()
    store.close()
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM set_aside").fetchone() == (5,), "and kept as they were"
    db.close()


def test_a_damaged_file_gives_what_is_left_in_it(path: Path, whole: bytes) -> None:
    """The pages of one table are lost: the records of the others go over into the new file."""
    store = open_store(path)
    fill(store)
    store.close()
    db = sqlite3.connect(path)
    page_size = db.execute("PRAGMA page_size").fetchone()[0]
    root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events'").fetchone()[0]
    db.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * page_size)
        file.write(os.urandom(page_size))
    store = open_store(path)
    assert saved_of(store) == SAVED
    assert store.load()["c3"].ends == {"error": 1}
    assert [e.end.generation for e in store.ends("c3")] == [3]
    assert "carried over 20 containers" in store.quarantined[1]
    store.close()


def test_numbers_of_events_never_go_back_over_a_lost_file(path: Path) -> None:
    store = open_store(path)
    last = store.decide(Decision(0, "web", 1, "b", 1.0, 2.0, "RUNNING", "STARTING", "x", "y"))
    store.close()
    path.write_bytes(b"")
    store = open_store(path)
    first = store.decide(Decision(0, "web", 1, "b", 1.0, 2.0, "RUNNING", "STARTING", "x", "y"))
    assert first == SEQ_STEP + 1 > last
    store.close()


def test_quarantined_files_do_not_fill_the_disk(path: Path) -> None:
    for number in range(1, KEPT_ASIDE + 4):
        path.write_bytes(b"x" * number)
        store = open_store(path)
        assert store.quarantined[0].startswith(f"state.db.corrupt-{number}:")
        store.close()
    kept = sorted(p.name for p in path.parent.iterdir() if "corrupt" in p.name)
    assert kept == [f"state.db.corrupt-{n}" for n in range(4, KEPT_ASIDE + 4)]


def test_leftovers_of_a_making_that_was_cut_are_swept(path: Path) -> None:
    for side in ("", *SIDES):
        Path(f"{path}.new{side}").write_bytes(b"half")
    store = open_store(path)
    assert store.quarantined == ()
    assert usable(store)
    store.close()
    assert sorted(p.name for p in path.parent.iterdir()) == ["state.db"]


def test_a_place_that_cannot_be_written_is_the_hosts_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError):
        open_store(tmp_path / "file" / "state.db")


# -- the lock -----------------------------------------------------------------------------------


def test_a_second_daemon_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    fd = lock_state_dir(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(RefusedError, match="another wharfingerd has this state directory"):
        lock_state_dir(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    os.close(fd)
    os.close(lock_state_dir(tmp_path))


def test_a_stale_lock_file_says_nothing(tmp_path: Path) -> None:
    """Also one with the pid of a live stranger in it (moby#46988)."""
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    os.close(lock_state_dir(tmp_path))
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_children_do_not_keep_the_lock_and_a_killed_daemon_gives_it_back(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time; from pathlib import Path; from supervisor.store import lock_state_dir\n"
        f"lock_state_dir(Path({str(tmp_path)!r}))\n"
        "child = subprocess.Popen(['sleep', '60'], close_fds=False)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=ENV) as daemon:
        assert daemon.stdout is not None
        child = int(daemon.stdout.readline())
        try:
            with pytest.raises(RefusedError):
                lock_state_dir(tmp_path)
            daemon.kill()
            daemon.wait()
            os.close(lock_state_dir(tmp_path))
        finally:
            os.kill(child, signal.SIGKILL)


# -- power cuts and full disks ------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from supervisor.lifecycle.facts import Saved
from supervisor.store import open_store
store = open_store(Path(sys.argv[1]))
start = store.load()["web"].saved.generation if store.load() else 0
for generation in range(start + 1, start + 8):
    store.persist("web", Saved(generation=generation), "b")
    print(generation, flush=True)
store.close()
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("call", ["fdatasync", "rename"])
def test_killed_at_any_system_call_an_acknowledged_write_is_there(tmp_path: Path, call: str) -> None:
    path = tmp_path / "state.db"
    acknowledged = 0
    for when in (1, 2, 5):
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}"]
        command = ["strace", "-f", "-qq", "-o", "/dev/null", *inject, sys.executable, "-c", WRITER, str(path)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False, env=ENV)
        said = [int(line) for line in done.stdout.split()]
        acknowledged = max([acknowledged, *said])
        store = open_store(path)
        assert store.quarantined == ()
        found = store.load()
        generation = found["web"].saved.generation if found else 0
        assert acknowledged <= generation <= acknowledged + 1, (call, when)
        acknowledged = generation
        store.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "wharfinger-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill_up(folder: Path) -> Path:
    """With 4 KiB blocks until there is no room for one more."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler


def persist_much(store: SqliteStore, number: int) -> str:
    """What the store said, or nothing."""
    try:
        with store.batch():
            store.persist("web", Saved(generation=number, cause=Cause("x", "y" * 900)), "b")
            store.record_end("web", End(number, 1.0, 2.0, code=1, detail="z" * 900), "b", 3.0, "", "error")
    except HostError as error:
        return str(error)
    return ""


@pytest.mark.kernel
def test_a_full_disk_refuses_before_anything_changes_and_recovers_alone(small: Path) -> None:
    store = open_store(small / "state.db")
    fill(store)
    filler = fill_up(small)
    before = saved_of(store)
    refused = 0
    for number in range(300):
        if said := persist_much(store, number):
            assert "full" in said
            refused += 1
            assert saved_of(store) == before
            assert usable_for_reading(store)
        else:
            before = saved_of(store)
    assert refused > 0
    filler.unlink()
    assert usable(store)
    store.close()
    again = open_store(small / "state.db")
    assert again.quarantined == ()
    assert saved_of(again).items() >= before.items()
    again.close()


def usable_for_reading(store: SqliteStore) -> bool:
    return len(store.decisions()) == 20 and store.ends("c3") != []


@pytest.mark.kernel
def test_no_room_for_a_store_is_the_hosts_fault_and_leaves_nothing(small: Path) -> None:
    filler = fill_up(small)
    with pytest.raises(HostError):
        open_store(small / "state.db")
    assert not (small / "state.db").exists()
    filler.unlink()
    store = open_store(small / "state.db")
    assert usable(store)
    store.close()
