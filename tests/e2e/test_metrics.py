"""/metrics of a real daemon: true, and the same series over restarts of containers and of the daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.host import Host

pytestmark = pytest.mark.e2e

SeriesKey = tuple[str, tuple[tuple[str, str], ...]]


def series(host: Host) -> dict[SeriesKey, float]:
    """Each series once."""
    found: dict[SeriesKey, float] = {}
    for family in text_string_to_metric_families(host.metrics()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def of(found: Mapping[SeriesKey, float], family: str, /, **labels: str) -> float | None:
    return next((v for (n, ls), v in found.items() if n == family and labels.items() <= dict(ls).items()), None)


@pytest.fixture
def labelled(host: Host) -> Host:
    host.env["WHARFINGER_METRICS_LABELS"] = "team,site"
    return host


TALKER = """containers:
  talker:
    rootfs: ROOTFS
    command: [sh, -c, "echo 12345; dd if=/dev/zero of=/tmp/data bs=64k count=16 2>/dev/null; exec sleep 1000"]
    stop_signal: KILL
    labels: {team: "a\\"b", secret: s3cr3t}
  hosted: {rootfs: ROOTFS, command: [sleep, "1000"], stop_signal: KILL, network: host}
"""


def test_series_go_on_over_restarts_of_container_and_daemon(labelled: Host) -> None:
    host = labelled
    host.define("talker", TALKER)
    host.start()
    pid = host.until_state("talker", "RUNNING")["pid"]
    host.until_state("hosted", "RUNNING")
    name = "wharfinger_container_log_bytes_total"
    host.until(lambda: of(series(host), name, name="talker") == 6, 10, "its output is not counted")
    before = series(host)
    assert of(before, "container_cpu_usage_seconds_total", name="talker", container_label_team='a"b') is not None
    assert of(before, "container_last_seen", name="hosted", container_label_team="") is not None
    assert "s3cr3t" not in host.metrics()
    os.kill(pid, signal.SIGKILL)
    host.until(lambda: of(series(host), name, name="talker") == 12, 10, "its second run is not counted on")
    host.until(lambda: host.one("talker")["generation"] == 2, 10, "it is not told")
    host.kill_daemon()
    host.start()
    host.until_state("talker", "RUNNING")
    host.until(lambda: "wharfinger_container_log_size_bytes" in host.metrics(), 20, "nobody looks at the disk")
    after = series(host)
    assert of(after, name, name="talker") == 12
    assert of(after, "wharfinger_adoptions_total", found="running") == 2
    assert of(after, "wharfinger_container_restarts_total", name="talker", reason="signal") == 1
    for kept in ("container_creation_time_seconds", "container_start_time_seconds"):
        assert of(after, kept, name="hosted") == of(before, kept, name="hosted"), kept
    fresh = {
        key[0] for key in after.keys() - before.keys() if dict(key[1]).get("name") and "_pressure_events_" not in key[0]
    }
    once = {"container_fs_usage_bytes", "container_fs_limit_bytes", "wharfinger_container_log_size_bytes"}
    assert fresh <= once | {"wharfinger_container_last_exit_code", "wharfinger_container_last_exit_timestamp_seconds"}
    assert {key for key in before.keys() - after.keys() if dict(key[1]).get("name")} == set()
    host.until(
        lambda: (of(series(host), "container_fs_usage_bytes", name="talker") or 0) >= 1 << 20, 20, "its root is small"
    )
    used = subprocess.run(["du", "-sx", "-B1", host.rootfs], capture_output=True, check=True, text=True)
    assert of(series(host), "container_fs_usage_bytes", name="talker") == int(used.stdout.split()[0])


def test_a_container_has_its_own_network_counters_and_never_the_hosts(host: Host) -> None:
    host.define("talker", TALKER)
    host.start()
    pid = host.until_state("talker", "RUNNING")["pid"]
    host.until_state("hosted", "RUNNING")
    received = "container_network_receive_bytes_total"
    assert not [key for key in series(host) if key[0] == received]  # a loopback alone is no network
    net = ["nsenter", "-t", str(pid), "-n", "ip"]
    if subprocess.run([*net, "link", "add", "wt0", "type", "veth", "peer", "name", "wt1"], check=False).returncode:
        pytest.skip("no veth on this host")
    for end in ("wt0", "wt1"):
        subprocess.run([*net, "link", "set", end, "up"], check=True)
    shown = json.loads(subprocess.run([*net, "-j", "-s", "link"], capture_output=True, check=True).stdout)
    assert {"wt0", "wt1"} <= {link["ifname"] for link in shown}
    host.until(lambda: of(series(host), received, name="talker", interface="wt0") is not None, 10, "no counters")
    text = Path(f"/proc/{pid}/net/dev").read_text()
    wt0 = next(line for line in text.splitlines() if line.strip().startswith("wt0:")).replace(":", " ").split()
    assert of(series(host), "container_network_transmit_errors_total", name="talker", interface="wt0") == int(wt0[11])
    assert of(series(host), received, name="hosted") is None
