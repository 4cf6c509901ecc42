"""A pretended daemon behind the real API, and wharfctl in front of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.cli.main import main
from tests.fixtures.fake_control import FakeControl, Served, served
from tests.fixtures.wharfctl import Said, Wharfctl


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    with served(tmp_path / "run", FakeControl(log_dir=tmp_path / "log")) as found:
        monkeypatch.setenv("WHARFINGER_SOCKET", str(found.path))
        yield found


@pytest.fixture
def wharfctl(capfdbinary: pytest.CaptureFixture[bytes]) -> Wharfctl:
    def run(*argv: str) -> Said:
        capfdbinary.readouterr()
        code = main(argv)
        out, err = capfdbinary.readouterr()
        assert b"Traceback" not in out + err
        return Said(code, out.decode(), err.decode())

    return run
