"""tests/vm/run itself: it must not lose an exit code, hide the host, hang, or leave anything behind."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run")

pytestmark = [
    pytest.mark.skipif(os.environ.get("WHARFINGER_VM") == "1", reason="a guest in a guest is too slow"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="user-mode-linux is for x86_64"),
]


def vm(*args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RUN, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, cwd=cwd,
        env={**os.environ, **env},
    )  # fmt: skip


def guests(mark: str) -> list[int]:
    """Host processes whose command line or environment holds `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if mark.encode() in text:
                found.append(int(entry.name))
    return found


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A TMPDIR of our own: what a run leaves behind, file or process, names it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    shm = set(os.listdir("/dev/shm"))
    yield str(tmp_path)
    for _ in range(50):
        if not guests(str(tmp_path)) and not list(tmp_path.glob("wharfinger-vm-*")):
            break
        time.sleep(0.1)
    assert guests(str(tmp_path)) == []
    assert list(tmp_path.glob("wharfinger-vm-*")) == []
    assert not {n for n in set(os.listdir("/dev/shm")) - shm if n.startswith("vm_file")}


@pytest.mark.parametrize(
    ("command", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_the_exit_code_comes_through(command: str, code: int, mark: str) -> None:
    assert vm("--", "sh", "-c", command).returncode == code


def test_a_command_that_is_not_there_is_127(mark: str) -> None:
    done = vm("--", "/no/such/program")
    assert done.returncode == 127
    assert "No such file or directory" in done.stderr


def test_output_comes_through_as_it_is(mark: str) -> None:
    done = vm("--", "sh", "-c", "echo out; echo err >&2; printf 'no newline'")
    assert (done.stdout, done.stderr) == ("out\nno newline", "err\n")


def test_much_output_loses_nothing(mark: str) -> None:
    done = vm("--", "seq", "1", "100000")
    assert done.stdout == "".join(f"{n}\n" for n in range(1, 100001))


def test_the_guest_is_root_with_every_controller(mark: str) -> None:
    done = vm("--", "sh", "-c", "id -u; cat /sys/fs/cgroup/cgroup.subtree_control; stat -fc %T /sys/fs/cgroup")
    uid, controllers, fs = done.stdout.splitlines()
    assert uid == "0"
    assert set(controllers.split()) >= {"cpu", "io", "memory", "pids"}
    assert fs == "cgroup2fs"


def test_a_memory_limit_is_real(mark: str) -> None:
    eater = "b = bytearray(256 << 20)"
    script = f"""
        cd /sys/fs/cgroup && mkdir small && echo 24M > small/memory.max && echo 0 > small/memory.swap.max 2>/dev/null
        sh -c 'echo 0 > small/cgroup.procs; exec {sys.executable} -c "{eater}"'; echo "code $?"
        grep '^oom_kill ' small/memory.events"""
    done = vm("--", "sh", "-c", script)
    assert "code 137" in done.stdout
    assert "oom_kill 1" in done.stdout


def test_files_of_the_host_are_there_and_daemon_places_are_not(mark: str) -> None:
    done = vm(
        "--", "sh", "-c", "cat $0; ls -A /run/wharfinger /var/lib /var/log; ls -d /etc/wharfinger /etc/passwd", __file__
    )
    assert "daemon places are not" in done.stdout
    assert done.stdout.endswith("/etc/passwd\n/etc/wharfinger\n")


@pytest.mark.parametrize("place", ["/tmp", "/run", "/var/lib", "/etc"])
def test_what_is_written_to_a_daemon_place_stays_in_the_guest(place: str, mark: str) -> None:
    name = f"{place}/wharfinger-{uuid.uuid4().hex}"
    assert vm("--", "sh", "-c", f"echo x > {name} && cat {name}").stdout == "x\n"
    assert not Path(name).exists()


def test_the_caller_s_directory_under_tmp_stays_visible(tmp_path: Path, mark: str) -> None:
    clone = tmp_path / "clone" / "sub"
    clone.mkdir(parents=True)
    (tmp_path / "clone" / ".git").mkdir()
    (tmp_path / "clone" / "top").write_text("seen\n")
    done = vm("--", "sh", "-c", "pwd; cat ../top; echo back > made", cwd=clone)
    assert done.stdout == f"{clone}\nseen\n"
    assert (clone / "made").read_text() == "back\n"


def test_the_environment_comes_along_and_says_that_it_is_the_vm(mark: str) -> None:
    done = vm("--", "sh", "-c", 'echo "$WHARFINGER_VM $COLOUR" $TMPDIR', COLOUR="blue and red")
    assert done.stdout == "1 blue and red\n"


def test_a_guest_that_hangs_is_killed(mark: str) -> None:
    started = time.monotonic()
    done = vm("--timeout", "4", "--", "sh", "-c", "echo before; trap '' TERM INT; sleep 100")
    assert done.returncode == 124
    assert "time limit of 4 s" in done.stderr
    assert done.stdout == "before\n"
    assert time.monotonic() - started < 20


def test_a_panic_is_told(mark: str) -> None:
    done = vm("--", "sh", "-c", "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger")
    assert done.returncode == 125
    assert "ended before the command did" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_guest_outlives_its_runner(number: int, code: int, mark: str) -> None:
    runner = subprocess.Popen(
        [RUN, "--", "sh", "-c", "echo up; sleep 100"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert runner.stdout is not None
    with runner.stdout:
        assert runner.stdout.readline() == b"up\n"
        runner.send_signal(number)
        assert runner.wait(20) == code


def test_what_the_command_left_running_does_not_keep_the_guest_up(mark: str) -> None:
    done = vm(
        "--timeout", "20", "--", "sh", "-c", "trap '' HUP; sleep 100 & echo gone; [ -t 1 ] && echo terminal; exit 5"
    )
    assert (done.returncode, done.stdout) == (5, "gone\n")


def test_two_guests_at_a_time(mark: str) -> None:
    runs = [
        subprocess.Popen(
            [RUN, "--", "sh", "-c", f"sleep 1; exit {n}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        for n in (3, 4)
    ]
    assert [r.wait(60) for r in runs] == [3, 4]


def test_a_disk_of_the_guest_keeps_what_was_synced(tmp_path: Path, mark: str) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as f:
        f.truncate(32 << 20)
    subprocess.run(["/sbin/mkfs.ext4", "-q", str(image)], check=True)
    mount = "mkdir -p /tmp/d && mount /dev/ubda /tmp/d"
    assert (
        vm("--disk", str(image), "--", "sh", "-c", f"{mount} && echo kept > /tmp/d/file && umount /tmp/d").returncode
        == 0
    )
    assert vm("--disk", str(image), "--", "sh", "-c", f"{mount} && cat /tmp/d/file").stdout == "kept\n"


def test_modules_come_on_request(mark: str) -> None:
    done = vm("--module", "dm-flakey", "--", "sh", "-c", "cut -d' ' -f1 /proc/modules")
    assert {"overlay", "veth", "dm_mod", "dm_flakey"} <= set(done.stdout.split())
