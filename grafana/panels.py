"""Panels, rows and variables of the dashboards, as plain JSON models (classic schema 41).

The data source is a variable: `__inputs` work in the import dialogue only, and break provisioning. Rates use
`$__rate_interval`, never a fixed window. Panels are numbered here, so that links to one stay true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
RED, AMBER, GREEN = "red", "orange", "green"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """`legend`: Grafana's `{{label}}` text. `table`: the last value as rows, for tables and single figures."""

    expr: str
    legend: str = ""
    table: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """`steps`: thresholds as (from, colour), the first from -inf. `kind`: timeseries, stat, table, bargauge."""

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    steps: tuple[tuple[float | None, str], ...] = ()
    stacked: bool = False
    minimum: float | None = 0
    maximum: float | None = None
    mappings: tuple[Json, ...] = ()
    hide: tuple[str, ...] = ()  # columns of a table


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    uid: str
    title: str
    description: str
    variables: tuple[Json, ...]
    rows: tuple[Row, ...]
    annotations: tuple[Json, ...] = field(default=())


def query_variable(name: str, query: str, label: str, *, multi: bool = True) -> Json:
    every = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        **(every if multi else {"multi": False, "includeAll": False}),
    }


def annotation(name: str, expr: str, colour: str, text: str) -> Json:
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": colour,
        "expr": expr,
        "step": "60s",
        "titleFormat": text,
        "useValueForTime": False,
    }


def model(board: Board) -> Json:
    """The dashboard as Grafana imports and provisions it."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return {
        "id": None,
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["wharfinger"],
        "timezone": "browser",
        "editable": True,
        "schemaVersion": 41,
        "refresh": "30s",
        "graphTooltip": 1,
        "time": {"from": "now-6h", "to": "now"},
        "links": [
            {"type": "dashboards", "tags": ["wharfinger"], "title": "Wharfinger", "asDropdown": True,
             "keepTime": True, "includeVars": True, "url": "", "icon": "external link"}
        ],
        "annotations": {"list": list(board.annotations)},
        "templating": {"list": [source, *board.variables]},
        "panels": _panels(board.rows),
    }  # fmt: skip


def _panels(rows: Sequence[Row]) -> list[Json]:
    made: list[Json] = []
    y = 0
    for row in rows:
        made.append(
            {"id": len(made) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
             "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y}}
        )  # fmt: skip
        y += 1
        x = tall = 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, tall = 0, y + tall, 0
            place = {"h": panel.height, "w": panel.width, "x": x, "y": y}
            made.append(_panel(len(made) + 1, panel, place))
            x, tall = x + panel.width, max(tall, panel.height)
        y += tall
    return made


def _panel(number: int, panel: Panel, place: Json) -> Json:
    defaults: Json = {"unit": panel.unit, "mappings": list(panel.mappings), "custom": {}}
    if panel.minimum is not None:
        defaults["min"] = panel.minimum
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    steps = [{"value": value, "color": colour} for value, colour in panel.steps or ((None, GREEN),)]
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if panel.kind == "timeseries":
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if panel.steps else "off"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "transformations": _transformations(panel),
        "targets": [_target(chr(ord("A") + n), query) for n, query in enumerate(panel.queries)],
    }


def _target(ref: str, query: Query) -> Json:
    made = {"refId": ref, "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend or "__auto"}
    return made | ({"instant": True, "range": False, "format": "table"} if query.table else {"range": True})


def _options(panel: Panel) -> Json:
    if panel.kind == "timeseries":
        return {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
                "tooltip": {"mode": "multi", "sort": "desc"}}  # fmt: skip
    if panel.kind == "table":
        return {"showHeader": True, "cellHeight": "sm"}
    return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value",
            "orientation": "auto", "textMode": "auto"}  # fmt: skip


def _transformations(panel: Panel) -> list[Json]:
    if panel.kind != "table":
        return []
    hidden = dict.fromkeys(("Time", "__name__", "job", *panel.hide), True)
    return [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": hidden, "renameByName": {}, "indexByName": {}}},
    ]
