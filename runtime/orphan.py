"""A container whose shim was lost: who its init is, where its output goes, and how it ended. For a new shim to go on.

Nothing is believed because it is written down: a process is init when the pidfd of its number shows the recorded start
and it is in the run's own cgroup (I3); a pipe is its output when it has the recorded inode.
"""

import fcntl
import os
import select
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.exitrecord import ExitRecord

NOTE_MAX: Final = 4096
_GET_INFO: Final = 0xC040FF0B  # ioctl PIDFD_GET_INFO, struct pidfd_info of 64 bytes
_INFO_EXIT: Final = 1 << 3  # Linux 6.15


@dataclass(frozen=True, slots=True)
class Init:
    """What a run's first shim wrote down of it: `init` in the run directory."""

    generation: int
    pid: int
    start_ticks: int
    boot_id: str
    pipes: tuple[int, int]  # inodes of stdout and stderr


def _note(run_dir: Path) -> dict[str, str]:
    """Raises OSError, ValueError, KeyError."""
    with open(run_dir / "init", "rb") as file:
        lines = file.read(NOTE_MAX).decode("ascii", "replace").splitlines()
    texts = dict(line.split("=", 1) for line in lines)
    if texts["version"] != "1":
        raise ValueError("version")
    return texts


def read_init(run_dir: Path) -> Init | None:
    """None when there is none, or it is not to be understood."""
    try:
        texts = _note(run_dir)
        return Init(
            int(texts["generation"]),
            int(texts["pid"]),
            int(texts["start_ticks"]),
            texts.get("boot_id", ""),
            (int(texts["pipe.stdout"]), int(texts["pipe.stderr"])),
        )
    except (OSError, ValueError, KeyError):
        return None


def find_init(init: Init, leaf: Path, boot_id: str) -> int | None:
    """A pidfd of a run's init, the caller's to close; None when it has ended, or nothing proves that it is this one."""
    if init.boot_id != boot_id or init.pid <= 0:
        return None
    try:
        pidfd = os.pidfd_open(init.pid)
    except OSError:
        return None
    try:
        if _ticks(init.pid) == init.start_ticks and _within(init.pid, leaf) and _pid_of(pidfd) == init.pid:
            return pidfd
    except (OSError, ValueError, IndexError):
        pass
    os.close(pidfd)
    return None


def _ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[19])


def _within(pid: int, leaf: Path) -> bool:
    """In the leaf, or below it: systemd and nested engines move themselves there. A zombie is not in cgroup.procs."""
    own = next(line[3:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
    return f"/{'/'.join(leaf.parts[-3:])}/" in f"{own.removesuffix(' (deleted)')}/"


def _pid_of(pidfd: int) -> int:
    """-1 when it was reaped: then what was read by its number may have been another's."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return -1


def has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def wait_status(pidfd: int) -> int | None:
    """Status (as of wait(2)) of somebody else's process that has ended; None: the kernel does not tell.

    From /proc while it is a zombie (proc(5), stat, field 52), from the pidfd once it was reaped (Linux 6.15,
    PIDFD_INFO_EXIT).
    """
    with suppress(OSError, ValueError, IndexError):
        pid = _pid_of(pidfd)
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
        if pid > 0 and fields[0] == "Z" and _pid_of(pidfd) == pid:
            return int(fields[49])
    info = bytearray(64)
    struct.pack_into("<Q", info, 0, _INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:
        return None
    (mask,) = struct.unpack_from("<Q", info)
    return int(struct.unpack_from("<i", info, 60)[0]) if mask & _INFO_EXIT else None


def untold(
    run_dir: Path, generation: int, boot_id: str, now: float, group: bool, parent: Path, top: Path | None
) -> ExitRecord | None:
    """What a record would say of a run that ended while nobody was there: all but its code, and when (`now`: seen).

    `parent`: its stable cgroup, `top`: the topmost that counts; what rose there since its start is told.
    None without the note of its first shim.
    """
    try:
        texts = _note(run_dir)
        numbers = {key: int(value) for key, value in texts.items() if value.isascii() and value.isdigit()}
        if texts.get("boot_id") != boot_id or numbers["generation"] != generation:
            return None
        numbers["oom.group"] = int(group)
        numbers.update({f"mem.parent.{key}.end": value for key, value in _events(parent).items()})
        numbers.update({f"mem.top.{key}.end": value for key, value in (_events(top) if top else {}).items()})
        started = numbers["started_ns"] / 1e9
        return ExitRecord(generation, numbers["pid"], started, now, boot_id, "unknown", 0, False, numbers, "kernel")
    except (OSError, ValueError, KeyError):
        return None


def _events(cgroup: Path) -> dict[str, int]:
    """Counters of memory.events; none where the controller is not on."""
    try:
        lines = (cgroup / "memory.events").read_text().splitlines()
    except OSError:
        return {}
    return {key: int(value) for key, value in (line.split() for line in lines)}


# Output.


def open_output(init: Init, leaf: Path) -> tuple[list[int], tuple[str, ...]]:
    """New read ends of stdout and stderr, owned by the caller, from whoever in the container holds them. A stream that
    nobody there holds any more is at its end; one that may not be looked at is named in the second value."""
    ends: list[int] = []
    missing: list[str] = []
    for name, inode in zip(("stdout", "stderr"), init.pipes, strict=True):
        end, denied = _reopen(inode, init.pid, leaf)
        if end is None and denied:
            missing.append(name)
        ends.append(_ended_pipe() if end is None else end)
    return ends, tuple(missing)


def _reopen(inode: int, init: int, leaf: Path) -> tuple[int | None, bool]:
    denied = False
    for pid in _pids(init, leaf):
        try:
            numbers = sorted(os.listdir(f"/proc/{pid}/fd"), key=int)
        except PermissionError:
            denied = True
            continue
        except OSError:
            continue
        for number in numbers:
            end = _pipe_end(f"/proc/{pid}/fd/{number}", inode)
            if end is not None:
                return end, False
    return None, denied


def _pids(init: int, leaf: Path) -> Iterator[int]:
    yield init
    for path in [leaf, *sorted(p for p in leaf.rglob("*") if p.is_dir())]:
        with suppress(OSError):
            yield from (int(pid) for pid in (path / "cgroup.procs").read_text().split() if int(pid) not in (0, init))


def _pipe_end(path: str, inode: int) -> int | None:
    """Never opens what is not that pipe: the container can change its fds at any moment."""
    name = f"pipe:[{inode}]"
    try:
        if os.readlink(path) != name:
            return None
        seen = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.readlink(f"/proc/self/fd/{seen}") != name:
            return None
        return os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    finally:
        os.close(seen)


def _ended_pipe() -> int:
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.close(write)
    return read
