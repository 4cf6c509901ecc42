"""The command line: options as runc and crun take them, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import DefinitionError
from runtime.ocicli import args, commands
from runtime.ocicli.end import parse_signal
from runtime.ocicli.events import parse_interval
from runtime.ocicli.main import main
from runtime.ocicli.run import parse_user
from runtime.ocicli.update import merge, parse_resources, parse_size


def read(command: str, *words: str) -> tuple[args.Values, list[str]]:
    known = commands.COMMANDS[command]
    return args.parse(words, known.options, ordered=known.ordered)


@pytest.mark.parametrize(
    "words",
    [
        ("--bundle", "/b", "--pid-file=/p", "c1"),
        ("-b", "/b", "--pid-file", "/p", "c1"),
        ("-b/b", "-pid-file", "/p", "c1"),
        ("c1", "--bundle=/b", "--pid-file", "/p"),
    ],
)
def test_options_are_taken_however_they_are_written(words: tuple[str, ...]) -> None:
    values, rest = read("create", *words)
    assert (values.text("bundle"), values.text("pid-file"), rest) == ("/b", "/p", ["c1"])


def test_what_follows_the_container_of_an_exec_is_the_programs_own() -> None:
    values, rest = read("exec", "-t", "-e", "A=1", "--env=B=2", "c1", "ls", "-l", "--cwd", "/x")
    assert rest == ["c1", "ls", "-l", "--cwd", "/x"]
    assert values.flag("tty")
    assert values.texts("env") == ["A=1", "B=2"]
    assert "cwd" not in values


def test_short_flags_may_stand_together() -> None:
    values, rest = read("exec", "-dt", "-u5:6", "c1", "true")
    assert values.flag("detach")
    assert values.flag("tty")
    assert values.text("user") == "5:6"
    assert rest == ["c1", "true"]


def test_a_flag_can_be_switched_off() -> None:
    assert not read("delete", "--force=false", "c1")[0].flag("force")


@pytest.mark.parametrize(
    ("command", "words", "text"),
    [
        ("create", ("--nope", "c1"), "unknown option '--nope'"),
        ("create", ("c1", "--bundle"), "needs a value"),
        ("delete", ("--force=maybe", "c1"), "neither true nor false"),
    ],
)
def test_a_wrong_line_is_refused(command: str, words: tuple[str, ...], text: str) -> None:
    with pytest.raises(DefinitionError, match=text):
        read(command, *words)


@pytest.mark.parametrize(
    "text", ["", "1x", "x", " 1", "1 ", "+1", "0x1", "1:x", ":1", "1:", "4294967296", "-1", "1_0", "\u0661"]
)
def test_a_user_is_whole_numbers_or_nothing(text: str) -> None:
    with pytest.raises(DefinitionError):
        parse_user(text)


def test_a_user_may_have_a_group() -> None:
    assert parse_user("7") == (7,)
    assert parse_user("7:8") == (7, 8)


def test_signals_by_number_and_name() -> None:
    assert [parse_signal(w) for w in ("9", "KILL", "SIGKILL", "sigterm")] == [9, 9, 9, 15]
    assert parse_signal("RTMIN+3") == signal.SIGRTMIN + 3
    assert parse_signal("SIGRTMAX-1") == signal.SIGRTMAX - 1
    for word in ("0", "-1", "65", "NOPE", "", "RTMIN+99"):
        with pytest.raises(DefinitionError):
            parse_signal(word)


def test_sizes_and_times() -> None:
    assert [parse_size(t, "") for t in ("1024", "64m", "64MiB", "2g", "-1", "0")] == [
        1024,
        64 << 20,
        64 << 20,
        2 << 30,
        -1,
        0,
    ]
    assert [parse_interval(t) for t in ("5s", "500ms", "1m", "2")] == [5.0, 0.5, 60.0, 2.0]
    for text in ("", "x", "1x", "-2", "-1m", "99999999999999g"):
        with pytest.raises(DefinitionError):
            parse_size(text, "--memory")
    for text in ("", "0s", "-1s", "x"):
        with pytest.raises(DefinitionError):
            parse_interval(text)


def test_the_options_of_update_make_resources(tmp_path: Path) -> None:
    file = tmp_path / "resources.json"
    file.write_text(json.dumps({"memory": {"limit": 1, "reservation": 5}, "pids": {"limit": 7}}))
    line = ("-r", str(file), "--memory", "64m", "--memory-swap=-1", "--cpu-share", "512", "--cpuset-cpus", "0-1", "c1")
    assert parse_resources(read("update", *line)[0]) == {
        "memory": {"limit": 64 << 20, "reservation": 5, "swap": -1},
        "pids": {"limit": 7},
        "cpu": {"shares": 512, "cpus": "0-1"},
    }


def test_an_update_keeps_what_it_does_not_name() -> None:
    old = {"memory": {"limit": 1, "swap": 2}, "devices": [1, 2]}
    assert merge(old, {"memory": {"limit": 9}, "devices": [3]}) == {"memory": {"limit": 9, "swap": 2}, "devices": [3]}
    assert old["memory"] == {"limit": 1, "swap": 2}


def test_an_update_of_nothing_is_refused() -> None:
    with pytest.raises(DefinitionError, match="nothing to change"):
        parse_resources(read("update", "c1")[0])


# Whole commands that need no container


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in commands.COMMANDS)
    assert main(["exec", "--help"]) == 0
    assert "--process" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert "\nspec: 1." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (["nope"], 1, "unknown command 'nope'"),
        (["state"], 1, "usage: wharf-oci state"),
        (["state", "a", "b"], 1, "usage: wharf-oci state"),
        (["state", "no-such"], 1, "container 'no-such' does not exist"),
        (["kill", "no-such", "KILL"], 1, "does not exist"),
        (["start", "no-such"], 1, "does not exist"),
        (["delete", "no-such"], 1, "does not exist"),
        (["delete", "--force", "no-such"], 0, ""),
        (["exec", "no-such", "true"], 255, "does not exist"),
        (["state", "../../etc"], 1, "is not a container id"),
        (["state", ".hidden"], 1, "is not a container id"),
        (["--cgroup-manager=disabled", "state", "a"], 1, "'disabled' is not supported"),
        (["--cgroup-manager", "cgroupfs", "--systemd-cgroup", "state", "no-such"], 1, "does not exist"),
        (["--log-format", "xml", "list"], 1, "neither text nor json"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    line: list[str],
    code: int,
    text: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["--root", str(tmp_path / "state"), *line]) == code
    error = capfd.readouterr().err
    assert text in error
    assert error.count("\n") == (1 if text else 0)


def test_errors_are_logged_as_engines_read_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.json"
    for name in ("one", "two"):
        assert main(["--root", str(tmp_path), "--log", str(log), "--log-format=json", "start", name]) == 1
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(e["level"], e["msg"]) for e in entries] == [
        ("error", "container 'one' does not exist"),
        ("error", "container 'two' does not exist"),
    ]
    assert entries[0]["time"].endswith("Z")
    assert "does not exist" in capfd.readouterr().err


def test_spec_writes_a_config_that_is_taken_and_never_over_another(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["spec", "--bundle", str(tmp_path)]) == 0
    made = json.loads((tmp_path / "config.json").read_text())
    assert made["process"]["args"] == ["sh"]
    before = (tmp_path / "config.json").read_bytes()
    assert main(["spec", "-b", str(tmp_path)]) == 1
    assert (tmp_path / "config.json").read_bytes() == before
    assert "exists already" in capfd.readouterr().err


def test_an_empty_list_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path / "none"), "list", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["--root", str(tmp_path / "none"), "list"]) == 0
    assert capsys.readouterr().out.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert not (tmp_path / "none").exists()


def test_features_are_asked_of_the_code_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ociVersionMin"] == "1.0.0"
    assert {"ro", "rro", "rbind", "rslave"} <= set(told["mountOptions"])
    assert {"mount", "pid", "network"} <= set(told["linux"]["namespaces"])
    assert told["linux"]["cgroup"]["v2"] is True
    assert "SCMP_ACT_ERRNO" in told["linux"]["seccomp"]["actions"]


def test_no_command_imports_what_is_slow() -> None:
    """`state` is asked for by engines all the time."""
    code = """
import sys
import runtime.ocicli.main, runtime.ocicli.show
quick = set(sys.modules)
import runtime.ocicli.start, runtime.ocicli.end
light = set(sys.modules)
import runtime.ocicli.run, runtime.ocicli.update, runtime.ocicli.events, runtime.ocicli.features
slow = {"pydantic", "anyio", "trio", "asyncio", "ruamel", "rich", "pyseccomp", "importlib.metadata",
        "dataclasses", "inspect", "subprocess", "hashlib", "decimal", "tempfile", "importlib.resources"}
print(sorted(n for n in sys.modules if n in slow))
print(sorted(n for n in quick if n in slow | {"socket", "ctypes", "shutil"}))
print(sorted(n for n in light if n in {"runtime.plan", "runtime.oci", "runtime.resources", "runtime.devices"}))
"""
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert ran.stdout.splitlines() == ["[]", "[]", "[]"]
