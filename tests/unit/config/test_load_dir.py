"""A directory of definition files: one bad file or definition harms no other, and what was good stays."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from config import loader
from config.loader import Definitions, load_dir, load_file, with_kept


def put(directory: Path, **files: str) -> None:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)


def told(definitions: Definitions) -> list[str]:
    return [f"{Path(error.file).name}: {str(error).split(': ', 1)[1]}" for error in definitions.errors]


def web(command: str = "run", more: str = "") -> str:
    return f"containers:\n  web: {{rootfs: /srv, command: {command}{more}}}\n"


def test_all_files_together_in_the_order_of_names(tmp_path: Path) -> None:
    put(tmp_path, b=web().replace("web", "two"), a=web().replace("web", "one"))
    (tmp_path / "c.yml").write_text(web().replace("web", "three"))
    loaded = load_dir(tmp_path)
    assert (list(loaded.containers), loaded.errors, loaded.kept) == (["one", "three", "two"], (), frozenset())
    assert loaded.files == {"one": f"{tmp_path}/a.yaml", "two": f"{tmp_path}/b.yaml", "three": f"{tmp_path}/c.yml"}


@pytest.mark.parametrize(
    "name",
    [
        ".web.yaml",
        "web.yaml~",
        ".web.yaml.swp",
        ".#web.yaml",
        "#web.yaml#",
        "web.yaml.bak",
        "web.json",
        "yaml",
        "web.yaml.tmp",
        "4913",
    ],
)
def test_hidden_files_and_what_editors_leave_are_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("garbage: [")
    assert load_dir(tmp_path) == Definitions()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "containers:\n  web: {rootfs: /srv, com",
        "containers:\n",
        "# commented out\n",
        "containers: {}\nx: 1\n",
        "[]",
    ],
)
def test_a_half_written_file_keeps_its_last_good_containers(tmp_path: Path, text: str) -> None:
    put(tmp_path, a=web("first"), b=web().replace("web", "other"))
    before = load_dir(tmp_path)
    put(tmp_path, a=text)
    after = load_dir(tmp_path, before)
    assert after.containers == before.containers
    assert after.kept == {"web"}
    assert len(after.errors) >= 1
    put(tmp_path, a=web("second"))
    healed = load_dir(tmp_path, after)
    assert healed.containers["web"].command == ("second",)
    assert (healed.errors, healed.kept) == ((), frozenset())


def test_a_faulty_definition_keeps_its_last_good_one_and_its_sibling_changes(tmp_path: Path) -> None:
    put(tmp_path, a=web("one") + "  side: {rootfs: /srv, command: one}\n")
    before = load_dir(tmp_path)
    put(tmp_path, a=web("two", ", comand: x") + "  side: {rootfs: /srv, command: two}\n")
    after = load_dir(tmp_path, before)
    assert after.containers["web"] is before.containers["web"]
    assert after.containers["side"].command == ("two",)
    assert after.kept == {"web"}
    assert told(after) == ['a.yaml: web.comand: unknown key, did you mean "command"?']


def test_a_bad_file_stops_no_change_of_another(tmp_path: Path) -> None:
    put(tmp_path, a=web("one"), b=web().replace("web", "other"))
    before = load_dir(tmp_path)
    put(tmp_path, a=web("two"), b="containers: [")
    after = load_dir(tmp_path, before)
    assert after.containers["web"].command == ("two",)
    assert after.containers["other"] is before.containers["other"]
    assert [Path(error.file).name for error in after.errors] == ["b.yaml"]


def test_what_was_never_good_is_absent(tmp_path: Path) -> None:
    put(tmp_path, a=web(more=", comand: x"))
    loaded = load_dir(tmp_path)
    assert (dict(loaded.containers), loaded.kept) == ({}, frozenset())


def test_a_removed_definition_or_file_goes(tmp_path: Path) -> None:
    put(tmp_path, a=web() + "  side: {rootfs: /srv, command: x}\n", b=web().replace("web", "other"))
    before = load_dir(tmp_path)
    put(tmp_path, a=web())
    (tmp_path / "b.yaml").unlink()
    assert list(load_dir(tmp_path, before).containers) == ["web"]


def test_a_definition_taken_out_of_a_file_goes_though_its_sibling_is_faulty(tmp_path: Path) -> None:
    put(tmp_path, a=web() + "  side: {rootfs: /srv, command: x}\n")
    before = load_dir(tmp_path)
    put(tmp_path, a=web(more=", x: 1"))
    assert list(load_dir(tmp_path, before).containers) == ["web"]


def test_a_directory_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path, a=web())
    before = load_dir(tmp_path)
    after = load_dir(tmp_path / "gone", Definitions(before.containers, files=before.files))
    assert after.containers == before.containers
    assert after.files == before.files
    assert [str(error) for error in after.errors] == [f"{tmp_path}/gone: cannot be read: No such file or directory"]
    assert load_dir("a\0b").errors


def test_a_name_belongs_to_the_first_file_that_has_it(tmp_path: Path) -> None:
    put(tmp_path, a=web("one"), b="containers:\n  own: {rootfs: /srv, command: x}\n" + web("two").split("\n", 1)[1])
    loaded = load_dir(tmp_path)
    assert loaded.containers["web"].command == ("one",)
    assert sorted(loaded.containers) == ["own", "web"]
    assert [str(error) for error in loaded.errors] == [
        f"{tmp_path}/b.yaml:3:3: web: is already defined in {tmp_path}/a.yaml"
    ]


def test_a_faulty_first_file_does_not_give_its_name_away(tmp_path: Path) -> None:
    put(tmp_path, a=web("one"))
    before = load_dir(tmp_path)
    put(tmp_path, a=web("one", ", x: 1"), b=web("two"))
    after = load_dir(tmp_path, before)
    assert after.containers["web"] is before.containers["web"]
    assert after.files["web"] == f"{tmp_path}/a.yaml"
    assert len(after.errors) == 2


def test_a_container_moves_to_another_file(tmp_path: Path) -> None:
    put(tmp_path, a=web("one"))
    before = load_dir(tmp_path)
    (tmp_path / "a.yaml").rename(tmp_path / "z.yaml")
    after = load_dir(tmp_path, before)
    assert after.containers == before.containers
    assert after.files["web"] == f"{tmp_path}/z.yaml"
    assert not after.kept


def test_a_dependency_must_exist_in_some_file(tmp_path: Path) -> None:
    put(tmp_path, a=web(more=", depends_on: [db]"), b="containers: {db1: {rootfs: /srv, command: x}}\n")
    loaded = load_dir(tmp_path)
    assert list(loaded.containers) == ["db1"]
    (error,) = loaded.errors
    assert str(error) == f'{tmp_path}/a.yaml:2:50: web.depends_on.db: there is no such container, did you mean "db1"?'
    put(tmp_path, b="containers: {db: {rootfs: /srv, command: x}}\n")
    assert sorted(load_dir(tmp_path, loaded).containers) == ["db", "web"]


def test_a_dependency_that_may_be_missing_is_no_fault(tmp_path: Path) -> None:
    put(tmp_path, a=web(more=", depends_on: {db: {required: false}}"))
    assert list(load_dir(tmp_path).containers) == ["web"]


def test_a_faulty_dependency_is_named_as_the_cause(tmp_path: Path) -> None:
    put(tmp_path, a=web(more=", depends_on: [db]") + "  db: {rootfs: /srv, command: x}\n")
    before = load_dir(tmp_path)
    put(tmp_path, a=web("two", ", depends_on: [db]") + "  db: {rootfs: /srv, command: x, x: 1}\n")
    after = load_dir(tmp_path, before)
    assert after.containers["web"].command == ("two",)
    assert after.kept == {"db"}
    assert told(load_dir(tmp_path)) == [
        "a.yaml: web.depends_on.db: its definition has errors",
        "a.yaml: db.x: unknown key",
    ]


def test_a_missing_dependency_takes_those_that_need_it_along(tmp_path: Path) -> None:
    chain = "".join(f"  c{i}: {{rootfs: /srv, command: x, depends_on: [c{i + 1}]}}\n" for i in range(50))
    put(tmp_path, a="containers:\n" + chain)
    loaded = load_dir(tmp_path)
    assert not loaded.containers
    assert len(loaded.errors) == 50


def test_a_circle_is_refused_for_its_members_only(tmp_path: Path) -> None:
    put(
        tmp_path,
        a="containers:\n  a: {rootfs: /srv, command: x, depends_on: [b]}\n  free: {rootfs: /srv, command: x}\n",
        b="containers:\n  b: {rootfs: /srv, command: x, depends_on: [c, free]}\n",
        c="containers:\n  c: {rootfs: /srv, command: x, depends_on: {a: {condition: healthy, required: false}}}\n",
    )
    loaded = load_dir(tmp_path)
    assert list(loaded.containers) == ["free"]
    assert told(loaded) == [
        "a.yaml: a.depends_on.b: depends on itself: a -> b -> c -> a",
        "b.yaml: b.depends_on.c: depends on itself: b -> c -> a -> b",
        "c.yaml: c.depends_on.a: depends on itself: c -> a -> b -> c",
    ]
    assert [(error.line, error.column) for error in loaded.errors] == [(2, 46), (2, 46), (2, 46)]


def test_a_change_that_closes_a_circle_keeps_the_last_good_ones(tmp_path: Path) -> None:
    put(tmp_path, a="containers:\n  a: {rootfs: /srv, command: x, depends_on: [b]}\n  b: {rootfs: /srv, command: x}\n")
    before = load_dir(tmp_path)
    put(
        tmp_path,
        a="containers:\n  a: {rootfs: /srv, command: x, depends_on: [b]}\n"
        "  b: {rootfs: /srv, command: y, depends_on: [a]}\n",
    )
    after = load_dir(tmp_path, before)
    assert after.containers == before.containers
    assert after.kept == {"a", "b"}


def test_a_long_chain_is_no_circle_and_no_recursion(tmp_path: Path) -> None:
    for part in range(2):
        body = "".join(
            f"  c{i}: {{rootfs: /srv, command: x, depends_on: [c{i + 1}]}}\n"
            for i in range(part * 500, part * 500 + 500)
        )
        put(tmp_path, **{f"p{part}": "containers:\n" + body})
    put(tmp_path, z="containers: {c1000: {rootfs: /srv, command: x}}\n")
    assert len(load_dir(tmp_path).containers) == 1001


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "dangling", "loop"])
def test_what_is_no_regular_file_is_told_and_never_waited_for(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, a=web())
    path = tmp_path / "b.yaml"
    monkeypatch.chdir(tmp_path)
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            server = socket.socket(socket.AF_UNIX)
            server.bind("b.yaml")
            server.close()
        case "dangling":
            path.symlink_to("nowhere")
        case _:
            path.symlink_to("b.yaml")
    loaded = load_dir(tmp_path)
    assert list(loaded.containers) == ["web"]
    words = {
        "directory": "is a directory, not a file",
        "fifo": "is not a regular file",
        "socket": "cannot be read: No such device or address",
        "dangling": "cannot be read: No such file or directory",
        "loop": "cannot be read: Too many levels of symbolic links",
    }
    assert [str(error) for error in loaded.errors] == [f"{path}: {words[kind]}"]


def test_devices_and_endless_files_are_refused() -> None:
    assert str(load_file("/dev/zero").errors[0]) == "/dev/zero: is not a regular file"
    assert load_file("/proc/self/environ").errors
    assert str(load_file("a\0b").errors[0]).endswith("embedded null byte")
    assert load_file("/" + "a" * 5000).errors


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    put(tmp_path, a=web())
    before = load_dir(tmp_path)
    monkeypatch.setattr(os, "open", refuse)
    after = load_dir(tmp_path, before)
    assert after.containers == before.containers
    assert [str(error) for error in after.errors] == [f"{tmp_path}/a.yaml: cannot be read: Permission denied"]


def test_memory_that_runs_out_while_reading_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise MemoryError

    put(tmp_path, a=web())
    monkeypatch.setattr(os, "read", refuse)
    assert "needs more memory" in str(load_dir(tmp_path).errors[0])


def test_a_file_name_that_is_not_utf8_is_no_trouble(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.yaml")).write_text("x: [")
    (error,) = load_dir(tmp_path).errors
    assert str(error).isprintable()


def test_the_same_files_give_the_same_definitions(tmp_path: Path) -> None:
    put(tmp_path, a=web(more=", environment: {B: 1, A: 2}"))
    loaded = load_dir(tmp_path)
    for _ in range(20):
        (tmp_path / "a.yaml").touch()
        again = load_dir(tmp_path, loaded)
        assert again == loaded
        assert again.containers["web"].digest == loaded.containers["web"].digest
        loaded = again


def test_an_unchanged_file_is_not_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, a=web(), b=web(more=", x: 1").replace("web", "other"))
    before = load_dir(tmp_path)
    read: list[str] = []
    parse = loader.parse

    def watched(data: bytes, path: str) -> loader.LoadedFile:
        read.append(path)
        return parse(data, path)

    monkeypatch.setattr(loader, "parse", watched)
    assert load_dir(tmp_path, before) == before
    assert read == []
    put(tmp_path, a=web("two"))
    assert load_dir(tmp_path, before).containers["web"].command == ("two",)
    assert read == [f"{tmp_path}/a.yaml"]


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, a="containers: {web: {rootfs: ./root, command: x}}\n")
    monkeypatch.chdir(tmp_path.parent)
    assert load_file(f"{tmp_path.name}/a.yaml").containers["web"].rootfs == f"{tmp_path}/root"


def test_a_last_good_definition_from_elsewhere_is_taken_in(tmp_path: Path) -> None:
    put(tmp_path, a=web("one"))
    container = load_dir(tmp_path).containers["web"]
    put(tmp_path, a="")
    taken = with_kept(load_dir(tmp_path), container, f"{tmp_path}/a.yaml")
    assert dict(taken.containers) == {"web": container}
    assert taken.kept == {"web"}
    assert dict(load_dir(tmp_path, taken).containers) == {"web": container}
    other = container.model_copy(update={"hostname": "x"})
    assert with_kept(taken, other, "/x").containers["web"] is container
