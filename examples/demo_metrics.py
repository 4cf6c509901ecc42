"""`make demo-metrics`: the demo's containers, and a Prometheus that watches them, until Ctrl-C."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from examples import demo
from examples.prometheus import Prometheus

PORT = 9090
LOOK = (
    ("the state of each container", 'wharfinger_container_state == 1'),
    ("restarts by cause", 'increase(wharfinger_container_restarts_total[15m]) > 0'),
    ("memory, of its limit", "instance_name:container_memory_limit:ratio"),
    ("waiting for the processor", "instance_name:container_pressure_cpu_waiting:ratio_rate5m"),
)  # fmt: skip


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    demo.prepare()
    fit_host()
    mounts = len(Path("/proc/self/mountinfo").read_text().splitlines())
    keeper = demo.daemon(own_session=True)
    prometheus = Prometheus(demo.BASE / "prometheus", demo.METRICS, PORT, interval="5s")
    try:
        prometheus.start()
        if not demo.until("the daemon answers", bool, 15):
            return 1
        deadline = time.monotonic() + 30
        while not prometheus.ready():
            if time.monotonic() > deadline or (prometheus.process and prometheus.process.poll() is not None):
                print((prometheus.base / "prometheus.log").read_text()[-2000:])
                return 1
            time.sleep(0.2)
        tell(prometheus)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        print("\nEnding all of it", flush=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second one must not leave half behind
        prometheus.stop()
        end(keeper, mounts)
    return 0


def fit_host() -> None:
    """Where memory cannot be limited, nobody may eat it: the hog stays away, and other limits are only wished for."""
    if "memory" in (demo.cgroup_root().parent / "cgroup.controllers").read_text().split():
        return
    print("This host's cgroup v2 has no memory controller: no hog, and limits are not kept")
    for path in (demo.BASE / "containers.d").glob("*.yaml"):
        text = path.read_text().partition("  hog:")[0]
        path.write_text(text.replace("resources: {", "resources: {on_missing: warn, "))


def tell(prometheus: Prometheus) -> None:
    demo.ctl("status")
    print(f"\nMetrics     http://{demo.METRICS}/metrics")
    print(f"Prometheus  {prometheus.url}/graph  alerts: {prometheus.url}/alerts  rules: {prometheus.url}/rules")
    print("Ask it:")
    for what, text in LOOK:
        print(f"  {text:62} {what}")
    print(f"Look        WHARFINGER_SOCKET={demo.ENV['WHARFINGER_SOCKET']} {demo.BIN}/wharfctl status")
    print(
        "An alert waits for its `for`: ContainerNotRunning of flaky comes after ten minutes. Ctrl-C ends all.",
        flush=True,
    )


def end(keeper: subprocess.Popen[bytes], mounts: int) -> None:
    demo.ctl("stop", "all")
    deadline = time.monotonic() + 10
    while demo.leftovers(mounts) and time.monotonic() < deadline:
        time.sleep(0.2)
    keeper.terminate()
    keeper.wait(timeout=15)
    left = demo.leftovers(mounts)
    print("\n".join(left) or "nothing is left")
    shutil.rmtree(demo.BASE, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
