"""The state file: what is taken back, and what is refused since a delete would kill and remove by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.ocicli.process import Process
from runtime.ocicli.stdio import complete_env
from runtime.ocicli.store import CREATED, State


def state() -> State:
    return State(
        "c1",
        version="1.0.2",
        bundle="/b",
        rootfs="/b/rootfs",
        created="2026-01-01T00:00:00Z",
        phase=CREATED,
        process=Process(7, 8, "boot"),
        cgroup="/sys/fs/cgroup/a/c1",
        cgroup_id=9,
        made=("/sys/fs/cgroup/a", "/sys/fs/cgroup/a/c1"),
    )


def test_a_state_comes_back_as_it_was() -> None:
    assert State.from_json(state().to_json()).to_json() == state().to_json()


def test_a_state_that_is_cut_off_anywhere_is_refused() -> None:
    text = state().to_json()
    for size in range(len(text)):
        with pytest.raises(ValueError, match=r"."):
            State.from_json(text[:size])


@pytest.mark.parametrize(
    "values",
    [
        {"cgroup": "/sys/../etc"},
        {"cgroup": "/sys/fs/cgroup/a/c1/"},
        {"cgroup": "/sys/fs/cgroup/b"},
        {"cgroup": None},
        {"cgroup": 7},
        {"cgroup_id": "9"},
        {"made": ["/tmp"]},
        {"made": ["/"]},
        {"made": ["/sys/fs/cgroup/a/c"]},
        {"made": "x"},
        {"made": [7]},
        {"process": [1, 0]},
        {"process": ["1", 0, ""]},
        {"process": [0, 0, ""]},
        {"process": "abc"},
        {"phase": "stopped"},
        {"phase": None},
        {"id": 1},
        {"bundle": "/b\0"},
        {"more": 1},
    ],
    ids=str,
)
def test_a_state_of_another_shape_is_refused(values: dict[str, Any]) -> None:
    text = json.dumps({**json.loads(state().to_json()), **values})
    with pytest.raises(ValueError, match=r"."):
        State.from_json(text)


def test_a_cgroup_that_is_not_there_or_not_the_same_is_not_its_own(tmp_path: Path) -> None:
    one = state()
    assert not one.is_own_cgroup()
    one.cgroup = str(tmp_path)
    assert not one.is_own_cgroup()
    one.cgroup_id = tmp_path.stat().st_ino
    assert one.is_own_cgroup()
    one.cgroup_id = 0
    assert not one.is_own_cgroup()


def test_home_is_said_where_nobody_said_it(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("a:x:5:5::/home/a:/bin/sh\n")
    for uid, env, expected in ((5, ["A=b"], ["A=b", "HOME=/home/a"]), (6, [], ["HOME=/"]), (5, ["HOME="], ["HOME="])):
        process = {"user": {"uid": uid}, "env": env}
        complete_env(process, tmp_path)
        assert process["env"] == expected
