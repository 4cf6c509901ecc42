"""From a definition to a running container: what spec and plan compilers make is what the shim runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from config.model import Container
from runtime.plan import compile_exec, compile_plan
from runtime.probe import HostFacts, probe
from runtime.spec import build_spec
from tests.kernel.shimkit import Lab

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


@pytest.fixture(scope="module")
def host() -> HostFacts:
    return probe()


def define(lab: Lab, script: str, **more: Any) -> Container:
    values = {"name": lab.name, "rootfs": str(lab.root), "command": ["/bin/sh", "-c", script], **more}
    return Container.model_validate(values)


async def run(lab: Lab, host: HostFacts, script: str, **more: Any) -> tuple[int, str]:
    plan = compile_plan(build_spec(define(lab, script, **more), host), lab.root, host)
    record, text = await lab.run(plan.ops)
    return record.status, text


async def test_the_defaults_confine(lab: Lab, host: HostFacts) -> None:
    script = (
        "cat /proc/self/status; hostname; ls /dev; for f in /proc/kcore /proc/keys /proc/timer_list; do cat $f; done; "
        "touch /proc/sys/x /sys/x /proc/irq/x; unshare -m true || echo no-unshare; "
        "mount -t tmpfs x /tmp || echo no-mount; "
        "dmesg > /dev/null || echo no-dmesg; cat /proc/mounts"
    )
    code, text = await run(lab, host, script)
    assert code == 0
    status = dict(line.partition(":\t")[::2] for line in text.splitlines() if ":\t" in line)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["CapEff"], 16) & (1 << 21 | 1 << 19 | 1 << 12) == 0  # SYS_ADMIN, SYS_PTRACE, NET_ADMIN
    lines = text.splitlines()
    assert {"no-unshare", "no-mount", "no-dmesg", "null", "zero", "ptmx", "shm", "fd", "stdout"} <= set(lines)
    sys_mount = next(line for line in lines if line.split()[1:3] == ["/sys", "sysfs"])
    assert "ro" in sys_mount.split()[3].split(",")


async def test_users_mounts_limits_and_a_read_only_root(lab: Lab, host: HostFacts, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o777)
    data.chmod(0o777)
    mounts = [
        {"type": "bind", "source": str(data), "target": "/data"},
        {"type": "bind", "source": str(data), "target": "/data-ro", "read_only": True},
        {"type": "tmpfs", "target": "/scratch", "size": "1MiB", "mode": 0o1777},
    ]
    script = "id -u; id -g; touch /x || echo ro; touch /data/x; touch /data-ro/y || echo data-ro; "
    script += "touch /scratch/z; umask; ulimit -n; pwd"
    code, text = await run(
        lab, host, script, user="1000:1001", read_only=True, mounts=mounts, umask=0o27, working_dir="/scratch",
        ulimits={"nofile": [64, 128]}, shm_size="1MiB",
    )  # fmt: skip
    assert code == 0
    out = [line for line in text.splitlines() if not line.startswith("touch:")]
    assert out == ["1000", "1001", "ro", "data-ro", "0027", "64", "/scratch"]
    assert (data / "x").stat().st_uid == 1000


async def test_a_user_namespace(lab: Lab, host: HostFacts) -> None:
    for path in [lab.root, *lab.root.rglob("*")]:
        os.chown(path, 200000, 200000, follow_symlinks=False)
    for path in list(lab.root.parents)[:3]:
        path.chmod(0o755)
    space = {"uid_base": 200000, "gid_base": 200000, "size": 65536}
    script = "id -u; cat /proc/self/uid_map; echo x > /dev/null && echo ok; touch /tmp/mine; "
    script += "mount | grep -c sysfs; cat /proc/keys"
    code, text = await run(lab, host, script, user_namespace=space)
    assert code == 0
    assert text.split()[:6] == ["0", "0", "200000", "65536", "ok", "1"]
    assert (lab.root / "tmp/mine").stat().st_uid == 200000


async def test_the_hosts_network(lab: Lab, host: HostFacts) -> None:
    code, text = await run(lab, host, "readlink /proc/self/ns/net", network="host")
    assert (code, text.strip()) == (0, os.readlink("/proc/self/ns/net"))


async def test_an_exec_is_as_confined_as_the_container(lab: Lab, host: HostFacts) -> None:
    spec = build_spec(define(lab, "sleep 1000", user="1000:1000"), host)
    one = await lab.start(compile_plan(spec, lab.root, host).ops)
    try:
        for user, uid in ((None, "1000"), ("0", "0")):
            read, write = os.pipe2(os.O_CLOEXEC)
            plan = compile_exec(spec, ["/bin/sh", "-c", "id -u; cat /proc/self/status"], user=user, rootfs=lab.root)
            with anyio.fail_after(10):
                code = await (await one.exec(plan.encode(), 0, write, write)).wait()
            os.close(write)
            with os.fdopen(read) as file:
                text = file.read()
            assert (code, text.split()[0]) == (0, uid)
            status = dict(line.partition(":\t")[::2] for line in text.splitlines() if ":\t" in line)
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    finally:
        await one.signal(signal.SIGKILL)
        with anyio.fail_after(10):
            await one.wait_gone()
        one.close()
