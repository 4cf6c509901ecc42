"""Shims are killed: no container is, and each end is recorded once, with its code."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.host import BIN, Host, start_time
from tests.e2e.shims import (
    ends,
    kernel_tells,
    kill_shim,
    lose_all_and_the_daemon,
    lose_all_shims,
    shim_of,
    shims,
    taken_over,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

KILLS = int(os.environ.get("WHARF_KILLS", "200"))
COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"
TALKERS = [f"talk{n}" for n in range(6)]
ENDS = {"end0": 0, "end1": 3, "end2": 7, "end3": 9, "end4": 42}


def fleet() -> str:
    policy = "{policy: always, interval: 100ms, factor: 1, max_interval: 100ms}"
    lines = [f'  {name}: {{rootfs: ROOTFS, command: [sh, -c, "{COUNT}"], stop_signal: KILL}}' for name in TALKERS]
    lines += [
        f'  {name}: {{rootfs: ROOTFS, command: [sh, -c, "echo up; sleep 0.{n + 2}; exit {code}"], restart: {policy}}}'
        for n, (name, code) in enumerate(ENDS.items())
    ]
    check = "{test: [CMD, 'true'], interval: 200ms, retries: 1, on_failure: restart}"
    lines.append(f"  well: {{rootfs: ROOTFS, command: [sleep, '100000'], stop_signal: KILL, healthcheck: {check}}}")
    return "\n".join(["containers:", *lines, ""])


def said(host: Host, name: str) -> list[str]:
    """Lines of its log, whole ones."""
    whole = (host.base / "log" / name / "current.log").read_text().splitlines()
    return [line.split(" ", 3)[3] for line in whole if line.split(" ")[2] == "F"]


def running(host: Host, names: list[str]) -> dict[str, tuple[int, str]]:
    pids = {name: host.until_state(name, "RUNNING")["pid"] for name in names}
    return {name: (pid, start_time(pid)) for name, pid in pids.items()}


def test_200_deaths_of_shims_under_load_cost_no_container(host: Host) -> None:
    seed = int(os.environ.get("WHARF_SEED", random.randrange(10**6)))
    luck = random.Random(seed)
    print(f"WHARF_SEED={seed}")
    host.define("fleet", fleet())
    host.start()
    steady = running(host, [*TALKERS, "well"])
    killed = 0
    while killed < KILLS:
        there = list(shims(host))
        if there and kill_shim(host, luck.choice(there)[1]):
            killed += 1
            time.sleep(luck.random() * 0.03)  # the random moment itself
    for name, (pid, begun) in steady.items():
        assert start_time(pid) == begun, f"{name} died with a shim, seed {seed}"
        assert host.one(name)["pid"] == pid
        assert host.one(name)["generation"] == 1
    host.until(lambda: {n for n, _ in shims(host)} >= set(steady), 20, f"not all have a shim, seed {seed}")
    lines = {name: len(said(host, name)) for name in TALKERS}
    host.until(lambda: all(len(said(host, n)) > lines[n] + 5 for n in TALKERS), 20, f"no more output, seed {seed}")
    for name in TALKERS:
        numbers = [int(line) for line in said(host, name)]
        assert numbers == sorted(set(numbers)), f"{name} says things twice, seed {seed}"
        assert numbers[-1] + 1 - len(numbers) <= KILLS, f"{name} lost output, seed {seed}"
    text = host.metrics()
    for family in ("shim_losses_total", "takeovers_total"):
        counts = [line for line in text.splitlines() if line.startswith(f"wharfinger_container_{family}{{")]
        assert sum(float(line.rsplit(" ", 1)[1]) for line in counts) > 0, family
    recorded = ends(host)
    for name, code in ENDS.items():
        generations = [generation for generation, _ in recorded[name]]
        assert generations == list(range(1, len(generations) + 1)), f"{name}: {generations}, seed {seed}"
        for generation, end in recorded[name][:-1]:  # the last one was stopped
            if end["started"] is None and end["source"] == "shim":
                continue  # its shim was killed amid the launch: nothing ran yet
            if end["source"] == "lost":
                assert not kernel_tells(), f"{name} {generation}: {end}, seed {seed}"
            else:
                assert end["code"] == code, f"{name} {generation}: {end}, seed {seed}"
    for name in steady:
        assert [(generation, end["signal"]) for generation, end in recorded[name]] == [(1, 9)]


def test_shims_and_daemon_die_together(host: Host) -> None:
    """Nobody reads, nobody watches: what runs goes on, what it says meanwhile is not lost."""
    host.define("fleet", fleet())
    host.start()
    steady = running(host, [*TALKERS, "well"])
    for _ in range(3):
        lose_all_and_the_daemon(host)
        time.sleep(0.3)  # the time in which they write into pipes without a reader is what is tested
        for name, (pid, begun) in steady.items():
            assert start_time(pid) == begun, f"{name} died with its shim and the daemon"
        host.start()
        host.until(lambda: all(host.one(n).get("pid") == steady[n][0] for n in steady), 20, "not adopted")
        lines = {name: len(said(host, name)) for name in TALKERS}
        host.until(lambda: all(len(said(host, n)) > lines[n] + 5 for n in TALKERS), 20, "no more output")  # noqa: B023
    for name in TALKERS:
        numbers = [int(line) for line in said(host, name)]
        assert numbers == list(range(len(numbers))), name
    assert "taken-over" in host.ctl("events", "--since", "0").stdout
    recorded = ends(host)
    for name, code in ENDS.items():
        generations = [generation for generation, _ in recorded[name]]
        assert generations == list(range(1, len(generations) + 1)), f"{name}: {generations}"
        for _, end in recorded[name][:-1]:  # no code: it ended while nobody was there, or its launch was cut off
            assert end["code"] == code or end["source"] == "lost" or end["signal"] is None, end


def test_a_shim_that_dies_while_its_init_ends(host: Host) -> None:
    script = (
        "trap 'touch /tmp/ending; until [ -e /tmp/go ]; do sleep 0.02; done; exit 6' TERM; while :; do sleep 0.02; done"
    )
    host.define("slow", f'containers:\n  slow: {{rootfs: ROOTFS, command: [sh, -c, "{script}"]}}\n')
    host.start()
    pid = host.until_state("slow", "RUNNING")["pid"]
    for name in ("ending", "go"):
        (host.rootfs / "tmp" / name).unlink(missing_ok=True)
    stopping = subprocess.Popen([BIN / "wharfctl", "stop", "slow"], env=host.env, stdout=subprocess.DEVNULL)
    host.until((host.rootfs / "tmp/ending").exists, 10, "the stop signal did not come")
    shim = shim_of(host, "slow")
    kill_shim(host, shim)
    taken_over(host, "slow", shim)
    assert start_time(pid)
    (host.rootfs / "tmp/go").touch()
    assert stopping.wait(20) == 0
    host.until_state("slow", "STOPPED")
    (end,) = ends(host)["slow"]
    assert (end[0], end[1]["code"], end[1]["source"]) == (1, 6, "kernel")


def test_a_shim_that_dies_under_an_exec(host: Host) -> None:
    """The one who asked is told; the command does not stay behind; the next one works."""
    host.define("web", "containers:\n  web: {rootfs: ROOTFS, command: [sleep, '100000'], stop_signal: KILL}\n")
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    asked = subprocess.Popen(
        [BIN / "wharfctl", "exec", "web", "--", "sleep", "77777"], env=host.env, stderr=subprocess.PIPE, text=True
    )
    procs = host.cgroup / "containers/web/g1/cgroup.procs"
    host.until(lambda: len(procs.read_text().split()) == 2, 10, "the command does not run")
    shim = shim_of(host, "web")
    kill_shim(host, shim)
    _, complaint = asked.communicate(timeout=20)
    assert asked.returncode not in (0, None)
    assert "shim was lost" in complaint
    host.until(lambda: procs.read_text().split() == [str(pid)], 10, "the command stays")
    taken_over(host, "web", shim)
    done = host.ctl("exec", "web", "--", "sh", "-c", "echo here; exit 5")
    assert (done.returncode, done.stdout) == (5, "here\n")


@pytest.fixture
def breakable(host: Host) -> tuple[Host, Path, Path]:
    """A host whose shim can be made impossible to start, and possible again."""
    good, used = host.base / "good-shim", host.base / "wharf-shim"
    shutil.copy2(BIN / "wharf-shim", good)
    shutil.copy2(good, used)
    host.env["WHARFINGER_SHIM_PATH"] = str(used)
    return host, good, used


def change(new: Path, used: Path) -> None:
    """By rename: a program that runs cannot be written to."""
    part = used.with_suffix(".part")
    shutil.copy2(new, part)
    part.rename(used)


def test_no_other_shim_can_be_had_for_a_while(breakable: tuple[Host, Path, Path]) -> None:
    """The container runs, status says why it is untended, and its health is not judged."""
    host, good, used = breakable
    host.define("fleet", fleet())
    host.start()
    steady = running(host, ["talk0", "well"])
    change(Path("/bin/false"), used)
    for _ in itertools.repeat(None, 2):  # also the spare one that was made meanwhile
        lose_all_shims(host)
    host.until(lambda: "shim lost" in json.dumps(host.one("well")), 20, "status does not tell")
    host.until(lambda: "shim lost" in json.dumps(host.one("talk0")), 20, "status does not tell")
    assert host.ctl("exec", "talk0", "--", "true").returncode != 0
    for name, (pid, begun) in steady.items():
        assert start_time(pid) == begun
        assert host.one(name)["state"] == "RUNNING"
    change(good, used)
    host.until(lambda: "shim lost" not in json.dumps([host.one(n) for n in steady]), 30, "not taken over")
    for name, (pid, begun) in steady.items():
        assert start_time(pid) == begun
        assert host.one(name)["generation"] == 1
    assert host.ctl("exec", "talk0", "--", "true").returncode == 0


def test_an_end_without_any_shim_is_recorded_by_what_the_kernel_tells(breakable: tuple[Host, Path, Path]) -> None:
    host, good, used = breakable
    script = "until [ -e /tmp/go ]; do sleep 0.02; done; exit 8"
    host.define("once", f'containers:\n  once: {{rootfs: ROOTFS, command: [sh, -c, "{script}"], restart: "no"}}\n')
    (host.rootfs / "tmp/go").unlink(missing_ok=True)
    host.start()
    host.until_state("once", "RUNNING")
    change(Path("/bin/false"), used)
    for _ in itertools.repeat(None, 2):
        lose_all_shims(host)
    host.until(lambda: "shim lost" in json.dumps(host.one("once")), 20, "status does not tell")
    (host.rootfs / "tmp/go").touch()
    host.until_state("once", "EXITED", 40)
    (end,) = ends(host)["once"]
    assert (end[0], end[1]["code"], end[1]["source"]) == (1, 8, "kernel")
    change(good, used)
