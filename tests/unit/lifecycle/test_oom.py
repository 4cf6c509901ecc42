"""Verdicts from counters: no exit code says OOM, and nothing unknown does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.lifecycle.facts import Oom, Scope
from supervisor.lifecycle.oom import Counters, detail, scope_of_child_kill, verdict

PLAIN = Counters(9, False, True, 4, 4, 0, 0, 10, 10, 0)
KILLED = replace(PLAIN, kills_end=5, own_end=1)


@pytest.mark.parametrize(
    ("change", "killed", "scope"),
    [
        ({}, True, Scope.CONTAINER),
        ({"own_end": 0, "top_end": 11}, True, Scope.PARENT),
        ({"own_end": 0}, True, Scope.HOST),
        ({"own_end": 0, "top_start": None, "top_end": None}, True, Scope.HOST),
        ({"own_start": None}, True, None),
        ({"own_end": 1, "top_end": 11}, True, Scope.CONTAINER),
        ({"signal": None}, False, None),
        ({"signal": 15}, False, None),
        ({"we_killed": True}, False, None),
        ({"kills_end": 4}, False, None),
        ({"kills_end": None}, False, None),
        ({"kills_start": None}, False, None),
        ({"kills_end": 2}, False, None),
        ({"group": False}, True, Scope.CONTAINER),
        ({"group": False, "seen": 1}, False, None),
        ({"group": False, "seen": 1, "kills_end": 6}, True, Scope.CONTAINER),
        ({"group": False, "seen": None}, True, Scope.CONTAINER),
        ({"group": True, "seen": 1}, True, Scope.CONTAINER),
        ({"signal": None, "unknown": True}, True, Scope.CONTAINER),
        ({"signal": None, "unknown": True, "kills_end": 4}, False, None),
        ({"signal": None, "unknown": True, "group": False}, False, None),
        ({"signal": None, "unknown": True, "we_killed": True}, False, None),
    ],
)
def test_verdict(change: dict[str, Any], killed: bool, scope: Scope | None) -> None:
    said = verdict(replace(KILLED, **change))
    assert (said.killed, said.scope) == (killed, scope)


def test_the_count_of_kills_is_the_runs_own() -> None:
    assert verdict(KILLED) == Oom(True, True, Scope.CONTAINER, 1)
    assert verdict(replace(KILLED, signal=15)).kills == 1  # told, though it was not the end
    assert verdict(replace(PLAIN, kills_start=None)).kills is None


def test_07_a_kill_by_the_limit_of_a_parent_is_told_as_such() -> None:
    """containerd#6323: no OOM was reported when the limit that was hit was the parent's."""
    assert verdict(Counters(9, False, True, 0, 1, 0, 0, 3, 4, 0)).scope is Scope.PARENT


def test_unknown_counters_are_said_in_words_and_only_for_a_kill_that_is_not_ours() -> None:
    unknown = Counters(signal=9)
    assert not verdict(unknown).killed
    assert "unknown" in detail(unknown)
    assert detail(replace(unknown, we_killed=True)) == detail(replace(unknown, signal=15)) == detail(KILLED) == ""


def test_a_childs_kill_by_its_own_limit_or_the_hosts() -> None:
    assert scope_of_child_kill({"oom": 1, "oom_kill": 1}) is Scope.CONTAINER
    assert scope_of_child_kill({"oom_kill": 1}) is Scope.HOST


NUMBER = st.none() | st.integers(0, 10)


@given(
    st.builds(
        Counters,
        st.none() | st.sampled_from([9, 11, 15]),
        st.booleans(),
        st.booleans(),
        *[NUMBER] * 7,
        unknown=st.booleans(),
    )
)
def test_any_counters_give_a_verdict_and_killed_has_evidence(counters: Counters) -> None:
    said = verdict(counters)
    if said.killed:
        assert counters.signal == 9 or (counters.unknown and counters.group)
        assert not counters.we_killed
        assert said.kills
    else:
        assert said.scope is None
