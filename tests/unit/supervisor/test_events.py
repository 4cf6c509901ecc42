"""The stream of events: numbers without a hole, bounds, gaps that are told, places in time, older files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from config.errors import HostError
from supervisor import store_events, store_file
from supervisor.journal import BURST, LINGER, MOST_WAITING, Journal
from supervisor.lifecycle.facts import End, Phase, Saved
from supervisor.lifecycle.history import Said
from supervisor.ports import Decision, Query, Since
from supervisor.store import SqliteStore, open_store
from supervisor.store_migrate import tables_of
from supervisor.stream import PAGE, Stream, line
from supervisor.topics import KINDS, schema, types_of
from tests.fixtures.fake_control import REPO
from tests.unit.lifecycle.world import begin

EVENT = Decision(0, "web", 3, "boot", 10.5, 20.5, "RUNNING", "STARTING", "policy", "because", "state", {"a": 1})


@dataclass
class FakeClock:
    now: float = 1000.0
    offset: float = 5_000_000.0

    def boot(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.offset


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = open_store(path)
    yield opened
    opened.close()


def add(store: SqliteStore, count: int = 1, **fields: Any) -> int:
    with store.batch():
        return [store.decide(replace(EVENT, **fields)) for _ in range(count)][-1]


def read(store: SqliteStore, query: Query, clock: FakeClock | None = None) -> list[Mapping[str, Any]]:
    async def main() -> list[Mapping[str, Any]]:
        stream = Stream(store, anyio.CapacityLimiter(1), clock or FakeClock(), "boot")
        return [event async for event in stream.read(query)]

    return anyio.run(main, backend="trio")


def seqs(store: SqliteStore, query: Query, clock: FakeClock | None = None) -> list[int]:
    return [event["seq"] for event in read(store, query, clock)]


# -- the store ----------------------------------------------------------------------------------


def test_an_event_comes_back_as_it_was(store: SqliteStore) -> None:
    add(store)
    assert list(store.decisions()) == [replace(EVENT, seq=1)]
    assert add(store, data={"big": "x" * 5000}) == 2
    assert store.decisions()[1].data == {}, "one event cannot fill the disk"


def test_a_transaction_that_is_taken_back_leaves_no_hole(store: SqliteStore) -> None:
    add(store, 3)

    def fail() -> None:
        with store.batch():
            store.decide(EVENT)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert add(store) == 4


def test_rows_are_bounded_and_the_oldest_go(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_events, "EVENTS_KEPT", 100)
    total = 100 + 3 * store_events.PRUNE_EVERY
    assert add(store, total) == total
    page = store.page(0, total, Query())
    assert (page.oldest, page.newest, len(page.events)) == (total - 99, total, 100)


def test_bytes_are_bounded_also_in_the_file(path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_events, "BYTES_KEPT", 200_000)
    for _ in range(20):
        add(store, 100, text="x" * 1000)
    kept = store.page(0, 10_000, Query()).events
    size = sum(store_events.ROW + len(one.text) for one in kept)
    assert 150_000 < size <= 200_000
    store.close()
    assert path.stat().st_size < 700_000, "what was freed is used again"
    again = open_store(path)
    monkeypatch.setattr(store_events, "BYTES_KEPT", 100_000)
    add(again)
    assert len(again.page(0, 10_000, Query()).events) < 100, "the bound holds for what an earlier daemon wrote, too"
    again.close()


def test_a_row_that_is_larger_than_the_bound_does_not_empty_the_history(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_events, "BYTES_KEPT", 10)
    assert [add(store), add(store), add(store)] == [1, 2, 3]
    assert [one.seq for one in store.decisions()] == [3], "the newest stays: it is the number to go on from"


def test_an_event_writes_one_page(store: SqliteStore, path: Path) -> None:
    add(store, 20)
    wal = path.with_name("state.db-wal")
    before = wal.stat().st_size
    add(store)
    assert wal.stat().st_size - before <= 4096 + 24


def test_a_store_of_schema_1_is_taken_over_whole(path: Path) -> None:
    open_store(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("DROP TABLE events")
        old = tables_of(1, store_file.TABLES)
        db.executescript(old[old.index("CREATE TABLE decisions") : old.index("CREATE TABLE set_aside")])
        db.execute("DELETE FROM meta")
        db.execute("PRAGMA user_version = 1")
        rows = [
            ("web", "BACKOFF", "RUNNING", "oom"), ("web", "RUNNING", "RUNNING", "health"),
            ("web", "RUNNING", "RUNNING", "oom-child"), ("web", "RUNNING", "STARTING", "policy"),
        ]  # fmt: skip
        for name, phase, before, code in rows:
            insert = "INSERT INTO decisions VALUES (NULL, ?, 3, 'boot', 1.5, 2.5, ?, ?, ?, 'text')"
            db.execute(insert, (name, phase, before, code))
        db.execute("DELETE FROM decisions WHERE seq = 1")
    store = open_store(path)
    assert store.quarantined == ()
    found = store.decisions()
    assert [(one.seq, one.type, one.code) for one in found] == [
        (2, "health", "health"), (3, "oom", "oom-child"), (4, "state", "policy"),
    ]  # fmt: skip
    assert found[2] == Decision(4, "web", 3, "boot", 1.5, 2.5, "RUNNING", "STARTING", "policy", "text", "state", {})
    store.persist("web", Saved(), "boot")
    assert add(store) == 5
    store.close()
    store = open_store(path)
    assert len(store.decisions()) == 4
    store.close()


def test_numbers_of_an_old_file_without_events_go_on(path: Path) -> None:
    open_store(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("DROP TABLE events")
        old = tables_of(1, store_file.TABLES)
        db.executescript(old[old.index("CREATE TABLE decisions") : old.index("CREATE TABLE set_aside")])
        db.execute("INSERT INTO sqlite_sequence VALUES ('decisions', 2000000000)")
        db.execute("PRAGMA user_version = 1")
    store = open_store(path)
    assert add(store) == 2_000_000_001
    store.close()


# -- readers ------------------------------------------------------------------------------------


def test_a_reader_gets_all_that_is_kept_also_over_pages_and_filters(store: SqliteStore) -> None:
    add(store, PAGE + 20)
    add(store, 2, name="db", type="oom", code="oom")
    assert seqs(store, Query()) == list(range(1, PAGE + 23))
    assert seqs(store, Query(since=PAGE + 18)) == list(range(PAGE + 19, PAGE + 23))
    assert seqs(store, Query(types=("oom", "exit"))) == [PAGE + 21, PAGE + 22]
    assert seqs(store, Query(causes=("oom",), tail=1)) == [PAGE + 22]
    assert seqs(store, Query(name="web", tail=2)) == [PAGE + 19, PAGE + 20]
    assert seqs(store, Query(since=PAGE + 21, tail=10)) == [PAGE + 22]
    assert seqs(store, Query(tail=0)) == []


def test_a_reader_that_comes_back_too_late_is_told_what_it_lost(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_events, "EVENTS_KEPT", 100)
    last = add(store, 100 + store_events.PRUNE_EVERY)
    oldest = last - 99
    first, second, *_ = read(store, Query(since=7, types=("state",)))
    assert (first["type"], first["from"], first["to"], first["seq"]) == ("gap", 8, oldest - 1, oldest - 1)
    assert second["seq"] == oldest
    assert read(store, Query(since=oldest - 1))[0]["type"] == "state", "it misses nothing"
    assert read(store, Query())[0]["seq"] == oldest, "who asks for what there is misses nothing"


def test_a_number_from_a_lost_history_is_told_and_all_of_the_new_one_follows(store: SqliteStore) -> None:
    add(store, 3)
    gap, *rest = read(store, Query(since=500))
    assert (gap["type"], gap["from"], gap["to"], gap["seq"]) == ("gap", None, None, 0)
    assert [event["seq"] for event in rest] == [1, 2, 3]
    assert read(store, Query(since=3)) == []


def test_places_in_time(store: SqliteStore) -> None:
    """Within a boot by the clock that nobody sets: here the wall clock was put back by a day."""
    add(store, boot_id="earlier", boot=5000.0, wall=4_999_000.0)
    add(store, boot_id="earlier", boot=6000.0, wall=5_000_500.0)
    add(store, boot=100.0, wall=5_000_100.0)
    add(store, boot=900.0, wall=4_914_500.0)
    add(store, boot=990.0, wall=4_914_590.0)
    clock = FakeClock(1000.0, 4_913_600.0 + 86_400)  # it is 5_001_000 now
    assert seqs(store, Query(since=Since(ago=20.0)), clock) == [5]
    assert seqs(store, Query(since=Since(ago=200.0)), clock) == [4, 5]
    assert seqs(store, Query(since=Since(ago=1001.0)), clock) == [2, 3, 4, 5], "beyond the boot by the wall clock"
    assert seqs(store, Query(since=Since(wall=5_000_000.0)), clock) == [2, 3, 4, 5]
    assert seqs(store, Query(since=Since(wall=6_000_000.0)), clock) == []
    assert seqs(store, Query(since=Since(ago=1.0)), clock) == []


def test_a_follower_that_falls_behind_is_told(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_events, "EVENTS_KEPT", 100)

    async def main() -> None:
        stream = Stream(store, anyio.CapacityLimiter(1), FakeClock(), "boot")
        reader = stream.read(Query(follow=True))
        add(store)
        assert (await anext(reader))["seq"] == 1
        add(store, 100 + store_events.PRUNE_EVERY)
        stream.publish()
        found, oldest = await anext(reader), store.page(0, 1, Query()).oldest
        assert oldest > 200
        assert (found["type"], found["from"], found["to"]) == ("gap", 2, oldest - 1)
        assert (await anext(reader))["seq"] == oldest
        await reader.aclose()  # type: ignore[attr-defined]

    anyio.run(main, backend="trio")


# -- the journal --------------------------------------------------------------------------------


@dataclass
class Desk:
    journal: Journal
    stream: Stream
    clock: FakeClock
    store: SqliteStore
    dropped: list[int]


async def with_journal(store: SqliteStore) -> AsyncIterator[Desk]:
    clock, threads = FakeClock(), anyio.CapacityLimiter(1)
    async with anyio.create_task_group() as tasks:
        stream = Stream(store, threads, clock, "boot")
        dropped: list[int] = []
        journal = Journal(store, clock, "boot", tasks, threads, stream.publish, dropped.append)
        yield Desk(journal, stream, clock, store, dropped)
        tasks.cancel_scope.cancel()


def said(type_: str, generation: int = 1) -> Said:
    return Said(type_, generation, "x", "words")


def test_what_is_said_later_waits_for_others_and_not_for_ever(store: SqliteStore) -> None:
    async def main() -> None:
        async for desk in with_journal(store):
            before = store.writes
            desk.journal.later([desk.journal.event("a", said("start"), boot=990.0)])
            desk.journal.later([desk.journal.event("b", said("start"))])
            assert store.writes == before
            await anyio.sleep(LINGER * 1.5)
            await anyio.sleep(0.05)
            assert store.writes == before + 1, "both in one transaction"
            assert [(one.name, one.boot) for one in store.decisions()] == [("a", 990.0), ("b", 1000.0)]
            assert store.decisions()[0].wall == 5_000_990.0

    anyio.run(main, backend="trio")


def test_a_disk_that_takes_nothing_keeps_a_bounded_number_waiting(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async for desk in with_journal(store):
            events = [desk.journal.event("a", said("start", n)) for n in range(MOST_WAITING + 5)]

            def full(event: Decision) -> int:
                raise HostError("disk full")

            with monkeypatch.context() as patch:
                patch.setattr(store, "decide", full)
                desk.journal.later(events)
                with pytest.raises(HostError):
                    await desk.journal.flush()
            assert desk.dropped == [5]
            await desk.journal.flush()
            assert len(store.decisions(limit=5000)) == MOST_WAITING

    anyio.run(main, backend="trio")


def test_start_and_delete_are_said_once_a_run_over_deaths_of_the_daemon(store: SqliteStore) -> None:
    add(store, type="create", generation=1)
    add(store, type="exit", generation=1)
    add(store, type="create", generation=2)

    async def main() -> None:
        async for desk in with_journal(store):
            journal, state = desk.journal, begin()
            assert journal.open_runs("web") == {1: {"create", "exit"}, 2: {"create"}}
            journal.found_started(state, 1, 900.0, None)
            journal.found_started(state, 2, 950.0, 41)
            for _ in range(2):
                journal.cleaned("web", 1, Phase.RUNNING)
            journal.settle_rest(["web"])
            await journal.flush()
            assert journal.open_runs("web") == {2: {"create", "start"}}
            journal.found_started(state, 2, 950.0, 41)
            journal.settle_rest([])
            await journal.flush()

    anyio.run(main, backend="trio")
    found = store.decisions(since=3)
    assert [(one.type, one.generation, one.boot) for one in found] == [
        ("start", 2, 950.0), ("delete", 1, 1000.0), ("delete", 2, 1000.0),
    ]  # fmt: skip


def test_what_a_user_can_repeat_at_will_is_counted_beyond_a_rate(store: SqliteStore) -> None:
    async def main() -> None:
        async for desk in with_journal(store):
            answers = [desk.journal.may_say("web", "exec") for _ in range(int(BURST) + 7)]
            assert answers == [0] * int(BURST) + [None] * 7
            desk.clock.now += 5.0
            assert desk.journal.may_say("web", "exec") == 7, "how many were left out"
            assert desk.journal.may_say("web", "exec") is None
            assert desk.journal.may_say("db", "exec") == 0, "one container does not silence another"

    anyio.run(main, backend="trio")


def test_a_daemon_knows_how_the_last_one_ended(store: SqliteStore) -> None:
    async def main() -> None:
        async for desk in with_journal(store):
            found = [desk.journal.ended_cleanly()]
            for type_ in ("daemon-start", "daemon-stop", "daemon-start"):
                desk.journal.daemon(type_, "", {"pid": 7})
                await desk.journal.flush()
                found.append(desk.journal.ended_cleanly())
            assert found == [None, False, True, False]

    anyio.run(main, backend="trio")


# -- the words ----------------------------------------------------------------------------------


def test_types_and_topics_are_documented_and_the_schema_is_the_one_in_the_documents() -> None:
    guide = (REPO / "docs/events.md").read_text()
    for name, kind in KINDS.items():
        row = next((row for row in guide.splitlines() if row.startswith(f"| `{name}` |")), "")
        assert f"`{kind.topic}`" in row, name
        assert all(f"`{key}`" in row for key in kind.data), name
    assert json.loads((REPO / "docs/events.schema.json").read_text()) == schema(), "wharfctl events --schema"


def test_types_are_words_or_topics() -> None:
    assert types_of("oom, /tasks/exit") == ("oom", "exit", "exec-exit")
    assert types_of("") == ()
    with pytest.raises(ValueError, match="bang"):
        types_of("oom,bang")


def test_a_line_has_what_the_schema_requires(store: SqliteStore) -> None:
    store.record_end("web", End(1, None, 1.0, code=0), "b", 1.0, "", "success")
    add(store, type="exit", data={"code": 1})
    event, gap = schema()["oneOf"]
    (shown,) = store.decisions()
    assert set(event["required"]) == set(line(shown))
    assert set(gap["required"]) == set(read(store, Query(since=9))[0])
