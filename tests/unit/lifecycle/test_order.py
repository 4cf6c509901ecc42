"""Which dependencies are met, in words; and the words of every state."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.lifecycle.facts import Absent, Cause, End, Health, Oom, Phase, Probed, Scope, Source, StopAsked, Tick
from supervisor.lifecycle.step import dependency_unmet
from supervisor.lifecycle.why import end_words, explain, ordinal, signal_words, span, status_line
from supervisor.ports import Decision
from tests.unit.lifecycle.world import CHECK, NOW, SITUATIONS, Life, define


def unmet(condition: str, situation: str, required: bool = True, **fields: Any) -> tuple[str, ...]:
    definition = define(name="app", depends_on={"db": {"condition": condition, "required": required}})
    states = {"db": SITUATIONS[situation]().s} if situation else {}
    return dependency_unmet(definition, states)


@pytest.mark.parametrize(
    ("condition", "situation", "words"),
    [
        ("started", "running", ""), ("started", "exited", ""), ("started", "starting", "starting"),
        ("started", "launching", "starting"), ("started", "backoff", "backoff"), ("started", "stopped", "stopped"),
        ("started", "fatal", "fatal"), ("started", "", "not defined"), ("started", "removing", "not defined"),
        ("started", "unknown", "unknown"), ("healthy", "running", "health starting"),
        ("healthy", "stopping", "stopping"), ("healthy", "paused", "paused"),
        ("completed_successfully", "exited", ""), ("completed_successfully", "running", "running"),
        ("completed_successfully", "stopped", "stopped"),
    ],
)  # fmt: skip
def test_a_dependency_is_met_or_says_why_not(condition: str, situation: str, words: str) -> None:
    assert unmet(condition, situation) == ((f"db ({words})",) if words else ())


@pytest.mark.parametrize("situation", ["", "stopped", "fatal", "backoff", "exited"])
@pytest.mark.parametrize("condition", ["started", "healthy", "completed_successfully"])
def test_one_that_is_not_required_is_no_obstacle_once_it_is_down(condition: str, situation: str) -> None:
    assert unmet(condition, situation, required=False) == ()
    assert unmet("started", "starting", required=False) == ("db (starting)",)


def test_healthy_is_healthy_and_a_dependency_without_a_check_says_so() -> None:
    definition = define(name="app", depends_on={"db": {"condition": "healthy"}})
    run = Life(define(**CHECK)).up().tick().tell(Probed(1, ok=True))
    assert run.s.health is Health.HEALTHY
    assert dependency_unmet(definition, {"db": run.s}) == ()
    assert dependency_unmet(definition, {"db": Life().up().s}) == ("db (has no healthcheck)",)


def test_a_one_shot_that_failed_is_not_completed() -> None:
    definition = define(name="app", depends_on={"db": {"condition": "completed_successfully"}})
    failed = Life(define(restart="no")).up().ends(code=1)
    assert dependency_unmet(definition, {"db": failed.s}) == ("db (failed)",)


def test_they_come_in_the_order_of_the_definition() -> None:
    definition = define(name="app", depends_on=["b", "a", "c"])
    assert [words[0] for words in dependency_unmet(definition, {})] == ["a", "b", "c"]


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"code": 0}, "exit 0"), ({"signal": 11}, "SIGSEGV"), ({"signal": 40}, "signal 40"),
        ({"signal": 9, "oom": Oom(True, True, Scope.CONTAINER, 1)}, "oom-killed (limit 64MiB)"),
        ({"signal": 9, "oom": Oom(True, True, Scope.PARENT, 1)}, "oom-killed (limit of a parent)"),
        ({"signal": 9, "oom": Oom(True, True, Scope.HOST, 1)}, "oom-killed (the host ran out of memory)"),
        ({"signal": 9, "oom": Oom(True, True, None, 1)}, "oom-killed (limit unknown)"),
        ({"source": Source.LOST}, "lost, code unknown"), ({"source": Source.LOST, "detail": "x"}, "lost: x"),
        ({"detail": "no such file"}, "start failed: no such file"), ({}, "start failed"),
    ],
)  # fmt: skip
def test_how_a_run_ended(how: dict[str, Any], words: str) -> None:
    assert end_words(End(1, None, NOW, **how), define(resources={"memory": "64MiB"})) == words


def test_status_lines_of_a_life() -> None:
    run = Life(define(restart={"jitter": 0, "interval": 4, "factor": 1}, resources={"memory": "64MiB"})).up()
    assert status_line(run.s, run.now + 9) == "pid 41, uptime 10s"
    run.ends(code=1).tick().launched().ends(code=1).tick().launched().ends(code=1)
    assert status_line(run.s, run.now) == "exit 1, 3rd restart in 4s"
    assert status_line(run.s, run.now + 1) == "exit 1, 3rd restart in 3s"
    run.tick().launched().ends(signal=9, oom=Oom(True, True, Scope.CONTAINER, 1))
    assert status_line(run.s, run.now) == "oom-killed (limit 64MiB), retry 4 in 4s"
    run.tick().launched().ends(code=1)
    assert status_line(run.s, run.now) == "exit 1, 5th restart in 4s, crash-looping"
    run.tick().launched().tell(StopAsked(1, "root (pid 7)"))
    assert status_line(run.s, run.now + 3) == "stopped by root (pid 7); kill in 7s"
    run.ends(signal=15)
    assert status_line(run.s, run.now) == "stopped by root (pid 7)"


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_state_says_why(situation: str) -> None:
    life = SITUATIONS[situation]()
    assert status_line(life.s, life.now)
    assert explain(life.s, [], life.now)[0].startswith(f"web is {life.phase}: ")


def test_the_chain_goes_back_from_now() -> None:
    run = Life().up().ends(code=1)
    chain = [
        Decision(n, "web", 1, "boot", at, 0.0, phase, "", "", text)
        for n, (at, phase, text) in enumerate([(NOW - 90, "RUNNING", "first start"), (NOW + 1, "BACKOFF", "exit 1")])
    ]
    lines = explain(run.s, chain, NOW + 2)
    assert lines[1:] == [
        "└─ run 1",
        "   ├─       1s ago  BACKOFF   exit 1",
        "   └─    1m32s ago  RUNNING   first start",
    ]
    assert "before boot" in explain(run.s, chain, 5.0)[2]


def test_the_chain_is_a_tree_of_runs() -> None:
    run = Life().up()
    chain = [
        Decision(n, "web", generation, "boot", NOW, 0.0, "RUNNING", "", "", text)
        for n, (generation, text) in enumerate([(0, "asked for"), (1, "first start"), (2, "again"), (2, "adopted")])
    ]
    assert [line.split("ago")[0].rstrip(" 0123456789s") for line in explain(run.s, chain, NOW + 2)[1:]] == [
        "because: first start", "├─ run", "│  ├─", "│  └─", "├─ run", "│  └─", "└─ before the first run", "   └─",
    ]  # fmt: skip


def test_spans_and_ordinals() -> None:
    numbers = [0, 0.04, 0.3, 4, 9.4, 59.6, 75, 250, 3700, 100_000, -5]
    assert [span(x) for x in numbers] == [
        "0s", "0s", "0.3s", "4s", "9.4s", "1m00s", "1m15s", "4m10s", "1h01m", "1d03h", "0s",
    ]  # fmt: skip
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "111th",
    ]  # fmt: skip
    assert signal_words(9) == "SIGKILL"


def test_a_cause_is_never_empty_over_a_life() -> None:
    run = Life(define(restart="no"))
    for event in (Absent(booted=True), Tick()):
        run.tell(event)
        assert run.s.cause != Cause("", "")
    assert run.phase is Phase.STARTING
