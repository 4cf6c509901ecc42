"""Every fault has its place and its words, and harms nothing beside it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from config.loader import load_dir, load_file, parse

HEAD = """containers:
  good: {rootfs: /srv/good, command: [run]}
  bad:
    rootfs: /srv/bad
    command: [run]
"""


def _bodies() -> list[tuple[str, list[str]]]:
    blocks = (Path(__file__).parent / "bad_definitions.txt").read_text().split("\n\n")[1:]
    cases = []
    for block in blocks:
        lines = block.strip("\n").split("\n")
        body = [line for line in lines if not line.startswith("! ")]
        cases.append(("\n".join(body), [line[2:] for line in lines if line.startswith("! ")]))
    return cases


BODIES = _bodies()
# Whole files of which nothing is read.
FILES: list[tuple[str, list[str]]] = [
    ("", [": is empty; a file without containers says `containers: {}`"]),
    ("# nothing\n", [": has only comments; a file without containers says `containers: {}`"]),
    ("hello", [":1:1: the file must be a mapping with the key containers, not text"]),
    ("- a\n", [":1:1: the file must be a mapping with the key containers, not a list"]),
    ("containers:\n", [":1:1: containers: is empty; to say that there are none, write `containers: {}`"]),
    ("containers: []\n", [":1:1: containers: must be a mapping of names, not a list"]),
    ("containers: {}\nversoin: 1\n", [':2:1: versoin: unknown key, did you mean "version"?']),
    ("services: {}\n", [":1:1: services: unknown key, use containers", ":1:1: has no containers key"]),
    ("version: 2\ncontainers: {}\n", [":1:10: version: must be 1"]),
    ("contaners: {}\n", [':1:1: contaners: unknown key, did you mean "containers"?', ":1:1: has no containers key"]),
    ("containers: {}\n---\ncontainers: {}\n", [":2:1: a second document; one file is one document"]),
    ("%YAML 1.1\n---\ncontainers: {}\n", [":2:1: only YAML 1.2 is read"]),
    ("containers:\n\tweb: {}\n", [":2:1: a tab cannot indent; use spaces"]),
    ("containers: {web: {rootfs: /a\n", [":1:19: the bracket that opens here is not closed"]),
    ("containers: {web: 'a\n", [":1:19: the quote that opens here is not closed"]),
    (
        "containers:\n  web:\n    command: a: b\n",
        [':3:15: a ": " does not belong here; put the text in quotes, or mend the indentation'],
    ),
    ("containers:\n  web: {}\n web2: {}\n", [":3:2: the indentation does not fit what is above"]),
    ("containers: {}\nx-a: {<<: {b: 1}}\n", [":2:7: merge keys (<<) are not supported; write it out"]),
    ("? [a, b]\n: c\n", [":1:3: a key must be a word, not a list or a mapping"]),
    ('containers: {"a": {}, ? }\n', [":1:24: a key is empty"]),
    (
        "containers: {}\nx-a: !!python/object:os.system 1\n",
        [":2:6: tags (tag:yaml.org,2002:python/object:os.system) are not supported"],
    ),
    ("x-a: &a [1]\nx-b: *a\n", [":1:6: anchors (&a) are not supported; write it out"]),
    ("a: \x00", [":1:4: a NUL byte in the text"]),
    ("containers: {}\n\x07\n", [":2:1: a control character (U+0007) in the text"]),
    ("containers: {}\n'': 1\n", [":2:1: a key is empty"]),
    ("containers: {}\ncontainers: {}\n", [':2:1: containers: "containers" is given twice, first at 1:1']),
    ("containers: {}\nx-a: @b\n", [":2:6: character '@' cannot start a word; put it in quotes"]),
    ("containers: {}\nx-a: `b`\n", [":2:6: character '`' cannot start a word; put it in quotes"]),
    ("containers: {}\nx: 1\n", [":2:1: x: unknown key"]),
    ("containers: {}\nplain\n", [':2:1: a key needs ":" and a value']),
    (
        HEAD + '    environment: {"": 1}\n',
        [":6:19: a key is empty"],
    ),
    (
        HEAD + "    x-note: &a 1\n",
        [":6:13: anchors (&a) are not supported; write it out"],
    ),
    (
        HEAD + "    restart: !policy always\n",
        [":6:14: tags (!policy) are not supported"],
    ),
]
NAME_RULE = "is not a name: up to 63 of a-z 0-9 _ . -, the first a letter or digit"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{c}: &{c} [*{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}]\n"
    for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_there_are_many_cases() -> None:
    assert len(BODIES) >= 150
    assert all(body and expected for body, expected in BODIES)


@pytest.mark.parametrize(("body", "expected"), BODIES, ids=[body.split("\n")[0] for body, _ in BODIES])
def test_a_faulty_definition_is_refused_with_its_place_and_its_sibling_is_kept(
    tmp_path: Path, body: str, expected: list[str]
) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(HEAD + "".join(f"    {line}\n" for line in body.split("\n")))
    (tmp_path / "z.yaml").write_text("containers: {other: {rootfs: /srv/other, command: [run]}}\n")
    one = load_file(file)
    assert [str(error).removeprefix(f"{file}:") for error in one.errors] == expected
    assert list(one.containers) == ["good"]
    assert one.whole
    every = load_dir(tmp_path)
    assert list(every.containers) == ["good", "other"]
    assert every.errors == one.errors or set(map(str, one.errors)) == set(map(str, every.errors))
    assert {error.container for error in every.errors} == {"bad"}
    assert all(error.file == str(file) and error.exit_code == 2 for error in every.errors)


@pytest.mark.parametrize(("text", "expected"), FILES, ids=[repr(text[-40:]) for text, _ in FILES])
def test_a_file_that_cannot_be_read_as_a_whole_harms_no_other_file(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    file = tmp_path / "t.yaml"
    file.write_bytes(text.encode())
    (tmp_path / "z.yaml").write_text("containers: {other: {rootfs: /srv/other, command: [run]}}\n")
    one = load_file(file)
    assert [str(error).removeprefix(str(file)) for error in one.errors] == expected
    assert not one.containers
    assert not one.whole
    assert list(load_dir(tmp_path).containers) == ["other"]


@pytest.mark.parametrize("name", ["Web", "-web", "a/b", "..", ".a", "web db", "w\u00e9b", "_x", "a" * 64, "%2e%2e"])
def test_a_name_that_is_no_safe_file_name_is_refused(name: str) -> None:
    key = name if " " not in name and not name.startswith("%") else f'"{name}"'
    loaded = parse(
        f"containers:\n  good: {{rootfs: /a, command: x}}\n  {key}: {{rootfs: /a, command: x}}\n".encode(), "/t.yaml"
    )
    (error,) = loaded.errors
    assert (error.line, error.column) == (3, 3)
    assert str(error).endswith(NAME_RULE)
    assert list(loaded.containers) == ["good"]


@pytest.mark.parametrize("name", ["a", "0", "1.10", "no", "a" * 63, "web-1_b.c"])
def test_a_safe_name_is_taken_as_it_is_written(name: str) -> None:
    assert list(parse(f"containers: {{{name}: {{rootfs: /a, command: x}}}}".encode(), "/t.yaml").containers) == [name]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfea\x00", "/t.yaml: is UTF-16; save it as UTF-8"),
        (b"containers: {}\n# \xe9\n", "/t.yaml:2:3: is not UTF-8: byte 0xe9"),
        (b"# " + b"x" * 300_000, "/t.yaml: is larger than 256 KiB"),
        (b" \r\n\t\n", "/t.yaml: is empty; a file without containers says `containers: {}`"),
        (b"containers: {}\n\xef\xbb\xbf", "/t.yaml:2:1: a control character (U+FEFF) in the text"),
    ],
)
def test_bytes_that_are_no_text_are_told_in_words(data: bytes, words: str) -> None:
    assert [str(error) for error in parse(data, "/t.yaml").errors] == [words]


def test_a_byte_order_mark_of_utf8_is_harmless() -> None:
    loaded = parse(b"\xef\xbb\xbfcontainers: {}\n", "/t.yaml")
    assert (loaded.errors, loaded.whole) == ((), True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "1:4: anchors (&a) are not supported; write it out"),
        ("containers: " + "[" * 2000, "1:46: nested deeper than 32 levels"),
        ("containers: " + "{a: " * 1500, "nested deeper than 32 levels"),
        ("- " * 2000, "1:65: nested deeper than 32 levels"),
        ("version: " + "9" * 5000 + "\ncontainers: {}", "1:10: version: must be 1"),
        ("version: 0x" + "f" * 5000 + "\ncontainers: {}", "1:10: version: must be 1"),
        ("x-a: [" + "1, " * 20_000 + "]", "more than 10000 keys and values"),
        (HEAD + "    oom_score_adj: " + "9" * 5000, "6:20: bad.oom_score_adj: must be a whole number"),
        (HEAD + "    resources: {memory: " + "9" * 5000 + "}", "6:25: bad.resources.memory: "),
        (HEAD + "    stop_grace_period: " + "9" * 5000, "6:24: bad.stop_grace_period: "),
        (HEAD + "    resources: {cpus: 1e400}", "6:23: bad.resources.cpus: "),
        (HEAD + "    restart: {jitter: .nan}", "6:23: bad.restart.jitter: must be a number"),
        (HEAD + "    umask: " + "7" * 5000, "6:12: bad.umask: must be octal"),
        (HEAD + "    hostname: " + "a" * 200_000, "6:15: bad.hostname: "),
        (HEAD + "    entrypoint: [x, " + "a" * 200_000 + "]", "is 200000 bytes long; the kernel takes at most 131071"),
    ],
    ids=range(15),
)
def test_hostile_text_is_refused_in_less_than_a_second(text: str, words: str) -> None:
    start = time.process_time()
    loaded = parse(text.encode(), "/t.yaml")
    assert time.process_time() - start < 1
    assert words in str(loaded.errors[0])
    assert len(str(loaded.errors[0])) < 1200


def test_all_faults_of_a_file_are_told_in_the_order_of_the_text() -> None:
    text = HEAD + "    restrat: no\n    umask: 9\n  worse: {rootfs: 1, ports: []}\nx: 1\n"
    places = [(error.line, error.column, error.container) for error in parse(text.encode(), "/t.yaml").errors]
    assert places == [(6, 5, "bad"), (7, 12, "bad"), (8, 22, "worse"), (9, 1, "")]


def test_thousands_of_faults_are_cut_to_a_hundred() -> None:
    text = "containers:\n" + "".join(f"  C{i}: {{}}\n" for i in range(1000))
    loaded = parse(text.encode(), "/t.yaml")
    assert len(loaded.errors) == 101
    assert "more errors" in str(loaded.errors[-1])


def test_a_secret_value_is_in_no_message_and_no_repr() -> None:
    text = HEAD + "    environment: {TOKEN: [canary], OTHER: canary}\n"
    assert all("canary" not in str(error) for error in parse(text.encode(), "/t.yaml").errors)
    good = parse(b"containers: {a: {rootfs: /a, command: x, environment: {TOKEN: canary}}}", "/t.yaml").containers["a"]
    assert "canary" not in repr(good)


def test_a_message_is_one_line_whatever_the_key() -> None:
    loaded = parse(b'containers: {a: {"x\\ny\\e[31m": 1, rootfs: /a, command: x}}', "/t.yaml")
    (error,) = loaded.errors
    assert str(error).isprintable()
