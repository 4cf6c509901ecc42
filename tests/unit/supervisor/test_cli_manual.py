"""The manual says all that there is: each command, option, exit code, setting and field."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pydantic import BaseModel

from config import model_parts
from config.model import Container
from config.settings import Settings
from supervisor.api.app import ROUTES
from supervisor.cli.table import COMMANDS, GLOBAL
from tests.fixtures.fake_control import REPO

MAN = REPO / "docs" / "man"
PAGES = ("wharfctl.1", "wharfingerd.8", "wharfinger.yaml.5")


def plain(page: str) -> str:
    """Without fonts and escapes."""
    text = (MAN / page).read_text().replace("\\-", "-")
    return re.sub(r"\\f[BIR]", "", text)


def test_each_command_and_option_is_in_the_manual_page_and_in_the_guide() -> None:
    page, guide = plain("wharfctl.1"), (REPO / "docs" / "wharfctl.md").read_text()
    for one in COMMANDS:
        assert re.search(rf"^\.BR? {one.name}\b", page, re.MULTILINE), one.name
        assert f"`{one.name}" in guide, one.name
        for option in one.options:
            for flag in option.flags:
                assert flag in page, (one.name, flag)
    for option in GLOBAL:
        assert option.flags[-1] in page
        assert option.flags[-1] in guide


def test_the_guide_has_each_route() -> None:
    guide = (REPO / "docs" / "wharfctl.md").read_text()
    for path, methods in ROUTES.items():
        *_, last = path.split("/")
        assert path in guide or f"`{last}`" in guide or f"`{path}`" in guide, path
        assert all(method in guide for method in methods)


def test_each_setting_is_in_the_daemons_page() -> None:
    page = plain("wharfingerd.8")
    for name in Settings.model_fields:
        assert f".B {name}\n" in page, name


def test_each_field_of_a_definition_is_in_its_page() -> None:
    page = plain("wharfinger.yaml.5")
    found = vars(model_parts).values()
    parts: list[type[BaseModel]] = [part for part in found if isinstance(part, type) and issubclass(part, BaseModel)]
    assert len(parts) > 8
    parts.append(Container)
    for part in parts:
        for name, field in part.model_fields.items():
            word = field.alias or name
            if (part, name) == (Container, "name"):
                continue
            assert f".B {word}\n" in page or re.search(rf"\{{.*\b{word}\b.*\}}", page), f"{part.__name__}.{word}"


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_proper_roff(page: str) -> None:
    text = (MAN / page).read_text()
    assert text.startswith(".TH ")
    assert all(section in text for section in (".SH NAME\n", ".SH SYNOPSIS\n", ".SH DESCRIPTION\n", '.SH "SEE ALSO"\n'))
    assert text.isascii()
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-ww", "-rLL=78n", str(MAN / page)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    shown = re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout)
    assert max(map(len, shown.splitlines())) <= 80
    assert Path(page).stem.upper() in shown.upper()
