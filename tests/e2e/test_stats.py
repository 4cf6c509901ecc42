"""What real containers use, by the commands of a user, and what is kept of an end that nobody asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.host import Host

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]

PAIR = """containers:
  busy:
    rootfs: ROOTFS
    command: [sh, -c, "while :; do :; done"]
    stop_signal: KILL
    resources: {pids: 7, on_missing: warn}
  dies:
    rootfs: ROOTFS
    command: [sh, -c, "echo my last words; sleep 4.5; exit 3"]
    restart: "no"
"""


def use_of(host: Host, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.ctl("stats", "--no-stream", "--json", name).stdout)["stats"][0]
    return found


def test_use_is_shown_and_an_end_keeps_its_last_minute(host: Host) -> None:
    host.define("pair", PAIR)
    host.start()
    host.until_state("busy", "RUNNING")
    host.until(lambda: (use_of(host, "busy")["cpu"] or 0) > 0.05, 20, "no use of a processor is shown")
    busy = use_of(host, "busy")
    assert (busy["state"], busy["pids_limit"], busy["net_read"]) == ("RUNNING", 7, 0)
    host.until_state("dies", "EXITED")
    why = host.ctl("why", "dies").stdout
    assert "s before the end of run 1:" in why
    assert "\n  cpu " in why
    assert why.endswith("the last lines of its log:\n  my last words\n")
    table = host.ctl("top").stdout.splitlines()
    assert [line.split()[:2] for line in table] == [["NAME", "STATE"], ["busy", "RUNNING"], ["dies", "EXITED"]]
    host.ctl("stop", "busy")
    assert use_of(host, "busy")["cpu"] is None
    assert "before the end" not in host.ctl("why", "busy").stdout
