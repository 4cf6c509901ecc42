"""The HTTP front and the routes, on real sockets: what peers may do, and that nothing they send ends it."""

from __future__ import annotations

import json
import os
import random
import socket
from typing import Any

import pytest

from config.errors import HostError
from supervisor.ports import Outcome, Since
from tests.fixtures.fake_control import Served
from tests.fixtures.http import CLOSE, get, read_all, talk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="uid 0 acts; other users are tried from there")

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
        ("GET", "/v1/events?since=yesterday", 400),
        ("GET", "/v1/events?type=oom,bang", 400),
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
    def event(seq: int, name: str, type_: str) -> dict[str, Any]:
        return {"seq": seq, "name": name, "code": "x", "type": type_}

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
    assert seqs("?type=/tasks/exit") == [1]
    assert seqs("?cause=x,y&tail=2") == [2, 3]
    assert seqs("?cause=y") == []
    places = ["10m", "2026-11-25T06:00:00Z", "2026-11-25T07:00:00%2B01:00", "2026-11-25"]
    for place in places:
        seqs(f"?since={place}")
    found = [query.since for query in server.control.queries[-len(places) :]]
    assert found == [Since(ago=600.0), Since(wall=1795586400.0), Since(wall=1795586400.0), Since(wall=1795564800.0)]
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
