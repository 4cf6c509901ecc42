"""What a hostile root has where the runtime expects something else. Each makes one thing at a path of the root."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from tests.kernel.canary import TOKEN, Canary

Trick = Callable[[Path, str, Canary], None]  # root, path in it, canary
UP = "../" * 24
HUGE = 1 << 42  # sparse


def clear(root: Path, path: str) -> Path:
    """Nothing at the path; its parent is there."""
    place = root / path.lstrip("/")
    if not place.is_symlink() and place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def link(to: str) -> Trick:
    """A symlink. `{canary}` is its path."""

    def make(root: Path, path: str, canary: Canary) -> None:
        clear(root, path).symlink_to(to.format(canary=canary.path))

    return make


def chain(root: Path, path: str, canary: Canary) -> None:
    """Five links, absolute and relative in turn."""
    clear(root, path).symlink_to("/tmp/l1")
    for i in range(1, 5):
        where = clear(root, f"/tmp/l{i}")
        last = f"{UP}{canary.path}/dir".replace("//", "/")
        where.symlink_to(last if i == 4 else [f"/tmp/l{i + 1}", f"./l{i + 1}"][i % 2])


def loop(root: Path, path: str, canary: Canary) -> None:
    clear(root, path).symlink_to("/tmp/turn")
    clear(root, "/tmp/turn").symlink_to(path)


def inside(root: Path, path: str, canary: Canary) -> None:
    clear(root, path).symlink_to("../../tmp/inner")
    clear(root, "/tmp/inner").mkdir()
    (root / "tmp/inner/secret").write_text("the image's\n")


def fifo(root: Path, path: str, canary: Canary) -> None:
    os.mkfifo(clear(root, path))


def unix_socket(root: Path, path: str, canary: Canary) -> None:
    clear(root, path)
    short = Path(f"/tmp/{os.getpid()}.sock")  # sun_path is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(short))
    shutil.move(short, root / path.lstrip("/"))


def huge(root: Path, path: str, canary: Canary) -> None:
    with clear(root, path).open("wb") as file:
        file.truncate(HUGE)


def file(root: Path, path: str, canary: Canary) -> None:
    clear(root, path).write_text("the image's\n")


def directory(root: Path, path: str, canary: Canary) -> None:
    clear(root, path).mkdir()


def device(root: Path, path: str, canary: Canary) -> None:
    os.mknod(clear(root, path), 0o20666, os.makedev(1, 5))


def nothing(root: Path, path: str, canary: Canary) -> None:
    clear(root, path)


def no_parents(root: Path, path: str, canary: Canary) -> None:
    parent = clear(root, path).parent
    if parent != root:
        shutil.rmtree(parent)


def of_parent(trick: Trick) -> Trick:
    """The same for what the path lies in."""

    def make(root: Path, path: str, canary: Canary) -> None:
        above = str(Path(path).parent)
        if above != "/":
            trick(root, above, canary)

    return make


LINKS: dict[str, Trick] = {
    "absolute": link("{canary}/dir"),
    "relative": link(f"{UP}{{canary}}/dir"),
    "to a file": link("{canary}/file"),
    "dangling": link("{canary}/missing/deep"),
    "chain": chain,
    "loop": loop,
    "inside": inside,
    "magic root": link("/proc/self/root/{canary}/dir"),
    "magic cwd": link("/proc/1/cwd/dir"),
    "magic fd": link("/proc/self/fd/5"),
    "onto proc": link("/proc"),
    "into proc": link("/proc/1/attr"),
    "into sys": link("../../sys/kernel"),
}
THINGS: dict[str, Trick] = {
    "fifo": fifo,
    "socket": unix_socket,
    "huge file": huge,
    "file": file,
    "directory": directory,
    "device": device,
    "nothing": nothing,
    "no parents": no_parents,
}
TRICKS: dict[str, Trick] = {
    **LINKS,
    **THINGS,
    **{f"parent {name}": of_parent(LINKS[name]) for name in ("absolute", "relative", "magic root", "onto proc")},
    **{f"parent {name}": of_parent(THINGS[name]) for name in ("fifo", "file")},
}
assert TOKEN not in "".join(TRICKS)
