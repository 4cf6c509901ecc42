"""exec, as runc's command line has it: a further process in a running container."""

from __future__ import annotations

import json

import pytest

from tests.conformance.ocikit import Box, Seen


def execute(box: Box, *words: str) -> Seen:
    done = box.runtime.call("exec", *words)
    assert done.stdout.startswith("{"), done.stderr
    return Seen(json.loads(done.stdout), done.returncode)


def test_exec_joins_every_namespace(box: Box) -> None:
    first = box.up()
    assert execute(box, box.name, "/probe")["namespaces"] == first["namespaces"]


def test_exec_gets_what_the_config_says(box: Box) -> None:
    box.process.update(noNewPrivileges=True, cwd="/tmp")
    box.process["capabilities"] = {"bounding": ["CAP_KILL"]}
    box.up()
    seen = execute(box, box.name, "/probe", "a b")
    assert seen["args"] == ["/probe", "a b"]
    assert seen["cwd"] == "/tmp"
    assert seen["no_new_privs"] == 1
    assert seen["capabilities"]["bounding"] == [5]
    assert set(seen["env"]) == set(box.process["env"])
    assert set(seen["fds"]) == {"0", "1", "2"}


@pytest.mark.parametrize("code", [0, 7])
def test_exec_ends_with_the_exit_code_of_its_program(box: Box, code: int) -> None:
    box.up()
    assert execute(box, box.name, "/probe", f"exit:{code}").code == code


def test_exec_takes_user_cwd_and_environment(box: Box) -> None:
    box.up()
    seen = execute(box, "--user", "12:34", "--cwd", "/tmp", "--env", "A=b", box.name, "/probe")
    assert seen["uids"] == [12] * 3
    assert seen["gids"] == [34] * 3
    assert seen["cwd"] == "/tmp"
    assert "A=b" in seen["env"]


def test_exec_takes_a_process(box: Box) -> None:
    env = ["X=y", "HOME=/h"]
    box.up()
    path = box.bundle / "process.json"
    path.write_text(json.dumps({**box.process, "args": ["/probe", "p"], "user": {"uid": 5, "gid": 6}, "env": env}))
    seen = execute(box, "--process", str(path), box.name)
    assert seen["args"] == ["/probe", "p"]
    assert seen["uids"] == [5] * 3
    assert seen["env"] == env


@pytest.mark.parametrize("words", [["/no/such"], []])
def test_exec_of_nothing_is_an_error(box: Box, words: list[str]) -> None:
    box.up()
    assert box.runtime.call("exec", box.name, *words).returncode != 0
    assert box.state()["status"] == "running"


def test_exec_in_a_stopped_container_is_an_error(box: Box) -> None:
    box.up()
    box.stop()
    assert box.runtime.call("exec", box.name, "/bin/true").returncode != 0
