"""Dashboards from one source: `python -m grafana.build` writes grafana/dashboards/*.json; a test holds them in step.

Plain JSON models (classic schema). The data source is a variable, so that provisioning works; no fixed rate window.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
PICK = 'instance=~"$instance",name=~"$name"'

# title, unit, description, expression, legend
PANELS: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "Containers by state",
        "short",
        "How many containers are in each state.",
        f"sum by (state) (wharfinger_container_state{{{PICK}}})",
        "{{state}}",
    ),
    (
        "Restarts",
        "short",
        "Restarts in the last hour, by reason.",
        f"sum by (name, reason) (increase(wharfinger_container_restarts_total{{{PICK}}}[1h])) > 0",
        "{{name}} {{reason}}",
    ),
    (
        "CPU",
        "percentunit",
        "Cores in use by each container.",
        f"sum by (name) (rate(container_cpu_usage_seconds_total{{{PICK}}}[$__rate_interval]))",
        "{{name}}",
    ),
    (
        "Memory",
        "bytes",
        "Working set of each container.",
        f"container_memory_working_set_bytes{{{PICK}}}",
        "{{name}}",
    ),
    (
        "OOM kills",
        "short",
        "Kills by the kernel's OOM killer in the last hour.",
        f"sum by (name) (increase(container_oom_events_total{{{PICK}}}[1h])) > 0",
        "{{name}}",
    ),
    (
        "Writes",
        "Bps",
        "Bytes a second written to block devices.",
        f"sum by (name) (rate(container_fs_writes_bytes_total{{{PICK}}}[$__rate_interval]))",
        "{{name}}",
    ),
)


def panel(number: int, title: str, unit: str, description: str, expression: str, legend: str) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"h": 8, "w": 12, "x": 12 * ((number - 1) % 2), "y": 8 * ((number - 1) // 2)},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": expression, "legendFormat": legend}],
    }


def variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def overview() -> dict[str, Any]:
    return {
        "id": None,
        "uid": "wharfinger-overview",
        "title": "Wharfinger: containers",
        "tags": ["wharfinger"],
        "timezone": "browser",
        "schemaVersion": 41,
        "refresh": "30s",
        "graphTooltip": 1,
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                variable("instance", "label_values(wharfinger_build_info, instance)"),
                variable("name", 'label_values(wharfinger_container_info{instance=~"$instance"}, name)'),
            ]
        },
        "panels": [panel(n, *row) for n, row in enumerate(PANELS, 1)],
    }


def text() -> str:
    return json.dumps(overview(), indent=2) + "\n"


def main() -> int:
    (HERE / "dashboards/overview.json").write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
