"""What another OCI runtime is given for a run, and what it leaves: all of it in the run directory.

    bundle/config.json   the spec, with the root by its absolute path and the run's leaf as its cgroup
    peer/                its state (--root)
    peer.log             its own log (--log), JSON lines; its errors are read from it
    pid                  of init (--pid-file)
    peer.json            which program it was: for the removal, whoever does it

Limits are not the runtime's: they are written to the container's stable cgroup, as for every run.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from config.errors import HostError, LaunchError, RefusedError
from runtime import wire
from runtime.oci import Spec
from runtime.peer import ENVIRONMENT, Peer, run
from runtime.probe import HostFacts
from runtime.wire import PEER_INSIDE, op

VERSION: Final = "1.0.2"  # old runtimes refuse a later one unread
DELETE_LIMIT: Final = 5.0
LOG_TAIL: Final = 65536
_CREATE, _START, _DELETE = range(3)
_VERBS: Final = ("create", "start", "delete")
_MOUNT: Final = Path("/sys/fs/cgroup")
# errors of a definition or a root that a runtime tells in words only
_WORDS: Final = {
    os.strerror(number).lower(): number
    for number in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
}


def container_id(name: str, generation: int) -> str:
    return f"{name}-g{generation}"


def cgroups_path(host: HostFacts, leaf: Path) -> str:
    """`linux.cgroupsPath` of a leaf. Raises RefusedError where a runtime would take it for another place."""
    if host.mode != "unified" or host.cgroup_mount != _MOUNT:
        raise RefusedError(
            f"a runtime other than native needs a unified cgroup v2 at {_MOUNT}",
            str(host.cgroup_mount or "no cgroup v2"),
            "boot with systemd.unified_cgroup_hierarchy=1",
        )
    return f"/{leaf.relative_to(_MOUNT)}"


def peer_spec(spec: Mapping[str, Any], rootfs: Path, cgroup: str) -> Spec:
    """The config.json of a run. `spec` stays as it is. Raises RefusedError for a terminal."""
    if spec["process"].get("terminal"):
        raise RefusedError("a terminal needs runtime: native", "process.terminal")
    linux = {key: value for key, value in spec["linux"].items() if key != "resources"}
    rules = (spec["linux"].get("resources") or {}).get("devices")
    linux |= {"cgroupsPath": cgroup, "resources": {"devices": rules} if rules else {}}
    return {
        **spec,
        "ociVersion": VERSION,
        "root": {**spec["root"], "path": str(rootfs)},
        "process": {"oomScoreAdj": 0, **spec["process"]},
        "linux": linux,
    }


def write(run_dir: Path, peer: Peer, number: str, boot_id: str, spec: Spec) -> None:
    """The files of a run. Raises HostError."""
    note = {"path": peer.path, "kind": peer.kind, "version": peer.version, "id": number, "boot_id": boot_id}
    try:
        (run_dir / "peer.json").write_text(json.dumps(note))
        for name in ("bundle", "peer"):
            os.mkdir(run_dir / name, 0o700)
        text = json.dumps(spec, ensure_ascii=False, separators=(",", ":"))
        (run_dir / "bundle/config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise HostError(f"cannot write the bundle: {error.strerror}", where=str(run_dir)) from error


def peer_plan(run_dir: Path, peer: Peer, number: str, limit: float, spec: Mapping[str, Any]) -> bytes:
    """The commands that the shim runs: PEER steps, each with its ARGs."""
    base = _global_options(peer.path, peer.kind, run_dir)
    base += ["--network", _network(spec)] if peer.kind == "runsc" else []
    calls = {
        _CREATE: ["create", "--bundle", f"{run_dir}/bundle", "--pid-file", f"{run_dir}/pid", number],
        _START: ["start", number],
        _DELETE: ["delete", "--force", number],
    }
    ops = [op("ENV", text=f"{key}={value}") for key, value in ENVIRONMENT.items()]
    for kind, words in calls.items():
        seconds = DELETE_LIMIT if kind == _DELETE else limit
        inside = PEER_INSIDE if kind == _CREATE and peer.kind == "runsc" else 0
        ops.append(op("PEER", kind=kind, timeout_ms=max(1, int(seconds * 1000)), flags=inside))
        ops += [op("ARG", text=word) for word in [*base, *words]]
    return wire.encode([*ops, op("EXEC")])


def _global_options(path: str, kind: str, run_dir: Path) -> list[str]:
    """runsc wants files of controllers in the leaf, which has none: its processes are born there instead."""
    words = [path, "--root", f"{run_dir}/peer", "--log", f"{run_dir}/peer.log", "--log-format", "json"]
    return [*words, *{"crun": ["--cgroup-manager", "cgroupfs"], "runsc": ["--ignore-cgroups"]}.get(kind, [])]


def _network(spec: Mapping[str, Any]) -> str:
    """runsc has a network of its own: with a new namespace a loopback alone, as ours have."""
    spaces = [entry for entry in spec["linux"].get("namespaces") or () if entry["type"] == "network"]
    return "host" if not spaces else "sandbox" if spaces[0].get("path") else "none"


def told(error: LaunchError, peer: Peer, run_dir: Path, limit: float) -> LaunchError:
    """The shim's fault in the runtime's own words: which runtime, which command, what it said."""
    said = last_error(run_dir / "peer.log")
    if error.operation == "init":  # it died while it was set up, by its memory limit perhaps
        return LaunchError(peer.kind, detail=": ".join(part for part in (error.detail, said) if part))
    if error.operation != "PEER":
        return error
    verb = error.detail.removeprefix("in ")
    detail = said or error.path
    if error.errno == errno.ETIMEDOUT:
        detail = ": ".join(part for part in (f"not done within {limit:g} s", said) if part)
    elif error.errno == errno.EFBIG:
        detail = "killed: it floods its log"
    elif error.errno != errno.EIO:
        detail = error.path
    return LaunchError(f"{peer.kind} {verb}", errno=_errno_of(said) if error.errno == errno.EIO else 0, detail=detail)


def _errno_of(said: str) -> int:
    tail = said.rpartition(": ")[2].strip().strip('"').lower()
    return _WORDS.get(tail, 0)


def last_error(path: Path) -> str:
    """The last error of a runtime's log, one line; what is no JSON is taken as it is. "" when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        file.seek(max(0, os.fstat(fd).st_size - LOG_TAIL))
        lines = file.read(LOG_TAIL).decode("utf-8", "replace").splitlines()
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if line.strip():
                return line.strip()
            continue
        if isinstance(record, dict) and record.get("level", "error") in ("error", "fatal", "panic"):
            return " ".join(str(record.get("msg", "")).split())
    return ""


