"""A bundle for one container, a runtime's command line to drive it, and what its probe said."""

from __future__ import annotations

import copy
import json
import os
import select
import shutil
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Config = dict[str, Any]
LIMIT = 20.0  # seconds that one call, or one line of a container, may take
BUSYBOX = "/usr/bin/busybox"

DEFAULT: Config = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["/probe"],
        "env": ["PATH=/bin", "HOME=/root"],
        "cwd": "/",
        "capabilities": {},
    },
    "root": {"path": "rootfs"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ],
    "linux": {"namespaces": [{"type": t} for t in ("pid", "mount", "ipc", "uts", "network", "cgroup")]},
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime's program, and the directory of its states."""

    program: str
    root: Path

    @property
    def name(self) -> str:
        return Path(self.program).name

    def call(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        command = [self.program, "--root", str(self.root), *words]
        return subprocess.run(command, text=True, stdin=subprocess.DEVNULL, timeout=LIMIT, check=False, **more)


def find_runtime() -> str | None:
    """OCI_RUNTIME, a name or a path; else ours beside the interpreter."""
    given = os.environ.get("OCI_RUNTIME")
    if given:
        return shutil.which(given)
    ours = Path(sys.executable).parent / "wharf-oci"
    return str(ours) if ours.exists() else None


@dataclass(slots=True)
class Seen:
    """The probe's report, and how its container ended."""

    said: dict[str, Any]
    code: int

    def __getitem__(self, name: str) -> Any:
        return self.said[name]

    @property
    def did(self) -> list[tuple[int, str]]:
        """Errno (0: it worked) and words of every verb."""
        return [(number, words) for number, words in self.said["did"]]

    def status(self, name: str) -> str:
        """A line of /proc/self/status."""
        text: str = self["status"]
        lines = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        return lines[name].strip()

    def mount(self, target: str) -> Mount:
        """The topmost mount on a target."""
        found = [m for m in map(Mount.of, self["mountinfo"].splitlines()) if m.target == target]
        assert found, f"nothing is mounted on {target}:\n{self['mountinfo']}"
        return found[-1]

    def mounted(self) -> list[str]:
        return [Mount.of(line).target for line in self["mountinfo"].splitlines()]


@dataclass(frozen=True, slots=True)
class Mount:
    target: str
    options: frozenset[str]
    tags: frozenset[str]
    type: str
    data: frozenset[str]

    @classmethod
    def of(cls, line: str) -> Mount:
        left, _, right = line.partition(" - ")
        first, second = left.split(" "), right.split(" ")
        tags = frozenset(t.split(":")[0] for t in first[6:] if t)
        return cls(first[4], frozenset(first[5].split(",")), tags, second[0], frozenset(second[-1].split(",")))


@dataclass(slots=True)
class Box:
    """One container: its config is changed by the test, then the runtime is called."""

    runtime: Runtime
    bundle: Path
    name: str = field(default_factory=lambda: f"wc{uuid.uuid4().hex[:12]}")
    config: Config = field(default_factory=lambda: copy.deepcopy(DEFAULT))
    output: int = -1
    rest: bytes = b""

    def __post_init__(self) -> None:
        self.linux["cgroupsPath"] = f"/{self.name}"

    @property
    def process(self) -> Config:
        return self.config["process"]  # type: ignore[no-any-return]

    @property
    def linux(self) -> Config:
        return self.config["linux"]  # type: ignore[no-any-return]

    @property
    def rootfs(self) -> Path:
        return self.bundle / "rootfs"

    def args(self, *words: str) -> None:
        self.process["args"] = ["/probe", *words]

    def mount(self, target: str, type: str = "tmpfs", source: str = "tmpfs", options: tuple[str, ...] = ()) -> None:  # noqa: A002
        entry = {"destination": target, "type": type, "source": source, "options": list(options)}
        self.config["mounts"].append(entry)

    def write(self) -> None:
        (self.bundle / "config.json").write_text(json.dumps(self.config))

    def run(self, *words: str) -> Seen:
        """Run the probe with verbs, in the foreground."""
        if words:
            self.args(*words)
        self.write()
        done = self.runtime.call("run", "--bundle", str(self.bundle), self.name)
        assert done.stdout.startswith("{"), f"run: exit code {done.returncode}: {done.stderr}"
        return Seen(json.loads(done.stdout.partition("\n")[0]), done.returncode)

    def raw_run(self) -> subprocess.CompletedProcess[str]:
        self.write()
        return self.runtime.call("run", "--bundle", str(self.bundle), self.name)

    def try_create(self, *options: str, cwd: Path | None = None, bundle: str = "") -> tuple[int, str]:
        """Exit code and what it said; the container's output is `line`'s."""
        self.write()
        self.close()
        self.output, theirs = os.pipe()
        errors = self.bundle / "stderr"
        try:
            with errors.open("w") as stderr:
                words = ("create", "--bundle", bundle or str(self.bundle), *options, self.name)
                done = self.runtime.call(*words, stdout=theirs, stderr=stderr, cwd=cwd)
        finally:
            os.close(theirs)
        return done.returncode, errors.read_text()

    def create(self, *options: str) -> None:
        code, said = self.try_create(*options)
        assert code == 0, said

    def start(self) -> None:
        done = self.runtime.call("start", self.name)
        assert done.returncode == 0, done.stderr

    def line(self) -> str:
        """The next line of a created container's output; empty when it has ended."""
        end = time.monotonic() + LIMIT
        while b"\n" not in self.rest:
            left = end - time.monotonic()
            assert left > 0 and select.select([self.output], [], [], left)[0], "no line came"  # noqa: PT018
            got = os.read(self.output, 1 << 16)
            if not got:
                break
            self.rest += got
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()

    def up(self, *words: str) -> Seen:
        """Create and start a probe that waits for a signal."""
        self.args(*words, "wait")
        self.create()
        self.start()
        said = json.loads(self.line())
        assert self.line() == "waiting"
        return Seen(said, 0)

    def state(self) -> Config:
        done = self.runtime.call("state", self.name)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def wait_stopped(self) -> Config:
        """The state, once the runtime says that the container has stopped. The output's end comes a moment before."""
        end = time.monotonic() + LIMIT
        while (state := self.state())["status"] != "stopped":
            assert time.monotonic() < end, state
            os.sched_yield()
        return state

    def wait_ended(self) -> None:
        """Until it has stopped, or is gone altogether."""
        end = time.monotonic() + LIMIT
        while self.exists() and self.state()["status"] != "stopped":
            assert time.monotonic() < end

    def exists(self) -> bool:
        return self.runtime.call("state", self.name).returncode == 0

    def kill(self, signal: str = "KILL") -> None:
        done = self.runtime.call("kill", self.name, signal)
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        self.kill()
        while self.line():
            pass
        self.wait_stopped()

    def delete(self, *options: str) -> None:
        done = self.runtime.call("delete", *options, self.name)
        assert done.returncode == 0, done.stderr

    def refused(self) -> str:
        """Create, or at the latest start, must fail, and leave no container. Its words."""
        code, said = self.try_create()
        if code == 0:
            done = self.runtime.call("start", self.name)
            assert done.returncode != 0, "create and start both took it"
            self.runtime.call("delete", "--force", self.name)
            said += done.stderr
        assert not self.exists()
        assert not cgroups_named(self.name)
        return said

    def close(self) -> None:
        if self.output >= 0:
            os.close(self.output)
        self.output, self.rest = -1, b""

    def clean(self) -> None:
        self.close()
        if (self.runtime.root / self.name).exists():
            self.runtime.call("delete", "--force", self.name)
        for path in cgroups_named(self.name):
            for child in [*path.glob("*/"), path]:
                try:
                    child.rmdir()
                except OSError:
                    pass


def cgroups_named(name: str) -> list[Path]:
    top = Path("/sys/fs/cgroup")
    return [p for p in (top / name, *top.glob(f"*/{name}")) if p.is_dir()]


def make_template(into: Path) -> Path:
    """What every root holds: the probe, busybox, and the places of mounts."""
    source = Path(__file__).with_name("probe.c")
    cc = os.environ.get("CC", "cc")
    command = [cc, "-static", "-O1", "-o", str(into / "probe"), str(source)]
    subprocess.run(command, check=True, timeout=110)
    shutil.copy2(BUSYBOX, into / "busybox")
    return into


def make_bundle(path: Path, template: Path) -> Path:
    root = path / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "root", "mnt"):
        (root / name).mkdir(parents=True)
    os.link(template / "probe", root / "probe")
    os.link(template / "busybox", root / "bin/busybox")
    for name in ("sh", "true", "cat", "sleep", "echo"):
        (root / "bin" / name).symlink_to("busybox")
    return path
