"""Client of `wharf-shim`, the process that runs one container: start it, find it again, ask it, hear the end.

Async (anyio on trio), every request bounded. A shim is nobody's child: it outlives the daemon, and its zombie is
init's to reap. What it says and how: docs/runtime.md, "Protocol".
"""

import errno
import fcntl
import os
import select
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from config.errors import GoneError, HostError, LaunchError
from runtime import wire
from runtime.exitrecord import ExitRecord, parse_exit, read_exit
from runtime.launchlink import launch_error, sealed_plan
from runtime.shimlink import (
    ANSWER_LIMIT,
    Attached,
    Exec,
    LogStat,
    Shim,
    close_all,
    close_socket,
    connect,
    receive,
)

UNREAD: Final = "the spare shim ended before it read its start message"
UNDO_LIMIT: Final = 12.0  # how long a given-up launch may take to be undone


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a run needs beside its plan. `fds` by `wire.TAG_*`, all but the plan's; borrowed. For a takeover they have
    `TAG_INIT` and the two pipes."""

    name: str
    generation: int
    log_max_size: int
    log_max_files: int
    oom_group: bool
    fds: Mapping[int, int]
    stdin: bool = False  # init's stdin takes what attached clients write


class SpareShim:
    """A shim that waits for its start message."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def alive(self) -> bool:
        """Whether it still waits; never blocks."""
        if self._sock.fileno() < 0:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """An unstarted shim ends; a launch under way is undone."""
        close_socket(self._sock)

    async def start(self, plan: bytes, request: StartRequest) -> "Shim":
        """Run `plan`; returns when its program was executed. The caller bounds the time; a given-up launch is undone
        before this returns. Raises LaunchError (what failed; nothing is left), HostError, and GoneError when it ended
        without having read its message: it did nothing, and another may do it."""
        try:
            memfd = sealed_plan(plan)
        except OSError as error:
            raise HostError(error.strerror or str(error), where="memfd") from error
        try:
            self._send(request, {wire.TAG_PLAN: memfd, **request.fds})
        finally:
            os.close(memfd)
        try:
            return await self._await_started()
        except BaseException:
            with anyio.CancelScope(shield=True), anyio.move_on_after(UNDO_LIMIT):
                await self._await_undone()
            raise
        finally:
            self.close()

    async def take_over(self, request: StartRequest) -> "Shim":
        """Go on with a run whose shim was killed. The caller bounds the time. It runs on, whatever is raised.

        Raises LaunchError (EAGAIN: another shim has this run; EEXIST: its end is recorded), HostError, GoneError as
        `start`.
        """
        self._send(request, request.fds, wire.START_TAKEOVER)
        try:
            return await self._await_started()
        finally:
            self.close()

    def _send(self, request: StartRequest, fds: Mapping[int, int], flags: int = 0) -> None:
        message = wire.Start(
            generation=request.generation,
            log_max_size=request.log_max_size,
            log_max_files=request.log_max_files,
            flags=flags
            | (wire.START_OOM_GROUP if request.oom_group else 0)
            | (wire.START_STDIN if request.stdin else 0),
            name=request.name,
            tags=tuple(fds),
        )
        try:
            socket.send_fds(self._sock, [message.pack()], list(fds.values()))
        except ConnectionError as error:  # nobody is there to take it
            self.close()
            raise GoneError(UNREAD) from error
        except OSError as error:
            self.close()
            raise HostError(f"cannot send the start message: {error.strerror}") from error

    async def _await_started(self) -> "Shim":
        while True:
            await anyio.wait_readable(self._sock)
            try:
                data, fds = receive(self._sock, wire.PACKET_MAX)
                break
            except BlockingIOError:
                continue
            except GoneError as error:
                # the kernel's word for a socket that was closed with packets unread (unix_release_sock)
                if isinstance(error.__cause__, ConnectionResetError):
                    raise GoneError(UNREAD) from error
                raise LaunchError("shim", detail="it ended before it answered") from error
        try:
            started = wire.Started.unpack(data)
        except ValueError as error:
            close_all(fds)
            raise LaunchError("shim", detail=str(error)) from error
        if started.fault is not None or len(fds) != 3:
            close_all(fds)
            raise launch_error(started.fault) if started.fault else LaunchError("shim", detail="no fds in its answer")
        moved = socket.socket(fileno=self._sock.detach())
        return Shim(moved, started.generation, started.pid, started.started_ns / 1e9, fds)

    async def _await_undone(self) -> None:
        """Tell the shim to give up, and wait for its end of file: then everything is undone."""
        if self._sock.fileno() < 0:
            return
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        while True:
            try:
                await anyio.wait_readable(self._sock)
                fds = receive(self._sock, wire.PACKET_MAX)[1]
            except BlockingIOError:
                continue
            except (OSError, GoneError):
                return
            if fds:  # it had just been started
                with suppress(OSError):
                    signal.pidfd_send_signal(fds[0], signal.SIGKILL)
            close_all(fds)


async def spawn_shim(path: Path, cgroup: int | None = None) -> SpareShim:
    """Start `wharf-shim`, which leaves this process at once and waits for `SpareShim.start`. Raises HostError.

    `cgroup`: directory fd (borrowed) of the shims' cgroup, to be born there: being moved there by the start message
    (`wire.TAG_SHIMCG`) costs the start 5 to 20 ms.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            await to_thread.run_sync(_spawn, path, theirs.fileno(), cgroup)
        ours.setblocking(False)
        return SpareShim(ours)
    except OSError as error:
        ours.close()
        raise HostError(f"cannot start the shim: {error.strerror}", where=str(path)) from error
    except BaseException:
        ours.close()
        raise


def _spawn(path: Path, sock: int, cgroup: int | None) -> None:
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    actions += [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
    copies = [fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 5)]  # above the fds that the actions replace
    try:
        if cgroup is not None:
            copies.append(fcntl.fcntl(cgroup, fcntl.F_DUPFD_CLOEXEC, 5))
        actions += [(os.POSIX_SPAWN_DUP2, fd, 3 + number) for number, fd in enumerate(copies)]
        pid = os.posix_spawn(path, [str(path)], {}, file_actions=actions, setsid=True)
    finally:
        close_all(copies)
    if _ended(pid) != 0:  # it forks and ends at once
        raise OSError(errno.EIO, "it cannot run on this host")


def _ended(pid: int) -> int:
    """Exit status of a child, which is killed if it does not end by itself."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(ANSWER_LIMIT * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]
    finally:
        os.close(pidfd)


__all__ = [
    "Attached",
    "Exec",
    "ExitRecord",
    "LogStat",
    "Shim",
    "SpareShim",
    "StartRequest",
    "connect",
    "parse_exit",
    "read_exit",
    "sealed_plan",
    "spawn_shim",
]
