"""Other OCI runtimes (crun, runc, runsc): which program it is, which version, and whether that one may be used.

A program is asked for its version once, until the file changes. Versions with known holes are in data/vulnerable.json,
those only that a container's image or definition can reach by create, start and delete; not those of a runtime's own
exec, which is never called. A version is upstream's: what a packager has fixed in it, only the definition can say.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from config.errors import LaunchError, RefusedError

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT: Final = {"PATH": PATH}
VERSION_LIMIT: Final = 5.0
_OUTPUT_MAX: Final = 4096
_SAYS: Final = re.compile(r"([a-z][a-z0-9_-]*) version:? (\S+)", re.ASCII)
_VERSION: Final = re.compile(r"(?:release-|v)?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-rc\.?(\d+))?", re.ASCII)

Version = tuple[int, int, int, int]  # the last: number of the release candidate
_FINAL: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Peer:
    """One program. `kind` and `version` as it says them itself."""

    path: str
    kind: str
    version: str

    @property
    def joinable(self) -> bool:
        """Whether its containers are namespaces that we can join; runsc's are processes of its own kernel."""
        return self.kind not in ("", "runsc")


def parse_version(text: str) -> Version | None:
    """Numbers that compare: a release candidate is before its release; what packagers append is left out."""
    match = _VERSION.match(text)
    if match is None:
        return None
    major, minor, patch, candidate = match.groups()
    return int(major), int(minor or 0), int(patch or 0), _FINAL if candidate is None else int(candidate)


def _number(text: str) -> Version:
    found = parse_version(text)
    if found is None:
        raise ValueError(text)
    return found


@cache
def _table() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    text = files("runtime").joinpath("data/vulnerable.json").read_text(encoding="utf-8")
    table: Mapping[str, Sequence[Mapping[str, Any]]] = json.loads(text)
    return table


def vulnerabilities(kind: str, version: str) -> tuple[str, ...]:
    """CVE numbers that this version has. A version that says nothing has none that we know."""
    number = parse_version(version)
    if number is None:
        return ()
    return tuple(row["cve"] for row in _table().get(kind, ()) if _has(row, number))


def _has(row: Mapping[str, Any], number: Version) -> bool:
    """`fixed` has one version for each line of releases: the line's own counts, else the next later one."""
    if "since" in row and number < _number(row["since"]):
        return False
    later = [fix for fix in map(_number, row["fixed"]) if fix[:2] >= number[:2]]
    return bool(later) and number < min(later)


class Peers:
    """The runtimes of this host. `paths`: where a setting says that one is; else it is looked for in PATH."""

    def __init__(self, paths: Mapping[str, str] | None = None, search: str = PATH) -> None:
        self._paths = dict(paths or {})
        self._search = search
        self._known: dict[tuple[str, int, int, int], Peer] = {}

    def allowed(self, runtime: str, allow_vulnerable: bool) -> Peer:
        """The runtime of a definition. Raises RefusedError when its version has known holes, LaunchError when it is
        not there or does not tell a version."""
        peer = self.look(runtime)
        found = vulnerabilities(peer.kind, peer.version)
        if found and not allow_vulnerable:
            raise RefusedError(
                f"{peer.kind} {peer.version} has {', '.join(found)}",
                peer.path,
                "install a later one, or set allow_vulnerable_runtime: true if its packager has fixed them",
            )
        return peer

    def look(self, runtime: str) -> Peer:
        """Which program it is. In a worker thread: it may be started."""
        path = self._where(runtime)
        try:
            status = os.stat(path)
        except OSError as error:
            raise LaunchError("runtime", path, error.errno or 0) from None
        if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK):
            raise LaunchError("runtime", path, detail="is not a program")
        if status.st_uid != 0 or status.st_mode & 0o022:
            raise RefusedError("others than root may change it", path, "chown root and chmod go-w")
        key = (path, status.st_dev, status.st_ino, status.st_mtime_ns)
        if key not in self._known:
            kind, version = _ask(path)
            self._known = {known: peer for known, peer in self._known.items() if known[0] != path}
            self._known[key] = Peer(path, kind, version)
        return self._known[key]

    def _where(self, runtime: str) -> str:
        if runtime.startswith("/"):
            return runtime
        given = self._paths.get(runtime) or shutil.which(runtime, path=self._search)
        if given is None:
            raise LaunchError("runtime", runtime, detail=f"is not installed, or set {runtime}_path")
        return given


def run(argv: Sequence[str], limit: float, *, output: bool = False) -> tuple[int | None, str]:
    """Exit status (None: it took too long and was killed) and, if asked for, the head of its output. Raises OSError."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        running = subprocess.Popen(
            argv,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=write if output else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            status = running.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if running.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()
        return status, _head(read) if output else ""
    finally:
        os.close(read)
        os.close(write)


def _head(fd: int) -> str:
    with suppress(BlockingIOError):
        return os.read(fd, _OUTPUT_MAX).decode("utf-8", "replace")
    return ""


def _ask(path: str) -> tuple[str, str]:
    """Its name and version, from `--version`."""
    try:
        status, text = run([path, "--version"], VERSION_LIMIT, output=True)
    except OSError as error:
        raise LaunchError("runtime", path, error.errno or 0) from None
    if status is None:
        raise LaunchError("runtime", path, detail=f"--version is not done within {VERSION_LIMIT:g} s")
    match = _SAYS.search(text)
    if status != 0 or match is None:
        said = text.strip().splitlines()[0] if text.strip() else "nothing"
        raise LaunchError("runtime", path, detail=f"--version ends with {status} and says {said!r}")
    return Path(match[1]).name, match[2]
