"""Hooks: when each runs, where, with what, and what comes of a failure; without a shim and with one."""

# ruff: noqa: ASYNC240 (tests look at a real kernel)

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from config.errors import GoneError, HostError, LaunchError
from runtime import launchlink, wire
from runtime.planhooks import Owner, hook_ops
from runtime.wire import Op
from tests.kernel.shimkit import Lab, exec_ops, root_ops, self_ops, sh
from tests.kernel.test_launch import Bench, bench, subreaper, wait

pytestmark = pytest.mark.kernel
__all__ = ["bench", "subreaper"]

# One line: name, words of its environment, working directory, mount and pid namespaces, then the state.
TELL = """#!/bin/sh
what=$1
cd=$(pwd)
{ printf '%s|%s|%s|%s|%s|' "$what" "$HOOK" "$cd" "$(readlink /proc/self/ns/mnt)" "$(readlink /proc/self/ns/uts)"
  tr -d '\\n'; echo; } >>FILE
"""


class Hooks:
    """Hook programs that write down what they see."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "told"
        self.root = lab.root
        self.spec: dict[str, Any] = {"ociVersion": "1.2.0", "annotations": {"a": 'b"c'}, "hooks": {}}
        (lab.root / "told").touch()

    def script(self, name: str, text: str, *, inside: bool = False) -> str:
        path = (self.root if inside else self.folder) / name
        path.write_text(text)
        path.chmod(0o755)
        return f"/{name}" if inside else str(path)

    def add(self, kind: str, text: str = "", **more: Any) -> str:
        inside = kind == "startContainer"
        text = text or TELL.replace("FILE", "/told" if inside else str(self.file))
        number = len(self.spec["hooks"].get(kind, ()))
        path = self.script(f"{kind}-{number}", text, inside=inside)
        hook = {"path": path, "args": ["hook", kind], "env": ["PATH=/bin:/usr/bin", f"HOOK={kind}"], **more}
        self.spec["hooks"].setdefault(kind, []).append(hook)
        return path

    def ops(self) -> list[Op]:
        return hook_ops(self.spec, Owner("web", str(self.folder)))

    def told(self, file: Path | None = None) -> dict[str, dict[str, Any]]:
        found = {}
        file = file or self.file
        for line in file.read_text().splitlines() if file.exists() else ():
            if not line.endswith("}"):
                continue  # it is being written
            name, env, cwd, mnt, uts, state = line.split("|", 5)
            found[name] = {"env": env, "cwd": cwd, "mnt": mnt, "uts": uts, "state": json.loads(state)}
        return found


@pytest.fixture
def hooks(lab: Lab, tmp_path: Path) -> Hooks:
    folder = tmp_path / "bundle"
    folder.mkdir()
    return Hooks(lab, folder)


@pytest.fixture
def bundle(hooks: Hooks) -> Iterator[tuple[int, int]]:
    fd = os.open(hooks.folder, os.O_PATH | os.O_CLOEXEC)
    yield wire.TAG_BUNDLE, fd
    os.close(fd)


def plan(lab: Lab, hooks: Hooks, script: str) -> list[Op]:
    return [*root_ops(lab.root), *self_ops(), *hooks.ops(), *exec_ops("/bin/sh", "-c", script)]


def test_each_runs_in_its_time_and_place(bench: Bench, hooks: Hooks, bundle: tuple[int, int]) -> None:
    for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"):
        hooks.add(kind)
    one = bench.create(plan(bench.lab, hooks, "cat /told"), bundle)
    mine = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "uts")}
    theirs = {kind: os.readlink(f"/proc/{one.pid}/ns/{kind}") for kind in ("mnt", "uts")}
    told = hooks.told()
    assert list(told) == ["prestart", "createRuntime", "createContainer"]
    for kind, hook in told.items():
        assert hook["env"] == kind
        assert hook["cwd"] == str(hooks.folder)
        assert {"mnt": hook["mnt"], "uts": hook["uts"]} == (theirs if kind == "createContainer" else mine)
        state = {"ociVersion": "1.2.0", "id": "web", "status": "creating", "pid": one.pid}
        assert hook["state"] == {**state, "bundle": str(hooks.folder), "annotations": {"a": 'b"c'}}
    launchlink.start(bench.gate)
    assert wait(one) == 0
    inside = hooks.told(bench.lab.root / "told")["startContainer"]
    assert (inside["env"], inside["mnt"], inside["uts"]) == ("startContainer", theirs["mnt"], theirs["uts"])
    assert (inside["state"]["status"], inside["state"]["pid"]) == ("created", one.pid)
    assert bench.output() == (bench.lab.root / "told").read_text()  # it came before the program
    assert list(hooks.told()) == ["prestart", "createRuntime", "createContainer"]  # the others are the caller's


def test_a_hook_has_no_environment_and_no_fds_but_its_own(bench: Bench, hooks: Hooks, tmp_path: Path) -> None:
    script = f"#!/bin/sh\nenv >{tmp_path}/env; ls /proc/self/fd >{tmp_path}/fds\n"
    hooks.add("createRuntime", script, env=["PATH=/bin:/usr/bin"])
    hooks.add("createContainer", f"#!/bin/sh\nls /proc/$$/fd >{tmp_path}/inside\n", env=["PATH=/bin:/usr/bin"])
    assert wait(bench.launch(plan(bench.lab, hooks, "true"))) == 0
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names <= {"PATH", "PWD", "SHLVL", "_", "OLDPWD"}
    assert (tmp_path / "fds").read_text().split() == ["0", "1", "2", "3"]


def test_mounts_of_a_hook_are_the_containers(bench: Bench, hooks: Hooks) -> None:
    root = bench.lab.root
    hooks.add("createContainer", f"#!/bin/sh\nmount -t tmpfs hook {root}/tmp && echo hi >{root}/tmp/hi\n")
    assert wait(bench.launch(plan(bench.lab, hooks, "cat /tmp/hi; ls /proc/self/exe"))) == 0
    assert bench.output() == "hi\n/proc/self/exe\n"
    assert not (root / "tmp/hi").exists()


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer"])
@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("#!/bin/sh\nexit 3\n", {}, "hook {path}: ended with exit 3"),
        ("#!/bin/sh\nkill -9 $$\n", {}, "hook {path}: ended with signal 9"),
        ("#!/bin/sh\nsleep 1000 & sleep 1000\n", {"timeout": 1}, "hook {path}: took too long"),
        ("#!/none\n", {}, "HOOK {path}: No such file or directory (ENOENT): in execve"),
    ],
)
def test_a_failed_hook_ends_the_launch(
    bench: Bench, hooks: Hooks, kind: str, text: str, more: dict[str, Any], message: str
) -> None:
    path = hooks.add(kind, text, **more)
    hooks.add(kind)
    with pytest.raises(LaunchError) as caught:
        bench.launch(plan(bench.lab, hooks, "true"))
    assert str(caught.value) == message.format(path=path)
    assert bench.procs() == []
    assert hooks.told() == {}
    assert hooks.told(bench.lab.root / "told") == {}
    assert bench.output() == ""  # nothing is left that holds it: the group of a hook ends with it


def test_a_failed_hook_of_the_start_is_told_to_the_starter(bench: Bench, hooks: Hooks) -> None:
    path = hooks.add("startContainer", "#!/bin/sh\nexit 1\n")
    one = bench.create(plan(bench.lab, hooks, "echo ran"))
    with pytest.raises(LaunchError, match=f"hook {path}: ended with exit 1"):
        launchlink.start(bench.gate)
    assert wait(one) != 0
    assert bench.output() == ""
    with pytest.raises(GoneError):
        launchlink.start(bench.gate)


def test_a_state_may_be_long(bench: Bench, hooks: Hooks) -> None:
    hooks.spec["annotations"] = {"long": "x" * 300_000}
    hooks.add("createRuntime")
    assert wait(bench.launch(plan(bench.lab, hooks, "true"))) == 0
    assert len(hooks.told()["createRuntime"]["state"]["annotations"]["long"]) == 300_000


def test_a_caller_that_goes_away_takes_hook_and_container_along(bench: Bench, hooks: Hooks, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    hooks.add("createRuntime", f"#!/bin/sh\necho $$ >{fifo}\nexec sleep 1000\n")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memfd = launchlink.sealed_plan(wire.encode(plan(bench.lab, hooks, "true")))
    with ours, theirs:
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)] if theirs.fileno() != 3 else []
        pid = os.posix_spawn(bench.path, [str(bench.path)], {}, file_actions=actions)
        theirs.close()
        tags = bench.tags()
        start = wire.Start(0, 0, 1, 0, "", (wire.TAG_PLAN, *(tag for tag, _ in tags)))
        socket.send_fds(ours, [start.pack()], [memfd, *(fd for _, fd in tags)])
        hook = os.pidfd_open(int(fifo.read_text()))
    os.close(memfd)
    assert os.waitpid(pid, 0)[0] == pid
    assert select.select([hook], [], [], 10)[0]
    os.close(hook)
    assert bench.procs() == []


@pytest.mark.parametrize("way", ["launch", "create"])
def test_a_launcher_that_is_killed_before_its_answer_leaves_no_container(bench: Bench, hooks: Hooks, way: str) -> None:
    hooks.add("createRuntime", "#!/bin/sh\nkill -9 $PPID\n")
    with pytest.raises(HostError):
        getattr(bench, way)(plan(bench.lab, hooks, "touch /ran; sleep 1000"))
    limit = time.monotonic() + 10
    while bench.procs():
        assert time.monotonic() < limit, "it waits for ever"
        time.sleep(0.01)
    assert not (bench.lab.root / "ran").exists()


# With a shim.


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.mark.anyio
async def test_the_shim_runs_all_six(lab: Lab, hooks: Hooks, bundle: tuple[int, int]) -> None:
    kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    for kind in kinds:
        hooks.add(kind)
    lab.extra_fds[bundle[0]] = bundle[1]
    one = await lab.start(plan(lab, hooks, "until grep poststart /told; do sleep 0.01; done"))
    try:
        with anyio.fail_after(10):
            while "poststart" not in hooks.told():  # noqa: ASYNC110
                await anyio.sleep(0.01)
        told = hooks.told()["poststart"]
        assert told["state"] == {**told["state"], "status": "running", "pid": one.pid}
        assert (told["cwd"], told["mnt"]) == (str(hooks.folder), os.readlink("/proc/self/ns/mnt"))
        await one.signal(signal.SIGKILL)
        with anyio.fail_after(10):
            await one.wait_gone()
    finally:
        one.close()
    told = hooks.told()
    assert list(told) == [kind for kind in kinds if kind != "startContainer"]
    assert told["poststop"]["state"] == {**told["poststop"]["state"], "status": "stopped", "pid": 0}
    assert told["poststop"]["cwd"] == str(hooks.folder)


@pytest.mark.anyio
async def test_a_late_hook_that_fails_or_hangs_is_told_in_the_log_and_nothing_else(lab: Lab, hooks: Hooks) -> None:
    hanging = hooks.add("poststart", "#!/bin/sh\nexec sleep 1000\n", timeout=1)
    failing = hooks.add("poststop", "#!/bin/sh\nexit 4\n")
    hooks.add("poststop")
    record, _ = await lab.run(plan(lab, hooks, "exit 7"))
    assert (record.how, record.status) == ("exited", 7)
    text = lab.text()
    assert f"wharf-shim: hook {hanging} failed: timeout\n" in text
    assert f"wharf-shim: hook {failing} failed: exit 4\n" in text
    assert list(hooks.told()) == ["poststop"]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["createRuntime", "createContainer"])
async def test_a_hook_dies_with_its_shim(lab: Lab, hooks: Hooks, kind: str) -> None:
    """Nobody is left who would end it when its time is over."""
    hooks.add(kind, f"#!/bin/sh\n: >{hooks.file}.begun\nexec sleep 1000\n")
    begun = Path(f"{hooks.file}.begun")

    async def start() -> None:
        with pytest.raises((GoneError, LaunchError, HostError)):
            await lab.start(plan(lab, hooks, "true"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        with anyio.fail_after(10):
            while not begun.exists():  # noqa: ASYNC110
                await anyio.sleep(0.01)
        in_shims, in_leaf = ((path / "cgroup.procs").read_text().split() for path in (lab.top / "shims", lab.leaf))
        shims = [pid for pid in in_shims if Path(f"/proc/{pid}/comm").read_text().startswith("shim:")]
        fds = [os.pidfd_open(int(pid)) for pid in {*in_shims, *in_leaf} - {*shims}]
        assert fds  # the hook, and the container's process
        for pid in shims:
            os.kill(int(pid), signal.SIGKILL)
    try:
        for fd in fds:
            assert select.select([fd], [], [], 10)[0], "the hook lives on"
    finally:
        for fd in fds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)


@pytest.mark.anyio
async def test_a_hook_over_its_time_ends_with_all_that_it_began(lab: Lab, hooks: Hooks) -> None:
    path = hooks.add("createRuntime", "#!/bin/sh\nsleep 1000 &\nwait\n", timeout=1)
    with pytest.raises(LaunchError, match=f"hook {path}"):
        await lab.start(plan(lab, hooks, "true"))
    with anyio.fail_after(10):
        while (lab.top / "shims/cgroup.procs").read_text():  # noqa: ASYNC110 (the kernel tells nobody)
            await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_what_hooks_write_is_in_the_log_and_bounded(lab: Lab, hooks: Hooks) -> None:
    """Also what floods, what hangs while it does, and what writes to both without a newline."""
    flood = "#!/bin/sh\nyes flooding | head -n 100000\n"
    kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    paths = {kind: hooks.add(kind, f"#!/bin/sh\necho from {kind}; printf 'and its stderr' >&2\n") for kind in kinds}
    floods = [hooks.add(kind, flood) for kind in ("createRuntime", "createContainer", "poststop")]
    endless = hooks.add("poststart", "#!/bin/sh\nexec yes\n", timeout=1)
    with anyio.fail_after(30):
        record, text = await lab.run(plan(lab, hooks, "exit 7"))
    assert (record.how, record.status) == ("exited", 7)
    lines = text.splitlines()
    for kind, path in paths.items():
        for wrote in (f"from {kind}", "and its stderr"):
            assert sum(line.endswith(f"hook {path}: {wrote}") for line in lines) == 1, (kind, text)
    for path in (*floods, endless):
        own = [line for line in lines if f"hook {path}: " in line]
        assert 1 < len(own) <= 33, (path, len(own))
        assert own[-1].endswith("(more)")
    assert f"wharf-shim: hook {endless} failed: timeout" in lines


@pytest.mark.anyio
async def test_what_a_hook_said_of_a_launch_that_failed_is_in_the_log(lab: Lab, hooks: Hooks) -> None:
    path = hooks.add("prestart", "#!/bin/sh\necho the bridge is gone >&2; exit 1\n")
    with pytest.raises(LaunchError, match=f"hook {path}: ended with exit 1"):
        await lab.start(plan(lab, hooks, "true"))
    assert f"hook {path}: the bridge is gone\n" in lab.text()


@pytest.mark.anyio
async def test_a_launch_that_fails_ends_with_its_poststop_hooks(lab: Lab, hooks: Hooks) -> None:
    path = hooks.add("createRuntime", "#!/bin/sh\nexit 1\n")
    hooks.add("poststop")
    with pytest.raises(LaunchError, match=f"hook {path}: ended with exit 1"):
        await lab.start(plan(lab, hooks, "true"))
    assert list(hooks.told()) == ["poststop"]
    assert (lab.leaf / "cgroup.procs").read_text() == ""


@pytest.mark.anyio
async def test_without_late_hooks_nothing_is_kept(lab: Lab) -> None:
    record, text = await lab.run(sh(lab.root, "echo hi"))
    assert (record.status, text) == (0, "hi\n")
