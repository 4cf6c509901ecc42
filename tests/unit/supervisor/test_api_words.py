"""What `status` says of each state, and whether it is as it shall be."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from config.model import Container
from supervisor.api import shape
from supervisor.api.words import describe, span
from supervisor.lifecycle.facts import Cause, Desired, End, Health, Oom, Phase, Scope
from supervisor.lifecycle.settled import in_desired_state
from supervisor.ports import Snapshot
from tests.fixtures.fake_control import BOOT, WALL, state


def snap(phase: Phase, restarts: dict[str, int] | None = None, problem: str = "", **more: Any) -> Snapshot:
    return Snapshot(state("web", phase, **more), BOOT, WALL, restarts or {}, {}, {}, "/cg", "/log", "/f.yaml", problem)


def end(code: int | None = None, signal: int | None = None, **more: Any) -> End:
    return End(3, BOOT - 70, BOOT - 60, code=code, signal=signal, **more)


OOM = Oom(killed=True, scope=Scope.CONTAINER)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TZ", "UTC")
    time.tzset()


UP: dict[str, Any] = {"pid": 1, "started_at": BOOT - 5}


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (snap(Phase.RUNNING, **UP), "pid 1, uptime 0:00:05"),
        (snap(Phase.RUNNING, {"oom": 2, "manual": 9, "update": 1}, **UP), "pid 1, uptime 0:00:05, restarts 2"),
        (snap(Phase.RUNNING, **UP, health=Health.UNHEALTHY), "pid 1, uptime 0:00:05, unhealthy"),
        (snap(Phase.RUNNING, **UP, health=Health.STARTING), "pid 1, uptime 0:00:05, health starting"),
        (snap(Phase.RUNNING, pid=1, started_at=BOOT + 5), "pid 1, uptime 0:00:00"),
        (snap(Phase.RUNNING, problem="not enforced: memory"), "not enforced: memory"),
        (snap(Phase.STARTING, cause=Cause("x", "")), ""),
        (snap(Phase.STARTING, cause=Cause("dependency", "waiting for db")), "waiting for db"),
        (snap(Phase.BACKOFF, attempt=2, retry_at=BOOT + 12, last_end=end(3)), "exit 3, 2nd restart in 12s"),
        (
            snap(Phase.BACKOFF, attempt=1, retry_at=BOOT + 250, last_end=end(signal=9, oom=OOM)),
            "oom-killed, retry 1 in 4m10s",
        ),
        (
            snap(Phase.BACKOFF, attempt=9, retry_at=BOOT, last_end=end(1), crash_looping=True),
            "exit 1, 9th restart in 0s, crash-looping",
        ),
        (
            snap(Phase.STOPPING, stop_signalled_at=BOOT - 3, cause=Cause("operator", "stopped by root")),
            "stopped by root; kill in 7s",
        ),
        (
            snap(Phase.EXITED, last_end=end(0), generation=3, cause=Cause("policy", "exit 0, policy no")),
            "exit 0, policy no, Nov 25 06:59",
        ),
        (
            snap(Phase.EXITED, last_end=End(3, BOOT, BOOT + 9, code=1), generation=3, cause=Cause("x", "exit 1")),
            "exit 1",
        ),
        (snap(Phase.STOPPED), "Not started"),
        (snap(Phase.STOPPED, generation=2, cause=Cause("operator", "stopped by root")), "stopped by root"),
        (
            snap(Phase.FATAL, generation=2, last_end=end(1), cause=Cause("exhausted", "exit 1: 5 restarts")),
            "exit 1: 5 restarts, Nov 25 06:59",
        ),
        (snap(Phase.UNKNOWN, cause=Cause("new", "not looked at yet")), "not looked at yet"),
        (snap(Phase.UNKNOWN, cause=Cause("x", "forged\nweb RUNNING \x1b[31m" + "x" * 999)), None),
    ],
)
def test_descriptions(shown: Snapshot, words: str | None) -> None:
    found = describe(shown)
    if words is None:
        assert found.isprintable()
        assert len(found) == 200
    else:
        assert found == words


ONCE = Container(name="web", bundle="/b", restart={"policy": "no"}, success_exit_codes=[0, 3])
LATER = Container(name="web", bundle="/b", autostart=False)


@pytest.mark.parametrize(
    ("one", "fine"),
    [
        (state("a", Phase.RUNNING), True),
        (state("a", Phase.RUNNING, health=Health.UNHEALTHY), False),
        (state("a", Phase.RUNNING, health=Health.STARTING), True),
        (state("a", Phase.STARTING), True),
        (state("a", Phase.STARTING, crash_looping=True), False),
        (state("a", Phase.STOPPING), True),
        (state("a", Phase.BACKOFF), False),
        (state("a", Phase.FATAL), False),
        (state("a", Phase.UNKNOWN), False),
        (state("a", Phase.STOPPED), False),
        (state("a", Phase.STOPPED, desired=Desired.DOWN), True),
        (state("a", Phase.STOPPED, definition=LATER), True),
        (state("a", Phase.EXITED, definition=ONCE, last_end=end(0)), True),
        (state("a", Phase.EXITED, definition=ONCE, last_end=end(3)), True),
        (state("a", Phase.EXITED, definition=ONCE, last_end=end(1)), False),
        (state("a", Phase.EXITED, definition=ONCE, last_end=end(signal=9)), False),
        (state("a", Phase.EXITED, definition=ONCE), False),
    ],
)
def test_what_needs_no_look(one: Any, fine: bool) -> None:
    assert in_desired_state(one) is fine


def test_every_phase_has_words_and_a_shape() -> None:
    for phase in Phase:
        shown = snap(phase)
        assert isinstance(describe(shown), str)
        assert shape.container(shown)["state"] == phase


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0:00:00"),
        (59.4, "0:00:59"),
        (723, "0:12:03"),
        (86400, "1 day, 0:00:00"),
        (273604, "3 days, 4:00:04"),
        (-5, "0:00:00"),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words
