"""Histograms of the daemon's delays, as another parser reads them."""

from __future__ import annotations

import math
from typing import get_args

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as families

from monitor import openmetrics
from monitor.histogram import BOUNDS, DECISIONS, EFFECTS, Histogram, Timing
from monitor.own import OwnMetrics
from supervisor import keeper, timing
from supervisor.lifecycle import facts
from tests.unit.lifecycle.world import Life


def test_each_bucket_counts_what_is_not_more_than_its_bound() -> None:
    histogram = Histogram("x_seconds", "What it is.", ("a", "b"))
    for seconds in (-0.001, 0.0005, 0.0006, 9.0, 11.0):
        histogram.observe(seconds, "a")
    (family,) = families(histogram.text().decode())
    assert (family.name, family.type, family.documentation) == ("wharfinger_x_seconds", "histogram", "What it is.")
    buckets = {
        s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket") and s.labels["kind"] == "a"
    }
    assert list(map(float, buckets)) == [*BOUNDS, math.inf]
    assert (buckets["0.0005"], buckets["0.001"], buckets["5.0"], buckets["10.0"], buckets["+Inf"]) == (2, 3, 3, 4, 5)
    rest = {s.name[len("wharfinger_x_seconds") :]: s.value for s in family.samples if s.labels == {"kind": "a"}}
    assert rest == {"_sum": 0.0005 + 0.0006 + 9 + 11, "_count": 5}
    assert sum(s.value for s in family.samples if s.labels["kind"] == "b") == 0, "there from the start"


def test_openmetrics_takes_them_too() -> None:
    own = OwnMetrics()
    own.timing.lag.observe(0.002)
    text = openmetrics.convert(own.text()).decode()
    found = {family.name: family for family in openmetrics_families(text)}  # type: ignore[no-untyped-call]
    assert found["wharfinger_loop_lag_seconds"].type == "histogram"
    assert found["wharfinger_decision_seconds"].type == "histogram"


def test_each_event_and_each_effect_has_a_kind() -> None:
    watch = timing.Watch(counts := Timing())
    assert set(timing.DECISIONS.values()) < set(DECISIONS)
    assert {type_ for type_ in get_args(facts.Event) if type_ not in timing.DECISIONS} == {
        facts.Adopted, facts.Absent, facts.Dependencies, facts.Failed,
    }, "others have no kind"  # fmt: skip
    assert set(timing.EFFECTS) == {*keeper.SLOW, facts.Signal, facts.KillAll}
    assert set(timing.EFFECTS.values()) == set(EFFECTS)
    state = Life().s
    watch.decided(facts.Ended(facts.End(1, 0.0, 1.0, signal=9, oom=facts.Oom(killed=True))), state, state, 5.0, 5.01)
    assert 'decision_seconds_count{kind="oom"} 1' in counts.decision.text().decode()
