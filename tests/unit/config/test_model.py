"""What good definitions mean."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.kernel_names import CAPABILITIES, RLIM_INFINITY, capability_name, signal_name, signal_number
from config.loader import parse
from config.model import Container, HealthCheck, Mount, Restart, canonical

ROOT: dict[str, Any] = {"name": "web", "rootfs": "/srv/web", "command": ["run"]}


def one(body: str) -> Container:
    """The container of a body in YAML; its rootfs and command are given."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    given = "" if "rootfs:" in body or "bundle:" in body else "    rootfs: /srv/web\n"
    given += "" if "command:" in body or "entrypoint:" in body or "bundle:" in body else "    command: [run]\n"
    loaded = parse(f"containers:\n  web:\n{given}{lines}".encode(), "/etc/w/web.yaml")
    assert not loaded.errors, [str(error) for error in loaded.errors]
    return loaded.containers["web"]


def test_the_example_of_the_design() -> None:
    web = one(
        """
        command: [nginx, -g, daemon off;]
        environment: {TZ: UTC}
        restart: {policy: always, interval: 1s, factor: 2, max_interval: 1m, reset_after: 10m}
        stop_signal: QUIT
        stop_grace_period: 20s
        resources: {memory: 128MiB, memory_high: 100MiB, cpus: 0.5, pids: 64, io_weight: 100}
        oom: {group: true}
        healthcheck: {test: [CMD, wget, -q, -O-, http://127.0.0.1/], interval: 30s, retries: 3, on_failure: restart}
        depends_on: {db: {condition: healthy}}
        mounts: [{type: bind, source: /srv/web/html, target: /usr/share/nginx/html, read_only: true}]
        network: host
        logging: {max_size: 10MiB, max_files: 3}
        runtime: native
        """.replace("        ", "")
    )
    assert web.command == ("nginx", "-g", "daemon off;")
    assert web.environment == {"TZ": "UTC"}
    assert web.restart == Restart(reset_after=600)
    assert (web.stop_signal, web.stop_grace_period) == ("SIGQUIT", 20.0)
    assert web.resources.memory == 128 * 2**20
    assert web.resources.cpus == Decimal("0.5")
    assert web.healthcheck is not None
    assert web.healthcheck.test == ("CMD", "wget", "-q", "-O-", "http://127.0.0.1/")
    assert web.depends_on["db"].condition == "healthy"
    assert web.mounts == (Mount(source="/srv/web/html", target="/usr/share/nginx/html", read_only=True),)
    assert web.network == "host"


@pytest.mark.parametrize("word", ["no", '"no"', "'no'"])
def test_restart_no_is_the_policy_no(word: str) -> None:
    assert one(f"restart: {word}").restart.policy == "no"
    assert one(f"restart: {{policy: {word}}}").restart.policy == "no"


@pytest.mark.parametrize("word", ["No", "NO", "off", "false", "n", "never", "yes", "on", "true", "~"])
def test_restart_takes_no_other_spelling_of_no_and_never_guesses(word: str) -> None:
    (error,) = parse(f"containers: {{w: {{rootfs: /a, command: x, restart: {word}}}}}".encode(), "/t.yaml").errors
    assert "w.restart" in str(error)
    assert ('did you mean "no"?' in str(error)) == (word in ("No", "NO", "n"))


@pytest.mark.parametrize(
    "word", ["no", "No", "NO", "yes", "Yes", "YES", "on", "On", "ON", "off", "Off", "OFF", "y", "n"]
)
def test_a_word_of_norway_is_text(word: str) -> None:
    assert one(f"environment: {{{word}: {word}}}").environment == {word: word}
    assert one(f"hostname: {word}").hostname == word
    with pytest.raises(AssertionError, match="must be true or false"):
        one(f"read_only: {word}")


@pytest.mark.parametrize(
    "text",
    [
        "1.10",
        "0644",
        "0o17",
        "0x1F",
        "1e3",
        "1_000",
        "2122:22",
        "12:30:45",
        "2026-11-25",
        "true",
        "True",
        "FALSE",
        ".nan",
        "-0",
        "+1",
        "007",
        "1.",
        "=",
        "a#b",
    ],
)
def test_a_variable_has_the_text_of_the_file(text: str) -> None:
    assert one(f"environment: {{V: {text}}}").environment["V"] == text
    assert one(f"environment: ['V={text}']").environment["V"] == text
    assert one(f"command: [x, {text}]").command == ("x", text)


def test_a_text_of_several_lines_is_an_argument() -> None:
    web = one("command:\n  - sh\n  - -c\n  - |\n    set -e\n    exec run\nenvironment:\n  CERT: |\n    a\n    b\n")
    assert web.command == ("sh", "-c", "set -e\nexec run\n")
    assert web.environment == {"CERT": "a\nb\n"}


