"""Errors are one line, and say whose fault it is."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import (
    DefinitionError,
    GoneError,
    HostError,
    LaunchError,
    RefusedError,
    WharfError,
    one_line,
)


def test_words_of_an_error() -> None:
    assert str(WharfError("is full", "/var", "remove logs")) == "/var: is full; remove logs"
    assert str(WharfError("is full")) == "is full"
    assert str(DefinitionError("no", "web.x", file="/a.yaml", line=3, column=5)) == "/a.yaml:3:5: web.x: no"
    assert str(DefinitionError("no", line=3, column=5)) == "<text>:3:5: no"
    assert str(DefinitionError("no", file="/a.yaml")) == "/a.yaml: no"
    assert str(LaunchError("mount", "/proc", errno.EPERM)) == "mount /proc: Operation not permitted (EPERM)"
    assert str(LaunchError("exec", detail="killed")) == "exec: killed"


@pytest.mark.parametrize(
    ("kind", "code"),
    [(WharfError, 1), (DefinitionError, 2), (RefusedError, 1), (HostError, 1), (GoneError, 1), (LaunchError, 1)],
)
def test_exit_codes(kind: type[WharfError], code: int) -> None:
    assert kind("x").exit_code == code
    assert issubclass(kind, WharfError)


@given(st.text(alphabet=st.characters(codec=None), max_size=3000))
def test_any_text_becomes_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= 1000
    assert str(WharfError(text, text, text)).isprintable()
    str(DefinitionError(text, text, file=text, line=1)).encode()
