"""Which histogram and which kind: how long the daemon takes, from an event to its decision and to its effect."""

from __future__ import annotations

from collections.abc import Mapping

from monitor.histogram import Timing
from supervisor.lifecycle import facts
from supervisor.lifecycle.facts import State
from supervisor.tracing import Tracer

DECISIONS: Mapping[type[facts.Event], str] = {
    facts.Ended: "exit",
    facts.LaunchFailed: "start",
    facts.Launched: "start",
    facts.ChildOom: "oom",
    facts.Pressure: "pressure",
    facts.Probed: "health",
    facts.ShimLost: "shim",
    facts.TakenOver: "shim",
    facts.StartAsked: "request",
    facts.StopAsked: "request",
    facts.RestartAsked: "request",
    facts.Redefined: "definition",
    facts.Removed: "definition",
    facts.Tick: "timer",
}
EFFECTS: Mapping[type[facts.Effect], str] = {
    facts.Launch: "launch",
    facts.Clean: "clean",
    facts.Probe: "probe",
    facts.ApplyLive: "apply",
    facts.Forget: "forget",
    facts.Signal: "signal",
    facts.KillAll: "signal",
}


class Watch:
    """Told by the keepers; times are of CLOCK_BOOTTIME."""

    def __init__(self, timing: Timing, tracer: Tracer | None = None) -> None:
        self._timing = timing
        self._tracer = tracer

    def decided(self, event: facts.Event, before: State, after: State, heard: float, now: float) -> None:
        """`heard`: when it came, or when a Tick was due."""
        oom = isinstance(event, facts.Ended) and event.end.oom.killed
        self._timing.decision.observe(now - heard, "oom" if oom else DECISIONS.get(type(event), "other"))
        if self._tracer is not None:
            self._tracer.decided(event, before, after, heard, now)

    def done(
        self, state: State, effect: facts.Effect, decided: float, now: float, answer: facts.Event | None = None
    ) -> None:
        self._timing.effect.observe(now - decided, EFFECTS[type(effect)])
        if self._tracer is not None:
            self._tracer.done(state.name, effect, now, answer)

    def woke(self, late: float) -> None:
        """A timer fired that much too late: only timers that are there anyway are looked at."""
        self._timing.lag.observe(late)
