"""Peers that are slow, many or strangers; the sockets themselves; the metrics listener."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.errors import HostError
from supervisor.api.exchange import Limits
from supervisor.api.peer import Role, Roles
from supervisor.api.sockets import bind_unix
from tests.fixtures.fake_control import REPO, FakeControl, Served, served
from tests.fixtures.http import CLOSE, get, read_all

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="uid 0 acts; other users are tried from there")

# -- slow and many peers ------------------------------------------------------------------------


def wait_until(condition: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_peer_that_says_nothing_is_let_go(tmp_path: Path) -> None:
    with served(tmp_path, limits=Limits(header=0.2, idle=0.4)) as server:
        with server.connect() as sock:
            assert read_all(sock) == b"", "no word, no answer"
        with server.connect() as sock:
            sock.sendall(b"GET /v1/ver")
            assert b" 408 " in read_all(sock)
        with server.connect() as sock:
            begun = time.monotonic()
            sock.sendall(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200 OK" in read_all(sock)
            assert 0.3 < time.monotonic() - begun < 3
        with server.connect() as sock:
            sock.sendall(b"POST /v1/reread HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{")
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b""
        wait_until(lambda: server.serving.fronts["control"].connections == 0)


def test_two_hundred_silent_peers_keep_nobody_out(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        silent = [server.connect() for _ in range(200)]
        for sock in silent[::3]:
            try:
                sock.sendall(b"G")
            except OSError:
                pass
        begun = time.monotonic()
        assert get(server, "/v1/version")[0] == 200
        assert time.monotonic() - begun < 1
        assert server.serving.fronts["control"].connections <= 64
        for sock in silent:
            sock.close()


def test_busy_connections_of_one_user_are_bounded(tmp_path: Path) -> None:
    with served(tmp_path, limits=Limits(root=3)) as server:
        busy = [server.connect() for _ in range(3)]
        for sock in busy:
            sock.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n")
            sock.recv(10)
        with server.connect() as sock:
            sock.sendall(b"GET /v1/version HTTP/1.1\r\n" + CLOSE)
            assert b"503 Service Unavailable" in read_all(sock)
        for sock in busy:
            sock.close()
        wait_until(lambda: server.serving.fronts["control"].connections == 0)
        assert get(server, "/v1/version")[0] == 200


def test_a_client_that_goes_cancels_its_wait(tmp_path: Path) -> None:
    control = FakeControl(slow=True)
    with served(tmp_path, control) as server:
        with server.connect() as sock:
            sock.sendall(b"POST /v1/containers/web/start?wait=60 HTTP/1.1\r\nhost: x\r\n\r\n")
            wait_until(lambda: control.asked)
            assert control.cancelled == 0
        wait_until(lambda: control.cancelled == 1)
        wait_until(lambda: server.serving.fronts["control"].connections == 0)


def test_a_half_closed_client_goes_on_waiting(tmp_path: Path) -> None:
    control = FakeControl(slow=True)
    with served(tmp_path, control) as server:
        with server.connect() as sock:
            sock.sendall(b"POST /v1/containers/web/start?wait=60 HTTP/1.1\r\nhost: x\r\n\r\n")
            sock.shutdown(socket.SHUT_WR)
            wait_until(lambda: control.asked)
            time.sleep(0.3)
            assert control.cancelled == 0
        wait_until(lambda: control.cancelled == 1)


def test_a_follower_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    control = FakeControl()
    control.decisions += [{"seq": n, "text": "x" * 1000} for n in range(1, 3000)]
    with served(tmp_path, control, limits=Limits(send=0.3)) as server, server.connect() as sock:
        sock.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_until(lambda: server.serving.fronts["control"].connections == 1)
        wait_until(lambda: server.serving.fronts["control"].connections == 0)
        assert get(server, "/v1/version")[0] == 200


def test_the_accept_loop_lives_without_descriptors(tmp_path: Path) -> None:
    """EMFILE: the spare descriptor still serves one peer after the other, without a busy loop."""
    script = (
        "import os, resource, sys, time\n"
        "from pathlib import Path\n"
        "from tests.fixtures.fake_control import served\n"
        "with served(Path(sys.argv[1])) as server:\n"
        "    held = []\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "    try:\n"
        "        while True: held.append(os.open('/dev/null', os.O_RDONLY))\n"
        "    except OSError: pass\n"
        "    print('full', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    begun = time.process_time(); time.sleep(0.8)\n"
        "    print(time.process_time() - begun, flush=True)\n"
        "    for fd in held: os.close(fd)\n"
        "    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        try:
            assert daemon.stdout.readline() == "full\n"
            server = Served(FakeControl(), tmp_path, None)  # type: ignore[arg-type]
            for _ in range(5):
                assert get(server, "/v1/version")[0] == 200
            waiting = [server.connect() for _ in range(10)]
            daemon.stdin.write("\n")
            daemon.stdin.flush()
            assert float(daemon.stdout.readline()) < 0.3, "no busy loop"
            for sock in waiting:
                sock.close()
            for _ in range(5):
                assert get(server, "/v1/version")[0] == 200
        finally:
            daemon.kill()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64


# -- sockets and roles --------------------------------------------------------------------------


def test_the_sockets_have_their_mode_from_the_first_moment(server: Served) -> None:
    for name in ("control.sock", "attach.sock"):
        found = (server.run_dir / name).stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o660, 0, 0)
    assert server.run_dir.stat().st_mode & 0o777 == 0o750
    assert sorted(p.name for p in server.run_dir.iterdir()) == ["attach.sock", "control.sock"]


def test_a_stale_socket_is_replaced_and_anything_else_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("control.sock")
    (tmp_path / ".control.sock.new").write_text("half")
    with served(tmp_path) as server:
        assert get(server, "/v1/version")[0] == 200
    (tmp_path / "control.sock").unlink()
    (tmp_path / "control.sock").write_text("precious")
    with pytest.raises(HostError, match="no socket"):
        bind_unix(tmp_path / "control.sock", 0)
    assert (tmp_path / "control.sock").read_text() == "precious"


def test_sockets_are_never_seen_with_another_mode(tmp_path: Path) -> None:
    """Whoever lists the directory all the time sees the old socket or the new one, and no other mode."""
    script = (
        "import os, sys\n"
        "seen = set()\n"
        "while not os.path.exists('stop'):\n"
        "    for name in ('control.sock', '.control.sock.new'):\n"
        "        try: seen.add((name, os.lstat(name).st_mode & 0o777))\n"
        "        except OSError: pass\n"
        "print(sorted(seen))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as watcher:
        for _ in range(200):
            bind_unix(tmp_path / "control.sock", 0).close()
        (tmp_path / "stop").touch()
        assert watcher.stdout is not None
        seen = eval(watcher.stdout.read())
    assert {mode for name, mode in seen if name == "control.sock"} <= {0o660}
    assert {mode for _, mode in seen} <= {0o600, 0o660}


@pytest.mark.parametrize(
    ("uid", "gids", "role"),
    [
        (0, (), Role.ACT),
        (1000, (50,), Role.ACT),
        (1000, (60,), Role.VIEW),
        (1000, (50, 60), Role.ACT),
        (1000, (70,), Role.NONE),
        (1000, (), Role.NONE),
    ],
)
def test_roles_by_user_and_groups(uid: int, gids: tuple[int, ...], role: Role) -> None:
    assert Roles(act=50, view=60).role(uid, frozenset(gids)) is role


def test_without_the_groups_only_root_may(server: Served) -> None:
    assert Roles.of_groups("no-such-group-here", "nor-this").role(1000, frozenset({0, 1})) is Role.NONE


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """Other users can pass through it, as they cannot through pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="wharf-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


