"""Runs the benchmarks of tests/bench, each in a process of its own: `python -m scripts.run_bench [NAME...]`.

A benchmark prints ratios against a peer or a floor in the same run; none passes or fails by time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(names: list[str]) -> int:
    found = [p.stem for p in sorted((ROOT / "tests" / "bench").glob("[a-z]*.py"))]
    chosen = [n for n in found if not names or n in names]
    failed = []
    for name in chosen:
        print(f"==== {name} ====", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], cwd=ROOT).returncode:
            failed.append(name)
    if failed or not chosen:
        print(f"failed: {' '.join(failed) or 'no benchmark found'}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
