"""gVisor's runsc, where it is installed: on the host, in a mount namespace of its own with a cgroup2 at /sys/fs/cgroup.

The guest's kernel has neither cpusets nor a ptrace that runsc gets on with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.host import REPO, Host, start_time

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="runsc is not packaged for it"),
]


def test_a_container_in_a_sandbox() -> None:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert os.environ.get("WHARFINGER_RUNSC_PATH") or shutil.which("runsc", path=path), "runsc is part of the set-up"
    mount = "umount /sys/fs/cgroup/* 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup"
    inner = f"{sys.executable} -c 'from tests.e2e import test_gvisor; test_gvisor.in_a_private_mount_namespace()'"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{mount} && exec {inner}"],
        cwd=REPO, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def in_a_private_mount_namespace() -> None:
    """Output, exit code, a stop, what it may not have, and nothing left."""
    with Host(Path(f"/run/wv{os.getpid()}"), 20000 + os.getpid() % 20000) as host:
        host.start()
        one = "runtime: runsc, restart: 'no'"
        host.define(
            "two",
            f"""containers:
  ends: {{rootfs: ROOTFS, {one}, command: [sh, -c, "echo kernel $(uname -r); sleep 1; exit 7"]}}
  stays: {{rootfs: ROOTFS, {one}, command: [sleep, '1000'], stop_signal: KILL}}
""",
        )
        end = host.until_state("ends", ["EXITED", "FATAL"], 40)["last_end"]
        assert (end["code"], end["source"]) == (7, "shim"), end
        said = host.ctl("logs", "ends").stdout
        assert said.startswith("kernel ")
        assert os.uname().release not in said
        pid = host.until_state("stays", "RUNNING", 40)["pid"]
        assert str(pid) in (host.cgroup / "containers/stays/g1/cgroup.procs").read_text().split()
        refused = host.ctl("exec", "stays", "--", "true")
        assert refused.returncode != 0
        assert "runsc" in refused.stdout + refused.stderr
        assert host.ctl("stop", "stays").returncode == 0
        host.until(lambda: not start_time(pid) and not host.left(), 20, f"left over {host.left()}")
