"""wharfctl without a daemon, with wrong arguments, and its manners: quiet ends, no traces, nothing imported in vain."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisor.cli.args import UsageError, parse
from supervisor.cli.client import quoted
from supervisor.cli.table import COMMANDS, GLOBAL
from tests.fixtures.fake_control import Served
from tests.fixtures.wharfctl import Said, Wharfctl, log_of, program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="uid 0 acts")


# -- without a daemon ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["status"], 4),
        (["start", "web"], 7),
        (["stop", "web"], 7),
        (["restart", "web"], 7),
        (["signal", "HUP", "web"], 7),
        (["pid"], 7),
        (["why", "web"], 7),
        (["logs", "web"], 7),
        (["events"], 7),
        (["exec", "web", "ls"], 7),
        (["reread"], 1),
        (["update"], 1),
        (["reload"], 1),
        (["version"], 1),
        (["start", "web", "db"], 7),
    ],
)
def test_no_daemon(wharfctl: Wharfctl, tmp_path: Path, argv: Sequence[str], code: int) -> None:
    path = tmp_path / ("attach.sock" if argv[0] == "exec" else "control.sock")
    said = wharfctl("--socket", str(tmp_path / "control.sock"), *argv)
    assert said == Said(code, "", f"unix://{path} no such file (is wharfingerd running?)\n")


def test_a_dead_socket_and_strangers(wharfctl: Wharfctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("dead")
    refused = "unix://dead refused connection (is wharfingerd running?)\n"
    assert wharfctl("--socket", "dead", "status") == Said(4, "", refused)
    (tmp_path / "file").write_text("")
    assert wharfctl("--socket", "unix://file", "status").code == 4
    with socket.socket(socket.AF_UNIX) as rude:
        rude.bind("rude")
        rude.listen()
        child = os.fork()
        if child == 0:
            for answer in (
                b"",
                b"SSH-2.0-x\r\n",
                b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{",
                b"HTTP/1.1 500 \r\n\r\n<p>",
            ):
                peer, _ = rude.accept()
                peer.recv(4096)
                peer.sendall(answer)
                peer.close()
            os._exit(0)
        for word in ("broke off", "is no wharfingerd", "broke off", "answers no JSON (status 500)"):
            assert wharfctl("--socket", "rude", "status") == Said(4, "", f"unix://rude {word}\n")
        os.waitpid(child, 0)


def test_who_may_not_is_told_so(server: Served, wharfctl: Wharfctl, monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.api import peer

    monkeypatch.setattr(peer.Roles, "role", lambda *_: peer.Role.VIEW)
    assert wharfctl("start", "web").code == 4
    assert wharfctl("status", "web").code == 0
    monkeypatch.setattr(peer.Roles, "role", lambda *_: peer.Role.NONE)
    assert wharfctl("status").err == "ERROR: only root and members of the socket's groups\n"


# -- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "err"),
    [
        (["bogus"], "wharfctl: unknown command: bogus; wharfctl help lists the commands\n"),
        (["start"], "wharfctl: start requires a container's name, or all; usage: wharfctl start NAME...|all\n"),
        (
            ["signal", "HUP"],
            "wharfctl: signal requires a signal and a container's name; usage: wharfctl signal SIGNAL NAME...|all\n",
        ),
        (
            ["exec", "web"],
            "wharfctl: exec requires a container's name and a command; usage: wharfctl exec NAME -- COMMAND...\n",
        ),
        (["logs", "a", "b"], "wharfctl: too many arguments: b; usage: wharfctl logs [-f] NAME\n"),
        (["status", "--follow"], "wharfctl: unknown option of status: --follow; wharfctl help COMMAND lists them\n"),
        (["logs", "web", "--tail"], "wharfctl: --tail needs LINES\n"),
        (["logs", "web", "--tail", "x"], "wharfctl: --tail: not a number: x\n"),
        (["logs", "web", "--follow=1"], "wharfctl: --follow takes no value\n"),
        (["logs", "web", "--stream", "x"], "wharfctl: --stream: stdout or stderr, not x\n"),
        (["start", "web", "--wait", "nan"], "wharfctl: --wait: 0 to 3600 seconds, not nan\n"),
        (["help", "bogus"], "wharfctl: unknown command: bogus\n"),
        (["completion", "tcsh"], "wharfctl: bash, zsh or fish, not tcsh\n"),
        (["config", "bogus"], "wharfctl: schema, check or dump, not bogus\n"),
    ],
)
def test_wrong_arguments(wharfctl: Wharfctl, argv: Sequence[str], err: str) -> None:
    assert wharfctl(*argv) == Said(2, "", err)


def test_options_stand_anywhere_and_short_ones_together() -> None:
    args = parse(["--json", "logs", "web", "-ftn20", "--socket=/x"])
    assert args.names == ["web"]
    assert (args.text("tail"), args.on("follow"), args.on("timestamps"), args.on("json")) == ("20", True, True, True)
    assert args.text("socket") == "/x"
    assert parse(["tail", "-100", "web"]).text("bytes") == "100"
    assert parse(["exec", "-u", "root", "web", "ls", "-l", "--", "x"]).names == ["web", "ls", "-l", "--", "x"]
    assert parse(["exec", "web", "--", "--json"]).names == ["web", "--json"]
    assert parse(["status", "--", "--json"]).names == ["--json"]
    with pytest.raises(UsageError):
        parse(["-x"])


def test_names_are_quoted_for_the_path() -> None:
    assert quoted("a/../b c\udcff%") == "a%2F..%2Fb%20c%FF%25"


def test_help(wharfctl: Wharfctl) -> None:
    said = wharfctl("help")
    assert said.code == 0
    assert wharfctl() == wharfctl("--help") == said
    for one in COMMANDS:
        assert f"  {one.usage}" in said.out
        own = wharfctl(one.name, "--help")
        assert own == wharfctl("help", one.name) or one.name == "help"
        assert own.code == 0
        for option in one.options:
            assert option.flags[-1] in own.out
        assert max(map(len, own.out.splitlines())) <= 80
    assert max(map(len, said.out.splitlines())) <= 80
    assert all(option.flags[-1] in said.out for option in GLOBAL)


# -- manners ------------------------------------------------------------------------------------


def test_a_reader_that_leaves_is_no_reason_to_complain(server: Served) -> None:
    log_of(server, "web", 100_000)
    with program("logs", "web") as run:
        assert run.stdout is not None
        run.stdout.read(10)
        run.stdout.close()
        assert run.wait(10) == 141
        assert run.stderr is not None
        assert run.stderr.read() == b""


def test_a_full_output_is_said_in_one_line(server: Served) -> None:
    with open("/dev/full", "wb") as full, program("status", stdout=full) as run:
        _, err = run.communicate()
    assert (run.returncode, err) == (1, b"wharfctl: No space left on device\n")


def test_ctrl_c_is_quiet(server: Served) -> None:
    log_of(server, "web", 1)
    server.control.slow = True
    for argv in (["tail", "-f", "web"], ["start", "web", "db"], ["stop", "web"], ["events", "--follow"]):
        with program(*argv) as run:
            time.sleep(0.4)
            run.send_signal(signal.SIGINT)
            assert run.wait(5) == 130, argv
            assert run.stderr is not None
            assert run.stderr.read() == b""


def test_what_cannot_be_encoded_is_escaped(server: Served) -> None:
    server.control.trouble.append("caf\u00e9 \udcff")
    with program("status", PYTHONUTF8="0", PYTHONIOENCODING="ascii") as run:
        _, err = run.communicate()
    assert err == b"problem: caf\\xe9 \\udcff\n"


HEAVY = {
    *("pydantic", "pydantic_core", "pydantic_settings", "ruamel", "anyio", "trio", "h11", "rich", "typer", "argparse"),
    *("http", "email", "urllib", "logging", "dataclasses", "inspect", "asyncio", "ssl", "subprocess", "sqlite3"),
    *("threading", "supervisor.ports", "supervisor.lifecycle", "config.model"),
}


@pytest.mark.parametrize("argv", [["status"], ["start", "web"], ["why", "web"], ["events"], ["help"], ["version"]])
def test_ordinary_commands_import_next_to_nothing(server: Served, argv: list[str]) -> None:
    script = "main(sys.argv[1:]); print('modules', *(set(sys.modules) - before))"
    with program(*argv, script=script) as run:
        out, err = run.communicate()
    assert (run.returncode, err) == (0, b"")
    loaded = set(out.decode().splitlines()[-1].split()[1:])
    assert not {name for name in loaded if name in HEAVY or name.partition(".")[0] in HEAVY}
    assert len(loaded) < 60
