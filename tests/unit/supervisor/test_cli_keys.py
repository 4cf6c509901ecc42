"""Detach keys: how they are written, and how they are found in what is typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli.args import UsageError
from supervisor.cli.keys import DEFAULT, Watch, parse_keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (DEFAULT, b"\x10\x11"),
        ("ctrl-a,d", b"\x01d"),
        ("Ctrl-A", b"\x01"),
        ("ctrl-@", b"\x00"),
        ("ctrl-[", b"\x1b"),
        ("ctrl-\\", b"\x1c"),
        ("ctrl-]", b"\x1d"),
        ("ctrl-^,ctrl-_", b"\x1e\x1f"),
        ("q", b"q"),
        ("", b""),
    ],
)
def test_keys_are_written_as_docker_does(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize(
    "text", ["ctrl-", "ctrl-1", "ctrl-ab", "ab", "ctrl-a,", ",", " ", "é", "ctrl+a", "ctrl-p ctrl-q"]
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--detach-keys"):
        parse_keys(text)


@pytest.mark.parametrize(
    ("typed", "passed", "left"),
    [
        ([b"ls\n"], b"ls\n", False),
        ([b"\x10\x11"], b"", True),
        ([b"\x10", b"\x11"], b"", True),
        ([b"ls\x10\x11rm\n"], b"ls", True),
        ([b"\x10", b"x"], b"\x10x", False),
        ([b"\x10\x10", b"\x11"], b"\x10", True),
        ([b"\x11\x10"], b"\x11", False),
    ],
)
def test_the_keys_are_found(typed: list[bytes], passed: bytes, left: bool) -> None:
    watch = Watch(parse_keys(DEFAULT))
    found = [watch.feed(data) for data in typed]
    assert b"".join(data for data, _ in found) == passed
    assert [gone for _, gone in found] == [False] * (len(typed) - 1) + [left]


def test_without_keys_all_is_passed_on() -> None:
    assert Watch(b"").feed(b"\x10\x11") == (b"\x10\x11", False)


@given(st.lists(st.binary(max_size=4)), st.binary(min_size=1, max_size=4), st.binary(max_size=40))
def test_nothing_is_lost_and_the_first_keys_are_found(cuts: list[bytes], keys: bytes, typed: bytes) -> None:
    watch, passed, gone = Watch(keys), b"", False
    sizes = [len(cut) + 1 for cut in cuts] or [1]
    rest = typed
    while rest and not gone:
        size = sizes.pop(0) if sizes else len(rest)
        out, gone = watch.feed(rest[:size])
        passed, rest = passed + out, rest[size:]
    before, found, _ = typed.partition(keys)
    assert gone == bool(found)
    if gone:
        assert passed == before
    else:
        assert typed.startswith(passed)
        assert keys.startswith(typed[len(passed) :])
