"""The end of a process, by its pidfd: never by a bare pid, which may be another process's by now."""

from __future__ import annotations

import fcntl
import os
import select

import anyio


async def wait_exit(pidfd: int) -> None:
    """Waits until the process has ended (a zombie has; it need not be our child). Returns at once when it already has.

    The fd stays the caller's, who may close it meanwhile: the wait is on a copy. Many may wait for one process.
    Cancellable, and nothing is left behind then. Raises OSError (EBADF) when the fd is none.
    """
    mine = fcntl.fcntl(pidfd, fcntl.F_DUPFD_CLOEXEC, 3)  # trio lets one task wait for one fd, by number
    try:
        await anyio.wait_readable(mine)
    finally:
        os.close(mine)


def has_exited(pidfd: int) -> bool:
    """Asks without waiting. False for a process that cannot die yet (D state), whatever was sent to it."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
