"""The socket: what is answered, what is refused, who is let in, and that nobody can hold the shim up."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC221, ASYNC240 (tests look at a real kernel)

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from config.errors import GoneError, HostError
from runtime import shim, wire
from tests.kernel.shimkit import Lab, killed_after, sh

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


@asynccontextmanager
async def running(lab: Lab, script: str = "sleep 1000") -> AsyncIterator[shim.Shim]:
    one = await lab.start(sh(lab.root, script))
    await one.hello()
    async with killed_after(one):
        yield one


def dial(lab: Lab) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(lab.run_dir / "sock"))
    sock.settimeout(5)
    return sock


def fds(one: shim.Shim) -> int:
    return len(os.listdir(f"/proc/{one.shim_pid}/fd"))


async def settled(one: shim.Shim, count: int) -> None:
    with anyio.fail_after(5):
        while fds(one) != count:
            await anyio.sleep(0.02)


async def test_hello_says_who_it_is_and_hands_out_the_fds(lab: Lab) -> None:
    async with running(lab) as one:
        found = await shim.connect(lab.run_dir)
        assert (found.generation, found.pid, found.started) == (one.generation, one.pid, one.started)
        assert f"Pid:\t{one.pid}\n" in Path(f"/proc/self/fdinfo/{found.pidfd}").read_text()
        links = {os.readlink(f"/proc/self/fd/{fd}") for fd in found.output}
        assert links == {os.readlink(f"/proc/{one.pid}/fd/{fd}") for fd in (1, 2)}
        found.close()


async def test_an_unknown_command_is_refused_and_nothing_breaks(lab: Lab) -> None:
    async with running(lab) as one:
        with dial(lab) as sock:
            for cmd in (0, 11, 99, 0x100, 0xFFFFFFFF):
                sock.send(wire.Req(cmd, 5).pack())
                rep = wire.Rep.unpack(sock.recv(4096))
                assert (rep.cmd, rep.seq, rep.err) == (cmd | wire.REPLY, 5, errno.ENOSYS)
        await one.hello()


@pytest.mark.parametrize("size", [1, 23, 25, 4096])
async def test_a_packet_of_another_size_drops_its_client_only(lab: Lab, size: int) -> None:
    async with running(lab) as one:
        before = fds(one)
        with dial(lab) as sock:
            sock.send(bytes(size))
            assert sock.recv(4096) == b""
        await one.hello()
        await settled(one, before)


async def test_fds_that_nobody_asked_for_are_closed(lab: Lab) -> None:
    async with running(lab) as one:
        before = fds(one)
        with dial(lab) as sock:
            await settled(one, before + 1)
            for count, err in ((1, 0), (4, 0)):
                socket.send_fds(sock, [wire.Req(wire.CMD_LOGSTAT, 1).pack()], [0] * count)
                assert wire.Rep.unpack(sock.recv(4096)).err == err
            await settled(one, before + 1)
            socket.send_fds(sock, [wire.Req(wire.CMD_LOGSTAT, 1).pack()], [0] * 60)  # more than there is room for
            assert sock.recv(4096) == b""
        await settled(one, before)


async def test_values_out_of_range_are_refused(lab: Lab) -> None:
    async with running(lab) as one:
        cases = [
            (wire.CMD_SIGNAL, 0, 0),
            (wire.CMD_SIGNAL, 65, 0),
            (wire.CMD_SIGNAL, 2**63, 0),
            (wire.CMD_SIGNALEXEC, 1, 2**32 + 9),
            (wire.CMD_LOGCONF, 1, 0),
            (wire.CMD_LOGCONF, 1, 2**40),
            (wire.CMD_EXEC, 0, 0),
        ]
        with dial(lab) as sock:
            for cmd, arg, arg2 in cases:
                sock.send(wire.Req(cmd, 9, arg, arg2).pack())
                assert wire.Rep.unpack(sock.recv(4096)).err == errno.EINVAL
            sock.send(wire.Req(wire.CMD_SIGNALEXEC, 9, 77, 9).pack())
            assert wire.Rep.unpack(sock.recv(4096)).err == errno.ESRCH
        assert not one.ended


async def test_clients_are_bounded_and_a_place_is_free_again(lab: Lab) -> None:
    async with running(lab) as one:
        many = [dial(lab) for _ in range(12)]
        try:
            served = 0
            for sock in many:
                try:
                    sock.send(wire.Req(wire.CMD_LOGSTAT, 1).pack())
                    served += bool(sock.recv(4096))
                except OSError:
                    pass
            assert served == 7  # and the daemon's own
            await one.hello()
        finally:
            for sock in many:
                sock.close()
        await anyio.sleep(0.1)
        (await shim.connect(lab.run_dir)).close()


async def test_only_root_is_let_in(lab: Lab) -> None:
    for path in [lab.run_dir, *list(lab.run_dir.parents)[:3]]:
        path.chmod(0o755)
    async with running(lab):
        assert (lab.run_dir / "sock").stat().st_mode & 0o777 == 0o600
        (lab.run_dir / "sock").chmod(0o666)
        script = f"""
