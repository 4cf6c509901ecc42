"""The dashboards are what build.py makes, and every metric in them is one that we export."""

from __future__ import annotations

import json
import re

from grafana import build
from monitor.families import FAMILIES
from monitor.metrics import DaemonView, Exposition


def test_the_committed_dashboard_is_the_built_one() -> None:
    assert (build.HERE / "dashboards/overview.json").read_text() == build.text()


def test_every_metric_in_a_panel_is_exported() -> None:
    own = Exposition().render([], DaemonView(version="0"), 0.0).decode()
    known = {family.name for family in FAMILIES} | set(re.findall(r"^# TYPE (\S+)", own, re.MULTILINE))
    used = set(re.findall(r"\b(?:container|wharfinger)_[a-z_]+\b", json.dumps(build.overview())))
    assert used
    assert used <= known


def test_every_panel_has_unit_title_and_description_and_the_variable_data_source() -> None:
    for panel in build.overview()["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
