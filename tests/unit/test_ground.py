"""The ground that the rest stands on: locks, settings of the tools, rules of the repository."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from scripts import check_repo, run_tests

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "requirements-build.lock", "requirements-dev.lock")


def locked(name: str) -> dict[str, str]:
    """Package to version, of one lock file."""
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ \\]+)", (ROOT / name).read_text(), re.MULTILINE))


def requirement_name(text: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", text)
    assert found is not None
    return found.group().lower().replace("_", "-").replace(".", "-")


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes(name: str) -> None:
    entries = re.split(r"^(?=[a-z0-9])", (ROOT / name).read_text(), flags=re.MULTILINE)
    assert [e for e in entries if e.strip() and "--hash=sha256:" not in e] == []


def test_the_locks_hold_what_the_project_asks_for() -> None:
    run_time, everything = locked("requirements.lock"), locked("requirements-dev.lock")
    assert {requirement_name(r) for r in PROJECT["project"]["dependencies"]} <= run_time.keys()
    groups = PROJECT["dependency-groups"]
    asked = [r for g in groups.values() for r in g if isinstance(r, str)] + PROJECT["build-system"]["requires"]
    assert {requirement_name(r) for r in asked} <= everything.keys()


def test_the_locks_agree_with_each_other() -> None:
    everything = locked("requirements-dev.lock")
    for name in LOCKS:
        assert locked(name).items() <= everything.items(), name


def test_the_core_may_reach_no_clock_file_or_socket() -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (pure,) = [c for c in contracts if c["type"] == "forbidden"]
    assert pure["source_modules"] == ["supervisor.lifecycle"]
    assert {"anyio", "trio", "os", "time", "datetime", "random", "socket", "sqlite3"} <= set(pure["forbidden_modules"])


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.py", "x = 1\n" * 401, "401 lines"),
        ("requirements.lock", "--index-url somewhere\n", "names an index"),
        ("requirements.lock", "a @ https" + "://host/a.whl\n", "names an index"),
        ("docs/a.md", "see [this](no-such.md)\n", "no-such.md"),
        ("a.c", "<<<<<<< ours\n", "conflict marker"),
    ],
)
def test_a_broken_rule_is_told(name: str, text: str, word: str) -> None:
    assert any(word in p for p in check_repo.problems(name, text))


def test_a_plain_file_breaks_no_rule() -> None:
    assert list(check_repo.problems("a.py", "x = 1\n" * 400)) == []
    assert list(check_repo.problems("docs/a.md", "[tests](testing.md) [far](https://example.org/)\n")) == []


def test_the_closing_line_is_pytest_s() -> None:
    line = run_tests.closing_line(Counter(passed=3, skipped=1, failed=2), 12.345)
    assert re.fullmatch(r"=+ 2 failed, 3 passed, 1 skipped in 12\.3[45]s =+", line)


def test_every_suite_selects_what_the_host_can_run() -> None:
    for suite in run_tests.suites():
        assert suite.in_vm or "not vm" in suite.select


def test_the_service_unit_keeps_containers_alive() -> None:
    unit = (ROOT / "packaging/wharfinger.service").read_text().splitlines()
    assert {
        "Type=notify",
        "NotifyAccess=main",
        "Delegate=yes",
        "KillMode=process",
        "Restart=always",
        "OOMPolicy=continue",
        "RuntimeDirectoryPreserve=yes",
        "StartLimitIntervalSec=0",
    } <= set(unit)
    # A mount namespace of the daemon's own would hide the containers' mounts from the host, and the host's from them.
    assert not [line for line in unit if line.startswith(("Private", "Protect", "MountFlags", "ReadOnly"))]
