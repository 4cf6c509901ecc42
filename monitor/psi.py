"""PSI triggers: what may be asked for, what the kernel takes, and why not.

Windows are 0.5 to 10 s. Without CAP_SYS_RESOURCE only multiples of 2 s are taken, and before Linux 6.5 none at all.
Source: accounting/psi.rst, "Monitoring for pressure thresholds"; kernel/sched/psi.c.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from config.errors import GoneError, HostError, RefusedError
from config.pressure import KINDS, RESOURCES, WINDOW_MAX, WINDOW_MIN

WINDOW_STEP = 2_000_000


@dataclass(frozen=True, slots=True)
class Trigger:
    """Fires when tasks stalled for `threshold` within `window` (microseconds). adjusted: not what was asked for."""

    threshold: int
    window: int
    adjusted: bool = False

    def line(self, kind: str) -> bytes:
        return f"{kind} {self.threshold} {self.window}\0".encode()


def check(resource: str, kind: str, threshold: int, window: int, where: str = "") -> None:
    """Raises RefusedError for what no kernel takes."""
    if resource not in RESOURCES or kind not in KINDS:
        raise RefusedError(f"no such pressure: {resource} {kind}", where, "cpu, memory or io; some or full")
    if not WINDOW_MIN <= window <= WINDOW_MAX:
        raise RefusedError(f"a pressure window of {window / 1e6:g} s", where, "the kernel takes 0.5 s to 10 s")
    if not 0 < threshold <= window:
        raise RefusedError(f"a pressure threshold of {threshold / 1e6:g} s", where, "more than 0, at most the window")


def stepped(trigger: Trigger) -> Trigger:
    """The nearest trigger whose window is a multiple of 2 s, not shorter, at the same share of stalled time."""
    window = min(WINDOW_MAX, -(-trigger.window // WINDOW_STEP) * WINDOW_STEP)
    return Trigger(max(1, trigger.threshold * window // trigger.window), window, adjusted=window != trigger.window)


def open_trigger(
    cgroup: str | os.PathLike[str] | int, resource: str, kind: str, threshold: int, window: int, *, where: str = ""
) -> tuple[int, Trigger]:
    """An fd that raises POLLPRI, and the trigger it was set to; the caller owns the fd, one fd holds one trigger."""
    check(resource, kind, threshold, window, where)
    name = f"{resource}.pressure"
    asked = Trigger(threshold, window)
    try:
        fd = open_in(cgroup, name, os.O_RDWR | os.O_NONBLOCK)
    except OSError as e:
        raise _explain(e, name, where) from e
    try:
        return fd, _set(fd, kind, asked)
    except OSError as e:
        os.close(fd)
        raise _explain(e, name, where) from e
    except BaseException:
        os.close(fd)
        raise


def _set(fd: int, kind: str, asked: Trigger) -> Trigger:
    try:
        os.write(fd, asked.line(kind))
        return asked
    except OSError as e:
        second = stepped(asked)
        if e.errno not in (errno.EINVAL, errno.EPERM) or not second.adjusted:
            raise
    os.write(fd, second.line(kind))
    return second


def open_in(cgroup: str | os.PathLike[str] | int, name: str, flags: int) -> int:
    """Opens a file of a cgroup that is given by its path or by a directory fd."""
    if isinstance(cgroup, int):
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=cgroup)
    return os.open(os.path.join(cgroup, name), flags | os.O_CLOEXEC)


def _explain(e: OSError, name: str, where: str) -> Exception:
    if e.errno == errno.ENODEV:
        return GoneError("the cgroup was removed", where)
    if e.errno in (errno.ENOENT, errno.EOPNOTSUPP):
        return HostError(f"{name}: this kernel has no pressure information here", where, "boot with psi=1")
    if e.errno in (errno.EPERM, errno.EACCES):
        return RefusedError(f"{name}: triggers need CAP_SYS_RESOURCE on this kernel", where)
    if e.errno == errno.EINVAL:
        return RefusedError(
            f"{name}: the kernel refused the trigger", where, "without CAP_SYS_RESOURCE: whole 2 s windows"
        )
    return HostError(f"{name}: cannot set the trigger: {e.strerror}", where)
