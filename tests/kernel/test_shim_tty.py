"""Terminals of a container, and clients attached to it."""

# ruff: noqa: ASYNC110 (tests look at a real kernel)

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest

from config.errors import LaunchError, RefusedError
from runtime import shim, wire
from runtime.wire import Op, op
from tests.kernel import shimkit
from tests.kernel.shimkit import Lab, exec_ops, killed_after, root_ops, self_ops

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


def console(lab: Lab, script: str) -> list[Op]:
    extra = [op("CONSOLE", rows=24, columns=80), shimkit.node("/dev/tty", 0, 5)]
    return [*root_ops(lab.root, extra=extra), *self_ops(), *exec_ops("/bin/sh", "-c", script)]


def plain(lab: Lab, script: str) -> list[Op]:
    return [*root_ops(lab.root), *self_ops(), *exec_ops("/bin/sh", "-c", script)]


@asynccontextmanager
async def running(lab: Lab, ops: list[Op], stdin: bool = False) -> AsyncIterator[shim.Shim]:
    spare = await shim.spawn_shim(lab.shim_path)
    with lab.request() as request:
        request = shim.StartRequest(request.name, request.generation, 0, 1, True, request.fds, stdin)
        one = await spare.start(wire.encode(ops), request)
    async with killed_after(one):
        yield one


async def attach(one: shim.Shim) -> tuple[socket.socket, shim.Attached]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with theirs:
        return ours, await one.attach(theirs.fileno())


async def read_until(sock: socket.socket, text: bytes) -> bytes:
    seen = b""
    with anyio.fail_after(10):
        while text not in seen:
            await anyio.wait_readable(sock)
            packet = sock.recv(65536)
            assert packet, seen
            seen += packet[1:]
    return seen


async def see(lab: Lab, text: str) -> None:
    with anyio.fail_after(10):
        while text not in lab.text():
            await anyio.sleep(0.02)


async def test_init_has_a_terminal_of_its_own_and_it_is_logged(lab: Lab) -> None:
    script = "test -t 0 && test -t 1 && test -t 2 && echo three; echo dev > /dev/tty; echo con > /dev/console; "
    script += "ls -l /proc/self/fd | grep -c pts/0; ls -l /proc/self/fd | grep -c ptmx; sleep 1000"
    async with running(lab, console(lab, script)) as one:
        await see(lab, "con")
        assert lab.text().replace("\r", "").split()[:3] == ["three", "dev", "con"]
        assert fcntl.ioctl(one.output[0], termios.TIOCGWINSZ, bytes(8))[:4] == struct.pack("HH", 24, 80)
        await one.resize(50, 132)
        assert fcntl.ioctl(one.output[0], termios.TIOCGWINSZ, bytes(8))[:4] == struct.pack("HH", 50, 132)
        with pytest.raises(RefusedError):
            await one.close_stdin()
    assert "three\r" in lab.text()


async def test_dev_console_is_a_mount_of_the_pty_and_a_link_there_is_refused(lab: Lab) -> None:
    async with running(lab, console(lab, "grep console /proc/self/mountinfo; stat -c %t:%T /dev/console; sleep 1000")):
        await see(lab, "88:0")
        assert " - devpts " in lab.text()
    bad = console(lab, "true")
    at = next(i for i, one in enumerate(bad) if one.name == "CONSOLE")
    bad.insert(at, op("SYMLINK", target="/etc/passwd", path="/dev/console"))
    before = (lab.root / "etc/passwd").read_bytes()
    lab.generation = 2
    with pytest.raises(LaunchError) as caught:
        await lab.start(bad)
    assert (caught.value.operation, caught.value.path) == ("CONSOLE", "/dev/console")
    assert (lab.root / "etc/passwd").read_bytes() == before


