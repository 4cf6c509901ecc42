"""Column by column or key by key, the same is said; and a file of another form costs nobody else anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor import columns
from monitor.columns import Columns
from monitor.kernel import KernelRow
from monitor.metrics import ContainerView, DaemonView, Exposition
from tests.fixtures import tree

DAEMON = DaemonView(psi=True)


def view(root: Path, name: str, **more: bool) -> ContainerView:
    path = tree.build(root / name, tree.cgroup(len(name) * 1_234_567, **more))
    return ContainerView(name, f"/x%s/{name}", str(path), phase="running", generation=1)


def series(views: list[ContainerView], sysfs: Path, monkeypatch: pytest.MonkeyPatch, by_key: bool = False) -> list[str]:
    exposition = Exposition(sys=sysfs)
    with monkeypatch.context() as patch:
        if by_key:
            patch.setattr(Columns, "take", lambda *_: False)
        text = exposition.render(views, DAEMON, 1.0).decode()
    exposition.close()
    return sorted(line for line in text.splitlines() if line.startswith("container_") and "scrape_error" not in line)


ODD: Mapping[str, Mapping[str, str]] = {
    "a key less": {"memory.stat": "anon 1\nfile 2\n"},
    "a key more": {"cpu.stat": "usage_usec 1\nnew_thing 7\nuser_usec 999999\nsystem_usec 1000000\n"},
    "a key twice": {"memory.events": "high 1\nhigh 2\nmax 3\noom_kill 0\n"},
    "no number": {"memory.current": "max\n"},
    "no line end": {"memory.current": "12"},
    "half a file": {"io.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"},
    "empty": {"memory.stat": "", "cpu.stat": ""},
    "too many digits": {"pids.current": "9" * 30 + "\n"},
    "nul": {"memory.events": "high 1\0\nmax 2\n"},
    "a word": {"memory.stat": "anon one\nfile 2\ninactive_file 1\n"},
}


@pytest.mark.parametrize("odd", ODD)
def test_both_ways_say_the_same(odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysfs = tree.build(tmp_path / "sys", tree.SYS)
    views = [
        view(tmp_path, "a"),
        view(tmp_path, "bb", quota=False),
        view(tmp_path, "ccc", psi=False),
        view(tmp_path, "d"),
    ]
    for name, text in ODD[odd].items():
        (Path(views[0].cgroup_dir) / name).write_text(text)
    (Path(views[3].cgroup_dir) / "memory.peak").unlink()
    whole = series(views, sysfs, monkeypatch)
    assert whole == series(views, sysfs, monkeypatch, by_key=True)
    assert len(whole) == len({line.rsplit(" ", 1)[0] for line in whole})
    assert len([line for line in whole if 'name="bb"' in line]) > 40


def test_the_usual_container_is_taken_and_an_odd_one_is_not(tmp_path: Path) -> None:
    files = {name: (view_dir / name).read_bytes() for view_dir in [Path(view(tmp_path, "a").cgroup_dir)]
             for name in ("cpu.stat", "memory.stat", "memory.current")}  # fmt: skip
    row = KernelRow("a", ContainerView("a", "/a", "/a"), ())
    taken = Columns()
    assert taken.take(row, files)
    assert taken.take(row, files | {"g1/cgroup.procs": b"1\n"})
    assert not taken.take(row, files | {"memory.current": b"max\n"})
    assert {slot: b"".join(pieces).count(b"\n") for slot, pieces in taken.lines().items()}
    assert taken.lines() == {}


def test_forms_are_learned_up_to_a_bound(tmp_path: Path) -> None:
    row = KernelRow("a", ContainerView("a", "/a", "/a"), ())
    taken = Columns()
    forms = [{"cpu.stat": b"usage_usec 1\n" + b"".join(b"k%d 1\n" % n for n in range(count))} for count in range(20)]
    assert [taken.take(row, form) for form in forms] == [count < columns.FORMS_MAX for count in range(20)]
    assert taken.take(row, forms[0])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["cpu.stat", "memory.stat", "memory.events", "io.pressure"]), st.binary(max_size=80)
    )
)
def test_any_bytes_are_read_or_left(data: dict[str, bytes]) -> None:
    taken = Columns()
    taken.take(KernelRow("a", ContainerView("a", "/a", "/a"), ()), data)
    for pieces in taken.lines().values():
        for line in b"".join(pieces).split(b"\n")[1:]:
            float(line.rsplit(b" ", 1)[1])
