"""Boot user-mode-linux on the host's file tree, run one command in it, give back its exit code.

Use: `tests/vm/run [options] -- CMD...`. Standard library only: it runs before anything is set up.

Exit code: that of CMD, 128 + N when signal N ended it, 124 when the guest was killed for its time limit,
125 when the guest could not run CMD, 130 or 143 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
TIMED_OUT, BROKEN = 124, 125
SKIP = ("lpj=30000000", "initcall_blacklist=raid6_select_algo")  # measuring delays and RAID 6 is most of the boot
LEFT_OUT = re.compile(r"^(_|SHLVL|OLDPWD|TMPDIR|TMP|TEMP|NOTIFY_SOCKET|LISTEN_.*|WATCHDOG_.*|DBUS_.*|XDG_RUNTIME_DIR)$")


class StoppedError(Exception):
    """SIGINT or SIGTERM came; the argument is its number."""


@dataclass(frozen=True, slots=True)
class Options:
    command: list[str]
    disks: list[Path]
    memory: str
    timeout: float
    modules: list[str]
    verbose: bool
    terminal: bool


def parse(argv: list[str]) -> Options:
    p = argparse.ArgumentParser(prog="tests/vm/run", description="Run CMD as root in a user-mode-linux guest.")
    p.add_argument("--disk", action="append", type=Path, default=[], metavar="IMG", help="/dev/ubda, then /dev/ubdb")
    p.add_argument("--mem", default="1024M", help="memory of the guest (default %(default)s)")
    p.add_argument("--timeout", type=float, metavar="S", help="kill the guest after S s (default 600)")
    p.add_argument("--module", action="append", default=[], metavar="NAME", help="kernel module, as dm-flakey")
    p.add_argument("--verbose", action="store_true", help="print the guest kernel's messages at the end")
    p.add_argument("--tty", action="store_true", help="give CMD this terminal; no time limit unless asked for")
    p.add_argument("command", nargs="+", metavar="CMD")
    a = p.parse_args(argv)
    if not re.fullmatch(r"\d+[MG]", a.mem):
        p.error("--mem: a number with M or G")
    for disk in a.disk:
        if not disk.is_file():
            p.error(f"--disk: no file {disk}")
    if a.tty and not (os.isatty(0) and os.isatty(1)):
        p.error("--tty: there is no terminal")
    timeout = a.timeout if a.timeout is not None else math.inf if a.tty else 600.0
    return Options(a.command, [d.resolve() for d in a.disk], a.mem, timeout, a.module, a.verbose, a.tty)


def say(text: str) -> None:
    print(f"vm/run: {text}", file=sys.stderr, flush=True)


def kernel() -> str:
    """Path of the guest kernel. Raises SystemExit where there is none."""
    found = shutil.which("linux.uml", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")
    if found is None:
        say(f"no linux.uml here ({platform.machine()}); install Debian's package user-mode-linux (amd64 only)")
        raise SystemExit(BROKEN)
    return found


def memory_dir(mem: str) -> str:
    """Where the guest's memory file lies: it must be a tmpfs that allows PROT_EXEC, else the guest is slow or dead."""
    need = int(mem[:-1]) << (30 if mem.endswith("G") else 20)
    try:
        stat = os.statvfs("/dev/shm")
        if stat.f_bavail * stat.f_frsize >= need and not stat.f_flag & os.ST_NOEXEC:
            return "/dev/shm"
    except OSError:
        pass
    return tempfile.gettempdir()


def repository(start: Path) -> Path:
    """The top of the work tree that holds `start`, else `start`."""
    return next((p for p in (start, *start.parents) if (p / ".git").exists()), start)


def write_job(run: Path, o: Options) -> None:
    """What guest.py reads: it finds it through the kernel command line."""
    cwd = Path.cwd()
    keep = {str(repository(cwd)), str(repository(HERE)), str(cwd), str(HERE), *(str(d.parent) for d in o.disks)}
    env = {k: v for k, v in os.environ.items() if not LEFT_OUT.match(k)}
    env.update(WHARFINGER_VM="1", HOME="/root", USER="root", LOGNAME="root")
    size = list(os.get_terminal_size()) if o.terminal else None
    job = {
        "command": o.command, "cwd": str(cwd), "env": env, "keep": sorted(keep), "modules": o.modules, "terminal": size,
    }  # fmt: skip
    (run / "job.json").write_text(json.dumps(job))


@dataclass(frozen=True, slots=True)
class Ends:
    """The guest's ends of our pipes: its two serial lines, what is typed into the first, its console."""

    out: int
    err: int
    typed: int
    log: int


