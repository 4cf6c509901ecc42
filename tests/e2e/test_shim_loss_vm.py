"""Shims are lost where limits are real: an OOM is told once, with its scope; so are the ends of another runtime."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.host import Host, start_time
from tests.e2e.shims import ends, kernel_tells, kill_shim, lose_all_and_the_daemon, shim_of, taken_over

pytestmark = [pytest.mark.e2e, pytest.mark.vm]


def eater(name: str, go: str) -> str:
    """Writes, waits for a file, and then eats more than it may have."""
    script = f"echo up; until [ -e /tmp/{go} ]; do sleep 0.1; done; exec tail /dev/zero"
    return (
        f'  {name}: {{rootfs: ROOTFS, command: [sh, -c, "{script}"], restart: "no", '
        "resources: {memory: 8MiB, memory_swap: 0}}\n"
    )


def assert_oom(end: dict[str, Any]) -> None:
    assert (end["oom"]["killed"], end["oom"]["group"], end["oom"]["scope"]) == (True, True, "container"), end


def test_an_oom_after_a_takeover_and_one_that_nobody_saw_are_told_once(host: Host) -> None:
    host.start()
    host.define("eaters", "containers:\n" + eater("seen", "one") + eater("unseen", "two"))
    for name in ("seen", "unseen"):
        host.until_state(name, "RUNNING", 30)
    shim = shim_of(host, "seen")
    assert kill_shim(host, shim)
    taken_over(host, "seen", shim)
    (host.rootfs / "tmp/one").touch()
    assert_oom(host.until_state("seen", "EXITED", 30)["last_end"])
    pid = host.one("unseen")["pid"]
    lose_all_and_the_daemon(host)
    (host.rootfs / "tmp/two").touch()
    host.until(lambda: not start_time(pid), 30, "it is not killed")
    host.start(40)
    assert_oom(host.until_state("unseen", "EXITED", 30)["last_end"])
    assert "oom-killed (limit 8MiB)" in host.ctl("status", "unseen").stdout
    text = host.metrics()
    recorded = ends(host)
    for name in ("seen", "unseen"):
        ((generation, end),) = recorded[name]
        assert generation == 1
        kills = end["oom"]["kills"]  # Linux 6.1 counts one victim twice
        assert f'wharfinger_container_oom_kills_total{{name="{name}",scope="container"}} {kills}\n' in text


def test_a_container_of_another_runtime_outlives_its_shim_and_is_deleted_by_its_runtime(host: Host) -> None:
    """The runtime is named by its path: a program that writes down how it is called, before it is crun."""
    crun = shutil.which("crun", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    assert crun, "crun is part of the set-up"
    calls, program = host.base / "calls", host.base / "ours"
    program.write_text(f'#!/bin/sh\necho "$*" >>{calls}\nexec {crun} "$@"\n')
    program.chmod(0o755)
    script = "i=0; until [ -e /tmp/end ]; do echo $i; i=$((i+1)); sleep 0.1; done; exit 3"
    host.start()
    host.define(
        "web",
        f"containers:\n  web: {{rootfs: ROOTFS, runtime: {program}, allow_vulnerable_runtime: true, "
        f'command: [sh, -c, "{script}"], restart: "no"}}\n',
    )
    pid = host.until_state("web", "RUNNING", 30)["pid"]
    shim = shim_of(host, "web")
    assert kill_shim(host, shim)
    taken_over(host, "web", shim)
    host.until(lambda: host.one("web")["problem"] == "" and bool(start_time(pid)), 10, "it is not tended")
    assert host.one("web")["pid"] == pid
    said = len(host.ctl("logs", "web").stdout.splitlines())
    host.until(lambda: len(host.ctl("logs", "web").stdout.splitlines()) > said, 20, "it says no more")
    assert host.ctl("exec", "web", "--", "touch", "/tmp/end").returncode == 0
    end = host.until_state("web", "EXITED", 30)["last_end"]
    assert (end["code"], end["source"]) == (3, "kernel") or (not kernel_tells() and end["source"] == "lost"), end
    verbs = [next(w for w in line.split() if w in ("create", "start", "delete")) for line in lines(calls)]
    host.until(lambda: "delete" in calls.read_text(), 15, f"it is not deleted: {verbs}")
    host.until(lambda: not list((host.base / "run/c/web").glob("g*")), 15, "its run directory stays")
    numbers = [int(line) for line in host.ctl("logs", "web").stdout.split()]
    assert numbers == sorted(set(numbers))


def lines(calls: Path) -> list[str]:
    return [line for line in calls.read_text().splitlines() if "--version" not in line]
