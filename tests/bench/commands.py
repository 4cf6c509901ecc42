"""What each command of an OCI runtime takes: wharf-oci, crun and runc, one turn of each a round.

    python -m tests.bench.commands [ROUNDS]

Wall and CPU time in ms, medians. An engine runs create, state, start and delete for each container. Python's compiled
files are kept in a directory of the bench, as an installed program has them; the first round, which makes them, is not
counted. crun gets its mount namespace as in `tests.bench.launch`, which is 2 ms of each of its figures.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio

from tests.bench.launch import IN_CGROUP2, Took, bundle, command, compiled_in
from tests.e2e.host import BIN, cgroup_mount
from tests.kernel.shimkit import make_lab

COMMANDS = ("create", "state", "start", "delete", "run")


def programs() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    wanted = {"wharf-oci": shutil.which("wharf-oci", path=str(BIN)), "crun": shutil.which("crun")}
    for name, path in {**wanted, "runc": shutil.which("runc")}.items():
        if path is None:
            print(f"{name}: not here")
            continue
        found[name] = [*IN_CGROUP2, path] if name == "crun" else [path]
    return found


async def rounds(base: Path, path: Path, count: int) -> dict[tuple[str, str], list[Took]]:
    results: dict[tuple[str, str], list[Took]] = {}
    found = programs()
    for turn in range(count + 1):
        for name, program in list(found.items()):
            for word in COMMANDS:
                which = f"bench-{os.getpid()}-{turn}" + ("r" if word == "run" else "")
                words = [*program, "--root", str(base / name), word, *(["-f"] if word == "delete" else []), which]
                try:
                    took = await command(lambda _, words=words: words, path)()  # type: ignore[misc]
                except (subprocess.CalledProcessError, OSError) as error:
                    print(f"{name} cannot run here: {error}")
                    del found[name]
                    break
                if turn:
                    results.setdefault((name, word), []).append(took)
    return results


def report(results: dict[tuple[str, str], list[Took]]) -> None:
    names = list(dict.fromkeys(name for name, _ in results))
    print(f"{'':<10}" + "".join(f"{name:>20}" for name in names))
    print(f"{'':<10}" + "".join(f"{'wall':>12}{'CPU':>8}" for _ in names))
    for word in COMMANDS:
        line = f"{word:<10}"
        for name in names:
            wall, cpu = (statistics.median(c) for c in zip(*results[name, word], strict=True))
            line += f"{wall:12.1f}{cpu:8.1f}"
        print(line)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    base = Path(tempfile.mkdtemp(prefix="wc", dir="/run"))
    try:
        compiled_in(base)
        with make_lab(BIN / "wharf-shim", cgroup_mount(), base) as lab:
            report(anyio.run(rounds, base, bundle(lab, base), count, backend="trio"))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
