"""Every failure of a system call during the set-up, and death at each, leaves nothing: by strace's injection."""

# ruff: noqa: ASYNC110 (tests look at a real kernel)

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from config.errors import GoneError, HostError, LaunchError
from runtime import shim, wire
from runtime.wire import op
from tests.kernel.shimkit import SANITIZED, Lab, exec_ops, root_ops, self_ops
from tests.kernel.test_shim_faults import gone

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.anyio,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.environ.get("WHARFINGER_VM") == "1", reason="slow in the VM, and the same there"),
    pytest.mark.skipif(shutil.which("strace") is None or SANITIZED, reason="needs strace and the real program"),
]

CALLS = (
    "clone3",
    "fsmount",
    "move_mount",
    "pivot_root",
    "poll",
    "recvfrom",
    "sendto",
    "pipe2",
    "mmap",
    "setresuid",
    "execve",
)


def write_wrapper(lab: Lab, path: Path, call: str, action: str, when: int) -> Path:
    """A program that is the shim under a detached strace; what was injected stands in `path`.hit."""
    hit = path.with_suffix(".hit")
    hit.unlink(missing_ok=True)
    strace = f"strace -D -f -qq -o {hit} -e trace={call} -e inject={call}:{action}:when={when}"
    path.write_text(f"#!/bin/sh\nexec {strace} {lab.shim_path}\n")
    path.chmod(0o755)
    return path


async def start_and_end(lab: Lab, program: Path, plan: bytes) -> bool:
    """Whether a run came to its own end; every other outcome must be an error of ours."""
    try:
        spare = await shim.spawn_shim(program)
        with lab.request() as request:
            one = await spare.start(plan, request)
    except (LaunchError, HostError, GoneError):
        return False
    try:
        return (await one.wait_exit()).how == "exited"
    except GoneError:
        return False
    finally:
        one.close()


@pytest.mark.parametrize("action", ["error=ENOMEM", "signal=KILL"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_failure_at_any_call_leaves_nothing(lab: Lab, tmp_path: Path, call: str, action: str) -> None:
    late = [op("MASK", path="/proc/keys"), op("MASK", path="/proc/irq")]
    plan = wire.encode([*root_ops(lab.root, late=late), *self_ops(uid=5), *exec_ops("/bin/true")])
    failed = 0
    for when in range(1, 40):
        lab.generation = when
        program = write_wrapper(lab, tmp_path / "program", call, action, when)
        with anyio.fail_after(30):
            clean = await start_and_end(lab, program, plan)
            await gone(lab)
            while (lab.leaf / "cgroup.procs").read_text():
                await anyio.sleep(0.01)
        if action != "signal=KILL":  # a killed shim cannot remove it: the next one does
            assert not (lab.run_dir / "sock").exists()
        with suppress(FileNotFoundError):
            (lab.run_dir / "exit").unlink()
        failed += not clean
        hit = tmp_path / "program.hit"
        if clean and not (hit.exists() and any(w in hit.read_text() for w in ("INJECTED", "KILL"))):
            break
    else:
        pytest.fail("never came to a clean run")
    assert failed >= 1