def test_a_command_of_one_text_is_split_into_words_and_no_shell_runs() -> None:
    assert one("""command: run 'a b' "c" $HOME ; x""").command == ("run", "a b", "c", "$HOME", ";", "x")


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("restart: always", "restart: {policy: always}"),
        ("restart: on-failure:5", "restart: {policy: on-failure, max_attempts: 5}"),
        ("restart: on-failure", "restart: {policy: on-failure}"),
        ("healthcheck: {test: curl localhost}", "healthcheck: {test: [CMD-SHELL, curl localhost]}"),
        ("healthcheck: {disable: true}", "x-a: 1"),
        ("healthcheck: {test: [NONE]}", "x-a: 1"),
        ("healthcheck: {disable: false, test: x}", "healthcheck: {test: x}"),
        ("depends_on: [db, cache]", "depends_on: {cache: {condition: started}, db: {}}"),
        ("depends_on: {db: {condition: service_healthy}}", "depends_on: {db: {condition: healthy}}"),
        (
            "depends_on: {db: {condition: service_completed_successfully}}",
            "depends_on: {db: {condition: completed_successfully}}",
        ),
        ("environment: [A=1, B=x=y]", "environment: {A: 1, B: x=y}"),
        ("labels: [a=1]", "labels: {a: 1}"),
        ("stop_signal: term", "stop_signal: SIGTERM"),
        ("stop_signal: 15", "stop_signal: SIGTERM"),
        ("stop_signal: 37", "stop_signal: RTMIN+3"),
        ("cap_add: [net_admin, CAP_KILL]", "cap_add: [kill, NET_ADMIN, kill]"),
        ("cap_drop: [ALL, KILL]", "cap_drop: [all]"),
        ("ulimits: {nofile: 10}", "ulimits: {nofile: {soft: 10, hard: 10}}"),
        ("ulimits: {core: -1}", "ulimits: {core: {soft: unlimited, hard: unlimited}}"),
        ("tmpfs: /run", "mounts: [{type: tmpfs, target: /run}]"),
        (
            "tmpfs: ['/run:size=1M,mode=755,noexec,ro']",
            "mounts: [{type: tmpfs, target: /run, size: 1M, mode: 0755, options: [noexec], read_only: true}]",
        ),
        ("success_exit_codes: 0", "success_exit_codes: [0, 0]"),
        ("success_exit_codes: [3, 0]", "success_exit_codes: [0, 3]"),
        ("umask: 0022", "umask: 22"),
        ("umask: 0o22", "umask: '022'"),
        ("user: '01000'", "user: 1000"),
        ("group_add: dialout", "group_add: [dialout]"),
        ("resources: {memory: 64M}", "resources: {memory: 67108864}"),
        ("resources: {pids: 4096}", "resources: {}"),
        ("resources: {cpus: 0.50}", "resources: {cpus: '.5'}"),
        ("user_namespace: {uid_base: 9}", "user_namespace: {uid_base: 9, gid_base: 9, size: 65536}"),
        ("working_dir: /a//b/", "working_dir: /a/b"),
        ("stop_grace_period: 90", "stop_grace_period: 1m30s"),
        ("rootfs: ./root", "rootfs: /etc/w/root"),
        ("rootfs: ../root", "rootfs: /etc/root"),
        ("mounts: [{source: html, target: /h}]", "mounts: [{type: bind, source: /etc/w/html, target: /h}]"),
        ("oom: {}", "oom: {group: true, on_child_kill: ignore}"),
        ("x-note: {a: [1, ~]}", "x-other: 1"),
    ],
)
def test_two_spellings_are_one_definition(short: str, long: str) -> None:
    first, second = one(short), one(long)
    assert first == second
    assert first.digest == second.digest


def test_a_bundle_needs_no_command_and_takes_what_is_ours() -> None:
    web = one("bundle: ../b\nresources: {memory: 64M}\nrestart: no\nnetwork: none\n")
    assert (web.bundle, web.rootfs) == ("/etc/b", None)


@pytest.mark.parametrize(
    "field",
    [
        "command: x",
        "environment: {A: 1}",
        "network: host",
        "tmpfs: /run",
        "ulimits: {core: 0}",
        "cap_add: [KILL]",
        "tty: true",
    ],
)
def test_what_a_bundle_decides_is_refused_beside_it(field: str) -> None:
    loaded = parse(f"containers:\n  web:\n    bundle: /b\n    {field}\n".encode(), "/t.yaml")
    (error,) = loaded.errors
    assert str(error).endswith(f"web.{field.split(':', 1)[0]}: the bundle's config.json decides this; remove it here")


def test_a_bundle_says_nothing_of_an_open_stdin() -> None:
    assert one("bundle: /b\nstdin_open: true\n").stdin_open


@pytest.mark.parametrize(
    ("body", "text"),
    [("{}", "web: needs image, rootfs or bundle"), ("{rootfs: /a}", "web: a rootfs needs a command or an entrypoint")],
)
def test_something_must_run(body: str, text: str) -> None:
    assert str(parse(f"containers: {{web: {body}}}".encode(), "/t.yaml").errors[0]) == f"/t.yaml:1:14: {text}"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("runtime: crun", "an image needs runtime native"),
        ("user_namespace: {uid_base: 100000}", "belong to ids of the host"),
    ],
)
def test_an_image_is_refused_beside_what_it_cannot_have(body: str, text: str) -> None:
    assert parse(b"containers: {web: {image: web}}", "/t.yaml").containers["web"].image == "web"
    found = parse(f"containers: {{web: {{image: web, {body}}}}}".encode(), "/t.yaml").errors
    assert text in str(found[0])