def boot(run: Path, o: Options, ends: Ends) -> subprocess.Popen[bytes]:
    """Start the guest in its own process group.

    All ends must be pipes: the guest's kernel waits on them by epoll, which refuses regular files.
    """
    disks = [f"ubd{chr(ord('a') + i)}={d}" for i, d in enumerate(o.disks)]
    argv = [
        kernel(), f"mem={o.memory}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", *disks,
        f"uml_dir={run}", "umid=guest", "con=null", "con0=null,fd:1",
        f"ssl0=fd:{ends.typed},fd:{ends.out}", f"ssl1=null,fd:{ends.err}",
        "quiet", "loglevel=0", "panic=-1", *SKIP,
        "init=/usr/bin/env", "--", "-i", f"WHARFINGER_RUN={run}", guest_python(), "-I", "-S", str(HERE / "guest.py"),
    ]  # fmt: skip
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=ends.log, stderr=ends.log, process_group=0,
        pass_fds=(ends.out, ends.err, ends.typed),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": memory_dir(o.memory), "HOME": "/root", **preload()},
    )  # fmt: skip


def preload() -> dict[str, str]:
    """What lets the guest's kernel run on a CPU with AMX: xstate.c, built once. Its own room ends before the tiles."""
    if " amx_tile" not in Path("/proc/cpuinfo").read_text():
        return {}
    source, library = HERE / "xstate.c", repository(HERE) / "build" / "vm-xstate.so"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        library.parent.mkdir(exist_ok=True)
        aside = library.with_name(f".{library.name}.{os.getpid()}")
        try:
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(aside), str(source)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"this CPU has AMX, and what the guest needs then cannot be built: {error}")
            raise SystemExit(BROKEN) from None
        aside.replace(library)
    return {"LD_PRELOAD": str(library)}


def guest_python() -> str:
    return str(Path(sys.executable).resolve())


def guard(group: int, run: Path) -> int:
    """Fork a keeper that kills process group `group` when this process is gone, however it went.

    Returns the fd whose close tells it; a byte before says that `run` is not its to remove. Without it a SIGKILL of
    this program would leave the guest's processes and that directory.
    """
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.closerange(3, r)
        os.closerange(r + 1, 1 << 16)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        told = os.read(r, 1)
        kill_group(group)
        if not told:
            shutil.rmtree(run, ignore_errors=True)
        os._exit(0)
    os.close(r)
    return w


class Tail:
    """The last part of what the guest's kernel says."""

    def __init__(self, limit: int = 65536) -> None:
        self.data, self.limit = b"", limit

    def put(self, data: bytes) -> None:
        self.data = (self.data + data)[-self.limit :]

    def show(self, lines: int = 60) -> None:
        for line in self.data.decode(errors="replace").replace("\r", "").splitlines()[-lines:]:
            say(f"guest kernel: {line}")


def relay(lines: dict[int, Callable[[bytes], None]], deadline: float, signalled: int) -> bool:
    """Hand on what the guest's lines bring until all end. False: the deadline passed.

    `signalled` becomes readable with a signal: one that comes just before the wait would not end it by itself.
    """
    with selectors.DefaultSelector() as sel:
        for source in (*lines, signalled):
            sel.register(source, selectors.EVENT_READ)
        while sel.get_map().keys() - {0, signalled}:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for key, _ in sel.select(min(left, 3600.0)):
                data = os.read(key.fd, 65536)
                if key.fd == signalled:
                    continue
                if data:
                    lines[key.fd](data)
                else:
                    sel.unregister(key.fd)
    return True


def put(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BrokenPipeError:
            raise StoppedError(signal.SIGPIPE) from None


def exit_code(run: Path) -> int | None:
    try:
        return int((run / "exit").read_text())
    except (FileNotFoundError, ValueError):
        return None


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def on_signal(number: int, _frame: FrameType | None) -> None:
    raise StoppedError(number)


@contextlib.contextmanager
def raw_terminal(wanted: bool) -> Iterator[None]:
    """The guest's own terminal layer does echo, lines and Ctrl-C."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def run_guest(run: Path, o: Options, signalled: int) -> int:
    write_job(run, o)
    (out_r, out_w), (err_r, err_w), (log_r, log_w), (typed_r, typed_w) = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    log = Tail()
    guest = boot(run, o, Ends(out_w, err_w, typed_r, log_w))
    for fd in (out_w, err_w, log_w, typed_r):
        os.close(fd)
    watch = guard(guest.pid, run)
    lines: dict[int, Callable[[bytes], None]] = {out_r: lambda d: put(1, d), err_r: lambda d: put(2, d), log_r: log.put}
    if o.terminal:
        lines[0] = lambda d: put(typed_w, d)
    try:
        with raw_terminal(o.terminal):
            in_time = relay(lines, time.monotonic() + o.timeout, signalled)
    finally:
        kill_group(guest.pid)
        guest.wait()
        os.write(watch, b".")
        os.close(watch)
        os.wait()
    code = exit_code(run)
    if o.verbose or (in_time and code is None):
        log.show()
    if not in_time:
        say(f"the guest was killed after its time limit of {o.timeout:g} s")
        return TIMED_OUT
    if code is None:
        say((run / "failed").read_text() if (run / "failed").exists() else "the guest ended before the command did")
        return BROKEN
    return code


def main(argv: list[str]) -> int:
    o = parse(argv)
    run = Path(tempfile.mkdtemp(prefix="wharfinger-vm-"))
    signalled, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, on_signal)
    try:
        return run_guest(run, o, signalled)
    except StoppedError as e:
        return 128 + int(e.args[0])
    finally:
        shutil.rmtree(run, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