def delete(run_dir: Path, boot_id: str, limit: float = DELETE_LIMIT) -> str:
    """In a worker thread: have the runtime forget what is left of an ended run, and wait for its shim before.

    Returns what went wrong, in words, or "": the caller removes cgroup and directory whatever it says.
    """
    note = _note(run_dir)
    if note is None:
        return ""
    late = "" if _await_shim(run_dir, limit) else f"its shim is not done with {run_dir} within {limit:g} s"
    return "; ".join(problem for problem in (late, _delete(run_dir, boot_id, note, limit)) if problem)


def _delete(run_dir: Path, boot_id: str, note: Mapping[str, str], limit: float) -> str:
    try:
        left = os.listdir(run_dir / "peer")
    except OSError:
        return ""
    if not left or note.get("boot_id") != boot_id:  # pids of another boot mean nothing
        return ""
    argv = _global_options(note["path"], note.get("kind", ""), run_dir)
    try:
        status, _ = run([*argv, "delete", "--force", note["id"]], limit)
    except OSError as error:
        return f"{note['path']} delete: {error.strerror}"
    if status == 0:
        return ""
    why = f"not done within {limit:g} s" if status is None else f"exit {status}"
    said = last_error(run_dir / "peer.log")
    return f"{note['path']} delete: {why}{': ' + said if said else ''}"


def _note(run_dir: Path) -> dict[str, str] | None:
    try:
        note = json.loads((run_dir / "peer.json").read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and all(isinstance(note.get(k), str) for k in ("path", "id")) else None


def _await_shim(run_dir: Path, limit: float) -> bool:
    """The shim holds a lock on the run directory until its end; it may be deleting at this moment. False: it still
    has it after `limit` seconds."""
    try:
        fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        end = time.monotonic() + limit
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
            except OSError:  # a file system without locks: nothing to wait for
                return True
            time.sleep(0.01)
    finally:
        os.close(fd)


__all__ = [
    "cgroups_path", "container_id", "delete", "last_error", "peer_plan", "peer_spec", "told", "write",
]  # fmt: skip
