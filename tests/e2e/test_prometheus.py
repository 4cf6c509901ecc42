"""A real Prometheus scrapes a real daemon: alerts fire, queries tell the truth, every panel's query has data.

In the VM limits are real and there is no PSI; the host has PSI and perhaps no controllers. Together they have all.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

from examples.prometheus import RULES, Prometheus, program
from monitor.families import FAMILIES
from tests.e2e.host import REPO, Host, has_controller

pytestmark = pytest.mark.e2e

DISK = Path("/dev/ubda")
CADVISOR = {family.name for family in FAMILIES if family.name.startswith("container_")}
NEEDS_DISK = {name for name in CADVISOR if re.match("container_fs_(reads|writes)_", name)}
NEEDS_PSI = {name for name in CADVISOR if name.startswith("container_pressure_")}
NEEDS_CONTROLLERS = {
    name
    for name in CADVISOR
    if re.match("container_(memory|spec|threads|oom_events|cpu_cfs)", name) or name in NEEDS_DISK
}
# Empty while all is well, by their own words: nothing below says so of a query whose metric is missing.
WELL = ("unless on (instance, name)", "> 0", "== 0")


def short(directory: Path) -> Path:
    """Our rules, evaluated each second, whose `for` is over after one."""
    directory.mkdir()
    for path in RULES.glob("*.yml"):
        text = re.sub(r"^( +)for: \S+", r"\1for: 1s", path.read_text(), flags=re.MULTILINE)
        (directory / path.name).write_text(re.sub(r"interval: \S+", "interval: 1s", text))
    return directory


@pytest.fixture
def prometheus(host: Host) -> Iterator[Prometheus]:
    if program() is None:
        assert "CI" not in os.environ, "prometheus is part of the set-up"
        pytest.skip("no prometheus")
    made = Prometheus(host.base / "prom", f"127.0.0.1:{host.port}", host.port + 20000, rules=short(host.base / "rules"))
    made.start()
    try:
        yield made
    finally:
        made.stop()


def value(prometheus: Prometheus, text: str) -> float | None:
    found = prometheus.query(text)
    return found[0][1] if found else None


def expressions() -> Iterator[tuple[str, str]]:
    """(board and panel, query) with the variables that Grafana would put in."""
    for path in sorted((REPO / "grafana/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        asked = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", [])]
        asked += [(each["name"], each["expr"]) for each in board["annotations"]["list"] if "expr" in each]
        for title, text in asked:
            for name, put in (("$__rate_interval", "15s"), ("$instance", ".*"), ("$name", ".*")):
                text = text.replace(name, put)
            yield f"{path.stem}: {title}", text


def check_boards(prometheus: Prometheus, missing: Set[str]) -> None:
    empty = []
    answered = 0
    for where, text in expressions():
        found = prometheus.query(text)  # refused: this raises
        answered += bool(found)
        names = set(re.findall(r"\b(?:container|wharfinger|machine|process)_[a-z_]+", text))
        if not found and not names & missing and not any(word in text for word in WELL):
            empty.append(f"{where}: {text}")
    assert not empty, "\n".join(empty)
    assert answered > 40
    groups = prometheus.ask("rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def check_families(host: Host, prometheus: Prometheus, missing: Set[str]) -> None:
    """Exactly the families that this kernel can feed are there, under the labels that boards for Docker select by."""
    there = {
        labels["__name__"]
        for labels, _ in prometheus.query('{__name__=~"container_.+", name=~".+", id=~".+"}')
    }  # fmt: skip
    assert there == CADVISOR - missing


def give_network(pid: int) -> bool:
    """An interface that is up, in the network of this process."""
    net = ["nsenter", "-t", str(pid), "-n", "ip", "link"]
    made = subprocess.run([*net, "add", "wt0", "type", "veth", "peer", "name", "wt1"], check=False)
    return made.returncode == 0 and all(
        subprocess.run([*net, "set", end, "up"], check=False).returncode == 0 for end in ("wt0", "wt1")
    )


FLEET = """containers:
  web:
    rootfs: ROOTFS
    command: [sh, -c, "while :; do echo served; sleep 0.2; done"]
    stop_signal: KILL
    healthcheck: {test: [CMD, "true"], interval: 1s, start_period: 0s}
  loop:
    rootfs: ROOTFS
    command: [sh, -c, "exit 3"]
    restart: {policy: always, interval: 500ms, factor: 1, jitter: 0}
