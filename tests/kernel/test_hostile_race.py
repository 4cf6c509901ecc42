"""Paths that are swapped for links while the runtime works on them: everything happens inside, or is refused by name.

WHARFINGER_RACE_SECONDS: how long for each case (1).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from config.errors import DefinitionError, LaunchError
from runtime import users, wire
from runtime.wire import Op, op
from tests.kernel import shimkit
from tests.kernel.canary import TOKEN, Canary
from tests.kernel.shimkit import Lab, exec_ops, root_ops, self_ops
from tests.kernel.tricks import UP, clear

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]

SECONDS = float(os.environ.get("WHARFINGER_RACE_SECONDS", "1"))
OWN = "the container's own\n"
AT = "/srv/a/target"
SWAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
a, b = map(os.fsencode, sys.argv[1:])
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    for _ in range(500):
        libc.renameat2(-100, a, -100, b, 2)  # RENAME_EXCHANGE
"""


@contextmanager
def swapped(a: Path, b: Path) -> Iterator[None]:
    """Each is the other, some hundred thousand times a second."""
    command = [sys.executable, "-I", "-c", SWAP, str(a), str(b)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        assert process.poll() is None, "nothing was swapped"
    finally:
        process.kill()
        process.communicate()


def attempts(source: Path) -> list[tuple[str, list[Op], list[Op], str]]:
    """Operation, before and after PIVOT, working directory."""
    return [
        ("MOUNT", [shimkit.mount("tmpfs", f"{AT}/made/deep")], [], "/"),
        ("MOUNT", [shimkit.mount("tmpfs", AT, data="size=1m", flags=3)], [], "/"),
        ("BIND", [shimkit.bind(source, AT)], [], "/"),
        ("BIND", [shimkit.bind(source / "own", f"{AT}/file", flags=wire.BIND_FILE)], [], "/"),
        ("DEVNODE", [shimkit.node(f"{AT}/null", 3)], [], "/"),
        ("SYMLINK", [op("SYMLINK", target="x", path=f"{AT}/link")], [], "/"),
        ("MASK", [], [op("MASK", path=f"{AT}/file")], "/"),
        ("MASK", [], [op("MASK", path=AT)], "/"),
        ("READONLY", [], [op("READONLY", path=AT)], "/"),
        ("CWD", [], [], f"{AT}/sub"),
    ]


def restore(lab: Lab, place: str, to: str) -> tuple[Path, Path]:
    """A directory and a link beside it."""
    for path in ("/srv", "/tmp"):
        clear(lab.root, path).mkdir()
    (lab.root / AT.lstrip("/") / "sub").mkdir(parents=True)
    (lab.root / AT.lstrip("/") / "file").write_text(OWN)
    directory = lab.root / place.lstrip("/")
    link = directory.with_name("link")
    link.symlink_to(to)
    return directory, link


@pytest.mark.parametrize("place", [AT, "/srv/a"])
@pytest.mark.parametrize("how", ["absolute", "relative"])
async def test_a_directory_that_is_swapped_for_a_link(lab: Lab, tmp_path: Path, place: str, how: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "own").write_text(OWN)
    canary = Canary(tmp_path / "canary", tmp_path)
    to = f"{canary.path}/dir" if how == "absolute" else f"{UP}{canary.path}/dir"
    outcomes: Counter[str] = Counter()
    tried = attempts(source)
    until, turn = time.monotonic() + SECONDS, 0
    while time.monotonic() < until or turn < len(tried):
        name, extra, late, cwd = tried[turn % len(tried)]
        turn += 1
        with swapped(*restore(lab, place, to)):
            for _ in range(2):
                outcomes[await one(lab, name, root_ops(lab.root, extra=extra, late=late), cwd)] += 1
        inside = lab.root / str(canary.path).lstrip("/")
        if inside.exists():
            clear(lab.root, str(canary.path))
        assert not canary.changed(), (name, canary.changed())
    assert [p.name for p in source.iterdir()] == ["own"]
    assert (source / "own").read_text() == OWN
    assert set(outcomes) <= {"ran", *(name for name, *_ in tried)}, outcomes
    assert outcomes["ran"], outcomes


async def one(lab: Lab, name: str, ops: Sequence[Op], cwd: str) -> str:
    """`ran`, or the operation that was refused."""
    lab.generation += 1
    lab.log.unlink(missing_ok=True)
    script = f"cat {AT}/* /srv/a/file 2>&1; pwd; ls -l {AT} /srv/a"
    try:
        _, text = await lab.run([*ops, *self_ops(cwd=cwd), *exec_ops("sh", "-c", script)])
    except LaunchError as error:
        return error.operation if error.operation == name else str(error)
    return "ran" if TOKEN not in text else f"sees the canary: {text}"


def test_a_passwd_that_is_swapped_for_a_link(tmp_path: Path) -> None:
    """The names in it are looked up here, by a reader that follows links itself."""
    canary = Canary(tmp_path / "canary", tmp_path)
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("web:x:5:6::/:/bin/sh\n")
    (root / "link").symlink_to(canary.path / "etc")
    (root / "up").symlink_to(f"{UP}{canary.path}/etc")
    seen: Counter[int] = Counter()
    for link in ("link", "up"):
        until = time.monotonic() + SECONDS / 2
        with swapped(root / "etc", root / link):
            while time.monotonic() < until:
                for name in ("web", TOKEN):
                    try:
                        seen[users.resolve(root, name).uid] += 1
                    except DefinitionError:
                        seen[-1] += 1
    assert set(seen) == {5, -1}
    assert not canary.changed()
