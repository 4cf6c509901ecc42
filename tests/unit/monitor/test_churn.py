"""50 containers that come, go and restart while they are read: both parsers take every answer, whole and unique."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from monitor import openmetrics
from monitor.metrics import ContainerView, DaemonView, Exposition
from tests.fixtures import tree

DAEMON = DaemonView(psi=True, allow_labels=("team",))
SCRAPES = 4


def series(text: bytes, parse: Callable[[str], Iterable[Metric]]) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    keys = [(s.name, tuple(sorted(s.labels.items()))) for family in parse(text.decode()) for s in family.samples]
    assert len(keys) == len(set(keys))
    # the client's reader of the plain text adds what the text does not have
    return {(name.replace("failcnt_total", "failcnt"), labels) for name, labels in keys}


def churn(root: Path, luck: random.Random, over: threading.Event) -> None:
    """Containers whose cgroups are removed, made again, and change their form, all the time."""
    while not over.wait(0.002):
        path = root / f"c{luck.randrange(50)}"
        if luck.random() < 0.5:
            shutil.rmtree(path, ignore_errors=True)
        else:
            tree.build(path, tree.cgroup(luck.randrange(10**9), quota=luck.random() < 0.5, psi=luck.random() < 0.5))


@pytest.mark.parametrize("seed", [1])
def test_every_scrape_is_accepted_whole_and_unique(seed: int, tmp_path: Path) -> None:
    luck, over = random.Random(seed), threading.Event()
    exposition = Exposition(sys=tree.build(tmp_path / "sys", tree.SYS))
    worker = threading.Thread(target=churn, args=(tmp_path, random.Random(-seed), over))
    worker.start()
    try:
        for number in range(SCRAPES):
            views = [
                ContainerView(
                    f"c{each}",
                    f"/w/c{each}",
                    str(tmp_path / f"c{each}"),
                    phase=luck.choice(("running", "stopped", "backoff")),
                    generation=1 + number % 2,
                    labels={"team": f'"\\\n{each}'},
                    restarts={"error": number},
                )
                for each in range(50)
                if luck.random() < 0.8
            ]
            text = exposition.render(views, DAEMON, 1.0)
            plain, open_ = series(text, parse_text), series(openmetrics.convert(text), parse_openmetrics)
            assert plain == open_
            named = {dict(labels)["name"] for name, labels in plain if name == "wharfinger_container_state"}
            assert named == {view.name for view in views}
            for view in views:  # half a container would have a level without its counter
                mine = {name for name, labels in plain if dict(labels).get("name") == view.name}
                assert ("container_last_seen" in mine) <= (view.phase == "running")
    finally:
        over.set()
        worker.join()
    exposition.close()
