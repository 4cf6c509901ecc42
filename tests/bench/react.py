"""From a container's exit to the exec of its next run: ours, the bare floor in C, and crun driven from one loop.

    python -m tests.bench.react [RUNS]

Each container is the same static program (stamp.c): it writes the time of its exec and of its exit, and ends. What is
counted is exec(n+1) - exit(n), CLOCK_MONOTONIC. All three in one run on one machine: read the ratios.
"""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.host import Host

HERE = Path(__file__).resolve().parent
PAIR = struct.Struct("=QQ")


def build(into: Path) -> None:
    for name in ("stamp", "floor"):
        subprocess.run(["gcc", "-O2", "-static", "-o", into / name, HERE / f"{name}.c"], check=True)


def gaps(log: Path) -> list[float]:
    """Milliseconds from each exit to the next exec."""
    pairs = list(PAIR.iter_unpack(log.read_bytes()))
    return [(after[0] - before[1]) / 1e6 for before, after in itertools.pairwise(pairs)]


def ours(base: Path, stamp: Path, runs: int) -> list[float]:
    stamps = base / "ours"
    stamps.mkdir()
    state = Path(tempfile.mkdtemp(prefix="wharf-bench", dir="/var/tmp"))  # a real disk, which is synced at each end
    with Host(base / "host", 19631, {"WHARFINGER_STATE_DIR": str(state)}) as host:
        shutil.copy(stamp, host.rootfs / "stamp")
        host.start()
        host.define(
            "stamp",
            f"""containers:
  stamp:
    rootfs: ROOTFS
    command: [/stamp]
    network: none
    restart: {{policy: always, interval: 0s, factor: 1, max_interval: 0s, jitter: 0}}
    mounts: [{{type: bind, source: {stamps}, target: /stamps}}]
""",
        )
        log = stamps / "log"
        host.until(lambda: log.exists() and log.stat().st_size >= (runs + 1) * PAIR.size, 120, "too few runs")
    shutil.rmtree(state, ignore_errors=True)
    return gaps(log)[:runs]


def floor(base: Path, stamp: Path, runs: int) -> list[float]:
    stamps, root = base / "floor-stamps", base / "floor-root"
    for path in (stamps, root, *(root / d for d in ("proc", "dev", "sys", "stamps"))):
        path.mkdir()
    shutil.copy(stamp, root / "stamp")
    subprocess.run([base / "floor", root, stamps, "/stamp", str(runs + 1)], check=True)
    return gaps(stamps / "log")


def crun(base: Path, stamp: Path, runs: int) -> list[float] | None:
    """`crun run` again and again from this process, in a mount namespace where it finds a plain cgroup v2."""
    if shutil.which("crun") is None:
        return None
    bundle, stamps = base / "bundle", base / "crun-stamps"
    stamps.mkdir()
    (bundle / "rootfs").mkdir(parents=True)
    shutil.copy(stamp, bundle / "rootfs/stamp")
    subprocess.run(["crun", "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["/stamp"])
    config["mounts"].append(
        {"destination": "/stamps", "type": "bind", "source": str(stamps), "options": ["bind", "rw"]}
    )
    config["root"]["readonly"] = False
    del config["linux"]["resources"]  # its device rules need a higher RLIMIT_MEMLOCK than this host may give
    (bundle / "config.json").write_text(json.dumps(config))
    loop = (
        "import subprocess, sys\n"
        f"for n in range({runs + 1}):\n"
        f"    subprocess.run(['crun', 'run', '-b', {str(bundle)!r}, f'bench{{n}}'], check=True)\n"
    )
    script = f'mount -t cgroup2 none /sys/fs/cgroup; exec {sys.executable} -c "$LOOP"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env={"LOOP": loop, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, check=False
    )
    return gaps(stamps / "log") if done.returncode == 0 else None


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    base = Path(tempfile.mkdtemp(prefix="wr", dir="/run"))
    try:
        build(base)
        begin = time.monotonic()
        results = {
            "floor (C)": floor(base, base / "stamp", runs),
            "wharfinger": ours(base, base / "stamp", runs),
            "crun run": crun(base, base / "stamp", runs),
        }
        print(f"exit to the next exec, {runs} runs each, ms ({time.monotonic() - begin:.0f} s)")
        bare = statistics.median(results["floor (C)"] or [0.0])
        for name, values in results.items():
            if not values:
                print(f"{name:12} not measured here")
                continue
            ordered = sorted(values)
            median = statistics.median(ordered)
            print(
                f"{name:12} min {ordered[0]:6.2f}  median {median:6.2f}  p90 {ordered[int(len(ordered) * 0.9)]:6.2f}"
                f"  max {ordered[-1]:6.2f}  {median / bare:5.2f} x floor"
            )
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