async def test_a_client_types_into_the_terminal_and_sees_it(lab: Lab) -> None:
    async with running(lab, console(lab, "while read line; do echo got $line; done"), stdin=True) as one:
        sock, found = await attach(one)
        with sock:
            assert found == shim.Attached(tty=True, stdin=True)
            sock.send(wire.ATTACH_SIZE + struct.pack("<HH", 10, 20))
            sock.send(wire.ATTACH_INPUT + b"hello\n")
            await read_until(sock, b"got hello")
            assert fcntl.ioctl(one.output[0], termios.TIOCGWINSZ, bytes(8))[:4] == struct.pack("HH", 10, 20)
            sock.send(wire.ATTACH_INPUT + b"\x04")
            end = await read_until(sock, b"\x01\x00")
            assert end.endswith(b"\x01\x00")


async def test_a_stdin_pipe_is_written_by_clients_and_closed_by_command(lab: Lab) -> None:
    async with running(lab, plain(lab, "cat; echo end; sleep 1000"), stdin=True) as one:
        sock, found = await attach(one)
        with sock:
            assert found == shim.Attached(tty=False, stdin=True)
            sock.send(wire.ATTACH_INPUT + b"one\n")
            await read_until(sock, b"one")
        with pytest.raises(RefusedError):
            await one.resize(1, 1)
        await one.close_stdin()
        await see(lab, "end")


@pytest.mark.parametrize("size", [4097, 4098, 60_000])
async def test_a_client_that_sends_more_than_there_is_room_for_is_dropped(lab: Lab, size: int) -> None:
    """4096 bytes of input a packet; the container reads none of them, so they would all be kept."""
    async with running(lab, plain(lab, "echo ready; sleep 1000"), stdin=True) as one:
        await see(lab, "ready")
        sock, _ = await attach(one)
        with sock:
            for _ in range(16):  # a full pipe
                sock.send(wire.ATTACH_INPUT + bytes(4096))
            sock.send(wire.ATTACH_INPUT + bytes(size))
            sock.settimeout(10)
            while sock.recv(65536):
                pass
        other, _ = await attach(one)
        other.close()
        await one.hello()


async def test_a_client_that_does_not_read_is_dropped_and_the_container_goes_on(lab: Lab) -> None:
    script = "head -c 6000000 /dev/zero | tr '\\0' 'x'; echo; echo done"
    async with running(lab, plain(lab, f"cat > /dev/null; {script}"), stdin=True) as one:
        sock, _ = await attach(one)
        await one.close_stdin()
        with anyio.fail_after(30):
            await one.wait_gone()
        with sock:
            last = b""
            while packet := sock.recv(65536):
                last = packet
            assert last[:1] == wire.ATTACH_STDOUT, "no word of the end: it was dropped before"
    assert "done" in lab.text()


async def test_a_container_that_does_not_read_holds_its_writer_only(lab: Lab) -> None:
    async with running(lab, plain(lab, "sleep 1000"), stdin=True) as one:
        sock, _ = await attach(one)
        with sock:
            sent = 0
            with suppress(BlockingIOError):
                while sent < 1000:
                    sock.send(wire.ATTACH_INPUT + bytes(4096))
                    sent += 1
            assert sent < 1000
            await one.hello()


async def test_an_exec_has_a_terminal_of_its_own_that_ends_with_its_client(lab: Lab) -> None:
    async with running(lab, plain(lab, "sleep 1000")) as one:
        ops = [op("JOIN", flags=shimkit.NAMESPACES), op("CONSOLE", rows=7, columns=9), *self_ops()]
        process = await one.exec(wire.encode([*ops, *exec_ops("sh", "-c", "test -t 0 && echo yes; exec cat")]))
        seen = b""
        with anyio.fail_after(10):
            while b"yes" not in seen:
                await anyio.wait_readable(process.terminal)
                seen += os.read(process.terminal, 4096)
        os.write(process.terminal, b"\x03")  # it is the controlling one
        with anyio.fail_after(10):
            assert await process.wait() == 128 + signal.SIGINT
        process = await one.exec(wire.encode([*ops, *exec_ops("cat")]))
        os.close(process.terminal)
        process.terminal = -1
        with anyio.fail_after(10):
            assert await process.wait() == 128 + signal.SIGHUP
