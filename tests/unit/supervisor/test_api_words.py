"""What `status` says of each state, and whether it is as it shall be."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from config.model import Container
from supervisor.api import shape
from supervisor.api.words import describe, end_words, in_desired_state, short_span, size, span
from supervisor.lifecycle.facts import Cause, Desired, End, Health, Oom, Phase, Reason, Scope, Source
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


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (snap(Phase.RUNNING, pid=1, started_at=BOOT - 5), "pid 1, uptime 0:00:05"),
        (
            snap(Phase.RUNNING, {"oom": 2, "manual": 9, "update": 1}, pid=1, started_at=BOOT),
            "pid 1, uptime 0:00:00, restarts 2",
        ),
        (snap(Phase.RUNNING, pid=1, started_at=BOOT - 5, health=Health.UNHEALTHY), "pid 1, uptime 0:00:05, unhealthy"),
        (
            snap(Phase.RUNNING, pid=1, started_at=BOOT - 5, health=Health.STARTING),
            "pid 1, uptime 0:00:05, health starting",
        ),
        (snap(Phase.RUNNING, pid=1, started_at=BOOT + 5), "pid 1, uptime 0:00:00"),
        (snap(Phase.RUNNING, problem="not enforced: memory"), "not enforced: memory"),
        (snap(Phase.STARTING), ""),
        (snap(Phase.STARTING, unmet=("db is starting", "mq is BACKOFF")), "waiting: db is starting; mq is BACKOFF"),
        (snap(Phase.BACKOFF, attempt=2, wake_at=BOOT + 3.6, last_end=end(3)), "exit 3, retry 2 in 4s"),
        (snap(Phase.BACKOFF, attempt=2, wake_at=BOOT - 1, last_end=end(signal=11)), "SIGSEGV, retry 2 in 0s"),
        (
            snap(Phase.BACKOFF, attempt=1, wake_at=BOOT + 250, last_end=end(signal=9, oom=OOM)),
            "oom-killed, retry 1 in 4m10s",
        ),
        (
            snap(
                Phase.BACKOFF,
                attempt=1,
                wake_at=BOOT + 1,
                last_end=end(0),
                cause=Cause("launch-error", "mount /x: ENOENT"),
            ),
            "mount /x: ENOENT, retry 1 in 1s",
        ),
        (snap(Phase.BACKOFF, attempt=9, last_end=end(1), crash_looping=True), "exit 1, crash-looping"),
        (
            snap(Phase.BACKOFF, attempt=1, wake_at=BOOT + 1, last_end=end(signal=15), ended_by=Reason.HEALTH),
            "unhealthy, retry 1 in 1s",
        ),
        (snap(Phase.STOPPING, stop_signalled_at=BOOT - 3), "kill in 7s"),
        (snap(Phase.STOPPING, stop_signalled_at=BOOT - 30, killed_at=BOOT - 20), "killed 20s ago"),
        (snap(Phase.EXITED, last_end=end(0)), "exit 0, Nov 25 06:59"),
        (snap(Phase.EXITED, last_end=end()), "ended, code unknown, Nov 25 06:59"),
        (snap(Phase.EXITED, last_end=end(source=Source.LOST)), "lost, code unknown, Nov 25 06:59"),
        (snap(Phase.EXITED, last_end=End(3, BOOT, BOOT + 9, code=1)), "exit 1"),
        (snap(Phase.STOPPED), "Not started"),
        (snap(Phase.STOPPED, generation=2, cause=Cause("operator", "stopped by root")), "stopped by root"),
        (
            snap(Phase.FATAL, last_end=end(1), cause=Cause("exhausted", "5 restarts used up")),
            "exit 1: 5 restarts used up",
        ),
        (snap(Phase.FATAL, last_end=end(1), cause=Cause("exhausted", "exit 1, 5 restarts")), "exit 1, 5 restarts"),
        (snap(Phase.UNKNOWN, cause=Cause("new", "not looked at yet")), "not looked at yet"),
        (snap(Phase.PULLING), ""),
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
    ("seconds", "long", "short"),
    [
        (0, "0:00:00", "0s"),
        (59.4, "0:00:59", "59s"),
        (723, "0:12:03", "12m03s"),
        (7500, "2:05:00", "2h05m"),
        (86400, "1 day, 0:00:00", "24h00m"),
        (273604, "3 days, 4:00:04", "76h00m"),
        (-5, "0:00:00", "0s"),
    ],
)
def test_spans(seconds: float, long: str, short: str) -> None:
    assert (span(seconds), short_span(seconds)) == (long, short)


def test_sizes_and_ends() -> None:
    assert [size(n) for n in (5, 1024, 64 << 20, 3 << 30, 1500)] == ["5", "1KiB", "64MiB", "3GiB", "1500"]
    assert end_words(end(signal=64)) == "SIGRTMAX"
    assert end_words(end(signal=99)) == "signal 99"
    assert end_words(end(signal=9, oom=Oom(killed=True, scope=Scope.HOST))) == "oom-killed (host limit)"
