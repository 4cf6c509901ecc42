"""Pressure of a run: when it is told of, and when it ends the run (docs/lifecycle.md, "Pressure"). Pure.

Notices of one source that follow each other within a window or two are one strain, which goes on. It is noted when it
begins, and then more and more seldom, for notes go to a disk. With `on_pressure: restart` a strain of a source in
`restart_on` that lasts `restart_after` ends the run, by the same graceful stop as everything else, and the policy
judges the end as a failure. Not within `cool_down` of the last such restart: a container whose work needs more than it
may have would restart for ever.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.lifecycle import moves
from supervisor.lifecycle.facts import Cause, Effect, Note, Pressure, Reason, State, Strain
from supervisor.lifecycle.moves import Step
from supervisor.lifecycle.why import span

SLACK = 2.0  # seconds beside two windows: the kernel looks at some triggers each 2 s only
NOTE_AGAIN, NOTE_AGAIN_MAX = 60.0, 3600.0


def noticed(s: State, event: Pressure, now: float) -> Step:
    if s.pid is None:
        return s, ()
    strain = _goes_on(s, event, now)
    cooling = _cooling(s, now)
    due = _counts(s, strain, now)
    words = _words(event, strain)
    if due and cooling <= 0:
        s = replace(s, pressure_at=now)
        s, effects = moves.stop(s, now, Cause("pressure", f"{words}: restart"), again=Reason.PRESSURE)
        return s, effects
    notes: tuple[Effect, ...] = ()
    if strain.told is None or now >= strain.told + strain.pause:
        strain = replace(strain, told=now, pause=min(max(NOTE_AGAIN, 2 * strain.pause), NOTE_AGAIN_MAX))
        notes = (Note("pressure", f"{words}; no restart for another {span(cooling)}" if due else words),)
    others = tuple(other for other in s.strains if other.source != strain.source)
    return replace(s, strains=(*others, strain)), notes


def _goes_on(s: State, event: Pressure, now: float) -> Strain:
    """The strain that this notice belongs to; a new one keeps the last one's pace of notes for a while."""
    for known in s.strains:
        if known.source != event.source:
            continue
        if known.at <= now <= known.at + 2 * event.window + SLACK:
            return replace(known, at=now)
        forgotten = now >= known.at + 2 * known.pause
        return Strain(event.source, now, now, known.told, 0.0 if forgotten else known.pause)
    return Strain(event.source, now, now)


def _counts(s: State, strain: Strain, now: float) -> bool:
    rules = s.definition.pressure
    wanted = s.definition.on_pressure == "restart" and strain.source in rules.restart_on
    return wanted and now >= strain.since + rules.restart_after


def _cooling(s: State, now: float) -> float:
    """Seconds left of the cool-down."""
    return 0.0 if s.pressure_at is None else s.pressure_at + s.definition.pressure.cool_down - now


def _words(event: Pressure, strain: Strain) -> str:
    """`memory pressure: some tasks wait, for 12s now`."""
    if event.source == "memory_high":
        words = "memory.high is exceeded"
    else:
        words = f"{event.source} pressure: {'all' if event.kind == 'full' else 'some'} tasks wait"
    lasts = strain.at - strain.since
    return f"{words}, for {span(lasts)} now" if lasts >= 1 else words
