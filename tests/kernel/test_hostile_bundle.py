"""Hostile roots and bundles through `wharf-oci`: one line says what was refused, the host is as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.canary import TOKEN, Canary
from tests.kernel.ocikit import Config, Oci, make_oci
from tests.kernel.test_hostile_table import BAD_LINKS, SHARE, chosen
from tests.kernel.tricks import TRICKS

pytestmark = pytest.mark.kernel

AT = "/srv/a/target"
CHOSEN = ("absolute", "relative", "inside", "magic root", "onto proc", "fifo", "huge file", "parent absolute")


@pytest.fixture
def oci(shim_path: Path, cgroup2: Path, tmp_path: Path) -> Iterator[Oci]:
    with make_oci(shim_path.with_name("wharf-launch"), cgroup2, tmp_path) as made:
        yield made


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path / "canary", tmp_path)


def mounted(kind: str, source: str, *options: str) -> Callable[[Config], None]:
    mount = {"destination": AT, "type": kind, "source": source, "options": list(options)}
    return lambda config: config.update(mounts=[*config["mounts"], mount])


def listed(key: str, value: Any) -> Callable[[Config], None]:
    return lambda config: config["linux"].update({key: [*config["linux"].get(key, ()), value]})


PLACES: dict[str, tuple[str, Callable[[Config], None]]] = {
    "tmpfs": ("MOUNT", mounted("tmpfs", "tmpfs")),
    "tmpcopyup": ("MOUNT", mounted("tmpfs", "tmpfs", "tmpcopyup", "size=1m")),
    "bind": ("BIND", mounted("bind", "/etc/hostname", "bind")),
    "device": ("DEVNODE", listed("devices", {"path": AT, "type": "c", "major": 1, "minor": 3})),
    "mask": ("MASK", listed("maskedPaths", AT)),
    "readonly": ("READONLY", listed("readonlyPaths", AT)),
    "cwd": ("CWD", lambda config: config["process"].update(cwd=AT)),
}


def writable(change: Callable[[Config], None]) -> Callable[[Config], None]:
    def both(config: Config) -> None:
        config["root"]["readonly"] = False
        change(config)

    return both


@pytest.mark.parametrize("name", PLACES)
def test_a_hostile_root_in_a_bundle(oci: Oci, canary: Canary, name: str) -> None:
    operation, change = PLACES[name]
    rootfs = oci.bundle / "rootfs"
    wrong = []
    for trick in chosen(CHOSEN, name, 2 * SHARE):
        TRICKS[trick](rootfs, AT, canary)
        oci.configure("sh", "-c", f"cat {AT}/file 2>&1; ls -lR /srv", change=writable(change))
        code = 1 if trick in BAD_LINKS and name not in ("cwd", "device") else None
        text = run(oci)
        refused = operation in text and AT in text and len(text.splitlines()) == 1
        if (code == 1 and not refused) or TOKEN in text or canary.changed() or oci.leftovers():
            wrong.append((trick, text, canary.changed(), oci.leftovers()))
    assert not wrong, "\n".join(map(str, wrong))


def run(oci: Oci) -> str:
    """What it wrote, whatever it ended with."""
    for code in (0, 1, 2):
        try:
            return oci("run", oci.id, code=code)
        except AssertionError as error:
            (_, got, out, err) = error.args[0]
            if got in (0, 1, 2):
                return str(out + err)
            raise
    raise AssertionError("unreachable")


@pytest.mark.parametrize("thing", ["fifo", "directory", "huge file", "socket", "device", "loop", "nothing"])
def test_a_config_that_is_none(oci: Oci, canary: Canary, thing: str) -> None:
    oci.configure("true")
    TRICKS[thing](oci.bundle, "/config.json", canary)
    told = oci("run", oci.id, code=1)
    assert len(told.splitlines()) == 1
    assert "config.json" in told
    assert oci.leftovers() == []


@pytest.mark.parametrize("thing", ["fifo", "file", "huge file", "socket", "device", "loop", "nothing"])
def test_a_root_that_is_none(oci: Oci, canary: Canary, thing: str) -> None:
    oci.configure("true")
    TRICKS[thing](oci.bundle, "/rootfs", canary)
    told = oci("run", oci.id, code=1)
    assert len(told.splitlines()) == 1
    assert "rootfs" in told or "/root/path" in told
    assert oci.leftovers() == []


@pytest.mark.parametrize("thing", ["fifo", "directory", "zero", "huge file", "loop"])
def test_a_file_that_is_given_has_bounds(oci: Oci, tmp_path: Path, canary: Canary, thing: str) -> None:
    """The process of an exec, the resources of an update: what never ends is not read for ever."""
    oci.configure("sleep", "1000")
    oci.quiet("create", oci.id)
    oci("start", oci.id)
    given = tmp_path / "given"
    if thing == "zero":
        given.symlink_to("/dev/zero")
    else:
        TRICKS[thing](tmp_path, "/given", canary)
    for words in (["exec", "-p", str(given), oci.id], ["update", "-r", str(given), oci.id]):
        told = oci(*words, code=255 if words[0] == "exec" else 1)
        assert len(told.splitlines()) == 1, told
        assert str(given) in told
    assert oci.state()["status"] == "running"


def test_a_given_file_may_be_a_pipe(oci: Oci) -> None:
    oci.configure("sleep", "1000")
    oci.quiet("create", oci.id)
    oci("start", oci.id)
    process = {"user": {"uid": 0, "gid": 0}, "args": ["echo", "by a pipe"], "cwd": "/", "env": ["PATH=/bin"]}
    assert oci("exec", "-p", "/dev/stdin", oci.id, stdin=json.dumps(process)) == "by a pipe\n"


def test_a_pid_file_is_not_written_through_a_link(oci: Oci, tmp_path: Path, canary: Canary) -> None:
    (tmp_path / "pid").symlink_to(canary.path / "file")
    oci.configure("sleep", "1000")
    oci.quiet("create", "--pid-file", str(tmp_path / "pid"), oci.id)
    assert not canary.changed()
    assert (tmp_path / "pid").read_text() == str(oci.state()["pid"])
    assert not os.path.islink(tmp_path / "pid")


def test_what_a_volume_hides_behind_a_link_is_refused(oci: Oci, canary: Canary) -> None:
    """CVE-2023-27561, CVE-2019-19921: the image has a link, the volume what is to look like /proc."""
    (canary.path / "self").mkdir()
    before = canary.state()
    (oci.bundle / "rootfs/data").symlink_to("/proc")
    mount = {"destination": "/data", "type": "bind", "source": str(canary.path), "options": ["rbind"]}
    oci.configure("true", change=lambda config: config.update(mounts=[*config["mounts"], mount]))
    told = oci("run", oci.id, code=1)
    assert "BIND /data" in told
    assert canary.state() == before
    only = {"destination": "/proc", "type": "tmpfs", "source": "tmpfs"}
    oci.configure("true", change=lambda config: config.update(mounts=[only]))
    assert "only proc can stand at /proc" in oci("run", oci.id, code=1)
