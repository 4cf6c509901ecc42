"""One daemon with directories and a cgroup root of its own, driven by the commands that a user has."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def cgroup_mount() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return Path(line.split()[1])
    raise RuntimeError("no cgroup2 is mounted")


def has_controller(name: str) -> bool:
    return name in (cgroup_mount() / "cgroup.controllers").read_text().split()


def start_time(pid: int) -> str:
    """With the pid, who a process is (proc(5), stat, field 22); "" when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def make_rootfs(path: Path) -> Path:
    subprocess.run([REPO / "examples/rootfs.sh", path], check=True)
    return path


@dataclass
class Host:
    """`base` is short: it holds sockets. As a context manager it ends all, and checks that nothing is left."""

    base: Path
    port: int
    extra: Mapping[str, str] = field(default_factory=dict)
    daemon: subprocess.Popen[bytes] | None = None
    last_error: str = ""

    def __post_init__(self) -> None:
        self.base.mkdir(parents=True, exist_ok=True)
        self.cgroup = cgroup_mount() / f"wharf-test-{os.getpid()}-{self.port}"
        self.definitions = self.base / "containers.d"
        self.definitions.mkdir(exist_ok=True)
        self.rootfs = make_rootfs(self.base / "rootfs")
        self.env = os.environ | {
            "WHARFINGER_CONFIG_FILE": str(self.base / "none.toml"),
            "WHARFINGER_DEFINITIONS_DIR": str(self.definitions),
            "WHARFINGER_STATE_DIR": str(self.base / "state"),
            "WHARFINGER_RUN_DIR": str(self.base / "run"),
            "WHARFINGER_LOG_DIR": str(self.base / "log"),
            "WHARFINGER_CGROUP_ROOT": str(self.cgroup),
            "WHARFINGER_METRICS_LISTEN": f"127.0.0.1:{self.port}",
            "WHARFINGER_SOCKET": str(self.base / "run/control.sock"),
            **self.extra,
        }  # fmt: skip
        self.mounts = self._mounts()

    def _mounts(self) -> int:
        """Mounts that concern this host's directories; others come and go beside the test."""
        return Path("/proc/self/mountinfo").read_text().count(str(self.base))

    # -- the daemon -----------------------------------------------------------------------------

    def start(self, wait: float = 20.0) -> None:
        log = (self.base / "daemon.log").open("ab")
        self.daemon = subprocess.Popen(
            [BIN / "wharfingerd"], env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        log.close()
        self.until(self.answers, wait, "the daemon does not answer")

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def stop_daemon(self) -> int:
        assert self.daemon is not None
        self.daemon.terminate()
        return self.daemon.wait(timeout=20)

    def log_text(self) -> str:
        return (self.base / "daemon.log").read_text(errors="replace")

    # -- the user -------------------------------------------------------------------------------

    def ctl(self, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "wharfctl", *args], env=self.env, capture_output=True, text=True, timeout=timeout, check=False
        )

    def status(self) -> dict[str, dict[str, Any]]:
        """As `wharfctl status --json`, asked on the socket itself; {} without a daemon."""
        return self._ask() or {}

    def _ask(self) -> dict[str, dict[str, Any]] | None:
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(self.env["WHARFINGER_SOCKET"])
                sock.sendall(b"GET /v1/containers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = http.client.HTTPResponse(sock)
                answer.begin()
                return {c["name"]: c for c in json.loads(answer.read())["containers"]}
        except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
            self.last_error = repr(error)
            return None

    def answers(self) -> bool:
        """A whole answer: a dead daemon's listener can still take a connection while one of its forks goes to exec."""
        return self._ask() is not None

    def one(self, name: str) -> dict[str, Any]:
        return self.status().get(name, {"state": None})

    def define(self, name: str, text: str) -> None:
        """Atomically, as an editor would: the directory is watched."""
        part = self.definitions / f".{name}.part"
        part.write_text(text.replace("ROOTFS", str(self.rootfs)))
        part.rename(self.definitions / f"{name}.yaml")

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def until(self, condition: Callable[[], bool], limit: float, what: str) -> None:
        """Polls what only a user's command shows; fails with the daemon's log."""
        deadline = time.monotonic() + limit
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} (after {limit} s)\n{self.status()}\n{self.log_text()[-6000:]}")
            time.sleep(0.02)

    def until_state(self, name: str, state: str | Sequence[str], limit: float = 20.0) -> dict[str, Any]:
        wanted = (state,) if isinstance(state, str) else tuple(state)
        seen: dict[str, Any] = {}

        def there() -> bool:
            seen.clear()
            seen.update(self.one(name))
            return seen.get("state") in wanted

        self.until(there, limit, f"{name} is not {' or '.join(wanted)}")
        return seen

    # -- the end --------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """What should be gone when all is stopped (I7)."""
        found = [f"cgroup {p}" for p in self.cgroup.glob("containers/*/g*")]
        found += [f"run directory {p}" for p in (self.base / "run/c").glob("*/g*")]
        shims = self.cgroup / "shims/cgroup.procs"
        spare = 1 if self.daemon is not None and self.daemon.poll() is None else 0
        if shims.exists() and len(shims.read_text().split()) > spare:
            found.append(f"shims {shims.read_text().split()}")
        if self._mounts() != self.mounts:
            found.append(f"{self._mounts() - self.mounts} mounts")
        return found

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self.daemon is not None and self.daemon.poll() is None:
                self.ctl("stop", "all")
                if kind is None:
                    self.until(lambda: not self.left(), 15, f"left over: {self.left()}")
                self.stop_daemon()
        finally:
            if self.daemon is not None and self.daemon.poll() is None:
                self.kill_daemon()
            self._wipe()

    def _wipe(self) -> None:
        for attempt in range(50):
            kill = self.cgroup / "cgroup.kill"
            if kill.exists():
                kill.write_text("1")
            for path in sorted(self.cgroup.rglob("*"), key=lambda p: -len(p.parts)):
                if path.is_dir():
                    try:
                        path.rmdir()
                    except OSError:
                        pass
            try:
                self.cgroup.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.01 * attempt)
        shutil.rmtree(self.base, ignore_errors=True)
