"""Mount options, word by word."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import DefinitionError
from runtime import mountopts
from runtime.linux import MOUNT_ATTR__ATIME
from runtime.mountopts import Options, parse

ATTR_WORDS = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "relatime",
    "strictatime",
    "atime",
]


@pytest.mark.parametrize(
    ("fstype", "words", "expected"),
    [
        ("tmpfs", ["nosuid", "strictatime", "mode=755", "size=64k"], Options(0x22, 0x70, data="mode=755,size=64k")),
        ("tmpfs", ["ro,nosuid", "nodev"], Options(0x7, 0)),
        ("tmpfs", ["ro", "rw"], Options(0, 1)),
        ("tmpfs", ["rw", "ro"], Options(1, 0)),
        ("tmpfs", ["noatime", "strictatime"], Options(0x20, 0x70)),
        ("tmpfs", ["strictatime", "relatime"], Options(0, 0x70)),
        ("tmpfs", ["sync", "size=10%", "private"], Options(data="sync,size=10%", propagation=1 << 18)),
        ("tmpfs", ["defaults", "async"], Options()),
        ("devpts", ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
         Options(data="newinstance,ptmxmode=0666,mode=0620,gid=5")),
        ("proc", ["hidepid=2", "subset=pid"], Options(data="hidepid=2,subset=pid")),
        ("bind", ["rbind", "ro", "rslave"], Options(1, 0, bind=True, recursive=True, propagation=(1 << 19) | 0x4000)),
        ("bind", [], Options(bind=True)),
        ("none", ["bind"], Options(bind=True)),
        ("bind", ["rbind", "rro"], Options(deep_set=1, bind=True, recursive=True)),
        ("bind", ["rbind", "rro", "nosuid"], Options(2, 0, 1, 0, True, True)),
        ("bind", ["rbind", "rnoatime"], Options(deep_set=0x10, deep_clr=0x70, bind=True, recursive=True)),
        ("tmpfs", ["rro", "rw", "exec"], Options(1, 8)),  # nothing is below it
        ("tmpfs", ["shared", "tmpcopyup"], Options(propagation=1 << 20, copy_up=True)),
        ("tmpfs", ["remount", "ro"], Options(1, remount=True)),
        ("bind", ["idmap=uids=0-1-2;gids=0-1-2"], Options(bind=True, idmap="idmap=uids=0-1-2;gids=0-1-2")),
        ("tmpfs", ['context="a:b:c1,c2",size=1k'], Options(data='context="a:b:c1,c2",size=1k')),
        ("xfs", ["noquota", "logbsize=64k", "ro"], Options(1, data="noquota,logbsize=64k")),
        ("cgroup2", ["nsdelegate", "iversion"], Options(data="nsdelegate")),
    ],
)  # fmt: skip
def test_options_mean_what_mount_says(fstype: str, words: list[str], expected: Options) -> None:
    assert parse(words, fstype, "") == expected


@pytest.mark.parametrize(
    ("fstype", "word"),
    [
        ("tmpfs", "gid=5x"),
        ("tmpfs", "newinstance"),
        ("tmpfs", "noswap=1"),
        ("tmpfs", "mode=999"),
        ("sysfs", "size=1"),
        ("cgroup2", "nsdelegate=1"),
        ("proc", "hidepid=9"),
        ("bind", "sync"),
        ("bind", "data"),
        ("mqueue", "mand"),
        ("proc", "tmpcopyup"),
    ],
)
def test_what_is_not_an_option_is_refused(fstype: str, word: str) -> None:
    with pytest.raises(DefinitionError):
        parse([word], fstype, "here")


@given(st.lists(st.sampled_from(ATTR_WORDS), max_size=12))
def test_the_last_of_contradicting_words_wins(words: list[str]) -> None:
    options = parse(words, "bind", "")
    assert options.attr_set & options.attr_clr & ~MOUNT_ATTR__ATIME == 0
    for yes, no, bit in (("ro", "rw", 1), ("nosuid", "suid", 2), ("nodev", "dev", 4), ("noexec", "exec", 8)):
        said = [word for word in words if word in (yes, no)]
        assert bool(options.attr_set & bit) == (bool(said) and said[-1] == yes)
        assert bool(options.attr_clr & bit) == (bool(said) and said[-1] == no)
    times = {"noatime": 0x10, "strictatime": 0x20, "relatime": 0, "atime": 0}
    said = [word for word in words if word in times]
    assert options.attr_set & MOUNT_ATTR__ATIME == (times[said[-1]] if said else 0)
    assert (options.attr_clr & MOUNT_ATTR__ATIME == MOUNT_ATTR__ATIME) == bool(said)  # the kernel demands it


@given(st.lists(st.text(max_size=12), max_size=6), st.sampled_from([*sorted(mountopts.FILESYSTEMS), "bind"]))
def test_any_text_is_read_or_refused(words: list[str], fstype: str) -> None:
    with suppress(DefinitionError):
        parse(words, fstype, "")
