"""`spec`: a config.json to begin with, as runc writes it: a shell on a terminal, few rights, no network."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from config.errors import HostError, RefusedError

if TYPE_CHECKING:
    from runtime.ocicli.main import Call

_CAPS = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_MASKED = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
]
_READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def spec(call: Call) -> int:
    """Write it into the bundle. Raises RefusedError when it is there already."""
    path = os.path.join(call.options.text("bundle", "."), call.options.text("file", "config.json"))
    text = json.dumps(example(rootless=call.options.flag("rootless")), indent="\t")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except FileExistsError:
        raise RefusedError("exists already", path, "remove it first") from None
    except OSError as error:
        raise HostError(f"cannot be written: {error.strerror}", path) from None
    return 0


def example(*, rootless: bool = False) -> dict[str, Any]:
    """A spec that runs `sh` in `rootfs`."""
    spaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    made: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": _CAPS, "effective": _CAPS, "permitted": _CAPS},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "wharf",
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in spaces],
            "maskedPaths": _MASKED,
            "readonlyPaths": _READONLY,
        },
    }
    if rootless:
        made["linux"]["namespaces"].append({"type": "user"})
        made["linux"]["uidMappings"] = [{"containerID": 0, "hostID": os.getuid(), "size": 1}]
        made["linux"]["gidMappings"] = [{"containerID": 0, "hostID": os.getgid(), "size": 1}]
    return made


def _mounts() -> list[dict[str, Any]]:
    safe = ["nosuid", "noexec", "nodev"]

    def mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": source, "options": list(options)}

    return [
        mount("/proc", "proc", "proc", *safe),
        mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/shm", "tmpfs", "shm", *safe, "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", *safe),
        mount("/sys", "sysfs", "sysfs", *safe, "ro"),
        mount("/sys/fs/cgroup", "cgroup2", "cgroup", *safe, "relatime", "ro"),
    ]
