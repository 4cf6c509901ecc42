"""The whole of it in a minute: `make demo`. Shows, kills the daemon, shows again, stops, counts what is left.

Every line that it prints as a claim was checked a moment before; the exit code is 1 when one does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
BASE = Path("/run/wharfinger-demo")
METRICS = "127.0.0.1:9627"
ENV = os.environ | {
    "WHARFINGER_DEFINITIONS_DIR": str(BASE / "containers.d"),
    "WHARFINGER_STATE_DIR": str(BASE / "state"),
    "WHARFINGER_RUN_DIR": str(BASE / "run"),
    "WHARFINGER_LOG_DIR": str(BASE / "log"),
    "WHARFINGER_CONFIG_FILE": str(BASE / "config.toml"),
    "WHARFINGER_SOCKET": str(BASE / "run/control.sock"),
    "WHARFINGER_METRICS_LISTEN": METRICS,
}
SPARE = 1  # one shim waits ready for the next start; it goes with the daemon
START = time.monotonic()


def say(text: str) -> None:
    print(f"\n== {text} (t+{time.monotonic() - START:.0f}s)", flush=True)


def ctl(*args: str, show: bool = True) -> str:
    done = subprocess.run([BIN / "wharfctl", *args], env=ENV, capture_output=True, text=True, timeout=60)
    if show:
        print(f"$ wharfctl {' '.join(args)}\n{done.stdout}{done.stderr}", end="", flush=True)
    return done.stdout


def status() -> dict[str, dict[str, Any]]:
    try:
        return {c["name"]: c for c in json.loads(ctl("status", "--json", show=False))["containers"]}
    except (ValueError, KeyError):
        return {}


def until(what: str, condition: Callable[[dict[str, dict[str, Any]]], bool], limit: float) -> bool:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if condition(now := status()) and now:
            return True
        time.sleep(0.25)  # a person's pace; nothing is decided by it
    print(f"!! not seen within {limit:.0f} s: {what}")
    return False


def daemon(*, own_session: bool = False) -> subprocess.Popen[bytes]:
    """own_session: a Ctrl-C on the terminal is not for it."""
    log = (BASE / "daemon.log").open("ab")
    return subprocess.Popen(
        [BIN / "wharfingerd"],
        env=ENV,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=own_session,
    )


def start_time(pid: int) -> str:
    """Start of the process in clock ticks since boot (proc(5), stat): with the pid, who it is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def cgroup_root() -> Path:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    mount = next(line.split()[1] for line in mounts if line.split()[2] == "cgroup2")
    return Path(mount) / "wharfinger"


def leftovers(mounts_before: int) -> list[str]:
    left = [f"cgroup {p}" for p in cgroup_root().glob("containers/*/g*")]
    shims = (cgroup_root() / "shims/cgroup.procs").read_text().split()
    left += [f"shim {pid}" for pid in shims[SPARE:]]
    mounts = len(Path("/proc/self/mountinfo").read_text().splitlines())
    if mounts != mounts_before:
        left.append(f"{mounts - mounts_before} mounts")
    left += [f"run directory {p}" for p in (BASE / "run/c").glob("*/g*")]
    return left


