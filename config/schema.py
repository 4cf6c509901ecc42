"""JSON Schema (draft 2020-12) of definition files, for editors. The loader checks more than a schema can say."""

from __future__ import annotations

from typing import Any

from config.model import Container

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAME = "^[a-z0-9][a-z0-9_.-]{0,62}$"
_EXTENSION = {"^x-": {"description": "Not read: for notes and other programs."}}
_RESTART = {"type": "string", "pattern": "^(no|always|unless-stopped|on-failure(:[1-9][0-9]*)?)$"}
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}


def definition_schema() -> dict[str, Any]:
    """The schema of a whole file."""
    container = _tidy(Container.model_json_schema(by_alias=True, mode="validation"))
    blocks: dict[str, Any] = container.pop("$defs")
    container["patternProperties"] = _EXTENSION
    container.pop("required")  # only the name, which is the key
    fields: dict[str, Any] = container["properties"]
    del fields["name"]
    _short_forms(fields, blocks)
    return {
        "$schema": DIALECT,
        "title": "Definitions of Wharfinger's containers",
        "type": "object",
        "properties": {
            "version": {"const": 1, "description": "Of this format."},
            "containers": {
                "type": "object",
                "description": "Containers by name.",
                "propertyNames": {"pattern": NAME},
                "additionalProperties": {"$ref": "#/$defs/Container"},
            },
        },
        "patternProperties": _EXTENSION,
        "required": ["containers"],
        "additionalProperties": False,
        "$defs": {"Container": container, **blocks},
    }


def _short_forms(fields: dict[str, Any], blocks: dict[str, Any]) -> None:
    """What validators that run before the models take."""
    taken: dict[str, list[dict[str, Any]]] = {
        "restart": [_RESTART],
        "tmpfs": [_TEXT, _TEXTS],
        "group_add": [{"type": ["string", "integer"]}],
        "depends_on": [_TEXTS],
    }
    for key, forms in taken.items():
        described = fields[key]
        rest = {word: described.pop(word) for word in list(described) if word not in ("default", "description")}
        described["anyOf"] = [*forms, rest] if key != "tmpfs" else forms
    fields["network"]["enum"].remove("bridge")
    condition = blocks["Dependency"]["properties"]["condition"]
    condition["enum"] += [f"service_{word}" for word in condition["enum"]]
    health = blocks["HealthCheck"]
    health["properties"]["disable"] = {"type": "boolean", "description": "True: no health check."}
    health["anyOf"] = [{"required": ["test"]}, {"required": ["disable"]}]
    del health["required"]
    del blocks["UserNs"]["properties"]["gid_base"]["default"]


def _tidy(node: Any) -> Any:
    """Without pydantic's titles, and without null: an empty value is refused, not read as none."""
    if isinstance(node, list):
        return [_tidy(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    out = {
        key: {name: _tidy(value) for name, value in inner.items()} if key in ("properties", "$defs") else _tidy(inner)
        for key, inner in node.items()
        if key != "title" and not (key == "default" and (inner is None or isinstance(inner, dict)))
    }
    choices = out.get("anyOf")
    if isinstance(choices, list) and len(choices) == 1:
        out.pop("anyOf")
        out = {**choices[0], **out}
    return out
