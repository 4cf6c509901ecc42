"""Which change of a definition needs a restart."""

from __future__ import annotations

from typing import Any

import pytest

from config.changes import LIVE, Change, diff
from config.model import Container

ROOT: dict[str, Any] = {"name": "web", "rootfs": "/srv/web", "command": ["run"]}
# For each field another value than the default (or than ROOT's).
OTHER: dict[str, Any] = {
    "rootfs": "/other",
    "command": ["walk"],
    "entrypoint": ["sh"],
    "environment": {"A": "1"},
    "working_dir": "/w",
    "user": "1",
    "group_add": ["5"],
    "umask": 0,
    "hostname": "h",
    "domainname": "d",
    "restart": {"policy": "no"},
    "success_exit_codes": [1],
    "stop_signal": "INT",
    "stop_grace_period": 5,
    "autostart": False,
    "start_timeout": 5,
    "healthy_after": 5,
    "resources": {"memory": "64M"},
    "oom": {"group": False},
    "pressure": {"memory": "off"},
    "on_pressure": "restart",
    "oom_score_adj": 5,
    "healthcheck": {"test": "x"},
    "depends_on": ["db"],
    "mounts": [{"type": "tmpfs", "target": "/t"}],
    "tmpfs": ["/t"],
    "read_only": True,
    "shm_size": 4096,
    "network": "host",
    "cap_add": ["KILL"],
    "cap_drop": ["KILL"],
    "no_new_privileges": False,
    "seccomp": "unconfined",
    "user_namespace": {"uid_base": 1000},
    "masked_paths": [],
    "readonly_paths": [],
    "rlimits": {"core": 0},
    "sysctls": {"net.core.somaxconn": "1"},
    "tty": True,
    "stdin_open": True,
    "logging": {"max_files": 5},
    "labels": {"a": "b"},
    "runtime": "crun",
    "allow_vulnerable_runtime": True,
}
ONE_VALUE = {"name", "image", "bundle", "init"}  # cannot differ in what is supported, or beside rootfs


def test_every_field_is_judged() -> None:
    assert set(OTHER) | ONE_VALUE == set(Container.model_fields)
    assert set(Container.model_fields) >= LIVE


@pytest.mark.parametrize("field", OTHER)
def test_one_changed_field(field: str) -> None:
    old, new = Container(**ROOT), Container(**{**ROOT, field: OTHER[field]})
    for change in (diff(old, new), diff(new, old)):
        assert change.kind == ("live" if field in LIVE else "restart")
        assert [name.partition(".")[0] for name in change.fields] == ["mounts" if field == "tmpfs" else field]


def test_the_same_definition_is_untouched() -> None:
    assert diff(Container(**ROOT), Container(**ROOT, restart="always", oom={})) == Change("same")


def test_fields_of_blocks_have_dots() -> None:
    old = Container(**ROOT, resources={"memory": "64M", "pids": 5})
    new = Container(**ROOT, resources={"memory": "65M", "pids": 6}, restart={"interval": 2})
    assert diff(old, new) == Change("live", ("restart.interval", "resources.memory", "resources.pids"))


def test_one_field_that_is_fixed_at_the_start_makes_it_a_restart() -> None:
    new = Container(**ROOT, hostname="x", labels={"a": "b"})
    assert diff(Container(**ROOT), new) == Change("restart", ("hostname", "labels"))


def test_a_block_that_comes_or_goes_is_one_field() -> None:
    new = Container(**ROOT, healthcheck={"test": "x"})
    assert diff(Container(**ROOT), new) == Change("live", ("healthcheck",))
    assert diff(new, new.model_copy(update={"healthcheck": None})) == Change("live", ("healthcheck",))