def test_unlimited_is_the_kernels_infinity() -> None:
    assert one("ulimits: {memlock: unlimited, nofile: {soft: 1, hard: -1}}").rlimits == {
        "memlock": (RLIM_INFINITY, RLIM_INFINITY),
        "nofile": (1, RLIM_INFINITY),
    }
    assert one("resources: {pids: max}").resources.pids is None


def test_code_builds_containers_by_attribute_names() -> None:
    web = Container(
        **ROOT, rlimits={"nofile": (1, 2)}, resources={"cpus": 0.1, "memory": 2**20}, umask=0o22, restart="no"
    )
    assert web.rlimits == {"nofile": (1, 2)}
    assert web.resources.cpus == Decimal("0.1")
    assert web.umask == 0o22


def test_a_definition_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Container(**ROOT).hostname = "x"  # type: ignore[misc]


def test_a_stored_definition_comes_back() -> None:
    web = one(
        "tmpfs: /run\nresources: {cpus: 0.5, pids: max, io_max: [{device: 8:0, rbps: 1M}]}\nulimits: {core: -1}\n"
        "healthcheck: {test: x}\ndepends_on: [db]\nuser_namespace: {uid_base: 5}\n"
    )
    for copy in (
        Container.model_validate_json(web.model_dump_json()),
        Container.model_validate(web.model_dump()),
        Container.model_validate(json.loads(json.dumps(canonical(web)))),
    ):
        assert copy == web
        assert copy.digest == web.digest


def test_the_digest_of_a_definition_never_changes() -> None:
    """A changed constant here restarts every container of every host on an update: see `canonical`."""
    assert Container(**ROOT).digest == "93e93bb26f2a64040fa9987e76d7cadf"
    assert (
        one("environment: {B: 2, A: 1}\nresources: {cpus: 0.5, memory: 64M}\nrestart: on-failure:3").digest
        == "58730b0ae14c72ed180a95a78ef8ed88"
    )


BODY = [
    "environment: {A: 1, B: 2}",
    "restart: {policy: on-failure, max_attempts: 3}",
    "labels: {x: 1, y: 2}",
    "# a comment",
    "oom: {group: true}",
]


@given(st.permutations(BODY))
def test_the_digest_knows_no_order_and_no_comment(lines: list[str]) -> None:
    assert (
        one("\n".join(["init: false", *lines])).digest
        == one("\n".join(["restart: on-failure:3", BODY[0], BODY[2]])).digest
    )


def test_every_field_that_differs_from_its_default_is_in_the_digest() -> None:
    bodies = [
        "init: false",
        "hostname: a",
        "labels: {a: 1}",
        "labels: {a: 2}",
        "restart: no",
        "resources: {pids: max}",
        "umask: 0",
        "oom_score_adj: 1",
        "read_only: true",
        "autostart: false",
        "command: [run, x]",
        "entrypoint: [run]",
    ]
    digests = [one(body).digest for body in bodies]
    assert len(set(digests)) == len(digests)


def test_a_copy_with_an_update_has_its_own_digest() -> None:
    web = Container(**ROOT)
    assert web.digest != web.model_copy(update={"hostname": "x"}).digest
    assert web.digest == web.model_copy().digest


def test_a_computed_digest_does_not_make_equal_definitions_differ() -> None:
    first, second = Container(**ROOT), Container(**ROOT)
    assert first.digest
    assert first == second


def test_signals_have_one_spelling_each() -> None:
    for number in itertools.chain(range(1, 32), range(34, 65)):
        name = signal_name(number)
        assert signal_number(name) == number
        assert signal_name(name.removeprefix("SIG").lower()) == name
    for word in ("", "SIG", "0", "32", "33", "65", "-1", "TERMX", "SIGRTMIN+31", "9" * 5000, "٩"):
        with pytest.raises(ValueError, match="signal"):
            signal_name(word)
    with pytest.raises(ValueError, match=r'"\\ud800" is not a signal'):
        signal_name("\ud800")  # half a character, as YAML's escapes give it: the message can be printed


def test_capabilities_are_the_kernels() -> None:
    assert len(CAPABILITIES) == 41
    assert (CAPABILITIES[12], CAPABILITIES[21], CAPABILITIES[40]) == (
        "CAP_NET_ADMIN",
        "CAP_SYS_ADMIN",
        "CAP_CHECKPOINT_RESTORE",
    )
    assert capability_name("sys_time") == "CAP_SYS_TIME"


def test_health_check_of_code() -> None:
    assert HealthCheck(test=("CMD", "x"), interval=1).test == ("CMD", "x")
