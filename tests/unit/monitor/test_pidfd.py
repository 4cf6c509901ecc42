"""The end of a process by its pidfd."""

from __future__ import annotations

import os
import signal
import subprocess

import anyio

from monitor.pidfd import has_exited, wait_exit


def run(main: object) -> None:
    anyio.run(main, backend="trio")  # type: ignore[arg-type]


def test_an_end_is_seen_by_all_who_wait_also_after_their_fd_was_closed() -> None:
    seen: list[int] = []

    async def wait(fd: int, number: int) -> None:
        await wait_exit(fd)
        seen.append(number)

    async def main() -> None:
        child = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220
        fd = os.pidfd_open(child.pid)
        before = len(os.listdir("/proc/self/fd"))
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tg:
                tg.start_soon(wait, fd, 1)
                tg.start_soon(wait, fd, 2)
                await anyio.sleep(0.02)
                assert not has_exited(fd)
                assert seen == []
                os.close(fd)
                child.send_signal(signal.SIGKILL)
        child.wait()
        assert sorted(seen) == [1, 2]
        assert len(os.listdir("/proc/self/fd")) == before - 1

    run(main)


def test_an_end_before_the_wait_is_an_end() -> None:
    async def main() -> None:
        child = subprocess.Popen(["true"])  # noqa: ASYNC220
        fd = os.pidfd_open(child.pid)
        with anyio.fail_after(5):
            await wait_exit(fd)
            await wait_exit(fd)
        assert has_exited(fd)
        child.wait()
        os.close(fd)

    run(main)


def test_a_cancelled_wait_leaves_no_fd() -> None:
    async def main() -> None:
        child = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220
        fd = os.pidfd_open(child.pid)
        before = len(os.listdir("/proc/self/fd"))
        with anyio.move_on_after(0.01) as scope:
            await wait_exit(fd)
        assert scope.cancelled_caught
        assert len(os.listdir("/proc/self/fd")) == before
        child.kill()
        child.wait()
        os.close(fd)

    run(main)
