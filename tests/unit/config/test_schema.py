"""The JSON Schema and the loader agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from config.explain import keys_of
from config.loader import parse
from config.model import Container, Dependency, HealthCheck, IoMax, Logging, Mount, Oom, Resources, Restart, UserNs
from config.schema import definition_schema

SCHEMA = definition_schema()
EXAMPLES = sorted(Path(__file__).parents[3].glob("examples/**/*.yaml"))
TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def is_type(value: Any, word: str) -> bool:
    if word in ("integer", "number"):
        right = isinstance(value, int) or (word == "number" and isinstance(value, float))
        return right and not isinstance(value, bool)
    return isinstance(value, TYPES[word])


def faults(value: Any, schema: Any, at: str = "") -> list[str]:  # the words of draft 2020-12 that our schema uses
    if "$ref" in schema:
        found = faults(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], at)
    else:
        found = []
    words = schema.get("type", [])
    if words and not any(is_type(value, word) for word in ([words] if isinstance(words, str) else words)):
        return [f"{at}: not {words}"]
    if "const" in schema and value != schema["const"]:
        found.append(f"{at}: not {schema['const']}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: not in {schema['enum']}")
    if "anyOf" in schema and all(faults(value, choice, at) for choice in schema["anyOf"]):
        found.append(f"{at}: none of the choices")
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{at}: out of range")
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append(f"{at}: pattern")
    if isinstance(value, list):
        found += [f for i, item in enumerate(value) for f in faults(item, schema.get("items", {}), f"{at}[{i}]")]
    if isinstance(value, dict):
        found += [f"{at}: no {key}" for key in schema.get("required", ()) if key not in value]
        for key, inner in value.items():
            if not re.search(schema.get("propertyNames", {}).get("pattern", ""), key):
                found.append(f"{at}.{key}: name")
            known = schema.get("properties", {}).get(key)
            if known is None and any(re.search(p, key) for p in schema.get("patternProperties", {})):
                continue
            rest = schema.get("additionalProperties", {})
            if known is None and rest is False:
                found.append(f"{at}.{key}: unknown")
            else:
                found += faults(inner, known if known is not None else rest, f"{at}.{key}")
    return found


def read(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_every_reference_has_its_block_and_the_schema_is_json() -> None:
    text = json.dumps(SCHEMA)
    assert set(re.findall(r"#/\$defs/(\w+)", text)) == set(SCHEMA["$defs"])
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "null" not in re.findall(r'"type": "(\w+)"', text)


def test_the_test_knows_every_word_that_the_schema_uses() -> None:
    known = {"$schema", "$ref", "$defs", "title", "description", "default", "type", "const", "enum", "anyOf", "minimum",
             "maximum", "pattern", "items", "required", "properties", "propertyNames", "patternProperties",
             "additionalProperties"}  # fmt: skip

    def walk(node: Any) -> None:
        assert set(node) <= known
        for key in ("properties", "patternProperties", "$defs"):
            for inner in node.get(key, {}).values():
                walk(inner)
        for key in ("items", "additionalProperties", "propertyNames"):
            if isinstance(node.get(key), dict):
                walk(node[key])
        for inner in node.get("anyOf", ()):
            walk(inner)

    walk(SCHEMA)


@pytest.mark.parametrize(
    "model", [Container, Dependency, HealthCheck, IoMax, Logging, Mount, Oom, Resources, Restart, UserNs]
)
def test_the_schema_has_the_keys_of_the_model_and_words_for_each(model: Any) -> None:
    properties = SCHEMA["$defs"][model.__name__]["properties"]
    assert set(properties) - {"disable"} == set(keys_of(model))
    assert all(inner.get("description") for inner in properties.values())


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_the_examples_are_right_by_schema_and_loader(path: Path) -> None:
    assert faults(read(path.read_text()), SCHEMA) == []
    assert parse(path.read_bytes(), str(path)).errors == ()


GOOD = """
version: 1
x-notes: [a]
containers:
  web:
    x-own: {a: 1}
    rootfs: ./root
    command: [nginx, -g, daemon off;, 80]
    environment: {TZ: UTC, N: 1, B: true}
    restart: on-failure:5
    success_exit_codes: 3
    resources: {memory: 128MiB, cpus: 0.5, pids: max, io_max: [{device: "8:0", rbps: 1M}]}
    healthcheck: {disable: true}
    depends_on: [db]
    tmpfs: /run
    group_add: 5
    ulimits: {nofile: {soft: 1, hard: unlimited}, core: 0}
    user_namespace: {uid_base: 5}
    labels: [a=b]
  db:
    bundle: b
    restart: {policy: "no"}
    depends_on: {web: {condition: service_healthy, required: false}}
    logging: {max_size: 1M}
"""


def test_a_file_with_many_forms_is_right_by_schema_and_loader() -> None:
    assert faults(read(GOOD), SCHEMA) == []
    assert parse(GOOD.encode(), "/etc/w/a.yaml").errors == ()


@pytest.mark.parametrize(
    "body",
    ["restrt: no", "restart: never", "restart: {polcy: no}", "resources: {pids: 0}", "resources: 5", "network: bridge",
     "ports: [1]",
     "oom: {group: maybe}", "mounts: [{source: /a}]", "environment: 5", "healthcheck: {interval: 5}", "hostname: ~",
     "depends_on: {db: {condition: ready}}", "ulimits: {core: lots}", "user_namespace: {}", "command: {}", "name: x"],
)  # fmt: skip
def test_what_the_schema_refuses_the_loader_refuses(body: str) -> None:
    text = f"containers:\n  web:\n    rootfs: /a\n    entrypoint: [x]\n    {body}\n"
    assert faults(read(text), SCHEMA)
    assert parse(text.encode(), "/etc/w/a.yaml").errors
