"""A container from an image, by the commands of a user: import, define, run, restart, another image, remove."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.host import Host
from tests.fixtures.images import build, directory, layer, member, named, symlink, tar_up, write_layout

pytestmark = pytest.mark.e2e

WEB = """containers:
  web:
    image: shop/web:1
    stop_signal: KILL
"""


def archive(path: Path, word: str) -> Path:
    """An image of two layers on busybox; its program counts its starts in a file of its own and says `word`."""
    base = layer(
        *(directory(name) for name in ("bin", "etc", "proc", "dev", "sys")),
        member("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755),
        *(symlink(f"bin/{name}", "busybox") for name in ("sh", "sleep", "cat", "id")),
        member("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:77:88::/home:/bin/sh\n"),
        member("etc/removed"),
        directory("data", uid=77, gid=88),
    )
    top = layer(member("etc/.wh.removed"), member("word", word.encode()))
    run = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo x >> /data/starts; echo $GREETING $(cat /word) $(id -u) $PWD; exec sleep 1000"],
        "Env": ["PATH=/bin", "GREETING=hello"],
        "User": "app",
        "WorkingDir": "/data",
    }
    built = build([base, top], run)
    return tar_up(write_layout(path, [named(built, "shop/web:1")], built.blobs), path.with_suffix(".tar"))


def say(host: Host, *words: str) -> str:
    done = host.ctl(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def values(host: Host) -> list[str]:
    """What its root takes, as metrics say."""
    return [line.rpartition(" ")[2] for line in host.metrics().splitlines() if line.startswith("container_fs_usage_b")]


@pytest.mark.kernel  # also in the VM: before Linux 6.5 the layers of a mount are told in another way
def test_an_image_runs_as_its_config_says_and_its_writable_layer_lives_over_restarts(host: Host) -> None:
    say(host, "images", "import", str(archive(host.base / "one", "one")))
    host.define("web", WEB)
    host.start()
    host.until_state("web", "RUNNING")
    host.until(lambda: "hello one 77 /data" in host.ctl("tail", "web").stdout, 10, "no word of it")
    assert host.ctl("exec", "web", "--", "cat", "/etc/removed").returncode != 0
    say(host, "restart", "web")
    host.until_state("web", "RUNNING")

    def starts() -> str:
        return say(host, "exec", "web", "--", "cat", "/data/starts")

    host.until(lambda: starts() == "x\nx\n", 10, "it did not start twice")
    assert str(host.base) not in Path("/proc/self/mountinfo").read_text()  # its mount is in its own namespace alone
    say(host, "exec", "web", "--", "sh", "-c", "yes | head -c 3000000 > /data/large")
    host.kill_daemon()
    host.start()
    host.until_state("web", "RUNNING")
    assert starts() == "x\nx\n"  # it ran on
    host.until(lambda: any(float(v) > 3e6 for v in values(host)), 20, "the writable layer is not measured")


def test_another_image_under_the_name_takes_effect_at_the_next_start_with_a_new_writable_layer(host: Host) -> None:
    say(host, "images", "import", str(archive(host.base / "one", "one")))
    host.define("web", WEB)
    host.start()
    host.until_state("web", "RUNNING")
    say(host, "images", "import", str(archive(host.base / "two", "two")))
    assert say(host, "exec", "web", "--", "cat", "/word") == "one"
    assert json.loads(say(host, "images", "prune", "--json")) == []  # what runs is kept
    say(host, "restart", "web")
    host.until_state("web", "RUNNING")
    assert say(host, "exec", "web", "--", "cat", "/word") == "two"
    host.until(lambda: say(host, "exec", "web", "--", "cat", "/data/starts") == "x\n", 10, "it did not start anew")
    gone = json.loads(say(host, "images", "prune", "--json"))
    assert {one["what"] for one in gone} == {"blob", "layer"}


def test_an_image_that_is_not_there_is_told_and_waited_for(host: Host) -> None:
    host.define("web", WEB)
    host.start()
    host.until_state("web", "BACKOFF")
    assert "there is no image shop/web:1" in say(host, "why", "web")
    say(host, "images", "import", str(archive(host.base / "one", "one")))
    host.until_state("web", "RUNNING")


def test_a_definition_that_goes_takes_its_writable_layer_along(host: Host) -> None:
    say(host, "images", "import", str(archive(host.base / "one", "one")))
    host.define("web", WEB)
    host.start()
    host.until_state("web", "RUNNING")
    own = host.base / "state/containers/web"
    assert own.is_dir()
    (host.definitions / "web.yaml").unlink()
    host.until(lambda: not own.exists(), 15, "the writable layer is still there")
    say(host, "images", "unpin", "shop/web:1")
    assert "shop/web:1" in say(host, "images", "prune")
    assert len(say(host, "images", "ls").splitlines()) == 1


def test_what_a_dead_process_had_under_way_is_swept(host: Host) -> None:
    for place, sweep in (("tmp", lambda: say(host, "images", "ls")), ("making", host.start)):
        litter = host.base / "state/images" / place / "x/deep"
        litter.mkdir(parents=True)
        sweep()
        assert not litter.exists()


def test_the_plan_of_an_image_is_shown_without_a_daemon(host: Host) -> None:
    say(host, "images", "import", str(archive(host.base / "one", "one")))
    host.define("web", WEB)
    assert "OVERLAY" in say(host, "plan", "web", "--launch")
    assert json.loads(say(host, "plan", "web"))["process"]["user"]["uid"] == 77


def test_an_import_that_fails_takes_along_what_it_brought_in(host: Host) -> None:
    whole = archive(host.base / "one", "one")
    cut = host.base / "cut.tar"
    cut.write_bytes(whole.read_bytes()[: -whole.stat().st_size // 3])
    done = host.ctl("images", "import", str(cut))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is no image archive" in done.stderr or "lacks" in done.stderr
    for place in ("oci/blobs/sha256", "layers", "ingest", "refs", "tmp"):
        assert not list((host.base / "state/images" / place).iterdir())
