"""Every operation on a path of the root against every trick: it works inside the root, or is refused by its name.

The table says which, with which errno; a canary of the host says that nothing else happened.
WHARFINGER_HOSTILE=all: every pair, also in a guest, and of the second table, of which half is run else.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from config.errors import LaunchError
from runtime import linux, wire
from runtime.wire import Op, op
from tests.kernel import shimkit
from tests.kernel.canary import TOKEN, Canary
from tests.kernel.shimkit import Lab, exec_ops, root_ops, self_ops
from tests.kernel.tricks import LINKS, TRICKS, clear

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]

AT = "/srv/a/target"
OWN = "what the container is to have\n"
IMAGES = "the image's"
RUNS = 0
WHOLE = os.environ.get("WHARFINGER_HOSTILE") == "all"
SHARE = 4 if "WHARFINGER_VM" in os.environ and not WHOLE else 1  # guests are slow


def chosen(tricks: Iterable[str], name: str, share: int) -> list[str]:
    """One of so many, other ones for another name."""
    return [trick for number, trick in enumerate(tricks) if (number + len(name)) % share == 0]


SAFE_LINKS = ("absolute", "relative", "to a file", "dangling", "chain", "inside")
BAD_LINKS = ("loop", "magic root", "magic cwd", "magic fd", "onto proc", "into proc", "into sys")
FILES = ("fifo", "socket", "huge file", "file", "device")
MADE = ("nothing", "no parents", "parent absolute", "parent relative")
BAD_PARENT_LINKS = ("parent magic root", "parent onto proc")
BAD_PARENTS = ("parent fifo", "parent file")
assert set(SAFE_LINKS) | set(BAD_LINKS) == set(LINKS)


@dataclass(frozen=True)
class Case:
    """`told`: the operation as a fault names it. `script`: what the container looks at, `right`: what it must see."""

    told: str
    extra: Sequence[Op] = ()
    late: Sequence[Op] = ()
    cwd: str = "/"
    args: Sequence[str] = ()
    script: str = "true"
    right: Callable[[str, str], bool] = lambda trick, text: True
    errors: Mapping[int, Collection[str]] = field(default_factory=dict)  # by errno: the tricks; the others run

    def expected(self, trick: str) -> int:
        return next((err for err, tricks in self.errors.items() if trick in tricks), RUNS)


DIRECTORY = {
    errno.ELOOP: (*BAD_LINKS, *BAD_PARENT_LINKS),
    errno.ENOTDIR: (*FILES, *BAD_PARENTS),
}
NEW_NAME = {
    errno.EEXIST: (*LINKS, *FILES, "directory"),
    errno.ELOOP: BAD_PARENT_LINKS,
    errno.ENOTDIR: BAD_PARENTS,
}
OF_A_MOUNT: Mapping[int, Collection[str]] = {
    errno.ELOOP: (*BAD_LINKS, "parent magic root"),
    errno.EINVAL: (*FILES, "directory", "inside"),
    errno.ENOTDIR: BAD_PARENTS,
    errno.ENOENT: TRICKS,  # all the others
}
PRESENT = ("inside", *FILES, "directory")


def cases(source: Path) -> dict[str, Case]:
    new_file = f"echo '{OWN.strip()}' >{AT}/written; cat {AT}/written"
    return {
        "tmpfs": Case(
            "MOUNT",
            extra=[shimkit.mount("tmpfs", AT)],
            script=new_file,
            right=lambda trick, text: text == OWN,
            errors=DIRECTORY,
        ),
        "tmpfs with copy": Case(
            "MOUNT",
            extra=[shimkit.mount("tmpfs", AT, data="size=1m", flags=wire.MOUNT_CREATE | wire.MOUNT_COPY_UP)],
            script=f"{new_file}; cat {AT}/secret 2>/dev/null",
            right=lambda trick, text: text == OWN + (f"{IMAGES}\n" if trick == "inside" else ""),
            errors=DIRECTORY,
        ),
        "cgroup2": Case(
            "MOUNT",
            extra=[shimkit.mount("cgroup2", AT, linux.MOUNT_ATTR_RDONLY)],
            script=f"ls {AT}/cgroup.procs",
            right=lambda trick, text: text == f"{AT}/cgroup.procs\n",
            errors=DIRECTORY,
        ),
        "bind of a directory": Case(
            "BIND",
            extra=[shimkit.bind(source, AT)],
            script=f"cat {AT}/own",
            right=lambda trick, text: text == OWN,
            errors=DIRECTORY,
        ),
        "bind of a file": Case(
            "BIND",
            extra=[shimkit.bind(source / "own", AT, flags=wire.BIND_FILE)],
            script=f"cat {AT}",
            right=lambda trick, text: text == OWN,
            errors={
                errno.ELOOP: (*BAD_LINKS, *BAD_PARENT_LINKS),
                errno.EISDIR: ("directory", "inside"),
                errno.ENOTDIR: BAD_PARENTS,
            },
        ),
        "device": Case(
            "DEVNODE",
            extra=[shimkit.node(AT, 3)],
            script=f"stat -c %t:%T {AT}",
            right=lambda trick, text: text == "1:3\n",
            errors=NEW_NAME,
        ),
        "symlink": Case(
            "SYMLINK",
            extra=[op("SYMLINK", target="to", path=AT)],
            script=f"readlink {AT}",
            right=lambda trick, text: text == "to\n",
            errors=NEW_NAME,
        ),
        "mask": Case(
            "MASK",
            late=[op("MASK", path=AT)],
            script=f"cat {AT} {AT}/secret 2>/dev/null; test ! -e {AT} || stat -c %t:%T {AT}; ls {AT}/ 2>/dev/null",
            right=lambda trick, text: (
                text == {**dict.fromkeys(FILES, "1:3\n")}.get(trick, "0:0\n" * (trick in PRESENT))
            ),
            errors={errno.ELOOP: (*BAD_LINKS, "parent magic root")},
        ),
        "readonly": Case(
            "READONLY",
            late=[op("READONLY", path=AT)],
            script=f"test ! -e {AT} || touch {AT} 2>&1",
            right=lambda trick, text: ("Read-only file system" in text) is (trick in PRESENT),
            errors={errno.ELOOP: (*BAD_LINKS, "parent magic root")},
        ),
        "propagation": Case(
            "PROPAGATION", extra=[op("PROPAGATION", path=AT, flags=linux.MS_PRIVATE)], errors=OF_A_MOUNT
        ),
        "attributes": Case(
            "MOUNTATTR", extra=[op("MOUNTATTR", path=AT, attr_set=1, attr_clr=0, flags=0)], errors=OF_A_MOUNT
        ),
        "working directory": Case(
            "CWD",
            cwd=AT,
            script="pwd; ls",
            right=lambda trick, text: text.startswith("/"),
            errors={
                errno.ELOOP: ("loop",),
                errno.ENOTDIR: (*FILES, *BAD_PARENTS),
                errno.ENOENT: ("magic root", "magic cwd", "magic fd", *BAD_PARENT_LINKS),
            },
        ),
        "program": Case(
            "EXEC",
            args=(AT,),
            errors={
                errno.ELOOP: ("loop",),
                errno.ENOTDIR: BAD_PARENTS,
                errno.EACCES: (*FILES, "directory", "inside", "onto proc", "into proc", "into sys"),
                errno.ENOENT: list(TRICKS),
            },
        ),
    }


def again(lab: Lab) -> None:
    """The same places for another run."""
    lab.generation += 1
    lab.log.unlink(missing_ok=True)
    for path in ("/srv", "/tmp"):
        clear(lab.root, path).mkdir()


async def outcome(lab: Lab, case: Case) -> tuple[int, str]:
    """errno (0: it ran), and the output or the fault."""
    extra = [shimkit.mount("sysfs", "/sys"), *case.extra]
    args = case.args or ("sh", "-c", case.script)
    try:
        _, text = await lab.run(
            [*root_ops(lab.root, extra=extra, late=case.late), *self_ops(cwd=case.cwd), *exec_ops(*args)]
        )
    except LaunchError as error:
        named = error.operation == case.told and error.path == AT and "\n" not in str(error)
        return error.errno if named else -1, str(error)
    return RUNS, text


@pytest.mark.parametrize("name", cases(Path()))
async def test_it_stays_inside_or_is_refused_by_its_name(lab: Lab, tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "own").write_text(OWN)
    case = cases(source)[name]
    canary = Canary(tmp_path / "canary", tmp_path)
    inside = lab.root / str(canary.path).lstrip("/")
    wrong = []
    for trick in chosen(TRICKS, name, SHARE):
        again(lab)
        TRICKS[trick](lab.root, AT, canary)
        err, text = await outcome(lab, case)
        if err != case.expected(trick) or TOKEN in text or (err == RUNS and not case.right(trick, text)):
            wrong.append((trick, errno.errorcode.get(err, "runs"), text))
        if canary.changed():
            wrong.append((trick, "harmed", ", ".join(canary.changed())))
        wrong += [(trick, "written", str(path)) for path in lab.root.rglob("written")]
        if inside.parent.exists():
            clear(lab.root, str(canary.path))
    assert not wrong, "\n".join(f"{trick}: {what}: {text}" for trick, what, text in wrong)
    assert (source / "own").read_text() == OWN


def base(lab: Lab, *ops: Op, args: Sequence[str] = ("true",)) -> list[Op]:
    """A root with nothing mounted in it but what is given."""
    head = [op("NAMESPACES", flags=shimkit.NAMESPACES), op("ROOT", path=str(lab.root), propagation=shimkit.RSLAVE)]
    late = [one for one in ops if one.name in ("MASK", "READONLY")]
    return [*head, *(one for one in ops if one not in late), op("PIVOT"), *late, *self_ops(), *exec_ops(*args)]


DEVPTS = shimkit.mount("devpts", "/dev/pts", shimkit.SAFE & ~linux.MOUNT_ATTR_NODEV, "newinstance,ptmxmode=0666")
CONSOLE = op("CONSOLE", rows=24, columns=80)
# what is made, where the trick is, and which of the things (no link) it takes
OWN_PLACES: dict[str, tuple[list[Op], str, Sequence[str]]] = {
    "proc": ([shimkit.mount("proc", "/proc")], "/proc", ()),
    "sys": ([shimkit.mount("sysfs", "/sys")], "/sys", ()),
    "dev": ([shimkit.mount("tmpfs", "/dev")], "/dev", ()),
    "pts": ([DEVPTS], "/dev/pts", ()),
    "pts in a linked dev": ([DEVPTS], "/dev", ()),
    "shm": ([shimkit.mount("tmpfs", "/dev/shm")], "/dev/shm", ()),
    "mqueue": ([shimkit.mount("mqueue", "/dev/mqueue")], "/dev/mqueue", ()),
    "cgroup": ([shimkit.mount("cgroup2", "/sys/fs/cgroup")], "/sys/fs/cgroup", ()),
    "cgroup in a linked fs": ([shimkit.mount("cgroup2", "/sys/fs/cgroup")], "/sys/fs", ()),
    "null": ([shimkit.node("/dev/null", 3)], "/dev/null", ("file", "huge file")),
    "null in a linked dev": ([shimkit.node("/dev/null", 3)], "/dev", ()),
    "fd in a linked dev": ([op("SYMLINK", target="/proc/self/fd", path="/dev/fd")], "/dev", ()),
    "console": ([DEVPTS, CONSOLE], "/dev/console", ("file", "huge file", "fifo", "socket", "device")),
    "terminal without a devpts": ([CONSOLE], "/dev/pts", ()),
    "ptmx without a devpts": ([CONSOLE], "/dev/pts/ptmx", ()),
    "mask": ([op("MASK", path="/proc/kcore")], "/proc", ("fifo", "socket", "huge file", "file", "device")),
    "readonly": ([op("READONLY", path="/proc/sys")], "/proc/sys", ("fifo", "socket", "huge file", "file", "device")),
    "a file of proc": ([shimkit.bind("/etc/hostname", "/proc/cpuinfo", flags=wire.BIND_FILE)], "/proc", ()),
}


@pytest.mark.parametrize("name", OWN_PLACES)
async def test_places_of_the_kernel_are_no_links_and_no_other_things(lab: Lab, tmp_path: Path, name: str) -> None:
    ops, place, takes = OWN_PLACES[name]
    canary = Canary(tmp_path / "canary", tmp_path)
    tricks = [*LINKS, "fifo", "socket", "huge file", "file", "device"]
    wrong = []
    for trick in chosen(tricks, name, SHARE if WHOLE else 2 * SHARE):
        again(lab)
        for path in ("/proc", "/sys", "/dev"):
            clear(lab.root, path).mkdir()
        TRICKS[trick](lab.root, place, canary)
        try:
            await lab.run(base(lab, *ops))
            told = "" if trick in takes else "runs"
        except LaunchError as error:
            good = error.operation == ops[-1].name and error.errno in (
                {errno.ELOOP, errno.ENODEV, errno.EEXIST}
                if trick in LINKS
                else {errno.ENOTDIR, errno.EEXIST, errno.ENODEV}
            )
            told = "" if good and trick not in takes else str(error)
        if told or canary.changed():
            wrong.append((trick, told, canary.changed()))
    assert not wrong, "\n".join(map(str, wrong))


async def test_a_volume_cannot_take_the_place_of_dev_by_a_link(lab: Lab, tmp_path: Path) -> None:
    """Nodes, links and the console would be made in the host's directory."""
    canary = Canary(tmp_path / "canary", tmp_path)
    clear(lab.root, "/data").symlink_to("dev")
    ops = [shimkit.bind(canary.path / "dir", "/data"), shimkit.node("/dev/null", 3)]
    with pytest.raises(LaunchError) as caught:
        await lab.start(base(lab, *ops))
    assert (caught.value.operation, caught.value.path, caught.value.errno) == ("BIND", "/data", errno.ELOOP)
    assert not canary.changed()
    again(lab)  # what lies in it may be linked to: /run/shm of older images
    clear(lab.root, "/run/shm").symlink_to("/dev/shm")
    ops = [shimkit.mount("tmpfs", "/dev"), shimkit.mount("tmpfs", "/dev/shm"), shimkit.mount("tmpfs", "/run/shm")]
    record, _ = await lab.run(base(lab, *ops))
    assert record.status == 0


@pytest.mark.parametrize("now", ["a file", "a directory", "a link", "nothing"])
async def test_a_bind_source_that_was_replaced(lab: Lab, tmp_path: Path, now: str) -> None:
    """Between the plan and the launch: what it is now must fit, and a link is the host's to follow."""
    canary = Canary(tmp_path / "canary", tmp_path)
    source = tmp_path / "source"
    flags = 0 if now in ("a file", "nothing") else wire.BIND_FILE  # as the plan saw it
    if now == "a file":
        source.write_text(OWN)
    elif now == "a directory":
        source.mkdir()
    elif now == "a link":
        source.symlink_to(canary.path)
    with pytest.raises(LaunchError) as caught:
        await lab.start(base(lab, shimkit.bind(source, "/srv/bound", flags=flags)))
    told = {"a file": errno.EISDIR, "nothing": errno.ENOENT}.get(now, errno.ENOTDIR)
    assert (caught.value.operation, caught.value.errno) == ("BIND", told), caught.value
    assert not canary.changed()
