"""Every event in every situation: where it leads, and what is done. pairs.txt was read and agreed line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.lifecycle.facts import Phase
from supervisor.lifecycle.moves import wake_of
from supervisor.lifecycle.step import TABLE
from tests.unit.lifecycle.world import SITUATIONS, events

TABLE_FILE = Path(__file__).with_name("pairs.txt")


def agreed() -> dict[tuple[str, str], str]:
    """`situation event: PHASE Effect Effect`, or `-` where nothing at all changes."""
    found: dict[tuple[str, str], str] = {}
    situation = ""
    for line in TABLE_FILE.read_text().splitlines():
        if line.startswith("# "):
            situation = line[2:].partition(":")[0]
        elif line.strip():
            event, _, result = line.strip().partition(":")
            assert (situation, event) not in found, f"twice: {situation} {event}"
            found[situation, event] = " ".join(result.split())
    return found


AGREED = agreed()
PAIRS = [(situation, event) for situation, make in SITUATIONS.items() for event in events(make().s)]


def test_every_pair_has_a_line_and_every_line_a_pair() -> None:
    assert set(PAIRS) == set(AGREED)


def test_every_phase_and_every_class_of_event_is_among_them() -> None:
    assert {make().phase for make in SITUATIONS.values()} == set(Phase)
    assert {event.partition(" ")[0] for _, event in PAIRS} == {kind.__name__ for kind in TABLE}
    assert all(set(row) == set(Phase) for row in TABLE.values())


@pytest.mark.parametrize(("situation", "event"), PAIRS)
def test_a_pair(situation: str, event: str) -> None:
    life = SITUATIONS[situation]()
    before = life.s
    life.tell(events(before)[event], 1.0)
    result = " ".join([life.phase.value, *life.effects()]) if life.last or life.s != before else "-"
    assert result == AGREED[situation, event]
    assert life.s.wake_at == wake_of(life.s)
