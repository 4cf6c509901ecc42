"""containerd and Podman, as Debian packages them, on `wharf-oci`; everything of theirs below one directory."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
OURS = BIN / "wharf-oci"
LIMIT = 60.0

_CONTAINERD = """version = 2
root = "{base}/lib"
state = "{base}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.overlayfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{base}/c.sock"
"""

# its own pid namespace: whatever it leaves running dies with it. Its own /run: what it writes there is seen by nobody
_SPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_INSIDE = "mount -t tmpfs none /run && mkdir /run/w && exec containerd -c {base}/config.toml"


def program(name: str) -> str:
    """Its path. The set-up has it wherever there is apt."""
    found = shutil.which(name, path=f"{BIN}:{os.environ['PATH']}")
    if found is None and shutil.which("apt-get") is None:
        pytest.skip(f"{name} is not here, and no apt to get it")
    assert found, f"{name} is part of the set-up"
    return found


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LISTEN_", "NOTIFY_", "CONTAINER"))}
    return {**kept, "PATH": f"{BIN}:{os.environ['PATH']}"}


class Containerd:
    """A daemon, and `ctr` beside it in the same namespaces."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.name = f"wharf-test-{uuid.uuid4().hex[:8]}"  # of its namespace, which names the cgroup above
        self._ctr = program("ctr")
        program("containerd")
        program("containerd-shim-runc-v2")
        (base / "config.toml").write_text(_CONTAINERD.format(base=base))
        with (base / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                [*_SPACES, "sh", "-c", _INSIDE.format(base=base)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )
        end = time.monotonic() + LIMIT
        while not (base / "c.sock").exists():
            assert time.monotonic() < end and self._daemon.poll() is None, self.log()  # noqa: PT018
            time.sleep(0.02)
        children = Path(f"/proc/{self._daemon.pid}/task/{self._daemon.pid}/children").read_text().split()
        self._pid = children[0]

    def log(self) -> str:
        return (self.base / "log").read_text(errors="replace")[-4000:]

    def words(self, *words: str) -> list[str]:
        enter = ["nsenter", "-t", self._pid, "-m", "-p"]
        return [*enter, self._ctr, "-a", f"{self.base}/c.sock", "-n", self.name, *words]

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run `ctr` to its end; what it said."""
        done = subprocess.run(
            self.words(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr, self.log())
        return done.stdout + done.stderr

    def on_terminal(self, *words: str, typed: bytes) -> tuple[int, str]:
        """Run `ctr` on a terminal of ours that `typed` comes from; exit code and what the terminal showed."""
        master, slave = pty.openpty()
        process = subprocess.Popen(self.words(*words), stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        shown = b""
        try:
            os.write(master, typed)
            with suppress(OSError):  # EIO: nobody has the other end any more
                while piece := os.read(master, 4096):
                    shown += piece
            return process.wait(LIMIT), shown.decode(errors="replace")
        finally:
            process.kill()
            process.wait()
            os.close(master)

    def status(self, name: str) -> str:
        """Of a task; empty when there is none."""
        rows = [line.split() for line in self("task", "ls").splitlines()[1:]]
        return next((row[2] for row in rows if row[0] == name), "")

    def until(self, name: str, status: str) -> None:
        end = time.monotonic() + LIMIT
        while (seen := self.status(name)) != status:
            assert time.monotonic() < end, (name, seen, self.log())
            time.sleep(0.02)

    def close(self) -> None:
        self._daemon.kill()
        self._daemon.wait()


@contextmanager
def make_containerd(base: Path) -> Iterator[Containerd]:
    base.mkdir(exist_ok=True)
    made = Containerd(base)
    try:
        yield made
    finally:
        made.close()


class Podman:
    """Podman with its storage, state and configuration below `base`. It asks the host for no controllers."""

    def __init__(self, base: Path, group: str) -> None:
        (base / "conf").write_text("[containers]\npids_limit = 0\ndefault_ulimits = ['nofile=99:99', 'nproc=99:99']\n")
        (base / "empty").write_text("")
        self._run = ["run", "--cgroups", "no-conmon", "--cgroup-parent", group, "--network", "none"]
        self._env = {
            **environment(),
            "CONTAINERS_CONF": str(base / "conf"),
            "CONTAINERS_REGISTRIES_CONF": str(base / "empty"),
        }
        self._words = [program("podman"), "--root", f"{base}/s", "--runroot", f"{base}/r", "--tmpdir", f"{base}/t"]
        self._words += ["--storage-driver", "vfs", "--events-backend", "file", "--cgroup-manager", "cgroupfs"]
        self._words += ["--conmon", program("conmon"), "--runtime", str(OURS)]

    def run(self, *words: str, code: int = 0) -> str:
        return self(*self._run, *words, code=code)

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [*self._words, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            env=self._env,
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr
