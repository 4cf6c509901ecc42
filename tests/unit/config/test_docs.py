"""The reference for operators says what the models say, and its examples work."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from config import reference, reference_text
from config.changes import LIVE
from config.loader import parse
from config.model import Container
from config.settings import Settings

DOCS = Path(__file__).parents[3] / "docs"
BODIES = {key: text for key, text in reference_text.EXAMPLES.items() if not key.startswith("settings.")}


def test_the_documents_are_up_to_date() -> None:
    """After a change: python -m config.reference docs"""
    assert (DOCS / "definitions.md").read_text() == reference.definitions()
    assert (DOCS / "settings.md").read_text() == reference.settings()


def test_no_field_is_missing() -> None:
    listed = [key for _, keys in reference_text.GROUPS for key in keys]
    assert sorted(listed) == sorted(set(Container.model_fields) - {"name"})
    fields = {info.alias or key for key, info in Container.model_fields.items()} - {"name"}
    for path, model in reference.BLOCKS:
        fields |= {f"{path}.{key}" for key in model.model_fields}
    fields |= {f"settings.{key}" for key in Settings.model_fields}
    assert set(reference_text.TYPES) == fields
    assert set(reference_text.EXAMPLES) == fields


@pytest.mark.parametrize("key", BODIES)
def test_an_example_is_a_good_definition_that_sets_its_field(key: str) -> None:
    body = BODIES[key]
    given = "" if body.startswith(("image:", "rootfs:", "bundle:")) else "    rootfs: /srv/web\n"
    given += "" if body.startswith(("command:", "bundle:")) else "    command: [run]\n"
    given += "    user_namespace: {uid_base: 9}\n" if key == "mounts.idmap" else ""
    loaded = parse(f"containers:\n  web:\n{given}    {body}\n".encode(), "/t.yaml")
    assert loaded.errors == ()
    assert key.rpartition(".")[2] in body


def test_the_file_in_the_text_is_a_good_one() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", reference_text.DEFINITIONS, re.DOTALL)
    loaded = parse(text.encode(), "/etc/wharfinger/containers.d/a.yaml")
    assert loaded.errors == ()
    assert list(loaded.containers) == ["web", "db"]


def test_the_examples_of_settings_are_good() -> None:
    lines = [text for key, text in reference_text.EXAMPLES.items() if key.startswith("settings.") and " = " in text]
    values = tomllib.loads("\n".join(lines))
    assert set(values) == set(Settings.model_fields) - {"config_file"}
    settings = Settings(**values)
    assert all(getattr(settings, key) != info.default for key, info in Settings.model_fields.items() if key in values)


def test_the_text_names_every_field_that_changes_live() -> None:
    sentence = re.search(r"Changes of (.*?) apply", reference_text.DEFINITIONS, re.DOTALL)
    assert sentence is not None
    assert set(re.findall(r"`(\w+)`", sentence[1])) == LIVE
