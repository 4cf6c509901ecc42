"""Client of `wharf-launch`, which starts a container, or a process in one, and ends: what `wharf-oci` uses.

Synchronous, and light to import. Formats and order: docs/runtime.md, "Launching without a shim".
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import signal
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from config.errors import GoneError, HostError, LaunchError
from config.record import record
from runtime import wire

# <fcntl.h>, not in the `fcntl` module of Python 3.11
_ADD_SEALS: Final = 1033
_HOOK_ENDS: Final = {"timeout": "took too long", "given up": "was given up"}
_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8  # SEAL, SHRINK, GROW, WRITE


@record
class Launched:
    """A process that was started. `pidfd` is the caller's."""

    pid: int
    pidfd: int


def sealed_plan(plan: bytes) -> int:
    """A memfd that holds the plan and cannot change any more. Owned by the caller."""
    fd = os.memfd_create("plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(plan)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, _ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def launch_error(fault: wire.Fault) -> LaunchError:
    operation = fault.op or fault.call
    detail = f"in {fault.call}" if fault.op else ""
    if fault.err == errno.EOWNERDEAD:
        killed = "oom_kill " in fault.path and not fault.path.endswith("oom_kill 0")
        why = "killed by its memory limit" if killed else "it died"
        return LaunchError("init", "", 0, f"{why} during set-up ({fault.path})")
    if fault.op == "HOOK" and fault.call.startswith(("exit ", "signal ", "timeout", "given up")):
        return LaunchError("hook", fault.path, 0, _HOOK_ENDS.get(fault.call, f"ended with {fault.call}"))
    return LaunchError(operation, fault.path, fault.err, detail)


def launch(
    path: str | Path,
    plan: bytes,
    tags: Mapping[int, int] | Iterable[tuple[int, int]] = (),
    flags: int = 0,
    generation: int = 0,
    name: str = "",
) -> Launched:
    """Run `plan` by the `wharf-launch` at `path`; `tags` are pairs of `wire.TAG_*` and an fd, which is borrowed.

    With START_CREATE and TAG_GATE the process waits there for `start`; with START_EXEC and TAG_INIT it is one more of
    a running container; else its program runs when this returns. Its stdio is ours where no tag gives another, its
    parent the nearest subreaper. Interrupted, or on an error, all is undone before this raises.
    Raises LaunchError (what failed), HostError (`wharf-launch` itself; then the caller kills the cgroup), ValueError.
    """
    pairs = list(tags.items() if isinstance(tags, Mapping) else tags)
    kinds = (wire.TAG_PLAN, *(tag for tag, _ in pairs))
    message = wire.Start(generation, 0, 1, flags, name, kinds).pack()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        memfd = _sealed(plan)
        try:
            pid = _spawn(path, theirs)
            try:
                return _talk(ours, message, [memfd, *(fd for _, fd in pairs)])
            except BaseException:
                _await_undone(ours)
                raise
            finally:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        finally:
            os.close(memfd)


def _sealed(plan: bytes) -> int:
    try:
        return sealed_plan(plan)
    except OSError as error:
        raise HostError(error.strerror or str(error), where="memfd") from error


def _spawn(path: str | Path, theirs: socket.socket) -> int:
    with theirs:
        high = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 4)  # dup2 onto itself would leave it closed on exec
        try:
            return os.posix_spawn(path, [str(path)], {}, file_actions=[(os.POSIX_SPAWN_DUP2, high, 3)])
        except OSError as error:
            raise HostError(f"cannot be run: {error.strerror}", where=str(path)) from error
        finally:
            os.close(high)


def _talk(ours: socket.socket, message: bytes, fds: list[int]) -> Launched:
    try:
        socket.send_fds(ours, [message], fds)
        data, received = _receive(ours)
    except OSError as error:
        raise HostError(f"no answer: {error.strerror}", where="wharf-launch") from error
    try:
        started = wire.Started.unpack(data)
        if started.fault is not None:
            raise launch_error(started.fault)
        return Launched(started.pid, received.pop(0))
    except (ValueError, IndexError):
        raise HostError("it ended without an answer", where="wharf-launch") from None
    finally:
        for fd in received:
            os.close(fd)


def _receive(ours: socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _, _ = ours.recvmsg(wire.PACKET_MAX, socket.CMSG_SPACE(32), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


def _await_undone(ours: socket.socket) -> None:
    """Give up: it undoes what it did (10 s at most) and ends. If it had just answered, that process is killed."""
    with suppress(OSError):
        ours.shutdown(socket.SHUT_WR)
        while True:
            data, fds = _receive(ours)
            for fd in fds:
                with suppress(OSError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                os.close(fd)
            if not data:
                return


def start(gate: str | Path) -> None:
    """Start the program of a created container; returns when it runs. Waits for its hooks as long as they take.

    Raises LaunchError (the container has ended then), GoneError (nobody waits at the gate: it was started before, or
    has ended), HostError.
    """
    gate = Path(gate)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        _connect(sock, gate)
        try:
            first = sock.recv(wire.PACKET_MAX)
            rest = sock.recv(wire.PACKET_MAX) if len(first) == 1 else first
        except ConnectionError:
            first = rest = b""
        except OSError as error:
            raise HostError(error.strerror or str(error), where=str(gate)) from error
    if len(rest) == wire.FAULT.size:
        raise launch_error(wire.Fault.unpack(rest))
    if not first:
        raise LaunchError("init", detail="it died before its program ran")


def _connect(sock: socket.socket, gate: Path) -> None:
    """By way of the directory's fd: a socket's address holds 108 bytes, a path may be longer."""
    try:
        fd = os.open(gate.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{fd}/{gate.name}")
        finally:
            os.close(fd)
    except OSError as error:
        gone = error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR)
        kind = GoneError if gone else HostError
        raise kind(error.strerror or str(error), where=str(gate)) from error


def listen(gate: str | Path) -> socket.socket:
    """A socket for TAG_GATE, bound at `gate`, for root only. Close this copy once the launch has answered."""
    gate = Path(gate)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        fd = os.open(gate.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            old = os.umask(0o177)
            try:
                sock.bind(f"/proc/self/fd/{fd}/{gate.name}")
            finally:
                os.umask(old)
        finally:
            os.close(fd)
        sock.listen(4)
    except OSError as error:
        sock.close()
        raise HostError(error.strerror or str(error), where=str(gate)) from error
    return sock
