"""Thousands of seeded histories of the pure core. `pytest tests/sim --seed N --histories 1` repeats one."""

from __future__ import annotations

import pytest

from supervisor.lifecycle.diagram import LEADS
from supervisor.lifecycle.facts import Phase
from tests.sim.history import History

ENOUGH = 1500  # histories in which every transition happens at least once


@pytest.mark.timeout(600)
def test_histories_keep_the_promises_and_the_table_of_transitions(first_seed: int, histories: int) -> None:
    seen: set[tuple[str, Phase, Phase]] = set()
    for seed in range(first_seed, first_seed + histories):
        history = History(seed)
        history.run()
        seen |= history.edges
    declared = {(event, before, after) for (event, before), phases in LEADS.items() for after in phases}
    if histories >= ENOUGH:
        assert declared - seen == set(), "the table of transitions has some that never happen"
