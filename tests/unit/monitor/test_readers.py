"""Bytes to numbers: what the kernel writes, what it may write, and what nobody should."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor import readers

PARSERS: tuple[Callable[[bytes], object], ...] = (
    readers.flat_digits,
    readers.parse_flat,
    readers.parse_number,
    readers.parse_limit,
    readers.parse_cpu_max,
    readers.pressure_digits,
    readers.parse_pressure,
    readers.io_digits,
    readers.parse_io_stat,
    readers.count_lines,
    readers.net_digits,
)
LIKE_A_FILE = st.lists(
    st.sampled_from(
        [b"anon", b"some", b"full", b"8:0", b"max", b"12", b"=", b"rbytes=1", b"rbytes=", b"=5", b"total=7", b"total=",
         b" ", b"\n", b"\t", b":", b"eth0:", b"\xff", b"\0", b"9" * 5000, b"-1", b"1.5", b"avg10=0.00", b"\r"]
    ),
    max_size=40,
).map(b"".join)  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)
@given(data=st.binary(max_size=400) | LIKE_A_FILE)
def test_no_bytes_make_a_reader_raise(parser: Callable[[bytes], object], data: bytes) -> None:
    parser(data)


@given(st.dictionaries(st.from_regex(rb"[a-z_]{1,20}", fullmatch=True), st.integers(0, 2**64 - 1), max_size=60))
def test_a_flat_file_reads_back_as_it_was_written(values: dict[bytes, int]) -> None:
    data = b"".join(b"%s %d\n" % pair for pair in values.items())
    assert readers.parse_flat(data) == {key.decode(): value for key, value in values.items()}


@given(st.binary(max_size=200) | LIKE_A_FILE)
def test_a_strange_line_hides_no_good_one(rubbish: bytes) -> None:
    assert readers.parse_flat(b"oom_kill 7\n" + rubbish + b"\noom 3\n")["oom_kill"] == 7
    assert readers.parse_io_stat(b"8:0 rbytes=5\n" + rubbish)["8:0"]["rbytes"] == 5
    assert readers.parse_pressure(b"some avg10=0.00 total=5\n" + rubbish)["some"].total == 5


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b"", {}),
        (b"low 0\nmax 12\n", {"low": 0, "max": 12}),
        (b"low 0\nmax\n", {"low": 0}),
        (b"low 0 0\nmax 1\n", {"max": 1}),
        (b"low -1\nmax 1.5\nhigh 2\n", {"high": 2}),
        (b"low 1\nlow 2\n", {"low": 1}),
        (b"big " + b"9" * 21 + b"\nmax 1\n", {"max": 1}),
        (b"max 1", {"max": 1}),
    ],
)
def test_a_flat_file_is_read_by_key_and_a_bad_value_is_no_value(data: bytes, values: dict[str, int]) -> None:
    assert readers.parse_flat(data) == values


@pytest.mark.parametrize(
    ("data", "limit"),
    [(b"max\n", readers.NO_LIMIT), (b"4096\n", 4096), (b"0\n", 0), (b"", None), (b"-1\n", None), (b"max max\n", None)],
)
def test_a_limit_is_a_number_or_none_or_unknown(data: bytes, limit: int | None) -> None:
    assert readers.parse_limit(data) == limit


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"max 100000\n", readers.CpuMax(None, 100_000)),
        (b"50000 20000\n", readers.CpuMax(50_000, 20_000)),
        (b"50000\n", readers.CpuMax(50_000, 100_000)),
        (b"", None),
        (b"much 100000\n", None),
    ],
)
def test_cpu_max(data: bytes, answer: readers.CpuMax | None) -> None:
    assert readers.parse_cpu_max(data) == answer


def test_io_stat_takes_lone_devices_and_keys_of_other_controllers() -> None:
    data = b"8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0 cost.vrate=100.00 cost.usage=5 odd x= \n7:0\nbad x=1\n"
    assert readers.parse_io_stat(data) == {
        "8:0": {"rbytes": 1, "wbytes": 2, "rios": 3, "wios": 4, "dbytes": 0, "dios": 0, "cost.usage": 5}
    }
    assert b"7:0" not in readers.io_digits(data)


def test_pressure_of_todays_kernels_and_of_others() -> None:
    usual = b"some avg10=1.50 avg60=0.00 avg300=0.10 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=45\n"
    assert readers.parse_pressure(usual) == {
        "some": readers.Pressure(123, 1.5, 0.0, 0.1),
        "full": readers.Pressure(45, 0.0, 0.0, 0.0),
    }
    assert readers.pressure_digits(usual) == {b"some": b"123", b"full": b"45"}
    only_some = b"some avg10=x total=123\n"  # cpu.pressure before Linux 5.13 had no full line
    assert readers.parse_pressure(only_some) == {"some": readers.Pressure(123)}
    assert readers.pressure_digits(only_some) == {b"some": b"123"}
    assert readers.pressure_digits(b"some avg10=0.00 total=1\nfull avg10=0.00\n") == {b"some": b"1"}


def test_net_dev() -> None:
    data = (
        b"Inter-|   Receive                                                |  Transmit\n"
        b" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls\n"
        b"    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
        b"eth0.5:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
    )
    found = readers.net_digits(data)
    assert list(found) == [b"lo", b"eth0.5"]
    assert found[b"eth0.5"]["receive_packets_dropped"] == b"4"
    assert found[b"eth0.5"]["transmit_bytes"] == b"9"
