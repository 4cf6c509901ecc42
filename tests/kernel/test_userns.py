"""User namespaces: a created container at its gate, an exec, and files whose owners are shown moved, not changed."""

# ruff: noqa: ASYNC240 (tests look at a real kernel)

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from config.errors import LaunchError
from config.model import Container
from runtime import launchlink, linux, wire
from runtime.plan import Plan, compile_exec
from runtime.probe import HostFacts, probe
from runtime.spec import build_spec
from runtime.wire import op
from supervisor.specs import plan_of
from tests.kernel import shimkit
from tests.kernel.shimkit import Lab, exec_ops, root_ops, self_ops
from tests.kernel.test_launch import Bench, bench, subreaper, wait  # noqa: F401 (fixtures)

pytestmark = pytest.mark.kernel

BASE = 200000
SPACES = shimkit.NAMESPACES | linux.CLONE_NEWUSER
LOOK = "id -u; cat /proc/self/setgroups; cat /proc/self/uid_map /proc/self/gid_map; touch /tmp/"


@pytest.fixture(scope="module")
def host() -> HostFacts:
    return probe()


def reachable(root: Path) -> None:
    for path in list(root.parents)[:3]:
        path.chmod(0o755)


def own(root: Path, uid: int) -> None:
    for path in [root, *root.rglob("*")]:
        os.chown(path, uid, uid, follow_symlinks=False)
    reachable(root)


def test_a_created_container_has_its_maps_at_its_gate(bench: Bench) -> None:  # noqa: F811
    lab = bench.lab
    own(lab.root, BASE)
    text = f"0 {BASE} 65536\n"
    base = root_ops(lab.root, namespaces=SPACES)
    ops = [base[0], op("USERMAP", uid_map=text, gid_map=text), *base[1:], *self_ops()]
    init = bench.create([*ops, *exec_ops("/bin/sh", "-c", f"{LOOK}one; until [ -e /tmp/go ]; do sleep 0.02; done")])
    maps = [Path(f"/proc/{init.pid}/{name}").read_text().split() for name in ("uid_map", "gid_map", "setgroups")]
    assert maps == [["0", str(BASE), "65536"], ["0", str(BASE), "65536"], ["allow"]]
    launchlink.start(bench.gate)
    joiner = f"until [ -e /tmp/one ]; do sleep 0.02; done; id -G; {LOOK}two; touch /tmp/go"
    plan = [op("JOIN", flags=SPACES), *self_ops(groups=[7]), *exec_ops("sh", "-c", joiner)]
    assert wait(bench.launch(plan, (wire.TAG_INIT, init.pidfd), flags=wire.START_EXEC)) == 0
    assert wait(init) == 0
    seen = ["0", "allow", "0", str(BASE), "65536", "0", str(BASE), "65536"]
    assert bench.output().split() == [*seen, "0", "7", *seen]
    assert [(lab.root / "tmp" / name).stat().st_uid for name in ("one", "two")] == [BASE, BASE]


def define(lab: Lab, script: str, **more: Any) -> Container:
    space = {"uid_base": BASE, "gid_base": BASE, "size": 65536, **more.pop("space", {})}
    values = {"name": lab.name, "rootfs": str(lab.root), "command": ["/bin/sh", "-c", script], "user_namespace": space}
    return Container.model_validate({**values, **more})


def planned(container: Container, host: HostFacts) -> tuple[dict[str, Any], Plan]:
    spec = build_spec(container, host)
    return spec, plan_of(container, spec, Path(str(container.rootfs)), host)


async def start(lab: Lab, plan: Plan) -> Any:
    try:
        return await lab.start(plan.ops)
    except LaunchError as error:
        if error.operation == "IDMAP":
            pytest.skip(f"this file system has no id maps on this kernel: {error}")
        raise


@pytest.mark.anyio
async def test_a_root_and_a_volume_keep_their_owners_on_disk(lab: Lab, host: HostFacts, tmp_path: Path) -> None:
    """And in an exec too: who is root inside makes files of root, though it is an ordinary user of the host."""
    reachable(lab.root)
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("")
    os.chown(data / "file", 5, 6)
    os.chown(lab.root / "etc/passwd", 7, 8)
    script = "until [ -e /tmp/go ]; do sleep 0.02; done; touch /tmp/mine /data/mine; sleep 1000"
    mounts = [{"source": str(data), "target": "/data", "idmap": True}]
    container = define(lab, script, space={"idmap": True}, mounts=mounts)
    spec, plan = planned(container, host)
    one = await start(lab, plan)
    try:
        read, write = os.pipe2(os.O_CLOEXEC)
        look = "stat -c %u:%g /bin/busybox /etc/passwd /data/file; cat /proc/self/setgroups; touch /data/exec /tmp/go"
        look += "; until [ -e /data/mine ]; do sleep 0.02; done"
        with anyio.fail_after(10):
            done = await one.exec(compile_exec(spec, ["/bin/sh", "-c", look]).encode(), 0, write, write)
            assert await done.wait() == 0
        os.close(write)
        with os.fdopen(read) as file:
            assert file.read().split() == ["0:0", "7:8", "5:6", "allow"]
        made = [lab.root / "tmp/mine", data / "mine", data / "exec"]
        assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(0, 0)}
        assert int(Path(f"/proc/{one.pid}/status").read_text().split("Uid:\t")[1].split()[0]) == BASE
    finally:
        await one.signal(signal.SIGKILL)
        with anyio.fail_after(10):
            await one.wait_gone()
        one.close()
