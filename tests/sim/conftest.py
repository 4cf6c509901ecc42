"""`--seed N`: the first history; `--histories N`: how many. A failure names its seed."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="first seed of tests/sim")
    parser.addoption("--histories", type=int, default=None, help="histories of tests/sim")


@pytest.fixture
def first_seed(request: pytest.FixtureRequest) -> int:
    given = request.config.getoption("--seed", default=None)
    return int(os.environ.get("WHARF_SEED", "1")) if given is None else int(given)


@pytest.fixture
def histories(request: pytest.FixtureRequest) -> int:
    given = request.config.getoption("--histories", default=None)
    return int(os.environ.get("WHARF_HISTORIES", "2000")) if given is None else int(given)
