"""runtime.md: State, Lifecycle, Operations."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conformance.ocikit import Box, Runtime, cgroups_named


def test_create_gives_the_state_that_the_spec_names(box: Box) -> None:
    """runtime.md, "State"."""
    box.config["annotations"] = {"org.example.key": "a value", "org.example.empty": ""}
    box.create()
    state = box.state()
    assert state["id"] == box.name
    assert state["status"] == "created"
    assert state["bundle"] == str(box.bundle)
    assert state["ociVersion"].startswith("1.")
    assert state["annotations"].items() >= box.config["annotations"].items()
    assert Path(f"/proc/{state['pid']}").exists()


def test_the_bundle_is_told_absolute_when_it_was_given_relative(box: Box) -> None:
    """runtime.md, "State": bundle."""
    code, said = box.try_create(cwd=box.bundle.parent, bundle=box.bundle.name)
    assert code == 0, said
    assert box.state()["bundle"] == str(box.bundle)


def test_create_does_not_run_the_program(box: Box) -> None:
    """runtime.md, "Create": process.args MUST NOT be applied until start."""
    box.process["args"] = ["/bin/sh", "-c", "echo ran > /ran; echo ran"]
    box.create()
    assert not (box.rootfs / "ran").exists()
    box.start()
    assert box.line() == "ran"
    assert (box.rootfs / "ran").exists()


def test_a_config_that_changes_after_create_changes_nothing(box: Box) -> None:
    """runtime.md, "Lifecycle", step 2."""
    box.process["args"] = ["/bin/echo", "first"]
    box.create()
    box.process["args"] = ["/bin/echo", "second"]
    box.write()
    box.start()
    assert box.line() == "first"


@pytest.mark.parametrize("command", ["create", "start", "state", "kill", "delete"])
def test_a_command_without_an_id_is_an_error(runtime: Runtime, command: str, tmp_path: Path) -> None:
    """runtime.md, "Operations": MUST generate an error if it is not provided the ID."""
    assert runtime.call(command, cwd=tmp_path).returncode != 0


@pytest.mark.parametrize("command", ["start", "state", "kill", "delete"])
def test_a_command_for_an_unknown_container_is_an_error(runtime: Runtime, command: str) -> None:
    """runtime.md, "Operations"."""
    assert runtime.call(command, "no-such-container").returncode != 0


def test_create_without_a_config_is_an_error(box: Box) -> None:
    """runtime.md, "Create": a path to the bundle."""
    assert box.runtime.call("create", "--bundle", str(box.rootfs), box.name).returncode != 0
    assert not box.exists()


def test_create_of_an_id_that_is_taken_is_an_error(box: Box) -> None:
    """runtime.md, "Create": unique, and a new container MUST NOT be created."""
    box.create()
    before = box.state()
    again = box.runtime.call("create", "--bundle", str(box.bundle), box.name)
    assert again.returncode != 0
    assert box.state() == before


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a b"])
def test_an_id_that_is_no_name_is_refused(box: Box, name: str) -> None:
    """runtime.md, "Create": not valid in any other way."""
    box.write()
    assert box.runtime.call("create", "--bundle", str(box.bundle), name).returncode != 0


def test_start_runs_the_program(box: Box) -> None:
    """runtime.md, "Start"."""
    box.up()
    assert box.state()["status"] == "running"


def test_start_of_a_running_container_is_an_error_and_does_nothing(box: Box) -> None:
    """runtime.md, "Start": MUST have no effect on the container."""
    box.up()
    before = box.state()
    assert box.runtime.call("start", box.name).returncode != 0
    assert box.state() == before


def test_start_of_a_stopped_container_is_an_error(box: Box) -> None:
    """runtime.md, "Start"."""
    box.process["args"] = ["/bin/true"]
    box.create()
    box.start()
    box.wait_stopped()
    assert box.runtime.call("start", box.name).returncode != 0
    assert box.state()["status"] == "stopped"


def test_create_or_start_without_a_process_is_an_error(box: Box) -> None:
    """runtime.md, "Start": MUST generate an error if process was not set."""
    del box.config["process"]
    box.refused()


@pytest.mark.parametrize("signal", ["TERM", "SIGUSR1", "10", "SIGHUP", "34"])
def test_kill_sends_the_signal_that_was_asked_for(box: Box, signal: str) -> None:
    """runtime.md, "Kill"."""
    box.up()
    box.kill(signal)
    number = {"TERM": 15, "SIGUSR1": 10, "SIGHUP": 1}.get(signal) or int(signal)
    assert box.line() == f"signal {number}"


def test_kill_of_a_created_container_stops_it(box: Box) -> None:
    """runtime.md, "Kill": neither created nor running is an error; created is not."""
    box.create()
    box.kill()
    assert box.wait_stopped()["status"] == "stopped"


def test_kill_of_a_stopped_container_is_an_error(box: Box) -> None:
    """runtime.md, "Kill"."""
    box.process["args"] = ["/bin/true"]
    box.create()
    box.start()
    box.wait_stopped()
    assert box.runtime.call("kill", box.name, "KILL").returncode != 0


@pytest.mark.parametrize("signal", ["NOSUCH", "999", "-1", "1x"])
def test_kill_with_what_is_no_signal_is_an_error(box: Box, signal: str) -> None:
    """runtime.md, "Kill"; nothing is sent."""
    box.up()
    assert box.runtime.call("kill", box.name, signal).returncode != 0
    assert box.state()["status"] == "running"


def test_delete_of_a_container_that_runs_is_an_error(box: Box) -> None:
    """runtime.md, "Delete": not stopped MUST have no effect.

    A container that is only created is deleted by runc, crun and ours all the same: engines rely on it.
    """
    box.up()
    before = box.state()
    assert box.runtime.call("delete", box.name).returncode != 0
    assert box.state() == before


def test_delete_leaves_nothing_of_the_container_and_all_else(box: Box) -> None:
    """runtime.md, "Delete": resources created by create, and no others."""
    box.up()
    assert cgroups_named(box.name)
    before = sorted(os.listdir(box.bundle))
    box.stop()
    box.delete()
    assert not box.exists()
    assert not cgroups_named(box.name)
    assert not (box.runtime.root / box.name).exists()
    assert sorted(os.listdir(box.bundle)) == before


def test_an_id_may_be_used_again_after_delete(box: Box) -> None:
    """runtime.md, "Delete"."""
    for _ in range(2):
        box.process["args"] = ["/bin/true"]
        box.create()
        box.start()
        box.wait_stopped()
        box.delete()
    assert not box.exists()


@pytest.mark.parametrize("started", [False, True], ids=["created", "running"])
def test_delete_by_force_ends_a_container(box: Box, started: bool) -> None:
    if started:
        box.up()
    else:
        box.create()
    box.delete("--force")
    assert not box.exists()
    assert not cgroups_named(box.name)


def test_delete_by_force_of_nothing_is_no_error(runtime: Runtime) -> None:
    assert runtime.call("delete", "--force", "no-such-container").returncode == 0


@pytest.mark.parametrize("code", [0, 3, 255])
def test_run_ends_with_the_exit_code_of_the_program(box: Box, code: int) -> None:
    assert box.run(f"exit:{code}").code == code
    assert not box.exists()


def test_run_ends_with_128_and_the_signal(box: Box) -> None:
    box.process["args"] = ["/bin/sh", "-c", "(sleep 0; exit 9); kill -9 $$; exit 1"]
    box.linux["namespaces"] = [n for n in box.linux["namespaces"] if n["type"] != "pid"]
    assert box.raw_run().returncode == 137


def test_the_pid_file_holds_the_pid_of_the_state(box: Box) -> None:
    path = box.bundle / "pid"
    box.create("--pid-file", str(path))
    assert int(path.read_text()) == box.state()["pid"]


def test_list_tells_the_containers(box: Box) -> None:
    box.create()
    done = box.runtime.call("list", "--format", "json")
    found = {c["id"]: c for c in json.loads(done.stdout)}
    assert found[box.name]["status"] == "created"
    assert found[box.name]["pid"] == box.state()["pid"]


def test_pause_and_resume(box: Box) -> None:
    """runtime.md, "State": further values represent new states."""
    box.up()
    assert box.runtime.call("pause", box.name).returncode == 0
    assert box.state()["status"] == "paused"
    assert box.runtime.call("resume", box.name).returncode == 0
    assert box.state()["status"] == "running"
    box.kill("TERM")
    assert box.line() == "signal 15"


def test_unknown_properties_are_ignored(box: Box) -> None:
    """config.md, "Extensibility": MUST otherwise ignore them."""
    box.config["org.example"] = {"a": 1}
    box.config["annotations"] = {"org.opencontainers.unknown": "x"}
    assert box.run().code == 0


@pytest.mark.parametrize("where", ["process", "root", "linux", "mounts", "user", "hooks"])
def test_unknown_properties_of_a_part_are_ignored(box: Box, where: str) -> None:
    """config.md, "Extensibility"."""
    parts = {"mounts": box.config["mounts"][0], "user": box.process["user"], "hooks": {}}
    part = parts.get(where) or box.config.setdefault(where, {})
    part["orgExampleUnknown"] = {"a": 1} if where != "hooks" else []
    assert box.run().code == 0


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.1", "1.3.0"])
def test_a_version_that_we_are_compatible_with_is_taken(box: Box, version: str) -> None:
    """config.md, "Specification version": 1.1 runs on any 1.1 or later."""
    box.config["ociVersion"] = version
    assert box.run().code == 0


@pytest.mark.parametrize("version", [None, "2.0.0", "x", 1])
def test_a_version_that_is_none_is_refused(box: Box, version: object) -> None:
    """config.md, "Specification version": REQUIRED, SemVer."""
    box.config["ociVersion"] = version
    if version is None:
        del box.config["ociVersion"]
    box.refused()
