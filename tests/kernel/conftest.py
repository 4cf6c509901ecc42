"""Fixtures for tests on real kernel objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.shimkit import Lab, build_shim, make_lab


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture(scope="session")
def shim_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `wharf-shim` of this source tree."""
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def lab(shim_path: Path, cgroup2: Path, tmp_path: Path) -> Iterator[Lab]:
    """A place for one container's runs; its cgroups are removed afterwards, and no shim may be left."""
    with make_lab(shim_path, cgroup2, tmp_path) as made:
        yield made
