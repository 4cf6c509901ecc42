"""Mount options in the words of mount(8), as the OCI spec uses them, to attributes of mount_setattr(2) and fsconfig(2).

Source: runtime-spec config.md, "Linux mount options"; include/uapi/linux/mount.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from config.errors import DefinitionError
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
_NOTHING = frozenset({"defaults", "async", "nolazytime", "nomand", "noiversion", "loud"})  # what the kernel does anyway
_REFUSED = {
    "idmap": "id-mapped mounts are not supported yet",
    "ridmap": "id-mapped mounts are not supported yet",
    "tmpcopyup": "tmpcopyup is not supported",
    "copy-symlink": "copy-symlink is not supported",
    "remount": "there is nothing to remount",
}

_SIZE = re.compile(r"\d+[kmgKMG%]?")
_OCTAL = re.compile(r"0?[0-7]{1,4}")
_NUMBER = re.compile(r"\d{1,10}")
_WORD = re.compile(r"[A-Za-z0-9_.:=/@%+-]+")
_DATA: dict[str, Mapping[str, re.Pattern[str] | None]] = {
    "tmpfs": {
        "size": _SIZE,
        "nr_blocks": _SIZE,
        "nr_inodes": _SIZE,
        "mode": _OCTAL,
        "uid": _NUMBER,
        "gid": _NUMBER,
        "huge": re.compile(r"never|always|within_size|advise"),
        "mpol": _WORD,
        "noswap": None,
        "inode32": None,
        "inode64": None,
    },
    "devpts": {"newinstance": None, "ptmxmode": _OCTAL, "mode": _OCTAL, "uid": _NUMBER, "gid": _NUMBER, "max": _NUMBER},
    "proc": {
        "hidepid": re.compile(r"[0-4]|off|noaccess|invisible|ptraceable"),
        "gid": _NUMBER,
        "subset": re.compile("pid"),
    },
    "sysfs": {},
    "mqueue": {},
    "cgroup2": {},
}
FILESYSTEMS = frozenset(_DATA)


@dataclass(frozen=True, slots=True)
class Options:
    """What a list of options means. `attr_set` wins over `attr_clr`; the kernel wants atime bits cleared before set."""

    attr_set: int = 0
    attr_clr: int = 0
    recursive_attrs: bool = False
    bind: bool = False
    recursive: bool = False  # rbind
    propagation: int = 0  # MS_*, 0: as the source
    data: str = ""


def parse(options: Iterable[str], fstype: str, where: str) -> Options:
    """Read `options` of a mount of type `fstype` ("bind" for binds). Of contradicting words the last wins.

    Raises DefinitionError for words that the file system does not have: an option is never dropped.
    """
    words = [str(word) for option in options for word in option.split(",") if word]
    bind = fstype == "bind" or "bind" in words or "rbind" in words
    attr_set = attr_clr = propagation = 0
    deep = recursive = False
    plain_clears = 0
    data: list[str] = []
    for word in words:
        if word in ("bind", "rbind"):
            recursive = word == "rbind"
        elif word in _ATTRS or (word[:1] == "r" and word[1:] in _ATTRS):
            rec = word not in _ATTRS
            on, off = _ATTRS[word[1:] if rec else word]
            deep = deep or rec
            plain_clears |= 0 if rec else off & ~on
            attr_set = (attr_set & ~off & ~on) | on
            attr_clr = (attr_clr & ~on) | off
        elif word in PROPAGATION:
            propagation = PROPAGATION[word]
        elif word in _NOTHING:
            continue
        elif word in _REFUSED:
            raise DefinitionError(f"mount option {word!r}: {_REFUSED[word]}", where)
        elif bind:
            raise DefinitionError(f"mount option {word!r} does not apply to a bind mount", where)
        elif word in _SUPERBLOCK:
            data.append(word)
        else:
            data.append(_checked(word, fstype, where))
    if deep and not bind:
        raise DefinitionError("recursive mount options apply to bind mounts only", where)
    if deep and plain_clears & attr_clr:
        # one mount_setattr call has one depth: restrictions may go down with it, a loosening may not
        raise DefinitionError("a recursive mount option stands beside one that loosens the top only", where)
    if not bind and propagation & (MS_SHARED | MS_UNBINDABLE):
        raise DefinitionError("a new file system can only be private or slave", where)
    return Options(attr_set, attr_clr, deep, bind, recursive, propagation, ",".join(data))


def _checked(word: str, fstype: str, where: str) -> str:
    key, equals, value = word.partition("=")
    known = _DATA[fstype]
    if key not in known:
        raise DefinitionError(f"{fstype} has no mount option {word!r}", where)
    pattern = known[key]
    if pattern is None:
        if equals:
            raise DefinitionError(f"mount option {key!r} takes no value", where)
    elif not pattern.fullmatch(value):
        raise DefinitionError(f"bad value in mount option {word!r}", where)
    return word
