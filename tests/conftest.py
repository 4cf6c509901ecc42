"""What a test needs, said by its markers; counts for scripts/run_tests.py. See docs/testing.md."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Nothing fails for a host that is busy: a test has its own time limit.
settings.register_profile("busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

IN_VM = os.environ.get("WHARFINGER_VM") == "1"
REQUIRED = tuple(os.environ.get("WHARFINGER_REQUIRE", "").split())
REPORT = os.environ.get("WHARFINGER_REPORT")
SUITES = ("unit", "sim", "kernel", "e2e", "fuzz", "vm")


def cgroup2_mount() -> Path | None:
    """The first cgroup2 mount of this process's mount namespace."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] == "cgroup2":
            return Path(fields.split()[4].encode().decode("unicode_escape"))
    return None


def kernel_obstacle() -> str | None:
    """Why `kernel` tests cannot run here, or None."""
    if os.geteuid() != 0:
        return "kernel tests need root"
    mount = cgroup2_mount()
    if mount is None:
        return "kernel tests need a cgroup2 mount"
    if not os.access(mount, os.W_OK):
        return f"kernel tests need a writable cgroup2 mount, {mount} is not"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    obstacle = kernel_obstacle()
    for item in items:
        if not IN_VM and item.get_closest_marker("vm"):
            item.add_marker(pytest.mark.skip(reason="runs in the VM: tests/vm/run -- .venv/bin/pytest -m vm"))
        if obstacle and (item.get_closest_marker("kernel") or item.get_closest_marker("host")):
            item.add_marker(pytest.mark.skip(reason=obstacle))


@pytest.fixture(scope="session")
def in_vm() -> bool:
    """Whether the test runs in the guest of tests/vm/run."""
    return IN_VM


@pytest.fixture(scope="session")
def cgroup2() -> Path:
    """The cgroup2 mount; skips where there is none."""
    mount = cgroup2_mount()
    if mount is None:
        pytest.skip("no cgroup2 mount")
    return mount


class Counts:
    """How each test ended, and how many tests of each marker really ran."""

    def __init__(self) -> None:
        self.outcome: dict[str, str] = {}
        self.ran: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and not report.skipped:
            self.ran.update(m for m in ("kernel", "host", "vm", "e2e") if m in report.keywords)
        worse = report.failed or report.when == "call" or (report.when == "setup" and report.skipped)
        if worse and self.outcome.get(report.nodeid) != "failed":
            xfailed = report.skipped and hasattr(report, "wasxfail")
            self.outcome[report.nodeid] = "xfailed" if xfailed else report.outcome

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        for marker in REQUIRED:
            if not self.ran[marker]:
                session.config.get_terminal_writer().line(f"\nno test marked {marker!r} ran here", red=True)
                self.outcome[f"no test marked {marker}"] = "failed"
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if REPORT:
            Path(REPORT).write_text(json.dumps(Counter(self.outcome.values())))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Counts(), "wharfinger-counts")
