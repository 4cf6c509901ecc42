"""An exit record as the end of a run."""

from __future__ import annotations

import pytest

from runtime.exitrecord import ExitRecord
from supervisor import ends
from supervisor.lifecycle.facts import End, Source


def end_of(*, how: str = "signaled", status: int = 9, told: str = "shim", we_killed: bool = False) -> End:
    counts = {"mem.parent.oom_kill.start": 2, "mem.parent.oom_kill.end": 3}
    record = ExitRecord(4, 41, 10.0, 20.0, "boot", how, status, False, counts, told)
    return ends.end_of(record, Source.SHIM, we_killed)


def test_a_kill_of_ours_is_no_oom_whatever_the_counters_say() -> None:
    for ours in (False, True):
        oom = end_of(we_killed=ours).oom
        assert oom is not None
        assert oom.killed is not ours


@pytest.mark.parametrize(
    ("how", "told", "source", "code", "signal"),
    [
        ("exited", "shim", Source.SHIM, 9, None),
        ("signaled", "shim", Source.SHIM, None, 9),
        ("signaled", "kernel", Source.KERNEL, None, 9),
        ("unknown", "kernel", Source.LOST, None, None),
    ],
)
def test_who_told_it_and_what(how: str, told: str, source: Source, code: int | None, signal: int | None) -> None:
    end = end_of(how=how, told=told)
    assert (end.source, end.code, end.signal, end.generation) == (source, code, signal, 4)
