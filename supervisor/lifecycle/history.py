"""What a step tells the world: the events of the stream that follow from it. Pure.

Order within a step: definition, intent, the end of a run (OOM before exit, as containerd tells them), notes, and last
the move itself. `later` marks what nothing durable hangs on: it waits for the next transaction instead of asking for
its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from supervisor.lifecycle import why
from supervisor.lifecycle.facts import (
    Absent,
    Adopted,
    ChildOom,
    Effect,
    End,
    Event,
    Launch,
    Launched,
    Note,
    Phase,
    Pressure,
    RecordEnd,
    Redefined,
    Removed,
    State,
)

Value = str | int | float | bool | None

# A Note's kind where it is not the type's own word.
TYPES: Mapping[str, str] = {"oom-child": "oom", "update": "definition-changed"}
OWN = frozenset(("health", "crash-looping", "shim-lost", "taken-over", "fault", "pressure", "memory-high", "pids-max"))


@dataclass(frozen=True, slots=True)
class Said:
    """One event of the stream, before it has a number and a time."""

    type: str  # topics.KINDS
    generation: int
    code: str
    text: str
    data: Mapping[str, Value] = field(default_factory=dict)
    later: bool = False


def type_of(kind: str) -> str:
    """Of a Note, and of what the engine remarks."""
    return kind if kind in OWN else TYPES.get(kind, "note")


def told(event: Event, before: State, after: State, effects: Sequence[Effect]) -> tuple[Said, ...]:
    """All that one step says, in its order."""
    return (
        *_definition(event, before, after, effects),
        *_intent(before, after),
        *(said for effect in effects if isinstance(effect, RecordEnd) for said in _ended(effect.end, before, after)),
        *(_note(event, effect, before, after) for effect in effects if isinstance(effect, Note)),
        *_move(event, before, after, effects),
    )


def _definition(event: Event, before: State, after: State, effects: Sequence[Effect]) -> Iterator[Said]:
    match event:
        case Absent() if before.phase is Phase.UNKNOWN and before.restored is None:
            yield Said("definition-added", after.generation, "definition", "it is defined")
        case Removed() if not before.removed:
            yield Said("definition-removed", after.generation, "definition", "its definition is gone")
        case Redefined() if not any(isinstance(effect, Note) and effect.kind == "update" for effect in effects):
            yield Said("definition-changed", after.generation, "definition", _changed(event), _fields(event))


def _changed(event: Redefined) -> str:
    return f"definition changed: {', '.join(event.fields)}".rstrip(": ")


def _fields(event: Redefined) -> dict[str, Value]:
    return {"fields": ",".join(event.fields), "restart": event.restart}


def _intent(before: State, after: State) -> Iterator[Said]:
    if (before.desired, before.explicit_stop) != (after.desired, after.explicit_stop):
        data: dict[str, Value] = {"desired": after.desired.value, "explicit_stop": after.explicit_stop}
        yield Said("desired", after.generation, after.cause.code, f"{after.desired}: {after.cause.text}", data)


def _ended(end: End, before: State, after: State) -> Iterator[Said]:
    if before.launching and before.pid is None and end.started is not None:  # its end was heard before its start
        yield Said("start", end.generation, after.cause.code, "ended at once", {"pid": None})
    words, code = why.end_words(end, after.definition), why.end_code(end, None)
    if end.oom.killed:
        scope = None if end.oom.scope is None else end.oom.scope.value
        kills: dict[str, Value] = {"init": True, "kills": end.oom.kills, "scope": scope, "group": end.oom.group}
        yield Said("oom", end.generation, "oom", words, kills)
    yield Said(
        "exit",
        end.generation,
        code,
        words,
        {
            "code": end.code,
            "signal": end.signal,
            "oom": end.oom.killed,
            "source": end.source.value,
            "started": end.started,
            "ended": end.ended,
            "detail": end.detail[:200],
        },
    )


def _note(event: Event, note: Note, before: State, after: State) -> Said:
    data: dict[str, Value] = {}
    match event:
        case ChildOom() if note.kind == "oom-child":
            data = {"init": False, "kills": event.kills, "scope": None, "group": False}
        case Redefined() if note.kind == "update":
            data = _fields(event)
        case Pressure() if note.kind == "pressure":
            kind = "memory-high" if event.source == "memory_high" else "pressure"
            return Said(kind, after.generation, kind, note.text, {"source": event.source, "kind": event.kind})
    if note.kind == "health":
        data = {"health": after.health.value, "before": before.health.value}
    return Said(type_of(note.kind), after.generation, note.kind, note.text, data)


def _move(event: Event, before: State, after: State, effects: Sequence[Effect]) -> Iterator[Said]:
    moved = (before.phase, before.cause) != (after.phase, after.cause)
    cause, generation = after.cause, after.generation
    launch = next((effect for effect in effects if isinstance(effect, Launch)), None)
    if launch is not None:
        begun: dict[str, Value] = {"reason": launch.reason.value, "attempt": after.attempt}
        yield Said("create", launch.generation, cause.code, cause.text, begun)
    elif isinstance(event, Launched) and before.pid is None and after.pid is not None:
        yield Said("start", generation, cause.code, cause.text, {"pid": after.pid}, later=not moved)
        if moved:
            yield Said("state", generation, cause.code, cause.text)
    elif moved and isinstance(event, Adopted):
        yield Said("adopted", generation, cause.code, cause.text, {"pid": after.pid})
    elif moved and cause.code == "exhausted" and before.cause.code != "exhausted":
        yield Said("restart-exhausted", generation, cause.code, cause.text)
    elif moved and after.phase is Phase.BACKOFF:
        wait: dict[str, Value] = {"reason": after.next_reason.value, "attempt": after.attempt}
        wait |= {"wait": after.backoff, "at": after.retry_at}
        yield Said("restart-scheduled", generation, cause.code, cause.text, wait)
    elif moved:
        yield Said(_frozen(before, after), generation, cause.code, cause.text)


def _frozen(before: State, after: State) -> str:
    if after.phase is Phase.PAUSED and before.phase is not Phase.PAUSED:
        return "paused"
    return "resumed" if before.phase is Phase.PAUSED and after.phase is Phase.RUNNING else "state"
