"""What keeps an idle container: memory of wharf-shim, conmon and containerd-shim-runc-v2, in one run.

    python -m tests.bench.memory [N]

N idle containers each; N processes share pages, so PSS falls with N. conmon runs with runc below it, as Podman has it.
containerd's shim is started as containerd starts it, and has no container yet: with one it is larger. `make setup`
has it, and conmon and runc.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import anyio

from runtime.ocicli.spec import example
from tests.bench.density import private, rollup
from tests.e2e.host import BIN, cgroup_mount
from tests.kernel.shimkit import exec_ops, make_lab, make_root, root_ops, self_ops


def programs(base: Path, name: str) -> list[int]:
    """Processes of the program `name` that this run began: a path of it is among their words."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if Path(words[0].decode()).name == name and any(str(base).encode() in word for word in words):
                found.append(int(entry.name))
    return sorted(found)


def figures(pids: list[int]) -> str:
    own = statistics.median(private(pid) for pid in pids)
    shared = statistics.median(rollup(pid)["Pss"] for pid in pids)
    return f"private {own:7.0f} kB   PSS {shared:7.0f} kB"


def end(pids: list[int]) -> None:
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


async def shims(base: Path, count: int) -> str:
    """Each with a container that sleeps."""
    with ExitStack() as stack:
        runs = []
        for number in range(count):
            place = base / f"shim{number}"
            place.mkdir()
            lab = stack.enter_context(make_lab(BIN / "wharf-shim", cgroup_mount(), place))
            runs.append(await lab.start([*root_ops(lab.root), *self_ops(), *exec_ops("sleep", "1000")]))
            await runs[-1].hello()
        text = figures([run.shim_pid for run in runs if run.shim_pid])
        for run in runs:
            await run.signal(signal.SIGKILL)
            await run.wait_gone()
            run.close()
    return text


@contextmanager
def conmons(base: Path, count: int, runtime: str) -> Iterator[list[int]]:
    bundle = base / "bundle"
    make_root(bundle / "rootfs")
    config = example()
    config["ociVersion"] = "1.0.2"
    config["process"].update(terminal=False, args=["/bin/sleep", "1000"])
    config["linux"].pop("resources", None)
    (bundle / "config.json").write_text(json.dumps(config))
    names = [f"bench-{os.getpid()}-{number}" for number in range(count)]
    try:
        for name in names:
            words: list[str | Path] = [
                "conmon",
                "-c",
                name,
                "-u",
                name,
                "-n",
                name,
                "-r",
                runtime,
                "-b",
                bundle,
                "-p",
                base / f"{name}.pid",
            ]
            words += ["-l", f"k8s-file:{base / name}.log", "--exit-dir", base, "--socket-dir-path", base]
            subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        yield programs(base, "conmon")
    finally:
        for name in names:
            subprocess.run([runtime, "delete", "-f", name], stderr=subprocess.DEVNULL, check=False)
        end(programs(base, "conmon"))


@contextmanager
def containerd_shims(base: Path, count: int, program: str) -> Iterator[list[int]]:
    """Each in a bundle with the FIFO that it logs to; nobody listens for its events."""
    sockets: list[Path] = []
    readers: list[int] = []
    try:
        for number in range(count):
            place = base / f"containerd{number}"
            place.mkdir()
            shutil.copy(base / "bundle/config.json", place)
            os.mkfifo(place / "log")
            readers.append(os.open(place / "log", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            words: list[str | Path] = [
                program,
                "-namespace",
                f"bench-{os.getpid()}",
                "-id",
                f"n{number}",
                "-address",
                base / "none.sock",
            ]
            words.append("start")
            done = subprocess.run(words, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, check=True)
            sockets.append(Path(done.stdout.decode().strip().removeprefix("unix://")))
        yield programs(base, "containerd-shim-runc-v2")
    finally:
        end(programs(base, "containerd-shim-runc-v2"))
        for path in sockets:
            path.unlink(missing_ok=True)
        for fd in readers:
            os.close(fd)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    base = Path(tempfile.mkdtemp(prefix="wm", dir="/run"))
    runtime = shutil.which("runc")
    try:
        print(f"median of {count} idle ones each")
        print(f"{'wharf-shim':<24} {anyio.run(shims, base, count, backend='trio')}")
        missing = [word for word in ("conmon", "runc") if shutil.which(word) is None]
        if missing:
            print(f"{'conmon':<24} not measured: {' and '.join(missing)} not installed")
            return 0
        with conmons(base, count, runtime or "") as pids:
            print(f"{'conmon':<24} {figures(pids)}" if pids else f"{'conmon':<24} did not stay")
        program = shutil.which("containerd-shim-runc-v2", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
        if program is None:
            print(f"{'containerd-shim-runc-v2':<24} not measured: it is not here; make setup fetches it")
            return 0
        with containerd_shims(base, count, program) as pids:
            print(f"{'containerd-shim-runc-v2':<24} {figures(pids)}")
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
