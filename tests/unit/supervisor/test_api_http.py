"""The HTTP front and the routes, on real sockets: what peers may do, and that nothing they send ends it."""

from __future__ import annotations

import json
import os
import random
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
from supervisor.ports import Outcome
from tests.fixtures.fake_control import FakeControl, Served, served

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="uid 0 acts; other users are tried from there")

CLOSE = b"host: x\r\nconnection: close\r\n\r\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as found:
        yield found


def talk(server: Served, data: bytes) -> bytes:
    with server.connect() as sock:
        sock.sendall(data)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:  # after what was sent, when it did not read all of ours
        pass
    return data


def get(server: Served, target: str, method: str = "GET", body: str = "", version: str = "1.1") -> tuple[int, Any]:
    length = f"content-length: {len(body)}\r\n" if body else ""
    raw = talk(server, f"{method} {target} HTTP/{version}\r\n{length}".encode() + CLOSE + body.encode())
    head, _, answer = raw.partition(b"\r\n\r\n")
    assert b"Traceback" not in raw
    status = int(head.split(b" ")[1])
    if b"transfer-encoding: chunked" in head.lower():
        answer = unchunk(answer)
    return status, json.loads(answer) if b"application/json" in head and answer else answer


def unchunk(data: bytes) -> bytes:
    out = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        if not count:
            return out
        out, data = out + data[:count], data[count + 2 :]


# -- routes -------------------------------------------------------------------------------------


def test_containers_are_listed_with_state_words_and_judgement(server: Served) -> None:
    server.control.trouble.append("a.yaml:7:5: unknown key")
    status, found = get(server, "/v1/containers")
    assert status == 200
    shown = {one["name"]: (one["state"], one["description"], one["ok"]) for one in found["containers"]}
    assert shown["web"] == ("RUNNING", "pid 4123, uptime 0:12:03, restarts 2", True)
    assert shown["inference"] == ("BACKOFF", "oom-killed (limit 64MiB), retry 7 in 13s, crash-looping", False)
    assert found["problems"] == ["a.yaml:7:5: unknown key"]


def test_one_container_in_full(server: Served) -> None:
    status, found = get(server, "/v1/containers/inference")
    assert status == 200
    assert found["last_end"]["oom"] == {"killed": True, "group": True, "scope": "container", "kills": 2}
    assert found["next_attempt_in"] == 13
    assert found["restarts"] == {"oom": 6}
    assert "environment" not in json.dumps(found)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/v1/containers/nosuch", 404),
        ("GET", "/v1/containers/../web", 404),
        ("GET", "/v1/containers/%2e%2e/why", 404),
        ("GET", "/v1/containers/..%2fweb", 404),
        ("GET", "/v1/containers/web%00", 404),
        ("GET", "/v1/containers/WEB", 404),
        ("GET", "/v1/containers//logs", 404),
        ("GET", "/v1/containers/NAME/logs/more", 404),
        ("GET", "/", 404),
        ("GET", "/v2/containers", 404),
        ("GET", "/v1/containers/%ff", 400),
        ("GET", "/v1/events?since=-1", 400),
        ("GET", "/v1/events?since=1e9", 400),
        ("GET", "/v1/events?follow=perhaps", 400),
        ("GET", "/v1/containers/web/logs?tail=x", 400),
        ("GET", "/v1/containers/web/logs?stream=stdwhat", 400),
        ("POST", "/v1/containers/web/start?wait=nan", 400),
        ("POST", "/v1/containers/web/start?wait=-1", 400),
        ("POST", "/v1/containers/web/signal", 400),
        ("DELETE", "/v1/containers/web", 405),
        ("POST", "/v1/containers", 405),
        ("GET", "/v1/containers/web/stop", 405),
        ("GET", "http://any.where/v1/version", 200),
        ("GET", "/v1/version#x", 200),
        ("GET", "/v1/config", 200),
        ("POST", "/v1/reload", 200),
    ],
)
def test_answers_by_path_and_method(server: Served, method: str, target: str, status: int) -> None:
    found, body = get(server, target, method)
    assert found == status
    if status >= 400:
        assert set(body["error"]) == {"code", "message"}
    assert server.control.asked == []


def test_a_wrong_method_is_told_the_right_ones(server: Served) -> None:
    raw = talk(server, b"PUT /v1/containers HTTP/1.1\r\n" + CLOSE)
    assert b"405 Method Not Allowed" in raw
    assert b"allow: GET, HEAD\r\n" in raw


