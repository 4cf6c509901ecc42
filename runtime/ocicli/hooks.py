"""The hooks that the command line itself runs: poststart and poststop. The others are the launcher's.

Source: runtime-spec config.md, "POSIX-platform Hooks"; runtime.md, "Lifecycle".
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from config.errors import HostError, WharfError


def inherit_env(spec: Mapping[str, Any]) -> None:
    """A hook whose environment is not said gets ours, as runc and crun have it."""
    for hooks in (spec.get("hooks") or {}).values():
        for hook in hooks or ():
            if hook.get("env") is None:
                hook["env"] = [f"{name}={value}" for name, value in os.environ.items()]


def run_hooks(spec: Mapping[str, Any], kind: str, state: Mapping[str, Any]) -> None:
    """Run the hooks of one kind in their order. Raises HostError at the first that fails."""
    for hook in (spec.get("hooks") or {}).get(kind) or ():
        _run(hook, kind, json.dumps(state).encode(), str(state["bundle"]))


def run_poststop(spec: Mapping[str, Any], state: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """All of them; one that fails does not keep the others from running."""
    for hook in (spec.get("hooks") or {}).get("poststop") or ():
        try:
            _run(hook, "poststop", json.dumps(state).encode(), str(state["bundle"]))
        except WharfError as error:
            warn(str(error))


def _run(hook: Mapping[str, Any], kind: str, state: bytes, bundle: str) -> None:
    import subprocess  # slow, and few have hooks

    where = f"{kind} hook {hook['path']}"
    env = dict(entry.partition("=")[::2] for entry in hook.get("env") or ())
    cwd = bundle if os.path.isdir(bundle) else "/"
    try:
        process = subprocess.Popen(
            hook.get("args") or [hook["path"]],
            executable=hook["path"],
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(f"cannot be run: {error.strerror}", where) from None
    try:
        process.communicate(state, timeout=hook.get("timeout"))
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the group is its own
        process.wait()
        raise HostError(f"did not end within {hook['timeout']} s", where) from None
    if process.returncode:
        how = f"exit {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        raise HostError(f"failed: {how}", where)