def prepare() -> None:
    shutil.rmtree(BASE, ignore_errors=True)
    BASE.mkdir(parents=True)
    shutil.copytree(HERE / "containers.d", BASE / "containers.d")
    (BASE / "config.toml").write_text(f'metrics_listen = "{METRICS}"\n')
    subprocess.run([HERE / "rootfs.sh", BASE / "rootfs"], check=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo", description="Show Wharfinger at work on examples/.")
    parser.add_argument("--live", action="store_true", help="leave it running, and say how to look at it")
    live = parser.parse_args(argv).live
    checks: list[tuple[str, bool]] = []
    prepare()
    mounts_before = len(Path("/proc/self/mountinfo").read_text().splitlines())

    say("wharfingerd starts on examples/: a web server, an app that waits for it, a job, a flaky worker, a memory hog")
    keeper = daemon()
    until("the daemon answers", bool, 15)
    ctl("status")
    checks.append(
        (
            "web is healthy, app runs, the job is done, flaky is FATAL, hog was killed by OOM",
            until(
                "the fleet settles",
                lambda s: (
                    s["web"]["health"] == "healthy"
                    and s["app"]["state"] == "RUNNING"
                    and s["job"]["state"] == "EXITED"
                    and s["flaky"]["state"] == "FATAL"
                    and bool((s["hog"].get("last_end") or {}).get("oom", {}).get("killed"))
                ),
                45,
            ),
        )
    )
    say("settled")
    ctl("status")
    if live:
        print(f"\nMetrics: http://{METRICS}/metrics  State: {BASE}  Daemon: pid {keeper.pid}")
        if os.environ.get("WHARFINGER_VM"):
            print("This is the virtual machine: it ends with this shell.")
            subprocess.run(
                [os.environ.get("SHELL", "/bin/sh")], env=ENV | {"PATH": f"{BIN}:{ENV['PATH']}"}, check=False
            )
        else:
            print(f"Look: WHARFINGER_SOCKET={ENV['WHARFINGER_SOCKET']} {BIN}/wharfctl status")
            print(f"End:  the same with `stop all`, then kill {keeper.pid}")
        return 0

    say("one scrape of /metrics")
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    samples = [line for line in lines if line and line[0] != "#"]
    shown = [
        s for s in samples if 'name="hog"' in s and ("oom" in s or "spec_memory_limit" in s or 'state="backoff"' in s)
    ]
    print("\n".join(shown), f"\n... {len(samples)} samples in {sum(s[:6] == '# TYPE' for s in lines)} families")
    checks.append(
        ("the OOM kill of hog is in the metrics", any("oom_events_total" in s and s[-2:] != " 0" for s in shown))
    )

    say("why is the hog where it is?")
    checks.append(("why tells of the OOM", "oom" in ctl("why", "hog").lower()))

    say("SIGKILL to the daemon: the containers must not notice")
    ctl("stop", "hog", show=False)
    before = {n: (c["pid"], start_time(c["pid"])) for n, c in status().items() if c["state"] == "RUNNING"}
    keeper.send_signal(signal.SIGKILL)
    keeper.wait()
    alive = all(start_time(pid) == begun != "" for pid, begun in before.values())
    print(f"without a daemon: {', '.join(f'{n} pid {p}' for n, (p, _) in before.items())} all alive: {alive}")
    keeper = daemon()
    adopted = until("adoption", lambda s: all(s.get(n, {}).get("state") == "RUNNING" for n in before), 15)
    after = {n: (c["pid"], start_time(c["pid"])) for n, c in status().items() if n in before and c["pid"]}
    ctl("status")
    checks.append(
        (f"{len(before)} containers adopted with the same pid and start time", alive and adopted and before == after)
    )
    checks.append(("a stop before the daemon's death is still a stop", status()["hog"]["state"] == "STOPPED"))

    say("stop all, and the daemon")
    ctl("stop", "all")
    until("all are down", lambda s: all(c["state"] in ("STOPPED", "EXITED", "FATAL") for c in s.values()), 20)
    ctl("status")
    deadline = time.monotonic() + 10
    while leftovers(mounts_before) and time.monotonic() < deadline:
        time.sleep(0.2)
    keeper.terminate()
    keeper.wait(timeout=15)
    left = leftovers(mounts_before)
    checks.append(("no cgroup, mount, process or run directory is left", not left))
    print("\n".join(left) or "nothing is left")

    say("summary")
    for what, held in checks:
        print(f"{'ok  ' if held else 'FAIL'} {what}")
    held = all(ok for _, ok in checks)
    if not held:
        print(f"--- the daemon's log, last lines\n{(BASE / 'daemon.log').read_text()[-4000:]}")
    shutil.rmtree(BASE, ignore_errors=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
