"""Other runtimes: their versions and holes, what they are given, and what is read of what they say."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from config.errors import LaunchError, RefusedError
from runtime import peerbundle, wire
from runtime.peer import Peer, Peers, parse_version, vulnerabilities


def test_versions_are_ordered_as_their_releases() -> None:
    texts = ["0.10.5", "1.0.0-rc6", "1.0.0-rc.93", "1.0.0", "1.1.5+ds1", "1.2", "v1.2.8", "release-20240401.0"]
    numbers = [parse_version(text) for text in texts]
    assert None not in numbers
    assert numbers == sorted(numbers, key=lambda number: number or ())
    assert parse_version("main") is None


@pytest.mark.parametrize(
    ("kind", "version", "cve", "has"),
    [
        ("runc", "1.1.5+ds1", "CVE-2024-21626", True),
        ("runc", "1.0.0-rc92", "CVE-2024-21626", False),
        ("runc", "1.1.12", "CVE-2024-21626", False),
        ("runc", "1.2.8", "CVE-2025-31133", False),
        ("runc", "1.3.2", "CVE-2025-31133", True),
        ("runc", "1.2.9", "CVE-2026-41579", True),  # its line has no fix
        ("runc", "1.4.0-rc.3", "CVE-2025-52881", False),
        ("runc", "1.5.0", "CVE-2026-41579", False),
        ("runc", "1.0.0-rc94", "CVE-2023-27561", False),  # a regression
        ("runc", "1.0.0-rc95", "CVE-2023-27561", True),
        ("crun", "1.26", "CVE-2026-30892", False),  # of its exec
        ("crun", "1.27.1", "CVE-2026-47766", True),
        ("crun", "1.29.1", "CVE-2026-88264", True),
        ("crun", "1.29.2", "CVE-2026-88264", False),
    ],
)
def test_holes_of_a_version(kind: str, version: str, cve: str, has: bool) -> None:
    assert (cve in vulnerabilities(kind, version)) is has


def test_the_latest_known_versions_and_strangers_have_none() -> None:
    assert [vulnerabilities(*one) for one in (("crun", "1.30"), ("runc", "1.5.0"), ("other", "1"), ("runc", "?"))] == [
        (),
        (),
        (),
        (),
    ]


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="a runtime must be root's")
def test_a_program_is_asked_once_until_it_changes(tmp_path: Path) -> None:
    path = program(tmp_path / "crun", f"echo x >>{tmp_path}/asked; echo crun version 1.8.1")
    peers = Peers({"crun": str(path)})
    with pytest.raises(RefusedError, match="crun 1.8.1 has .*CVE-2026-88264.*allow_vulnerable_runtime"):
        peers.allowed("crun", False)
    assert peers.allowed("crun", True) == Peer(str(path), "crun", "1.8.1")
    assert (tmp_path / "asked").read_text() == "x\n"
    later = program(tmp_path / "new", "echo crun version 1.30")
    later.rename(path)
    assert peers.allowed("crun", False).version == "1.30"


@pytest.mark.skipif(os.geteuid() != 0, reason="a runtime must be root's")
def test_what_is_no_runtime_is_told(tmp_path: Path) -> None:
    peers = Peers(search=str(tmp_path))
    with pytest.raises(LaunchError, match="runc: is not installed"):
        peers.look("runc")
    with pytest.raises(LaunchError, match="says 'hello'"):
        peers.look(str(program(tmp_path / "a", "echo hello")))
    path = program(tmp_path / "b", "echo b version 1")
    path.chmod(0o777)
    with pytest.raises(RefusedError, match="others than root"):
        peers.look(str(path))


SPEC = {
    "ociVersion": "1.2.1",
    "root": {"path": "rootfs", "readonly": True},
    "process": {"args": ["x"], "cwd": "/"},
    "linux": {"namespaces": [], "resources": {"memory": {"limit": 5}, "devices": [{"allow": False}]}},
}


def test_the_spec_of_another_runtime_has_our_cgroup_and_no_limits() -> None:
    made = peerbundle.peer_spec(SPEC, Path("/srv/web"), "/a/g1")
    assert made["root"] == {"path": "/srv/web", "readonly": True}
    assert made["process"]["oomScoreAdj"] == 0
    assert made["linux"] == {"namespaces": [], "cgroupsPath": "/a/g1", "resources": {"devices": [{"allow": False}]}}
    assert SPEC["ociVersion"] == "1.2.1"
    with pytest.raises(RefusedError, match="terminal"):
        peerbundle.peer_spec({**SPEC, "process": {"terminal": True}}, Path("/"), "/a")


def test_the_plan_has_each_command_once_and_bounded() -> None:
    ops = wire.decode(peerbundle.peer_plan(Path("/run/g1"), Peer("/bin/crun", "crun", "1"), "web-g1", 30, SPEC))
    assert [(one["kind"], one["timeout_ms"]) for one in ops if one.name == "PEER"] == [
        (0, 30000),
        (1, 30000),
        (2, 5000),
    ]
    words = [str(one["text"]) for one in ops if one.name == "ARG"]
    assert words.count("/bin/crun") == 3
    assert words[-3:] == ["delete", "--force", "web-g1"]


def test_a_shim_that_keeps_its_run_is_told_and_the_rest_is_done(tmp_path: Path) -> None:
    delete = program(tmp_path / "fake", f"rm -r {tmp_path}/run/peer/web")
    run = tmp_path / "run"
    (run / "peer/web").mkdir(parents=True)
    (run / "peer.json").write_text(json.dumps({"path": str(delete), "id": "web", "boot_id": "this"}))
    held = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert peerbundle.delete(run, "this", 0.2) == f"its shim is not done with {run} within 0.2 s"
    finally:
        os.close(held)
    assert os.listdir(run / "peer") == []
    assert peerbundle.delete(run, "this", 0.2) == ""


@pytest.mark.parametrize(
    ("spaces", "network"),
    [([{"type": "network"}], "none"), ([], "host"), ([{"type": "network", "path": "/proc/1/ns/net"}], "sandbox")],
)
def test_gvisor_makes_no_cgroups_and_has_the_network_of_the_spec(spaces: list[dict[str, str]], network: str) -> None:
    spec = {"linux": {"namespaces": [{"type": "mount"}, *spaces]}}
    ops = wire.decode(peerbundle.peer_plan(Path("/run/g1"), Peer("/bin/runsc", "runsc", "1"), "web-g1", 30, spec))
    assert [one["flags"] for one in ops if one.name == "PEER"] == [wire.PEER_INSIDE, 0, 0]
    words = [str(one["text"]) for one in ops if one.name == "ARG"]
    assert words.count("--ignore-cgroups") == 3
    assert words[words.index("--network") + 1] == network


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", ""),
        (json.dumps({"level": "warning", "msg": "w"}), ""),
        (json.dumps({"level": "error", "msg": "two\nlines"}), "two lines"),
        (json.dumps({"msg": "first"}) + "\nplain words\n", "plain words"),
        ("[" * 100000, "[" * 65536),
        ("3\nnull\n", ""),
    ],
)
def test_the_last_error_of_a_log(tmp_path: Path, log: str, said: str) -> None:
    (tmp_path / "peer.log").write_text(log)
    assert peerbundle.last_error(tmp_path / "peer.log") == said


def test_a_fault_is_told_in_the_runtimes_words(tmp_path: Path) -> None:
    (tmp_path / "peer.log").write_text(json.dumps({"level": "error", "msg": "exec x: no such file or directory"}))
    told = peerbundle.told(LaunchError("PEER", "exit 1", 5, "in create"), Peer("/x", "runc", "1"), tmp_path, 3)
    assert (told.errno, str(told)) == (
        2,
        "runc create: No such file or directory (ENOENT): exec x: no such file or directory",
    )
    died = LaunchError("init", "", 0, "killed by its memory limit during set-up (exit 1, oom_kill 1)")
    assert "memory limit" in str(peerbundle.told(died, Peer("/x", "runc", "1"), tmp_path, 3))
