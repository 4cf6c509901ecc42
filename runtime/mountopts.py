"""Mount options in the words of mount(8), as the OCI spec uses them, to attributes of mount_setattr(2) and fsconfig(2).

Source: runtime-spec config.md, "Linux mount options"; include/uapi/linux/mount.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from config.errors import DefinitionError
from config.record import record
from runtime.linux import MOUNT_ATTR__ATIME as ATIME_MASK
from runtime.linux import MOUNT_ATTR_NOATIME as NOATIME
from runtime.linux import MOUNT_ATTR_NODEV as NODEV
from runtime.linux import MOUNT_ATTR_NODIRATIME as NODIRATIME
from runtime.linux import MOUNT_ATTR_NOEXEC as NOEXEC
from runtime.linux import MOUNT_ATTR_NOSUID as NOSUID
from runtime.linux import MOUNT_ATTR_NOSYMFOLLOW as NOSYMFOLLOW
from runtime.linux import MOUNT_ATTR_RDONLY as RDONLY
from runtime.linux import MOUNT_ATTR_STRICTATIME as STRICTATIME
from runtime.linux import MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, MS_UNBINDABLE

PROPAGATION = {
    "unbindable": MS_UNBINDABLE,
    "private": MS_PRIVATE,
    "slave": MS_SLAVE,
    "shared": MS_SHARED,
    "runbindable": MS_UNBINDABLE | MS_REC,
    "rprivate": MS_PRIVATE | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
}

# word -> (attributes set, attributes cleared); an atime word sets the whole field
_ATTRS: dict[str, tuple[int, int]] = {
    "ro": (RDONLY, 0),
    "rw": (0, RDONLY),
    "nosuid": (NOSUID, 0),
    "suid": (0, NOSUID),
    "nodev": (NODEV, 0),
    "dev": (0, NODEV),
    "noexec": (NOEXEC, 0),
    "exec": (0, NOEXEC),
    "nosymfollow": (NOSYMFOLLOW, 0),
    "symfollow": (0, NOSYMFOLLOW),
    "nodiratime": (NODIRATIME, 0),
    "diratime": (0, NODIRATIME),
    "relatime": (0, ATIME_MASK),
    "norelatime": (STRICTATIME, ATIME_MASK),
    "noatime": (NOATIME, ATIME_MASK),
    "atime": (0, ATIME_MASK),
    "strictatime": (STRICTATIME, ATIME_MASK),
    "nostrictatime": (0, ATIME_MASK),
}
_SUPERBLOCK = frozenset({"sync", "dirsync", "lazytime"})  # fsconfig takes them as flags; a bind cannot change them
# what the kernel does anyway; file systems that count changes (iversion) do so whoever asks
_NOTHING = frozenset({"defaults", "async", "nolazytime", "nomand", "noiversion", "iversion", "loud", "silent"})
_REFUSED = {
    "mand": "mandatory locks are gone from Linux",
    "copy-symlink": "copy-symlink is not supported",
    "src-nofollow": "src-nofollow is not supported",
    "dest-nofollow": "dest-nofollow is not supported",
}
_LABELS = frozenset({"context", "fscontext", "defcontext", "rootcontext"})  # of SELinux, on any file system

# regular expressions as text: each takes a third of a millisecond to compile, and few are met
_SIZE = r"\d+[kmgKMG%]?"
_OCTAL = r"0?[0-7]{1,4}"
_NUMBER = r"\d{1,10}"
_WORD = r"[A-Za-z0-9_.:=/@%+-]+"
_DATA: dict[str, Mapping[str, str | None]] = {
    "tmpfs": {
        "size": _SIZE,
        "nr_blocks": _SIZE,
        "nr_inodes": _SIZE,
        "mode": _OCTAL,
        "uid": _NUMBER,
        "gid": _NUMBER,
        "huge": r"never|always|within_size|advise",
        "mpol": _WORD,
        "noswap": None,
        "inode32": None,
        "inode64": None,
        "casefold": None,
        "quota": None,
        "usrquota": None,
        "grpquota": None,
    },
    "devpts": {"newinstance": None, "ptmxmode": _OCTAL, "mode": _OCTAL, "uid": _NUMBER, "gid": _NUMBER, "max": _NUMBER},
    "proc": {
        "hidepid": r"[0-4]|off|noaccess|invisible|ptraceable",
        "gid": _NUMBER,
        "subset": "pid",
    },
    "sysfs": {},
    "mqueue": {},
    "cgroup2": dict.fromkeys(
        (
            "nsdelegate",
            "favordynmods",
            "memory_localevents",
            "memory_recursiveprot",
            "memory_hugetlb_accounting",
            "pids_localevents",
        )
    ),
}
FILESYSTEMS = frozenset(_DATA)  # whose options we know; any other takes what it is given, and the kernel judges


@record
class Options:
    """What a list of options means. `attr_set` wins over `attr_clr`; the kernel wants atime bits cleared before set."""

    attr_set: int = 0
    attr_clr: int = 0
    deep_set: int = 0  # down to the mounts below; what both say, the deep ones say last
    deep_clr: int = 0
    bind: bool = False
    recursive: bool = False  # rbind
    propagation: int = 0  # MS_*, 0: nothing was said
    copy_up: bool = False
    remount: bool = False
    idmap: str = ""  # idmap or ridmap
    data: str = ""


def _apply(word: str, pair: tuple[int, int]) -> tuple[int, int]:
    on, off = _ATTRS[word]
    return (pair[0] & ~off & ~on) | on, (pair[1] & ~on) | off


def parse(options: Iterable[str], fstype: str, where: str) -> Options:
    """Read `options` of a mount of type `fstype` ("bind" for binds). Of contradicting words the last wins.

    Raises DefinitionError for words that the file system does not have: an option is never dropped.
    """
    words = [str(word) for option in options for word in _split(option) if word]
    bind = fstype == "bind" or "bind" in words or "rbind" in words
    top, deep = (0, 0), (0, 0)
    propagation = 0
    recursive = copy_up = remount = False
    idmap = ""
    data: list[str] = []
    for word in words:
        if word in ("bind", "rbind"):
            recursive = word == "rbind" or recursive
        elif word in _ATTRS:
            top = _apply(word, top)
        elif word[:1] == "r" and word[1:] in _ATTRS:
            deep = _apply(word[1:], deep)
        elif word in PROPAGATION:
            propagation = PROPAGATION[word]
        elif word in ("idmap", "ridmap") or word.startswith(("idmap=", "ridmap=")):
            idmap = word
        elif word in _NOTHING:
            continue
        elif word == "remount":
            remount = True
        elif word == "tmpcopyup" and fstype == "tmpfs":
            copy_up = True
        elif word in _REFUSED:
            raise DefinitionError(f"mount option {word!r}: {_REFUSED[word]}", where)
        elif bind:
            raise DefinitionError(f"mount option {word!r} does not apply to a bind mount", where)
        elif word in _SUPERBLOCK:
            data.append(word)
        else:
            data.append(_checked(word, fstype, where))
    if not bind:  # nothing is mounted below a new file system
        on, off = deep
        top, deep = ((top[0] & ~off) | on, (top[1] & ~on) | off), (0, 0)
    return Options(*top, *deep, bind, recursive, propagation, copy_up, remount, idmap, ",".join(data))


def _split(option: str) -> list[str]:
    """At commas, but not inside of double quotes (SELinux contexts) nor in the maps of idmap=."""
    if option.startswith(("idmap=", "ridmap=")) or '"' not in option:
        return option.split(",")
    return [part for part in re.findall(r'(?:[^,"]|"[^"]*")+', option) if part]


def _checked(word: str, fstype: str, where: str) -> str:
    key, equals, value = word.partition("=")
    if fstype not in _DATA or key in _LABELS:
        return word
    known = _DATA[fstype]
    if key not in known:
        raise DefinitionError(f"{fstype} has no mount option {word!r}", where)
    pattern = known[key]
    if pattern is None:
        if equals:
            raise DefinitionError(f"mount option {key!r} takes no value", where)
    elif not re.fullmatch(pattern, value):
        raise DefinitionError(f"bad value in mount option {word!r}", where)
    return word
