"""Engines that know nothing of us: containerd and Podman run their containers with `wharf-oci`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.enginekit import OURS, Containerd, Podman, make_containerd
from tests.kernel.ocikit import Config, Oci, make_oci
from tests.kernel.shimkit import make_root


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with make_containerd(tmp_path_factory.mktemp("containerd")) as made:
        yield made


@pytest.fixture
def oci(shim_path: Path, cgroup2: Path, tmp_path: Path) -> Iterator[Oci]:
    """For its bundle and its cgroup."""
    with make_oci(shim_path.with_name("wharf-launch"), cgroup2, tmp_path) as made:
        made.id = tmp_path.name
        yield made


@pytest.fixture
def podman(oci: Oci) -> Iterator[Podman]:
    with tempfile.TemporaryDirectory(prefix="p", dir="/run", ignore_cleanup_errors=True) as base:  # its paths are short
        yield Podman(Path(base), f"/{oci.top.name}")


def run(oci: Oci, *options: str) -> tuple[str, ...]:
    """Of `ctr`, with a config.json that asks no controllers of the host."""
    return ("run", *options, "--runc-binary", str(OURS), "--config", str(oci.bundle / "config.json"), oci.id)


def whole(config: Config, oci: Oci) -> None:
    config["root"] = {"path": str(oci.bundle / "rootfs"), "readonly": True}


@pytest.mark.host
def test_containerd_runs_a_container_to_its_exit_code(oci: Oci, containerd: Containerd) -> None:
    oci.configure("sh", "-c", "echo out; echo err >&2; exit 7", change=lambda c: whole(c, oci))
    told = containerd(*run(oci, "--rm"), code=7)
    assert {"out", "err"} <= set(told.split())
    assert containerd.status(oci.id) == ""
    assert oci.leftovers() == []


@pytest.mark.host
def test_containerd_detaches_logs_execs_kills_and_deletes(oci: Oci, containerd: Containerd, tmp_path: Path) -> None:
    log = tmp_path / "log"
    oci.configure("sh", "-c", "echo begun; exec sleep 100", change=lambda c: whole(c, oci))
    containerd(*run(oci, "-d", "--log-uri", f"file://{log}"))
    containerd.until(oci.id, "RUNNING")
    told = containerd("task", "exec", "--exec-id", "e1", oci.id, "sh", "-c", "cat /proc/1/comm; exit 3", code=3)
    assert told == "sleep\n"
    assert "executable file not found" in containerd("task", "exec", "--exec-id", "e2", oci.id, "no-such", code=1)
    containerd("task", "pause", oci.id)
    assert "frozen 1" in (oci.cgroup / "cgroup.events").read_text()
    assert containerd.status(oci.id) == "PAUSED"
    containerd("task", "resume", oci.id)
    containerd("task", "kill", "-s", "SIGKILL", oci.id)
    containerd.until(oci.id, "STOPPED")
    assert log.read_text() == "begun\n"
    assert "exit code 137" in containerd("task", "delete", oci.id)
    containerd("container", "delete", oci.id)
    assert oci.leftovers() == []


@pytest.mark.host
def test_containerd_gives_a_container_a_terminal(oci: Oci, containerd: Containerd) -> None:
    def change(config: Config) -> None:
        whole(config, oci)
        config["process"]["terminal"] = True

    oci.configure("sh", "-c", 'test -t 0 && read -r line && echo "it reads $line"; exit 5', change=change)
    code, shown = containerd.on_terminal(*run(oci, "--rm", "-t"), typed=b"hello\n")
    assert "it reads hello" in shown
    assert code == 5


@pytest.mark.host
def test_containerd_is_told_at_create_that_there_is_no_program(oci: Oci, containerd: Containerd) -> None:
    oci.configure("no-such-program", change=lambda c: whole(c, oci))
    told = containerd(*run(oci, "--rm"), code=1)
    assert "failed to create shim task" in told
    assert "executable file not found in $PATH" in told
    assert oci.leftovers() == []


@pytest.mark.vm
def test_containerd_limits_what_it_runs_from_a_directory(cgroup2: Path, tmp_path: Path, containerd: Containerd) -> None:
    root = make_root(tmp_path / "root")
    words = ("run", "-d", "--runc-binary", str(OURS), "--memory-limit", "16777216", "--rootfs", str(root), "limited")
    containerd(*words, "sleep", "100")
    group = cgroup2 / containerd.name / "limited"
    assert (group / "memory.max").read_text() == "16777216\n"
    assert len((group / "cgroup.procs").read_text().split()) == 1
    containerd("task", "delete", "--force", "limited")
    assert not group.exists()


@pytest.mark.host
def test_podman_runs_logs_execs_and_removes(oci: Oci, podman: Podman) -> None:
    root = str(oci.bundle / "rootfs")
    assert podman.run("--rm", "--rootfs", root, "sh", "-c", "echo out; exit 7", code=7) == "out\n"
    podman.run("-d", "--name", "web", "--rootfs", root, "sh", "-c", "echo begun; exec sleep 100")
    assert podman("exec", "web", "sh", "-c", "cat /proc/1/comm; exit 4", code=4) == "sleep\n"
    assert podman("logs", "web") == "begun\n"
    podman("rm", "-f", "-t", "0", "web")
    assert podman("ps", "-a", "-q") == ""
    assert oci.leftovers() == []


@pytest.mark.host
def test_podman_tells_a_missing_program_from_one_that_may_not_run(oci: Oci, podman: Podman) -> None:
    root = str(oci.bundle / "rootfs")
    podman.run("--rm", "--rootfs", root, "no-such-program", code=127)
    podman.run("--rm", "--rootfs", root, "/etc/passwd", code=126)
    assert oci.leftovers() == []
