"""Capabilities as masks and sets. Source: capabilities(7)."""

from __future__ import annotations

from collections.abc import Iterable

from config.errors import DefinitionError
from config.kernel_names import CAPABILITIES

BITS = {name: bit for bit, name in enumerate(CAPABILITIES)}

# Podman's eleven: Docker's without MKNOD, NET_RAW and AUDIT_WRITE
DEFAULT = frozenset(
    {
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    }
)


def canonical(name: str, where: str = "") -> str:
    """`net_admin`, `NET_ADMIN` or `CAP_NET_ADMIN` to the last; raises DefinitionError for a name that Linux lacks."""
    full = name.upper()
    full = full if full.startswith("CAP_") else "CAP_" + full
    if full not in BITS:
        raise DefinitionError(f"unknown capability {name!r}", where, "see capabilities(7)")
    return full


def mask(names: Iterable[str], where: str = "") -> int:
    """The bit mask of `names`, which must be spelled as in OCI (CAP_...)."""
    bits = 0
    for name in names:
        if name not in BITS:
            raise DefinitionError(f"unknown capability {name!r}", where, "see capabilities(7)")
        bits |= 1 << BITS[name]
    return bits


def names_of(bits: int) -> frozenset[str]:
    """The names of the set bits; bits of a newer kernel have no name and are left out."""
    return frozenset(name for name, bit in BITS.items() if bits >> bit & 1)


def resolve(add: Iterable[str], drop: Iterable[str], bounding: frozenset[str], where: str = "") -> frozenset[str]:
    """The default set with `cap_add` and `cap_drop`. ALL in drop wins over the default, ALL in add over drop's names.

    As Docker: `cap_drop: [ALL], cap_add: [X]` is X alone; `cap_add: [ALL], cap_drop: [X]` is all but X.
    """
    added = {name.upper() for name in add}
    dropped = {name.upper() for name in drop}
    all_added = bool(added & {"ALL", "CAP_ALL"})
    all_dropped = bool(dropped & {"ALL", "CAP_ALL"})
    if all_added and all_dropped:
        raise DefinitionError("ALL stands in cap_add and in cap_drop", where)
    more = {canonical(name, f"{where}cap_add") for name in added - {"ALL", "CAP_ALL"}}
    less = {canonical(name, f"{where}cap_drop") for name in dropped - {"ALL", "CAP_ALL"}}
    if more & less:
        raise DefinitionError(f"{min(more & less)} stands in cap_add and in cap_drop", where)
    refused = sorted(more - bounding)
    if refused:
        raise DefinitionError(f"this host cannot give {', '.join(refused)}", f"{where}cap_add")
    base = bounding if all_added else frozenset() if all_dropped else DEFAULT & bounding
    return (base | more) - less
