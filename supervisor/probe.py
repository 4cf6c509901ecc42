"""One health check: a command inside the container, by the shim's exec; bounded in time and output."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

import anyio

from config.errors import GoneError, WharfError
from config.model import HealthCheck
from runtime.plan import compile_exec
from runtime.shim import Shim

OUTPUT = 4096


def probe_args(check: HealthCheck) -> tuple[str, ...]:
    """`CMD a b` runs a b; `CMD-SHELL text` runs it by the container's /bin/sh (Compose, "healthcheck")."""
    kind, *rest = check.test
    return ("/bin/sh", "-c", " ".join(rest)) if kind == "CMD-SHELL" else tuple(rest)


async def run_probe(shim: Shim, spec: Mapping[str, Any], check: HealthCheck) -> tuple[str, str]:
    """(`success`, `failure` or `timeout`; one line of output). A check that takes too long is killed.

    Raises GoneError when init has ended, or the shim was lost: that says nothing of its health.
    """
    plan = compile_exec(dict(spec), probe_args(check)).encode()
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        try:
            running = await shim.exec(plan, null, write, write)
        except GoneError:
            raise
        except WharfError as error:
            return "failure", str(error)
        finally:
            os.close(write)
        status: int | None = None
        try:
            with anyio.move_on_after(check.timeout):
                status = await running.wait()
        except GoneError:
            running.kill()  # nobody hears its end any more
            running.close()
            raise
        if status is None:
            await shim.signal_exec(running.id, signal.SIGKILL)
            with anyio.move_on_after(2):
                await running.wait()
        text = _head(read).decode("utf-8", "replace").strip().replace("\n", " | ")
        if status is None:
            return "timeout", f"no end after {check.timeout:g} s{': ' + text if text else ''}"
        if status == 0:
            return "success", text
        return "failure", f"exit {status}{': ' + text if text else ''}"
    finally:
        os.close(null)
        os.close(read)


def _head(fd: int) -> bytes:
    """What the check wrote so far, cut: a grandchild that keeps the pipe is not waited for."""
    try:
        return os.read(fd, OUTPUT)
    except BlockingIOError:
        return b""
