"""From the wish to the end of /bin/true in a container: the shim, wharf-oci, crun, runc and the bare floor in C.

    python -m tests.bench.launch [ROUNDS]

One turn of each a round, so that all meet the same machine: read the ratios. The shim is a spare one that waits, as
the daemon has it; its time goes from the leaf cgroup's making to init's end, its CPU counts the making of the spare
too. CPU is that of everything but this program. crun gets a mount namespace with a plain cgroup v2, since an old one
does not run on a host with both versions.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from runtime import shim
from runtime.ocicli.spec import example
from runtime.plan import compile_plan
from runtime.probe import probe
from runtime.wire import encode
from tests.e2e.host import BIN, cgroup_mount
from tests.kernel.shimkit import Lab, make_lab

HERE = Path(__file__).resolve().parent
IN_CGROUP2 = ["unshare", "-m", "sh", "-c", 'mount -t cgroup2 none /sys/fs/cgroup; exec "$@"', "sh"]  # about 2 ms
READY = 0.01  # seconds: the daemon has a spare shim long before it needs it
Took = tuple[float, float]  # wall and CPU, ms
Contender = Callable[[], Awaitable[Took]]


def bundle(lab: Lab, base: Path) -> Path:
    """The same container for all: every namespace, the default mounts, masks, capabilities and filter."""
    config = example()
    config["ociVersion"] = "1.0.2"  # what an old crun knows
    config["process"].update(terminal=False, args=["/bin/true"])
    config["root"] = {"path": str(lab.root), "readonly": False}
    config["linux"].pop("resources", None)
    config["linux"].pop("cgroupsPath", None)
    path = base / "bundle"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


def command(make: Callable[[int], list[str | Path]], cwd: Path) -> Contender:
    turn = 0

    async def run() -> Took:
        nonlocal turn
        turn += 1
        words = make(turn)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.perf_counter()
        subprocess.run(words, cwd=cwd, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: ASYNC221
        wall = time.perf_counter() - begin
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return wall * 1000, cpu * 1000

    return run


def used(cgroup: Path) -> float:
    """CPU of everything that was ever in there, ms."""
    return int((cgroup / "cpu.stat").read_text().split()[1]) / 1000


def by_shim(lab: Lab, plan: bytes, starts: list[float]) -> Contender:
    async def run() -> Took:
        lab.generation += 1
        (lab.top / "shims").mkdir(exist_ok=True)
        before = used(lab.top)
        cgroup = os.open(lab.top / "shims", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        spare = await shim.spawn_shim(lab.shim_path, cgroup)
        await anyio.sleep(READY)
        os.close(cgroup)
        begin = time.perf_counter()
        with lab.request() as request:
            running = await spare.start(plan, request)
        starts.append((time.perf_counter() - begin) * 1000)
        record = await running.wait_exit()
        wall = time.perf_counter() - begin
        assert record.status == 0
        await running.wait_gone()
        running.close()
        cpu = used(lab.top) - before
        lab.leaf.rmdir()
        return wall * 1000, cpu

    return run


def compiled_in(base: Path) -> None:
    """Python's compiled files are found, as those of an installed program, whatever this environment forbids."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(base / "compiled")


def contenders(lab: Lab, base: Path, starts: list[float]) -> dict[str, Contender]:
    path = bundle(lab, base)
    subprocess.run(["gcc", "-O2", "-static", "-o", base / "floor", HERE / "floor.c"], check=True)
    for name in ("stamps", "root/stamps"):
        (base / name).mkdir()
    spec = json.loads((path / "config.json").read_text())
    plan = encode(compile_plan(spec, lab.root, probe()).ops)
    found: dict[str, Contender] = {
        "floor (C)": command(lambda n: [base / "floor", lab.root, base / "stamps", "/bin/true", "1"], path),
        "shim": by_shim(lab, plan, starts),
    }
    root = base / "state"
    peers: dict[str, tuple[str | None, list[str]]] = {
        "wharf-oci run": (shutil.which("wharf-oci", path=str(BIN)), []),
        "crun run": (shutil.which("crun"), IN_CGROUP2),
        "runc run": (shutil.which("runc"), []),
    }
    for name, (program, before) in peers.items():
        if program is None:
            print(f"{name}: not here")
            continue
        words = [*before, program, "--root", root / name.split()[0], "run"]
        found[name] = command(lambda n, words=words: [*words, f"bench-{os.getpid()}-{n}"], path)  # type: ignore[misc]
    return found


async def rounds(found: dict[str, Contender], count: int) -> dict[str, list[Took]]:
    results: dict[str, list[Took]] = {name: [] for name in found}
    for turn in range(count + 1):
        for name, run in list(found.items()):
            try:
                took = await run()
            except (subprocess.CalledProcessError, OSError) as error:
                print(f"{name}: cannot run here: {error}")
                found.pop(name)
                continue
            if turn:  # the first warms the caches
                results[name].append(took)
    return results


def report(results: dict[str, list[Took]], starts: list[float]) -> None:
    medians = {n: tuple(statistics.median(c) for c in zip(*r, strict=True)) for n, r in results.items() if r}
    print(f"{'':<14} {'wall ms':>8} {'CPU ms':>8}" + "".join(f"  wall/{n.split()[0]:<9}" for n in medians))
    for name, (wall, cpu) in medians.items():
        print(
            f"{name:<14} {wall:8.2f} {cpu:8.2f}" + "".join(f"  {wall / other[0]:<14.2f}" for other in medians.values())
        )
    print(f"shim, until its program runs: {statistics.median(starts[1:]):.2f} ms")


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    base = Path(tempfile.mkdtemp(prefix="wl", dir="/run"))
    starts: list[float] = []
    try:
        compiled_in(base)
        with make_lab(BIN / "wharf-shim", cgroup_mount(), base) as lab:
            results = anyio.run(rounds, contenders(lab, base, starts), count, backend="trio")
        report(results, starts)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
