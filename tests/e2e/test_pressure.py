"""Pressure of real containers: events, a restart of its own reason, the cool-down, thresholds that change live."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.e2e.host import Host, cgroup_mount

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]

PSI = (cgroup_mount() / "cpu.pressure").exists() if os.path.exists("/proc/pressure") else False
SPINNERS = 2 * (os.cpu_count() or 1)
BUSY = f"""containers:
  busy:
    rootfs: ROOTFS
    command: [sh, -c, "for n in $(seq {SPINNERS}); do (while :; do :; done) & done; wait"]
    stop_signal: KILL
    on_pressure: restart
    pressure: {{cpu: some 20ms 2s, memory: "off", restart_on: [cpu], restart_after: 0s, cool_down: 1h}}
"""


def triggers(host: Host) -> list[str]:
    assert host.daemon is not None
    links = []
    for fd in Path(f"/proc/{host.daemon.pid}/fd").iterdir():
        try:
            links.append(os.readlink(fd))
        except OSError:
            continue
    return sorted(Path(link).name for link in links if link.endswith(".pressure"))


def told(host: Host) -> int:
    """Notices of the kernel as /metrics counts them."""
    wanted = 'wharfinger_container_pressure_events_total{name="busy",resource="cpu",kind="some"}'
    return sum(int(line.split()[-1]) for line in host.metrics().splitlines() if line.startswith(wanted))


def texts(host: Host) -> list[str]:
    """Of the events of pressure."""
    lines = host.ctl("events", "--json", "--cause", "pressure").stdout.splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.mark.skipif(not PSI, reason="this kernel has no PSI")
def test_pressure_restarts_once_in_its_cool_down_and_its_thresholds_change_live(host: Host) -> None:
    host.define("busy", BUSY)
    host.start()
    host.until(lambda: host.one("busy").get("generation") == 2, 30, "pressure restarts nothing")
    pid = host.until_state("busy", "RUNNING")["pid"]
    counted = told(host)
    host.until(
        lambda: any("no restart for another 59m" in text for text in texts(host)), 20, "no word of the cool-down"
    )
    host.until(lambda: told(host) > counted, 20, "the kernel tells no more of it")
    seen = host.one("busy")
    assert (seen["generation"], seen["pid"], seen["restarts"]) == (2, pid, {"pressure": 1})
    assert 'wharfinger_container_restarts_total{name="busy",reason="pressure"} 1' in host.metrics()
    assert texts(host)[0] == "cpu pressure: some tasks wait: restart"
    assert "1st restart after pressure" in host.ctl("why", "busy").stdout
    assert triggers(host) == ["cpu.pressure"]
    host.define("busy", BUSY.replace("some 20ms 2s", "full 1s 2s").replace('memory: "off"', "io: some 1s 2s"))
    host.until(lambda: triggers(host) == ["cpu.pressure", "io.pressure", "memory.pressure"], 20, "nothing changed")
    host.define("busy", BUSY.replace("on_pressure: restart", "on_pressure: event").replace("some 20ms 2s", "'off'"))
    host.until(lambda: triggers(host) == [], 20, "triggers are left")
    seen = host.one("busy")
    assert (seen["generation"], seen["pid"], seen["problem"]) == (2, pid, "")


@pytest.mark.skipif(PSI, reason="this kernel has PSI")
def test_a_restart_by_pressure_that_this_kernel_cannot_tell_of_is_a_problem_in_status(host: Host) -> None:
    host.define("busy", BUSY.replace(f"$(seq {SPINNERS})", ""))
    host.start()
    host.until(lambda: "no PSI" in host.one("busy").get("problem", ""), 20, "no problem is shown")
