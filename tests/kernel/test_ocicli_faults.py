"""`wharf-oci` when things go wrong: a state that is not what it wrote, commands that are killed in their midst."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.ocikit import Oci, make_oci

pytestmark = pytest.mark.host


@pytest.fixture
def oci(shim_path: Path, cgroup2: Path, tmp_path: Path) -> Iterator[Oci]:
    with make_oci(shim_path.with_name("wharf-launch"), cgroup2, tmp_path) as made:
        yield made


@pytest.fixture
def foreign(oci: Oci) -> Iterator[Path]:
    """A cgroup of somebody else, with a process in it, and an empty one below."""
    group = oci.top / "foreign"
    (group / "below").mkdir(parents=True)
    process = subprocess.Popen(["sleep", "100"])
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        yield group
        assert process.poll() is None, "it was killed"
        assert (group / "below").is_dir()
    finally:
        process.kill()
        process.wait()
        (group / "below").rmdir()


def change(oci: Oci, **values: Any) -> None:
    file = oci.state_dir / oci.id / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("where", ["foreign", "foreign/below", "..", "gone"])
def test_a_state_that_names_anothers_cgroup_costs_it_nothing(oci: Oci, foreign: Path, where: str) -> None:
    oci.configure("sleep", "100")
    oci.quiet("run", "-d", oci.id)
    pid = oci.state()["pid"]
    group = (oci.top / where).resolve()
    change(oci, cgroup=str(group), made=[str(group)])
    if where != "gone":
        assert "its cgroup is gone" in oci("kill", "--all", oci.id, "KILL", code=1)
        assert "its cgroup is gone" in oci("pause", oci.id, code=1)
        assert "its cgroup is gone" in oci("exec", oci.id, "true", code=255)
    oci("delete", "--force", oci.id)
    assert not (oci.state_dir / oci.id).exists()
    end = time.monotonic() + 20
    while str(pid) in (oci.cgroup / "cgroup.procs").read_text().split():
        assert time.monotonic() < end, "its process runs on"
        time.sleep(0.01)


def test_a_state_that_is_not_ours_is_told_and_only_delete_force_takes_it(oci: Oci, foreign: Path) -> None:
    oci.configure("sleep", "100")
    oci.quiet("create", oci.id)
    pid = oci.state()["pid"]
    file = oci.state_dir / oci.id / "state.json"
    whole = file.read_text()
    for values in ({"cgroup": 7}, {"made": ["/"]}, {"process": [1, 0]}):
        change(oci, **values)
        assert "delete --force removes it" in oci("state", oci.id, code=1)
        assert "delete --force removes it" in oci("delete", oci.id, code=1)
        assert (oci.cgroup / "cgroup.procs").read_text().split() == [str(pid)]
        change(oci, **json.loads(whole))
    file.write_text(whole[:40])
    oci("delete", "--force", oci.id)
    assert not file.exists()
    assert (oci.cgroup / "cgroup.procs").read_text().split() == [str(pid)]  # whose it was is not known any more


def start(oci: Oci, *words: str) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    return subprocess.Popen(oci.command(*words), stdin=null, stdout=null, stderr=null, env=oci.env, cwd=oci.bundle)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_run_hands_signals_on_and_takes_everything_back(oci: Oci, number: int) -> None:
    script = "trap 'exit 40' TERM; trap 'exit 41' INT; trap 'exit 42' USR1; touch /tmp/ready; while :; do sleep 1; done"
    oci.configure("sh", "-c", script, change=lambda c: c["root"].update(readonly=False))
    process = start(oci, "run", oci.id)
    end = time.monotonic() + 20
    while not (oci.bundle / "rootfs/tmp/ready").exists():
        assert time.monotonic() < end and process.poll() is None  # noqa: PT018
        time.sleep(0.01)
    process.send_signal(number)
    expected = {signal.SIGTERM: 40, signal.SIGINT: 41, signal.SIGUSR1: 42}
    assert process.wait(20) == expected[signal.Signals(number)]
    assert oci.leftovers() == []


@pytest.mark.parametrize("command", ["create", "start", "delete"])
def test_a_command_that_is_killed_leaves_what_delete_can_take(oci: Oci, command: str) -> None:
    """At moments spread over its time, with a fixed seed."""
    luck = random.Random(command)
    oci.configure("sleep", "100")
    for _ in range(5):
        if command != "create":
            oci.quiet("create", oci.id)
        process = start(oci, command, oci.id)
        time.sleep(luck.uniform(0.02, 0.25))
        process.kill()
        process.wait()
        oci("delete", "--force", oci.id)
        assert not (oci.state_dir / oci.id).exists()
        assert not oci.cgroup.exists()
    oci.quiet("create", oci.id)  # sweeps what was half made, too
    oci("delete", oci.id)
    assert oci.leftovers() == []
