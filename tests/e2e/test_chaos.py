"""The daemon is killed again and again while ten containers come and go; the promises are looked at each time."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.host import Host, start_time

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("WHARF_KILLS", "100"))

FLEET = """containers:
  steady0: {rootfs: ROOTFS, command: [sleep, "100000"], stop_signal: KILL}
  steady1: {rootfs: ROOTFS, command: [sleep, "100000"], stop_signal: KILL}
  steady2: {rootfs: ROOTFS, command: [sleep, "100000"], stop_signal: KILL}
  toggled: {rootfs: ROOTFS, command: [sleep, "100000"], stop_signal: KILL}
  churn0: {rootfs: ROOTFS, command: [sh, -c, "sleep 0.3; exit 1"], restart: RESTART}
  churn1: {rootfs: ROOTFS, command: [sh, -c, "sleep 0.5; exit 0"], restart: RESTART}
  churn2: {rootfs: ROOTFS, command: [sh, -c, "sleep 0.7; kill -9 $$"], restart: RESTART}
  churn3: {rootfs: ROOTFS, command: [sh, -c, "sleep 1.1; exit 9"], restart: RESTART}
  churn4: {rootfs: ROOTFS, command: ["true"], restart: RESTART}
  once: {rootfs: ROOTFS, command: [sh, -c, "sleep 1; exit 5"], restart: "no"}
""".replace("RESTART", "{policy: always, interval: 200ms, factor: 1, max_interval: 200ms}")


def instances(host: Host, name: str) -> int:
    """Runs of a container that have live processes now."""
    leaves = (host.cgroup / "containers" / name).glob("g*/cgroup.events")
    count = 0
    for leaf in leaves:
        try:
            count += "populated 1" in leaf.read_text()
        except OSError:
            continue
    return count


def test_a_hundred_deaths_of_the_daemon_under_churn(host: Host) -> None:
    seed = int(os.environ.get("WHARF_SEED", random.randrange(10**6)))
    luck = random.Random(seed)
    print(f"WHARF_SEED={seed}")
    bystander = subprocess.Popen(["sleep", "100000"])
    try:
        host.define("fleet", FLEET)
        host.start()
        steady = {}
        for name in ("steady0", "steady1", "steady2"):
            pid = host.until_state(name, "RUNNING")["pid"]
            steady[name] = (pid, start_time(pid))
        host.until_state("toggled", "RUNNING")
        wanted = "RUNNING"
        for n in range(KILLS):
            if luck.random() < 0.3:
                wanted = "STOPPED" if wanted == "RUNNING" else "RUNNING"
                assert host.ctl("stop" if wanted == "STOPPED" else "start", "toggled").returncode == 0
            time.sleep(luck.random() * 0.4)  # the random moment itself, not a wait for something
            host.kill_daemon()
            for name, (pid, begun) in steady.items():
                assert start_time(pid) == begun, f"I1: {name} died with the daemon, seed {seed} kill {n}"
            for name in ("churn0", "churn1", "churn2", "churn3", "churn4", "toggled", "once"):
                assert instances(host, name) <= 1, f"I2: two of {name}, seed {seed} kill {n}"
            host.start()
            begin = time.monotonic()
            now = host.status()
            took = time.monotonic() - begin
            assert now, f"I6: no status, seed {seed} kill {n}: {host.last_error} {host.log_text()[-3000:]}"
            assert took < 1, f"I6: status took {took:.1f} s, seed {seed} kill {n}"
            host.until(
                lambda: all(host.one(s).get("pid") == steady[s][0] for s in steady),
                10,
                f"I1: adoption, seed {seed} kill {n}",
            )
            host.until_state("toggled", wanted)  # I4
            assert bystander.poll() is None, f"I3: a stranger died, seed {seed} kill {n}"
        host.until_state("once", "EXITED")
        assert host.ctl("stop", "all").returncode == 0
        host.until(lambda: not host.left(), 20, f"I7: left over {host.left()}, seed {seed}")
        _ends_are_complete(host, seed)
    finally:
        bystander.kill()
        bystander.wait()


def _ends_are_complete(host: Host, seed: int) -> None:
    """I5: one end for each generation that was used, with its code: no shim died here, so none may be lost."""
    host.stop_daemon()
    db = sqlite3.connect(host.base / "state/state.db")
    try:
        rows = db.execute("SELECT name, generation, body FROM ends ORDER BY name, generation").fetchall()
    finally:
        db.close()
    by_name: dict[str, list[int]] = {}
    for name, generation, _ in rows:
        by_name.setdefault(name, []).append(generation)
    for name in ("churn0", "churn1", "churn2", "churn3", "churn4"):
        numbers = by_name[name]
        assert len(numbers) == len(set(numbers)), f"I5: twice, {name}, seed {seed}"
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), f"I5: gaps in {name}: {numbers}, seed {seed}"
    lost = [(name, generation) for name, generation, data in rows if '"lost"' in data]
    assert not lost, f"I5: lost ends {lost}, seed {seed}"
    assert Path(host.base / "state/state.db").exists()
