"""One line an event, whatever a container or a peer puts into it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from supervisor import log


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    raised = logging.raiseExceptions
    log.setup("info", stream, {"INVOCATION_ID": "x"})
    yield stream
    top = logging.getLogger("wharfinger")
    top.handlers.clear()
    top.propagate = True
    top.setLevel(logging.NOTSET)
    logging.raiseExceptions = raised


def test_a_line_says_its_level_first(out: io.StringIO) -> None:
    logging.getLogger("wharfinger.keeper").warning("container=%s generation=%d", "web", 3)
    logging.getLogger("wharfinger").debug("not shown")
    assert out.getvalue() == "level=warning container=web generation=3\n"


def test_nobody_forges_a_line(out: io.StringIO) -> None:
    logging.getLogger("wharfinger").info("text=%s", log.value('x"\nlevel=error \x1b[31m \udcff'))
    assert out.getvalue() == 'level=info text="x\\"\\\\nlevel=error \\\\x1b[31m \\\\udcff"\n'
    logging.getLogger("wharfinger").info("a\nb")
    assert out.getvalue().endswith("level=info a\\nb\n")


def test_long_text_is_cut(out: io.StringIO) -> None:
    logging.getLogger("wharfinger").info("text=%s", log.value("x" * 10_000))
    assert len(out.getvalue()) < 450
    logging.getLogger("wharfinger").info("y" * 10_000)
    assert len(out.getvalue()) < 2500


def test_a_trace_stays_on_its_line(out: io.StringIO) -> None:
    try:
        raise ZeroDivisionError("secret\n")
    except ZeroDivisionError:
        logging.getLogger("wharfinger").exception("container=web")
    assert out.getvalue().startswith("level=error container=web trace=")
    assert out.getvalue().count("\n") == 1
    assert "ZeroDivisionError" in out.getvalue()


def test_a_wrong_call_or_a_broken_stream_is_no_fault(out: io.StringIO) -> None:
    logging.getLogger("wharfinger").info("%d %d", "x")
    assert out.getvalue() == "level=info %d %d\n"
    out.close()
    logging.getLogger("wharfinger").info("nobody listens")


def test_values_and_fields() -> None:
    assert log.value("plain-1.2/x:y") == "plain-1.2/x:y"
    assert log.value("") == '""'
    assert log.value("two words") == '"two words"'
    assert log.fields(container="web", generation=3, gone=None, text="a b") == 'container=web generation=3 text="a b"'


def test_time_is_written_only_where_nobody_else_does() -> None:
    stream = io.StringIO()
    log.setup("debug", stream, {})
    logging.getLogger("wharfinger").debug("x")
    logging.getLogger("wharfinger").handlers.clear()
    assert stream.getvalue()[10] == "T"
    assert stream.getvalue().endswith("Z level=debug x\n")
