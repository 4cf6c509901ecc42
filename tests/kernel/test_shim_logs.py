"""The container's output: nothing lost or torn, bounded on disk and in memory, never a reason for it to stop."""

# ruff: noqa: ASYNC110, ASYNC221, ASYNC240 (tests look at a real kernel)

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from runtime import shim, wire
from runtime.outputpage import OutputPage
from tests.kernel.shimkit import SANITIZED, Lab, parse_line, sh

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]

LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] ")


def files(lab: Lab) -> list[Path]:
    """Oldest first."""
    return sorted(lab.log_dir.iterdir(), key=lambda p: -int(p.suffix[1:]) if p.suffix != ".log" else 1)


def raw(path: Path) -> bytes:
    """What was written, put together again."""
    out = b""
    for line in path.read_bytes().split(b"\n")[:-1]:
        head = LINE.match(line)
        assert head, line[:80]
        out += line[head.end() :] + (b"\n" if head[0][-2:-1] == b"F" else b"")
    return out


async def test_lines_have_time_stream_and_tag(lab: Lab) -> None:
    before = subprocess.run(
        ["date", "-u", "+%Y-%m-%dT%H:%M"], capture_output=True, text=True, check=True
    ).stdout.strip()
    await lab.run(sh(lab.root, "echo out; echo err >&2; echo; echo ' two  spaces '"))
    lines = [parse_line(line) for line in lab.log.read_text().splitlines()]
    assert [x for x in lines if x[0] == "stdout"] == [
        ("stdout", "F", "out"),
        ("stdout", "F", ""),
        ("stdout", "F", " two  spaces "),
    ]
    assert ("stderr", "F", "err") in lines
    assert lab.log.read_text()[:16] >= before
    assert (lab.log.stat().st_mode & 0o777) == 0o640


async def test_any_bytes_are_kept(lab: Lab) -> None:
    content = bytes(range(256)) * 300
    (lab.root / "etc/binary").write_bytes(content)
    await lab.run(sh(lab.root, "cat /etc/binary"))
    assert raw(lab.log) == content + b"\n"  # its end has no newline


async def test_a_last_line_without_its_end_is_kept_and_finished(lab: Lab) -> None:
    await lab.run(sh(lab.root, "printf 'no end'"))
    assert parse_line(lab.log.read_text().rstrip("\n")) == ("stdout", "F", "no end")


async def test_a_huge_line_is_cut_to_chunks(lab: Lab) -> None:
    size = 3 * 16384 + 5
    await lab.run(sh(lab.root, f"head -c {size} /dev/zero | tr '\\0' x"))
    lines = [parse_line(line) for line in lab.log.read_text().splitlines()]
    assert [(tag, len(text)) for _, tag, text in lines] == [("P", 16384)] * 3 + [("F", 5)]


async def test_chunks_that_end_at_the_buffers_end_are_finished(lab: Lab) -> None:
    await lab.run(sh(lab.root, "head -c 16384 /dev/zero | tr '\\0' x; echo; echo next"))
    lines = [parse_line(line) for line in lab.log.read_text().splitlines()]
    assert [(tag, len(text)) for _, tag, text in lines] == [("P", 16384), ("F", 0), ("F", 4)]


async def test_half_a_line_is_not_held_for_ever(lab: Lab) -> None:
    running = await lab.start(sh(lab.root, "printf 'password: '; sleep 3; echo now; sleep 1000"))
    with anyio.fail_after(15):
        while not lab.log.exists():
            await anyio.sleep(0.05)
        assert parse_line(lab.log.read_text().rstrip("\n")) == ("stdout", "P", "password: ")
        while "now" not in lab.log.read_text():
            await anyio.sleep(0.05)
        await running.signal(signal.SIGKILL)
        await running.wait_gone()
    running.close()
    assert lab.text() == "password: now\n"


