"""The store does what `ports.Store` promises, in one transaction where they belong together."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import store_codec as codec
from supervisor.lifecycle.facts import Cause, Desired, End, Oom, Phase, Saved, Scope, Source
from supervisor.lifecycle.terms import STUCK
from supervisor.ports import Decision
from supervisor.store import ENDS_KEPT, SAMPLES_KEPT, SqliteStore, open_store

OOM = End(7, 1.5, 9.25, signal=9, oom=Oom(killed=True, group=True, scope=Scope.CONTAINER, kills=3))
FULL = Saved(
    generation=8,
    desired=Desired.DOWN,
    explicit_stop=True,
    phase=Phase.BACKOFF,
    attempt=3,
    ends=(1.0, 2.5),
    last_end=OOM,
    cause=Cause("oom", 'it said "no"\n\udcff'),
    wake_at=12.5,
    health_stop=True,
    stuck=True,
    pressure_at=987.5,
)


def decision(name: str = "web", text: str = "because") -> Decision:
    return Decision(0, name, 3, "boot", 10.5, 20.5, "RUNNING", "STARTING", "policy", text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = open_store(path)
    yield opened
    opened.close()


def reopened(store: SqliteStore, path: Path) -> SqliteStore:
    store.close()
    return open_store(path)


def test_a_new_store_is_empty_private_and_nothing_was_set_aside(store: SqliteStore, path: Path) -> None:
    assert store.load() == {}
    assert store.quarantined == ()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not (path.parent / "state.db.new").exists()


def test_what_is_persisted_is_there_after_a_restart(store: SqliteStore, path: Path) -> None:
    store.persist("web", FULL, "boot-1")
    store.persist("db", Saved(), "boot-1")
    store.persist("db", Saved(generation=1), "boot-2")
    again = reopened(store, path)
    found = again.load()
    again.close()
    assert found["web"].saved == FULL
    assert (found["db"].saved, found["db"].boot_id) == (Saved(generation=1), "boot-2")


def test_an_end_is_recorded_once_and_counted_once(store: SqliteStore) -> None:
    store.persist("web", Saved(), "b")
    assert store.record_end("web", OOM, "b", 100.0, '{"m":1}', "oom")
    assert not store.record_end("web", replace(OOM, signal=15), "b", 101.0, "", "signal")
    (kept,) = store.ends("web")
    assert (kept.end, kept.wall, kept.samples) == (OOM, 100.0, '{"m":1}')
    record = store.load()["web"]
    assert (record.ends, record.oom_kills) == ({"oom": 1}, {"container": 3})


def test_an_end_that_init_survived_counts_no_oom_kill(store: SqliteStore) -> None:
    store.persist("web", Saved(), "b")
    store.record_end("web", End(1, 0.0, 1.0, code=0, oom=Oom(scope=Scope.CONTAINER, kills=2)), "b", 1.0, "", "success")
    store.count_oom("web", Scope.PARENT, 2)
    assert store.load()["web"].oom_kills == {"parent": 2}


def test_the_last_hundred_ends_are_kept_the_newest_last(store: SqliteStore) -> None:
    with store.batch():
        for generation in range(1, ENDS_KEPT + 21):
            store.record_end("web", End(generation, None, 1.0, code=0), "b", 1.0, "s", "success")
    ends = store.ends("web", 1000)
    assert [e.end.generation for e in ends] == list(range(21, ENDS_KEPT + 21))
    assert [e.end.generation for e in store.ends("web", 2)] == [ENDS_KEPT + 19, ENDS_KEPT + 20]
    assert sum(1 for e in ends if e.samples) == SAMPLES_KEPT
    assert not store.record_end("web", End(3, None, 1.0, code=0), "b", 1.0, "", "success"), "it was recorded once"


def test_restarts_are_counted_by_reason(store: SqliteStore) -> None:
    store.persist("web", Saved(), "b")
    for reason in ("oom", "oom", "manual"):
        store.count_restart("web", reason)
    assert store.load()["web"].restarts == {"oom": 2, "manual": 1}


def test_decisions_are_numbered_for_ever(store: SqliteStore, path: Path) -> None:
    first = store.decide(decision())
    second = store.decide(decision("db", "x" * 5000))
    again = reopened(store, path)
    third = again.decide(decision())
    assert first < second < third
    found = again.decisions()
    assert [d.seq for d in found] == [first, second, third]
    assert found[0] == replace(decision(), seq=first)
    assert len(found[1].text) == 1000, "one decision cannot fill the disk"
    assert [d.name for d in again.decisions("web")] == ["web", "web"]
    assert [d.seq for d in again.decisions(since=first, limit=1)] == [second], "a reader goes on where it was"
    assert [d.seq for d in again.decisions(limit=1)] == [third], "without a place the newest are wanted"
    again.close()


def test_forget_drops_the_container_and_keeps_the_history(store: SqliteStore) -> None:
    store.persist("web", FULL, "b")
    store.record_end("web", OOM, "b", 1.0, "", "oom")
    store.count_restart("web", "oom")
    store.decide(decision())
    store.persist("db", Saved(), "b")
    store.forget("web")
    assert list(store.load()) == ["db"]
    assert store.ends("web") == []
    assert len(store.decisions("web")) == 1
    store.persist("web", Saved(), "b")
    assert store.load()["web"].restarts == {}


def test_a_batch_is_all_or_nothing(store: SqliteStore) -> None:
    store.persist("web", Saved(), "b")

    def fail_late() -> None:
        with store.batch():
            store.persist("web", FULL, "b")
            store.decide(decision())
            with store.batch():
                store.count_restart("web", "oom")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_late()
    assert store.load()["web"].saved == Saved()
    assert store.load()["web"].restarts == {}
    assert store.decisions() == []
    store.persist("web", FULL, "b")
    assert store.load()["web"].saved == FULL


def test_a_batch_is_one_transaction(store: SqliteStore) -> None:
    before = store.writes
    with store.batch():
        store.persist("web", FULL, "b")
        store.record_end("web", OOM, "b", 1.0, "", "oom")
        store.count_restart("web", "oom")
        store.decide(decision())
    assert store.writes == before + 1


def test_nothing_is_written_while_nothing_happens(store: SqliteStore, path: Path) -> None:
    store.persist("web", FULL, "b")
    before = {p.name: p.stat().st_mtime_ns for p in path.parent.iterdir()}
    for _ in range(3):
        store.load()
        store.ends("web")
        store.decisions("web")
        store.forget("nobody")
        with store.batch():
            pass
    assert {p.name: p.stat().st_mtime_ns for p in path.parent.iterdir()} == before


def test_threads_take_turns(store: SqliteStore) -> None:
    def work(name: str) -> None:
        for generation in range(1, 21):
            with store.batch():
                store.persist(name, Saved(generation=generation), "b")
                store.record_end(name, End(generation, None, 1.0, code=0), "b", 1.0, "", "success")
                store.decide(decision(name))

    threads = [threading.Thread(target=work, args=(f"c{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.load()
    assert {r.saved.generation for r in found.values()} == {20}
    assert {r.ends["success"] for r in found.values()} == {20}
    assert [d.seq for d in store.decisions(limit=100)] == list(range(1, 81))


numbers = st.none() | st.floats(-1e12, 1e12)
counts = st.integers(0, 2**63 - 1)
ends = st.builds(
    End,
    generation=counts,
    started=numbers,
    ended=st.floats(-1e12, 1e12),
    code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(0, 64),
    oom=st.builds(
        Oom, st.booleans(), st.booleans(), st.none() | st.sampled_from(Scope), st.none() | st.integers(0, 10**6)
    ),
    source=st.sampled_from(Source),
    detail=st.text(),
)


@given(
    st.builds(
        Saved,
        generation=counts,
        desired=st.sampled_from(Desired),
        explicit_stop=st.booleans(),
        phase=st.sampled_from(Phase),
        attempt=counts,
        ends=st.lists(st.floats(-1e12, 1e12), max_size=5).map(tuple),
        last_end=st.none() | ends,
        cause=st.builds(Cause, st.text(), st.text()),
        wake_at=numbers,
        health_stop=st.booleans(),
        stuck=st.booleans(),
    )
)
def test_any_record_comes_back_as_it_was(saved: Saved) -> None:
    assert codec.load_saved(codec.dump_saved(saved)) == saved


def test_no_field_of_a_record_is_forgotten() -> None:
    assert codec.load_saved(codec.dump_saved(FULL)) == FULL
    default = Saved()
    assert all(getattr(FULL, f.name) != getattr(default, f.name) for f in fields(Saved)), "FULL shall set them all"
    row = codec.end_json(OOM)
    assert set(row) == {f.name for f in fields(End)}
    assert set(row["oom"]) == {f.name for f in fields(Oom)}


def test_a_record_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert codec.load_saved('{"generation": 4, "mood": "good", "last_end": null}') == Saved(generation=4)


def test_a_record_from_before_stuck_was_a_field_tells_it_in_words() -> None:
    words = f"killed by op; {STUCK}"
    for phase, cause, stuck in (
        ("STOPPING", words, True),
        ("STOPPING", "killed by op", False),
        ("EXITED", words, False),
    ):
        saved = codec.load_saved(json.dumps({"phase": phase, "cause": ["operator", cause]}))
        assert saved.stuck is stuck


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "7", "{", '"x"', '{"generation": -1}', '{"generation": true}', '{"generation": 1.5}',
        '{"generation": 1e400}', '{"phase": "ASLEEP"}', '{"desired": null}', '{"ends": [NaN]}', '{"ends": 3}',
        '{"cause": "x"}', '{"cause": ["a", 3]}', '{"last_end": 5}', '{"last_end": {}}', '{"wake_at": "soon"}',
        '{"last_end": {"generation": 1, "ended": Infinity}}', '{"wake_at": ' + "9" * 400 + "}", "[" * 100_000,
        '{"last_end": {"generation": 1, "ended": 1, "oom": {"scope": "moon"}}}', '{"wake_at": ' + "9" * 5000 + "}",
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  any of them: json's and enum's are ValueErrors too
        codec.load_saved(text)
