"""Settings: defaults, a file, the environment, flags; and where each value came from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import DefinitionError
from config.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("WHARFINGER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("WHARFINGER_CONFIG_FILE", str(path))
    return path


def test_defaults(file: Path) -> None:
    settings, sources = load_settings()
    assert settings == Settings(config_file=file)
    assert settings.definitions_dir == Path("/etc/wharfinger/containers.d")
    assert settings.parallel_starts == 4
    assert {**sources, "config_file": "default"} == dict.fromkeys(Settings.model_fields, "default")


def test_labels_of_metrics_are_a_list_or_words(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('metrics_labels = ["team", "site", "team"]\n')
    assert load_settings()[0].metrics_labels == ("team", "site")
    monkeypatch.setenv("WHARFINGER_METRICS_LABELS", "com.example.team, site")
    assert load_settings()[0].metrics_labels == ("com.example.team", "site")
    assert load_settings({"metrics_labels": ""})[0].metrics_labels == ()


def test_the_later_source_wins_a_value_at_a_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('log_level = "error"\nparallel_starts = 2\nmetrics_listen = "off"\n')
    monkeypatch.setenv("WHARFINGER_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("WHARFINGER_PARALLEL_STARTS", "3")
    settings, sources = load_settings({"parallel-starts": "5", "--host-id": "edge7"})
    assert settings.metrics_listen == "off"
    assert (settings.log_level, settings.parallel_starts, settings.host_id) == ("debug", 5, "edge7")
    assert sources["metrics_listen"] == f"file {file}"
    assert sources["log_level"] == "environment WHARFINGER_LOG_LEVEL"
    assert sources["parallel_starts"] == "flag --parallel-starts"
    assert sources["state_dir"] == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log_level = ", "1:13: invalid value"),
        ("a = 1\n", "1:1: a: unknown key"),
        ("\nlog_levl = 1\n", '2:1: log_levl: unknown key, did you mean "log_level"?'),
        ("# x\n[log]\nlevel = 1\n", '2:2: log: unknown key, did you mean "log_dir"?'),
        ('\nlog_level = "loud"\n', '2:1: log_level: must be one of debug, info, warning, error, not "loud"'),
        ("metrics_labels = 1\n", "1:1: metrics_labels: must be a list of names of labels"),
        ("metrics_labels = [1]\n", "1:1: metrics_labels: must be a list of names of labels"),
        (
            f"metrics_labels = {[str(n) for n in range(17)]}\n",
            "1:1: metrics_labels: has 17 labels; 16 are allowed, since each is on every series",
        ),
        ("parallel_starts = 0\n", "1:1: parallel_starts: must be from 1 to 64, not 0"),
        ("parallel_starts = true\n", "1:1: parallel_starts: must be a whole number, not true"),
        ('state_dir = "var"\n', '1:1: state_dir: must be an absolute path, not "var"'),
        ('run_dir = "/' + "a" * 90 + '"\n', "1:1: run_dir: is longer than 90 bytes; a socket could not be made in it"),
        ('metrics_listen = "9627"\n', '1:1: metrics_listen: must be HOST:PORT, [IPV6]:PORT or "off", not "9627"'),
        (
            'metrics_listen = "::1:9627"\n',
            '1:1: metrics_listen: must be HOST:PORT, [IPV6]:PORT or "off", not "::1:9627"',
        ),
        ('metrics_listen = "a:99999"\n', "1:1: metrics_listen: 99999 is not a port"),
        ('config_file = "/x"\n', "1:1: config_file: must not name another file"),
        ("log_level = 1\nlog_level = 2\n", "2:14: cannot overwrite a value"),
    ],
)
def test_a_bad_value_in_the_file_is_one_line_with_its_place(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(DefinitionError) as caught:
        load_settings()
    assert str(caught.value) == f"{file}:{message}"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("a = " + "[" * 5000, "is nested too deep"), ("parallel_starts = " + "9" * 5000, "has a number that is too long"),
     ("# " + "x" * 300_000, "is larger than 256 KiB")],
)  # fmt: skip
def test_a_hostile_file_is_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(DefinitionError) as caught:
        load_settings()
    assert str(caught.value) == f"{file}: {message}"


def test_bytes_and_directories_are_refused(file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"\xff")
    with pytest.raises(DefinitionError, match="is not UTF-8"):
        load_settings()
    with pytest.raises(DefinitionError, match="is a directory"):
        load_settings({"config_file": str(tmp_path)})


def test_a_missing_file_is_a_fault_only_when_a_flag_names_it(file: Path) -> None:
    load_settings()
    with pytest.raises(DefinitionError) as caught:
        load_settings({"config_file": str(file)})
    assert str(caught.value) == f"{file}: there is no such file"


def test_a_bad_variable_or_flag_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHARFINGER_PARALLEL_STARTS", "many")
    with pytest.raises(DefinitionError) as caught:
        load_settings()
    assert str(caught.value) == 'WHARFINGER_PARALLEL_STARTS: must be a whole number, not "many"'
    with pytest.raises(DefinitionError) as caught:
        load_settings({"parallel_starts": "none"})
    assert str(caught.value) == '--parallel-starts: must be a whole number, not "none"'
    with pytest.raises(DefinitionError) as caught:
        load_settings({"parallel_start": "1"})
    assert str(caught.value) == '--parallel-start: unknown setting, did you mean "parallel_starts"?'
    with pytest.raises(DefinitionError) as caught:
        load_settings({"config_file": "here"})
    assert str(caught.value) == '--config-file: must be an absolute path, not "here"'


def test_an_unknown_variable_is_refused_and_those_of_other_programs_are_not(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHARFINGER_SOCKET", "/x")
    load_settings()
    monkeypatch.setenv("WHARFINGER_LOGLEVEL", "debug")
    with pytest.raises(DefinitionError) as caught:
        load_settings()
    assert str(caught.value) == 'WHARFINGER_LOGLEVEL: unknown setting, did you mean "WHARFINGER_LOG_LEVEL"?'


@pytest.mark.parametrize("listen", ["127.0.0.1:9627", "[::1]:9627", "0.0.0.0:0", "localhost:80", "off"])
def test_addresses(listen: str) -> None:
    assert Settings(metrics_listen=listen).metrics_listen == listen


def test_auto_and_empty_are_none() -> None:
    settings = Settings(cgroup_root="auto", shim_path="", host_id="", socket_group="")
    assert settings.socket_group == ""
    assert (settings.cgroup_root, settings.shim_path, settings.host_id) == (None, None, None)


def test_config_needs_nothing_of_ours_and_little_of_others() -> None:
    code = "import sys, config.loader, config.settings, config.changes, config.schema\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    loaded = set(done.stdout.split())
    assert not {m for m in loaded if m.partition(".")[0] in ("supervisor", "runtime", "monitor", "anyio", "trio")}