def test_head_is_get_without_a_body(server: Served) -> None:
    raw = talk(server, b"HEAD /v1/version HTTP/1.1\r\n" + CLOSE)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert b"content-length: 37" in head
    assert body == b""


def test_requests_that_change_say_who_asked_and_how_long_to_wait(server: Served) -> None:
    assert get(server, "/v1/containers/web/start?wait=3", "POST")[1]["ok"]
    assert get(server, "/v1/containers/web/stop?wait", "POST")[0] == 200
    assert get(server, "/v1/containers/web/kill", "POST", '{"wait": 2.5}')[0] == 200
    assert get(server, "/v1/containers/web/restart", "POST", "{}")[0] == 200
    assert get(server, "/v1/containers/web/signal", "POST", '{"signal": "HUP"}')[0] == 200
    assert server.control.asked == [
        ("start", "web", 3.0), ("stop", "web", 60.0), ("kill", "web", 2.5), ("restart", "web", None),
        ("signal", "web", "HUP"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "status"), [("already started", 409), ("spawn error", 409), ("busy", 503), ("timeout", 504), ("", 409)]
)
def test_refusals_have_a_status_and_a_word(server: Served, code: str, status: int) -> None:
    server.control.outcomes["start", "web"] = Outcome(False, "web: no", code)
    found, body = get(server, "/v1/containers/web/start", "POST")
    assert found == status
    assert body["error"] == {"code": code or "refused", "message": "web: no"}


@pytest.mark.parametrize("body", ["[]", "{", "\x00", '"x"', "[" * 100_000])
def test_a_body_that_is_no_object_is_refused(server: Served, body: str) -> None:
    assert get(server, "/v1/containers/web/start", "POST", body)[0] == 400
    assert server.control.asked == []


