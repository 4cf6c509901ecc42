"""Nothing that a file holds makes the loader raise, and it stays fast."""

from __future__ import annotations

import json
import time

from hypothesis import example, given, settings
from hypothesis import strategies as st

from config.loader import LoadedFile, parse

GOOD = b"""version: 1
x-note: {a: [1, ~]}
containers:
  web:
    rootfs: ./root
    command: [nginx, -g, "daemon off;"]
    entrypoint: sh -c 'x'
    environment: {TZ: UTC, V: 1.10, M: 0644}
    restart: {policy: on-failure, max_attempts: 5, interval: 1s}
    stop_signal: QUIT
    resources: {memory: 128MiB, memory_high: 100MiB, cpus: 0.5, pids: 64, io_max: [{device: 8:0, rbps: 1M}]}
    oom: {group: true}
    healthcheck: {test: [CMD, wget], interval: 30s}
    depends_on: {db: {condition: service_healthy}}
    mounts:
      - {source: ./html, target: /h, read_only: true}
    tmpfs: ["/run:size=1M,mode=755"]
    ulimits: {nofile: {soft: 10, hard: 20}, core: -1}
    sysctls: {net.core.somaxconn: 5}
    cap_drop: [ALL]
    user_namespace: {uid_base: 100000}
    labels: [a=b]
  db:
    bundle: /srv/b
    restart: no
"""
TOKENS = [
    b'\n', b' ', b'\t', b':', b'- ', b'? ', b'[', b']', b'{', b'}', b',', b'&a ', b'*a', b'!', b'!!int ', b'|\n',
    b'>-\n', b"'", b'"', b'#', b'%YAML 1.2\n', b'---\n', b'...\n', b'<<: ', b'~', b'null', b'\\', b'\\x00',
    b'\\ud800', b'\x00', b'\xff', b'\xef\xbb\xbf', b'\xc2\x85', b'\xe2\x80\xa8', b'@', b'`', b"9" * 400, b'1e999',
    b'.inf', b'-', b'containers:', b'web:', b'restart:', b'  ', b'\r', b'0x', b'0o8', b"a" * 2000,
]  # fmt: skip


def check(data: bytes) -> LoadedFile:
    start = time.process_time()
    loaded = parse(data, "/etc/w/a.yaml")
    assert time.process_time() - start < 1
    assert loaded.errors or loaded.whole
    for error in loaded.errors:
        text = str(error)
        assert text.startswith("/etc/w/a.yaml:")
        assert text.isprintable()
        assert len(text) < 1300
    for name, container in loaded.containers.items():
        assert container.name == name
        assert container.digest
        assert not any(error.container == name for error in loaded.errors)
    return loaded


def test_the_seed_is_good() -> None:
    assert not check(GOOD).errors
    assert sorted(check(GOOD).containers) == ["db", "web"]


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    check(data)


@given(st.text(max_size=300))
@example("a: \x85")
@example("? ? ?")
@example("!<")
@example("%")
@example("!!")
@example("- !a!b")
@example('"\\U00110000"')
@example('"\\xZZ"')
@example("&")
@example("*")
def test_any_text(text: str) -> None:
    check(text.encode("utf-8", "surrogatepass"))


@given(st.lists(st.sampled_from(TOKENS), max_size=60))
@settings(max_examples=150)
def test_any_words_of_yaml(tokens: list[bytes]) -> None:
    check(b"".join(tokens))


@given(
    st.lists(
        st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), st.sampled_from([b"", *TOKENS])),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=200)
def test_mutations_of_a_good_file(cuts: list[tuple[int, int, bytes]]) -> None:
    data = GOOD
    for at, length, token in cuts:
        data = data[:at] + token + data[at + length :]
    check(data)


@given(st.integers(0, len(GOOD)))
def test_a_file_cut_anywhere(end: int) -> None:
    check(GOOD[:end])


VALUES: st.SearchStrategy[object] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
KEYS = sorted(word.split(b":")[0].strip(b" -{").decode() for word in GOOD.split(b"\n") if b":" in word)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
@settings(max_examples=150)
def test_any_value_in_any_field(body: dict[str, object]) -> None:
    check(json.dumps({"containers": {"web": {"rootfs": "/a", "command": ["x"], **body}}}).encode())
