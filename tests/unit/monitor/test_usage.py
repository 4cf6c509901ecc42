"""What a container uses, from rows of its recorder: levels of the newest, rates over all, else nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitor.recorder import COLUMNS, Ring, Track
from monitor.usage import Usage, usage

MIB = 1 << 20


def track(times: tuple[float, ...], **columns: tuple[int | None, ...]) -> Track:
    return Track(times, columns)


def test_levels_and_rates() -> None:
    found = usage(
        track(
            (10.0, 11.0, 12.0),
            cpu_usec=(0, 900_000, 1_000_000), memory=(1, 2, 50 * MIB), inactive_file=(0, 0, 2 * MIB), pids=(1, 2, 3),
            io_read=(0, 0, 4096), io_write=(7, 7, 7), memory_some_usec=(0, 0, 240_000), cpu_some_usec=(5, 5, 5),
        )
    )  # fmt: skip
    assert found == Usage(
        cpu=0.5, memory=48 * MIB, current=50 * MIB, pids=3, io_read=4096, io_write=7, read=2048.0, write=0.0,
        cpu_pressure=0.0, memory_pressure=0.12,
    )  # fmt: skip


def test_what_is_not_known_is_none() -> None:
    assert usage(track(())) == Usage()
    assert usage(track((1.0,), cpu_usec=(5,), memory=(None,))) == Usage()
    assert usage(track((1.0, 2.0), cpu_usec=(5, 4), io_read=(None, 4))).cpu is None  # it fell: another counter
    assert usage(track((1.0, 2.0), memory=(1, 5))).memory == 5  # no memory.stat: all of it
    assert usage(track((1.0, 2.0), memory=(5, 5), inactive_file=(9, 9))).memory == 0


@given(st.lists(st.tuples(*[st.none() | st.integers(0, 2**63 - 1)] * len(COLUMNS)), max_size=5))
def test_total(rows: list[tuple[int | None, ...]]) -> None:
    ring = Ring(5)
    for second, row in enumerate(rows):
        ring.add(float(second), row)
    found = usage(ring.last(10))
    assert found.memory is None or found.memory >= 0
    assert found.memory_pressure is None or 0 <= found.memory_pressure <= 1
