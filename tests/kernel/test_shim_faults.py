"""What fails is named, and leaves nothing behind."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC221, ASYNC240 (tests look at a real kernel)

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from config.errors import HostError, LaunchError
from runtime import launchlink, linux, shim, wire
from runtime.wire import Op, op
from tests.kernel import shimkit
from tests.kernel.shimkit import Lab, exec_ops, root_ops, self_ops, sh

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


def with_bad(lab: Lab, extra: Sequence[Op] = (), late: Sequence[Op] = (), args: Sequence[str] = ("true",)) -> list[Op]:
    return [*root_ops(lab.root, extra=extra, late=late), *self_ops(), *exec_ops(*args)]


async def assert_refused(lab: Lab, ops: Sequence[Op] | bytes, operation: str, path: str, err: int) -> LaunchError:
    fds = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LaunchError) as caught:
        await lab.start(ops)
    error = caught.value
    assert (error.operation, error.path, error.errno) == (operation, path, err), error
    assert (lab.leaf / "cgroup.procs").read_text() == ""
    lab.leaf.rmdir()
    assert list(lab.run_dir.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == fds
    return error


async def test_a_missing_program(lab: Lab) -> None:
    await assert_refused(lab, with_bad(lab, args=["/bin/nothing"]), "EXEC", "/bin/nothing", errno.ENOENT)
    await assert_refused(lab, with_bad(lab, args=["nothing"]), "EXEC", "nothing", errno.ENOENT)
    await assert_refused(lab, with_bad(lab, args=["/etc/passwd"]), "EXEC", "/etc/passwd", errno.EACCES)
    (lab.root / "bin/text").write_text("no program\n")
    (lab.root / "bin/text").chmod(0o755)
    await assert_refused(lab, with_bad(lab, args=["text"]), "EXEC", "text", errno.ENOEXEC)


@pytest.mark.parametrize(
    ("bad", "path", "err"),
    [
        (shimkit.mount("nofs", "/mnt"), "nofs", errno.ENODEV),
        (shimkit.mount("tmpfs", "/mnt", data="size=8k,colour=red"), "colour", errno.EINVAL),
        (shimkit.mount("tmpfs", "/missing", flags=0), "/missing", errno.ENOENT),
        (shimkit.mount("tmpfs", "/etc/passwd/x"), "/etc/passwd/x", errno.ENOTDIR),
        (shimkit.bind("/no/such/source", "/mnt"), "/no/such/source", errno.ENOENT),
        (shimkit.bind("/etc/passwd", "/tmp", flags=wire.BIND_FILE), "/tmp", errno.EISDIR),
        (shimkit.bind("/etc", "/etc/passwd"), "/etc/passwd", errno.ENOTDIR),
        (
            op("DEVNODE", path="/etc/passwd", mode=linux.S_IFCHR | 0o666, major=1, minor=3, uid=0, gid=0),
            "/etc/passwd",
            errno.EEXIST,
        ),
        (op("SYMLINK", target="x", path="/etc/passwd"), "/etc/passwd", errno.EEXIST),
        (op("SYSCTL", key="kernel.nothing", value="1"), "kernel.nothing", errno.ENOENT),
        (op("SYSCTL", key="../../etc/passwd", value="1"), "../../etc/passwd", errno.ENOENT),
        (op("HOSTNAME", name="x" * 65), "x" * 65, errno.EINVAL),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, Op) else "",
)
async def test_a_failed_operation_is_named(lab: Lab, bad: Op, path: str, err: int) -> None:
    passwd = (lab.root / "etc/passwd").read_bytes()
    error = await assert_refused(lab, with_bad(lab, extra=[bad]), bad.name, path, err)
    assert path in str(error)
    assert (lab.root / "etc/passwd").read_bytes() == passwd


async def test_a_missing_root(lab: Lab) -> None:
    ops = with_bad(lab)
    ops[1] = op("ROOT", path="/no/such/root", propagation=shimkit.RSLAVE)
    await assert_refused(lab, ops, "ROOT", "/no/such/root", errno.ENOENT)
    ops[1] = op("ROOT", path=str(lab.root / "etc/passwd"), propagation=shimkit.RSLAVE)
    await assert_refused(lab, ops, "ROOT", str(lab.root / "etc/passwd"), errno.ENOTDIR)


async def test_a_limit_over_the_hard_one_is_a_clear_fault(lab: Lab) -> None:
    hard = 1 << 40
    ops = [
        *root_ops(lab.root),
        op("RLIMIT", resource=linux.RLIMITS["nofile"], soft=hard, hard=hard),
        *self_ops(),
        *exec_ops("true"),
    ]
    await assert_refused(lab, ops, "RLIMIT", "resource 7", errno.EPERM)


@pytest.mark.parametrize("missing", ["NAMESPACES", "ROOT", "PIVOT", "ARG", "EXEC"])
async def test_an_incomplete_plan_is_refused(lab: Lab, missing: str) -> None:
    ops = [one for one in with_bad(lab) if one.name != missing]
    with pytest.raises(LaunchError) as caught:
        await lab.start(ops)
    assert caught.value.errno == errno.EINVAL
    assert (lab.leaf / "cgroup.procs").read_text() == ""


async def test_a_plan_cut_at_any_byte_is_refused(lab: Lab) -> None:
    whole = wire.encode(
        [op("NAMESPACES", flags=linux.CLONE_NEWNS), op("ROOT", path="/", propagation=0), *exec_ops("true")]
    )
    for size in range(len(whole)):
        with pytest.raises(LaunchError) as caught:
            await lab.start(whole[:size])
        assert (caught.value.operation, caught.value.errno) == ("plan", errno.EBADMSG), size


async def test_a_plan_that_is_not_sealed_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchlink, "_SEALS", 0)
    error = await assert_refused(lab, with_bad(lab), "plan", "the memfd is not sealed", errno.EPERM)
    assert "sealed" in str(error)


async def test_a_missing_fd_is_refused(lab: Lab) -> None:
    spare = await shim.spawn_shim(lab.shim_path)
    request = shim.StartRequest(lab.name, 1, 0, 1, oom_group=True, fds={})
    with pytest.raises(LaunchError) as caught:
        await spare.start(wire.encode(with_bad(lab)), request)
    assert (caught.value.operation, caught.value.errno) == ("start", errno.EINVAL)


async def test_no_shim_at_the_path(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        await shim.spawn_shim(tmp_path / "none")
    with pytest.raises(HostError):
        await shim.spawn_shim(Path("/bin/false"))


async def test_an_unused_spare_shim_ends_when_it_is_closed(lab: Lab) -> None:
    spare = await shim.spawn_shim(lab.shim_path)
    assert spare.alive()
    spare.close()
    assert not spare.alive()
    await gone(lab)


def slow_plan(lab: Lab) -> list[Op]:
    """A set-up of some 10 ms, so that it can be met in its middle."""
    return with_bad(lab, extra=[shimkit.mount("tmpfs", f"/tmp/{i}") for i in range(800)], args=["sleep", "1000"])


@pytest.mark.parametrize("wait", [0.0, 0.002, 0.004, 0.008, 0.016])
async def test_a_start_that_is_given_up_is_undone(lab: Lab, wait: float) -> None:
    spare = await shim.spawn_shim(lab.shim_path)
    with lab.request() as request, anyio.move_on_after(wait) as scope:
        await spare.start(wire.encode(slow_plan(lab)), request)
    assert scope.cancelled_caught
    await gone(lab)
    assert (lab.leaf / "cgroup.procs").read_text() == ""
    assert not (lab.run_dir / "sock").exists()


@pytest.mark.parametrize("wait", [0.0, 0.001, 0.002, 0.004, 0.008])
async def test_the_set_up_dies_with_its_shim(lab: Lab, wait: float) -> None:
    lab.leaf.mkdir(parents=True)
    async with anyio.create_task_group() as tasks:

        async def start() -> None:
            with pytest.raises((LaunchError, HostError)):
                await lab.start(slow_plan(lab))

        tasks.start_soon(start)
        with anyio.fail_after(10):
            while not (lab.leaf / "cgroup.procs").read_text():
                await anyio.sleep(0.0005)
        await anyio.sleep(wait)
        for pid in shims(lab.shim_path):
            if str(pid) not in (lab.leaf / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(5):
            while (lab.leaf / "cgroup.procs").read_text():
                await anyio.sleep(0.01)


async def test_a_child_that_runs_only_after_its_shims_death_ends(lab: Lab) -> None:
    """It was cloned into a frozen cgroup: it could not ask for its parent's death signal yet."""
    lab.leaf.mkdir(parents=True)
    (lab.leaf / "cgroup.freeze").write_text("1")
    async with anyio.create_task_group() as tasks:

        async def start() -> None:
            with pytest.raises((LaunchError, HostError)):
                await lab.start(sh(lab.root, "sleep 1000"))

        tasks.start_soon(start)
        with anyio.fail_after(10):
            while not (lab.leaf / "cgroup.procs").read_text():
                await anyio.sleep(0.01)
        for pid in (lab.top / "shims/cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        await gone(lab, but=1)
        (lab.leaf / "cgroup.freeze").write_text("0")
        with anyio.fail_after(5):
            while (lab.leaf / "cgroup.procs").read_text():
                await anyio.sleep(0.01)


async def test_a_container_survives_its_starter_and_is_found_again(lab: Lab) -> None:
    """The starter is another process, and is killed."""
    script = f"""
import anyio
from pathlib import Path
from tests.kernel.shimkit import *
lab = Lab(*(Path(p) for p in {[str(p) for p in (lab.shim_path, lab.root, lab.top, lab.run_dir, lab.log_dir)]!r}))
async def main():
    await lab.start(sh(lab.root, "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done"))
    print("started", flush=True)
    await anyio.sleep_forever()
anyio.run(main, backend="trio")
"""
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=shimkit.REPO)
    assert starter.stdout is not None
    with starter.stdout:
        assert await anyio.to_thread.run_sync(starter.stdout.readline) == b"started\n"
    starter.kill()
    starter.wait()
    await anyio.sleep(0.1)
    found = await shim.connect(lab.run_dir)
    assert (found.generation, found.ended) == (1, False)
    assert found.pid == int((lab.leaf / "cgroup.procs").read_text().split()[0])
    stat = Path(f"/proc/{found.shim_pid}/stat").read_text().split()
    assert stat[3] not in (str(starter.pid), str(os.getpid()))  # nobody's child
    with anyio.fail_after(10):
        await found.signal(signal.SIGTERM)
        record = await found.wait_exit()
        await found.wait_gone()
    found.close()
    assert (record.how, record.status) == ("exited", 9)
    assert "up" in lab.text()


