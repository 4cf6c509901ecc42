"""A reader that follows, and resumes by number when the daemon is killed: nothing comes twice, nothing is lost."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import threading
import time
from collections import defaultdict
from typing import Any

import pytest

from tests.e2e.host import Host
from tests.fixtures.collector import attributes, collector

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

KILLS = 6
FLEET = """containers:
  steady: {rootfs: ROOTFS, command: [sleep, "100000"], stop_signal: KILL}
  quick: {rootfs: ROOTFS, command: ["true"], restart: RESTART}
  fails: {rootfs: ROOTFS, command: [sh, -c, "sleep 0.2; exit 3"], restart: RESTART}
  dies: {rootfs: ROOTFS, command: [sh, -c, "sleep 0.4; kill -9 $$"], restart: RESTART}
""".replace("RESTART", "{policy: always, interval: 200ms, factor: 1, max_interval: 200ms}")


class Reader(threading.Thread):
    """Follows; when the stream breaks off it comes back for what is after the last number that it has."""

    def __init__(self, host: Host) -> None:
        super().__init__(daemon=True)
        self.path = host.env["WHARFINGER_SOCKET"]
        self.events: list[dict[str, Any]] = []
        self.connections = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self._follow()
            except (OSError, http.client.HTTPException, ValueError):
                self.over.wait(0.01)

    def _follow(self) -> None:
        last = self.events[-1]["seq"] if self.events else 0
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(self.path)
            sock.sendall(f"GET /v1/events?follow=1&since={last} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            self.connections += 1
            while (line := answer.readline()).endswith(b"\n"):
                self.events.append(json.loads(line))


def test_a_reader_that_resumes_misses_nothing_over_deaths_of_the_daemon(host: Host) -> None:
    luck = random.Random(7)
    host.define("fleet", FLEET)
    host.start()
    reader = Reader(host)
    reader.start()
    for _ in range(KILLS):
        time.sleep(0.3 + luck.random() * 0.5)  # the random moment itself, not a wait for something
        host.kill_daemon()
        host.start()
    host.ctl("stop", "quick", "fails", "dies")
    assert host.stop_daemon() == 0
    host.start()
    host.until(lambda: len(_unfinished(reader.events)) == 1, 15, "runs are not told to their end")
    reader.over.set()
    reader.join(10)
    events = reader.events
    assert reader.connections > KILLS
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    starts = [event["data"]["clean"] for event in events if event["type"] == "daemon-start"]
    assert starts == [None] + [False] * KILLS + [True]
    runs: dict[tuple[str, int], list[str]] = defaultdict(list)
    for event in events:
        if event["topic"].startswith("/tasks/"):
            runs[event["name"], event["generation"]].append(event["type"])
    assert runs.pop(("steady", 1)) == ["create", "start"], "adopted each time, and told once"
    assert len([e for e in events if e["type"] == "adopted" and e["name"] == "steady"]) == KILLS + 1
    assert len(runs) > 3 * KILLS
    never = [run for run, types in runs.items() if types == ["create", "exit", "delete"]]
    for (name, generation), types in runs.items():
        whole = ["create", "start", "exit", "delete"]
        assert types == whole or (name, generation) in never, (name, generation, types)
    ends = {(e["name"], e["generation"]): e["data"] for e in events if e["type"] == "exit"}
    for run in never:
        assert ends[run]["started"] is None, (run, ends[run])
    by_name = {name: sorted(g for n, g in runs if n == name) for name, _ in runs}
    for name, numbers in by_name.items():
        assert numbers == list(range(1, len(numbers) + 1)), name


def _unfinished(events: list[dict[str, Any]]) -> set[tuple[str, int]]:
    """Runs without a `delete`."""
    by_type: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for event in list(events):
        by_type[event["type"]].add((event["name"], event["generation"]))
    return by_type["create"] - by_type["delete"]


def test_what_users_do_is_told_and_filtered(host: Host) -> None:
    host.define("a", 'containers: {web: {rootfs: ROOTFS, command: [sleep, "1000"], stop_signal: KILL}}')
    host.start()
    host.until_state("web", "RUNNING")
    assert host.ctl("exec", "web", "--", "sh", "-c", "exit 4").returncode == 4
    host.define("bad", "containers: {x: {command: 3}}")
    host.until(lambda: "definition-error" in _types(host), 10, "a bad file is not told")
    (host.definitions / "bad.yaml").unlink()
    host.define("a", 'containers: {web: {rootfs: ROOTFS, command: [sleep, "1001"], stop_signal: KILL}}')
    host.until(lambda: _types(host).count("start") == 2, 10, "not started anew")
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGHUP)
    host.define("a", "containers: {}")
    host.until(lambda: "web" not in host.status(), 20, "not removed")
    host.until(lambda: _types(host).count("delete") == 2, 10, "not deleted")
    found = [e for e in _events(host) if e["name"] == "web" and e["type"] != "state"]
    assert [e["type"] for e in found] == [
        "definition-added", "create", "start", "exec-added", "exec-started", "exec-exit",
        "definition-changed", "exit", "create", "start", "delete", "definition-removed", "desired", "exit", "delete",
    ] or [e["type"] for e in found] == [
        "definition-added", "create", "start", "exec-added", "exec-started", "exec-exit",
        "definition-changed", "exit", "create", "delete", "start", "definition-removed", "desired", "exit", "delete",
    ]  # fmt: skip
    assert [e["data"].get("code") for e in found if e["type"] == "exec-exit"] == [4]
    assert [e["type"] for e in _events(host, "--type", "/tasks/exit", "--since", "5m")] == ["exec-exit", "exit", "exit"]
    assert _events(host, "--since", "2000-01-01", "-n", "1", "--type", "create")[0]["generation"] == 2
    assert json.loads(host.ctl("events", "--since", "999", "--json").stdout.splitlines()[0])["type"] == "gap"


def test_delays_are_measured(host: Host) -> None:
    host.define("a", 'containers: {web: {rootfs: ROOTFS, command: [sh, -c, "exit 1"], restart: "no"}}')
    host.start()
    host.until_state("web", "EXITED")
    host.until(lambda: 'effect_seconds_count{kind="clean"} 1' in host.metrics(), 10, "the clean is not measured")
    text = host.metrics()
    for line in ('decision_seconds_count{kind="exit"} 1', 'effect_seconds_count{kind="launch"} 1'):
        assert f"wharfinger_{line}" in text
    assert 'wharfinger_decision_seconds_bucket{kind="exit",le="10.0"} 1' in text


def test_a_daemon_sends_spans_and_ends_in_time_without_a_collector(host: Host) -> None:
    with collector() as found:
        host.env["WHARFINGER_TRACING_ENDPOINT"] = found.url
        host.define("a", 'containers: {web: {rootfs: ROOTFS, command: [sleep, "1000"], stop_signal: KILL}}')
        host.start()
        host.until_state("web", "RUNNING")
        host.metrics()
        assert host.ctl("restart", "web").returncode == 0
        assert host.stop_daemon() == 0, "what waits is sent at the end"
    spans = {(span.name, attributes(span).get("generation")): span for span in found.spans}
    assert set(spans) == {("start", 1), ("scrape", None), ("start", 2), ("restart", 2)}
    assert spans["start", 2].parent_span_id == spans["restart", 2].span_id
    assert attributes(spans["restart", 2])["cause"] == "operator"
    host.start()
    host.until_state("web", "RUNNING")
    host.metrics()
    assert host.stop_daemon() == 0, "nobody listens there any more"


def _events(host: Host, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in host.ctl("events", "--json", *options).stdout.splitlines()]


def _types(host: Host) -> list[str]:
    return [event["type"] for event in _events(host)]
