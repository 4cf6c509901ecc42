"""A shim is killed: another one goes on with the container, and what was promised of it still holds."""

# ruff: noqa: ASYNC221, ASYNC222, ASYNC240 (tests look at a real kernel)

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from config.errors import GoneError, LaunchError
from monitor import pidfd as pidfds
from runtime import orphan, shim, wire
from tests.kernel.shimkit import NAMESPACES, Lab, exec_ops, self_ops, sh

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]

PR_SET_CHILD_SUBREAPER = 36
JOIN = NAMESPACES
TICKS = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"


async def until(condition: object, what: str) -> None:
    with anyio.move_on_after(15):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 (the kernel tells nobody)
            await anyio.sleep(0.01)
        return
    raise AssertionError(what)


async def lose(running: shim.Shim) -> None:
    """SIGKILL to the shim; returns when it is gone."""
    await running.hello()
    assert running.shim_pid is not None
    pidfd = os.pidfd_open(running.shim_pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with pytest.raises(GoneError), anyio.fail_after(10):
        await running.wait_exit()
    with anyio.fail_after(10):
        await pidfds.wait_exit(pidfd)
    os.close(pidfd)


async def take_over(lab: Lab, pidfd: int, output: tuple[int, int]) -> shim.Shim:
    spare = await shim.spawn_shim(lab.shim_path)
    lab.extra_fds = {wire.TAG_INIT: pidfd, wire.TAG_OUT_PIPE: output[0], wire.TAG_ERR_PIPE: output[1]}
    try:
        with lab.request() as request:
            return await spare.take_over(request)
    finally:
        lab.extra_fds = {}


@asynccontextmanager
async def replaced(lab: Lab, script: str) -> AsyncIterator[tuple[shim.Shim, shim.Shim]]:
    """A container whose first shim was lost, and the second one."""
    first = await lab.start(sh(lab.root, script))
    try:
        await lose(first)
        second = await take_over(lab, first.pidfd, first.output)
        try:
            yield first, second
        finally:
            second.close()
    finally:
        first.close()


@contextmanager
def subreaper() -> Iterator[None]:
    """Orphans come to us, who reap them at once: so the new shim has only the pidfd to ask."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def numbers(lab: Lab) -> list[int]:
    return [int(line) for line in lab.text().split()]


def assert_told(record: shim.ExitRecord, how: str, status: int) -> None:
    """Before Linux 6.15 it is a race with who reaps."""
    assert record.told == "kernel"
    if record.how == "unknown":
        assert not kernel_tells()
    else:
        assert (record.how, record.status) == (how, status)


async def test_the_container_goes_on_and_loses_no_line(lab: Lab) -> None:
    async with replaced(lab, TICKS) as (first, second):
        assert (second.pid, second.generation, second.started) == (first.pid, first.generation, first.started)
        seen = len(numbers(lab))
        await until(lambda: len(numbers(lab)) > seen + 20, "it writes no more")
        await second.signal(signal.SIGKILL)
        record = await second.wait_exit()
        await second.wait_gone()
    assert_told(record, "signaled", 9)
    got = numbers(lab)
    assert got == list(range(len(got)))
    assert not (lab.run_dir / "sock").exists()


async def test_an_end_has_its_code_whoever_reaps_it(lab: Lab) -> None:
    """The host's init does, sooner or later."""
    async with replaced(lab, "until [ -e /tmp/go ]; do sleep 0.02; done; exit 7") as (_, second):
        (lab.root / "tmp/go").touch()
        with anyio.fail_after(20):
            record = await second.wait_exit()
        assert_told(record, "exited", 7)
        assert shim.read_exit(lab.run_dir) == record


def kernel_tells() -> bool:
    """Whether a pidfd tells the status of a process that was reaped (Linux 6.15)."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    pidfd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    try:
        return orphan.wait_status(pidfd) == 0
    finally:
        os.close(pidfd)


async def test_an_end_between_two_shims_is_not_lost(lab: Lab) -> None:
    with subreaper():
        first = await lab.start(sh(lab.root, "until [ -e /tmp/go ]; do sleep 0.02; done; echo last; exit 5"))
        try:
            await lose(first)
            assert first.shim_pid is not None
            os.waitpid(first.shim_pid, 0)
            (lab.root / "tmp/go").touch()
            with anyio.fail_after(20):
                await pidfds.wait_exit(first.pidfd)
            assert os.waitpid(first.pid, 0)[1] == 5 << 8
            second = await take_over(lab, first.pidfd, first.output)
            with anyio.fail_after(20):
                record = await second.wait_exit()
                await second.wait_gone()
            second.close()
        finally:
            first.close()
    assert lab.text() == "last\n"
    told = ("exited", 5) if kernel_tells() else ("unknown", 0)
    assert (record.how, record.status, record.told) == (*told, "kernel")
    assert record.pid == first.pid


async def test_a_number_in_the_note_is_not_asked_once_its_process_was_reaped(lab: Lab) -> None:
    """It may be anybody's by then; here it is a zombie's, whose status is another one."""
    with subreaper():
        first = await lab.start(sh(lab.root, "until [ -e /tmp/go ]; do sleep 0.02; done; exit 5"))
        stranger = os.posix_spawn("/bin/false", ["false"], {})
        try:
            await lose(first)
            (lab.root / "tmp/go").touch()
            with anyio.fail_after(20):
                await pidfds.wait_exit(first.pidfd)
            assert os.waitpid(first.pid, 0)[1] == 5 << 8
            os.waitid(os.P_PID, stranger, os.WEXITED | os.WNOWAIT)
            note = lab.run_dir / "init"
            note.write_text(note.read_text().replace(f"pid={first.pid}\n", f"pid={stranger}\n"))
            second = await take_over(lab, first.pidfd, first.output)
            with anyio.fail_after(20):
                record = await second.wait_exit()
                await second.wait_gone()
            second.close()
        finally:
            first.close()
            os.waitpid(stranger, 0)
    assert (record.how, record.status) == (("exited", 5) if kernel_tells() else ("unknown", 0))


async def test_a_run_has_one_shim(lab: Lab) -> None:
    """Also when the daemon thinks that there is none: nothing of the first one is touched."""
    first = await lab.start(sh(lab.root, TICKS))
    try:
        with pytest.raises(LaunchError) as caught:
            await take_over(lab, first.pidfd, first.output)
        assert caught.value.errno == errno.EAGAIN
        await first.hello()
        again = await shim.connect(lab.run_dir)
        assert again.pid == first.pid
        again.close()
        await first.signal(signal.SIGKILL)
        assert (await first.wait_exit()).told == "shim"
    finally:
        first.close()


async def test_a_recorded_end_is_not_recorded_again(lab: Lab) -> None:
    async with replaced(lab, TICKS) as (first, second):
        await second.signal(signal.SIGKILL)
        record = await second.wait_exit()
        await second.wait_gone()
        before = (lab.run_dir / "exit").stat().st_ino
        with pytest.raises(LaunchError) as caught:
            await take_over(lab, first.pidfd, first.output)
        assert caught.value.errno == errno.EEXIST
        assert (lab.run_dir / "exit").stat().st_ino == before
        assert shim.read_exit(lab.run_dir) == record
        assert not (lab.run_dir / "sock").exists()


async def test_exec_goes_on_and_is_reaped(lab: Lab) -> None:
    async with replaced(lab, TICKS) as (_, second):
        read, write = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        plan = wire.encode([wire.op("JOIN", flags=JOIN), *self_ops(), *exec_ops("/bin/sh", "-c", "echo $$; exit 4")])
        running = await second.exec(plan, null, write, null)
        assert await running.wait() == 4
        assert int(os.read(read, 100)) > 1
        for fd in (read, write, null):
            os.close(fd)
        await second.signal(signal.SIGKILL)
        await second.wait_exit()


async def test_an_exec_ends_with_its_shim(lab: Lab) -> None:
    """By itself: when the answer to who asked for it is lost with the shim, nobody else knows it."""
    first = await lab.start(sh(lab.root, TICKS))
    null = os.open("/dev/null", os.O_RDWR)
    plan = wire.encode([wire.op("JOIN", flags=JOIN), *self_ops(uid=5), *exec_ops("sleep", "1000")])
    running = await first.exec(plan, null, null, null)
    os.close(null)
    await lose(first)
    with anyio.fail_after(10):
        await pidfds.wait_exit(running.pidfd)
    running.close()
    second = await take_over(lab, first.pidfd, first.output)
    await second.signal(signal.SIGKILL)
    await second.wait_exit()
    second.close()
    first.close()


async def test_who_writes_while_nobody_reads_waits_and_loses_nothing(lab: Lab) -> None:
    """Shim and daemon are dead, and so are all read ends: no SIGPIPE, and a later shim reads what was written."""
    first = await lab.start(sh(lab.root, "until [ -e /tmp/go ]; do sleep 0.02; done; seq 1 30000; touch /tmp/done"))
    await lose(first)
    pid = first.pid
    first.close()  # the read ends
    (lab.root / "tmp/go").touch()
    init = orphan.read_init(lab.run_dir)
    assert init is not None
    assert init.pid == pid
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    pidfd = orphan.find_init(init, lab.leaf, boot)
    assert pidfd is not None
    await until(lambda: _blocked(pid), "the pipe is not full")
    output, missing = orphan.open_output(init, lab.leaf)
    assert not missing
    second = await take_over(lab, pidfd, (output[0], output[1]))
    for fd in (pidfd, *output):
        os.close(fd)
    with anyio.fail_after(30):
        record = await second.wait_exit()
        await second.wait_gone()
    second.close()
    assert_told(record, "exited", 0)
    assert numbers(lab) == list(range(1, 30001))
    assert (lab.root / "tmp/done").exists()


def _blocked(pid: int) -> bool:
    """All of the container wait, one of them in a write to a full pipe."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any("pipe_write" in Path(f"/proc/{child}/stack").read_text() for child in children)


async def test_a_number_alone_proves_nothing(lab: Lab) -> None:
    """I3: the pid that is written down may be anybody's by now."""
    running = await lab.start(sh(lab.root, TICKS))
    try:
        init = orphan.read_init(lab.run_dir)
        assert init is not None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        found = orphan.find_init(init, lab.leaf, boot)
        assert found is not None
        os.close(found)
        own = replace(init, pid=os.getpid())
        for wrong in (own, replace(init, start_ticks=init.start_ticks + 1), replace(init, boot_id="x")):
            assert orphan.find_init(wrong, lab.leaf, boot) is None
        assert orphan.find_init(init, lab.leaf.parent / "g2", boot) is None
        await running.signal(signal.SIGKILL)
        await running.wait_exit()
        await until(lambda: orphan.find_init(init, lab.leaf, boot) is None, "a dead init is found")
    finally:
        running.close()


async def test_an_output_that_nobody_holds_is_at_its_end(lab: Lab) -> None:
    first = await lab.start(sh(lab.root, "exec >/dev/null 2>&1; touch /tmp/shut; sleep 1000"))
    await until((lab.root / "tmp/shut").exists, "it did not begin")
    await lose(first)
    init = orphan.read_init(lab.run_dir)
    assert init is not None
    output, missing = orphan.open_output(init, lab.leaf)
    assert (os.read(output[0], 1), os.read(output[1], 1), missing) == (b"", b"", ())
    for fd in output:
        os.close(fd)
    second = await take_over(lab, first.pidfd, first.output)
    await second.signal(signal.SIGKILL)
    await second.wait_exit()
    second.close()
    first.close()
