"""The plan's encoding and the packets: strict both ways, and the same table as in C."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import WharfError
from runtime import linux, wire
from runtime.shim import parse_exit, read_exit
from runtime.wire import Op, op

NATIVE = Path(__file__).parents[3] / "runtime/native"

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
KINDS: dict[str, st.SearchStrategy[wire.Value]] = {
    "u": st.integers(0, 2**64 - 1),
    "i": st.integers(-(2**63), 2**63 - 1),
    "s": TEXT,
    "b": st.binary(max_size=40),
}


@st.composite
def ops(draw: st.DrawFn) -> Op:
    kind = draw(st.sampled_from(sorted(wire.OPS.values(), key=lambda k: k.code)))
    return Op(kind.name, tuple(draw(KINDS[letter]) for letter in kind.schema))


@given(st.lists(ops(), max_size=20))
def test_what_is_encoded_is_decoded(plan: list[Op]) -> None:
    data = wire.encode(plan)
    assert len(data) % 8 == 0
    assert wire.decode(data) == tuple(plan)


@given(st.lists(ops(), min_size=1, max_size=4), st.data())
def test_a_plan_cut_or_grown_is_refused(plan: list[Op], data: st.DataObject) -> None:
    whole = wire.encode(plan)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for bad in (whole[:cut], whole + b"\0" * 8):
        with pytest.raises(ValueError, match="plan"):
            wire.decode(bad)


@given(st.lists(ops(), min_size=1, max_size=4), st.data())
def test_a_changed_byte_is_refused_or_decodes_to_what_encodes_back(plan: list[Op], data: st.DataObject) -> None:
    whole = bytearray(wire.encode(plan))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = wire.decode(bytes(whole))
    except ValueError:
        return
    assert wire.encode(decoded) == bytes(whole)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_encode_back(data: bytes) -> None:
    try:
        decoded = wire.decode(data)
    except ValueError:
        return
    assert wire.encode(decoded) == data


def test_text_need_not_be_unicode() -> None:
    one = op("ENV", text=b"A=\xff".decode("utf-8", "surrogateescape"))
    data = wire.encode([one])
    assert b"A=\xff\0" in data
    assert wire.decode(data) == (one,)


@pytest.mark.parametrize(
    ("name", "fields", "error"),
    [
        ("NOTHING", {}, KeyError),
        ("CWD", {}, TypeError),
        ("CWD", {"path": "/", "more": 1}, TypeError),
        ("CWD", {"path": 5}, TypeError),
        ("CWD", {"path": "/a\0b"}, ValueError),
        ("UMASK", {"mask": -1}, ValueError),
        ("UMASK", {"mask": True}, TypeError),
        ("UMASK", {"mask": 2**64}, ValueError),
        ("OOMADJ", {"score": -(2**63) - 1}, ValueError),
        ("SECCOMP", {"flags": 0, "filter": "text"}, TypeError),
    ],
)
def test_a_wrong_operation_is_refused(name: str, fields: dict[str, wire.Value], error: type[Exception]) -> None:
    with pytest.raises(error):
        op(name, **fields)


def test_a_plan_over_the_limits_is_refused() -> None:
    with pytest.raises(ValueError, match="limit"):
        wire.encode([op("NNP")] * (wire.OPS_MAX + 1))
    with pytest.raises(ValueError, match="limit"):
        wire.encode([op("ENV", text="x" * (wire.PLAN_MAX // 2))] * 2)


def test_an_operation_reads_as_text_and_by_field() -> None:
    one = op("ROOT", path="/srv", propagation=linux.MS_SLAVE)
    assert str(one) == "ROOT path='/srv' propagation=524288"
    assert one["path"] == "/srv"


def test_codes_names_and_schemas_are_those_of_the_c_source() -> None:
    names = re.findall(r"^\tOP_(\w+)(?: = \d+)?,$", (NATIVE / "plan.h").read_text(), re.MULTILINE)
    codes = {name: code for code, name in enumerate(names) if name != "NONE"}
    rows = re.findall(r'\[OP_(\w+)\] = \{"(\w*)", "(\w*)"\}', (NATIVE / "plan.c").read_text())
    schemas = {name: schema for key, name, schema in rows if key == name}
    assert {k.name: (k.code, k.schema) for k in wire.OPS.values()} == {n: (codes[n], schemas[n]) for n in schemas}
    assert set(schemas) == set(codes)


def test_the_table_is_what_the_built_program_prints() -> None:
    program = Path(sys.executable).parent / "wharf-shim"
    if not program.exists():
        pytest.skip("wharf-shim is not installed beside the interpreter")
    printed = subprocess.run([program, "--ops"], check=True, capture_output=True, text=True).stdout
    ours = [f"{k.code} {k.name} {k.schema}" for k in sorted(wire.OPS.values(), key=lambda k: k.code)]
    assert [line.rstrip() for line in printed.splitlines()] == [line.rstrip() for line in ours]


def test_packets_have_the_sizes_that_c_asserts() -> None:
    sizes = dict(re.findall(r"_Static_assert\(sizeof\(struct (\w+)\) == (\d+)", (NATIVE / "wire.h").read_text()))
    sizes |= dict(re.findall(r"_Static_assert\(sizeof\(struct (\w+)\) == (\d+)", (NATIVE / "base.h").read_text()))
    assert {k: int(v) for k, v in sizes.items()} == {
        "start": wire.START.size,
        "started": wire.STARTED.size + wire.FAULT.size,
        "req": wire.REQ.size,
        "rep": wire.REP.size,
        "fault": wire.FAULT.size,
    }


def test_a_fault_and_a_started_message_are_read() -> None:
    fault = wire.FAULT.pack(wire.OPS["MOUNT"].code, 4, 2, b"fsopen", b"/proc")
    data = wire.STARTED.pack(wire.STARTED_MAGIC, 1, 2, 7, 0, 0) + fault
    assert wire.Started.unpack(data) == wire.Started(7, 0, 0, wire.Fault("MOUNT", 4, 2, "fsopen", "/proc"))
    for bad in (data[:-1], data + b"\0", b"\0" + data[1:]):
        with pytest.raises(ValueError, match="started"):
            wire.Started.unpack(bad)


def test_a_start_message_is_packed() -> None:
    packed = wire.Start(3, 1 << 20, 2, 1, "web", (1, 2, 7)).pack()
    assert wire.START.unpack(packed) == (
        wire.START_MAGIC, 1, 3, 3, 1 << 20, 2, 1, b"web".ljust(64, b"\0"), bytes((1, 2, 7)).ljust(64, b"\0"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="too long"):
        wire.Start(1, 0, 1, 0, "x" * 64, ()).pack()


RECORD = b"""version=1
generation=7
pid=12
started_ns=1500000000
ended_ns=2500000000
boot_id=b-1
how=exited
status=3
core=0
"""


def test_an_exit_record_is_read() -> None:
    record = parse_exit(RECORD + b"mem.parent.oom_kill.end=2\nnew.key=5\nnew.word=abc\n")
    assert (record.generation, record.pid, record.how, record.status, record.core) == (7, 12, "exited", 3, False)
    assert (record.started, record.ended, record.boot_id) == (1.5, 2.5, "b-1")
    assert (record.get("mem.parent.oom_kill.end"), record.get("new.key"), record.get("oom_seen")) == (2, 5, None)


@pytest.mark.parametrize("size", range(len(RECORD) - 8))
def test_a_cut_exit_record_is_an_error_or_lacks_only_its_end(size: int, tmp_path: Path) -> None:
    (tmp_path / "exit").write_bytes(RECORD[:size])
    if RECORD[:size].rstrip(b"\n").endswith(b"status=3") or RECORD[:size].endswith(b"status=3\ncore=0"):
        assert read_exit(tmp_path) is not None
        return
    with pytest.raises(WharfError, match="exit record"):
        read_exit(tmp_path)


def test_no_exit_record_is_none(tmp_path: Path) -> None:
    assert read_exit(tmp_path) is None
    assert read_exit(tmp_path / "none") is None
