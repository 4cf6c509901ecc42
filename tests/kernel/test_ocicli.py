"""`wharf-oci` on real containers: the life of one, what is refused, what is left."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.ocikit import Config, Oci, make_oci

pytestmark = pytest.mark.host  # the life of a container in the VM too: tests/conformance, test_engines.py


@pytest.fixture
def oci(shim_path: Path, cgroup2: Path, tmp_path: Path) -> Iterator[Oci]:
    with make_oci(shim_path.with_name("wharf-launch"), cgroup2, tmp_path) as made:
        yield made


def test_the_life_of_a_container(oci: Oci, tmp_path: Path) -> None:
    oci.configure("sh", "-c", "touch /tmp/ran; exec sleep 100", change=lambda c: c["root"].update(readonly=False))
    oci.quiet("create", "--pid-file", str(tmp_path / "pid"), oci.id)
    made = oci.state()
    assert made["status"] == "created"
    assert made["bundle"] == str(oci.bundle)
    assert made["pid"] == int((tmp_path / "pid").read_text())
    assert (oci.cgroup / "cgroup.procs").read_text().split() == [str(made["pid"])]
    assert not (oci.bundle / "rootfs/tmp/ran").exists()
    oci("start", oci.id)
    assert oci.wait("running")["pid"] == made["pid"]
    assert json.loads(oci("ps", "--format", "json", oci.id)) == [made["pid"]]
    [row] = json.loads(oci("list", "--format", "json"))
    assert (row["id"], row["status"], row["pid"]) == (oci.id, "running", made["pid"])
    assert oci("list", "-q") == f"{oci.id}\n"
    oci("kill", oci.id, "KILL")
    assert oci.wait("stopped")["pid"] == 0
    assert (oci.bundle / "rootfs/tmp/ran").exists()
    oci("delete", oci.id)
    assert oci.leftovers() == []


def test_what_the_state_forbids_changes_nothing(oci: Oci) -> None:
    oci.configure("sleep", "100")
    oci.quiet("create", oci.id)
    assert "already exists" in oci.quiet("create", oci.id, code=1)
    oci("start", oci.id)
    pid = oci.wait("running")["pid"]
    assert "is running already" in oci("start", oci.id, code=1)
    assert "not stopped: running" in oci("delete", oci.id, code=1)
    assert "not paused" in oci("resume", oci.id, code=1)
    assert oci.state() == {**oci.state(), "status": "running", "pid": pid}
    oci("kill", oci.id, "9")
    oci.wait("stopped")
    assert "container not running" in oci("kill", oci.id, "TERM", code=1)
    oci("kill", "--all", oci.id, "KILL")  # what is left of it, if any
    assert "has stopped" in oci("start", oci.id, code=1)
    assert "it is stopped" in oci("exec", oci.id, "true", code=255)
    assert "it is stopped" in oci("pause", oci.id, code=1)
    oci("delete", oci.id)
    assert "does not exist" in oci("delete", oci.id, code=1)


def test_delete_force_ends_whatever_runs(oci: Oci) -> None:
    oci.configure("sh", "-c", "sleep 100 & setsid sleep 100 & wait")
    oci.quiet("run", "--detach", oci.id)
    oci("delete", "--force", oci.id)
    assert oci.leftovers() == []
    oci("delete", "--force", oci.id)


def test_a_created_container_can_be_deleted(oci: Oci) -> None:
    """containerd does so, and asks no force."""
    oci.configure("sleep", "100")
    oci.quiet("create", oci.id)
    oci("delete", oci.id)
    assert oci.leftovers() == []


def test_run_ends_as_its_program_does(oci: Oci) -> None:
    oci.configure("sh", "-c", "echo $1 out; echo err >&2; exit 7", "sh", "hello")
    assert "hello out" in oci("run", oci.id, code=7)
    oci.configure("sh", "-c", "kill -9 $$ || true; kill -15 1; sleep 100", change=_host_pids)
    assert oci("run", oci.id, code=128 + 9) == ""
    assert oci.leftovers() == []


def _host_pids(config: Config) -> None:
    """A shell that is process 1 of its namespace cannot kill itself."""
    spaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [space for space in spaces if space["type"] != "pid"]


def test_a_failed_create_leaves_nothing(oci: Oci, tmp_path: Path) -> None:
    oci.configure("sleep", "100", change=lambda c: c["mounts"].append({"destination": "/x", "source": "/no-such"}))
    assert "/no-such" in oci.quiet("create", oci.id, code=1)
    oci.configure("sleep", "100", change=lambda c: c["linux"].update(cgroupsPath="/x.slice:y:z"))
    assert "a unit of systemd" in oci.quiet("create", oci.id, code=1)
    oci.configure("sleep", "100")
    missing = tmp_path / "no-such/pid"
    assert str(missing) in oci.quiet("create", "--pid-file", str(missing), oci.id, code=1)
    assert oci.leftovers() == []


def test_a_program_that_is_not_there_is_told_by_create(oci: Oci) -> None:
    oci.configure("no-such-program")
    assert "executable file not found in $PATH" in oci.quiet("create", oci.id, code=1)
    for path, why in (("/bin/no-such", "ENOENT"), ("/etc/passwd", "EACCES"), ("/tmp", "EACCES"), ("passwd", "$PATH")):
        oci.configure(path)
        assert why in oci.quiet("create", oci.id, code=1)
    oci.configure("./sh", "-c", "exit 6", change=lambda c: c["process"].update(cwd="/bin"))
    oci.quiet("run", oci.id, code=6)
    oci.quiet("create", oci.id)
    assert oci.leftovers() == [str(oci.state_dir / oci.id), str(oci.cgroup)]


def test_a_program_that_went_meanwhile_is_told_by_start(oci: Oci) -> None:
    oci.configure("sleep", "100")
    oci.quiet("create", oci.id)
    (oci.bundle / "rootfs/bin/sleep").unlink()
    assert "executable file not found in $PATH" in oci("start", oci.id, code=1)
    assert oci.wait("stopped")["pid"] == 0


def test_exec_joins_the_container(oci: Oci, tmp_path: Path) -> None:
    oci.configure("sleep", "100")
    oci.quiet("run", "-d", oci.id)
    script = "echo $A; id -u; id -g; pwd; readlink /proc/1/ns/mnt; readlink /proc/self/ns/mnt; exit 9"
    told = oci("exec", "-e", "A=b c", "-u", "5:6", "--cwd", "/tmp", oci.id, "sh", "-c", script, code=9).splitlines()
    assert told[:4] == ["b c", "5", "6", "/tmp"]
    file = tmp_path / "process.json"
    file.write_text(json.dumps({"args": ["sh", "-c", "kill -TERM $$"], "cwd": "/", "env": ["PATH=/bin"]}))
    oci("exec", "--process", str(file), oci.id, code=128 + signal.SIGTERM)
    pid_file = tmp_path / "pid"
    oci.quiet("exec", "-d", "--pid-file", str(pid_file), oci.id, "sleep", "50")
    assert int(pid_file.read_text()) in json.loads(oci("ps", "-f", "json", oci.id))
    assert "executable file not found" in oci("exec", oci.id, "no-such-program", code=255)
    assert "neither a command" in oci("exec", oci.id, code=255)


def test_preserved_fds_are_the_programs(oci: Oci, tmp_path: Path) -> None:
    oci.configure("sh", "-c", "cat <&3; ls /proc/self/fd | wc -l")
    (tmp_path / "file").write_text("from outside\n")
    told = oci("run", "--preserve-fds", "1", oci.id, before=["sh", "-c", 'exec "$@" 3<"$0"', str(tmp_path / "file")])
    assert told.splitlines() == ["from outside", "5"]  # 0 to 3, and ls's own
    assert "descriptor 3 is not open" in oci("run", "--preserve-fds", "1", oci.id, code=1)