async def test_it_rotates_by_size_and_keeps_so_many(lab: Lab) -> None:
    await lab.run(sh(lab.root, "seq 1 20000"), max_size=64 << 10, max_files=3)
    found = files(lab)
    assert [p.name for p in found] == ["current.log.2", "current.log.1", "current.log"]
    assert all(p.stat().st_size <= 64 << 10 for p in found)
    numbers = [int(x) for p in found for x in raw(p).split()]
    assert numbers == list(range(numbers[0], 20001))  # no line lost or twice, the newest kept


async def test_one_file_begins_anew(lab: Lab) -> None:
    await lab.run(sh(lab.root, "seq 1 5000"), max_size=32 << 10, max_files=1)
    assert [p.name for p in files(lab)] == ["current.log"]
    assert lab.log.stat().st_size <= 32 << 10
    assert raw(lab.log).split()[-1] == b"5000"


async def test_limits_change_at_once_and_counters_add_up(lab: Lab) -> None:
    running = await lab.start(sh(lab.root, "while [ ! -e /etc/go ]; do sleep 0.05; done; seq 1 20000; sleep 1000"))
    await running.logconf(32 << 10, 2)
    (lab.root / "etc/go").write_text("")
    with anyio.fail_after(20):
        while (stat := await running.logstat()).lines < 20000:
            await anyio.sleep(0.05)
    assert (stat.size, stat.dropped, stat.errors) == (sum(len(f"{i}\n") for i in range(1, 20001)), 0, 0)
    assert [p.name for p in files(lab)] == ["current.log.1", "current.log"]
    await stop(running)


async def test_a_file_that_was_moved_away_is_begun_anew_on_reopen(lab: Lab) -> None:
    running = await lab.start(
        sh(lab.root, "echo one; while [ ! -e /etc/go ]; do sleep 0.05; done; echo two; sleep 1000")
    )
    with anyio.fail_after(10):
        while not lab.log.exists():
            await anyio.sleep(0.02)
        lab.log.rename(lab.log_dir / "moved")
        await running.reopen()
        (lab.root / "etc/go").write_text("")
        while "two" not in lab.text():
            await anyio.sleep(0.02)
    assert raw(lab.log_dir / "moved") == b"one\n"
    await stop(running)


async def test_a_torn_last_line_of_a_killed_writer_is_closed(lab: Lab) -> None:
    lab.log.write_text("2026-01-01T00:00:00.000000000Z stdout F to")
    await lab.run(sh(lab.root, "echo next"))
    assert [parse_line(x)[2] for x in lab.log.read_text().splitlines()] == ["to", "next"]


@pytest.fixture
def small_disk(lab: Lab) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", lab.log_dir], check=True)
    try:
        yield lab.log_dir
    finally:
        subprocess.run(["umount", "-l", lab.log_dir], check=True)


async def test_a_full_disk_never_stops_the_container(lab: Lab, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(64 << 10))
    script = "seq 1 30000; echo done > /etc/done; while [ ! -e /etc/go ]; do sleep 0.05; done; echo after; sleep 1000"
    running = await lab.start(sh(lab.root, script))
    with anyio.fail_after(20):
        while not (lab.root / "etc/done").exists():
            await anyio.sleep(0.05)
        await anyio.sleep(0.2)
        stat = await running.logstat()
        assert stat.dropped > 0
        assert stat.errors > 0
        assert stat.size + stat.dropped == sum(len(f"{i}\n") for i in range(1, 30001))  # exact
        kept = raw(lab.log)
        assert kept == b"".join(b"%d\n" % i for i in range(1, stat.lines + 1))  # whole lines, the first ones
        (small_disk / "filler").unlink()
        (lab.root / "etc/go").write_text("")
        while "after" not in lab.text():
            await anyio.sleep(0.05)
    marker = lab.text().splitlines()[-2]
    assert marker == f"wharf-shim: {stat.dropped} bytes of output dropped, errno 28"
    await stop(running)


