"""docs/metrics.md says what the exposition says: every family, its type, labels and HELP."""

from __future__ import annotations

import re
from pathlib import Path

from monitor import families
from monitor.metrics import ContainerView, DaemonView, Exposition
from monitor.view import SpaceView
from tests.fixtures import tree

DOC = Path(__file__).parents[3] / "docs" / "metrics.md"
ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| (?P<type>\w+) \| (?P<labels>[\w ]*?) ?\| (?P<source>.+?) \| (?P<help>.+?) \|$"
)


def documented() -> dict[str, tuple[str, tuple[str, ...], str]]:
    rows = [match for line in DOC.read_text().splitlines() if (match := ROW.match(line))]
    found = {row["name"]: (row["type"], tuple(row["labels"].split()), row["help"]) for row in rows}
    assert len(found) == len(rows), "a family stands there twice"
    return found


def everything(tmp_path: Path) -> str:
    """An exposition with every family in it."""
    dev = "eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
    seven: tree.Tree = {"net": {"dev": dev}, "ns": {"net": ""}, "cgroup": "0::/web/g1\n"}
    tree.build(tmp_path / "proc", {"self": {"ns": {"net": ""}}, "7": seven})
    view = ContainerView(
        "web",
        "/web",
        str(tree.build(tmp_path / "web", tree.cgroup())),
        phase="running",
        generation=1,
        created_wall=1.0,
        started_wall=2.0,
        last_code=0,
        last_end_wall=2.0,
        pressure_events={("cpu", "some"): 1},
        recorder_samples=1,
        log_bytes=1,
        log_dropped=1,
        net_pid=7,
        space=SpaceView(1, "/dev/sda", 2, 3),
    )
    daemon = DaemonView(
        psi=True,
        reload_ok=True,
        reload_ok_wall=1.0,
        definition_errors=0,
        watch_degraded=False,
        loop_lag=0,
        disks={"state": "/"},
    )
    exposition = Exposition(proc=tmp_path / "proc")
    exposition.own.read_failed("io.stat", "EIO")
    exposition.render([view], daemon, 1.0)
    text = exposition.render([view], daemon, 1.0).decode()
    exposition.close()
    return text


def test_the_document_and_the_exposition_agree(tmp_path: Path) -> None:
    text = everything(tmp_path)
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\w+) (.+)$", text, re.MULTILINE))
    ours = {name: kind for name, kind in types.items() if not name.startswith(("process_", "python_"))}
    table = documented()
    assert {name: kind for name, (kind, _, _) in table.items()} == ours
    assert {name: help_text for name, (_, _, help_text) in table.items()} == {name: helps[name] for name in ours}
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        name = (
            re.sub(r"_(bucket|sum|count)$", "", name.split(" ")[0]) if line.startswith("wharf") else name.split(" ")[0]
        )
        if line.startswith("#") or name not in table:
            continue
        labels = tuple(word for word in re.findall(r'(\w+)="', rest.rsplit(" ", 1)[0]) if word != "le")
        identity = families.IDENTITY if name.startswith("container_") and labels else ()
        assert set(labels) == {*identity, *table[name][1]}, name
    for name in ("process_open_fds", "process_max_fds", "python_info"):
        assert name in types
        assert f"`{name}`" in DOC.read_text()


def test_the_document_knows_every_word() -> None:
    text = DOC.read_text()
    for words in (
        families.PHASES,
        families.HEALTH,
        families.RESTART_REASONS,
        families.END_REASONS,
        families.CHECK_RESULTS,
    ):
        assert " ".join(words) in text
    for scope in families.OOM_SCOPES:
        assert f"`{scope}`" in text
