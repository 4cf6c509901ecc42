"""From the shim's exit record to the end of a run: numbers to facts, by the core's own verdict on OOM."""

from __future__ import annotations

from runtime.shim import ExitRecord
from supervisor.lifecycle.facts import End, Source
from supervisor.lifecycle.oom import Counters, detail, verdict

UNTOLD = "its shim was lost, and the kernel does not tell the code"


def end_of(record: ExitRecord, source: Source, we_killed: bool) -> End:
    """`we_killed`: the SIGKILL was ours, so it is no OOM whatever the counters say."""
    signal = record.status if record.how == "signaled" else None
    counters = Counters(
        signal=signal,
        we_killed=we_killed,
        group=record.get("oom.group") == 1,
        unknown=record.how == "unknown",
        kills_start=record.get("mem.parent.oom_kill.start"),
        kills_end=record.get("mem.parent.oom_kill.end"),
        own_start=record.get("mem.parent.oom.start"),
        own_end=record.get("mem.parent.oom.end"),
        top_start=record.get("mem.top.oom.start"),
        top_end=record.get("mem.top.oom.end"),
        seen=record.get("oom_seen"),
    )
    oom = verdict(counters)
    code = record.status if record.how == "exited" else None
    if record.how == "unknown":
        source = Source.LOST
    elif record.told == "kernel":
        source = Source.KERNEL
    return End(
        generation=record.generation,
        started=record.started,
        ended=record.ended,
        code=code,
        signal=signal,
        oom=oom,
        source=source,
        detail=UNTOLD if record.how == "unknown" else detail(counters),
    )
