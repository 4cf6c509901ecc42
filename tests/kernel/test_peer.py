"""Containers that another OCI runtime makes: a fake one for its faults, here; the real ones run in the VM."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import pytest

from config.errors import LaunchError
from runtime import peerbundle
from runtime.peer import Peer
from tests.kernel.shimkit import Lab

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]

SPEC = {"linux": {"namespaces": [{"type": "network"}]}}
FAKE = """#!/bin/sh
# The commands of an OCI runtime, for a process in a cgroup; FAULT says what goes wrong.
FAULT="{fault}" LEAF="{leaf}" RUN="{run}"
for word; do case "$word" in create|start|delete) verb=$word;; esac; done
echo "$verb" >>"$RUN/calls"
say() {{ echo "{{\\"level\\":\\"error\\",\\"msg\\":\\"$1\\"}}" >>"$RUN/peer.log"; }}
case "$verb" in
create)
	mkdir "$RUN/peer/web"
	case "$FAULT" in
	hang) sleep 1000 ;;
	flood) yes >>"$RUN/peer.log" ;;
	words) say "no such program: No such file or directory"; exit 1 ;;
	esac
	mkfifo "$RUN/peer/web/go"
	(
		[ "$FAULT" = outside ] || sh -c 'echo $PPID' >"$LEAF/cgroup.procs"
		read -r go <"$RUN/peer/web/go"
		exec sh -c 'echo hello; exit 7'
	) &
	init=$!
	[ "$FAULT" = outside ] || until grep -qx "$init" "$LEAF/cgroup.procs"; do :; done
	[ "$FAULT" != stranger ] || init=$PPID # of the shim
	[ "$FAULT" != number ] || init=12x
	echo "$init" >"$RUN/pid"
	[ "$FAULT" != late ] || {{ say "made it and failed"; exit 1; }}
	;;
start) [ "$FAULT" != start ] || {{ say "cannot start"; exit 1; }}; echo go >"$RUN/peer/web/go" ;;
delete) [ "$FAULT" != flood ] || sleep 0.5; rm -rf "$RUN/peer/web" ;; # past a look at the log that is full
esac
"""


def fake(lab: Lab, tmp_path: Path, fault: str = "") -> Peer:
    path = tmp_path / "fake"
    path.write_text(FAKE.format(fault=fault, leaf=lab.leaf, run=lab.run_dir))
    path.chmod(0o755)
    (lab.run_dir / "peer").mkdir()
    return Peer(str(path), "fake", "1")


def left(lab: Lab) -> str:
    """Processes of the run, and the runtime's state."""
    state = os.listdir(lab.run_dir / "peer")
    return (lab.leaf / "cgroup.procs").read_text() + "".join(state)


async def test_its_code_and_output_are_exact_and_it_is_deleted(lab: Lab, tmp_path: Path) -> None:
    peer = fake(lab, tmp_path)
    running = await lab.start(peerbundle.peer_plan(lab.run_dir, peer, "web", 20, SPEC))
    record = await running.wait_exit()
    await running.wait_gone()
    running.close()
    assert (record.how, record.status, lab.text()) == ("exited", 7, "hello\n")
    assert left(lab) == ""
    assert (lab.run_dir / "calls").read_text().split() == ["create", "start", "delete"]


@pytest.mark.parametrize(
    ("fault", "words", "limit"),
    [
        ("hang", "fake create: not done within 0.5 s", 0.5),
        ("flood", "fake create: killed: it floods its log", 20),
        ("words", "fake create: No such file or directory (ENOENT): no such program: No such file or directory", 20),
        ("late", "fake create: made it and failed", 20),
        ("start", "fake start: cannot start", 20),
        ("stranger", "fake create: the pid of its pid file is no child of it", 20),
        ("number", "fake create: no pid in its pid file", 20),
        ("outside", "fake create: the pid of its pid file is not in the run's cgroup", 20),
    ],
)
async def test_a_fault_is_told_and_leaves_nothing(
    lab: Lab, tmp_path: Path, fault: str, words: str, limit: float
) -> None:
    peer = fake(lab, tmp_path, fault)
    with pytest.raises(LaunchError) as caught:
        await lab.start(peerbundle.peer_plan(lab.run_dir, peer, "web", limit, SPEC))
    assert str(peerbundle.told(caught.value, peer, lab.run_dir, limit)) == words
    assert left(lab) == ""
    assert not [p for p in (lab.top / "shims/cgroup.procs").read_text().split() if named(p, str(tmp_path))]


def named(pid: str, word: str) -> bool:
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


async def test_the_processes_of_a_sandbox_are_born_in_the_runs_cgroup(lab: Lab, tmp_path: Path) -> None:
    """gVisor makes no cgroup: it is told to leave them alone."""
    peer = Peer(fake(lab, tmp_path, "outside").path, "runsc", "1")
    running = await lab.start(peerbundle.peer_plan(lab.run_dir, peer, "web", 20, SPEC))
    record = await running.wait_exit()
    await running.wait_gone()
    running.close()
    assert (record.how, record.status, lab.text()) == ("exited", 7, "hello\n")
    assert left(lab) == ""


async def test_a_launch_that_is_given_up_is_undone(lab: Lab, tmp_path: Path) -> None:
    peer = fake(lab, tmp_path, "hang")
    with pytest.raises(TimeoutError), anyio.fail_after(0.5):
        await lab.start(peerbundle.peer_plan(lab.run_dir, peer, "web", 60, SPEC))
    assert left(lab) == ""


async def test_what_a_dead_shim_left_is_deleted_by_the_daemon(lab: Lab, tmp_path: Path) -> None:
    peer = fake(lab, tmp_path)
    (lab.run_dir / "peer/web").mkdir()
    note = {"path": peer.path, "kind": peer.kind, "id": "web", "boot_id": "this"}
    (lab.run_dir / "peer.json").write_text(json.dumps(note))
    assert peerbundle.delete(lab.run_dir, "another") == ""
    assert os.listdir(lab.run_dir / "peer") == ["web"]  # of another boot: its pids mean nothing
    assert peerbundle.delete(lab.run_dir, "this") == ""
    assert os.listdir(lab.run_dir / "peer") == []
