"""More processes in a running container."""

# ruff: noqa: ASYNC110, ASYNC230, ASYNC240 (tests look at a real kernel)

from __future__ import annotations

import errno
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from config.errors import GoneError, LaunchError, RefusedError
from runtime import linux, shim, wire
from runtime.wire import Op, op
from tests.kernel import shimkit
from tests.kernel.shimkit import Lab, exec_ops, root_ops, self_ops, sh

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


def plan(*args: str, ops: Sequence[Op] | None = None, join: int = shimkit.NAMESPACES) -> bytes:
    return wire.encode([op("JOIN", flags=join), *(self_ops() if ops is None else ops), *exec_ops(*args)])


@asynccontextmanager
async def running(lab: Lab, script: str = "trap '' HUP; while :; do sleep 1000; done") -> AsyncIterator[shim.Shim]:
    one = await lab.start(sh(lab.root, script))
    try:
        yield one
    finally:
        if not one.ended:
            await one.signal(signal.SIGKILL)
        with anyio.fail_after(10):
            await one.wait_gone()
        one.close()


async def output(one: shim.Shim, packed: bytes) -> tuple[int, str]:
    read, write = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with anyio.fail_after(10):
            process = await one.exec(packed, null, write, write)
            code = await process.wait()
        os.close(write)
        write = -1
        with open(read, "rb", closefd=False) as file:
            return code, file.read().decode()
    finally:
        for fd in (read, write, null):
            if fd >= 0:
                os.close(fd)


async def test_a_process_joins_everything_of_the_container(lab: Lab) -> None:
    async with running(lab) as one:
        script = "for n in mnt pid uts ipc net cgroup; do readlink /proc/self/ns/$n; done; "
        script += "grep ^0 /proc/self/cgroup; pwd; ls /"
        code, text = await output(one, plan("sh", "-c", script))
        assert code == 0
        lines = text.splitlines()
        assert lines[:6] == [
            os.readlink(f"/proc/{one.pid}/ns/{n}") for n in ("mnt", "pid", "uts", "ipc", "net", "cgroup")
        ]
        assert lines[6:8] == ["0::/", "/"]
        assert sorted(lines[8:]) == sorted(p.name for p in lab.root.iterdir())


async def test_it_is_as_confined_as_asked_and_has_only_its_stdio(lab: Lab) -> None:
    async with running(lab) as one:
        script = "ls -l /proc/self/fd; cat /proc/self/status /proc/self/oom_score_adj; readlink /proc/self/exe"
        _, text = await output(one, plan("sh", "-c", script))
        fds = [line.split()[8] for line in text.splitlines() if "->" in line]
        assert fds == ["0", "1", "2"]
        status = dict(line.partition(":")[::2] for line in text.splitlines() if ":" in line)
        assert status["CapEff"].strip() == status["CapBnd"].strip() == f"{shimkit.DEFAULT_CAPS:016x}"
        assert status["NoNewPrivs"].strip() == "1"
        assert text.splitlines()[-2:] == ["0", "/bin/busybox"]


async def test_codes_and_signals_come_back(lab: Lab) -> None:
    async with running(lab) as one:
        assert (await output(one, plan("sh", "-c", "exit 9")))[0] == 9
        assert (await output(one, plan("sh", "-c", "kill -9 $$")))[0] == 128 + 9
        for _ in range(20):  # shorter than the shim's own bookkeeping
            assert (await output(one, plan("true")))[0] == 0


async def test_it_can_be_signalled(lab: Lab) -> None:
    async with running(lab) as one:
        process = await one.exec(plan("sleep", "1000"), 0, 1, 2)
        assert process.pid in [int(p) for p in (lab.leaf / "cgroup.procs").read_text().split()]
        await one.signal_exec(process.id, signal.SIGTERM)
        with anyio.fail_after(10):
            assert await process.wait() == 128 + signal.SIGTERM
        await one.signal_exec(process.id, signal.SIGTERM)  # gone: no error
        assert not one.ended


@pytest.mark.parametrize(("args", "err"), [(["nothing"], errno.ENOENT), (["/etc/passwd"], errno.EACCES)])
async def test_a_failure_is_named_and_leaves_nothing(lab: Lab, args: list[str], err: int) -> None:
    async with running(lab) as one:
        await one.hello()
        before = os.listdir(f"/proc/{one.shim_pid}/fd"), os.listdir("/proc/self/fd")
        with pytest.raises(LaunchError) as caught:
            await one.exec(plan(*args), 0, 1, 2)
        assert (caught.value.operation, caught.value.path, caught.value.errno) == ("EXEC", args[0], err)
        with anyio.fail_after(5):
            while (os.listdir(f"/proc/{one.shim_pid}/fd"), os.listdir("/proc/self/fd")) != before:
                await anyio.sleep(0.02)
        with pytest.raises(LaunchError) as caught:
            await one.exec(plan("true", ops=self_ops(cwd="/no/such")), 0, 1, 2)
        assert (caught.value.operation, caught.value.path) == ("CWD", "/no/such")
        with pytest.raises(LaunchError):
            await one.exec(wire.encode([*root_ops(lab.root), *self_ops(), *exec_ops("true")]), 0, 1, 2)
        assert (await output(one, plan("true")))[0] == 0


