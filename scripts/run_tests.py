"""Runs every suite, also those that need the VM, and closes with one line for all of them.

`python -m scripts.run_tests [SUITE...]`; suites: unit sim kernel e2e fuzz conformance harness vm-kernel vm-conformance
vm-e2e, `vm` for all of the VM. Exit code 0: all ran, all passed.
Guests have one CPU each, and are slow: their suites run beside those of the host, and are shown when they have ended.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "test-reports"
OPTIONS = ("-q", "-p", "no:cacheprovider", "--durations=8", "--durations-min=5")
HOST_ONLY = ("tests/e2e/test_chaos.py", "tests/e2e/test_buglog.py")  # hundreds of starts, answers within a second
# hundreds of starts too, and races want a second CPU; the table of tries runs in the guest, in part
HOST_ONLY_KERNEL = ("tests/kernel/test_hostile_race.py", "tests/kernel/test_hostile_bundle.py")
WORDS = ("failed", "passed", "skipped", "xfailed")
RUNNING: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class Suite:
    """One run of pytest. `require`: markers of which at least one test must really run, else the suite fails."""

    name: str
    paths: tuple[str, ...]
    select: str = "not vm"
    require: str = ""
    in_vm: bool = False
    leave_out: tuple[str, ...] = ()
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
        Suite("kernel", ("tests/kernel",), require="kernel host" if root else ""),
        Suite("e2e", ("tests/e2e",)),
        Suite("conformance", ("tests/conformance",), require="kernel" if root else ""),
        Suite("harness", ("tests/vm",)),
    ]
    if platform.machine() == "x86_64":
        found += [
            Suite("vm-kernel", ("tests/kernel",), "vm or kernel", "vm kernel", True, HOST_ONLY_KERNEL, 1500),
            Suite("vm-conformance", ("tests/conformance",), "vm", "vm", in_vm=True, limit=600),
            Suite("vm-e2e", ("tests/e2e",), "vm or kernel", "vm", in_vm=True, leave_out=HOST_ONLY, limit=1800),
        ]
    else:
        print(f"no VM on {platform.machine()}: its suite is left out", flush=True)
    return [s for s in found if s.present()]


def command(suite: Suite) -> list[str]:
    pytest = [sys.executable, "-m", "pytest", *OPTIONS, "-m", suite.select]
    pytest += [*(f"--ignore={p}" for p in suite.leave_out), *suite.present()]
    if suite.in_vm:
        vm = [str(ROOT / "tests/vm/run"), "--mem", "1500M", "--timeout", str(suite.limit)]
        return [*vm, "--disk", str(blank_disk(suite.name)), "--module", "dm-mod", "--", *pytest]
    return pytest


def blank_disk(name: str) -> Path:
    """The guest's /dev/ubda: empty, sparse, for this run."""
    path = REPORTS / f"{name}.disk"
    path.unlink(missing_ok=True)
    with path.open("wb") as disk:
        disk.truncate(64 << 20)
    return path


def run(suite: Suite, output: IO[bytes] | None) -> Counter[str]:
    """Run one suite, printing to `output`, else to ours; never raises for its failure.

    A run that left no counts is one failure.
    """
    report = REPORTS / f"{suite.name}.json"
    report.unlink(missing_ok=True)
    env = os.environ | {
        "WHARFINGER_REPORT": str(report),
        "WHARFINGER_REQUIRE": suite.require,
        "PYTHONDONTWRITEBYTECODE": "1" if suite.in_vm else "",
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }
    process = subprocess.Popen(
        command(suite), cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
    )
    RUNNING.append(process)
    try:
        code = process.wait(suite.limit + 60)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    finally:
        RUNNING.remove(process)
    counts = Counter(json.loads(report.read_text())) if report.exists() else Counter()
    if code != 0 and not counts["failed"]:
        told = f"{suite.name}: ended with exit code {code}, without counts of its own\n".encode()
        os.write(output.fileno() if output else 1, told)
        counts["failed"] += 1
    return counts


def run_aside(suite: Suite) -> tuple[Suite, Counter[str], Path]:
    """Run a suite with its output in a file."""
    path = REPORTS / f"{suite.name}.log"
    with path.open("wb", buffering=0) as log:
        return suite, run(suite, log), path


def run_all(chosen: Sequence[Suite]) -> dict[str, Counter[str]]:
    """Suites of the host one by one, those of the VM beside them. The counts of each, by name."""
    done: dict[str, Counter[str]] = {}
    with ThreadPoolExecutor() as pool:
        aside = [pool.submit(run_aside, s) for s in chosen if s.in_vm]
        for suite in chosen:
            if not suite.in_vm:
                print(f"==== {suite.name} ====", flush=True)
                done[suite.name] = run(suite, None)
        for future in aside:
            suite, counts, path = future.result()
            print(f"==== {suite.name} (in the VM) ====\n{path.read_text(errors='replace')}", end="", flush=True)
            done[suite.name] = counts
    return done


def closing_line(total: Counter[str], seconds: float) -> str:
    """As pytest's own, so that whoever reads those reads this."""
    parts = [f"{total[w]} {w}" for w in WORDS if total[w]] or ["no tests ran"]
    text = f" {', '.join(parts)} in {seconds:.2f}s "
    return text.center(80, "=")


def stop(number: int, _frame: object) -> None:
    """A stopped run stops its suites."""
    for process in RUNNING:
        process.terminate()
    os._exit(128 + number)


def main(names: list[str]) -> int:
    started = time.monotonic()
    chosen = [s for s in suites() if not names or s.name in names or (s.in_vm and "vm" in names)]
    unknown = set(names) - {s.name for s in chosen} - {"vm"}
    if unknown:
        print(f"no such suite here: {', '.join(sorted(unknown))}")
        return 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    REPORTS.mkdir(parents=True, exist_ok=True)
    done = run_all(chosen)
    failed = [name for name, counts in done.items() if counts["failed"]]
    total: Counter[str] = sum(done.values(), Counter())
    if failed:
        print(f"failed suites: {' '.join(failed)}")
    print(closing_line(total, time.monotonic() - started), flush=True)
    return 1 if failed or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
