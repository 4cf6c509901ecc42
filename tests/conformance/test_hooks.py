"""config.md: POSIX-platform Hooks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.ocikit import Box

CREATE = ("prestart", "createRuntime", "createContainer")
ALL = (*CREATE, "startContainer", "poststart", "poststop")
STATUS = {
    "prestart": {"creating", "created"}, "createRuntime": {"creating", "created"},
    "createContainer": {"creating", "created"}, "startContainer": {"created"},
    "poststart": {"running"}, "poststop": {"stopped"},
}  # fmt: skip


def hook(box: Box, kind: str, script: str, **more: Any) -> None:
    """A hook that runs a script; `$OUT` is a directory that both the host and the container can write."""
    if not any(m["destination"] == "/out" for m in box.config["mounts"]):
        (box.bundle / "out").mkdir()
        box.mount("/out", "none", str(box.bundle / "out"), ("bind",))
    inside = kind == "startContainer"
    out = "/out" if inside else str(box.bundle / "out")
    shell = "/bin/sh"
    entry = {"path": shell, "args": ["sh", "-c", script], "env": [f"OUT={out}", "PATH=/usr/bin:/bin"], **more}
    box.config.setdefault("hooks", {}).setdefault(kind, []).append(entry)


def whole_life(box: Box) -> None:
    box.up()
    box.stop()
    box.delete()


def out(box: Box, name: str) -> str:
    return (box.bundle / "out" / name).read_text()


def test_hooks_run_in_the_order_of_the_lifecycle_and_of_their_list(box: Box) -> None:
    """config.md, "POSIX-platform Hooks": MUST be called in the listed order; runtime.md, "Lifecycle"."""
    for kind in reversed(ALL):
        for n in (1, 2):
            hook(box, kind, f"echo {kind}{n} >> $OUT/log")
    whole_life(box)
    assert out(box, "log").split() == [f"{kind}{n}" for kind in ALL for n in (1, 2)]


@pytest.mark.parametrize("kind", ALL)
def test_a_hook_gets_the_state_on_its_input(box: Box, kind: str) -> None:
    """config.md, "POSIX-platform Hooks": state MUST be passed over stdin."""
    box.config["annotations"] = {"org.example": "x"}
    hook(box, kind, "cat > $OUT/state")
    whole_life(box)
    state = json.loads(out(box, "state"))
    assert state["id"] == box.name
    assert state["bundle"] == str(box.bundle)
    assert state["status"] in STATUS[kind]
    assert state["annotations"]["org.example"] == "x"
    assert state["ociVersion"]


@pytest.mark.parametrize("kind", ALL)
def test_a_hook_has_its_arguments_and_its_environment_only(box: Box, kind: str) -> None:
    """config.md, "POSIX-platform Hooks": args, env."""
    script = "tr '\\0' '\\n' < /proc/self/environ > $OUT/env; echo \"$0 $1\" > $OUT/args"
    if kind == "startContainer":
        (box.rootfs / "bin/tr").symlink_to("busybox")
    hook(box, kind, script)
    box.config["hooks"][kind][0]["args"] += ["zero", "one"]
    whole_life(box)
    assert out(box, "args") == "zero one\n"
    found = {line for line in out(box, "env").splitlines() if not line.startswith(("PWD=", "SHLVL=", "OLDPWD=", "_="))}
    assert found == set(box.config["hooks"][kind][0]["env"])


@pytest.mark.parametrize("kind", ALL)
def test_a_hook_runs_in_the_namespaces_of_its_kind(box: Box, kind: str) -> None:
    """config.md, "POSIX-platform Hooks": Summary."""
    if kind == "startContainer":
        (box.rootfs / "bin/readlink").symlink_to("busybox")
    names = ("mnt", "uts", "ipc", "net")
    hook(box, kind, "for n in mnt uts ipc net; do readlink /proc/self/ns/$n; done > $OUT/ns; cat > /dev/null")
    seen = box.up()
    box.stop()
    box.delete()
    ours = [os.readlink(f"/proc/self/ns/{n}") for n in names]
    theirs = [seen["namespaces"][n] for n in names]
    assert out(box, "ns").split() == (theirs if kind in ("createContainer", "startContainer") else ours)


@pytest.mark.parametrize("kind", CREATE)
def test_a_hook_that_fails_undoes_create(box: Box, kind: str) -> None:
    """runtime.md, "Lifecycle", steps 3 to 5."""
    hook(box, kind, "cat > /dev/null; exit 3")
    assert box.try_create()[0] != 0
    assert not box.exists()


def test_a_hook_that_fails_at_start_stops_the_container(box: Box) -> None:
    """runtime.md, "Lifecycle", step 7."""
    hook(box, "startContainer", "cat > /dev/null; exit 3")
    box.process["args"] = ["/bin/sh", "-c", "echo ran > /out/ran"]
    box.create()
    assert box.runtime.call("start", box.name).returncode != 0
    box.wait_ended()
    assert not (box.bundle / "out/ran").exists()


def test_a_hook_that_fails_after_start_stops_the_container(box: Box) -> None:
    """runtime.md, "Lifecycle", step 9."""
    hook(box, "poststart", "cat > /dev/null; exit 3")
    box.args("wait")
    box.create()
    assert box.runtime.call("start", box.name).returncode != 0
    box.wait_ended()


def test_a_hook_that_fails_after_the_end_is_only_a_warning(box: Box) -> None:
    """runtime.md, "Lifecycle", step 13: the remaining hooks continue."""
    hook(box, "poststop", "cat > /dev/null; exit 3")
    hook(box, "poststop", "cat > $OUT/second")
    whole_life(box)
    assert json.loads(out(box, "second"))["id"] == box.name
    assert not box.exists()


@pytest.mark.parametrize("kind", CREATE)
def test_a_hook_that_takes_too_long_is_aborted(box: Box, kind: str) -> None:
    """config.md, "POSIX-platform Hooks": timeout."""
    hook(box, kind, "exec sleep 100", timeout=1)
    assert box.try_create()[0] != 0
    assert not box.exists()


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "startContainer"])
@pytest.mark.parametrize("change", [{"path": "bin/sh"}, {"path": "/no/such"}, {"timeout": 0}, {"timeout": -1}],
                         ids=["relative", "missing", "timeout 0", "timeout -1"])  # fmt: skip
def test_a_hook_that_cannot_be_is_an_error(box: Box, kind: str, change: dict[str, Any]) -> None:
    """config.md, "POSIX-platform Hooks": path MUST be absolute, timeout MUST be greater than zero."""
    hook(box, kind, "cat > /dev/null")
    box.config["hooks"][kind][0].update(change)
    box.refused()


def test_poststop_hooks_run_after_run_too(box: Box) -> None:
    """config.md, "Poststop"."""
    hook(box, "poststop", "cat > $OUT/state")
    box.run()
    assert json.loads(out(box, "state"))["status"] == "stopped"


def test_a_create_hook_sees_the_root_of_the_runtime(box: Box) -> None:
    """config.md, "CreateContainer Hooks": path MUST resolve in the runtime namespace, before pivot_root."""
    hook(box, "createContainer", "cat > /dev/null; ls -A / > $OUT/ls")
    box.create()
    assert set(os.listdir("/")) <= set(out(box, "ls").split())
    assert Path("/usr").exists()
