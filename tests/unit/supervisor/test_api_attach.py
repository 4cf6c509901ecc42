"""exec over attach.sock: the caller's own file descriptors, signals on the way, no descriptor left behind."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.errors import RefusedError
from tests.fixtures.fake_control import FakeControl, Served, served

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="uid 0 acts")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as found:
        yield found


def connect(server: Served) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(10)
    folder = os.open(server.run_dir, os.O_PATH)
    sock.connect(f"/proc/self/fd/{folder}/attach.sock")
    os.close(folder)
    return sock


def ask(server: Served, request: Any, count: int = 3) -> tuple[dict[str, Any], bytes]:
    """The answer, and what was written to the passed stdout."""
    reading, writing = os.pipe()
    data = request if isinstance(request, bytes) else json.dumps(request).encode()
    with connect(server) as sock:
        socket.send_fds(sock, [data], [writing] * count)
        os.close(writing)
        answer = json.loads(sock.recv(65536))
    written = b""
    while piece := os.read(reading, 4096):  # ends only when every copy of the writing end is closed
        written += piece
    os.close(reading)
    return answer, written


def test_a_command_gets_the_callers_descriptors_and_its_code_comes_back(server: Served) -> None:
    server.control.exec_code = 7
    request = {"name": "web", "args": ["ls", "-l"], "user": "1000", "cwd": "/tmp", "env": {"A": "b=c"}}
    assert ask(server, request) == ({"exit": 7}, b"hello from inside\n")
    options = {"user": "1000", "cwd": "/tmp", "env": {"A": "b=c"}}
    assert server.control.asked == [("exec", "web", ("ls", "-l"), options)]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"{", "bad request"),
        (b"[1]", "bad request"),
        ({}, "no such container"),
        ({"name": "../web", "args": ["x"]}, "no such container"),
        ({"name": "nosuch", "args": ["x"]}, "no such container"),
        ({"name": "web"}, "bad request"),
        ({"name": "web", "args": []}, "bad request"),
        ({"name": "web", "args": [""]}, "bad request"),
        ({"name": "web", "args": "ls"}, "bad request"),
        ({"name": "web", "args": ["a\0b"]}, "bad request"),
        ({"name": "web", "args": ["x"], "env": ["A=b"]}, "bad request"),
        ({"name": "web", "args": ["x"], "env": {"A=": "b"}}, "bad request"),
        ({"name": "web", "args": ["x"], "user": 0}, "bad request"),
        (b"[" * 60_000, "bad request"),
    ],
)
def test_bad_requests_are_refused(server: Served, request_: Any, code: str) -> None:
    answer, written = ask(server, request_)
    assert answer["error"]["code"] == code
    assert written == b""
    assert server.control.asked == []


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_exactly_three_descriptors(server: Served, count: int) -> None:
    answer, _ = ask(server, {"name": "web", "args": ["x"]}, count)
    assert answer["error"]["code"] == "bad request"


def test_too_many_descriptors_are_not_kept(server: Served) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        answer, _ = ask(server, {"name": "web", "args": ["x"]}, 40)
        assert answer["error"]["code"] == "bad request"
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_refusal_of_the_daemon_comes_back(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> int:
        raise RefusedError("not running", where="web")

    monkeypatch.setattr(server.control, "exec", refuse)
    answer, _ = ask(server, {"name": "web", "args": ["x"]})
    assert answer == {"error": {"code": "not running", "message": "web: not running"}}


def test_a_fault_of_ours_shows_no_trace(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> int:
        raise ZeroDivisionError("detail")

    monkeypatch.setattr(server.control, "exec", broken)
    answer, _ = ask(server, {"name": "web", "args": ["x"]})
    assert answer["error"]["code"] == "internal"
    assert ask(server, {"name": "nosuch", "args": ["x"]})[0]["error"]["code"] == "no such container"


def test_signals_are_forwarded_while_the_command_runs(tmp_path: Path) -> None:
    control = FakeControl(slow=True)
    with served(tmp_path, control) as server, connect(server) as sock:
        null = os.open("/dev/null", os.O_RDWR)
        socket.send_fds(sock, [b'{"name": "web", "args": ["sleep", "9"]}'], [null] * 3)
        os.close(null)
        sock.send(b"nonsense")
        sock.send(b'{"signal": 7}')
        sock.send(b'{"signal": "SIGINT"}')
        sock.send(b'{"signal": "SIGTERM"}')
        assert json.loads(sock.recv(4096)) == {"exit": 143}
    assert control.signals == ["SIGINT", "SIGTERM"]


def test_a_caller_that_goes_ends_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = FakeControl()
    ended = []

    async def endless(*_: Any) -> int:
        import anyio

        control.asked.append(("exec",))
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)
        return 0

    monkeypatch.setattr(control, "exec", endless)
    with served(tmp_path, control) as server:
        with connect(server) as sock:
            null = os.open("/dev/null", os.O_RDWR)
            socket.send_fds(sock, [b'{"name": "web", "args": ["x"]}'], [null] * 3)
            os.close(null)
            end = time.monotonic() + 5
            while not control.asked and time.monotonic() < end:
                time.sleep(0.01)
        while not ended and time.monotonic() < end:
            time.sleep(0.01)
        assert ended


def test_a_command_on_a_terminal_hands_its_master_to_the_caller_alone(server: Served) -> None:
    server.control.exec_code = 4
    with connect(server) as sock:
        sock.send(b'{"name": "web", "args": ["sh"], "tty": [24, 80]}')
        said, fds, _, _ = socket.recv_fds(sock, 65536, 4)
        assert json.loads(said) == {"terminal": True}
        (master,) = fds
        assert os.read(master, 4096) == b"hello from a terminal\r\n"
        assert json.loads(sock.recv(65536)) == {"exit": 4}
    os.close(master)
    assert server.control.asked == [("exec", "web", ("sh",), {"tty": (24, 80)})]


@pytest.mark.parametrize("size", [[24], [24, 80, 1], [-1, 80], [24, 65536], [True, 80], ["24", 80], {"rows": 24}, 80])
def test_a_bad_size_is_refused(server: Served, size: Any) -> None:
    answer, written = ask(server, {"name": "web", "args": ["sh"], "tty": size}, 0)
    assert answer["error"]["code"] == "bad request"
    assert (written, server.control.asked) == (b"", [])


def test_a_command_has_files_or_a_terminal(server: Served) -> None:
    answer, _ = ask(server, {"name": "web", "args": ["sh"], "tty": [24, 80]}, 3)
    assert answer["error"]["code"] == "bad request"
    assert ask(server, {"name": "web", "args": ["sh"]}, 0)[0]["error"]["code"] == "bad request"
    assert server.control.asked == []


def test_an_attached_socket_is_the_callers_and_the_containers(server: Served) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    with connect(server) as sock, ours:
        with theirs:
            socket.send_fds(sock, [b'{"name": "web", "attach": true}'], [theirs.fileno()])
        assert json.loads(sock.recv(65536)) == {"tty": False, "stdin": False, "generation": 1}
        assert sock.recv(65536) == b""
        assert [ours.recv(4096), ours.recv(4096), ours.recv(4096)] == [b"ohello\n", b"x\x01\x07", b""]


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        ({"name": "web", "attach": False}, 1),
        ({"name": "web", "attach": 1}, 1),
        ({"name": "web", "attach": True}, 0),
        ({"name": "web", "attach": True}, 3),
        ({"name": "nosuch", "attach": True}, 1),
    ],
)
def test_bad_attach_requests_are_refused(server: Served, request_: Any, count: int) -> None:
    answer, _ = ask(server, request_, count)
    assert answer["error"]["code"] in ("bad request", "no such container")
    assert server.control.asked == []


def test_a_command_may_take_longer_than_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.api.attach.FIRST_WORD", 0.05)
    control = FakeControl(slow=True)
    with served(tmp_path, control) as server, connect(server) as sock:
        null = os.open("/dev/null", os.O_RDWR)
        socket.send_fds(sock, [b'{"name": "web", "args": ["sleep", "9"]}'], [null] * 3)
        os.close(null)
        assert not select.select([sock], [], [], 0.3)[0], "it was ended with the time for its request"
        sock.send(b'{"signal": "SIGTERM"}')
        assert json.loads(sock.recv(4096)) == {"exit": 143}
    with served(tmp_path / "b") as server, connect(server) as sock:
        assert json.loads(sock.recv(4096))["error"]["code"] == "timeout"
