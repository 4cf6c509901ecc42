"""OOM told from the kernel's own counters: every kill of init, and nothing else. In the VM, where limits are real."""

from __future__ import annotations

import os

import pytest

from tests.e2e.host import Host

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.timeout(900)]

COUNT = int(os.environ.get("WHARF_OOMS", "200"))
EATER = "exec tail /dev/zero"
LIMIT = "resources: {memory: 8MiB, memory_swap: 0}"


def fleet(kind: str, command: str, count: int, limit: str) -> str:
    one = f"  {kind}%d: {{rootfs: ROOTFS, command: [sh, -c, \"{command}\"], restart: 'no', {limit}}}\n"
    return "containers:\n" + "".join(one % n for n in range(count))


def test_200_of_200_oom_kills_are_told_with_their_scope_and_0_of_200_exits_with_137(host: Host) -> None:
    host.start()
    host.define("oom", fleet("oom", EATER, COUNT, LIMIT))
    host.define("plain", fleet("plain", "exit 137", COUNT, LIMIT))
    done = ("EXITED", "FATAL")
    host.until(lambda: sum(c["state"] in done for c in host.status().values()) == 2 * COUNT, 600, "not all have ended")
    ends = {name: c["last_end"] for name, c in host.status().items()}
    killed = [n for n, e in ends.items() if n.startswith("oom") and e["oom"]["killed"]]
    scopes = {e["oom"]["scope"] for n, e in ends.items() if n.startswith("oom")}
    wrong = [n for n, e in ends.items() if n.startswith("plain") and (e["oom"]["killed"] or e["code"] != 137)]
    assert len(killed) == COUNT
    assert scopes == {"container"}
    assert wrong == []


def test_a_childs_oom_kill_is_an_event_and_not_an_end(host: Host) -> None:
    """buglog 9: a stale flag must not colour a later clean exit."""
    host.start()
    host.define(
        "child",
        """containers:
  child:
    rootfs: ROOTFS
    restart: "no"
    stop_signal: KILL
    oom: {group: false}
    resources: {memory: 8MiB, memory_swap: 0}
    command:
      - sh
      - -c
      - "(echo 1000 > /proc/self/oom_score_adj; exec tail /dev/zero); echo survived;
         while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 7"
    mounts: [{type: tmpfs, target: /tmp}]
""",
    )
    host.until(lambda: "survived" in host.ctl("logs", "child").stdout, 30, "init did not survive")
    host.until(lambda: "oom" in host.ctl("events").stdout, 10, "no event of the child's kill")
    host.until_state("child", "RUNNING")
    host.ctl("exec", "child", "--", "touch", "/tmp/go")
    end = host.until_state("child", "EXITED")["last_end"]
    assert (end["code"], end["oom"]["killed"]) == (7, False)
    assert 'wharfinger_container_oom_kills_total{name="child",scope="container"} 1' in host.metrics()


def test_a_kill_by_a_limit_above_is_told_as_the_parents(host: Host) -> None:
    """buglog 7: the limit sits on an ancestor, the container has none."""
    host.start()
    (host.cgroup / "containers/memory.max").write_text("16M")
    (host.cgroup / "containers/memory.swap.max").write_text("0")
    host.define("eater", f'containers: {{eater: {{rootfs: ROOTFS, command: [sh, -c, "{EATER}"], restart: "no"}}}}')
    end = host.until_state("eater", ["EXITED", "FATAL"])["last_end"]
    assert end["oom"]["killed"]
    assert end["oom"]["scope"] == "parent"


def test_sigkill_from_outside_is_no_oom_and_status_shows_the_limit_of_one_that_is(host: Host) -> None:
    host.start()
    host.define(
        "two",
        f"""containers:
  killed: {{rootfs: ROOTFS, command: [sh, -c, "sleep 1; kill -9 $$ || true; sleep 1000"], {LIMIT}, restart: "no"}}
  eater: {{rootfs: ROOTFS, command: [sh, -c, "{EATER}"], {LIMIT}, restart: {{policy: on-failure, interval: 30s}}}}
""",
    )
    host.until_state("killed", "RUNNING")
    host.ctl("signal", "KILL", "killed")
    end = host.until_state("killed", "EXITED")["last_end"]
    assert (end["signal"], end["oom"]["killed"]) == (9, False)
    host.until_state("eater", "BACKOFF")
    line = host.ctl("status", "eater").stdout
    assert "oom" in line
    assert "8MiB" in line
    why = host.ctl("why", "eater").stdout
    assert "oom" in why.lower()


def test_limits_are_written_where_they_hold(host: Host) -> None:
    host.start()
    host.define(
        "lim",
        """containers:
  lim:
    rootfs: ROOTFS
    command: [sleep, "1000"]
    stop_signal: KILL
    resources: {memory: 64MiB, memory_high: 48MiB, memory_swap: 0, cpus: 0.5, cpu_weight: 50, pids: 17}
""",
    )
    host.until_state("lim", "RUNNING")
    at = host.cgroup / "containers/lim"
    values = {
        f: (at / f).read_text().strip() for f in ("memory.max", "memory.high", "cpu.max", "cpu.weight", "pids.max")
    }
    assert values == {
        "memory.max": str(64 << 20),
        "memory.high": str(48 << 20),
        "cpu.max": "50000 100000",
        "cpu.weight": "50",
        "pids.max": "17",
    }
    assert (at / "memory.oom.group").read_text().strip() == "1"
    pid = host.one("lim")["pid"]
    host.define("lim", (host.definitions / "lim.yaml").read_text().replace("64MiB", "80MiB"))
    host.until(lambda: (at / "memory.max").read_text().strip() == str(80 << 20), 10, "not changed live")
    assert host.one("lim")["pid"] == pid
