"""Users and groups are those of the container's own root, and no file of the host is read for them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from config.errors import DefinitionError
from runtime.users import User, open_in_root, parse_passwd, read_in_root, resolve

PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment:x:7:7::/x:/x
web:x:1000:1001:Web:/srv/web:/bin/false
broken:x:abc:0::/:
short:x
huge:x:99999999999:0::/:
daemon:x:2:2::relative:/bin/sh
"""
GROUP = """root:x:0:
web:x:1001:
audio:x:29:web,other
video:x:44:other,web
same:x:1001:web
bad:x:-1:web
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return root


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, User(0, 0, (), "/root")),
        ("0", User(0, 0, (), "/root")),
        ("web", User(1000, 1001, (29, 44), "/srv/web")),
        ("1000", User(1000, 1001, (29, 44), "/srv/web")),
        ("web:audio", User(1000, 29, (), "/srv/web")),
        ("web:5", User(1000, 5, (), "/srv/web")),
        ("12345", User(12345, 0, (), "/")),
        ("12345:7", User(12345, 7, (), "/")),
        ("daemon", User(2, 2, (), "/")),
    ],
)
def test_a_user_is_what_the_roots_files_say(root: Path, user: str | None, expected: User) -> None:
    assert resolve(root, user) == expected


@pytest.mark.parametrize(
    "user", ["nobody", "broken", "huge", "web:nogroup", "web:bad", ":5", "web:", "-1", "0x0", "1 "]
)
def test_who_is_not_there_is_refused(root: Path, user: str) -> None:
    with pytest.raises(DefinitionError, match=r"user: "):
        resolve(root, user)


def test_groups_are_added_by_name_and_number(root: Path) -> None:
    assert resolve(root, "web", ["audio", "7", "1001"]).groups == (7, 29, 44)
    with pytest.raises(DefinitionError, match=r"group_add: no group 'x'"):
        resolve(root, "web", ["x"])


def test_numbers_need_no_files(tmp_path: Path) -> None:
    assert resolve(tmp_path, "7:8", ["9"]) == User(7, 8, (9,), "/")
    assert resolve(None, "7") == User(7, 0, (), "/")


def test_bytes_that_are_no_text_do_no_harm(root: Path) -> None:
    (root / "etc/passwd").write_bytes(b"\xff\xfe:x:5:5::/:\nweb:x:1:2::/h:\n")
    assert resolve(root, "web") == User(1, 2, (29, 44, 1001), "/h")
    (root / "etc/passwd").write_bytes(b"web:x:1:2::/h\0me:\n")  # no variable can hold it
    assert resolve(root, "web").home == "/"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../etc/passwd", "/../../etc/passwd"])
def test_a_link_leads_nowhere_but_into_the_root(root: Path, target: str) -> None:
    (root / "etc/passwd").rename(root / "etc/real")
    (root / "etc/passwd").symlink_to(target)
    with pytest.raises(DefinitionError, match="cannot be read"):  # a link to itself, seen from inside
        resolve(root, "web")


def test_a_linked_directory_stays_in_the_root(root: Path) -> None:
    (root / "etc").rename(root / "config")
    (root / "etc").symlink_to("/config")
    assert resolve(root, "web").uid == 1000
    (root / "etc").unlink()
    (root / "etc").symlink_to("../../../config/../config/.")
    assert resolve(root, "web").uid == 1000


def test_a_link_out_of_the_root_is_no_file(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("web:x:0:0::/:\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to(tmp_path / "secret")
    assert read_in_root(root, "/etc/passwd") is None


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket"])
def test_what_is_no_regular_file_is_not_opened(root: Path, kind: str) -> None:
    path = root / "etc/passwd"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mknod(path, 0o140600)
    with pytest.raises(DefinitionError, match="cannot be read"):
        resolve(root, "web")


def test_a_huge_file_is_refused(root: Path) -> None:
    with open(root / "etc/passwd", "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DefinitionError, match="is larger than 1048576 bytes"):
        resolve(root, "web")


def test_a_loop_of_links_ends(root: Path) -> None:
    (root / "a").symlink_to("/b")
    (root / "b").symlink_to("/a")
    with pytest.raises(OSError, match="Too many levels") as caught:
        open_in_root(root, "/a/x")
    assert caught.value.errno == errno.ELOOP


def test_no_fd_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for user in ("web", "1000:1", "0"):
        resolve(root, user)
    for path in ("/nope/x", "/etc/passwd/x", "/etc"):
        with pytest.raises(OSError):  # noqa: PT011
            open_in_root(root, path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_passwd_of_many_lines_is_read_to_its_end() -> None:
    data = b"".join(b"u%d:x:%d:%d::/:/bin/sh\n" % (n, n, n) for n in range(10_000))
    assert len(parse_passwd(data)) == 10_000
