"""A spare shim: what it has ready, and what happens when it is gone just when it is needed."""

# ruff: noqa: ASYNC110 (tests look at a real kernel)

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from config.errors import GoneError, LaunchError
from runtime import linux, shim, wire
from runtime.wire import Op, op
from supervisor.spares import Spares
from tests.kernel.shimkit import NAMESPACES, Lab, exec_ops, killed_after, root_ops, self_ops

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]

NET = os.stat("/proc/self/ns/net").st_ino


@pytest.fixture
async def spares(lab: Lab) -> AsyncIterator[Spares]:
    (lab.top / "shims").mkdir()
    made = Spares(lab.shim_path, lambda: os.open(lab.top / "shims", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    await made.refill()
    yield made
    made.close()


def waiting(lab: Lab) -> list[int]:
    """Spare shims, by their cgroup: nothing else is in it while no container runs."""
    return [int(pid) for pid in (lab.top / "shims/cgroup.procs").read_text().split()]


def held(pid: int) -> list[int]:
    """The inodes of the network namespaces that the process has an fd of."""
    found = []
    with suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if (name := os.readlink(fd)).startswith("net:["):
                    found.append(int(name[5:-1]))
    return found


async def ready(lab: Lab, pid: int = 0) -> tuple[int, int]:
    """A spare shim that waits for its message, and the namespace that it made."""
    with anyio.fail_after(10):
        while True:
            for found in [pid] if pid else waiting(lab):
                made = [inode for inode in held(found) if inode != NET]
                # by then it is back in the host's, and has closed all but what it keeps
                if made and held(found) == made and os.stat(f"/proc/{found}/ns/net").st_ino == NET:
                    return found, made[0]
            await anyio.sleep(0.001)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def loopback(lab: Lab, namespaces: int = NAMESPACES, script: str = "") -> list[Op]:
    script = script or "ip -o link; ip -o addr; cat /proc/net/route; sleep 1000"
    late = [op("LOOPBACK")] if namespaces & linux.CLONE_NEWNET else []
    ops = root_ops(lab.root, namespaces=namespaces, extra=late)
    return [*ops, *self_ops(), *exec_ops("/bin/sh", "-c", script)]


async def start(lab: Lab, spare: shim.SpareShim, ops: Sequence[Op]) -> shim.Shim:
    with lab.request() as request:
        return await spare.start(wire.encode(ops), request)


async def said(lab: Lab, *words: str) -> str:
    with anyio.fail_after(10):
        while not all(word in lab.text() for word in words):
            await anyio.sleep(0.005)
    return lab.text()


async def test_a_container_gets_the_network_namespace_that_its_spare_shim_made(lab: Lab, spares: Spares) -> None:
    pid, made = await ready(lab)
    one = await start(lab, await spares.take(), loopback(lab))
    async with killed_after(one):
        assert os.stat(f"/proc/{one.pid}/ns/net").st_ino == made
        assert held(pid) == []  # it goes with its container, and is given to nobody else
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == NET
        text = await said(lab, "127.0.0.1", "Iface")
    links = [line for line in text.splitlines() if "mtu" in line]
    assert len(links) == 1
    assert "LOOPBACK,UP" in links[0]


async def test_two_containers_never_share_one(lab: Lab, spares: Spares) -> None:
    given = []
    for generation in (1, 2):
        lab.generation = generation
        await spares.refill()
        pid, made = await ready(lab)
        async with killed_after(await start(lab, await spares.take(), loopback(lab, script="sleep 1000"))) as one:
            given.append(os.stat(f"/proc/{one.pid}/ns/net").st_ino)
            assert given[-1] == made
            if generation == 1:  # while the first one lives
                await spares.refill()
                other = next(found for found in waiting(lab) if found != pid)
                assert (await ready(lab, other))[1] != made
        lab.leaf.rmdir()


@pytest.mark.parametrize("without", [linux.CLONE_NEWNET, 0], ids=["host network", "no loopback"])
async def test_one_that_does_not_fit_is_let_go(lab: Lab, spares: Spares, without: int) -> None:
    pid, made = await ready(lab)
    ops = loopback(lab, NAMESPACES & ~linux.CLONE_NEWNET, "sleep 1000")
    if not without:
        ops = [*root_ops(lab.root), *self_ops(), *exec_ops("sleep", "1000")]
    async with killed_after(await start(lab, await spares.take(), ops)) as one:
        inside = os.stat(f"/proc/{one.pid}/ns/net").st_ino
        assert inside != made
        assert (inside == NET) is bool(without)
        assert held(pid) == []


BEFORE, UNREAD = "killed before the message", "killed with the message unread"


@pytest.mark.parametrize("how", [BEFORE, UNREAD])
async def test_a_spare_shim_that_read_nothing_costs_nothing(lab: Lab, spares: Spares, how: str) -> None:
    """However it ended, the container was started once, by another."""
    pid = (await ready(lab))[0]
    used: list[shim.SpareShim] = []

    async def kill(when: str) -> None:
        if when == UNREAD:
            await anyio.wait_all_tasks_blocked()  # the start waits for its answer: the message is in the socket
        os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(10):
            while pid in waiting(lab):
                await anyio.sleep(0.001)

    async def begin(spare: shim.SpareShim) -> shim.Shim:
        used.append(spare)
        if len(used) == 1:
            assert spare.alive()
            if how == BEFORE:
                await kill(how)
            else:
                os.kill(pid, signal.SIGSTOP)
                with anyio.fail_after(10):
                    while state_of(pid) != "T":
                        await anyio.sleep(0.001)
                tasks.start_soon(kill, how)
        return await start(lab, spare, loopback(lab, script="echo begun; sleep 1000"))

    async with anyio.create_task_group() as tasks:
        one = await spares.use(begin)
    async with killed_after(one):
        assert len(used) == 2
        await one.hello()
        assert one.shim_pid != pid
        await said(lab, "begun")
    assert lab.text() == "begun\n"


async def test_one_that_read_its_message_is_not_replaced(lab: Lab, spares: Spares) -> None:
    """Killed in the midst of its work: what it did is not known, so nothing is done a second time."""
    pid = (await ready(lab))[0]
    lab.leaf.mkdir()
    (lab.leaf / "cgroup.freeze").write_text("1")  # its child is there, and does not run
    used = []

    async def begin(spare: shim.SpareShim) -> shim.Shim:
        used.append(spare)
        return await start(lab, spare, loopback(lab))

    async def kill_at_work() -> None:
        with anyio.fail_after(10):
            while not (lab.leaf / "cgroup.procs").read_text():
                await anyio.sleep(0.001)
            os.kill(pid, signal.SIGKILL)
            while pid in waiting(lab):
                await anyio.sleep(0.001)
        (lab.leaf / "cgroup.freeze").write_text("0")  # its socket is the child's too, which ends now

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill_at_work)
        with pytest.raises(LaunchError, match="ended before it answered"):
            await spares.use(begin)
    assert len(used) == 1


async def test_a_second_spare_shim_that_is_gone_is_an_error(lab: Lab, spares: Spares) -> None:
    used = []

    async def begin(spare: shim.SpareShim) -> shim.Shim:
        used.append(spare)
        with anyio.fail_after(10):
            while not (pids := waiting(lab)):
                await anyio.sleep(0.001)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            while waiting(lab):
                await anyio.sleep(0.001)
        return await start(lab, spare, loopback(lab))

    with pytest.raises(GoneError):
        await spares.use(begin)
    assert len(used) == 2
    assert (lab.leaf / "cgroup.procs").read_text() == ""
