"""Real shims for the tests of this folder: a busybox root, a leaf cgroup, a run directory, and plans by hand."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from config.errors import GoneError
from runtime import linux, shim, wire
from runtime.wire import Op, op

REPO = Path(__file__).parents[2]
BUSYBOX = "/usr/bin/busybox"
SANITIZED = "asan" in os.environ.get("WHARFINGER_SHIM", "")  # a path that says so: dynamic, and large
NAMESPACES = (
    linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWCGROUP
)
RSLAVE = linux.MS_SLAVE | linux.MS_REC
SAFE = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC
DEFAULT_CAPS = 0xA80425FB  # the 14 of Docker


def build_shim(into: Path) -> Path:
    """A copy of `wharf-shim` (by WHARFINGER_SHIM, beside the interpreter, or built here).

    A copy, since tests look for its processes.
    """
    given = os.environ.get("WHARFINGER_SHIM")
    installed = Path(given) if given else Path(sys.executable).parent / "wharf-shim"
    sources = [REPO / "CMakeLists.txt", *(REPO / "runtime/native").iterdir()]
    if not given and not (installed.exists() and installed.stat().st_mtime >= max(s.stat().st_mtime for s in sources)):
        cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}") or "cmake"
        for command in ([cmake, "-S", str(REPO), "-B", str(into)], [cmake, "--build", str(into)]):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=110)
        return into / "wharf-shim"
    shutil.copy2(installed.with_name("wharf-launch"), into / "wharf-launch")
    return Path(shutil.copy2(installed, into / "wharf-shim"))


def make_root(path: Path) -> Path:
    """A root with busybox and all its applets."""
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    applets.remove("busybox")
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "root"):
        (path / name).mkdir(parents=True)
    shutil.copy2(BUSYBOX, path / "bin/busybox")
    for name in [
        "sh",
        "cat",
        "echo",
        "ls",
        "id",
        "sleep",
        "true",
        "false",
        "kill",
        "dd",
        "yes",
        "mkdir",
        "touch",
        "stat",
        "mount",
        "readlink",
        "ps",
        "grep",
        "setsid",
        "tr",
        "wc",
        "head",
        "seq",
        "printf",
        "env",
        "hostname",
        "umount",
        "ip",
        "cut",
        "df",
        "test",
        "mknod",
        "chmod",
        "sort",
        "pwd",
        "ulimit",
        "nslookup",
        "uname",
    ]:
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    return path


def root_ops(
    root: Path, *, namespaces: int = NAMESPACES, extra: Sequence[Op] = (), late: Sequence[Op] = ()
) -> list[Op]:
    """Namespaces, root, /proc, /dev with nodes; `extra` before PIVOT, `late` after it."""
    devices = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))
    return [
        op("NAMESPACES", flags=namespaces),
        op("ROOT", path=str(root), propagation=RSLAVE),
        mount("proc", "/proc", SAFE),
        mount("tmpfs", "/dev", linux.MOUNT_ATTR_NOSUID, "mode=755,size=65536k"),
        mount("devpts", "/dev/pts", SAFE & ~linux.MOUNT_ATTR_NODEV, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        mount("tmpfs", "/dev/shm", SAFE, "mode=1777,size=65536k"),
        *(node(f"/dev/{name}", minor) for name, minor in devices),
        op("SYMLINK", target="/proc/self/fd", path="/dev/fd"),
        op("SYMLINK", target="/proc/self/fd/1", path="/dev/stdout"),
        *extra,
        op("PIVOT"),
        *late,
    ]


def mount(fstype: str, target: str, attr: int = 0, data: str = "", flags: int = wire.MOUNT_CREATE) -> Op:
    return op("MOUNT", fstype=fstype, source=fstype, target=target, attr=attr, data=data, flags=flags)


def bind(source: str | Path, target: str, attr: int = 0, flags: int = wire.BIND_RECURSIVE, propagation: int = 0) -> Op:
    propagation = propagation or linux.MS_PRIVATE | linux.MS_REC
    return op(
        "BIND", source=str(source), target=target, attr_set=attr, attr_clr=0, propagation=propagation, flags=flags
    )


def node(path: str, minor: int, major: int = 1) -> Op:
    return op("DEVNODE", path=path, mode=linux.S_IFCHR | 0o666, major=major, minor=minor, uid=0, gid=0)


def self_ops(
    *, uid: int = 0, gid: int = 0, groups: Sequence[int] = (), caps: int = DEFAULT_CAPS, cwd: str = "/"
) -> list[Op]:
    usable = caps if uid == 0 else 0
    return [
        op("OOMADJ", score=0),
        op("UMASK", mask=0o022),
        op("SETSID"),
        op("KEYRING"),
        op("CAPS", bounding=caps, effective=usable, permitted=usable, inheritable=0, ambient=0),
        op("USER", uid=uid, gid=gid, groups=wire.groups_bytes(groups)),
        op("CWD", path=cwd),
        op("NNP"),
    ]


def exec_ops(*args: str, env: Mapping[str, str] | None = None) -> list[Op]:
    env = {"PATH": "/bin", **(env or {})}
    return [*(op("ENV", text=f"{k}={v}") for k, v in env.items()), *(op("ARG", text=a) for a in args), op("EXEC")]


def sh(root: Path, script: str) -> list[Op]:
    return [*root_ops(root), *self_ops(), *exec_ops("/bin/sh", "-c", script)]


@dataclass
class Lab:
    """One container's places: `leaf` and `parent` cgroups, run and log directory."""

    shim_path: Path
    root: Path
    top: Path  # a cgroup of our own
    run_dir: Path
    log_dir: Path
    name: str = "web"
    generation: int = 1
    extra_fds: dict[int, int] = field(default_factory=dict)

    @property
    def parent(self) -> Path:
        return self.top / "containers" / self.name

    @property
    def leaf(self) -> Path:
        return self.parent / f"g{self.generation}"

    @property
    def log(self) -> Path:
        return self.log_dir / "current.log"

    @contextmanager
    def request(self, *, max_size: int = 0, max_files: int = 1) -> Iterator[shim.StartRequest]:
        self.leaf.mkdir(parents=True, exist_ok=True)
        (self.top / "shims").mkdir(exist_ok=True)
        with ExitStack() as stack:

            def opened(path: Path) -> int:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                return fd

            fds = {
                wire.TAG_RUNDIR: opened(self.run_dir),
                wire.TAG_LOGDIR: opened(self.log_dir),
                wire.TAG_CGROUP: opened(self.leaf),
                wire.TAG_CGPARENT: opened(self.parent),
                wire.TAG_SHIMCG: opened(self.top / "shims"),
                **self.extra_fds,
            }
            yield shim.StartRequest(self.name, self.generation, max_size, max_files, True, fds)

    async def start(self, ops: Sequence[Op] | bytes, *, max_size: int = 0, max_files: int = 1) -> shim.Shim:
        (self.top / "shims").mkdir(exist_ok=True)
        fd = os.open(self.top / "shims", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            spare = await shim.spawn_shim(self.shim_path, fd)
        finally:
            os.close(fd)
        with self.request(max_size=max_size, max_files=max_files) as request:
            return await spare.start(ops if isinstance(ops, bytes) else wire.encode(ops), request)

    async def run(self, ops: Sequence[Op], **limits: int) -> tuple[shim.ExitRecord, str]:
        """To the end; the record and what the container wrote."""
        running = await self.start(ops, **limits)
        try:
            record = await running.wait_exit()
            await running.wait_gone()
            return record, self.text()
        finally:
            running.close()

    def text(self) -> str:
        """Contents of the log without its headers."""
        if not self.log.exists():  # it is made with its first line
            return ""
        log = self.log.read_bytes().decode(errors="surrogateescape")  # no newline translation
        return "".join(
            text + ("\n" if tag == "F" else "") for _, tag, text in (parse_line(x) for x in log.split("\n")[:-1])
        )

    def clean(self) -> None:
        """Kill and remove the cgroups, bottom-up."""
        with suppress(OSError):
            (self.top / "containers/cgroup.kill").write_text("1")
        for path in sorted(self.top.rglob("*"), key=lambda p: -len(p.parts)):
            if path.is_dir():
                remove_cgroup(path)
        remove_cgroup(self.top)


@asynccontextmanager
async def killed_after(one: shim.Shim) -> AsyncIterator[shim.Shim]:
    """At the end its container is killed, and its shim has ended by itself."""
    try:
        yield one
    finally:
        with suppress(GoneError):
            await one.signal(signal.SIGKILL)
        with anyio.fail_after(10):
            await one.wait_gone()
        one.close()


def remove_cgroup(path: Path) -> None:
    for _ in range(200):
        try:
            path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            if path.name == "shims":
                for pid in (path / "cgroup.procs").read_text().split():
                    with suppress(OSError):
                        os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.02)
    raise AssertionError(f"{path} does not go away")


def parse_line(line: str) -> tuple[str, str, str]:
    """Stream, tag, text of a CRI log line."""
    _, stream, tag, *text = line.split(" ", 3)
    return stream, tag, text[0] if text else ""


@contextmanager
def make_lab(shim_path: Path, cgroup2: Path, tmp_path: Path) -> Iterator[Lab]:
    top = cgroup2 / f"wharf-test-{uuid.uuid4().hex[:8]}"
    lab = Lab(shim_path, make_root(tmp_path / "root"), top, tmp_path / "run", tmp_path / "log")
    for path in (top, top / "containers", lab.run_dir, lab.log_dir):
        path.mkdir()
    for controller in ("memory", "pids"):
        for level in (cgroup2, top, top / "containers"):
            with suppress(OSError):
                (level / "cgroup.subtree_control").write_text(f"+{controller}")
    lab.parent.mkdir()
    try:
        yield lab
    finally:
        lab.clean()
