"""Daemons and shims that die around a start, and together: never two runs, and what is not known is said."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.host import Host, start_time
from tests.e2e.shims import ends, lose_all_and_the_daemon, shims

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SLEEPER = "containers:\n  web: {rootfs: ROOTFS, command: [sleep, '100000'], stop_signal: KILL}\n"


def with_spare(host: Host) -> int:
    """The pid of the shim that waits ready for the first start."""
    host.start()
    host.until(lambda: "ready version=" in host.log_text() and "" in dict(shims(host)), 20, "no spare shim")
    return dict(shims(host))[""]


@contextmanager
def stopped(pid: int) -> Iterator[int]:
    """A process that does not run; its pidfd."""
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    try:
        yield pidfd
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        os.close(pidfd)


def unread_fds(pid: int) -> int:
    """How many fds wait on the start socket of a shim (unix_show_fdinfo)."""
    words = Path(f"/proc/{pid}/fdinfo/3").read_text().split()
    return int(words[words.index("scm_fds:") + 1])


def gone(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(10_000))


def processes(host: Host) -> list[int]:
    """Of all runs of web."""
    files = (host.cgroup / "containers/web").glob("g*/cgroup.procs")
    return [int(pid) for file in files for pid in file.read_text().split()]


@pytest.mark.parametrize("wakes", ["before the next daemon", "after it"])
def test_a_start_message_that_is_read_after_the_daemons_death(host: Host, wakes: str) -> None:
    """Who asked for the run is dead: it must not begin beside the next one."""
    spare = with_spare(host)
    with stopped(spare) as pidfd:
        host.define("web", SLEEPER)
        host.until(lambda: unread_fds(spare) > 0, 10, "no start message waits")
        host.kill_daemon()
        if wakes == "before the next daemon":
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        host.start()
        pid = host.until_state("web", "RUNNING")["pid"]
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        assert gone(pidfd), "the shim of a dead daemon goes on"
    assert (processes(host), host.one("web")["pid"]) == ([pid], pid)
    assert [generation for generation, _ in ends(host)["web"]] == [1, 2]


def test_an_end_that_nobody_saw_says_so(host: Host) -> None:
    """Daemon and shim are dead, and then init ends: all but the code is known."""
    script = "until [ -e /tmp/go ]; do sleep 0.02; done; exit 5"
    host.define("web", f'containers:\n  web: {{rootfs: ROOTFS, command: [sh, -c, "{script}"], restart: "no"}}\n')
    (host.rootfs / "tmp/go").unlink(missing_ok=True)
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    lose_all_and_the_daemon(host)
    (host.rootfs / "tmp/go").touch()
    host.until(lambda: not start_time(pid), 10, "it does not end")
    host.start()
    host.until_state("web", "EXITED")
    words = "lost: daemon and shim were both gone: it ended meanwhile, with a code that nobody saw"
    assert words in host.ctl("why", "web").stdout
    assert words in host.ctl("status", "web").stdout
    assert words in host.ctl("events", "--since", "0").stdout
    ((_, end),) = ends(host)["web"]
    assert (end["code"], end["signal"], end["source"]) == (None, None, "lost")
    assert end["started"] is not None


def test_a_run_whose_init_nothing_proves_is_ended_and_told(host: Host) -> None:
    """I3: the number of a damaged note is believed by nobody, so what is in the run's cgroup cannot be tended."""
    host.define("web", SLEEPER)
    host.start()
    pid = host.until_state("web", "RUNNING")["pid"]
    lose_all_and_the_daemon(host)
    (host.base / "run/c/web/g1/init").write_text(f"version=1\npid={os.getpid()}\n")
    host.start()
    host.until(lambda: host.one("web").get("pid") not in (None, pid), 20, "no other run")
    assert not start_time(pid)
    assert "nothing proves which process is its init, so it was ended" in host.ctl("why", "web").stdout
    generation, end = ends(host)["web"][0]
    assert (generation, end["source"]) == (1, "lost")
