"""config and plan: what files say, without a daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.fixtures.wharfctl import Said, Wharfctl

GOOD = """
containers:
  web:
    rootfs: {root}
    command: [serve, --quietly]
    environment: {{TOKEN: secret-value, TZ: UTC}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "defs").mkdir()
    (tmp_path / "defs" / "a.yaml").write_text(GOOD.format(root=tmp_path / "root"))
    for name in [name for name in os.environ if name.startswith("WHARFINGER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WHARFINGER_CONFIG_FILE", str(tmp_path / "none.toml"))
    monkeypatch.setenv("WHARFINGER_DEFINITIONS_DIR", str(tmp_path / "defs"))
    return tmp_path


def test_check_of_good_files(folder: Path, wharfctl: Wharfctl) -> None:
    good = Said(0, "1 container, 0 errors\n", "")
    assert wharfctl("config", "check") == good
    assert wharfctl("config", "check", str(folder / "defs" / "a.yaml")) == good
    assert wharfctl("config", "check", str(folder / "defs")) == good


def test_check_tells_each_error_with_its_place(folder: Path, wharfctl: Wharfctl) -> None:
    bad = folder / "defs" / "b.yaml"
    bad.write_text("containers:\n  db:\n    rootfs: /srv/db\n    command: serve\n    memroy: 5\n")
    said = wharfctl("config", "check")
    assert said.code == 2
    assert said.out.startswith(f"{bad}:5:5: db.memroy: unknown key")
    assert said.out.endswith("1 container, 1 error\n")
    found = json.loads(wharfctl("config", "check", "--json").out)
    assert found["containers"] == ["web"]
    assert len(found["errors"]) == 1


def test_schema_and_dump(folder: Path, wharfctl: Wharfctl) -> None:
    assert json.loads(wharfctl("config", "schema").out)["type"] == "object"
    said = wharfctl("config", "dump")
    assert said.code == 0
    assert f"definitions_dir   {folder}/defs" in said.out
    assert "environment WHARFINGER_DEFINITIONS_DIR" in said.out
    assert json.loads(wharfctl("config", "dump", "--json").out)["log_level"] == {"value": "info", "source": "default"}
    assert wharfctl("config", "dump", "x").code == 2


def test_a_wrong_setting_is_one_line(folder: Path, wharfctl: Wharfctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHARFINGER_LOG_LEVEL", "loud")
    said = wharfctl("config", "dump")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "WHARFINGER_LOG_LEVEL" in said.err


def test_plan_shows_the_spec_without_secrets(folder: Path, wharfctl: Wharfctl) -> None:
    said = wharfctl("plan", "web")
    assert said.code == 0
    spec = json.loads(said.out)
    assert spec["process"]["args"] == ["serve", "--quietly"]
    assert "TOKEN=***" in spec["process"]["env"]
    assert "secret-value" not in said.out


def test_plan_shows_the_launch_step_by_step(folder: Path, wharfctl: Wharfctl) -> None:
    said = wharfctl("plan", "web", "--launch", "--file", str(folder / "defs" / "a.yaml"))
    assert said.code == 0
    lines = said.out.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1, len(lines) + 1))
    assert "secret-value" not in said.out
    assert json.loads(wharfctl("plan", "web", "--launch", "--json").out)["steps"]


def test_plan_of_what_is_not_there(folder: Path, wharfctl: Wharfctl) -> None:
    assert wharfctl("plan", "nosuch") == Said(1, "nosuch: ERROR (no such container)\n", "")
    (folder / "root").rmdir()
    said = wharfctl("plan", "web")
    assert (said.code, said.out) == (1, "")
    assert "No such file or directory" in said.err
