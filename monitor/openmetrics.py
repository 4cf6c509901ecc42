"""The same exposition as OpenMetrics 1.0, for scrapers that ask for it.

The two texts differ in the names of counters (a family has none of the `_total` of its samples), in the escapes of
HELP, and in the end mark. `container_memory_failcnt` is a counter in cAdvisor, with a name that OpenMetrics forbids a
counter: here its type is unknown, its name and value stay. Source: OpenMetrics 1.0, "Text format", "Counter".
"""

from __future__ import annotations

import re

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_MEDIA = "application/openmetrics-text"
_PLAIN = ("text/plain", "text/*", "*/*")
_HEADER = re.compile(rb"^# (HELP|TYPE) (\S+) (.*)$", re.MULTILINE)


def is_wanted(accept: str) -> bool:
    """Whether an Accept header prefers OpenMetrics to text (RFC 9110, 12.5.1). The plain text wins a draw with it."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        pairs = dict(parameter.replace(" ", "").partition("=")[::2] for parameter in parameters)
        if name == _MEDIA and pairs.get("version", "1.0.0").strip('"') not in ("1.0.0", "0.0.1"):
            continue
        weights[name] = max(weights.get(name, 0.0), _weight(pairs.get("q", "1")))
    wanted = weights.get(_MEDIA, 0.0)
    plain = next((weights[name] for name in _PLAIN if name in weights), 0.0)
    return wanted > plain


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def convert(text: bytes) -> bytes:
    """An exposition of format 0.0.4, each family with its HELP and TYPE, as OpenMetrics."""
    counters = {match[2] for match in _HEADER.finditer(text) if match[1] == b"TYPE" and match[3] == b"counter"}

    def header(match: re.Match[bytes]) -> bytes:
        word, name, rest = match.groups()
        if name in counters and name.endswith(b"_total"):
            name = name.removesuffix(b"_total")
        elif word == b"TYPE" and rest in (b"counter", b"untyped"):
            rest = b"unknown"
        if word == b"HELP":
            rest = rest.replace(b'"', rb"\"")
        return b"# %b %b %b" % (word, name, rest)

    return _HEADER.sub(header, text) + b"# EOF\n"
