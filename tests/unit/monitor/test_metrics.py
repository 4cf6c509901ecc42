"""The exposition: what is told, in which words, and what never happens to it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from monitor import cgroup, families, metrics
from monitor.metrics import ContainerView, DaemonView, Exposition
from monitor.view import SpaceView
from tests.fixtures import tree

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
NOW = 1_795_000_000.25
DAEMON = DaemonView(
    version="0.1.0",
    controllers={"cpu": True, "memory": True, "io": True, "pids": True},
    psi=True,
    reload_ok=True,
    reload_ok_wall=1.5e9,
    definition_errors=0,
    watch_degraded=False,
    loop_lag=0.002,
)


@pytest.fixture
def exposition(tmp_path: Path) -> Iterator[Exposition]:
    tree.build(tmp_path / "sys", tree.SYS)
    made = Exposition(sys=tmp_path / "sys", proc=tmp_path / "proc")
    yield made
    made.close()


def container(tmp_path: Path, name: str = "web", seed: int = 1, **changes: object) -> ContainerView:
    path = tmp_path / "containers" / name
    if not path.exists():
        tree.build(path, tree.cgroup(seed))
    view = ContainerView(
        name=name,
        cgroup=f"/wharfinger/containers/{name}",
        cgroup_dir=str(path),
        image="registry.local/shop/web:1.4",
        phase="running",
        desired=True,
        generation=1,
        created_wall=1.5e9,
        started_wall=1.6e9,
    )
    return replace(view, **changes)  # type: ignore[arg-type]


def parse(text: bytes) -> Series:
    """Every line through the official parser; each series once, each family once."""
    found: Series = {}
    names: list[str] = []
    for family in text_string_to_metric_families(text.decode()):
        names.append(family.name)
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    assert len(set(names)) == len(names), "a family in two blocks"
    lines = [line for line in text.split(b"\n")[:-1] if not line.startswith(b"#")]
    assert len(lines) == len(found)
    assert text.endswith(b"\n")
    return found


def value(series: Series, name: str, /, **labels: str) -> float | None:
    """The one series of that name with these labels among its own."""
    hits = [
        number for (each, pairs), number in series.items() if each == name and labels.items() <= dict(pairs).items()
    ]
    assert len(hits) <= 1, hits
    return hits[0] if hits else None


def names_of(series: Series, container_name: str) -> set[str]:
    return {name for name, pairs in series if ("name", container_name) in pairs}


def test_the_kernels_digits_arrive(tmp_path: Path, exposition: Exposition) -> None:
    series = parse(exposition.render([container(tmp_path, seed=7)], DAEMON, NOW))
    labels = {"id": "/wharfinger/containers/web", "name": "web", "image": "registry.local/shop/web:1.4"}
    for name, number in {
        "container_cpu_usage_seconds_total": 3.000007,
        "container_cpu_system_seconds_total": 0.000007,
        "container_cpu_cfs_throttled_seconds_total": 0.0015,
        "container_memory_usage_bytes": 64_028_672,
        "container_memory_rss": 7000,
        "container_memory_working_set_bytes": 64_028_672 - 7021,
        "container_memory_failcnt_total": 7,  # the suffix is this parser's, not in the text
        "container_oom_events_total": 1,
        "container_threads": 4,
        "container_threads_max": 0,
        "container_processes": 2,
        "container_spec_memory_limit_bytes": 134_217_728,
        "container_spec_cpu_quota": 50_000,
        "container_spec_cpu_shares": 2597,
        "container_pressure_memory_waiting_seconds_total": 0.000007,
        "container_pressure_memory_stalled_seconds_total": 0.000003,
        "container_last_seen": NOW,
        "container_start_time_seconds": 1.6e9,
        "container_health_state": -1,
    }.items():
        assert value(series, name, **labels) == number, name
    assert value(series, "container_cpu_usage_seconds_total", cpu="total") == 3.000007
    assert value(series, "container_fs_reads_bytes_total", device="/dev/sda", **labels) == 3584
    assert value(series, "container_fs_writes_bytes_total", device="/dev/dm-1", **labels) == 4096
    assert value(series, "container_memory_failures_total", failure_type="pgmajfault", scope="container") == 7041
    assert value(series, "wharfinger_psi_enabled") == 1
    assert value(series, "container_scrape_error") == 0


@given(st.binary(min_size=1, max_size=19).filter(bytes.isdigit) | st.integers(0, 2**64 - 1).map(lambda n: b"%d" % n))
def test_seconds_are_the_same_digits_with_a_dot(usec: bytes) -> None:
    from monitor.kernel import seconds

    text = seconds(usec)
    assert text.replace(b".", b"").lstrip(b"0") == usec.lstrip(b"0")
    assert len(text.split(b".")[1]) == 6


def test_what_the_supervisor_knows(tmp_path: Path, exposition: Exposition) -> None:
    view = container(
        tmp_path,
        phase="backoff",
        health="unhealthy",
        generation=4,
        restarts={"oom": 2, "error": 1},
        ends={"oom": 2, "error": 1},
        oom_kills={"container": 3},
        last_code=137,
        last_end_wall=1.7e9,
        backoff=4.0,
        crash_looping=True,
        health_checks={"success": 10, "timeout": 1},
        health_check_seconds=0.75,
        pressure_events={("memory", "some"): 5},
        recorder_samples=300,
        log_bytes=10,
        log_dropped=0,
        digest="sha256:12",
    )
    series = parse(exposition.render([view], DAEMON, NOW))
    ours = "wharfinger_container_"
    assert value(series, ours + "state", state="backoff") == 1
    assert sum(number for (name, _), number in series.items() if name == ours + "state") == 1
    assert {dict(pairs)["state"] for name, pairs in series if name == ours + "state"} == set(families.PHASES)
    assert value(series, ours + "health", status="unhealthy") == 1
    assert value(series, "container_health_state") == 0
    assert value(series, ours + "restarts_total", reason="oom") == 2
    assert value(series, ours + "exits_total", reason="start_failure") == 0
    assert value(series, ours + "oom_kills_total", scope="container") == 3
    assert value(series, ours + "last_exit_code") == 137
    assert value(series, ours + "backoff_seconds") == 4
    assert value(series, ours + "crash_looping") == 1
    assert value(series, ours + "health_checks_total", result="failure") == 0
    assert value(series, ours + "health_check_duration_seconds_sum") == 0.75
    assert value(series, ours + "health_check_duration_seconds_count") == 11
    assert value(series, ours + "pressure_events_total", resource="memory", kind="some") == 5
    assert value(series, ours + "info", digest="sha256:12", runtime="native") == 1


def test_reasons_are_there_at_zero_from_the_start(tmp_path: Path, exposition: Exposition) -> None:
    """increase() over a series that first appears at 1 is 0: the alert would miss the first OOM."""
    view = container(tmp_path, phase="stopped", cgroup_dir=str(tmp_path / "none"), generation=0, started_wall=None)
    series = parse(exposition.render([view], DAEMON, NOW))
    for family, label, words in (
        ("restarts_total", "reason", families.RESTART_REASONS),
        ("exits_total", "reason", families.END_REASONS),
        ("oom_kills_total", "scope", families.OOM_SCOPES),
    ):
        for word in words:
            assert value(series, "wharfinger_container_" + family, **{label: word}) == 0
    assert value(series, "container_oom_events_total") == 0
    assert value(series, "wharfinger_container_last_exit_code") is None
    assert value(series, "wharfinger_samples_dropped_total", reason="vanished") == 0


def test_a_stopped_container_keeps_its_counters_and_loses_its_levels(tmp_path: Path, exposition: Exposition) -> None:
    running = names_of(parse(exposition.render([container(tmp_path)], DAEMON, NOW)), "web")
    stopped = parse(exposition.render([container(tmp_path, phase="stopped")], DAEMON, NOW))
    assert running - names_of(stopped, "web") == {
        "container_last_seen",
        "container_start_time_seconds",
        "container_memory_usage_bytes",
        "container_memory_working_set_bytes",
        "container_memory_rss",
        "container_memory_cache",
        "container_memory_swap",
        "container_memory_mapped_file",
        "container_memory_kernel_usage",
        "container_memory_max_usage_bytes",
        "container_memory_total_active_file_bytes",
        "container_memory_total_inactive_file_bytes",
        "container_memory_file_dirty_bytes",
        "container_memory_file_writeback_bytes",
        "container_threads",
        "container_processes",
    }
    assert value(stopped, "container_cpu_usage_seconds_total") == 3.000001
    assert value(stopped, "container_oom_events_total") == 1


def test_series_go_with_the_definition_and_so_do_its_fds(tmp_path: Path, exposition: Exposition) -> None:
    views = [container(tmp_path, f"c{n}") for n in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    exposition.render(views, DAEMON, NOW)
    assert len(os.listdir("/proc/self/fd")) == before + 20
    series = parse(exposition.render(views[:1], DAEMON, NOW))
    assert not names_of(series, "c1")
    assert names_of(series, "c0")
    assert len(os.listdir("/proc/self/fd")) == before + 1


def test_a_run_that_vanished_is_counted_and_no_error(tmp_path: Path, exposition: Exposition) -> None:
    views = [container(tmp_path, "a"), container(tmp_path, "b")]
    exposition.render(views, DAEMON, NOW)
    shutil.rmtree(views[0].cgroup_dir)
    series = parse(exposition.render(views, DAEMON, NOW))
    assert value(series, "container_memory_usage_bytes", name="a") is None
    assert value(series, "container_spec_memory_limit_bytes", name="a") is None
    assert value(series, "wharfinger_container_state", name="a", state="running") == 1
    assert value(series, "container_memory_usage_bytes", name="b") is not None
    assert value(series, "wharfinger_samples_dropped_total", reason="vanished") == 1
    assert value(series, "container_scrape_error") == 0


def test_a_cgroup_that_was_made_again_is_read_at_once(tmp_path: Path, exposition: Exposition) -> None:
    view = container(tmp_path, seed=1)
    exposition.render([view], DAEMON, NOW)
    shutil.rmtree(view.cgroup_dir)
    tree.build(Path(view.cgroup_dir), tree.cgroup(9))
    series = parse(exposition.render([view], DAEMON, NOW))
    assert value(series, "container_cpu_usage_seconds_total") == 3.000009
    assert value(series, "wharfinger_samples_dropped_total", reason="vanished") == 0


def test_a_restart_gives_one_set_of_series_and_counters_that_go_on(tmp_path: Path, exposition: Exposition) -> None:
    """google/cadvisor#2844: old and new container both reported, memory doubled."""
    exposition.render([container(tmp_path)], DAEMON, NOW)
    view = container(tmp_path, generation=2, started_wall=1.7e9, restarts={"oom": 1})
    path = Path(view.cgroup_dir)
    shutil.rmtree(path / "g1")
    tree.build(path, {"g2": {"cgroup.procs": "7\n"}})
    series = parse(exposition.render([view], DAEMON, NOW))
    assert value(series, "container_memory_usage_bytes") is not None
    assert value(series, "container_start_time_seconds") == 1.7e9
    assert value(series, "container_processes") == 1
    assert value(series, "wharfinger_container_restarts_total", reason="oom") == 1


