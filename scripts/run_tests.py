"""Runs every suite, also those that need the VM, and closes with one line for all of them.

`python -m scripts.run_tests [SUITE...]`; suites: unit sim kernel e2e fuzz harness vm. Exit code 0: all ran, all passed.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "test-reports"
WORDS = ("failed", "passed", "skipped", "xfailed")


@dataclass(frozen=True, slots=True)
class Suite:
    """One run of pytest. `require`: markers of which at least one test must really run, else the suite fails."""

    name: str
    paths: tuple[str, ...]
    select: str = "not vm"
    require: str = ""
    in_vm: bool = False
    limit: int = 900

    def present(self) -> list[str]:
        """Paths that hold tests."""
        return [p for p in self.paths if any((ROOT / p).rglob("test_*.py"))]


def suites() -> list[Suite]:
    root = os.geteuid() == 0
    found = [
        Suite("unit", ("tests/unit", "grafana")),
        Suite("sim", ("tests/sim",)),
        Suite("fuzz", ("tests/fuzz",)),
        Suite("kernel", ("tests/kernel",), require="kernel" if root else ""),
        Suite("e2e", ("tests/e2e",)),
        Suite("harness", ("tests/vm",)),
    ]
    if platform.machine() == "x86_64":
        found.append(
            Suite("vm", ("tests/kernel", "tests/e2e"), "vm or kernel", require="vm kernel", in_vm=True, limit=1500)
        )
    else:
        print(f"no VM on {platform.machine()}: its suite is left out", flush=True)
    return [s for s in found if s.present()]


def command(suite: Suite) -> list[str]:
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", suite.select, *suite.present()]
    if suite.in_vm:
        return [str(ROOT / "tests/vm/run"), "--mem", "1500M", "--timeout", str(suite.limit), "--", *pytest]
    return pytest


def run(suite: Suite) -> Counter[str]:
    """Run one suite; never raises for its failure. A run that left no counts is one failure."""
    report = REPORTS / f"{suite.name}.json"
    report.unlink(missing_ok=True)
    env = os.environ | {
        "WHARFINGER_REPORT": str(report),
        "WHARFINGER_REQUIRE": suite.require,
        "PYTHONDONTWRITEBYTECODE": "1" if suite.in_vm else "",
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }
    print(f"==== {suite.name}{' (in the VM)' if suite.in_vm else ''} ====", flush=True)
    try:
        code = subprocess.run(
            command(suite), cwd=ROOT, env=env, stdin=subprocess.DEVNULL, timeout=suite.limit + 60
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"{suite.name}: killed after {suite.limit + 60} s", flush=True)
        code = 124
    counts = Counter(json.loads(report.read_text())) if report.exists() else Counter()
    if code != 0 and not counts["failed"]:
        print(f"{suite.name}: pytest ended with exit code {code}", flush=True)
        counts["failed"] += 1
    return counts


def closing_line(total: Counter[str], seconds: float) -> str:
    """As pytest's own, so that whoever reads those reads this."""
    parts = [f"{total[w]} {w}" for w in WORDS if total[w]] or ["no tests ran"]
    text = f" {', '.join(parts)} in {seconds:.2f}s "
    return text.center(80, "=")


def main(names: list[str]) -> int:
    started = time.monotonic()
    chosen = [s for s in suites() if not names or s.name in names]
    unknown = set(names) - {s.name for s in chosen}
    if unknown:
        print(f"no such suite here: {', '.join(sorted(unknown))}")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # subprocess.run then kills the suite that runs
    REPORTS.mkdir(parents=True, exist_ok=True)
    total: Counter[str] = Counter()
    failed: list[str] = []
    for suite in chosen:
        counts = run(suite)
        total += counts
        if counts["failed"]:
            failed.append(suite.name)
    if failed:
        print(f"failed suites: {' '.join(failed)}")
    print(closing_line(total, time.monotonic() - started), flush=True)
    return 1 if failed or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
