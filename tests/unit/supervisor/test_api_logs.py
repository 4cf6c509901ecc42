"""Logs of the API: whole lines, any bytes, over rotations without gap or duplicate (moby#37646, Supervisor#638)."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.api.cri import LONGEST_LINE, Joiner, Line, parse
from supervisor.api.logs import BLOCK, Files, Wanted, directory, read

ALL, FOLLOW = Wanted(), Wanted(follow=True)
STAMP = "2026-11-25T07:04:04.123456789Z"


def line(text: bytes | str, stream: str = "stdout", tag: str = "F") -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return f"{STAMP} {stream} {tag} ".encode() + raw + b"\n"


class Log:
    """Writes and rotates as the shim does."""

    def __init__(self, folder: Path, max_files: int = 3) -> None:
        self.folder = folder
        self.max_files = max_files

    @property
    def current(self) -> Path:
        return self.folder / "current.log"

    def write(self, data: bytes) -> None:
        with self.current.open("ab") as file:
            file.write(data)

    def rotate(self) -> None:
        last = self.folder / f"current.log.{self.max_files - 1}"
        last.unlink(missing_ok=True)
        for index in range(self.max_files - 2, 0, -1):
            old = self.folder / f"current.log.{index}"
            if old.exists():
                old.rename(self.folder / f"current.log.{index + 1}")
        if self.max_files > 1:
            self.current.rename(self.folder / "current.log.1")
        else:
            self.current.unlink()
        self.current.touch()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def shown(folder: Path, wanted: Wanted = ALL) -> bytes:
    async def main() -> bytes:
        return b"".join([piece async for piece in read(folder, wanted)])

    return anyio.run(main, backend="trio")


def texts(folder: Path, wanted: Wanted = ALL) -> list[str]:
    return shown(folder, wanted).decode().splitlines()


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- lines --------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=200).map(lambda b: b.replace(b"\n", b"")), max_size=20), st.integers(1, 400))
def test_any_bytes_come_through_in_any_pieces(lines: list[bytes], step: int) -> None:
    data = b"".join(line(text) for text in lines)
    joiner = Joiner()
    found = [one for at in range(0, len(data), step) for one in joiner.feed(data[at : at + step])]
    found += joiner.finish()
    assert [one.text for one in found] == lines


def test_pieces_of_a_long_line_are_joined_by_stream() -> None:
    joiner = Joiner()
    data = line("a", tag="P") + line("X", "stderr", "P") + line("b", tag="P") + line("c") + line("Y", "stderr")
    assert list(joiner.feed(data)) == [Line(STAMP, "stdout", b"abc"), Line(STAMP, "stderr", b"XY")]


def test_pieces_without_an_end_come_at_the_end() -> None:
    joiner = Joiner()
    assert list(joiner.feed(line("hello", tag="P") + b"torn")) == []
    assert [one.text for one in joiner.finish()] == [b"hellotorn"]


def test_a_line_without_end_is_shown_in_pieces_and_not_held() -> None:
    joiner = Joiner()
    piece = line("x" * 16384, tag="P")
    found = [one for _ in range(200) for one in joiner.feed(piece)]
    assert [len(one.text) for one in found] == [LONGEST_LINE + 16384] * 3
    assert sum(len(one.text) for one in joiner.feed(b"z" * (LONGEST_LINE + 1))) > LONGEST_LINE


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"no format at all\n", b"no format at all"), (b"a b c\n", b"a b c"), (b"t stdwhat F x\n", b"t stdwhat F x"),
        (b"\xff stdout F x\n", b"\xff stdout F x"), (b"\n", b""), (b"\0\0\0" + line("x"), b"x"),
    ],
)  # fmt: skip
def test_what_is_no_log_line_is_shown_as_it_is(raw: bytes, text: bytes) -> None:
    assert parse(raw).text == text


# -- tails --------------------------------------------------------------------------------------


def test_nothing_written_nothing_shown(tmp_path: Path) -> None:
    assert shown(tmp_path) == b""
    assert shown(tmp_path / "missing", Wanted(tail=5)) == b""


def test_all_files_are_shown_oldest_first(log: Log) -> None:
    for number in range(30):
        log.write(line(f"n{number}"))
        if number in (9, 19):
            log.rotate()
    assert texts(log.folder) == [f"n{n}" for n in range(30)]
    for count in (0, 1, 9, 10, 11, 20, 25, 30, 31, 1000):
        assert texts(log.folder, Wanted(tail=count)) == [f"n{n}" for n in range(30)][30 - min(count, 30) :], count


def test_a_tail_counts_whole_lines_of_the_wanted_stream(log: Log) -> None:
    log.write(line("one") + line("e1", "stderr") + line("tw", tag="P") + line("o") + line("e2", "stderr"))
    assert texts(log.folder, Wanted(tail=2)) == ["two", "e2"]
    assert texts(log.folder, Wanted(tail=1, stream="stdout")) == ["two"]
    assert texts(log.folder, Wanted(tail=5, stream="stderr")) == ["e1", "e2"]


def test_a_tail_of_bytes_begins_at_a_line(log: Log) -> None:
    log.write(b"".join(line(f"line {n:03d}") for n in range(100)))  # 9 bytes each with the newline
    assert texts(log.folder, Wanted(tail_bytes=27)) == ["line 097", "line 098", "line 099"]
    assert texts(log.folder, Wanted(tail_bytes=35)) == ["line 097", "line 098", "line 099"]
    assert texts(log.folder, Wanted(tail_bytes=1)) == ["line 099"], "at least one"
    assert len(texts(log.folder, Wanted(tail_bytes=10**6))) == 100


def test_tails_of_large_files_are_found_from_the_end(log: Log) -> None:
    luck = random.Random(3)
    lines = [f"{n} " + "x" * luck.choice([0, 10, 5000, 16000]) for n in range(400)]
    log.write(b"".join(line(text) for text in lines))
    assert log.current.stat().st_size > 10 * BLOCK
    for count in (1, 7, 100, 399, 400):
        assert texts(log.folder, Wanted(tail=count)) == lines[-count:]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=40), st.integers(0, 45))
def test_a_tail_is_the_end_of_all(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, bool]], n: int
) -> None:
    log = Log(tmp_path_factory.mktemp("log"), max_files=100)
    for number, (size, rotates) in enumerate(rows):
        log.write(line(f"{number}-" + "\r" * size))
        if rotates:
            log.rotate()
    everything = shown(log.folder).split(b"\n")[:-1]
    assert len(everything) == len(rows)
    assert shown(log.folder, Wanted(tail=n)).split(b"\n")[:-1] == everything[max(0, len(rows) - n) :]


def test_an_unfinished_line_and_a_hole_of_a_power_cut(log: Log) -> None:
    log.write(line("before") + b"\0" * 300 + line("after") + f"{STAMP} stdout F unfin".encode())
    assert texts(log.folder) == ["before", "after", "unfin"]
    assert texts(log.folder, Wanted(tail=2)) == ["after", "unfin"]
    log.rotate()
    log.write(line("next run"))
    assert texts(log.folder) == ["before", "after", "unfin", "next run"]


def test_garbage_without_a_newline_is_not_held_in_memory(log: Log) -> None:
    log.write(b"\xff" * (5 << 20))
    assert len(shown(log.folder, Wanted(tail=3))) < 3 << 20
    log.write(b"\n" + line("end"))
    assert shown(log.folder, Wanted(tail=1)) == b"end\n"


def test_binary_is_raw_in_text_and_escaped_in_json(log: Log) -> None:
    raw = b"caf\xc3\xa9 \x88 \x1b[31m \0"
    log.write(line(raw, "stderr") + line("plain"))
    assert shown(log.folder) == raw + b"\nplain\n"
    one, two = (json.loads(row) for row in shown(log.folder, Wanted(json=True)).splitlines())
    assert one["text"] == "caf\u00e9 \\x88 \x1b[31m \0"
    assert base64.b64decode(one["base64"]) == raw
    assert two == {"time": STAMP, "stream": "stdout", "text": "plain"}
    assert texts(log.folder, Wanted(tail=1, timestamps=True)) == [f"{STAMP} plain"]


def test_a_link_in_the_log_directory_is_not_followed(log: Log) -> None:
    (log.folder / "secret").write_bytes(line("secret"))
    log.current.symlink_to(log.folder / "secret")
    with pytest.raises(OSError, match="symbolic"):
        shown(log.folder)


def test_the_directory_is_found_by_the_current_file() -> None:
    assert directory("/var/log/w/web/current.log") == directory("/var/log/w/web") == Path("/var/log/w/web")


# -- following ----------------------------------------------------------------------------------


class Follower:
    """Follows in a thread of its own until it has seen `last`."""

    def __init__(self, folder: Path, last: str, wanted: Wanted = FOLLOW) -> None:
        self.lines: list[str] = []
        self._folder, self._last, self._wanted = folder, last, wanted
        self.started = threading.Event()
        self._thread = threading.Thread(target=lambda: anyio.run(self._main, backend="trio"))
        self._thread.start()
        self.started.wait(5)

    async def _main(self) -> None:
        stream = read(self._folder, self._wanted)
        with anyio.move_on_after(15):
            self.started.set()
            async for piece in stream:
                self.lines += piece.decode().splitlines()
                if self._last in self.lines:
                    break
        await stream.aclose()  # type: ignore[attr-defined]

    def end(self) -> list[str]:
        self._thread.join()
        return self.lines


@pytest.mark.parametrize("max_files", [2, 3])
def test_following_over_rotations_has_no_gap_and_no_duplicate(tmp_path: Path, max_files: int) -> None:
    log = Log(tmp_path, max_files)
    before = fds()
    log.write(line("0"))
    follower = Follower(tmp_path, "499")
    for number in range(1, 500):
        log.write(line(str(number)))
        if number % 20 == 0:
            while len(follower.lines) < number - (max_files - 2) * 20:  # no reader can show what is removed
                time.sleep(0.001)
            log.rotate()
    assert [int(n) for n in follower.end()] == sorted(set(map(int, follower.lines)))
    assert follower.lines == [str(n) for n in range(500)]
    assert fds() <= before + 1


def test_following_a_single_file_that_is_replaced(tmp_path: Path) -> None:
    """max_files 1: what was not read in time is gone, and nothing comes twice."""
    log = Log(tmp_path, 1)
    log.write(line("0"))
    follower = Follower(tmp_path, "9")
    for number in range(1, 10):
        time.sleep(0.1)
        log.rotate()
        log.write(line(str(number)))
    found = [int(n) for n in follower.end()]
    assert found == sorted(set(found))
    assert found[-1] == 9


def test_following_a_tail_goes_on_from_there(log: Log) -> None:
    log.write(b"".join(line(str(n)) for n in range(100)))
    follower = Follower(log.folder, "100", Wanted(follow=True, tail=2))
    time.sleep(0.2)
    log.write(line("100"))
    assert follower.end() == ["98", "99", "100"]


def test_following_before_anything_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    follower = Follower(folder, "first")
    time.sleep(0.1)
    folder.mkdir()
    Log(folder).write(line("first"))
    assert follower.end() == ["first"]


def test_a_truncated_file_is_read_anew(log: Log) -> None:
    log.write(line("one") + line("two"))
    follower = Follower(log.folder, "three")
    time.sleep(0.2)
    os.truncate(log.current, 0)
    log.write(line("three"))
    assert follower.end() == ["one", "two", "three"]


def test_a_line_is_shown_when_its_last_piece_is_there(log: Log) -> None:
    log.write(line("be", tag="P"))
    follower = Follower(log.folder, "begin")
    time.sleep(0.2)
    assert follower.lines == []
    log.write(line("gin"))
    assert follower.end() == ["begin"]


def _interleave(steps: list[Callable[[], object]], reader: Files, luck: random.Random) -> bytes:
    data = b""
    for step in steps:
        step()
        for _ in range(luck.randrange(3)):
            data += reader.read()
    while piece := reader.read():
        data += piece
    return data


@pytest.mark.parametrize("seed", range(40))
def test_any_interleaving_of_reads_and_rotations(tmp_path: Path, seed: int) -> None:
    """Single steps of a rotation, with reads in between: the reader sees every line of kept files once, in order."""
    luck = random.Random(seed)
    log = Log(tmp_path, 50)
    count = itertools.count()
    steps: list[Callable[[], object]] = []

    def renames(index: int) -> Callable[[], object]:
        def step() -> None:
            old = tmp_path / (f"current.log.{index}" if index else "current.log")
            if old.exists():
                old.rename(tmp_path / f"current.log.{index + 1}")

        return step

    for _ in range(12):
        steps += [lambda: log.write(line(str(next(count))))] * luck.randrange(4)
        if luck.random() < 0.6:
            steps += [renames(index) for index in range(14, -1, -1)]
            steps.append(log.current.touch)
    log.current.touch()
    reader = Files(tmp_path)
    reader.open(None)
    found = [parse(raw).text for raw in _interleave(steps, reader, luck).split(b"\n")[:-1]]
    reader.close()
    assert found == [str(n).encode() for n in range(next(count))]