def test_the_same_series_after_a_restart_of_the_daemon(tmp_path: Path) -> None:
    views = [container(tmp_path, name) for name in ("b", "a\x01", "a")]
    first, second = Exposition(), Exposition()
    assert parse(first.render(views, DAEMON, NOW)).keys() == parse(second.render(views[::-1], DAEMON, NOW)).keys()
    first.close()
    second.close()


@pytest.mark.parametrize("file", ["memory.stat", "memory.current"])
def test_a_working_set_needs_both_files(
    tmp_path: Path, exposition: Exposition, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    real = cgroup.read_at

    def read_at(fd: int, name: str) -> bytes:
        if name == file:
            raise OSError(errno.EIO, "io")
        return real(fd, name)

    monkeypatch.setattr(cgroup, "read_at", read_at)
    series = parse(exposition.render([container(tmp_path)], DAEMON, NOW))
    assert value(series, "container_memory_working_set_bytes") is None
    assert value(series, "wharfinger_scrape_errors_total", file=file, errno="EIO") == 1
    assert value(series, "container_scrape_error") == 1
    assert value(series, "container_cpu_usage_seconds_total") is not None


def test_an_error_is_logged_when_it_begins_only(
    tmp_path: Path, exposition: Exposition, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, broken = cgroup.read_at, [True]

    def read_at(fd: int, name: str) -> bytes:
        if broken[0] and name == "io.stat":
            raise OSError(errno.EIO, "io")
        return real(fd, name)

    monkeypatch.setattr(cgroup, "read_at", read_at)
    views = [container(tmp_path, name) for name in ("a", "b")]
    for state in (True, True, False, True):
        broken[0] = state
        exposition.render(views, DAEMON, NOW)
    assert caplog.messages == ["event=metrics_read_failed file=io.stat errno=EIO"] * 2


def test_a_missing_key_or_controller_is_no_sample_never_zero(tmp_path: Path, exposition: Exposition) -> None:
    path = tree.build(
        tmp_path / "containers/web",
        {"cgroup.procs": "", "cpu.stat": "usage_usec 5\n", "memory.events": "max nonsense\nhigh 1\n"},
    )
    series = parse(exposition.render([container(tmp_path)], DAEMON, NOW))
    assert path.is_dir()
    kernel = {name for name in names_of(series, "web") if name.startswith("container_")}
    assert kernel == {
        "container_cpu_usage_seconds_total",
        "container_memory_events_high_total",
        "container_last_seen",
        "container_start_time_seconds",
        "container_creation_time_seconds",
        "container_health_state",
    }


def test_no_quota_no_cfs_series(tmp_path: Path, exposition: Exposition) -> None:
    tree.build(tmp_path / "containers/web", tree.cgroup(quota=False))
    series = parse(exposition.render([container(tmp_path)], DAEMON, NOW))
    assert not [name for name, _ in series if "_cfs_" in name or name == "container_spec_cpu_quota"]
    assert value(series, "container_spec_cpu_period") == 100_000


def test_limits_are_read_again_when_the_definition_changes(tmp_path: Path, exposition: Exposition) -> None:
    view = container(tmp_path, definition="a")
    exposition.render([view], DAEMON, NOW)
    tree.build(Path(view.cgroup_dir), {"memory.max": "max\n", "cpu.max": "max 100000\n"})
    kept = parse(exposition.render([view], DAEMON, NOW))
    assert value(kept, "container_spec_memory_limit_bytes") == 134_217_728
    changed = parse(exposition.render([replace(view, definition="b")], DAEMON, NOW))
    assert value(changed, "container_spec_memory_limit_bytes") == 0
    assert value(changed, "container_spec_cpu_quota") is None


def test_psi_off_reads_no_pressure_file(tmp_path: Path, exposition: Exposition) -> None:
    series = parse(exposition.render([container(tmp_path)], replace(DAEMON, psi=False), NOW))
    assert not [name for name, _ in series if name.startswith("container_pressure_")]
    assert value(series, "wharfinger_psi_enabled") == 0


def test_a_mapping_that_the_caller_goes_on_writing_to_is_seen(tmp_path: Path, exposition: Exposition) -> None:
    restarts = {"oom": 1}
    view = container(tmp_path, restarts=restarts)
    exposition.render([view], DAEMON, NOW)
    restarts["oom"] = 2
    series = parse(exposition.render([view], DAEMON, NOW))
    assert value(series, "wharfinger_container_restarts_total", reason="oom") == 2


NASTY = st.text(st.characters(), max_size=300) | st.sampled_from(['"} 1\n', "a\\", "\ud800", "\0", 'x{y="z"}', ""])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.lists(st.tuples(NASTY, NASTY, NASTY), min_size=1, max_size=5, unique_by=lambda row: row[0]))
def test_no_name_breaks_the_text(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    template = container(tmp_path)
    views = [
        replace(template, name=name, image=image, cgroup=text, digest=text, labels={"team": text})
        for name, image, text in rows
    ]
    exposition = Exposition()
    series = parse(
        exposition.render(views, replace(DAEMON, allow_labels=("team", "a-b", "a_b"), version=rows[0][2]), NOW)
    )
    shown = {dict(pairs)["name"] for name, pairs in series if name == "wharfinger_container_state"}
    assert len(shown) == len(views)
    exposition.close()


def test_names_that_clean_to_one_are_numbered(tmp_path: Path, exposition: Exposition) -> None:
    template = container(tmp_path)
    series = parse(exposition.render([replace(template, name=name) for name in ("web", "web\x07")], DAEMON, NOW))
    assert names_of(series, "web") == names_of(series, "web#2")


def test_labels_of_the_definition_only_when_allowed_and_the_same_on_all(tmp_path: Path, exposition: Exposition) -> None:
    """kube-state-metrics#1115: ops-managed and ops_managed become one name, Prometheus drops the whole scrape."""
    views = [
        container(tmp_path, "a", labels={"ops-managed": "yes", "ops_managed": "no", "password": "secret"}),
        container(tmp_path, "b"),
    ]
    daemon = replace(DAEMON, allow_labels=("ops-managed", "ops_managed", "name"))
    text = exposition.render(views, daemon, NOW)
    series = parse(text)
    assert b"secret" not in text
    assert value(series, "container_threads", name="a", container_label_ops_managed="yes") == 4
    assert value(series, "container_threads", name="b", container_label_ops_managed="", container_label_name="") == 4
    assert value(series, "wharfinger_samples_dropped_total", reason="label") == 2


def test_more_containers_than_allowed_are_left_out_whole_and_by_name(tmp_path: Path) -> None:
    exposition = Exposition(max_containers=2)
    series = parse(exposition.render([container(tmp_path, name) for name in "cab"], DAEMON, NOW))
    assert names_of(series, "a")
    assert names_of(series, "b")
    assert not names_of(series, "c")
    assert value(series, "wharfinger_samples_dropped_total", reason="limit") == 1
    assert value(series, "wharfinger_scrape_containers") == 2
    exposition.close()


def test_more_devices_than_allowed_are_left_out(tmp_path: Path, exposition: Exposition) -> None:
    path = Path(container(tmp_path).cgroup_dir)
    (path / "io.stat").write_text("".join(f"9:{n} rbytes=1 wbytes=1 rios=1 wios=1\n" for n in range(20)))
    series = parse(exposition.render([container(tmp_path)], DAEMON, NOW))
    assert len([1 for name, _ in series if name == "container_fs_reads_total"]) == 16
    assert value(series, "wharfinger_samples_dropped_total", reason="limit") == 4


def test_two_devices_of_one_name_stay_apart(tmp_path: Path) -> None:
    tree.build(tmp_path / "sys", {"dev": {"block": {n: {"uevent": "DEVNAME=sda\n"} for n in ("8:0", "253:1")}}})
    exposition = Exposition(sys=tmp_path / "sys")
    series = parse(exposition.render([container(tmp_path)], DAEMON, NOW))
    assert value(series, "container_fs_writes_total", device="/dev/sda") == 4
    assert value(series, "container_fs_writes_total", device="253:1") == 1
    exposition.close()


def test_a_container_that_breaks_something_costs_only_itself(
    tmp_path: Path, exposition: Exposition, caplog: pytest.LogCaptureFixture
) -> None:
    bad = container(tmp_path, "bad", generation=None)
    bad = replace(bad, restarts=None)  # type: ignore[arg-type]
    series = parse(exposition.render([bad, container(tmp_path, "good")], DAEMON, NOW))
    assert names_of(series, "good")
    assert not names_of(series, "bad")
    assert value(series, "wharfinger_samples_dropped_total", reason="fault") == 1
    assert "container=bad event=metrics_fault" in caplog.messages


def test_a_broken_collector_costs_only_itself(tmp_path: Path, exposition: Exposition) -> None:
    class Broken(Collector):
        def collect(self) -> Iterator[Metric]:
            yield CounterMetricFamily("wharfinger_half", "half", value=1)
            raise RuntimeError("half-way")

    exposition.own.add("broken", Broken())
    mine = exposition.own.counter("requests_total", "Requests of the control API.", "route")
    mine.labels("\ud800").inc()
    fine = exposition.own.add("fine", Counter("wharfinger_fine_total", "Fine.", registry=CollectorRegistry()))
    fine.inc(3)
    exposition.render([container(tmp_path)], DAEMON, NOW)
    series = parse(exposition.render([container(tmp_path)], DAEMON, NOW))
    assert value(series, "wharfinger_half_total") is None
    assert value(series, "wharfinger_fine_total") == 3
    assert value(series, "wharfinger_collector_errors_total", collector="broken") in (1, 2)
    assert value(series, "wharfinger_collector_errors_total", collector="wharfinger_requests_total") in (1, 2)
    assert value(series, "process_open_fds") is None or value(series, "process_open_fds")
    with pytest.raises(ValueError, match="already"):
        exposition.own.add("fine", fine)


def test_network_of_its_own_namespace_only(tmp_path: Path, exposition: Exposition) -> None:
    line = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
    dev = f"Inter-|\n face |\n    lo: {line}  eth0: {line}"
    view = container(tmp_path)
    member = f"0::/outer{view.cgroup}/g{view.generation}"
    tree.build(
        tmp_path / "proc",
        {
            "self": {"ns": {"net": ""}},
            "77": {"net": {"dev": dev}, "ns": {"net": ""}, "cgroup": f"4:cpu:/\n{member}/init\n"},
            "79": {"net": {"dev": dev}, "ns": {"net": ""}, "cgroup": f"{member}9\n"},
            "80": {"net": {"dev": dev}, "ns": {}, "cgroup": f"{member}\n"},
        },
    )
    os.link(tmp_path / "proc/self/ns/net", tmp_path / "proc/80/ns/net")
    assert not [name for name, _ in parse(exposition.render([view], DAEMON, NOW)) if "_network_" in name]
    series = parse(exposition.render([replace(view, net_pid=77)], DAEMON, NOW))
    assert value(series, "container_network_receive_bytes_total", interface="eth0") == 1
    assert value(series, "container_network_transmit_packets_dropped_total", interface="eth0") == 12
    for pid, what in ((78, "gone"), (79, "of another cgroup"), (80, "in the host's network")):
        other = parse(exposition.render([replace(view, net_pid=pid)], DAEMON, NOW))
        assert not [name for name, _ in other if "_network_" in name], what
        assert value(other, "container_scrape_error") == 0


def test_space_on_disk_is_as_old_as_it_is_and_unknown_is_absent(tmp_path: Path, exposition: Exposition) -> None:
    view = container(tmp_path, space=SpaceView(4096, "/dev/vda", 1 << 30, None))
    series = parse(exposition.render([view], DAEMON, NOW))
    assert value(series, "container_fs_usage_bytes", device="/dev/vda") == 4096
    assert value(series, "container_fs_limit_bytes", device="/dev/vda") == 1 << 30
    assert value(series, "wharfinger_container_log_size_bytes") is None
    series = parse(exposition.render([replace(view, space=SpaceView(logs=7))], DAEMON, NOW))
    assert value(series, "wharfinger_container_log_size_bytes") == 7
    assert value(series, "container_fs_usage_bytes") is None


def test_disks_and_what_was_found_at_start(tmp_path: Path, exposition: Exposition) -> None:
    disks = {"state": str(tmp_path), "logs": str(tmp_path / "none")}
    daemon = replace(DAEMON, disks=disks, adopted={"running": 3})
    exposition.render([], daemon, NOW)  # the counters of one start do not add up
    series = parse(exposition.render([], daemon, NOW))
    assert value(series, "wharfinger_disk_size_bytes", holds="state")
    assert value(series, "wharfinger_disk_free_bytes", holds="state") is not None
    assert value(series, "wharfinger_disk_free_bytes", holds="logs") is None
    assert value(series, "wharfinger_adoptions_total", found="running") == 3
    assert value(series, "wharfinger_adoptions_total", found="lost") == 0


def test_families_are_sorted_and_said_once(tmp_path: Path, exposition: Exposition) -> None:
    text = exposition.render([container(tmp_path, name) for name in "ab"], DAEMON, NOW)
    said = [line.split()[2].decode() for line in text.split(b"\n") if line.startswith(b"# TYPE ")]
    assert len(set(said)) == len(said)
    ours = [name for name in said if name in families.SLOT]
    assert ours == sorted(ours)
    assert b"_created" not in text


def test_no_containers_is_a_valid_answer(exposition: Exposition) -> None:
    series = parse(exposition.render([], DaemonView(), NOW))
    assert value(series, "wharfinger_scrape_containers") == 0
    assert value(series, "wharfinger_psi_enabled") is None
    assert value(series, "wharfinger_cgroup_controller_enabled", controller="memory") == 0
    assert value(series, "wharfinger_build_info") == 1
    assert value(series, "machine_cpu_cores")


def test_promtool_finds_nothing_but_cadvisors_own_sin(tmp_path: Path, exposition: Exposition) -> None:
    views = [
        container(tmp_path, "a", last_code=1, last_end_wall=1.5, pressure_events={("io", "full"): 1}, log_bytes=1),
        container(tmp_path, "b", phase="stopped"),
    ]
    text = exposition.render(views, DAEMON, NOW)
    promtool = shutil.which("promtool", path=f"{Path(sys.executable).parent}:/usr/bin")
    if promtool is None:
        assert "CI" not in os.environ, "promtool is part of the set-up"
        pytest.skip("no promtool")
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert done.stderr.decode().splitlines() == ['container_memory_failcnt counter metrics should have "_total" suffix']
    assert done.returncode in (0, 3)


def test_churn_leaves_nothing_behind(tmp_path: Path, exposition: Exposition) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for generation in range(60):
        name = f"c{generation % 7}"
        view = container(tmp_path, name, seed=generation + 1, generation=generation)
        parse(exposition.render([view], DAEMON, NOW + generation))
        if generation % 3 == 0:
            shutil.rmtree(view.cgroup_dir)
    parse(exposition.render([], DAEMON, NOW))
    assert len(os.listdir("/proc/self/fd")) == before
    assert exposition._entries == {}


def test_limits_age(tmp_path: Path, exposition: Exposition, monkeypatch: pytest.MonkeyPatch) -> None:
    view = container(tmp_path)
    exposition.render([view], DAEMON, NOW)
    (Path(view.cgroup_dir) / "memory.max").write_text("4096\n")
    monkeypatch.setattr(metrics, "LIMITS_FOR", 0.0)
    series = parse(exposition.render([view], DAEMON, NOW))
    assert value(series, "container_spec_memory_limit_bytes") == 4096
