"""Limits as cgroup v2 files: the mapping from OCI and from definitions, and the order of writes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import DefinitionError
from config.model_parts import Resources
from runtime import resources
from runtime.resources import Limits, of_definition, of_oci


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000), (0, 1), (10**9, 10000)])
def test_shares_meet_the_known_weights(shares: int, weight: int) -> None:
    assert resources.weight_of_shares(shares) == weight


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_shares_never_weigh_less(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert 1 <= resources.weight_of_shares(low) <= resources.weight_of_shares(high) <= 10000


@given(st.integers(10, 1000), st.integers(10, 1000))
def test_block_weights_stay_in_order_and_range(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert 1 <= resources.weight_of_blkio(low) <= resources.weight_of_blkio(high) <= 10000


def test_block_weights_meet_both_ends() -> None:
    assert [resources.weight_of_blkio(w) for w in (10, 1000)] == [1, 10000]
    assert [resources.bfq_of_io(w) for w in (1, 100, 10000)] == [1, 100, 1000]


@given(st.integers(1, 10000), st.integers(1, 10000))
def test_bfq_weights_stay_in_order_and_range(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert 1 <= resources.bfq_of_io(low) <= resources.bfq_of_io(high) <= 1000


@given(st.decimals("0.001", "10000", places=5))
def test_cpus_are_exact_to_a_hundred_thousandth_or_a_millisecond(cpus: Decimal) -> None:
    quota, period = map(int, resources.cpu_max(cpus).split())
    assert quota >= 1000
    assert 1000 <= period <= 1_000_000
    assert abs(Decimal(quota) / period - cpus) <= max(
        Decimal("0.000005"), Decimal(0) if cpus >= Decimal("0.001") else cpus
    )


@pytest.mark.parametrize(
    ("cpus", "text"),
    [("0.5", "50000 100000"), ("1", "100000 100000"), ("0.01", "1000 100000"), ("0.002", "2000 1000000")],
)
def test_cpus_become_quota_and_period(cpus: str, text: str) -> None:
    assert resources.cpu_max(Decimal(cpus)) == text
    assert resources.cpu_max(float(cpus)) == text


@given(st.integers(1, 2**50), st.integers(0, 2**50))
def test_swap_is_what_is_beyond_memory_and_never_negative(limit: int, swap: int) -> None:
    if swap >= limit:
        assert int(resources.swap_max(limit, swap)) == swap - limit
    else:
        with pytest.raises(DefinitionError, match="below the memory limit"):
            resources.swap_max(limit, swap)


@pytest.mark.parametrize(
    ("memory", "files"),
    [
        ({"limit": 100, "swap": 100}, {"memory.max": "100", "memory.swap.max": "0"}),
        ({"limit": 100, "swap": -1}, {"memory.max": "100", "memory.swap.max": "max"}),
        ({"limit": -1, "swap": -1}, {"memory.max": "max", "memory.swap.max": "max"}),
        ({"limit": 100}, {"memory.max": "100"}),
        ({"reservation": 50}, {"memory.low": "50"}),
        ({}, {}),
    ],
)
def test_memory_of_oci(memory: dict[str, int], files: dict[str, str]) -> None:
    assert of_oci({"memory": memory}) == Limits(files)


def test_swap_without_a_memory_limit_is_refused() -> None:
    with pytest.raises(DefinitionError, match="needs a memory limit"):
        of_oci({"memory": {"swap": 5}})


@pytest.mark.parametrize(
    ("cpu", "files"),
    [
        ({"shares": 1024}, {"cpu.weight": "100"}),
        ({"quota": 50000, "period": 100000}, {"cpu.max": "50000 100000"}),
        ({"quota": -1, "period": 50000}, {"cpu.max": "max 50000"}),
        ({"quota": 20000}, {"cpu.max": "20000 100000"}),
        ({"burst": 5, "idle": 1}, {"cpu.max.burst": "5", "cpu.idle": "1"}),
        ({"cpus": "0-1", "mems": "0"}, {"cpuset.cpus": "0-1", "cpuset.mems": "0"}),
    ],
)
def test_cpu_of_oci(cpu: dict[str, Any], files: dict[str, str]) -> None:
    assert of_oci({"cpu": cpu}).files == files


@pytest.mark.parametrize(("limit", "files"), [(5, {"pids.max": "5"}), (-1, {"pids.max": "max"}), (0, {})])
def test_pids_of_oci(limit: int, files: dict[str, str]) -> None:
    assert of_oci({"pids": {"limit": limit}}).files == files


def test_throttles_of_oci_are_gathered_by_device() -> None:
    limits = of_oci(
        {
            "blockIO": {
                "weight": 1000,
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 100}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 5}, {"major": 8, "minor": 16, "rate": 6}],
            }
        }
    )
    assert limits.files == {"io.weight": "default 10000"}
    assert limits.io_max == {"8:0": {"rbps": 100, "wiops": 5}, "8:16": {"wiops": 6}}
    assert resources.io_line("8:0", limits.io_max["8:0"]) == "8:0 rbps=100 wbps=max riops=max wiops=5"


@pytest.mark.parametrize("name", ["../memory.max", "memory/max", "cgroup.kill", ".x", "memory", "cgroup.procs"])
def test_unified_takes_limits_only(name: str) -> None:
    with pytest.raises(DefinitionError, match="is not a limit"):
        of_oci({"unified": {name: "1"}})


def test_a_definitions_limits() -> None:
    own = Resources.model_validate(
        {
            "memory": "128MiB", "memory_high": "100MiB", "memory_swap": 0, "cpus": 0.5, "cpu_weight": 50, "pids": 64,
            "io_weight": 200, "io_max": [{"device": "/dev/sda", "rbps": "1MiB"}], "cpuset": "0-1",
        }
    )  # fmt: skip
    limits = of_definition(own, True, {"/dev/sda": "8:0"}.__getitem__)
    assert limits.files == {
        "memory.oom.group": "1",
        "memory.max": "134217728",
        "memory.high": "104857600",
        "memory.swap.max": "0",
        "cpu.max": "50000 100000",
        "cpu.weight": "50",
        "pids.max": "64",
        "io.weight": "default 200",
        "cpuset.cpus": "0-1",
    }
    assert limits.io_max == {"8:0": {"rbps": 1048576}}
    assert limits.controllers() == {"memory", "cpu", "pids", "io", "cpuset"}


def test_a_limit_that_nobody_asked_for_needs_no_controller() -> None:
    limits = of_definition(Resources(), True, str)
    assert limits.files == {"memory.oom.group": "1", "pids.max": "4096"}
    assert limits.controllers() == frozenset()
    assert of_definition(Resources(pids=4096), True, str).controllers() == {"pids"}


def test_a_definition_overrides_its_bundle_and_our_default_does_not() -> None:
    bundle = of_oci({"pids": {"limit": 10}, "memory": {"limit": 100}})
    assert resources.merge(bundle, of_definition(Resources(), True, str)).files["pids.max"] == "10"
    merged = resources.merge(bundle, of_definition(Resources(pids=20), False, str))
    assert merged.files == {"pids.max": "20", "memory.max": "100", "memory.oom.group": "0"}
    assert merged.controllers() == {"pids", "memory"}


VALUE = st.one_of(st.just("max"), st.integers(0, 100).map(str))
MEMORY = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("memory.min", "memory.low", "memory.high", "memory.max", "memory.swap.max"), VALUE)
)


@given(MEMORY, MEMORY)
def test_loosening_comes_before_tightening(old: dict[str, str], new: dict[str, str]) -> None:
    order = resources.write_order(old, new)
    assert sorted(order) == sorted(new)

    def number(text: str) -> float:
        return float("inf") if text == "max" else int(text)

    looser = [n not in old or number(new[n]) >= number(old[n]) for n in order]
    assert looser == sorted(looser, reverse=True)


def test_a_shrinking_container_is_slowed_before_it_can_be_killed() -> None:
    old = {"memory.high": "80", "memory.max": "100", "memory.swap.max": "50"}
    new = {"memory.high": "40", "memory.max": "50", "memory.swap.max": "0"}
    assert resources.write_order(old, new) == ["memory.high", "memory.max", "memory.swap.max"]
    assert resources.write_order(new, old) == ["memory.swap.max", "memory.max", "memory.high"]
