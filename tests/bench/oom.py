"""From the kernel's OOM kill to our event, decision and metric: how much later than the kernel's own notification.

    python -m tests.bench.oom [RUNS]

One container eats more than its limit, again and again. The kernel's log has the time of each kill (in the VM its clock
ticks each 10 ms); a bare poller on the same memory.events is told of it by the kernel, and a reader that follows our
events by us. Between the two lies the death itself: `reaped` is when the shim had init's status. Without a memory
controller on this host it runs itself in the VM (one processor: poller and reader take some of its time).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.e2e.host import REPO, Host, has_controller

RUNS = 200
KILLED = re.compile(r"^\d+,\d+,(\d+),[^;]*;Memory cgroup out of memory: Killed process (\d+)")
FLEET = """containers:
  eater:
    rootfs: ROOTFS
    command: [sh, -c, "exec tail /dev/zero"]
    resources: {memory: 8MiB, memory_swap: 0}
    network: none
    restart: {policy: always, interval: 300ms, factor: 1, max_interval: 300ms, jitter: 0}
"""


class Kernel(threading.Thread):
    """Kills as the kernel logged them: pid and time, seconds of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.kills: dict[str, float] = {}
        self.log = os.open("/dev/kmsg", os.O_RDWR)
        os.lseek(self.log, 0, os.SEEK_END)
        self.offset = self._calibrate()

    def _calibrate(self) -> float:
        """The log's clock against ours: the smallest of some round trips."""
        found: list[tuple[float, float]] = []
        for n in range(5):  # more at once the kernel drops
            before = time.monotonic()
            os.write(self.log, f"wharf-bench {n}\n".encode())
            after = time.monotonic()
            stamp = int(os.read(self.log, 8192).split(b",")[2]) / 1e6
            found.append((after - before, (before + after) / 2 - stamp))
        return min(found)[1]

    def run(self) -> None:
        while True:
            record = os.read(self.log, 8192).decode(errors="replace")
            if (match := KILLED.match(record)) is not None:
                self.kills.setdefault(match[2], int(match[1]) / 1e6 + self.offset)


class Poller(threading.Thread):
    """When the kernel tells of a kill."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.told: list[float] = []
        self.file = os.open(path, os.O_RDONLY)

    def run(self) -> None:
        poll = select.poll()
        poll.register(self.file, select.POLLPRI)
        seen = self._kills()
        while True:
            poll.poll()
            now, kills = time.monotonic(), self._kills()
            if kills > seen:
                self.told.append(now)
                seen = kills

    def _kills(self) -> int:
        lines = os.pread(self.file, 4096, 0).decode().split("\n")
        return int(next(line for line in lines if line.startswith("oom_group_kill ")).split()[1])


class Reader(threading.Thread):
    """When our events of kills come to a reader; `decided` is the time in them."""

    def __init__(self, host: Host) -> None:
        super().__init__(daemon=True)
        self.path = host.env["WHARFINGER_SOCKET"]
        self.told: list[float] = []
        self.decided: list[float] = []
        self.reaped: list[float] = []  # by the shim
        self.ready = threading.Event()

    def run(self) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.path)
            sock.sendall(b"GET /v1/events?follow=1&tail=0&type=oom,exit HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            self.ready.set()
            while line := answer.readline():
                now, event = time.monotonic(), json.loads(line)
                if event["type"] == "oom":
                    self.told.append(now)
                    self.decided.append(event["boot"])
                elif event["data"]["oom"]:
                    self.reaped.append(event["data"]["ended"])


def spread(name: str, seconds: list[float]) -> None:
    ms = sorted(1000 * s for s in seconds)
    print(f"{name:52} median {statistics.median(ms):7.2f} ms   95 % {ms[int(len(ms) * 0.95)]:7.2f}   max {ms[-1]:7.2f}")


def measure(runs: int) -> None:
    kernel = Kernel()
    with Host(Path(tempfile.mkdtemp(prefix="wo", dir="/tmp")), 19641) as host:
        host.start()
        parent = host.cgroup / "containers/eater"
        host.define("eater", 'containers: {eater: {rootfs: ROOTFS, command: ["true"], restart: "no"}}')
        host.until_state("eater", "EXITED")
        poller, reader = Poller(parent / "memory.events"), Reader(host)
        for thread in (kernel, poller, reader):
            thread.start()
        reader.ready.wait(10)
        host.define("eater", FLEET)
        host.until(lambda: len(reader.reaped) >= runs, 2.0 * runs, "too few kills")
        host.ctl("kill", "eater")
        counted = re.search(r'wharfinger_container_exits_total\{name="eater",reason="oom"\} (\d+)', host.metrics())
        ends = host.one("eater")["ends"]
    kills = list(kernel.kills.values())[:runs]
    told, ours, decided = poller.told[:runs], reader.told[:runs], reader.decided[:runs]
    assert len(kills) == len(told) == len(ours) == runs, (len(kills), len(told), len(ours))
    assert counted is not None
    assert int(counted[1]) >= runs, "each kill is in the metric"
    shift = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    print(f"{runs} kills, {int(counted[1])} in the metric, ends {ends}")
    spread("kill to the kernel's notification (bare poller)", [t - k for k, t in zip(kills, told, strict=True)])
    reaped = [ended - shift for ended in reader.reaped[:runs]]
    decided = [boot - shift for boot in decided]
    spread("kill to init being dead and reaped", [r - k for k, r in zip(kills, reaped, strict=True)])
    spread("reaped to our decision", [d - r for r, d in zip(reaped, decided, strict=True)])
    spread("our decision beyond the kernel's notification", [d - t for t, d in zip(told, decided, strict=True)])
    spread("our event, stored, at its reader beyond it", [o - t for t, o in zip(told, ours, strict=True)])


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    if not has_controller("memory"):
        if os.environ.get("WHARFINGER_VM"):
            print("no memory controller")
            return 1
        machine = [str(REPO / "tests/vm/run"), "--mem", "1500M", "--timeout", str(120 + 3 * runs), "--"]
        return subprocess.run([*machine, sys.executable, "-m", "tests.bench.oom", str(runs)], cwd=REPO).returncode
    measure(runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
