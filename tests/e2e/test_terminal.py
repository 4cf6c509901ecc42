"""Terminals by the commands that a person has: exec -it, attach, and clients that are slow, many or killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.host import BIN, Host, start_time
from tests.e2e.shims import kill_shim, shim_of, taken_over
from tests.e2e.terminal import Person

pytestmark = [pytest.mark.e2e]

SLEEPER = 'containers: {web: {rootfs: ROOTFS, command: [sleep, "1000"], stop_signal: KILL}}'
# What is typed is answered, `size` by the terminal's; the end of input is the end.
ECHO = """containers:
  con:
    rootfs: ROOTFS
    command: [sh, -c, 'while read a; do test "$a" = size && busybox stty size || echo got $a; done; exit 3']
    tty: true
    stdin_open: true
    restart: "no"
    stop_signal: KILL
"""
FLOOD = """containers:
  con:
    rootfs: ROOTFS
    command: [sh, -c, "read go; i=0; while test $i -lt 40000; do i=$((i+1)); echo line $i of a flood of output; done;
      echo done; read again; echo last $again; exit 6"]
    tty: true
    stdin_open: true
    restart: "no"
    logging: {max_size: 16MiB}
"""


def pids(host: Host, name: str) -> list[int]:
    """Of the processes of its run."""
    generation = host.one(name)["generation"]
    text = (host.cgroup / f"containers/{name}/g{generation}/cgroup.procs").read_text()
    return [int(pid) for pid in text.split()]


def comms(host: Host, name: str) -> list[str]:
    found = []
    for pid in pids(host, name):
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
        except OSError:
            continue
    return found


def log(host: Host, name: str) -> str:
    path = host.base / f"log/{name}/current.log"
    return path.read_text(errors="replace") if path.exists() else ""


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def attached(host: Host, name: str) -> Iterator[socket.socket]:
    """As wharfctl does it, without its start-up."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(10)
        sock.connect(str(host.base / "run/attach.sock"))
        socket.send_fds(sock, [json.dumps({"name": name, "attach": True}).encode()], [theirs.fileno()])
        answer = json.loads(sock.recv(4096))
        assert "tty" in answer, answer
        theirs.close()
        yield ours


def test_a_shell_on_a_terminal(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    host.until_state("web", "RUNNING")
    with Person(host.env, "exec", "-it", "web", "--", "sh", size=(33, 101)) as person:
        person.sees("# ")
        person.type("busybox stty size; echo $TERM; busybox tty\n")
        person.sees("33 101", "xterm", "/dev/pts/0")
        person.resize(40, 120)
        person.type("busybox stty size\n")
        person.sees("40 120")
        person.type("sh -c 'echo be\"\"gun; exec sleep 1000'\n")
        person.sees("begun")
        person.type("\x03")  # reaches the sleep, and neither wharfctl nor the shell
        person.sees("# ")
        assert not person.restored()
        person.type("exit 5\n")
        assert person.ends() == 5
        assert person.restored()
    assert comms(host, "web") == ["sleep 1000"]


def test_what_a_command_gets_as_its_files(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    host.until_state("web", "RUNNING")

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "wharfctl", "exec", *args],
            env=host.env,
            input="typed\n",
            capture_output=True,
            text=True,
            check=False,
        )

    assert run("web", "--", "cat").stdout == ""
    assert run("-i", "web", "--", "cat").stdout == "typed\n"
    refused = run("-it", "web", "--", "cat")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "ERROR: --tty needs a terminal here, and stdin is none; leave it out, or use -i alone\n"
    show = "for fd in 0 1 2; do test -t $fd && echo $fd is a terminal; done; cat; echo over; exit 9"
    with Person(host.env, "exec", "-i", "web", "--", "sh", "-c", show) as person:
        person.type("a line\n\x04")
        said = person.sees("over")
        assert person.ends() == 9
        assert "a line\r\na line\r\n" in said
        assert "is a terminal" not in said


def test_a_command_ends_with_the_terminal_it_was_on(host: Host) -> None:
    host.define("web", SLEEPER)
    host.start()
    host.until_state("web", "RUNNING")
    before = fds(host.daemon.pid) if host.daemon else 0
    hung_up = "trap 'echo hung up > /tmp/said; exit' HUP; echo be''gun; while :; do sleep 0.1; done"
    with Person(host.env, "exec", "-it", "web", "--", "sh", "-c", hung_up) as person:
        person.sees("begun")
        person.run.kill()
        host.until(lambda: comms(host, "web") == ["sleep 1000"], 10, f"it goes on: {comms(host, 'web')}")
    assert (host.rootfs / "tmp/said").read_text() == "hung up\n"
    with Person(host.env, "exec", "-it", "web", "--", "sh", "-c", "trap '' HUP TERM; echo be''gun; sleep 77") as person:
        person.sees("begun")
        person.run.terminate()
        assert person.ends() == 128 + signal.SIGTERM
        assert person.restored()
        host.until(lambda: comms(host, "web") == ["sleep 1000"], 10, f"it goes on: {comms(host, 'web')}")
    assert host.daemon is not None
    host.until(lambda: host.daemon is not None and fds(host.daemon.pid) <= before, 10, "descriptors are left")


def test_two_people_at_one_terminal(host: Host) -> None:
    host.define("con", ECHO)
    host.start()
    host.until_state("con", "RUNNING")
    with Person(host.env, "attach", "con", size=(31, 91)) as one, Person(host.env, "attach", "con") as two:
        one.ready()
        two.ready()
        two.type("hello\n")
        one.sees("got hello")
        two.sees("got hello")
        two.resize(44, 122)
        two.type("size\n")
        one.sees("44 122")  # the last one who said a size
        one.type("x\x10\x11")
        assert one.ends() == 0
        assert one.restored()
        assert one.seen.endswith(b"\r\ncon: detached\r\n")
        with Person(host.env, "attach", "--no-stdin", "con", size=(9, 9)) as looker:
            two.type("y\n")  # after the x of the first
            two.sees("got xy")
            while not looker.read(0.1):  # it is there when it sees something
                two.type("w\n")
            looker.type("z\n")
            two.type("size\n")
            two.sees("44 122")  # who only looks changes nothing
            two.type("\x04")
            assert two.ends() == looker.ends() == 3
            assert two.restored()
            assert looker.restored()
            assert b"got z" not in looker.seen
    assert host.until_state("con", "EXITED")["last_end"]["code"] == 3
    assert "got hello" in log(host, "con")
    gone = host.ctl("attach", "con")
    assert (gone.returncode, gone.stderr) == (7, "con: ERROR (not running)\n")


def test_a_stdin_without_a_terminal(host: Host) -> None:
    host.define(
        "con",
        """containers:
  con: {rootfs: ROOTFS, command: [sh, -c, "read a; echo first $a; cat; echo over >&2; exit 4"], stdin_open: true,
    restart: "no"}
""",
    )
    host.start()
    host.until_state("con", "RUNNING")
    with attached(host, "con") as sock:
        sock.send(b"ione\n")
        assert sock.recv(4096) == b"ofirst one\n"
    with attached(host, "con") as sock:  # the first has gone: its stdin is still open
        sock.send(b"itwo\n")
        assert sock.recv(4096) == b"otwo\n"
    said = subprocess.run(
        [BIN / "wharfctl", "attach", "--end-stdin", "con"],
        env=host.env, input=b"x" * 300_000, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert (said.returncode, said.stdout, said.stderr) == (4, b"x" * 300_000, b"over\n")


def test_clients_that_come_and_go_or_are_killed_leave_nothing(host: Host) -> None:
    host.define("con", ECHO)
    host.start()
    host.until_state("con", "RUNNING")
    shim = shim_of(host, "con")
    assert host.daemon is not None
    daemon = host.daemon.pid
    with attached(host, "con") as sock:
        sock.send(b"ifirst\n")  # with the first line the log is open
        assert sock.recv(4096)
    before = fds(daemon), fds(shim)
    with Person(host.env, "attach", "con") as person:
        person.ready()
        person.type("one\n")
        person.sees("got one")
        person.run.kill()
        person.run.wait()
    for n in range(40):
        with attached(host, "con") as sock:
            sock.send(b"i%d\n" % n)
            seen = b""
            while b"got %d\r\n" % n not in seen:
                seen += sock.recv(4096)[1:]
    host.until(lambda: fds(daemon) <= before[0] and fds(shim) <= before[1], 10, f"more than {before} descriptors")
    assert "got 39" in log(host, "con")
    assert host.one("con")["state"] == "RUNNING"
    with attached(host, "con"), attached(host, "con"), attached(host, "con"), attached(host, "con"):
        full = host.ctl("attach", "--no-stdin", "con")
        assert full.returncode == 1
        assert "too many clients are attached" in full.stderr


def test_a_client_that_stops_reading_holds_up_nobody(host: Host) -> None:
    host.define("con", FLOOD)
    host.start()
    host.until_state("con", "RUNNING")
    with Person(host.env, "attach", "con") as slow, attached(host, "con") as hostile:
        slow.ready()
        slow.run.send_signal(signal.SIGSTOP)
        hostile.send(b"igo\n")
        host.until(lambda: "F done" in log(host, "con"), 60, "the container waits for a client")
        assert log(host, "con").count("of a flood") == 40000
        assert host.ctl("status", "con").returncode == 0
        slow.run.send_signal(signal.SIGCONT)
        slow.sees("attached anew, output may be missing")
        slow.type("words\n")
        slow.sees("last words")
        assert slow.ends() == 6
        assert slow.restored()


def test_a_terminal_outlives_its_shim_and_the_daemon(host: Host) -> None:
    host.define("con", ECHO)
    host.start()
    pid = host.until_state("con", "RUNNING")["pid"]
    begun, shim = start_time(pid), shim_of(host, "con")
    with Person(host.env, "attach", "con", size=(31, 91)) as person:
        person.ready()
        person.type("size\n")
        person.sees("31 91")
        host.kill_daemon()
        person.type("alone\n")  # between wharfctl and the shim there is no daemon
        person.sees("got alone")
        host.start()
        host.until_state("con", "RUNNING")
        assert kill_shim(host, shim)
        taken_over(host, "con", shim)
        person.sees("attached anew, output may be missing")
        person.type("after\n")
        person.sees("got after")
        person.resize(45, 99)
        person.type("size\n")
        person.sees("45 99")
        person.type("\x04")
        assert person.ends() in (3, 1)  # before Linux 6.15 an end after a takeover may be unknown
    assert start_time(pid) != begun
    end = host.until_state("con", ["EXITED", "FATAL"])["last_end"]
    assert end["code"] in (3, None)
    assert all(f"got {word}" in log(host, "con") for word in ("alone", "after"))
