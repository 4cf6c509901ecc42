"""What a container gets from its caller: preserved fds, a console socket; and what the caller gets back."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from config.errors import DefinitionError, HostError, WharfError
from runtime.ocicli.store import write_whole

PROGRAM = "wharf-launch"
KEPT_MAX = 32


def find_launch() -> Path:
    """`wharf-launch`: what WHARFINGER_LAUNCH says, else beside this program, else beside the interpreter."""
    given = os.environ.get("WHARFINGER_LAUNCH")
    folders = [os.path.dirname(os.path.realpath(sys.argv[0])), os.path.dirname(sys.executable)]
    for path in [given] if given else [f"{folder}/{PROGRAM}" for folder in folders]:
        if os.access(path, os.X_OK):
            return Path(path)
    raise HostError("is not installed beside wharf-oci", given or PROGRAM, "set WHARFINGER_LAUNCH")


class Kept:
    """Fds that the program gets as 3, 4 and so on: first those of socket activation, then those of --preserve-fds."""

    __slots__ = ("fds", "listening")

    def __init__(self, fds: list[int], listening: int) -> None:
        self.fds = fds
        self.listening = listening

    def extend_env(self, process: dict[str, Any]) -> None:
        """Tell the program of its sockets (sd_listen_fds(3)); it is process 1 of its namespace."""
        if self.listening:
            process["env"] = [*(process.get("env") or ()), f"LISTEN_FDS={self.listening}", "LISTEN_PID=1"]


def kept_fds(preserve: int | None) -> Kept:
    """Raises DefinitionError for fds that the caller did not hand over."""
    listening = os.environ.get("LISTEN_FDS", "")
    sockets = int(listening) if listening.isascii() and listening.isdigit() else 0
    count = sockets + (preserve or 0)
    if (preserve or 0) < 0 or count > KEPT_MAX:
        raise DefinitionError(f"must be from 0 to {KEPT_MAX}", "--preserve-fds")
    fds = list(range(3, 3 + count))
    for fd in fds:
        try:
            handed = not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC  # ours close on exec, what was inherited not
        except OSError:
            handed = False
        if not handed:
            raise DefinitionError(f"file descriptor {fd} is not open", "--preserve-fds")
    return Kept(fds, sockets)


def complete_env(process: dict[str, Any], rootfs: str | Path) -> None:
    """HOME, where nothing is said of it: that of the root's /etc/passwd, else /. Engines leave it to the runtime."""
    env = process.get("env") or ()
    if any(entry.startswith("HOME=") for entry in env):
        return
    from runtime import users

    try:
        home = users.resolve(Path(rootfs), str((process.get("user") or {}).get("uid", 0))).home
    except WharfError:
        home = "/"
    process["env"] = [*env, f"HOME={home}"]


def to_socket(path: str, what: str) -> socket.socket:
    """A connection to a unix socket. Raises HostError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder, name = os.path.split(os.path.abspath(path))
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{fd}/{name}")  # an address holds 108 bytes, a path may be longer
        finally:
            os.close(fd)
    except OSError as error:
        sock.close()
        raise HostError(f"cannot connect: {error.strerror}", f"{what} {path}") from None
    return sock


def check_console(process: dict[str, Any], given: bool, detach: bool) -> None:
    """Raises DefinitionError when terminal and --console-socket do not fit together."""
    terminal = bool(process.get("terminal"))
    if given and not terminal:
        raise DefinitionError("the process has no terminal", "--console-socket", 'set "terminal": true')
    if terminal and detach and not given:
        raise DefinitionError("a terminal needs somebody who holds it", "terminal", "use --console-socket")


def send_pidfd(path: str, pidfd: int) -> None:
    """To who asked by --pidfd-socket. Raises HostError."""
    with to_socket(path, "--pidfd-socket") as sock:
        try:
            socket.send_fds(sock, [b"pidfd"], [pidfd])
        except OSError as error:
            raise HostError(f"cannot send: {error.strerror}", f"--pidfd-socket {path}") from None


def write_pid(path: str, pid: int) -> None:
    """The file of --pid-file: whole or not at all."""
    try:
        write_whole(os.path.abspath(path), str(pid).encode(), 0o644)
    except OSError as error:
        raise HostError(f"cannot be written: {error.strerror}", f"--pid-file {path}") from None


def remove_pid(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
