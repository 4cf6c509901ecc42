"""The flight recorder: a ring that keeps what it should and knows what it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor import recorder
from monitor.cgroup import CgroupReader, Sample
from monitor.recorder import COLUMNS, Ring, Track
from tests.fixtures import tree

WIDTH = len(COLUMNS)
ROWS = st.lists(
    st.tuples(st.integers(0, 5000), st.lists(st.none() | st.integers(0, 2**63 - 1), min_size=3, max_size=3)),
    max_size=30,
)


def test_a_row_takes_its_columns_from_one_sample(tmp_path: Path) -> None:
    with CgroupReader(tree.build(tmp_path / "web", tree.cgroup(2))) as reader:
        row = recorder.row(reader.read(recorder.RECORD_FILES))
    values = dict(zip(COLUMNS, row, strict=True))
    assert values == {
        "cpu_usec": 3_000_002,
        "memory": 64_008_192,
        "anon": 2000,
        "swap": 0,
        "memory_high": 3,
        "memory_max": 2,
        "pids": 4,
        "io_read": 1024,
        "io_write": 5120,
        "memory_some_usec": 2,
        "memory_full_usec": 1,
        "cpu_some_usec": 2,
        "io_some_usec": 2,
        "inactive_file": 2021,
    }


def test_what_is_unknown_is_unknown_in_the_ring() -> None:
    ring = Ring(10)
    ring.add(1.0, Sample({"memory.current": b"5\n"}))
    columns = ring.last(60).columns
    assert columns["memory"] == (5,)
    assert all(columns[name] == (None,) for name in COLUMNS if name != "memory")


def test_the_ring_keeps_the_newest_rows_and_no_more_memory() -> None:
    ring = Ring(300)
    size = ring.nbytes
    for second in range(1000):
        ring.add(float(second), (second,) * WIDTH)
    assert size == ring.nbytes == 300 * 15 * 8
    assert len(ring) == 300
    assert ring.last(60).times == tuple(float(second) for second in range(939, 1000))
    assert ring.last(1e9).columns["pids"] == tuple(range(700, 1000))
    assert ring.last(0).times == (999.0,)


def test_a_clock_that_ran_backwards_starts_the_ring_anew() -> None:
    ring = Ring(10)
    ring.add(100.0, (1,) * WIDTH)
    ring.add(5.0, (2,) * WIDTH)
    assert ring.last(1000).times == (5.0,)


def test_an_empty_ring_has_an_empty_track() -> None:
    ring = Ring(10)
    assert len(ring.last(60)) == 0
    ring.add(1.0, (1,) * WIDTH)
    ring.clear()
    assert recorder.pack(ring.last(60)) == [1, [], 0, [], []]


def test_a_row_of_the_wrong_width_is_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match="columns"):
        Ring(10).add(1.0, (1, 2))


@given(ROWS)
def test_a_track_survives_the_store(rows: list[tuple[int, list[int | None]]]) -> None:
    ring = Ring(12, ("a", "b", "c"))
    now = 0
    for step, values in rows:
        now += step
        ring.add(now / 1000, tuple(values))
    track = ring.last(1e9)
    again = recorder.unpack(json.loads(json.dumps(recorder.pack(track))))
    assert again is not None
    known = {name: values for name, values in track.columns.items() if any(value is not None for value in values)}
    assert again.columns == known
    assert again.times == (track.times if known else ())


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3) | st.floats(),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
        max_leaves=20,
    )
)
def test_rubbish_from_a_disk_is_no_track_and_no_error(stored: object) -> None:
    assert recorder.unpack(stored) is None or isinstance(recorder.unpack(stored), Track)


def test_a_minute_is_small_in_the_store() -> None:
    ring = Ring()
    for second in range(300):
        row = (10**9 + second * 250_000, 10**8 + second, 10**8, 0, 0, 0, 12, 10**7, 10**7, 500, 100, 700, 9, 10**6)
        ring.add(second * 1.0, row)
    assert 100 < len(recorder.dump(ring.last(60))) < 3000
    assert recorder.dump(Ring().last(60)) == ""
