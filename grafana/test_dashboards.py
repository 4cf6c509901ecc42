"""The dashboards are what build.py makes; they and the rules use metrics that we export, in queries that parse."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from grafana import build
from grafana.boards import BOARDS
from grafana.panels import model
from monitor.families import FAMILIES
from monitor.metrics import DaemonView, Exposition

HERE = Path(__file__).resolve().parent
RULES = [HERE / "rules/recording.yml", HERE / "rules/alerts.yml"]
MODELS = {name: model(board) for name, board in BOARDS.items()}
METRIC = re.compile(r"(?<![:\w])(?:container|wharfinger|machine|process)_[a-z_]+\b(?![:=])")


def promtool(*args: str | Path) -> subprocess.CompletedProcess[str]:
    found = shutil.which("promtool", path=f"{Path(sys.executable).parent}:/usr/bin")
    if found is None:
        assert "CI" not in os.environ, "promtool is part of the set-up"
        pytest.skip("no promtool")
    return subprocess.run([found, *args], capture_output=True, text=True, timeout=60, check=False)


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in board["panels"] if panel["type"] != "row")


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in YAML(typ="safe").load(path.read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    found = [target["expr"] for board in MODELS.values() for panel in panels(board) for target in panel["targets"]]
    found += [each["expr"] for board in MODELS.values() for each in board["annotations"]["list"]]
    rules = [
        rule for path in RULES for group in YAML(typ="safe").load(path.read_text())["groups"] for rule in group["rules"]
    ]
    return [*found, *(rule["expr"] for rule in rules)]


@pytest.fixture(scope="module")
def exported() -> set[str]:
    daemon = DaemonView("0", "r", "6.1", {"cpu": True}, True, True, 1.0, 0, False, 0.0, disks={"state": "/"})
    own = Exposition().render([], daemon, 0.0).decode()
    buckets = {f"{name}_bucket" for name in re.findall(r"^# TYPE (\S+) histogram$", own, re.MULTILINE)}
    return {family.name for family in FAMILIES} | set(re.findall(r"^# TYPE (\S+)", own, re.MULTILINE)) | buckets


@pytest.mark.parametrize("name", list(build.texts()))
def test_the_committed_dashboard_is_the_built_one(name: str) -> None:
    assert (HERE / "dashboards" / name).read_text() == build.texts()[name]


def test_no_dashboard_is_left_of_another_time() -> None:
    assert {path.name for path in (HERE / "dashboards").iterdir()} == set(build.texts())


def test_every_metric_of_a_panel_or_a_rule_is_exported(exported: set[str]) -> None:
    used = {name for text in expressions() for name in METRIC.findall(text)}
    assert len(used) > 40
    assert used - exported == set()


@pytest.mark.parametrize("board", MODELS.values(), ids=list(MODELS))
def test_every_panel_has_unit_title_and_description_and_the_variable_data_source(board: dict[str, Any]) -> None:
    shown = list(panels(board))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in shown:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    for variable in board["templating"]["list"][1:]:
        assert variable["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize("board", MODELS.values(), ids=list(MODELS))
def test_no_two_panels_share_a_place(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y)
            for x in range(place["w"])
            for y in range(place["h"])
        }  # fmt: skip
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_query_parses(tmp_path: Path) -> None:
    values = {"$__rate_interval": "1m", "$instance": "h", "$name": "web"}
    checked = []
    for number, text in enumerate(expressions()):
        for name, value in values.items():
            text = text.replace(name, value)
        checked.append({"record": f"checked:query:{number}", "expr": text})
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": checked}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_what_promtool_accepts() -> None:
    done = promtool("check", "rules", *RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_fire_when_they_should_and_only_then() -> None:
    done = promtool("test", "rules", HERE / "rules/tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_and_tells_what_to_do() -> None:
    told = YAML(typ="safe").load((HERE / "rules/tests.yml").read_text())["tests"]
    tested = {each["alertname"] for test in told for each in test["alert_rule_test"]}
    for rule in rules(RULES[1]):
        assert rule["alert"] in tested
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
