"""Which histogram and which kind: how long the daemon takes, from an event to its decision and to its effect."""

from __future__ import annotations

from collections.abc import Mapping

from monitor.histogram import Timing
from supervisor.lifecycle import facts

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
    """Told by the keepers."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def decided(self, event: facts.Event, seconds: float) -> None:
        """`seconds`: since it was heard, or since the time that a Tick was due."""
        oom = isinstance(event, facts.Ended) and event.end.oom.killed
        self._timing.decision.observe(seconds, "oom" if oom else DECISIONS.get(type(event), "other"))

    def done(self, effect: facts.Effect, seconds: float) -> None:
        self._timing.effect.observe(seconds, EFFECTS[type(effect)])

    def woke(self, late: float) -> None:
        """A timer fired that much too late: only timers that are there anyway are looked at."""
        self._timing.lag.observe(late)
