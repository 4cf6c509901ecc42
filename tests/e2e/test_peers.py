"""Definitions that name another OCI runtime, on a kernel with a whole cgroup v2: the real crun and runc."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.host import Host, start_time

pytestmark = [pytest.mark.e2e, pytest.mark.vm]


@pytest.fixture(params=["crun", "runc"])
def peer(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    found = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    assert found, f"{name} is part of the set-up"
    return name


# a boot of the daemon takes seconds there: what is the shim's own work is tried with one of them
only_crun = pytest.mark.parametrize("peer", ["crun"], indirect=True)
only_runc = pytest.mark.parametrize("peer", ["runc"], indirect=True)


def definition(peer: str, script: str, more: str = "") -> str:
    return f"""containers:
  web:
    rootfs: ROOTFS
    runtime: {peer}
    allow_vulnerable_runtime: true
    stop_signal: KILL
    command: [sh, -c, '{script}']
{more}"""


def nothing_is_left(host: Host) -> bool:
    runs = host.base / "run/c/web"
    return not list((host.cgroup / "containers").glob("web/g*")) and not (runs.exists() and list(runs.iterdir()))


def test_starts_logs_execs_ends_and_restarts(host: Host, peer: str) -> None:
    host.start()
    host.define("web", definition(peer, "echo hello from $(hostname); sleep 1000"))
    first = host.until_state("web", "RUNNING", 30)["pid"]
    host.until(lambda: "hello from web" in host.ctl("logs", "web").stdout, 10, "its output is not in the log")
    leaf = next((host.cgroup / "containers/web").glob("g*"))
    assert str(first) in (leaf / "cgroup.procs").read_text().split()
    done = host.ctl("exec", "web", "--", "sh", "-c", "echo inside; exit 4")
    assert (done.returncode, done.stdout) == (4, "inside\n"), done
    text = host.metrics()
    assert f'runtime="{peer}"' in text
    used = [line for line in text.splitlines() if line.startswith("container_memory_usage_bytes{") and '"web"' in line]
    assert used, "no metrics of its memory"
    assert float(used[0].split()[1]) > 0
    assert host.ctl("restart", "web").returncode == 0
    second = host.until_state("web", "RUNNING", 30)["pid"]
    assert first != second
    assert not start_time(first)
    assert host.ctl("stop", "web").returncode == 0
    host.until(lambda: nothing_is_left(host), 15, "something is left")


@only_runc
def test_its_exit_code_and_its_oom_are_told(host: Host, peer: str) -> None:
    host.start()
    host.define("web", definition(peer, "exit 7", "    restart: no\n"))
    host.until_state("web", "EXITED", 30)
    assert "7" in host.ctl("why", "web").stdout
    host.until(lambda: nothing_is_left(host), 15, "something is left")
    host.define(
        "web", definition(peer, "x=a; while :; do x=$x$x; done", "    restart: no\n    resources: {memory: 24MiB}\n")
    )
    assert host.ctl("start", "web").returncode in (0, 7)  # it may be dead before it is told to run
    host.until(lambda: "memory" in host.ctl("why", "web").stdout, 30, "its OOM is not told")
    end = host.until_state("web", ["EXITED", "FATAL"])["last_end"]
    assert end["oom"]["killed"], end


@only_crun
def test_the_daemon_dies_and_another_goes_on(host: Host, peer: str) -> None:
    host.start()
    host.define("web", definition(peer, "while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 3", "    restart: no\n"))
    pid = host.until_state("web", "RUNNING", 30)["pid"]
    host.kill_daemon()
    host.start()
    assert host.until_state("web", "RUNNING", 30)["pid"] == pid
    host.kill_daemon()
    Path(f"/proc/{pid}/root/tmp/end").touch()
    host.until(lambda: not start_time(pid), 15, "it does not end")
    host.start()
    host.until_state("web", "EXITED", 30)
    assert "3" in host.ctl("why", "web").stdout
    host.until(lambda: nothing_is_left(host), 15, "something is left")


@only_runc
def test_a_version_with_known_holes_is_refused(host: Host, peer: str) -> None:
    host.start()
    host.define("web", definition(peer, "true").replace("    allow_vulnerable_runtime: true\n", ""))
    host.until(lambda: "CVE-" in host.ctl("why", "web").stdout, 30, "it is not refused")
    host.until(lambda: nothing_is_left(host), 15, "something is left")