async def test_no_log_directory_never_stops_the_container(lab: Lab) -> None:
    lab.log_dir.rmdir()
    lab.log_dir.mkdir()
    running = await lab.start(sh(lab.root, "while [ ! -e /etc/go ]; do sleep 0.05; done; seq 1 30000; exit 3"))
    lab.log_dir.rmdir()  # unlinked under the shim: no file can be made in it
    (lab.root / "etc/go").write_text("")
    with anyio.fail_after(20):
        assert (await running.wait_exit()).status == 3
        await running.wait_gone()
    running.close()
    lab.log_dir.mkdir()


async def test_a_flood_costs_bounded_memory_and_disk(lab: Lab) -> None:
    running = await lab.start(sh(lab.root, "yes | head -c 30000000; sleep 1000"), max_size=1 << 20, max_files=3)
    await running.hello()
    with anyio.fail_after(60):
        while (stat := await running.logstat()).size < 30000000:
            await anyio.sleep(0.1)
    assert stat.dropped == 0
    assert sum(p.stat().st_size for p in files(lab)) <= 3 << 20
    rollup = Path(f"/proc/{running.shim_pid}/smaps_rollup").read_text()
    assert int(re.search(r"Pss_Anon: +(\d+)", rollup)[1]) <= 200 or SANITIZED  # type: ignore[index]
    await stop(running)


async def test_a_client_that_does_not_read_does_not_stop_anything(lab: Lab) -> None:
    running = await lab.start(sh(lab.root, "while :; do sleep 0.05; echo tick; done"))
    other = await shim.connect(lab.run_dir)
    dropped = False
    while not dropped:
        try:
            other._sock.send(wire.Req(wire.CMD_LOGSTAT, 1).pack())
        except BlockingIOError:
            await anyio.sleep(0.001)
        except (BrokenPipeError, ConnectionResetError):
            dropped = True
    with anyio.fail_after(10):
        before = (await running.logstat()).lines
        while (await running.logstat()).lines < before + 3:
            await anyio.sleep(0.05)
    other.close()
    await stop(running)


async def test_an_idle_shim_never_wakes_up(lab: Lab) -> None:
    running = await lab.start(sh(lab.root, "printf 'half a line'; sleep 1000"))
    await running.hello()
    with anyio.fail_after(10):
        while not lab.log.exists():
            await anyio.sleep(0.1)
    await anyio.sleep(0.3)
    before = switches(running.shim_pid)
    await anyio.sleep(2.5)
    assert switches(running.shim_pid) == before
    await stop(running)


def switches(pid: int | None) -> int:
    return sum(int(x) for x in re.findall(r"ctxt_switches:\t(\d+)", Path(f"/proc/{pid}/status").read_text()))


async def stop(running: shim.Shim) -> None:
    await running.signal(signal.SIGKILL)
    with anyio.fail_after(10):
        await running.wait_gone()
    running.close()


async def test_output_is_counted_for_others_over_runs_and_nobody_is_woken_to_tell(lab: Lab) -> None:
    page = OutputPage()
    lab.extra_fds[wire.TAG_COUNTS] = page.fd
    await lab.run(sh(lab.root, "echo 12345; echo 12345"))
    assert (page.read().size, page.read().lines) == (12, 2)
    lab.generation = 2
    running = await lab.start(sh(lab.root, "echo 12345; sleep 1000"))
    await running.hello()
    with anyio.fail_after(10):
        while page.read().lines < 3:
            await anyio.sleep(0.01)
    before = switches(running.shim_pid)
    for _ in range(100):
        assert page.read().size == 18
    assert switches(running.shim_pid) <= before + 1  # on its way to sleep, perhaps, after the line that was counted
    again = OutputPage(await running.counts())  # a later daemon
    page.close()
    assert again.read().size == 18
    again.close()
    await stop(running)


async def test_a_page_that_could_be_cut_off_is_not_counted_into(lab: Lab) -> None:
    fd = os.memfd_create("open", os.MFD_CLOEXEC)
    os.truncate(fd, 4096)
    lab.extra_fds[wire.TAG_COUNTS] = fd
    await lab.run(sh(lab.root, "echo hello"))
    assert os.pread(fd, 32, 0) == bytes(32)
    assert lab.text() == "hello\n"
    os.close(fd)