import os, socket
os.setuid(12345)
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.settimeout(5)
s.connect({str(lab.run_dir / "sock")!r})
try:
    s.send({wire.Req(wire.CMD_SIGNAL, 1, 9).pack()!r})
    print(s.recv(100))
except OSError as e:
    print(b"")
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=20)
        assert done.stdout == b"b''\n"


async def test_a_listener_that_is_not_root_is_not_believed(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for path in list(tmp_path.parents)[:3]:
        path.chmod(0o755)
    script = f"""
import os, socket, time
os.setuid(12345)
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind({str(tmp_path / "sock")!r}); s.listen()
print("up", flush=True)
time.sleep(20)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as fake:
        assert fake.stdout is not None
        fake.stdout.readline()
        with pytest.raises(HostError, match="uid 12345"):
            await shim.connect(tmp_path)
        fake.kill()


async def test_no_shim_is_gone_and_said_so(tmp_path: Path) -> None:
    with pytest.raises(GoneError):
        await shim.connect(tmp_path / "none")
    with pytest.raises(GoneError):
        await shim.connect(tmp_path)
    (tmp_path / "sock").write_text("")
    with pytest.raises(GoneError):
        await shim.connect(tmp_path)
    (tmp_path / "sock").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / "sock"))
    with pytest.raises(GoneError):
        await shim.connect(tmp_path)


async def test_a_long_run_directory_path_is_no_obstacle(lab: Lab) -> None:
    deep = lab.run_dir / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    lab.run_dir = deep
    async with running(lab) as one:
        found = await shim.connect(deep)
        assert found.pid == one.pid
        found.close()


async def test_requests_of_several_tasks_do_not_mix(lab: Lab) -> None:
    async with running(lab) as one:

        async def ask() -> None:
            for _ in range(20):
                assert (await one.logstat()).errors == 0
                await one.hello()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(ask)


async def test_a_waiter_that_is_cancelled_hands_over_to_the_next(lab: Lab) -> None:
    async with running(lab) as one:
        records: list[shim.ExitRecord] = []

        async def wait() -> None:
            records.append(await one.wait_exit())

        async with anyio.create_task_group() as tasks:
            with anyio.move_on_after(0.1):
                tasks.start_soon(wait)
                await one.wait_exit()
            await one.signal(signal.SIGKILL)
        assert [r.status for r in records] == [9]


async def test_an_end_without_a_daemon_is_told_to_the_next_one(lab: Lab) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", lab.run_dir], check=True)
    try:
        one = await lab.start(sh(lab.root, "sleep 0.2; exit 8"))
        with suppress(OSError):
            (lab.run_dir / "filler").write_bytes(bytes(1 << 16))
        one.close()
        await anyio.sleep(0.6)
        found = await shim.connect(lab.run_dir)
        assert found.ended
        with anyio.fail_after(5):
            record = await found.wait_exit()
            await found.wait_gone()
        found.close()
        assert record.status == 8
        assert shim.read_exit(lab.run_dir) is None  # the disk is still full: told, so the shim could go
    finally:
        subprocess.run(["umount", "-l", lab.run_dir], check=True)