def test_a_fault_of_ours_shows_no_trace(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(server.control, "info", broken)
    status, body = get(server, "/v1/version")
    assert (status, body["error"]["code"]) == (500, "internal")
    assert "secret" not in json.dumps(body)


def test_a_fault_of_the_host_is_named(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise HostError("disk full", "/var/lib")

    monkeypatch.setattr(server.control, "info", broken)
    assert get(server, "/v1/version") == (503, {"error": {"code": "host", "message": "/var/lib: disk full"}})


def test_events_can_be_resumed_filtered_and_followed(server: Served) -> None:
    def event(seq: int, name: str, code: str) -> dict[str, Any]:
        return {"seq": seq, "name": name, "code": code}

    server.control.decisions += [event(1, "web", "exit"), event(2, "db", "oom"), event(3, "web", "oom")]

    def seqs(query: str) -> list[int]:
        status, body = get(server, f"/v1/events{query}")
        assert status == 200
        return [json.loads(line)["seq"] for line in body.splitlines()]

    assert seqs("") == [1, 2, 3]
    assert seqs("?since=1") == [2, 3]
    assert seqs("?tail=1") == [3]
    assert seqs("?type=oom") == [2, 3]
    assert seqs("?type=oom&name=web") == [3]
    with server.connect() as sock:
        sock.sendall(b"GET /v1/events?follow=1&tail=1 HTTP/1.0\r\n\r\n")
        got = b""
        while b'"seq":3' not in got:
            got += sock.recv(4096)
        assert b'"seq":2' not in got
        server.control.decisions.append(event(4, "web", "exit"))
        while b'"seq":4' not in got:
            got += sock.recv(4096)
        assert got.count(b'"seq":3') == 1


# -- HTTP ---------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order_on_one_connection(server: Served) -> None:
    raw = talk(server, b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n" * 3 + b"GET /v1/nosuch HTTP/1.1\r\n" + CLOSE)
    assert raw.count(b"200 OK") == 3
    assert raw.rstrip().endswith(b'"message":"no such path"}}')


def test_http_1_0_closes(server: Served) -> None:
    raw = talk(server, b"GET /v1/version HTTP/1.0\r\n\r\n")
    assert b"200 OK" in raw
    assert b"connection: close" in raw.lower()


def test_a_header_in_many_pieces_is_one_request(server: Served) -> None:
    with server.connect() as sock:
        for byte in b"GET /v1/version HTTP/1.1\r\n" + CLOSE:
            sock.sendall(bytes([byte]))
        assert b"200 OK" in read_all(sock)


def test_a_client_that_shuts_its_sending_half_gets_its_answer(server: Served) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET /v1/version HTTP/1.1\r\n" + CLOSE)
        sock.shutdown(socket.SHUT_WR)
        assert b"200 OK" in read_all(sock)


def test_expect_100_continue(server: Served) -> None:
    with server.connect() as sock:
        sock.sendall(b"POST /v1/reread HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n" + CLOSE)
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"{}")
        assert b"200 OK" in read_all(sock)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /v1/version HTTP/1.1\r\nhost: x\r\na: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"POST /v1/reread HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\n", 413),
        (b"POST /v1/reread HTTP/1.1\r\nhost: x\r\ncontent-length: " + b"9" * 4400 + b"\r\n\r\n", 400),
        (b"POST /v1/reread HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}", 400),
        (b"POST /v1/reread HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", 400),
        (b"POST /v1/reread HTTP/1.1\r\nhost: x\r\ncontent-length: 2, 3\r\n\r\n{}", 400),
        (b"POST /v1/reread HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n{}", 501),
        (b"GET /v1/version HTTP/1.1\r\n\r\n", 400),
        (b"GET  /v1/version HTTP/1.1\r\n" + CLOSE, 400),
        (b"GET version HTTP/1.1\r\n" + CLOSE, 400),
        (b"GET * HTTP/1.1\r\n" + CLOSE, 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"\r\n\r\n\x00\x00\r\n\r\n", 400),
        (b"GET /v1/version HTTP/9.9\r\n" + CLOSE, 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_what_is_no_proper_request_is_refused(server: Served, raw: bytes, status: int) -> None:
    answer = talk(server, raw)
    assert int(answer.split(b" ")[1]) == status
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert get(server, "/v1/version")[0] == 200


def test_a_chunked_body_over_the_limit_is_refused(server: Served) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with server.connect() as sock:
        sock.sendall(b"POST /v1/reread HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            for _ in range(40):
                sock.sendall(chunk)
        except OSError:
            pass
        assert b" 413 " in sock.recv(4096)


def test_ten_thousand_random_bytes_many_times(server: Served) -> None:
    luck = random.Random(7)
    words = [b"GET ", b"/v1/containers", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b"host: x", b": ", b"\0", b"\xff", b"%2e"]
    for _ in range(150):
        data = b"".join(luck.choice([*words, luck.randbytes(luck.randrange(40))]) for _ in range(30))
        with server.connect() as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                assert b"Traceback" not in read_all(sock)
            except OSError:
                pass
    assert get(server, "/v1/version")[0] == 200
    assert server.serving.fronts["control"].connections <= 1


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
        "    begun = time.process_time(); time.sleep(1.5)\n"
        "    print(time.process_time() - begun, flush=True)\n"
        "    for fd in held: os.close(fd)\n"
        "    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as daemon:
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


def test_a_stale_socket_is_replaced_and_anything_else_is_left(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        os.chdir(tmp_path)
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
        (0, (), Role.ACT), (1000, (50,), Role.ACT), (1000, (60,), Role.VIEW), (1000, (50, 60), Role.ACT),
        (1000, (70,), Role.NONE), (1000, (), Role.NONE),
    ],
)  # fmt: skip
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
            cwd=open_dir / "run", stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    assert done.stdout.strip() == answers


def test_a_stranger_with_an_open_socket_is_still_refused(open_dir: Path) -> None:
    """File permissions are one lock, the peer's credentials the second."""
    with served(open_dir / "run") as server:
        server.run_dir.chmod(0o755)
        server.path.chmod(0o666)
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, "65533", "65534", ""],
            cwd=server.run_dir, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
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
        (b"GET /metrics", 200, b"up 1\n"), (b"HEAD /metrics", 200, b""), (b"GET /healthz", 200, b"ok\n"),
        (b"GET /readyz", 200, b"ready\n"), (b"GET /metrics?x=1", 200, b"up 1\n"),
        (b"GET http://127.0.0.1:9627/metrics", 200, b"up 1\n"), (b"POST /metrics", 405, None),
        (b"DELETE /healthz", 405, None), (b"GET /v1/containers", 404, None),
        (b"POST /v1/containers/web/stop", 404, None),
    ],
)  # fmt: skip
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