CLIENT = """
import os, socket, sys
uid, gid, groups = int(sys.argv[1]), int(sys.argv[2]), [int(g) for g in sys.argv[3].split(",") if g]
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
out = []
for method, path in (("GET", "/v1/version"), ("POST", "/v1/reread")):
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect("control.sock")
    except OSError as error:
        out.append(type(error).__name__)
        continue
    sock.sendall(f"{method} {path} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n".encode())
    data = b""
    while piece := sock.recv(4096): data += piece
    out.append(data.split()[1].decode())
print(*out)
"""


@pytest.mark.parametrize(
    ("gid", "groups", "answers"),
    [
        (65534, "4242", "200 200"),  # a supplementary group acts
        (4242, "", "200 200"),
        (65534, "1", "200 403"),  # daemon: the view group of the fixture
        (65534, "", "PermissionError PermissionError"),
    ],
)
def test_other_users_by_their_groups(open_dir: Path, gid: int, groups: str, answers: str) -> None:
    with served(open_dir / "run", socket_group="4242", view_group="1"):
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, "65533", str(gid), groups],
            cwd=open_dir / "run",
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert done.stdout.strip() == answers


def test_a_stranger_with_an_open_socket_is_still_refused(open_dir: Path) -> None:
    """File permissions are one lock, the peer's credentials the second."""
    with served(open_dir / "run") as server:
        server.run_dir.chmod(0o755)
        server.path.chmod(0o666)
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, "65533", "65534", ""],
            cwd=server.run_dir,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "403 403"
        assert server.control.asked == []


# -- the metrics listener -----------------------------------------------------------------------


def tcp(server: Served, data: bytes) -> bytes:
    assert server.serving.metrics_address is not None
    with socket.create_connection(server.serving.metrics_address, timeout=10) as sock:
        sock.sendall(data)
        return read_all(sock)


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        (b"GET /metrics", 200, b"up 1\n"),
        (b"HEAD /metrics", 200, b""),
        (b"GET /healthz", 200, b"ok\n"),
        (b"GET /readyz", 200, b"ready\n"),
        (b"GET /metrics?x=1", 200, b"up 1\n"),
        (b"GET http://127.0.0.1:9627/metrics", 200, b"up 1\n"),
        (b"POST /metrics", 405, None),
        (b"DELETE /healthz", 405, None),
        (b"GET /v1/containers", 404, None),
        (b"POST /v1/containers/web/stop", 404, None),
    ],
)
def test_the_metrics_listener(server: Served, request_line: bytes, status: int, body: bytes | None) -> None:
    raw = tcp(server, request_line + b" HTTP/1.1\r\n" + CLOSE)
    head, _, found = raw.partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) == status
    if body is not None:
        assert found == body
    if b"/metrics" in request_line and status == 200:
        assert b"content-type: text/plain; version=0.0.4; charset=utf-8" in head
    assert server.control.asked == []


def test_a_taken_metrics_port_is_no_reason_not_to_run(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with served(tmp_path, metrics_listen=address) as server:
            assert get(server, "/v1/version")[0] == 200
            assert "Address already in use" in server.serving.problem


def test_metrics_can_be_off(tmp_path: Path) -> None:
    with served(tmp_path, metrics_listen="off") as server:
        assert "metrics" not in server.serving.fronts
