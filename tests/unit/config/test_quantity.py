"""Durations, sizes and processors: what is written comes back exactly."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.quantity import (
    format_cpus,
    format_duration,
    format_size,
    parse_cpus,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds", "printed"),
    [
        ("10s", 10.0, "10s"),
        ("1m30s", 90.0, "1m30s"),
        ("500ms", 0.5, "500ms"),
        ("1h", 3600.0, "1h"),
        ("2d", 172_800.0, "48h"),
        ("10", 10.0, "10s"),
        ("0.5", 0.5, "500ms"),
        ("1.5h", 5400.0, "1h30m"),
        ("0", 0.0, "0s"),
        ("0s", 0.0, "0s"),
        ("1h0m1s", 3601.0, "1h1s"),
        ("250us", 0.00025, "250us"),
        ("1ns", 1e-9, "1ns"),
        (" 5s ", 5.0, "5s"),
        (".5", 0.5, "500ms"),
        ("0.1s", 0.1, "100ms"),
        ("1µs", 1e-6, "1us"),
    ],
)
def test_durations(text: str, seconds: float, printed: str) -> None:
    assert parse_duration(text) == seconds
    assert format_duration(seconds) == printed


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        "10 s",
        "1s1m",
        "1m1m",
        "-1s",
        "+1",
        "1e3",
        "1,5s",
        "ten",
        "10sec",
        "1:30",
        "0.1ns",
        "٣s",
        "1_0s",
        "9" * 5000,
        "1h" * 100,
        "400000d",
        "inf",
        "nan",
        "1.s",
        "1s ms",
    ],
)
def test_what_is_no_duration_is_refused_with_words(text: str) -> None:
    with pytest.raises(ValueError, match="duration|finer|31 years") as caught:
        parse_duration(text)
    assert len(str(caught.value)) < 250


@given(st.integers(0, 10**9 * 10**9))
def test_every_duration_of_whole_nanoseconds_comes_back(nanoseconds: int) -> None:
    seconds = parse_duration(f"{nanoseconds}ns") if nanoseconds < 10**20 else 0.0
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.floats(0, 1e9).map(lambda s: round(s, 3)))
def test_every_duration_of_milliseconds_comes_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size", "printed"),
    [
        ("128MiB", 128 * 2**20, "128MiB"),
        ("64M", 64 * 2**20, "64MiB"),
        ("64MB", 64 * 2**20, "64MiB"),
        ("64k", 65_536, "64KiB"),
        ("64K", 65_536, "64KiB"),
        ("1G", 2**30, "1GiB"),
        ("1000", 1000, "1000"),
        ("1024", 1024, "1KiB"),
        ("0", 0, "0"),
        ("1.5GiB", 3 * 2**29, "1536MiB"),
        ("0.1G", 107_374_182, "107374182"),
        ("5b", 5, "5"),
        ("1t", 2**40, "1TiB"),
        ("7 MiB", 7 * 2**20, "7MiB"),
    ],
)
def test_sizes(text: str, size: int, printed: str) -> None:
    assert parse_size(text) == size
    assert format_size(size) == printed


@pytest.mark.parametrize(
    "text",
    ["", "M", "-1", "+1", "1X", "1.5", "1e3", "0x10", "1_000", "64 M B", "9" * 5000, "9" * 19, "99999P", "٣M", "max"],
)
def test_what_is_no_size_is_refused_with_words(text: str) -> None:
    with pytest.raises(ValueError, match="size|bytes|count"):
        parse_size(text)


@given(st.integers(0, 2**63 - 1))
def test_every_size_comes_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(1, 1000), st.sampled_from(["k", "M", "MiB", "G", "KB"]))
def test_units_are_powers_of_1024(count: int, unit: str) -> None:
    assert parse_size(f"{count}{unit}") == count * 1024 ** {"k": 1, "m": 2, "g": 3}[unit[0].lower()]


@pytest.mark.parametrize(("text", "printed"), [("0.5", "0.5"), ("0.50", "0.5"), ("2", "2"), ("20", "20"), ("1.0", "1")])
def test_cpus(text: str, printed: str) -> None:
    assert format_cpus(parse_cpus(text)) == printed
    assert parse_cpus(printed) == Decimal(text)


@pytest.mark.parametrize("text", ["", "-1", "two", "1e3", "0.000001", "9" * 5000, "nan", "1/2"])
def test_what_is_no_number_of_processors_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="processors|decimals"):
        parse_cpus(text)


@given(st.integers(0, 10**9).map(lambda n: Decimal(n) / 10**5))
def test_every_number_of_processors_comes_back(cpus: Decimal) -> None:
    assert parse_cpus(format_cpus(cpus)) == cpus


@given(st.text(max_size=80))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size, parse_cpus):
        with suppress(ValueError):
            parse(text)
