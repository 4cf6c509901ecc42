"""Thousands of seeded histories of the pure core. `pytest tests/sim --seed N --histories 1` repeats one."""

from __future__ import annotations

import pytest

from tests.sim.history import History


@pytest.mark.timeout(600)
def test_histories_keep_the_promises(first_seed: int, histories: int) -> None:
    for seed in range(first_seed, first_seed + histories):
        History(seed).run()
