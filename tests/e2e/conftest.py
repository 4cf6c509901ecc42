"""A fresh host for each test: its own directories, cgroup root and port; nothing may be left after it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import kernel_obstacle
from tests.e2e.host import Host

NUMBERS = itertools.count(1)


@pytest.fixture
def host() -> Iterator[Host]:
    if (obstacle := kernel_obstacle()) is not None:
        pytest.skip(obstacle)
    number = next(NUMBERS)
    with Host(Path(f"/run/wt{os.getpid()}-{number}"), 20000 + (os.getpid() * 7 + number) % 20000) as made:
        yield made
