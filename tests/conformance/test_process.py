"""config.md: Process, User, Hostname; runtime-linux.md: File descriptors."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from tests.conformance.ocikit import Box, Seen

CAPS = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_NET_BIND_SERVICE": 10, "CAP_SYS_ADMIN": 21}
LIMITS = {
    "CPU": 3600, "FSIZE": 1 << 30, "DATA": 1 << 30, "STACK": 4 << 20, "CORE": 0, "RSS": 1 << 30, "NPROC": 512,
    "NOFILE": 512, "MEMLOCK": 32768, "AS": 4 << 30, "LOCKS": 1000, "SIGPENDING": 500, "MSGQUEUE": 4096,
    "NICE": 0, "RTPRIO": 0, "RTTIME": 1000000,
}  # fmt: skip


def test_arguments_are_passed_as_they_are(box: Box) -> None:
    """config.md, "Process": args."""
    words = ("a b", "", "*", '"q"', "tab\tnew\nline", "ä")
    assert box.run(*words)["args"] == ["/probe", *words]


@pytest.mark.parametrize("name", ["probe", "./probe", "/probe"])
def test_the_program_is_found_as_execvp_does(box: Box, name: str) -> None:
    """config.md, "Process": the first entry is execvp's file."""
    box.process["env"] = ["PATH=/nowhere:/"]
    box.process["args"] = [name]
    assert box.run()["args"] == [name]


@pytest.mark.parametrize("args", [[], ["/no/such"], ["/etc"], ["nosuch"], [""]])
def test_a_program_that_cannot_run_is_an_error(box: Box, args: list[str]) -> None:
    """config.md, "Process": at least one entry is REQUIRED; runtime.md, "Start"."""
    box.process["args"] = args
    box.refused()


def test_the_environment_is_what_is_configured_and_nothing_else(box: Box) -> None:
    """config.md, "Process": env."""
    box.process["env"] = ["PATH=/bin", "A=b c=d", "EMPTY=", "LINES=1\n2", "HOME=/h"]
    assert set(box.run()["env"]) == set(box.process["env"])


@pytest.mark.parametrize("path", ["/", "/tmp", "/root"])
def test_the_working_directory_is_cwd(box: Box, path: str) -> None:
    """config.md, "Process": cwd."""
    box.process["cwd"] = path
    assert box.run()["cwd"] == path


@pytest.mark.parametrize("cwd", ["tmp", "", None])
def test_a_cwd_that_is_not_absolute_is_refused(box: Box, cwd: str | None) -> None:
    """config.md, "Process": cwd is REQUIRED, MUST be an absolute path."""
    box.process["cwd"] = cwd
    if cwd is None:
        del box.process["cwd"]
    box.refused()


@pytest.mark.parametrize(("uid", "gid"), [(0, 0), (1000, 1001), (65534, 0)])
def test_the_ids_are_those_of_user(box: Box, uid: int, gid: int) -> None:
    """config.md, "User"."""
    box.process["user"] = {"uid": uid, "gid": gid}
    seen = box.run()
    assert seen["uids"] == [uid] * 3
    assert seen["gids"] == [gid] * 3


def test_the_groups_are_the_additional_gids(box: Box) -> None:
    """config.md, "User": additionalGids."""
    box.process["user"] = {"uid": 1, "gid": 2, "additionalGids": [5, 6, 70000]}
    assert set(box.run()["groups"]) - {2} == {5, 6, 70000}


def test_no_group_of_the_caller_comes_along(plain: Seen) -> None:
    """config.md, "User": additionalGids."""
    assert set(plain["groups"]) <= {0}


@pytest.mark.parametrize("umask", [0, 0o27, 0o77])
def test_the_umask_is_that_of_user(box: Box, umask: int) -> None:
    """config.md, "User": umask."""
    box.process["user"]["umask"] = umask
    assert box.run()["umask"] == umask


@pytest.mark.parametrize("kind", list(LIMITS))
def test_a_limit_is_what_is_configured(box: Box, kind: str) -> None:
    """config.md, "POSIX process": rlim_cur and rlim_max MUST match."""
    hard = resource.getrlimit(list(LIMITS).index(kind))[1]
    wanted = LIMITS[kind] if hard < 0 else min(LIMITS[kind], hard)
    box.process["rlimits"] = [{"type": f"RLIMIT_{kind}", "soft": wanted // 2, "hard": wanted}]
    assert box.run()["rlimits"][kind] == [wanted // 2, wanted]


@pytest.mark.parametrize(
    "limits",
    [
        [{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}],
        [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}],
    ],
    ids=["unknown", "twice", "soft above hard"],
)
def test_a_limit_that_cannot_be_is_refused(box: Box, limits: list[dict[str, object]]) -> None:
    """config.md, "POSIX process": MUST generate an error."""
    box.process["rlimits"] = limits
    box.refused()


def test_without_capabilities_there_are_none(plain: Seen) -> None:
    """config.md, "Linux Process": capabilities."""
    assert not any(plain["capabilities"].values())


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize(
    "sets",
    [
        {"bounding": ["CAP_KILL"]},
        {"bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"]},
        {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]},
    ],
    ids=["bounding", "permitted", "effective"],
)
def test_the_bounding_set_is_what_is_configured(box: Box, sets: dict[str, list[str]], uid: int) -> None:
    """config.md, "Linux Process": execve gives root what is bounding, others only what is ambient."""
    box.process["capabilities"] = sets
    box.process["user"] = {"uid": uid, "gid": uid}
    seen = box.run()["capabilities"]
    assert seen["bounding"] == sorted(CAPS[n] for n in sets["bounding"])
    assert seen["effective"] == (seen["bounding"] if uid == 0 else [])


