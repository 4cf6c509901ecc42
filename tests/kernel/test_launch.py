"""Containers without a shim: `wharf-launch` by its Python client."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from config.errors import GoneError, LaunchError
from runtime import launchlink, wire
from runtime.launchlink import Launched
from runtime.wire import Op, op
from tests.kernel import shimkit
from tests.kernel.shimkit import Lab, exec_ops, root_ops, self_ops, sh

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def subreaper() -> Iterator[None]:
    """What is launched becomes our child, as it does with conmon."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
    yield
    assert libc.prctl(36, 0, 0, 0, 0) == 0


class Bench:
    """One container's places, and what was written by it."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self.lab = lab
        self.path = path
        self.gate = lab.run_dir / "start.sock"
        self.read, self.write = os.pipe2(os.O_CLOEXEC)
        lab.leaf.mkdir(parents=True, exist_ok=True)
        self.leaf = os.open(lab.leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        for fd in (self.read, self.write, self.leaf):
            if fd >= 0:
                os.close(fd)

    def tags(self, *more: tuple[int, int]) -> list[tuple[int, int]]:
        out = [(wire.TAG_CGROUP, self.leaf), (wire.TAG_STDOUT, self.write), (wire.TAG_STDERR, self.write)]
        return [*out, *more]

    def launch(self, ops: Sequence[Op], *more: tuple[int, int], flags: int = 0) -> Launched:
        return launchlink.launch(self.path, wire.encode(ops), self.tags(*more), flags)

    def create(self, ops: Sequence[Op], *more: tuple[int, int]) -> Launched:
        with launchlink.listen(self.gate) as gate:
            return self.launch(ops, *more, (wire.TAG_GATE, gate.fileno()), flags=wire.START_CREATE)

    def output(self) -> str:
        """To its end: every process of the container has closed it."""
        os.close(self.write)
        self.write = -1
        with open(self.read, "rb", closefd=False) as file:
            return file.read().decode()

    def procs(self) -> list[str]:
        return (self.lab.leaf / "cgroup.procs").read_text().split()


def wait(one: Launched) -> int:
    """Its exit code; 128 + n for a signal."""
    try:
        assert select.select([one.pidfd], [], [], 10)[0], "it does not end"
        code = os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1])
    finally:
        os.close(one.pidfd)
    return code if code >= 0 else 128 - code


@pytest.fixture
def bench(lab: Lab) -> Iterator[Bench]:
    made = Bench(lab, lab.shim_path.with_name("wharf-launch"))
    yield made
    made.close()


def test_a_run_gives_back_the_process_that_is_then_the_subreapers(bench: Bench) -> None:
    one = bench.launch(sh(bench.lab.root, "echo pid $$; grep ^0 /proc/self/cgroup; ls -l /proc/self/fd; exit 7"))
    assert wait(one) == 7
    lines = bench.output().splitlines()
    assert lines[:2] == ["pid 1", "0::/"]
    assert [line.split()[8] for line in lines if "->" in line] == ["0", "1", "2"]
    assert bench.procs() == []


def test_stdio_is_ours_where_no_other_is_given(bench: Bench) -> None:
    saved = os.dup(1)
    try:
        os.dup2(bench.write, 1)
        plan = wire.encode(sh(bench.lab.root, "echo here"))
        one = launchlink.launch(bench.path, plan)
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert wait(one) == 0
    assert bench.output() == "here\n"


def test_a_created_container_waits_at_its_gate(bench: Bench) -> None:
    one = bench.create(sh(bench.lab.root, "echo runs"))
    assert bench.procs() == [str(one.pid)]
    assert Path(f"/proc/{one.pid}/comm").read_text() == "wharf-launch\n"
    assert not select.select([bench.read, one.pidfd], [], [], 0)[0]
    launchlink.start(bench.gate)
    assert wait(one) == 0
    assert bench.output() == "runs\n"
    with pytest.raises(GoneError):
        launchlink.start(bench.gate)


def test_only_the_launchers_user_starts_what_was_created(bench: Bench) -> None:
    """Whatever the mode of the gate's name is by then."""
    one = bench.create(sh(bench.lab.root, "echo runs"))
    bench.gate.chmod(0o666)
    script = f"""
import os, socket
os.chdir({str(bench.gate.parent)!r})
os.setuid(12345)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
    s.settimeout(10)
    s.connect({bench.gate.name!r})
    print(s.recv(10))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=20)
    assert done.stdout == b"b''\n"
    assert Path(f"/proc/{one.pid}/comm").read_text() == "wharf-launch\n"
    launchlink.start(bench.gate)
    assert wait(one) == 0
    assert bench.output() == "runs\n"


def test_what_goes_wrong_at_the_start_is_told_to_the_starter(bench: Bench) -> None:
    script = bench.lab.root / "bin/script"
    script.write_text("#!/no/such\n")
    script.chmod(0o755)
    one = bench.create([*root_ops(bench.lab.root), *self_ops(), *exec_ops("/bin/script")])
    with pytest.raises(LaunchError) as caught:
        launchlink.start(bench.gate)
    assert (caught.value.operation, caught.value.path) == ("EXEC", "/bin/script")
    assert wait(one) != 0
    assert bench.procs() == []


def test_a_created_container_that_was_killed_refuses_its_start(bench: Bench) -> None:
    one = bench.create(sh(bench.lab.root, "true"))
    signal.pidfd_send_signal(one.pidfd, signal.SIGKILL)
    assert wait(one) == 128 + signal.SIGKILL
    with pytest.raises(GoneError):
        launchlink.start(bench.gate)


def test_kept_fds_become_3_and_on(bench: Bench, tmp_path: Path) -> None:
    with ExitStack() as stack:
        fds = []
        for name in ("a", "b", "c"):
            (tmp_path / name).write_text(name)
            fds.append(os.open(tmp_path / name, os.O_RDONLY | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
        one = bench.create(
            sh(bench.lab.root, "cat <&3; cat <&4; cat <&5; ls /proc/self/fd"), *((wire.TAG_FDS, fd) for fd in fds)
        )
    launchlink.start(bench.gate)
    assert wait(one) == 0
    assert bench.output().split() == ["abc0", "1", "2", "3", "4", "5", "6"]


def test_a_failed_launch_names_its_operation_and_leaves_nothing(bench: Bench) -> None:
    before = os.listdir("/proc/self/fd")
    children = Path("/proc/thread-self/children").read_text()
    for ops, operation in (
        ([*root_ops(bench.lab.root), *self_ops(cwd="/bin/busybox"), *exec_ops("true")], "CWD"),
        ([*root_ops(bench.lab.root), *self_ops(), *exec_ops("/no/such")], "EXEC"),
        ([*root_ops(bench.lab.root / "none"), *self_ops(), *exec_ops("true")], "ROOT"),
    ):
        with pytest.raises(LaunchError) as caught:
            bench.launch(ops)
        assert caught.value.operation == operation
        assert bench.procs() == []
    assert os.listdir("/proc/self/fd") == before
    assert Path("/proc/thread-self/children").read_text() == children


@contextmanager
def running(bench: Bench) -> Iterator[Launched]:
    one = bench.launch(sh(bench.lab.root, "trap '' HUP; while :; do sleep 1000; done"))
    try:
        yield one
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(one.pidfd, signal.SIGKILL)
        wait(one)


def exec_plan(*args: str) -> list[Op]:
    return [op("JOIN", flags=shimkit.NAMESPACES), *self_ops(), *exec_ops(*args)]


def test_an_exec_joins_a_running_container(bench: Bench) -> None:
    with running(bench) as init:
        script = "for n in mnt pid net; do readlink /proc/self/ns/$n; done; grep ^0 /proc/self/cgroup; exit 5"
        one = bench.launch(exec_plan("sh", "-c", script), (wire.TAG_INIT, init.pidfd), flags=wire.START_EXEC)
        expected = [os.readlink(f"/proc/{init.pid}/ns/{n}") for n in ("mnt", "pid", "net")]
        assert wait(one) == 5
    assert bench.output().splitlines() == [*expected, "0::/"]


def test_an_exec_that_fails_leaves_the_container_alone(bench: Bench) -> None:
    with running(bench) as init:
        with pytest.raises(LaunchError) as caught:
            bench.launch(exec_plan("/no/such"), (wire.TAG_INIT, init.pidfd), flags=wire.START_EXEC)
        assert (caught.value.operation, caught.value.path) == ("EXEC", "/no/such")
        assert str(init.pid) in bench.procs()
        assert not select.select([init.pidfd], [], [], 0)[0]


@pytest.mark.parametrize(
    "more",
    [
        [op("HOOK", kind=0, timeout_ms=0, path="/bin/true"), op("HOOKARG", text="true")],
        [op("CONSOLE", rows=0, columns=0)],
        [op("HOSTNAME", name="x")],
        [op("NAMESPACES", flags=shimkit.NAMESPACES)],
    ],
    ids=lambda ops: ops[0].name,
)
def test_what_an_exec_would_not_do_is_refused(bench: Bench, more: list[Op]) -> None:
    join, *rest = exec_plan("touch", "/tmp/ran")
    with running(bench) as init:
        with pytest.raises(LaunchError) as caught:
            bench.launch([join, *more, *rest], (wire.TAG_INIT, init.pidfd), flags=wire.START_EXEC)
        assert caught.value.operation == more[0].name
        assert str(init.pid) in bench.procs()
    assert not (bench.lab.root / "tmp/ran").exists()


def test_an_exec_into_what_has_ended_is_refused(bench: Bench) -> None:
    with running(bench) as init:
        signal.pidfd_send_signal(init.pidfd, signal.SIGKILL)
        assert select.select([init.pidfd], [], [], 10)[0]
        with pytest.raises(LaunchError):
            bench.launch(exec_plan("true"), (wire.TAG_INIT, init.pidfd), flags=wire.START_EXEC)
