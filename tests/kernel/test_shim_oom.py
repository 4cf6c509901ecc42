"""What the exit record tells of memory limits. Needs a memory controller, so the VM on most hosts."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest

from config.errors import LaunchError
from runtime import wire
from tests.kernel import shimkit
from tests.kernel.shimkit import Lab, exec_ops, root_ops, self_ops, sh

pytestmark = [pytest.mark.kernel, pytest.mark.vm, pytest.mark.anyio]

EAT = "head -c 100000000 /dev/zero | tail"  # busybox tail keeps the line

FIRST = "echo 1000 > /proc/self/oom_score_adj"  # of all in the cgroup the kernel takes this one


@pytest.fixture
def limited(lab: Lab) -> Lab:
    assert (lab.parent / "memory.max").exists()
    (lab.parent / "memory.max").write_text("24M")
    (lab.parent / "memory.oom.group").write_text("0")
    return lab


async def test_an_init_over_the_limit(limited: Lab) -> None:
    ops = [*root_ops(limited.root), *self_ops(), *exec_ops("dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1")]
    record, _ = await limited.run(ops)
    assert (record.how, record.status) == ("signaled", signal.SIGKILL)
    assert record.get("mem.parent.oom_kill.start") == 0
    assert (record.get("mem.parent.oom_kill.end") or 0) >= 1
    assert (record.get("mem.parent.oom.end") or 0) >= 1
    assert (record.get("mem.local.oom.end") or 0) >= 1
    assert record.get("oom_seen") == 0  # it was init's
    assert (record.get("mem.peak.end") or 1) > 20 << 20 or record.get("mem.peak.end") is None


async def test_a_child_over_the_limit_is_seen_while_init_lives(limited: Lab) -> None:
    record, _ = await limited.run(sh(limited.root, f"({FIRST}; {EAT}); sleep 0.3; exit 7"))
    assert (record.how, record.status) == ("exited", 7)
    assert (record.get("mem.parent.oom_kill.end") or 0) >= 1
    assert record.get("oom_seen") == record.get("mem.parent.oom_kill.end")


async def test_a_group_kill_is_counted(limited: Lab) -> None:
    (limited.parent / "memory.oom.group").write_text("1")
    record, _ = await limited.run(sh(limited.root, f"{EAT}; exit 7"))
    assert (record.how, record.status) == ("signaled", signal.SIGKILL)
    assert record.get("oom.group") == 1
    assert record.get("mem.parent.oom_group_kill.end") == 1
    assert record.get("oom_seen") == 0


async def test_counters_start_where_the_last_run_ended(limited: Lab) -> None:
    await limited.run(sh(limited.root, f"({FIRST}; {EAT}); exit 0"))
    limited.generation = 2
    record, _ = await limited.run(sh(limited.root, "exit 0"))
    assert record.generation == 2
    assert (record.get("mem.parent.oom_kill.start") or 0) >= 1
    assert record.get("mem.parent.oom_kill.start") == record.get("mem.parent.oom_kill.end")


async def test_a_limit_too_small_for_the_set_up_is_said(limited: Lab) -> None:
    (limited.parent / "memory.max").write_text("16k")
    with pytest.raises(LaunchError) as caught:
        await limited.start(sh(limited.root, "true"))
    assert "memory limit" in str(caught.value)
    assert (limited.leaf / "cgroup.procs").read_text() == ""


async def test_a_shim_is_not_charged_to_its_container(limited: Lab) -> None:
    one = await limited.start(sh(limited.root, "sleep 1000"))
    await one.hello()
    ours, its = Path(f"/proc/{one.shim_pid}"), Path(f"/proc/{one.pid}")
    assert (ours / "cgroup").read_text().splitlines()[-1].endswith("/shims")
    assert (ours / "oom_score_adj").read_text() == "-999\n"
    assert (its / "oom_score_adj").read_text() == "0\n"
    await one.signal(9)
    with anyio.fail_after(10):
        await one.wait_gone()
    one.close()


async def test_no_process_more_than_pids_max_is_a_clear_exec_error(limited: Lab) -> None:
    (limited.parent / "pids.max").write_text("3")  # a helper is one more for a moment
    one = await limited.start([*root_ops(limited.root), *self_ops(), *exec_ops("sleep", "1000")])
    plan = wire.encode([wire.op("JOIN", flags=shimkit.NAMESPACES), *self_ops(), *exec_ops("sleep", "1000")])
    (await one.exec(plan, 0, 1, 2)).close()
    with anyio.fail_after(10), pytest.raises(LaunchError) as caught:
        await one.exec(plan, 0, 1, 2)
    assert caught.value.errno == 11
    assert not one.ended
    await one.signal(9)
    with anyio.fail_after(10):
        await one.wait_gone()
    one.close()
