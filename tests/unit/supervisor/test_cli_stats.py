"""stats and top: one table without a terminal, and on a terminal a page that leaves nothing behind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from supervisor.cli.top import Top
from supervisor.cli.usage import ordered
from tests.fixtures.fake_control import REPO, Served
from tests.fixtures.http import get
from tests.fixtures.wharfctl import Said, Wharfctl, program

MIB = 1 << 20
WEB = {
    "cpu": 0.523, "memory": 48 * MIB, "current": 50 * MIB, "memory_limit": 64 * MIB, "pids": 12, "io_read": 4096,
    "io_write": 0, "net_read": 1500, "net_write": 2 * MIB, "cpu_pressure": 0.0, "memory_pressure": 0.12,
    "io_pressure": None, "read": 10.0, "write": 0.0,
}  # fmt: skip
DB = {"cpu": 1.5, "memory": 8 * MIB, "pids": 3, "io_read": 0, "io_write": 0}


@pytest.fixture
def used(server: Served) -> Served:
    server.control.uses = {"web": WEB, "migrate": DB}
    return server


def test_a_table_of_what_is_used(used: Served, wharfctl: Wharfctl) -> None:
    head, *rows = wharfctl("stats").out.splitlines()
    assert head.split("  ")[0] == "NAME"
    (web,) = [row for row in rows if row.startswith("web ")]
    assert re.split(r"\s{2,}", web) == [
        "web", "RUNNING", "52.3", "48.0MiB / 64.0MiB", "75.0", "12", "1.5KiB / 2.0MiB", "4.0KiB / 0B", "0/12/-",
    ]  # fmt: skip
    (down,) = [row for row in rows if row.startswith("manual ")]
    assert re.split(r"\s{2,}", down) == ["manual", "STOPPED", "-", "-", "-", "-", "-", "-", "-"]
    assert [row.split()[0] for row in rows] == sorted(row.split()[0] for row in rows)


def test_names_json_and_what_is_not_known(used: Served, wharfctl: Wharfctl) -> None:
    said = wharfctl("stats", "web", "nosuch")
    assert (said.code, said.err) == (1, "nosuch: ERROR (no such container)\n")
    assert len(said.out.splitlines()) == 2
    found = json.loads(wharfctl("stats", "--no-stream", "--json", "web").out)
    assert [one["memory"] for one in found["stats"]] == [48 * MIB]
    assert found["unknown"] == []
    assert wharfctl("top", "--sort", "speed").code == 2
    assert wharfctl("top", "web").code == 2


def test_json_goes_on_line_by_line(used: Served) -> None:
    with program("stats", "--json", "web") as run:
        assert run.stdout is not None
        lines = [json.loads(run.stdout.readline()) for _ in range(2)]
        run.terminate()
    assert all(line["stats"][0]["name"] == "web" for line in lines)


@pytest.mark.parametrize(("word", "first"), [("cpu", "migrate"), ("memory", "web"), ("name", "db"), ("net", "web")])
def test_top_without_a_terminal_is_one_table_in_order(used: Served, wharfctl: Wharfctl, word: str, first: str) -> None:
    used.control.uses["db"] = {}
    used.control.states["db"] = used.control.states["web"]
    rows = wharfctl("top", "--sort", word).out.splitlines()[1:]
    assert rows[0].split()[0] == first


def test_the_api_bounds_what_a_recording_holds(used: Served) -> None:
    assert get(used, "/v1/containers/web/recording")[1]["name"] == "web"
    assert get(used, "/v1/containers/web/recording?seconds=60")[0] == 200
    assert get(used, "/v1/containers/web/recording?seconds=301")[0] == 200
    assert [asked[2] for asked in used.control.asked] == [300.0, 60.0, 300.0]
    for wrong in ("x", "-1", "1e9"):
        assert get(used, f"/v1/containers/web/recording?seconds={wrong}")[0] == 400
    assert get(used, "/v1/containers/nosuch/recording")[0] == 404
    assert get(used, "/v1/stats?names=web,../x")[1]["unknown"] == ["../x"]


# -- the page -----------------------------------------------------------------------------------


def page_of(count: int) -> Top:
    top = Top("n")
    rest = dict.fromkeys(("cpu", "io_read", "io_write", "net_read", "net_write", "pids", "memory_limit", "cpu_pressure",
                          "memory_pressure", "io_pressure"))  # fmt: skip
    top.rows = [{"name": f"c{n:02}", "state": "RUNNING", "memory": n, **rest} for n in range(count)]
    return top


def marked(top: Top, rows: int) -> str:
    (line,) = [line for line in top.lines(100, rows) if line.startswith("\2")]
    return line[1:4]


def test_the_mark_is_always_in_sight_and_stays_with_its_container() -> None:
    top = page_of(50)
    for key, name in (("down", "c01"), ("end", "c49"), ("down", "c49"), ("up", "c48"), ("home", "c00"), ("up", "c00"),
                      ("page down", "c13"), ("page up", "c00"), ("j", "c01")):  # fmt: skip
        marked(top, 20)
        top.key(key)
        assert marked(top, 20) == name
        assert len(top.lines(100, 20)) <= 20
    top.key("m")
    assert marked(top, 8) == "c01"
    top.rows = top.rows[5:]
    assert marked(top, 20) == "c49"  # it is gone: the first one, and by memory that is the largest
    assert page_of(0).lines(80, 24)[1].startswith("\1NAME")


def test_what_is_unknown_comes_last_in_every_order() -> None:
    rows = page_of(3).rows
    rows = [dict(rows[0]), {**rows[1], "cpu": 0.0}, {**rows[2], "cpu": 0.5}]
    assert [one["name"] for one in ordered(rows, "c")] == ["c02", "c01", "c00"]


# -- a real terminal ----------------------------------------------------------------------------


@dataclass
class Terminal:
    run: subprocess.Popen[bytes]
    fd: int
    other: int
    seen: str = ""

    def until(self, text: str, limit: float = 15.0) -> str:
        """What was written up to and with `text`; the rest is kept."""
        deadline = time.monotonic() + limit
        while text not in self.seen:
            if not select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"no {text!r} in {self.seen!r}")
            self.seen += os.read(self.fd, 65536).decode()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def frame(self) -> list[str]:
        """The lines of the next page, without styles."""
        found = self.until("\x1b[J")
        return [re.sub(r"\x1b\[[?0-9]*[a-zA-Z]|\r", "", line) for line in found.split("\n")]

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.other, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


@contextmanager
def terminal(*argv: str, term: str = "xterm") -> Iterator[Terminal]:
    """wharfctl as the foreground job of a pty; its modes must be as before in the end."""
    fd, other = pty.openpty()
    before = termios.tcgetattr(other)
    run = subprocess.Popen(
        [sys.executable, "-c", "import sys; from supervisor.cli.main import main; sys.exit(main())", *argv],
        stdin=other, stdout=other, stderr=other, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**os.environ, "PYTHONPATH": str(REPO), "TERM": term, "PYTHONUTF8": "1"},
    )  # fmt: skip
    page = Terminal(run, fd, other)
    page.resize(100, 30)
    try:
        yield page
        assert termios.tcgetattr(other) == before
    finally:
        if run.poll() is None:
            run.kill()
            run.wait()
        os.close(fd)
        os.close(other)


LEFT = "\x1b[?25h\x1b[?1049l"


def test_top_lives_takes_keys_and_leaves_the_terminal_as_it_was(used: Served) -> None:
    used.control.samples = {
        "times": [1.0, 2.0, 3.0], "cpu_usec": [0, 500_000, 600_000], "memory": [MIB, None, 3 * MIB],
    }  # fmt: skip
    with terminal("top") as page:
        first = page.until("\x1b[J")
        assert first.startswith("\x1b[?1049h\x1b[?25l")
        assert "\x1b[7mmigrate" in first  # the largest user of a processor
        assert "cpu             █▂" in first
        looks = used.control.looks
        page.type("m")
        page.until("by memory")
        page.type("\x1b[A\x1b[A\x1b[A")
        page.until("\x1b[7mweb")
        page.until("\x1b[J")
        page.resize(40, 6)
        lines = page.frame()
        while len(lines) > 6:  # one that was on its way
            lines = page.frame()
        assert max(map(len, lines)) <= 40
        while used.control.looks == looks:  # nobody types: each second has a page
            page.until("\x1b[J")
        page.type("q")
        page.until(LEFT)
        assert page.run.wait(10) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_a_signal_leaves_the_terminal_as_it_was(used: Served, number: signal.Signals, code: int) -> None:
    with terminal("stats") as page:
        assert "\x1b[7m" not in page.until("\x1b[J")
        page.run.send_signal(number)
        page.until(LEFT)
        assert page.run.wait(10) == code


def test_ctrl_z_does_not_stop_it_and_ctrl_c_ends_it(used: Served) -> None:
    with terminal("top") as page:
        page.until("\x1b[J")
        page.type("\x1a\x03")
        page.until(LEFT)
        assert page.run.wait(10) == 0


def test_a_dumb_terminal_gets_one_table(used: Served) -> None:
    with terminal("top", term="dumb") as page:
        shown = page.until("PRESSURE")
        assert page.run.wait(10) == 0
        assert "\x1b" not in shown + page.seen


def test_without_a_daemon_it_does_not_begin(wharfctl: Wharfctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHARFINGER_SOCKET", "/nonexistent/control.sock")
    said = wharfctl("top")
    assert said == Said(7, "", "unix:///nonexistent/control.sock no such file (is wharfingerd running?)\n")
    with terminal("top") as page:
        page.until("is wharfingerd running?")
        assert page.run.wait(10) == 7