def test_ambient_capabilities_reach_a_user_who_is_not_root(box: Box) -> None:
    """config.md, "Linux Process": ambient, inheritable."""
    names = ["CAP_NET_BIND_SERVICE", "CAP_KILL"]
    kinds = ("bounding", "permitted", "inheritable", "effective", "ambient")
    box.process["capabilities"] = dict.fromkeys(kinds, names)
    box.process["user"] = {"uid": 1000, "gid": 1000}
    assert box.run()["capabilities"] == {kind: [5, 10] for kind in kinds}


def test_a_capability_that_nobody_knows_is_no_failure(box: Box) -> None:
    """config.md, "Linux Process": MUST be logged as a warning, SHOULD NOT fail."""
    box.process["capabilities"] = {"bounding": ["CAP_KILL", "CAP_NOSUCH"]}
    assert box.run()["capabilities"]["bounding"] == [5]


@pytest.mark.parametrize("value", [True, False, None])
def test_no_new_privileges(box: Box, value: bool | None) -> None:
    """config.md, "Linux Process": noNewPrivileges."""
    if value is not None:
        box.process["noNewPrivileges"] = value
    assert box.run()["no_new_privs"] == bool(value)


@pytest.mark.parametrize("score", [100, 1000])
def test_the_oom_score_is_what_is_configured(box: Box, score: int) -> None:
    """config.md, "Linux Process": oomScoreAdj, if set."""
    box.process["oomScoreAdj"] = score
    assert int(box.run()["oom_score_adj"]) == score


def test_the_oom_score_stays_when_none_is_configured(plain: Seen) -> None:
    """config.md, "Linux Process": MUST NOT change the value."""
    assert int(plain["oom_score_adj"]) == int(Path("/proc/self/oom_score_adj").read_text())


@pytest.mark.parametrize(("policy", "number"), [("SCHED_OTHER", 0), ("SCHED_BATCH", 3), ("SCHED_IDLE", 5)])
def test_the_scheduler_is_what_is_configured(box: Box, policy: str, number: int) -> None:
    """config.md, "Linux Process": scheduler."""
    box.process["scheduler"] = {"policy": policy, "nice": 7}
    seen = box.run()
    assert seen["policy"] == number
    assert seen["nice"] == 7 or policy == "SCHED_IDLE"  # which has no nice value, sched(7)


def test_an_unknown_scheduler_is_refused(box: Box) -> None:
    """config.md, "Valid values"."""
    box.process["scheduler"] = {"policy": "SCHED_NOSUCH"}
    box.refused()


@pytest.mark.parametrize(("kind", "number"), [("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)])
def test_the_io_priority_is_what_is_configured(box: Box, kind: str, number: int) -> None:
    """config.md, "Linux Process": ioPriority."""
    box.process["ioPriority"] = {"class": kind, "priority": 6}
    assert box.run()["ioprio"] == number << 13 | 6


def test_an_unknown_io_priority_is_refused(box: Box) -> None:
    """config.md, "Valid values"."""
    box.process["ioPriority"] = {"class": "IOPRIO_CLASS_NOSUCH", "priority": 0}
    box.refused()


def test_a_console_size_without_a_terminal_is_ignored(box: Box) -> None:
    """config.md, "Process": consoleSize."""
    box.process["terminal"] = False
    box.process["consoleSize"] = {"height": 10, "width": 20}
    assert box.run()["terminals"] == [0, 0, 0]


def test_only_the_three_streams_are_open(box: Box) -> None:
    """runtime-linux.md, "File descriptors"."""
    box.write()
    leak = os.open("/", os.O_RDONLY)
    try:
        os.set_inheritable(leak, True)
        assert set(box.run()["fds"]) == {"0", "1", "2"}
    finally:
        os.close(leak)


def test_the_hostname_is_what_is_configured(box: Box) -> None:
    """config.md, "Hostname"."""
    box.config["hostname"] = "mrsdalloway"
    assert box.run()["hostname"] == "mrsdalloway"
    assert os.uname().nodename != "mrsdalloway"


def test_the_domainname_is_what_is_configured(box: Box) -> None:
    """config.md, "Domainname"."""
    box.config["domainname"] = "foobarbaz.test"
    assert box.run()["domainname"] == "foobarbaz.test"


@pytest.mark.parametrize("field", ["hostname", "domainname"])
def test_a_name_without_a_namespace_of_its_own_is_refused(box: Box, field: str) -> None:
    """config.md, "Hostname": the container UTS namespace would be the host's."""
    box.linux["namespaces"] = [n for n in box.linux["namespaces"] if n["type"] != "uts"]
    box.config[field] = "no.such.test"
    before = os.uname()
    box.refused()
    assert os.uname() == before


@pytest.mark.parametrize("field", ["uid", "gid"])
@pytest.mark.parametrize("value", [-1, "0", 2**32])
def test_an_id_that_is_none_is_refused(box: Box, field: str, value: object) -> None:
    """config.md, "User"; "Valid values"."""
    box.process["user"][field] = value
    box.refused()
