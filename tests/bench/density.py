"""What N idle containers cost: memory of the daemon and of a shim, CPU and wake-ups while nothing happens, disk writes.

python -m tests.bench.density [N] [SECONDS]
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.host import Host


def rollup(pid: int) -> dict[str, int]:
    """kB by name (proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def private(pid: int) -> int:
    memory = rollup(pid)
    return memory["Private_Clean"] + memory["Private_Dirty"]


def switches(pid: int) -> dict[str, int]:
    """Voluntary context switches by thread: each is one wake-up."""
    counts = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt"):
                counts[f"{pid}/{task.name}"] = int(line.split()[1])
    return counts


def wakeups(before: dict[str, int], after: dict[str, int]) -> int:
    """Of the threads that are there at the end; one that ended meanwhile is not counted."""
    return sum(count - before.get(thread, 0) for thread, count in after.items())


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def written(pid: int) -> int:
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    return 0


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 30
    base = Path(tempfile.mkdtemp(prefix="wd", dir="/run"))
    try:
        with Host(base / "host", 19632) as host:
            one = "  c{0}:\n    rootfs: ROOTFS\n    command: [sleep, '100000']\n    stop_signal: KILL\n"
            host.start()
            begin = time.monotonic()
            host.define("many", "containers:\n" + "".join(one.format(n) for n in range(count)))
            host.until(
                lambda: sum(c["state"] == "RUNNING" for c in host.status().values()) == count, 180, "not all run"
            )
            started = time.monotonic() - begin
            assert host.daemon is not None
            daemon = host.daemon.pid
            shims = [int(p) for p in (host.cgroup / "shims/cgroup.procs").read_text().split()]
            host.metrics()
            scrape = time.monotonic()
            size = len(host.metrics())
            scrape = time.monotonic() - scrape
            time.sleep(3)  # let it settle: what is measured next is idleness
            before = ticks(daemon), written(daemon)
            slept = switches(daemon), *map(switches, shims)
            state_before = {p.name: p.stat().st_mtime_ns for p in (host.base / "state").iterdir()}
            time.sleep(seconds)
            after = ticks(daemon), written(daemon)
            woken = [wakeups(b, a) for b, a in zip(slept, (switches(daemon), *map(switches, shims)), strict=True)]
            state_after = {p.name: p.stat().st_mtime_ns for p in (host.base / "state").iterdir()}
            hertz = os.sysconf("SC_CLK_TCK")
            minute = 60 / seconds
            memory = rollup(daemon)
            fds = len(list(Path(f"/proc/{daemon}/fd").iterdir()))
            print(f"{count} containers, started in {started:.1f} s, idle for {seconds:g} s")
            print(f"daemon  RSS {memory['Rss'] / 1024:.1f} MB  PSS {memory['Pss'] / 1024:.1f} MB  {fds} fds")
            print(
                f"shim    private median {statistics.median(map(private, shims)):.0f} kB, "
                f"max {max(map(private, shims))} kB; "
                f"PSS median {statistics.median(rollup(p)['Pss'] for p in shims):.0f} kB"
            )
            print(
                f"idle    CPU {(after[0] - before[0]) / hertz / seconds * 100:.2f} % of a core; wake-ups a minute: "
                f"daemon {woken[0] * minute:.0f}, all shims {sum(woken[1:]) * minute:.0f}"
            )
            print(
                f"disk    {after[1] - before[1]} bytes written while idle; "
                f"state files touched: {state_after != state_before}"
            )
            print(f"scrape  {size / 1024:.0f} kB in {scrape * 1000:.0f} ms with the client's own cost")
            begin = time.monotonic()
            host.ctl("stop", "all", timeout=120)
            print(f"stop    all in {time.monotonic() - begin:.1f} s")
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
