"""Label values and names that no file can break (pure).

Values come from files of others: lone surrogates, control characters, any length. They are cleaned once a container;
two containers that would become one keep apart by a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

MAX_BYTES = 256

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NAME = re.compile(r"[^a-zA-Z0-9_]")


def clean(value: str) -> str:
    """Encodable, without control characters, at most MAX_BYTES of UTF-8, cut between characters."""
    data = value[: 4 * MAX_BYTES].encode("utf-8", "surrogatepass")
    text = _CONTROL.sub("", data.decode("utf-8", "replace"))
    return text.encode()[:MAX_BYTES].decode("utf-8", "ignore")


def escape(text: str) -> str:
    """For between the quotes of a label value; backslash first."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def label_set(pairs: Iterable[tuple[str, str]]) -> str:
    """`name="value",...`, values cleaned and escaped; the names are ours."""
    return ",".join(f'{name}="{escape(clean(value))}"' for name, value in pairs)


def unique(names: Iterable[str]) -> dict[str, str]:
    """Each name to its label value. In the order of the names, so that an answer does not depend on a restart."""
    taken: set[str] = set()
    found: dict[str, str] = {}
    for name in sorted(set(names)):
        text = base = clean(name)
        number = 2
        while text in taken:
            end = f"#{number}"
            text = base.encode()[: MAX_BYTES - len(end)].decode("utf-8", "ignore") + end
            number += 1
        taken.add(text)
        found[name] = text
    return found


def label_name(key: str) -> str:
    """As cAdvisor names the labels of a container."""
    return "container_label_" + _NAME.sub("_", key)


def allowed(labels: Mapping[str, str], keys: Iterable[str]) -> tuple[tuple[tuple[str, str], ...], int]:
    """The labels that the settings allow, all of them on every container (empty where it has none), and how many keys
    were left out because two become one name: the first in the order of the settings wins."""
    found: dict[str, str] = {}
    dropped = 0
    for key in dict.fromkeys(keys):
        name = label_name(key)
        if name in found:
            dropped += 1
        else:
            found[name] = labels.get(key, "")
    return tuple(found.items()), dropped
