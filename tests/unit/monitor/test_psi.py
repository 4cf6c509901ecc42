"""Which triggers may be asked for, and what becomes of them where windows come in steps of 2 s."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import RefusedError
from config.pressure import WINDOW_MAX, WINDOW_MIN
from monitor import psi
from monitor.psi import Trigger


@pytest.mark.parametrize(
    ("resource", "kind", "threshold", "window", "words"),
    [
        ("disk", "some", 1, 2_000_000, "no such pressure"),
        ("cpu", "all", 1, 2_000_000, "no such pressure"),
        ("cpu", "some", 1, 499_999, "window of 0.499999 s"),
        ("cpu", "some", 1, 10_000_001, "window of 10 s"),
        ("cpu", "some", 0, 2_000_000, "threshold of 0 s"),
        ("cpu", "some", 2_000_001, 2_000_000, "threshold of 2 s"),
    ],
)
def test_what_no_kernel_takes_is_refused_with_words(
    resource: str, kind: str, threshold: int, window: int, words: str
) -> None:
    with pytest.raises(RefusedError, match=words):
        psi.check(resource, kind, threshold, window)


@given(st.integers(WINDOW_MIN, WINDOW_MAX), st.floats(0.001, 1))
def test_a_stepped_trigger_is_one_that_a_kernel_takes(window: int, share: float) -> None:
    asked = Trigger(max(1, int(window * share)), window)
    got = psi.stepped(asked)
    psi.check("memory", "some", got.threshold, got.window)
    assert got.window % psi.WINDOW_STEP == 0
    assert got.window >= asked.window
    assert got.adjusted is (got.window != asked.window)
    assert got.threshold * asked.window == pytest.approx(asked.threshold * got.window, abs=2 * asked.window)