async def test_every_signal_but_kill_leaves_the_shim_alone(lab: Lab) -> None:
    running = await lab.start(sh(lab.root, "sleep 1000"))
    await running.hello()
    assert running.shim_pid is not None
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGPIPE,
        signal.SIGUSR1,
        signal.SIGXFSZ,
        signal.SIGRTMIN,
    ):
        os.kill(running.shim_pid, number)
    await running.hello()
    await running.signal(signal.SIGKILL)
    assert (await running.wait_exit()).status == signal.SIGKILL
    running.close()


async def test_the_exit_record_waits_for_room_on_a_full_disk(lab: Lab) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", lab.run_dir], check=True)
    try:
        running = await lab.start(sh(lab.root, "sleep 0.3; exit 6"))
        with pytest.raises(OSError, match="No space"):
            (lab.run_dir / "filler").write_bytes(bytes(1 << 20))
        running.close()  # nobody is told
        await anyio.sleep(1)
        assert shim.read_exit(lab.run_dir) is None
        (lab.run_dir / "filler").unlink()
        with anyio.fail_after(10):
            while (record := shim.read_exit(lab.run_dir)) is None:
                await anyio.sleep(0.05)
        assert record.status == 6
        await gone(lab)
    finally:
        subprocess.run(["umount", "-l", lab.run_dir], check=True)


async def gone(lab: Lab, but: int = 0) -> None:
    """No shim is left, `but` so many (a child before its exec counts as one)."""
    with anyio.fail_after(10):
        while len(shims(lab.shim_path)) > but:
            await anyio.sleep(0.02)


def shims(path: Path) -> list[int]:
    """Zombies aside: they are init's to reap. By the command line: the program runs from a mount of its own."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().split(b"\0")[0] == os.fsencode(path):
                found.append(int(entry.name))
        except OSError:
            continue
    return found
