"""The runtime that is under test, a bundle for each case, and what is known of other runtimes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.ocikit import Box, Runtime, Seen, find_runtime, make_bundle, make_template
from tests.conformance.quirks import QUIRKS, UNSURE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    program = find_runtime()
    name = Path(program).name if program else ""
    for item in items:
        if "tests/conformance/" not in item.nodeid:
            continue
        item.add_marker(pytest.mark.kernel)
        if program is None:
            item.add_marker(pytest.mark.skip(reason="there is no wharf-oci here; OCI_RUNTIME names another runtime"))
        case = item.nodeid.rpartition("::")[2]
        if reason := QUIRKS.get(name, {}).get(case):
            sure = case not in UNSURE.get(name, ())
            item.add_marker(pytest.mark.xfail(reason=f"{name}: {reason}", strict=sure))


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    program = find_runtime()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="wc-", dir="/run", ignore_cleanup_errors=True) as root:
        yield Runtime(program, Path(root))


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wc-", dir="/tmp") as where:
        yield make_template(Path(where))


@pytest.fixture
def box(runtime: Runtime, template: Path) -> Iterator[Box]:
    """A container that is not made yet."""
    path = Path(tempfile.mkdtemp(prefix="wc-", dir="/tmp"))
    made = Box(runtime, make_bundle(path, template))
    try:
        yield made
    finally:
        made.clean()
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def plain(runtime: Runtime, template: Path) -> Iterator[Seen]:
    """What the probe sees with the default config; cases that only look share it."""
    path = Path(tempfile.mkdtemp(prefix="wc-", dir="/tmp"))
    made = Box(runtime, make_bundle(path, template))
    try:
        yield made.run(*[f"stat:/dev/{n}" for n in DEVICES], *[f"link:/dev/{n}" for n in LINKS])
    finally:
        made.clean()
        shutil.rmtree(path, ignore_errors=True)


DEVICES = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0", "ptmx": "5:2"}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
