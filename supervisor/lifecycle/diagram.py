"""Where each event may lead, and the pictures of docs/lifecycle.md that are drawn from it. Pure.

The tests compare this table with what `step` does over thousands of histories, both ways: nothing happens that is not
here, and everything here happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from supervisor.lifecycle.facts import Phase

# event: from > to to, from > to. Where a phase stays as it is, it is not named.
_LEADS = """
Adopted: UNKNOWN > STARTING RUNNING STOPPING
Absent: UNKNOWN > STARTING BACKOFF STOPPED EXITED FATAL
StartAsked: STOPPED > STARTING, BACKOFF > STARTING, EXITED > STARTING, FATAL > STARTING
StopAsked: STARTING > STOPPING STOPPED, RUNNING > STOPPING, BACKOFF > STOPPED, EXITED > STOPPED, FATAL > STOPPED
RestartAsked: STARTING > STOPPING, RUNNING > STOPPING, STOPPED > STARTING, BACKOFF > STARTING, EXITED > STARTING
RestartAsked: FATAL > STARTING
Redefined: STARTING > STOPPING, RUNNING > STOPPING, STOPPED > STARTING, BACKOFF > STARTING EXITED, EXITED > STARTING
Redefined: FATAL > STARTING
Removed: STARTING > STOPPING STOPPED, RUNNING > STOPPING, BACKOFF > STOPPED, EXITED > STOPPED, FATAL > STOPPED
Launched: STARTING > RUNNING
LaunchFailed: STARTING > BACKOFF FATAL, STOPPING > STARTING STOPPED
Ended: STARTING > BACKOFF EXITED FATAL, RUNNING > STARTING BACKOFF EXITED FATAL
Ended: STOPPING > STARTING BACKOFF STOPPED EXITED FATAL
ChildOom: STARTING > STOPPING, RUNNING > STOPPING
Pressure: STARTING > STOPPING, RUNNING > STOPPING
Probed: STARTING > STOPPING, RUNNING > STOPPING
Failed: STARTING > STOPPING BACKOFF FATAL, RUNNING > STOPPING, STOPPING > STARTING STOPPED
Tick: STARTING > RUNNING, BACKOFF > STARTING
"""


def _read(text: str) -> Mapping[tuple[str, Phase], frozenset[Phase]]:
    leads: dict[tuple[str, Phase], frozenset[Phase]] = {}
    for line in text.strip().splitlines():
        event, _, rest = line.partition(":")
        for part in filter(None, (part.strip() for part in rest.split(","))):
            before, _, after = part.partition(" > ")
            leads[event, Phase(before)] = frozenset(Phase(word) for word in after.split())
    return MappingProxyType(leads)


LEADS = _read(_LEADS)

WORDS = {
    "Adopted": "runs",
    "Absent": "does not run",
    "StartAsked": "start",
    "StopAsked": "stop",
    "RestartAsked": "restart",
    "Redefined": "new definition",
    "Removed": "removed",
    "Launched": "launched",
    "LaunchFailed": "launch failed",
    "Ended": "ended",
    "ChildOom": "a child's OOM",
    "Pressure": "pressure",
    "Probed": "unhealthy",
    "Failed": "no answer",
    "Tick": "time",
}


def mermaid() -> str:
    """A state diagram: one arrow for each pair of phases, with all that leads along it."""
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for (event, before), phases in LEADS.items():
        for after in phases:
            arrows.setdefault((before, after), []).append(WORDS[event])
    order = list(Phase)
    drawn = sorted(arrows, key=lambda pair: (order.index(pair[0]), order.index(pair[1])))
    lines = [f"    {before} --> {after}: {', '.join(arrows[before, after])}" for before, after in drawn]
    return "\n".join(("```mermaid", "stateDiagram-v2", "    [*] --> UNKNOWN", *lines, "```"))


def table() -> str:
    """Rows are events, columns phases; a cell says where it may lead, and is empty where the phase stays."""
    phases = [phase for phase in Phase if any(before is phase for _, before in LEADS)]
    events = list(dict.fromkeys(event for event, _ in LEADS))
    lines = ["| | " + " | ".join(phases) + " |", "|---" * (len(phases) + 1) + "|"]
    for event in events:
        cells = (sorted(LEADS.get((event, phase), ()), key=list(Phase).index) for phase in phases)
        lines.append(f"| {event} | " + " | ".join("<br>".join(cell) for cell in cells) + " |")
    return "\n".join(lines)


def drawn(text: str) -> str:
    """A document with its pictures as they are now, between `<!-- drawn: NAME -->` and `<!-- end -->`."""
    for name, picture in (("states", mermaid()), ("transitions", table())):
        head, begin, rest = text.partition(f"<!-- drawn: {name} -->\n")
        _, end, tail = rest.partition("<!-- end -->")
        if begin and end:
            text = f"{head}{begin}{picture}\n{end}{tail}"
    return text