"""
HOG = """containers:
  hog:
    rootfs: ROOTFS
    command: [sh, -c, "dd if=/dev/zero of=/data/f bs=64k count=8 conv=fsync; while [ ! -e /go ]; do sleep 0.1; done;
      rm /go; exec tail /dev/zero"]
    restart: {policy: always, interval: 500ms}
    stop_signal: KILL
    resources: {memory: 16MiB, memory_swap: 0, cpus: 0.5, pids: 16}
    mounts: [{type: bind, source: DATA, target: /data}]
"""


def wait_for_loop(host: Host, prometheus: Prometheus) -> None:
    """Bad definitions and a crash loop are told by alerts, and a container that is well by none."""
    host.define("broken", "containers: {x: {rootfs: 1, nonsense: true}}\n")
    wanted = {("ContainerCrashLooping", "loop"), ("ContainerNotRunning", "loop"), ("WharfingerDefinitionErrors", "")}
    host.until(
        lambda: wanted <= prometheus.firing() | late(prometheus), 60, f"not told: {wanted}, {prometheus.firing()}"
    )
    assert not {name for alert, name in prometheus.firing() if name == "web"}


def late(prometheus: Prometheus) -> set[tuple[str, str]]:
    """The loop is up for a moment between two ends, so the second alert may come and go."""
    seen = prometheus.query('ALERTS{alertname="ContainerNotRunning", name="loop"}')
    return {("ContainerNotRunning", "loop")} if seen else set()


@pytest.mark.timeout(180)
def test_a_prometheus_beside_a_host(host: Host, prometheus: Prometheus) -> None:
    host.define("fleet", FLEET)
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    network = give_network(pid)
    host.until(prometheus.ready, 60, "prometheus does not start")
    host.until(lambda: value(prometheus, "up") == 1, 30, "no scrape is taken")
    wait_for_loop(host, prometheus)
    host.until(lambda: (value(prometheus, 'container_fs_usage_bytes{name="web"}') or 0) > 0, 30, "no use of disk")
    missing = set() if has_controller("memory") else NEEDS_CONTROLLERS
    missing |= set() if Path("/proc/pressure/cpu").exists() else NEEDS_PSI
    missing |= set() if network else {name for name in CADVISOR if "_network_" in name}
    check_families(host, prometheus, missing)
    check_boards(prometheus, missing | {"wharfinger_container_pressure_events_total", "wharfinger_scrape_errors_total"})
    began = value(prometheus, 'container_start_time_seconds{name="web"}')
    assert began is not None
    assert abs(began - float(Path(f"/proc/{pid}").stat().st_mtime)) < 5
    waited = value(prometheus, 'container_cpu_usage_seconds_total{name="web"}')
    stat = (host.cgroup / "containers/web/cpu.stat").read_text().split()
    assert waited is not None
    assert 0 < waited <= int(stat[1]) / 1e6
    host.stop_daemon()
    host.until(lambda: ("WharfingerDown", "") in prometheus.firing(), 30, "its end is not told")
    host.start()
    host.until(lambda: value(prometheus, "up") == 1, 30, "its return is not seen")


@pytest.mark.vm
@pytest.mark.timeout(240)
def test_a_prometheus_sees_limits_and_oom_kills(host: Host, prometheus: Prometheus) -> None:
    data = host.base.with_name(f"{host.base.name}-data")
    data.mkdir()
    if DISK.exists():
        subprocess.run(["mkfs.ext4", "-q", "-F", DISK], check=True)
        subprocess.run(["mount", DISK, data], check=True)
    try:
        host.define("fleet", FLEET)
        host.define("hog", HOG.replace("DATA", str(data)))
        host.start()
        give_network(host.until_state("hog", "RUNNING")["pid"])
        host.until(prometheus.ready, 90, "prometheus does not start")
        host.until(lambda: value(prometheus, 'container_oom_events_total{name="hog"}') == 0, 60, "no scrape is taken")
        host.until(lambda: bool(prometheus.query('container_fs_usage_bytes{name="hog"}')), 60, "no use of disk")
        missing = NEEDS_PSI | (set() if DISK.exists() else NEEDS_DISK)
        host.until(
            lambda: len(prometheus.query('container_network_receive_bytes_total{name="hog"}')) > 0, 30, "no network"
        )
        check_families(host, prometheus, missing)
        cgroup = host.cgroup / "containers/hog"
        for name, file in (("spec_memory_limit_bytes", "memory.max"), ("threads_max", "pids.max")):
            assert value(prometheus, f'container_{name}{{name="hog"}}') == int((cgroup / file).read_text())
        assert value(prometheus, 'container_spec_cpu_quota{name="hog"} / container_spec_cpu_period') == 0.5
        (host.rootfs / "go").touch()
        wanted = ("ContainerOOMKilled", "hog")
        host.until(lambda: wanted in prometheus.firing(), 60, "the OOM kill is not told")
        kills = int(dict(line.split() for line in (cgroup / "memory.events").read_text().splitlines())["oom_kill"])
        seen = 'container_oom_events_total{name="hog"}'
        host.until(lambda: value(prometheus, seen) == kills, 20, f"not {kills} kills")
        own = 'wharfinger_container_oom_kills_total{name="hog",scope="container"}'
        host.until(lambda: value(prometheus, own) == kills, 20, f"the store has not counted {kills} kills")
        assert value(prometheus, 'wharfinger_container_exits_total{name="hog",reason="oom"}') == 1
        wait_for_loop(host, prometheus)
        quiet = {"wharfinger_container_pressure_events_total", "wharfinger_scrape_errors_total"}
        check_boards(prometheus, missing | quiet)
    finally:
        host.ctl("stop", "all")
        subprocess.run(["umount", data], check=False, stderr=subprocess.DEVNULL)
        data.rmdir()
