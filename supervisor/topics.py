"""The types of events: their words, topics and data, and the JSON Schema of a line of the stream (docs/events.md).

`/tasks/...` are containerd's topics, with what it lacks: a number, the generation, and the cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INTEGER, NUMBER, TEXT, FLAG = "integer", "number", "string", "boolean"


@dataclass(frozen=True, slots=True)
class Kind:
    topic: str
    meaning: str
    data: Mapping[str, str]  # key of `data` to its JSON type; null is allowed for each


def _kind(topic: str, meaning: str, **data: str) -> Kind:
    return Kind(topic, meaning, data)


KINDS: Mapping[str, Kind] = {
    "create": _kind("/tasks/create", "A run is decided: its generation is given.", reason=TEXT, attempt=INTEGER),
    "start": _kind("/tasks/start", "Its first process runs.", pid=INTEGER),
    "oom": _kind(
        "/tasks/oom", "Something in it was OOM-killed; init or not.",
        init=FLAG, kills=INTEGER, scope=TEXT, group=FLAG,
    ),
    "exit": _kind(
        "/tasks/exit", "A run ended; recorded once a generation.",
        code=INTEGER, signal=INTEGER, oom=FLAG, source=TEXT, started=NUMBER, ended=NUMBER, detail=TEXT,
    ),
    "delete": _kind("/tasks/delete", "What the run left is removed: cgroup, run directory."),
    "exec-added": _kind("/tasks/exec-added", "A command is to run inside.", exec=INTEGER, command=TEXT, unsaid=INTEGER),
    "exec-started": _kind("/tasks/exec-started", "It runs.", exec=INTEGER),
    "exec-exit": _kind("/tasks/exit", "It ended.", exec=INTEGER, code=INTEGER),
    "paused": _kind("/tasks/paused", "The run is frozen."),
    "resumed": _kind("/tasks/resumed", "It goes on."),
    "state": _kind("/containers/state", "The state or its cause changed, and no other type says more."),
    "restart-scheduled": _kind(
        "/containers/restart-scheduled", "BACKOFF: the next run comes after a delay.",
        reason=TEXT, attempt=INTEGER, wait=NUMBER, at=NUMBER,
    ),
    "restart-exhausted": _kind("/containers/restart-exhausted", "The restarts of its window are used up."),
    "crash-looping": _kind("/containers/crash-looping", "It ended too often in its window; or that is over."),
    "health": _kind("/containers/health", "Its health changed.", health=TEXT, before=TEXT),
    "desired": _kind("/containers/desired", "Somebody wants it up or down.", desired=TEXT, explicit_stop=FLAG),
    "adopted": _kind("/containers/adopted", "It was found running when the daemon started.", pid=INTEGER),
    "shim-lost": _kind("/containers/shim-lost", "Its shim was killed; it runs on."),
    "taken-over": _kind("/containers/taken-over", "Another shim tends it."),
    "pressure": _kind("/containers/pressure", "Its tasks wait: pressure began, or goes on.", source=TEXT, kind=TEXT),
    "memory-high": _kind(
        "/containers/memory-high", "memory.high is exceeded: that began, or goes on.", source=TEXT, kind=TEXT
    ),
    "pids-max": _kind("/containers/pids-max", "The limit of processes was met; at most one a minute."),
    "fault": _kind("/containers/fault", "Something could not be done."),
    "note": _kind("/containers/note", "Anything else; `code` says what."),
    "definition-added": _kind("/definitions/added", "A container is defined that was not known."),
    "definition-changed": _kind("/definitions/changed", "Its definition changed.", fields=TEXT, restart=FLAG),
    "definition-removed": _kind("/definitions/removed", "Its definition is gone."),
    "definition-error": _kind("/definitions/error", "A definition file is refused.", file=TEXT, line=INTEGER),
    "daemon-start": _kind("/daemon/start", "A daemon began.", pid=INTEGER, version=TEXT, clean=FLAG),
    "daemon-stop": _kind("/daemon/stop", "A daemon ended on purpose; its containers go on.", pid=INTEGER),
}  # fmt: skip

# Not stored: the stream says it where a reader comes back for numbers that it cannot have.
GAP = _kind("/events/gap", "Numbers that are no longer kept.")
# What `why` does not show: it follows from what it does show, or is none of the chain.
BESIDE_THE_CHAIN = frozenset(
    ("start", "exit", "delete", "exec-added", "exec-started", "exec-exit", "desired", "definition-added",
     "definition-removed", "definition-error")
)  # fmt: skip


def topic_of(type_: str) -> str:
    """A type that is not known was written by a later version."""
    found = KINDS.get(type_)
    return found.topic if found is not None else f"/other/{type_}"


def types_of(words: str) -> tuple[str, ...]:
    """`oom,/tasks/exit` as types; all types of a topic. Raises ValueError with the word that is neither."""
    found: dict[str, None] = {}
    for word in filter(None, (part.strip() for part in words.split(","))):
        types = [word] if word in KINDS else [name for name, kind in KINDS.items() if kind.topic == word]
        if not types:
            raise ValueError(word)
        found.update(dict.fromkeys(types))
    return tuple(found)


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one line of `GET /v1/events` and `wharfctl events --json`."""
    whole = {"type": "integer", "minimum": 0}
    fields: dict[str, Any] = {
        "seq": whole | {"description": "Number; grows by one, for ever. The place to resume from."},
        "type": {"enum": list(KINDS)},
        "topic": {"enum": sorted({kind.topic for kind in KINDS.values()})},
        "name": {"type": "string", "description": "The container; empty: the daemon."},
        "generation": whole | {"description": "The run; 0: none."},
        "boot_id": {"type": "string", "description": "The kernel's id of the boot."},
        "boot": {"type": "number", "description": "CLOCK_BOOTTIME when it happened, seconds."},
        "wall": {"type": "number", "description": "Unix time when it happened, seconds; the clock may be wrong."},
        "phase": {"type": "string", "description": "State of the container after it."},
        "before": {"type": "string", "description": "State before it."},
        "code": {"type": "string", "description": "Cause, one word."},
        "text": {"type": "string", "maxLength": 1000, "description": "Cause, for people."},
        "data": {"type": "object", "description": "What the type adds."},
    }

    def data(kind: Kind) -> dict[str, Any]:
        return {"properties": {"data": {"properties": {k: {"type": [t, "null"]} for k, t in kind.data.items()}}}}

    event = {
        "type": "object",
        "required": list(fields),
        "properties": fields,
        "allOf": [
            {
                "if": {"properties": {"type": {"const": name}}},
                "then": {
                    "properties": {"data": {"properties": {k: {"type": [t, "null"]} for k, t in kind.data.items()}}}
                },
            }
            for name, kind in KINDS.items()
            if kind.data
        ],
    }
    gap = {
        "type": "object",
        "description": GAP.meaning,
        "required": ["type", "topic", "seq", "from", "to", "text"],
        "properties": {
            "type": {"const": "gap"},
            "topic": {"const": GAP.topic},
            "seq": whole | {"description": "The place to resume from, after the gap."},
            "from": {"type": ["integer", "null"], "description": "First number that is lost; null: unknown."},
            "to": {"type": ["integer", "null"], "description": "Last number that is lost; null: unknown."},
            "text": {"type": "string"},
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "wharfinger event",
        "oneOf": [event, gap],
    }
