"""OpenMetrics: when it is chosen, and that a strict parser takes all of it, with the same samples as the plain text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import anyio
import pytest
from prometheus_client import parser as plain_text
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as strict

from monitor import openmetrics
from monitor.metrics import CONTENT_TYPE, ContainerView, DaemonView, Exposition
from monitor.scrape import Scraper
from tests.fixtures import tree

parse_openmetrics: Callable[[str], Iterable[Metric]] = strict.text_string_to_metric_families
parse_plain: Callable[[str], Iterable[Metric]] = plain_text.text_string_to_metric_families

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ('application/openmetrics-text; version="1.0.0"', True),
        ("Application/OpenMetrics-Text; Version=0.0.1; Q=0.9, text/plain;q=0.5", True),
        (PROMETHEUS_3, True),
        ("application/openmetrics-text;q=0.5, text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0.5, text/plain;q=0.5", False),
        ("application/openmetrics-text;q=0, */*", False),
        ("application/openmetrics-text;q=abc", False),
        ("application/openmetrics-text;q=nan", False),
        ("application/openmetrics-text;version=2.0.0", False),
        (";;,,=;q", False),
        ("\xff", False),
    ],
)
def test_it_is_chosen_when_it_is_preferred(accept: str, wanted: bool) -> None:
    assert openmetrics.is_wanted(accept) is wanted


def samples(families: Iterable[Metric]) -> set[tuple[str, tuple[tuple[str, str], ...], float]]:
    found = {
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in families
        for sample in family.samples
    }
    # the client's reader of the plain text adds what the text does not have
    return {(name.replace("failcnt_total", "failcnt"), labels, value) for name, labels, value in found}


def view(directory: Path, name: str) -> ContainerView:
    return ContainerView(
        name=name,
        cgroup=f"/wharfinger/{name}",
        cgroup_dir=str(tree.build(directory / name, tree.cgroup(7))),
        image='quay.example/a"b\\c',
        phase="running",
        restarts={"error": 2},
        health_checks={"success": 3},
    )


def test_a_strict_parser_takes_it_and_finds_the_same_samples(tmp_path: Path) -> None:
    exposition = Exposition()
    text = exposition.render([view(tmp_path, "a"), view(tmp_path, "b")], DaemonView("1"), 1.0)
    made = openmetrics.convert(text).decode()
    assert made.endswith("# EOF\n")
    assert samples(parse_openmetrics(made)) == samples(parse_plain(text.decode()))
    exposition.close()


def test_the_counter_without_total_is_unknown_and_keeps_its_name(tmp_path: Path) -> None:
    made = openmetrics.convert(Exposition().render([view(tmp_path, "a")], DaemonView("1"), 1.0)).decode()
    families = {family.name: family for family in parse_openmetrics(made)}
    assert families["container_memory_failcnt"].type == "unknown"
    assert families["container_oom_events"].type == "counter"


def test_one_collection_serves_both_forms() -> None:
    async def main() -> None:
        scraper = Scraper(Exposition(), lambda: ((), DaemonView("1")))
        plain = await scraper.scrape()
        other = await scraper.scrape("gzip", PROMETHEUS_3)
        assert dict(plain.headers)["Content-Type"] == CONTENT_TYPE
        assert dict(other.headers)["Content-Type"] == openmetrics.CONTENT_TYPE
        assert dict(other.headers)["Vary"] == "Accept, Accept-Encoding"
        assert scraper.collections == 1

    anyio.run(main, backend="trio")
