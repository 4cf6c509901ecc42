"""What a history is made of: how often things go wrong, and definitions of every kind."""

from __future__ import annotations

from random import Random
from typing import Any

from config.model import Container
from tests.sim.daemon import Odds


def odds(luck: Random) -> Odds:
    """A different mixture of faults each time: all at once hide each other."""

    def some(most: float) -> float:
        return luck.uniform(0, most) if luck.random() < 0.5 else 0.0

    moods = luck.choice([["ok"], ["error"], ["ok", "error", "signal", "oom"], ["oom"], ["error", "signal"]])
    return Odds(
        moods=moods,
        lifetime=luck.choice([2.0, 20.0, 200.0, 5000.0]),
        launch_fails=some(0.5),
        launch_hangs=some(0.2),
        launch_slow=some(0.3),
        ignores_term=some(0.8),
        d_state=some(0.3),
        child_oom=some(0.3),
        sick=some(0.7),
        pressed=some(0.9),
        disk_full=some(0.4),
        deaths=some(0.05),
        reboots=some(0.3),
        suspends=some(0.3),
        redefines=some(0.8),
        shim_losses=some(0.5),
    )


def definition(luck: Random, name: str, other: str | None) -> Container:
    policy = luck.choice(["no", "on-failure", "unless-stopped", "always"])
    restart: dict[str, Any] = {
        "policy": policy,
        "interval": luck.choice([0.0, 1.0, 1.0, 10.0]),
        "factor": luck.choice([1.5, 2.0, 2.0]),
        "max_interval": luck.choice([10.0, 60.0]),
        "reset_after": luck.choice([0.0, 60.0]),
        "on_exhausted": luck.choice(["fatal", "slow"]),
        "slow_interval": 900.0,
        "crash_loop_after": luck.choice([1, 5]),
    }
    if policy == "on-failure" and luck.random() < 0.7:
        restart["max_attempts"] = luck.choice([1, 3])
    fields: dict[str, Any] = {
        "name": name,
        "rootfs": "/srv",
        "command": luck.choice([("a",), ("b",)]),
        "restart": restart,
        "autostart": luck.random() < 0.85,
        "stop_grace_period": luck.choice([0.0, 2.0, 10.0]),
        "stop_signal": luck.choice([None, None, "SIGKILL"]),
        "healthy_after": luck.choice([0.0, 1.0, 5.0]),
        "oom": {"group": False, "on_child_kill": luck.choice(["ignore", "restart"])},
    }
    if policy != "no" and luck.random() < 0.5:
        fields["on_pressure"] = "restart"
        fields["pressure"] = {"restart_after": luck.choice([0.0, 5.0]), "cool_down": luck.choice([60.0, 600.0])}
    if luck.random() < 0.4:
        fields["healthcheck"] = {
            "test": ["CMD", "x"], "interval": luck.choice([1.0, 30.0]), "retries": luck.choice([1, 3]),
            "start_period": luck.choice([0.0, 20.0]), "start_interval": 2.0,
            "on_failure": luck.choice(["none", "restart", "stop", "event"]),
        }  # fmt: skip
    if other is not None:
        condition = luck.choice(["started", "healthy", "completed_successfully"])
        fields["depends_on"] = {other: {"condition": condition, "required": luck.random() < 0.6}}
    return Container.model_validate(fields)
