"""wharfctl against the real API with a pretended daemon behind it: its words, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli.curves import human, spark
from supervisor.cli.main import main
from supervisor.lifecycle.facts import Cause, Phase
from supervisor.ports import Outcome, Since
from supervisor.topics import schema
from tests.fixtures.fake_control import Served, state
from tests.fixtures.wharfctl import Said, Wharfctl, log_of, program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="uid 0 acts")


# -- status -------------------------------------------------------------------------------------

STATUS = """\
db                               STARTING  waiting for disk
display                          FATAL     exit 127: 5 restarts used up, Nov 25 06:59
inference                        BACKOFF   oom-killed (limit 64MiB), retry 7 in 13s, crash-looping
logger                           STOPPED   stopped by root (pid 7), Nov 25 06:50
manual                           STOPPED   Not started
migrate                          EXITED    exit 0, policy no, Nov 25 06:59
sick                             RUNNING   pid 4200, uptime 1 day, 1:01:01, unhealthy
web                              RUNNING   pid 4123, uptime 0:12:03, restarts 2
"""


def test_status_in_full(server: Served, wharfctl: Wharfctl) -> None:
    assert wharfctl("status") == Said(3, STATUS, "")


def test_status_of_what_is_as_it_shall_be_is_zero(server: Served, wharfctl: Wharfctl) -> None:
    said = wharfctl("status", "web", "migrate", "manual")
    assert said.code == 0, "a finished one-shot and a container that was stopped on purpose are fine"
    assert [line.split()[0] for line in said.out.splitlines()] == ["web", "migrate", "manual"]


def test_status_of_an_unknown_name(server: Served, wharfctl: Wharfctl) -> None:
    assert wharfctl("status", "nosuch") == Said(4, "nosuch: ERROR (no such container)\n", "")
    assert wharfctl("status", "nosuch", "web").out.startswith("web  ")


def test_a_long_name_widens_the_column_and_nothing_trails(server: Served, wharfctl: Wharfctl) -> None:
    name = "x" * 63
    nothing = Cause("new", "")
    server.control.states = {n: state(n, Phase.STARTING, cause=nothing) for n in (name, "a")}
    assert wharfctl("status").out == f"{'a':66}STARTING\n{name}   STARTING\n"


def test_nothing_declared_is_no_error(server: Served, wharfctl: Wharfctl) -> None:
    server.control.states = {}
    assert wharfctl("status") == Said(0, "", "")


def test_problems_of_the_daemon_are_beside_the_table(server: Served, wharfctl: Wharfctl) -> None:
    server.control.trouble.append("a.yaml:7:5: unknown key")
    assert wharfctl("status").err == "problem: a.yaml:7:5: unknown key\n"
    assert wharfctl("status", "web").err == ""


def test_status_as_json(server: Served, wharfctl: Wharfctl) -> None:
    said = wharfctl("--json", "status", "web", "nosuch")
    found = json.loads(said.out)
    assert said.code == 4
    assert [one["name"] for one in found["containers"]] == ["web"]
    assert found["unknown"] == ["nosuch"]


# -- start, stop and the like -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "word"), [("start", "started"), ("stop", "stopped"), ("restart", "restarted"), ("kill", "killed")]
)
def test_done(server: Served, wharfctl: Wharfctl, verb: str, word: str) -> None:
    assert wharfctl(verb, "web") == Said(0, f"web: {word}\n", "")
    ((asked, name, wait),) = server.control.asked
    assert (asked, name) == (verb, "web")
    assert wait >= 60


@pytest.mark.parametrize(
    ("verb", "outcome", "code", "out", "err"),
    [
        ("start", ("web: already started", "already started"), 0, "web: ERROR (already started)\n", ""),
        ("start", ("web: exit 1", "spawn error"), 7, "web: ERROR (spawn error)\n", "  exit 1\n"),
        ("start", ("web: still STARTING", "timeout"), 7, "web: ERROR (timeout)\n", "  still STARTING\n"),
        ("start", ("web: is removed", ""), 1, "web: ERROR (refused)\n", "  is removed\n"),
        ("stop", ("web: not running", "not running"), 0, "web: ERROR (not running)\n", ""),
        ("kill", ("web: not running", "not running"), 0, "web: ERROR (not running)\n", ""),
        ("stop", ("disk full", "disk full"), 1, "web: ERROR (disk full)\n", ""),
        ("restart", ("web: exit 1", "spawn error"), 7, "web: ERROR (spawn error)\n", "  exit 1\n"),
    ],
)
def test_refused(
    server: Served, wharfctl: Wharfctl, verb: str, outcome: tuple[str, str], code: int, out: str, err: str
) -> None:
    server.control.outcomes[verb, "web"] = Outcome(False, *outcome)
    assert wharfctl(verb, "web") == Said(code, out, err)


def test_unknown_names(server: Served, wharfctl: Wharfctl) -> None:
    for verb in ("start", "stop", "restart", "kill"):
        assert wharfctl(verb, "nosuch") == Said(1, "nosuch: ERROR (no such container)\n", "")
    assert wharfctl("start", "../../etc") == Said(1, "../../etc: ERROR (not found)\n", "  no such path\n")
    assert wharfctl("why", "nosuch") == Said(1, "", "ERROR: nosuch: no such container\n")
    assert wharfctl("logs", "nosuch") == Said(1, "", "ERROR: nosuch: no such container\n")
    assert server.control.asked == []


def test_signal(server: Served, wharfctl: Wharfctl) -> None:
    assert wharfctl("signal", "HUP", "web") == Said(0, "web: signalled\n", "")
    assert server.control.asked == [("signal", "web", "HUP")]
    server.control.outcomes["signal", "web"] = Outcome(False, "web: not running", "not running")
    assert wharfctl("signal", "HUP", "web") == Said(7, "web: ERROR (not running)\n", "")
    server.control.outcomes["signal", "web"] = Outcome(False, "web: bad signal name 'X'", "bad signal name")
    assert wharfctl("signal", "X", "web").code == 1


def test_all_and_several_names(server: Served, wharfctl: Wharfctl) -> None:
    server.control.outcomes["stop", "db"] = Outcome(False, "db: stuck", "still running")
    said = wharfctl("stop", "all")
    names = sorted(server.control.states)
    assert said.out.splitlines() == [f"{n}: ERROR (still running)" if n == "db" else f"{n}: stopped" for n in names]
    assert said.code == 1
    assert wharfctl("start", "web", "nosuch", "web").out == "web: started\nnosuch: ERROR (no such container)\n"


def test_waiting_is_chosen(server: Served, wharfctl: Wharfctl) -> None:
    wharfctl("start", "--wait", "2.5", "web")
    assert wharfctl("start", "--no-wait", "web").out == "web: accepted\n"
    assert [asked[2] for asked in server.control.asked] == [2.5, None]


def test_json_of_a_request(server: Served, wharfctl: Wharfctl) -> None:
    assert json.loads(wharfctl("start", "web", "--json").out)["ok"] is True
    server.control.outcomes["start", "web"] = Outcome(False, "web: exit 1", "spawn error")
    said = wharfctl("start", "web", "--json")
    assert (said.code, json.loads(said.out)["code"]) == (7, "spawn error")


# -- the rest -----------------------------------------------------------------------------------


def test_pid(server: Served, wharfctl: Wharfctl) -> None:
    assert wharfctl("pid") == Said(0, "77\n", "")
    assert wharfctl("pid", "web") == Said(0, "4123\n", "")
    assert wharfctl("pid", "manual") == Said(7, "0\n", "")
    assert wharfctl("pid", "nosuch") == Said(1, "", "No such container nosuch\n")
    assert wharfctl("pid", "all").out.split() == ["0", "0", "0", "0", "0", "0", "4200", "4123"]


def test_version(server: Served, wharfctl: Wharfctl) -> None:
    assert wharfctl("version") == Said(0, "0.1.0\n", "")
    assert json.loads(wharfctl("version", "--json").out) == {"version": "0.1.0", "api": 1, "pid": 77}
    assert wharfctl("--version").out.startswith("wharfctl ")


def test_reread_and_update(server: Served, wharfctl: Wharfctl) -> None:
    assert wharfctl("reread") == Said(0, "No config updates to containers\n", "")
    server.control.files = {
        "available": ["new"], "changed": ["web"], "disappeared": ["old"],
        "added": ["new"], "live": ["web"], "restarted": ["db"], "removed": ["old"],
    }  # fmt: skip
    assert wharfctl("reread").out == "new: available\nweb: changed\nold: disappeared\n"
    assert wharfctl("update").out == "old: removed\nweb: updated\ndb: updated (restarted)\nnew: added\n"
    server.control.files = {"errors": ["a.yaml:7:5: unknown key"]}
    assert wharfctl("reload") == Said(1, "", "ERROR: a.yaml:7:5: unknown key\n")
    assert wharfctl("reread", "--json").code == 1


def test_logs_and_tail(server: Served, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    log_of(server, "web", 300)

    def shown(*argv: str) -> list[bytes]:
        assert main(argv) == 0
        return capfdbinary.readouterr().out.splitlines()

    assert len(shown("logs", "web")) == 301
    assert shown("logs", "--tail", "2", "web") == [b"line 299", b"\xff\x00"], "bytes as they are"
    assert shown("logs", "-n1", "-t", "--stream", "stdout", "web") == [b"2026-11-25T07:04:04.1Z line 299"]
    assert 1600 - 20 < sum(len(line) + 1 for line in shown("tail", "web")) <= 1600
    assert shown("tail", "-20", "web") == [b"line 298", b"line 299", b"\xff\x00"][1:]
    assert json.loads(shown("logs", "--json", "-n", "1", "web")[0])["stream"] == "stderr"
    assert shown("logs", "db") == []


def event(seq: int, type_: str, name: str, before: str, phase: str, code: str, text: str) -> dict[str, Any]:
    told = {"seq": seq, "type": type_, "name": name, "wall": 1_795_590_000.0 + seq}
    return told | {"before": before, "phase": phase, "code": code, "text": text}


def test_events(server: Served, wharfctl: Wharfctl) -> None:
    server.control.decisions += [
        event(1, "state", "web", "STARTING", "RUNNING", "policy", ""),
        event(2, "restart-scheduled", "web", "RUNNING", "BACKOFF", "oom", "out of memory"),
        event(3, "health", "db", "RUNNING", "RUNNING", "health", "unhealthy"),
        {"seq": 9, "type": "gap", "name": "", "text": "events 4 to 9 are no longer kept"},
        event(10, "daemon-stop", "", "", "", "daemon", "wharfingerd ends"),
    ]
    assert wharfctl("events").out == (
        "1 2026-11-25 07:00:01 state web STARTING -> RUNNING policy\n"
        "2 2026-11-25 07:00:02 restart-scheduled web RUNNING -> BACKOFF oom: out of memory\n"
        "3 2026-11-25 07:00:03 health db RUNNING health: unhealthy\n"
        "-- events 4 to 9 are no longer kept\n"
        "10 2026-11-25 07:00:10 daemon-stop daemon: wharfingerd ends\n"
    )
    assert wharfctl("events", "--since", "1", "--type", "oom,health", "--name", "db").out.startswith("3 ")
    assert json.loads(wharfctl("events", "-n", "1", "--json").out)["seq"] == 10
    assert wharfctl("events", "--cause", "oom").out.startswith("2 ")
    assert "there is no type or topic" in wharfctl("events", "--type", "bang").err
    assert wharfctl("events", "--since", "10m").code == 0
    assert server.control.queries[-1].since == Since(ago=600.0)


def test_a_time_without_a_zone_is_of_the_hosts_clock(
    server: Served, wharfctl: Wharfctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-2")  # two hours east of UTC
        time.tzset()
        assert wharfctl("events", "--since", "2026-11-25 07:00").code == 0
    time.tzset()
    assert server.control.queries[-1].since == Since(wall=1_795_582_800.0)


def test_the_schema_of_events_is_told_without_a_daemon(tmp_path: Path, wharfctl: Wharfctl) -> None:
    said = json.loads(wharfctl("events", "--schema", "--socket", str(tmp_path / "none")).out)
    assert said == schema()


def test_why_draws_the_memory_curve(server: Served, wharfctl: Wharfctl, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wharfctl("why", "inference").out == "inference is BACKOFF: oom-killed\n  05:58:01  exited  SIGKILL\n"
    mib = 1 << 20
    server.control.samples = {"times": list(range(61)), "memory": [n * mib for n in range(4, 65)], "anon": [None] * 61}
    said = wharfctl("why", "inference").out.splitlines()
    assert said[2:4] == ["", "the last 60 s before the end:"]
    name, drawn, *words = said[4].split()
    assert (name, drawn[0], drawn[-1], len(drawn), words) == ("memory", "▁", "█", 40, ["4.0MiB", "to", "64.0MiB"])
    assert len(said) == 5
    assert max(map(len, said)) <= 80
    assert json.loads(wharfctl("--json", "why", "inference").out)["container"]["state"] == "BACKOFF"


def test_why_draws_what_ran_short_and_repeats_the_last_words(server: Served, wharfctl: Wharfctl) -> None:
    """Those of the run that ended: what came later, and what would steer the terminal, is not shown."""
    server.control.samples = {
        "times": [0, 1, 2], "memory": [1, 2, 3], "cpu_usec": [0, 400_000, 500_000], "memory_max": [0, 0, 7],
        "memory_some_usec": [0, 120_000, 120_000], "io_some_usec": [5, 5, 5],
    }  # fmt: skip
    server.control.last_end = {"generation": 3, "wall": 1764054284.9}
    folder = server.control.log_dir / "web"
    folder.mkdir(parents=True)
    times = [f"2025-11-25T07:04:{second:02}.1Z" for second in (*range(30, 45), 50)]
    (folder / "current.log").write_bytes(b"".join(f"{at} stdout F \x1b[2J{at[17:19]}\n".encode() for at in times))
    said = wharfctl("why", "web").out.splitlines()
    assert said[3] == "the last 2 s before the end of run 3:"
    assert [" ".join(line.split()) for line in said[4:8]] == [
        "memory ▃▆█ 1B to 3B", "cpu █▂ up to 40 %", "memory pressure █▁ up to 12 %", "memory.max hits ▁█ up to 7/s",
    ]  # fmt: skip
    assert said[8:] == ["", "the last lines of its log:", *(f"  \\x1b[2J{second}" for second in range(37, 45))]
    assert "\x1b" not in "".join(said)


def test_the_curve_is_ascii_where_the_terminal_is_not_utf8(server: Served) -> None:
    server.control.samples = {"times": [0, 1, 2], "memory": [0, None, 100]}
    with program("why", "inference", PYTHONUTF8="0", PYTHONIOENCODING="ascii") as run:
        out, err = run.communicate()
    assert (run.returncode, err) == (0, b"")
    assert out.splitlines()[-1].startswith(b"  memory           _ @ ")


def test_curves() -> None:
    assert spark([0, 1, None, 7, 8], "abcdefgh") == "aa gh"
    assert spark([], "ab") == ""
    assert spark([None], "ab") == " "
    assert len(spark(list(range(1000)), "abcdefgh")) == 60
    assert [human(n) for n in (0, 1023, 1024, 150 << 20, 3 << 30, 5 << 40)] == [
        "0B", "1023B", "1.0KiB", "150MiB", "3.0GiB", "5120GiB",
    ]  # fmt: skip


def test_exec(server: Served) -> None:
    server.control.exec_code = 3
    with program("exec", "-u", "1000", "-e", "A=b", "web", "--", "ls", "-l", "--json") as run:
        out, err = run.communicate()
    assert (run.returncode, out, err) == (3, b"hello from inside\n", b"")
    assert server.control.asked == [("exec", "web", ("ls", "-l", "--json"), {"env": {"A": "b"}, "user": "1000"})]


def test_exec_refused(server: Served, wharfctl: Wharfctl) -> None:
    said = wharfctl("exec", "nosuch", "ls")
    assert (said.code, said.err) == (1, "nosuch: ERROR (no such container)\n")
    assert wharfctl("exec", "-e", "A", "web", "ls").code == 2


def test_exec_forwards_signals(server: Served) -> None:
    server.control.slow = True
    with program("exec", "web", "sleep", "9") as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"hello from inside\n"
        run.send_signal(signal.SIGINT)
        run.send_signal(signal.SIGTERM)
        assert run.wait(10) == 143
        assert run.stderr is not None
        assert run.stderr.read() == b""
    assert sorted(server.control.signals) == ["SIGINT", "SIGTERM"]
