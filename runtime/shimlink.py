"""A running container, by its shim's socket: ask it, hear the end, find it again after a restart of the daemon.

Every request is bounded. What is said and how: docs/runtime.md, "Protocol".
"""

import array
import errno
import os
import signal
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio

from config.errors import GoneError, HostError, RefusedError, WharfError
from runtime import wire
from runtime.exitrecord import ExitRecord, parse_exit
from runtime.launchlink import launch_error, sealed_plan

T = TypeVar("T")

ANSWER_LIMIT: Final = 5.0  # seconds; a shim answers at once, or its host is in trouble
EXEC_LIMIT: Final = 15.0  # the shim's own limit is 10
_FDS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class LogStat:
    """Counters of a run's log. `size` and `lines`: written; `dropped`: bytes that the disk did not take."""

    size: int
    lines: int
    dropped: int
    errors: int


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)


def receive(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """One packet and its fds, which the caller owns. Raises BlockingIOError, GoneError (the other end is closed)."""
    try:
        data, ancillary, flags, _ = sock.recvmsg(size, socket.CMSG_SPACE(_FDS_MAX * 4), socket.MSG_CMSG_CLOEXEC)
    except ConnectionError as error:
        raise GoneError("the shim is gone") from error
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        raise GoneError("the shim is gone" if not data else "the shim sent a packet that is too long")
    return data, list(fds)


def close_socket(sock: socket.socket) -> None:
    if sock.fileno() >= 0:
        anyio.notify_closing(sock)
        sock.close()


async def connect(run_dir: Path) -> "Shim":
    """Find the shim of a run again. Raises GoneError (there is none), TimeoutError (there is one: slow is not dead),
    HostError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        with anyio.fail_after(ANSWER_LIMIT):
            while not _connect_by_fd(sock, run_dir):  # noqa: ASYNC110 (its queue is full: nothing tells when it is not)
                await anyio.sleep(0.02)
            shim = Shim(sock, 0, 0, 0.0, [])
            await shim.hello()
        return shim
    except BaseException:
        close_socket(sock)
        raise


def _connect_by_fd(sock: socket.socket, run_dir: Path) -> bool:
    """By way of the directory's fd: a socket's address holds 108 bytes, a path may be longer."""
    try:
        fd = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise GoneError(error.strerror or str(error), where=str(run_dir)) from error
    try:
        if not stat.S_ISSOCK(os.lstat(f"/proc/self/fd/{fd}/sock").st_mode):
            raise GoneError("not a socket", where=str(run_dir / "sock"))
        sock.connect(f"/proc/self/fd/{fd}/sock")
    except BlockingIOError:
        return False
    except OSError as error:
        gone = error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR)
        kind = GoneError if gone else HostError
        raise kind(error.strerror or str(error), where=str(run_dir / "sock")) from error
    finally:
        os.close(fd)
    uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    if uid != os.geteuid():
        raise HostError(f"listened on by uid {uid}", where=str(run_dir / "sock"))
    return True


@dataclass(frozen=True, slots=True)
class Attached:
    """What an attached client may do: `tty` has a size, `stdin` takes input."""

    tty: bool
    stdin: bool


class Exec:
    """A process that runs in a container beside its init. `pidfd` and `terminal` (the master of its terminal; -1: none)
    are owned: `close` it, or use `with`. When the last copy of `terminal` is closed, the process is hung up."""

    __slots__ = ("_shim", "id", "pid", "pidfd", "terminal")

    def __init__(self, shim: "Shim", number: int, pid: int, pidfd: int, terminal: int = -1) -> None:
        self._shim = shim
        self.id = number
        self.pid = pid
        self.pidfd = pidfd
        self.terminal = terminal

    async def wait(self) -> int:
        """Its exit code; 128 + n when signal n ended it. Unbounded. Raises GoneError when the shim goes."""
        how, status = await self._shim.exec_end(self.id)
        self.close()
        return status if how == "exited" else 128 + status

    def kill(self) -> None:
        """By its pidfd: also when its shim was lost."""
        if self.pidfd >= 0:
            with suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close_terminal(self) -> None:
        """Somebody else has a copy; or nobody, and it is hung up."""
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1

    def close(self) -> None:
        self.close_terminal()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Shim:
    """A running container, by its shim's socket. `close` lets go of it and changes nothing for the container.

    `pidfd` (init's) and `output` (read ends of its stdout and stderr, or the master of its terminal twice) are owned
    by this object.
    """

    def __init__(self, sock: socket.socket, generation: int, pid: int, started: float, fds: Sequence[int]) -> None:
        self.generation = generation
        self.pid = pid
        self.started = started  # seconds of CLOCK_BOOTTIME
        self.ended = False
        self.shim_pid: int | None = None  # known after `hello`
        self.record: ExitRecord | None = None
        self._fds = list(fds)
        self._sock = sock
        self._seq = 0
        self._replies: dict[int, tuple[wire.Rep, list[int]]] = {}
        self._waiting: set[int] = set()
        self._exec_ends: dict[int, tuple[str, int]] = {}
        self._gone: WharfError | None = None
        self._reading = False
        self._news = anyio.Event()

    @property
    def pidfd(self) -> int:
        return self._fds[0] if self._fds else -1

    @property
    def output(self) -> tuple[int, int]:
        return (self._fds[1], self._fds[2]) if self._fds else (-1, -1)

    # Requests.

    async def hello(self) -> None:
        """Ask who it is: fills generation, pid, started, shim_pid, and the fds if they are not here yet."""
        rep, fds = await self._ask(wire.CMD_HELLO)
        if len(fds) != 3:
            close_all(fds)
            raise HostError("the shim sent no fds")
        self.generation, self.pid, self.started, self.shim_pid = rep.a, rep.b, rep.c / 1e9, rep.d
        self.ended = self.ended or bool(rep.flags & wire.REP_ENDED)
        close_all(fds if self._fds else [])
        self._fds = self._fds or fds

    async def signal(self, number: int) -> None:
        """Send init a signal. Raises GoneError when it has ended."""
        await self._ask(wire.CMD_SIGNAL, number)

    async def exec(self, plan: bytes, *stdio: int) -> Exec:
        """Run a plan of `compile_exec` inside on these three fds (borrowed), or, with a terminal, on none.

        Raises LaunchError, RefusedError, GoneError.
        """
        memfd = sealed_plan(plan)
        try:
            rep, fds = await self._ask(wire.CMD_EXEC, fds=(memfd, *stdio), limit=EXEC_LIMIT)
        finally:
            os.close(memfd)
        terminal = fds.pop() if rep.c and fds else -1
        close_all(fds[1:])
        return Exec(self, rep.a, rep.b, fds[0] if fds else -1, terminal)

    async def attach(self, sock: int) -> Attached:
        """Serve init's output to the other end of this SOCK_SEQPACKET socket, and take its input (docs/runtime.md,
        "Attached clients"). `sock` is borrowed. Raises RefusedError (too many), GoneError."""
        rep, _ = await self._ask(wire.CMD_ATTACH, fds=(sock,))
        return Attached(bool(rep.a & wire.ATTACHED_TTY), bool(rep.a & wire.ATTACHED_INPUT))

    async def resize(self, rows: int, columns: int) -> None:
        """The size of init's terminal. Raises RefusedError (it has none), GoneError."""
        await self._ask(wire.CMD_RESIZE, rows, columns)

    async def close_stdin(self) -> None:
        """Init's stdin ends. Raises RefusedError for a terminal, whose end is typed."""
        await self._ask(wire.CMD_CLOSESTDIN)

    async def signal_exec(self, number: int, signum: int) -> None:
        """Send an exec's process a signal. One that has ended is no error."""
        with suppress(GoneError):
            await self._ask(wire.CMD_SIGNALEXEC, number, signum)

    async def logconf(self, max_size: int, max_files: int) -> None:
        """Change the log's limits at once; 0 bytes: no limit."""
        await self._ask(wire.CMD_LOGCONF, max_size, max_files)

    async def logstat(self) -> LogStat:
        rep, fds = await self._ask(wire.CMD_LOGSTAT)
        close_all(fds)
        return LogStat(rep.a, rep.b, rep.c, rep.d)

    async def counts(self) -> int:
        """The memfd of its `OutputPage`, for the caller to own; -1: it has none."""
        _, fds = await self._ask(wire.CMD_LOGSTAT)
        close_all(fds[1:])
        return fds[0] if fds else -1

    async def reopen(self) -> None:
        """The log file was moved away: begin a new one."""
        await self._ask(wire.CMD_REOPEN)

    async def wait_exit(self) -> ExitRecord:
        """Wait for the end of the run. Unbounded. Raises GoneError when the shim went without telling one."""
        return await self._until(lambda: self.record)

    async def wait_gone(self) -> None:
        """Wait for the shim's own end, after which the log is complete. Unbounded."""
        with suppress(GoneError):
            await self._until(lambda: None)

    async def exec_end(self, number: int) -> tuple[str, int]:
        """`exited` or `signaled`, and the code or signal. Unbounded. For one caller."""
        return await self._until(lambda: self._exec_ends.pop(number, None))

    def close(self) -> None:
        close_socket(self._sock)
        self._lose(GoneError("closed"))
        close_all(self._fds)
        self._fds = []

    # How requests and events share the socket: whoever waits first reads for all.

    async def _ask(
        self, cmd: int, arg: int = 0, arg2: int = 0, *, fds: Sequence[int] = (), limit: float = ANSWER_LIMIT
    ) -> tuple[wire.Rep, list[int]]:
        self._seq += 1
        seq = self._seq & 0x7FFFFFFF or 1
        self._waiting.add(seq)
        try:
            with anyio.fail_after(limit):
                await self._send(wire.Req(cmd, seq, arg, arg2).pack(), fds)
                rep, received = await self._until(lambda: self._replies.pop(seq, None))
        except TimeoutError:
            raise HostError(f"the shim of generation {self.generation} does not answer") from None
        finally:
            self._waiting.discard(seq)
            late = self._replies.pop(seq, None)
            close_all(late[1] if late else [])
        if rep.err:
            close_all(received)
            raise self._refusal(rep)
        return rep, received

    @staticmethod
    def _refusal(rep: wire.Rep) -> WharfError:
        fault = rep.fault
        if fault is not None and rep.err != errno.EBUSY:
            return launch_error(fault)
        if rep.err == errno.ESRCH:
            return GoneError("not running")
        if rep.err == errno.EBUSY:
            return RefusedError("the container is frozen")
        if rep.err == errno.EAGAIN:
            attach = rep.cmd == wire.CMD_ATTACH | wire.REPLY
            what = "clients are attached to" if attach else "processes were started in"
            return RefusedError(f"too many {what} this container already")
        if rep.err in (errno.ENOTTY, errno.ENOTSUP):
            return RefusedError("has no terminal" if rep.err == errno.ENOTTY else "its stdin is a terminal")
        return HostError(f"the shim refused: {os.strerror(rep.err)}")

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        while True:
            if self._gone is not None:
                raise self._gone
            try:
                if fds:
                    socket.send_fds(self._sock, [data], fds)
                else:
                    self._sock.send(data)
                return
            except BlockingIOError:
                await anyio.wait_writable(self._sock)
            except OSError as error:
                raise GoneError(f"the shim is gone: {error.strerror}") from error

    async def _until(self, ready: Callable[[], T | None]) -> T:
        while True:
            value = ready()
            if value is not None:
                return value
            if self._gone is not None:
                raise self._gone
            if self._reading:
                await self._news.wait()
                continue
            self._reading = True
            try:
                await self._read()
            finally:
                self._reading = False
                self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def _read(self) -> None:
        """Wait for packets and take all that are there."""
        try:
            await anyio.wait_readable(self._sock)
        except (anyio.ClosedResourceError, ValueError, OSError):
            self._lose(GoneError("closed"))
            return
        while self._gone is None:
            try:
                data, fds = receive(self._sock, wire.PACKET_MAX)
                self._take(wire.Rep.unpack(data), fds)
            except BlockingIOError:
                return
            except (GoneError, OSError, ValueError) as error:
                self._lose(GoneError(str(error)))

    def _take(self, rep: wire.Rep, fds: list[int]) -> None:
        if rep.cmd & wire.REPLY and rep.seq in self._waiting:
            self._replies[rep.seq] = (rep, fds)
            return
        close_all(fds)
        if rep.cmd == wire.EVENT_EXIT:
            self.ended = True
            with suppress(WharfError):  # then the file is asked
                self.record = parse_exit(rep.tail)
        elif rep.cmd == wire.EVENT_EXECEXIT:
            if len(self._exec_ends) >= 64:  # ends that nobody waits for
                self._exec_ends.pop(next(iter(self._exec_ends)))
            self._exec_ends[rep.a] = (wire.HOW.get(rep.b, "exited"), rep.c)

    def _lose(self, error: WharfError) -> None:
        if self._gone is None:
            self._gone = error
        self._tell()  # what was received before stays for those who wait for it