async def test_a_frozen_container_is_refused_at_once(lab: Lab) -> None:
    async with running(lab) as one:
        (lab.leaf / "cgroup.freeze").write_text("1")
        try:
            with anyio.fail_after(2), pytest.raises(RefusedError):
                await one.exec(plan("true"), 0, 1, 2)
        finally:
            (lab.leaf / "cgroup.freeze").write_text("0")


async def test_the_number_at_a_time_is_bounded(lab: Lab) -> None:
    async with running(lab) as one:
        many = [await one.exec(plan("sleep", "1000"), 0, 1, 2) for _ in range(16)]
        with pytest.raises(RefusedError):
            await one.exec(plan("true"), 0, 1, 2)
        await one.signal_exec(many[0].id, signal.SIGKILL)
        assert await many[0].wait() == 137
        assert (await output(one, plan("true")))[0] == 0
        for process in many:
            process.close()


async def test_they_die_with_the_container_and_are_told(lab: Lab) -> None:
    async with running(lab) as one:
        process = await one.exec(plan("sleep", "1000"), 0, 1, 2)
        await one.signal(signal.SIGKILL)
        with anyio.fail_after(10):
            assert (await one.wait_exit()).status == signal.SIGKILL
            assert await process.wait() == 137
        with pytest.raises((GoneError, RefusedError)):
            await one.exec(plan("true"), 0, 1, 2)


async def test_many_at_once_do_not_mix_their_ends(lab: Lab) -> None:
    async with running(lab) as one:
        codes: dict[int, int] = {}

        async def run(code: int) -> None:
            codes[code] = await (await one.exec(plan("sh", "-c", f"exit {code}"), 0, 1, 2)).wait()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for code in range(12):
                    tasks.start_soon(run, code)
        assert codes == {code: code for code in range(12)}


async def test_a_process_goes_where_init_went(lab: Lab) -> None:
    """An init that enables controllers for its own children leaves the leaf, which takes no processes then."""
    script = "mkdir /cg/inner; echo 1 > /cg/inner/cgroup.procs; echo +pids > /cg/cgroup.subtree_control; "
    script += "echo ready; sleep 1000"
    (lab.root / "cg").mkdir()
    extra = [shimkit.mount("cgroup2", "/cg")]
    (lab.parent / "cgroup.subtree_control").parent.mkdir(exist_ok=True)
    try:
        (lab.parent / "cgroup.subtree_control").write_text("+pids")
    except OSError:
        pytest.skip("no pids controller here")
    one = await lab.start([*root_ops(lab.root, extra=extra), *self_ops(), *exec_ops("sh", "-c", script)])
    with anyio.fail_after(10):
        while "ready" not in lab.text():
            await anyio.sleep(0.02)
    _, text = await output(one, plan("cat", "/proc/self/cgroup"))
    assert text.splitlines()[-1] == "0::/inner"
    await one.signal(signal.SIGKILL)
    await one.wait_gone()
    one.close()


async def test_a_user_namespace_is_joined(lab: Lab) -> None:
    for path in [lab.root, *lab.root.rglob("*")]:
        os.chown(path, 100000, 100000, follow_symlinks=False)
    for path in list(lab.root.parents)[:3]:
        path.chmod(0o755)
    spaces = shimkit.NAMESPACES | linux.CLONE_NEWUSER
    base = root_ops(lab.root, namespaces=spaces)
    ops = [base[0], op("USERMAP", uid_map="0 100000 65536\n", gid_map="0 100000 65536\n"), *base[1:]]
    one = await lab.start([*ops, *self_ops(), *exec_ops("sleep", "1000")])
    _, text = await output(one, plan("sh", "-c", "id -u; cat /proc/self/uid_map; touch /tmp/x", join=spaces))
    assert text.split() == ["0", "0", "100000", "65536"]
    assert (lab.root / "tmp/x").stat().st_uid == 100000
    await one.signal(signal.SIGKILL)
    await one.wait_gone()
    one.close()


async def test_nothing_that_the_container_sees_ever_runs_our_program(lab: Lab) -> None:
    """A container that looks for /proc/PID/exe of a joining process finds only its own programs (CVE-2019-5736)."""
    watch = "while :; do for p in /proc/[0-9]*; do readlink $p/exe; done; done | grep -v ^/bin/busybox$"
    async with running(lab, watch) as one:
        for _ in range(60):
            await output(one, plan("true"))
    assert str(lab.shim_path) not in lab.text()
    assert "wharf" not in lab.text()
    assert Path(f"/proc/{os.getpid()}").exists()


async def test_a_later_daemon_can_exec_too(lab: Lab) -> None:
    """The start socket's number, 3, is free again then, and any fd may take it."""
    first = await lab.start(sh(lab.root, "sleep 1000"))
    second = await shim.connect(lab.run_dir)  # takes another number
    first.close()
    await anyio.sleep(0.05)
    for code in range(3):
        assert (await output(second, plan("sh", "-c", f"exit {code}")))[0] == code
    await second.signal(signal.SIGKILL)
    with anyio.fail_after(10):
        await second.wait_gone()
    second.close()


async def test_an_exec_where_processes_cannot_be_cloned_into_the_cgroup(lab: Lab) -> None:
    """Linux 6.18 kills them at birth when the leaf has seen a cgroup.kill that the shims' cgroup has not."""
    lab.leaf.mkdir(parents=True)
    (lab.leaf / "cgroup.kill").write_text("1")
    async with running(lab) as one:
        _, text = await output(one, plan("cat", "/proc/self/cgroup"))
        assert text.splitlines()[-1] == "0::/"
