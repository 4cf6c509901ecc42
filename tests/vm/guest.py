"""Process 1 of the guest that host.py boots: mounts, modules, then the command, its exit code, power off.

Everything here runs on the host's own tree by hostfs. What is written outside the tmpfs places lands on the host.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import termios
import threading
import traceback
from typing import Any, NoReturn

LIBC = ctypes.CDLL(None, use_errno=True)
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 1 << 18
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
SYS_FINIT_MODULE = 313  # x86_64, the only machine that user-mode-linux runs on here
RB_POWER_OFF = 0x4321FEDC
TMPFS = ("/run", "/tmp", "/var/lib", "/var/log")
MODULES = ("overlay", "veth")


def check(result: int, what: str) -> int:
    if result < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e), what)
    return result


def mount(source: str, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    raw = [None if v is None else os.fsencode(v) for v in (source, target, fstype)]
    check(LIBC.mount(*raw, ctypes.c_ulong(flags), None if data is None else data.encode()), f"mount {target}")


def mount_kernel() -> None:
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.makedirs("/dev/pts", exist_ok=True)
    os.makedirs("/dev/shm", exist_ok=True)
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666")
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
                         ("stderr", "/proc/self/fd/2")):  # fmt: skip
        if not os.path.lexists(f"/dev/{name}"):
            os.symlink(target, f"/dev/{name}")
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    with open("/sys/fs/cgroup/cgroup.controllers") as f:
        names = f.read().split()
    with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as f:
        f.write(" ".join(f"+{n}" for n in names))


def mount_writable(keep: list[str]) -> None:
    """tmpfs on the places that a daemon writes; the directories in `keep` stay what they are on the host."""
    held = [(path, os.open(path, os.O_PATH | os.O_DIRECTORY)) for path in keep]
    for target in TMPFS:
        mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777" if target == "/tmp" else "mode=755")
    mount_etc()
    for path, fd in held:
        if any(path.startswith(f"{t}/") for t in TMPFS):
            os.makedirs(path, exist_ok=True)
            mount(f"/proc/self/fd/{fd}", path, None, MS_BIND)
        os.close(fd)


def mount_etc() -> None:
    """/etc of the host below, changes in memory: so /etc/wharfinger needs no directory on the host."""
    os.makedirs("/run/vm/upper")
    os.makedirs("/run/vm/work")
    mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir=/run/vm/upper,workdir=/run/vm/work")
    os.makedirs("/etc/wharfinger", exist_ok=True)
    mount("tmpfs", "/etc/wharfinger", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")


def load_modules(names: list[str]) -> None:
    """Load modules by path, what they need first. modules.dep: "kernel/x.ko: kernel/y.ko kernel/z.ko"."""
    top = f"/usr/lib/uml/modules/{os.uname().release}"
    needs: dict[str, list[str]] = {}
    with open(f"{top}/modules.dep") as f:
        for line in f:
            path, _, rest = line.partition(":")
            needs[os.path.basename(path)[:-3].replace("_", "-")] = [path, *rest.split()]
    for name in names:
        for path in reversed(needs[name.replace("_", "-")]):
            insert_module(f"{top}/{path}")


def insert_module(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if LIBC.syscall(SYS_FINIT_MODULE, fd, b"", 0) < 0 and ctypes.get_errno() != 17:  # EEXIST: loaded already
            check(-1, f"load {path}")
    finally:
        os.close(fd)


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING


def open_line(path: str) -> int:
    """A serial line that passes bytes as they are."""
    fd = os.open(path, os.O_WRONLY | os.O_NOCTTY)
    mode = termios.tcgetattr(fd)
    mode[1] &= ~termios.OPOST
    mode[2] |= termios.CLOCAL
    termios.tcsetattr(fd, termios.TCSANOW, mode)
    return fd


def open_terminal(path: str, size: list[int]) -> int:
    """The first line as the terminal of a person: the kernel's defaults, and the size of theirs."""
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    return fd


def relay(source: int, line: int) -> None:
    """Copy to a serial line until no writer is left. The command itself shall see a pipe, not a terminal."""
    while data := os.read(source, 65536):
        while data:
            data = data[os.write(line, data) :]
    termios.tcdrain(line)


def run_command(job: dict[str, Any], lines: tuple[int, ...], person: int | None) -> int:
    """Run the command to its end, reap whatever else ends meanwhile; then nothing but this process is left.

    `lines`: where its two outputs go; `person`: the terminal that it gets instead.
    """
    pipes = [os.pipe() for _ in lines]
    child = os.fork()
    if child == 0:
        if person is not None:
            become(job, person, person, person)
        become(job, os.open(os.devnull, os.O_RDONLY), pipes[0][1], pipes[1][1])
    relays = []
    for (r, w), line in zip(pipes, lines, strict=True):
        os.close(w)
        relays.append(threading.Thread(target=relay, args=(r, line)))
        relays[-1].start()
    while True:
        pid, status = os.wait()
        if pid == child:
            break
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for thread in relays:
        thread.join(10)
    if person is not None:  # its session's end hung up the line: only a new open can wait for what is under way
        termios.tcdrain(os.open("/dev/ttyS0", os.O_RDWR | os.O_NOCTTY))
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def become(job: dict[str, Any], stdin: int, out: int, err: int) -> NoReturn:
    try:
        os.setsid()
        if job["terminal"]:
            fcntl.ioctl(stdin, termios.TIOCSCTTY, 0)
        for target, fd in enumerate((stdin, out, err)):
            os.dup2(fd, target)
        os.closerange(3, 64)
        os.chdir(job["cwd"])
        for s in (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):
            signal.signal(s, signal.SIG_DFL)
        os.execvpe(job["command"][0], job["command"], job["env"])
    except OSError as e:
        os.write(2, f"vm/run: {job['command'][0]}: {e.strerror}\n".encode())
        os._exit(127 if e.errno == 2 else 126)


def leave(run: int, name: str, text: str) -> None:
    """Write a file of the run directory for host.py; whole or not at all, since the power goes off next."""
    fd = os.open(f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=run)
    os.write(fd, text.encode())
    os.fsync(fd)
    os.close(fd)
    os.rename(f"{name}.new", name, src_dir_fd=run, dst_dir_fd=run)


def serve(run: int) -> None:
    with open(os.open("job.json", os.O_RDONLY, dir_fd=run)) as f:
        job = json.load(f)
    mount_kernel()
    person = open_terminal("/dev/ttyS0", job["terminal"]) if job["terminal"] else None
    lines = () if person is not None else (open_line("/dev/ttyS0"), open_line("/dev/ttyS1"))
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    load_modules([*MODULES, *job["modules"]])
    mount_writable(job["keep"])
    socket.sethostname("vm")
    loopback_up()
    os.umask(0o022)
    code = run_command(job, lines, person)
    os.sync()
    leave(run, "exit", f"{code}\n")


def main() -> None:
    run = os.open(os.environ["WHARFINGER_RUN"], os.O_RDONLY | os.O_DIRECTORY)
    try:
        serve(run)
    except BaseException:  # noqa: BLE001 -- nobody above process 1 could tell it
        leave(run, "failed", traceback.format_exc())
    finally:
        LIBC.reboot(RB_POWER_OFF)


if __name__ == "__main__":
    main()
