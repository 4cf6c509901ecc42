"""The blocks of a definition: restart, resources, oom, healthcheck, mounts and the like. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from config import quantity
from config.fields import (
    Cpus,
    Duration,
    Flag,
    Octal,
    Part,
    Path,
    Size,
    argv,
    as_list,
    duration,
    kind,
    line,
    number,
    one_of,
    problem,
    problems,
    quote,
    size,
    whole,
    whole_number,
)
from config.pressure import OFF, Threshold
from config.words import (
    ContainerPath,
    Cpuset,
    HostPath,
)

MIB = 1024**2
MAX_ID = 2**32 - 2
Pages = Annotated[int, size(4096)]
Memory = Annotated[int, size(MIB, "a plain number is bytes")]
Rate = Annotated[int, size(1)]

PolicyWord = Literal["no", "on-failure", "unless-stopped", "always"]
ExhaustedWord = Literal["fatal", "slow"]
MissingWord = Literal["refuse", "warn"]
ChildKillWord = Literal["ignore", "restart"]
HealthWord = Literal["none", "restart", "stop", "event"]
PressureWord = Literal["event", "restart"]
SourceWord = Literal["memory", "memory_high", "cpu", "io"]
PidsWord = Annotated[int, Field(ge=1, le=2**22)] | Literal["max"] | None
ConditionWord = Literal["started", "healthy", "completed_successfully"]
MountWord = Literal["bind", "tmpfs"]
PropagationWord = Literal["private", "rprivate", "slave", "rslave", "shared", "rshared"]


class Restart(Part):
    """`restart:` of a definition; short form `on-failure:5`."""

    policy: Annotated[PolicyWord, one_of(PolicyWord)] = Field(
        "always", description="When a run that ended starts again."
    )
    max_attempts: Annotated[int, whole(1, 1_000_000)] | None = Field(
        None, description="With on-failure: restarts allowed in `window`; without it they never run out."
    )
    interval: Duration = Field(1.0, description="Delay before the first restart.")
    factor: Annotated[float, number(1, 100)] = Field(2.0, description="Each further delay is this many times longer.")
    max_interval: Duration = Field(60.0, description="The longest delay.")
    jitter: Annotated[float, number(0, 1)] = Field(0.2, description="Share of the delay that luck adds, at most.")
    reset_after: Duration = Field(
        60.0, description="A run at least this long (and twice the last delay) starts the count of attempts anew."
    )
    window: Annotated[float, duration(1.0)] = Field(600.0, description="Time in which attempts and ends are counted.")
    on_exhausted: Annotated[ExhaustedWord, one_of(ExhaustedWord)] = Field(
        "fatal", description="When attempts are used up: stay down, or try once each `slow_interval`."
    )
    slow_interval: Annotated[float, duration(1.0)] = Field(900.0, description="Delay between attempts of `slow`.")
    crash_loop_after: Annotated[int, whole(1, 1_000_000)] = Field(
        5, description="Ends in `window` after which the container is shown as crash-looping."
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        policy, colon, count = value.partition(":")
        return {"policy": policy, "max_attempts": count} if colon else {"policy": policy}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        found: list[tuple[Path, str]] = []
        if self.max_attempts is not None and self.policy != "on-failure":
            given = '"no" never restarts' if self.policy == "no" else f"{self.policy} never gives up"
            found.append((("max_attempts",), f"needs policy on-failure; {given}"))
        if self.interval > self.max_interval:
            pair = quantity.format_duration(self.interval), quantity.format_duration(self.max_interval)
            found.append((("interval",), f"{pair[0]} is longer than max_interval {pair[1]}"))
        if found:
            raise problems(found)
        return self


_DEVICE = re.compile(r"[0-9]{1,4}:[0-9]{1,7}", re.ASCII)


def _device(value: object) -> str:
    word = line(value)
    if not _DEVICE.fullmatch(word) and not (word.startswith("/dev/") and ".." not in word.split("/")):
        raise problem(f"must be a device such as /dev/sda or 8:0, not {quote(word)}")
    return word


class IoMax(Part):
    """One device of `resources.io_max`."""

    device: Annotated[str, BeforeValidator(_device, json_schema_input_type=str)] = Field(
        description="Block device: a path under /dev, or MAJOR:MINOR."
    )
    rbps: Rate | None = Field(None, description="Bytes read a second.")
    wbps: Rate | None = Field(None, description="Bytes written a second.")
    riops: Annotated[int, whole(1, 2**32)] | None = Field(None, description="Reads a second.")
    wiops: Annotated[int, whole(1, 2**32)] | None = Field(None, description="Writes a second.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.rbps is self.wbps is self.riops is self.wiops is None:
            raise problem("needs one of rbps, wbps, riops, wiops")
        return self


def _pids(value: object) -> int | None:
    if value is None or value == "max":
        return None
    return whole_number(value, 1, 2**22)


class Resources(Part):
    """`resources:` the limits of cgroup v2. A limit that is not given is the kernel's `max`."""

    memory: Memory | None = Field(None, description="Hard limit: beyond it the kernel kills (memory.max).")
    memory_high: Memory | None = Field(
        None, description="Soft limit: beyond it the container is slowed down (memory.high)."
    )
    memory_low: Size | None = Field(None, description="Protected while others have memory to give (memory.low).")
    memory_min: Size | None = Field(None, description="Protected always (memory.min).")
    memory_swap: Size | None = Field(None, description="Swap alone; 0 forbids it (memory.swap.max).")
    cpus: Cpus | None = Field(None, description="Processors at most, to a hundred-thousandth (cpu.max).")
    cpu_weight: Annotated[int, whole(1, 10_000)] | None = Field(
        None, description="Share when processors are short; the kernel's default is 100 (cpu.weight)."
    )
    pids: Annotated[int | None, BeforeValidator(_pids, json_schema_input_type=PidsWord)] = Field(
        4096, description="Processes and threads at most; `max` is no limit (pids.max)."
    )
    io_weight: Annotated[int, whole(1, 10_000)] | None = Field(
        None, description="Share when a disk is busy; the kernel's default is 100 (io.weight)."
    )
    io_max: tuple[IoMax, ...] = Field((), description="Limits a device (io.max).")
    cpuset: Cpuset | None = Field(None, description="Processors to run on (cpuset.cpus).")
    cpuset_mems: Cpuset | None = Field(None, description="Memory nodes to use (cpuset.mems).")
    on_missing: Annotated[MissingWord, one_of(MissingWord)] = Field(
        "refuse", description="When the host lacks a controller that a limit needs: refuse to start, or warn and go on."
    )

    @model_validator(mode="after")
    def _memory_is_sane(self) -> Self:
        found: list[tuple[Path, str]] = []
        for low, high in (
            ("memory_high", "memory"), ("memory_low", "memory"), ("memory_min", "memory"),
            ("memory_low", "memory_high"), ("memory_min", "memory_high"),
        ):  # fmt: skip
            small, large = getattr(self, low), getattr(self, high)
            if small is not None and large is not None and small > large and not any(at == (low,) for at, _ in found):
                sizes = quantity.format_size(small), quantity.format_size(large)
                found.append(((low,), f"{sizes[0]} is more than {high} {sizes[1]}"))
        devices = [limit.device for limit in self.io_max]
        for i, device in enumerate(devices):
            if device in devices[:i]:
                found.append((("io_max", i, "device"), f"{quote(device)} is given twice"))
        if found:
            raise problems(found)
        return self


class Oom(Part):
    """`oom:` what happens when memory runs out."""

    group: Flag = Field(True, description="The container dies whole (memory.oom.group).")
    on_child_kill: Annotated[ChildKillWord, one_of(ChildKillWord)] = Field(
        "ignore", description="With `group: false`: what to do when a child was killed and init lives."
    )


def _sources(value: object) -> tuple[str, ...]:
    value = as_list(value)
    if not isinstance(value, list | tuple):
        raise problem(f"must be a list of sources, not {kind(value)}")
    known = get_args(SourceWord)
    for i, word in enumerate(value):
        if word not in known:
            raise problem(f"must be one of {', '.join(known)}, not {quote(word)}", (i,))
    return tuple(dict.fromkeys(str(word) for word in value))


class Pressure(Part):
    """`pressure:` when tasks wait for memory, processors or disks (PSI). Thresholds not given are the daemon's."""

    memory: Threshold | None = Field(
        None, description="KIND THRESHOLD WINDOW: tasks that waited so long in a window of 500ms to 10s; or off."
    )
    cpu: Threshold | None = Field(None, description="The same for processors.")
    io: Threshold | None = Field(None, description="The same for disks.")
    restart_on: Annotated[
        tuple[SourceWord, ...], BeforeValidator(_sources, json_schema_input_type=SourceWord | list[SourceWord])
    ] = Field(("memory",), description="With `on_pressure: restart`: what counts; memory_high is memory.high exceeded.")
    restart_after: Duration = Field(10.0, description="How long it has to go on before the restart.")
    cool_down: Annotated[float, duration(1.0)] = Field(600.0, description="Time between two such restarts, at least.")

    def off(self, source: str) -> bool:
        """Said here; the daemon's settings may say it too."""
        return getattr(self, source, None) == OFF


class HealthCheck(Part):
    """`healthcheck:` a command that runs in the container; exit 0 is healthy."""

    test: tuple[str, ...] = Field(
        description="Starts with CMD (arguments follow) or CMD-SHELL (one text for the container's /bin/sh)."
    )
    interval: Annotated[float, duration(0.1)] = Field(30.0, description="Time between two checks.")
    timeout: Annotated[float, duration(0.1)] = Field(30.0, description="A check that takes longer has failed.")
    retries: Annotated[int, whole(1, 1000)] = Field(3, description="Failures in a row that make it unhealthy.")
    start_period: Duration = Field(0.0, description="Failures do not count this long after the start.")
    start_interval: Annotated[float, duration(0.1)] = Field(5.0, description="Time between checks in `start_period`.")
    on_failure: Annotated[HealthWord, one_of(HealthWord)] = Field(
        "restart", description="When it becomes unhealthy: nothing, restart, stop, or an event only."
    )

    @field_validator("test", mode="before", json_schema_input_type=str | list[str | int | float])
    @classmethod
    def _command(cls, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            if not value.strip():
                raise problem("must not be empty")
            return ("CMD-SHELL", *argv([value]))
        words: tuple[str, ...] = argv(value)
        if words[0] not in ("CMD", "CMD-SHELL"):
            raise problem(f"must start with CMD or CMD-SHELL, not {quote(words[0])}", (0,))
        if len(words) < 2:
            raise problem(f"{words[0]} needs a command after it", (0,))
        if words[0] == "CMD-SHELL" and len(words) > 2:
            raise problem("CMD-SHELL takes one text; use CMD for a list of arguments", (2,))
        return words


class Dependency(Part):
    """One entry of `depends_on:`."""

    condition: Annotated[
        ConditionWord,
        one_of(
            ConditionWord,
            {
                "service_started": "started",
                "service_healthy": "healthy",
                "service_completed_successfully": "completed_successfully",
            },
        ),
    ] = Field("started", description="What the other container must have reached.")
    required: Flag = Field(True, description="When false, a dependency that does not exist or fails is no obstacle.")


MOUNT_OPTIONS = (
    "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime", "relatime", "strictatime", "nodiratime",
    "diratime", "nosymfollow",
)  # fmt: skip


def _options(value: object) -> tuple[str, ...]:
    value = as_list(value)
    if not isinstance(value, list | tuple):
        raise problem(f"must be a list of mount options, not {kind(value)}")
    for i, option in enumerate(value):
        if option not in MOUNT_OPTIONS:
            raise problem(f"{quote(option)} is not a mount option; known are {', '.join(MOUNT_OPTIONS)}", (i,))
    return tuple(dict.fromkeys(str(option) for option in value))


class Mount(Part):
    """One entry of `mounts:` (`tmpfs: [/run:size=16M,mode=755]` is the short form of a tmpfs)."""

    type: Annotated[MountWord, one_of(MountWord)] = Field(
        "bind", description="A path of the host, or a file system in memory."
    )
    source: HostPath | None = Field(
        None, description="With bind: a path of the host that exists; relative to the definition file."
    )
    target: ContainerPath = Field(description="Absolute path in the container.")
    read_only: Flag = Field(False, description="No writes through this mount, nor through mounts below it.")
    size: Pages | None = Field(None, description="With tmpfs: most bytes that it holds.")
    mode: Octal | None = Field(None, description="With tmpfs: permission bits of its root, octal.")
    propagation: Annotated[PropagationWord, one_of(PropagationWord)] = Field(
        "rprivate", description="With bind: whether later mounts pass between host and container."
    )
    options: Annotated[tuple[str, ...], BeforeValidator(_options, json_schema_input_type=list[str])] = Field(
        (), description="Further mount flags: " + ", ".join(MOUNT_OPTIONS) + "."
    )

    idmap: Flag = Field(False, description="With bind: its files have their owners moved into the user namespace.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        found: list[tuple[Path, str]] = []
        if self.target == "/":
            found.append((("target",), "must not be the root itself; that is rootfs"))
        if self.type == "bind":
            if self.source is None:
                found.append(((), "a bind mount needs a source"))
            found += [((key,), "is for tmpfs only") for key in ("size", "mode") if getattr(self, key) is not None]
        else:
            if self.source is not None:
                found.append((("source",), "is for bind only"))
            if self.propagation != "rprivate":
                found.append((("propagation",), "is for bind only"))
            if self.idmap:
                found.append((("idmap",), "is for bind only"))
        if found:
            raise problems(found)
        return self


class UserNs(Part):
    """`user_namespace:` root of the container is an ordinary user of the host."""

    uid_base: Annotated[int, whole(1, MAX_ID)] = Field(description="The host's uid that is uid 0 in the container.")
    gid_base: Annotated[int, whole(1, MAX_ID)] = Field(
        0, description="The host's gid that is gid 0 in the container; `uid_base` when not given."
    )
    size: Annotated[int, whole(1, MAX_ID)] = Field(65_536, description="How many ids follow.")
    idmap: Flag = Field(
        False, description="The root's files have their owners moved into the namespace; on disk they stay as they are."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.gid_base:
            self.__dict__["gid_base"] = self.uid_base
        if max(self.uid_base, self.gid_base) + self.size - 1 > MAX_ID:
            raise problem("runs past the last id", ("size",))
        return self


class Logging(Part):
    """`logging:` limits of a container's log files."""

    max_size: Pages = Field(10 * MIB, description="A file that would grow beyond it is rotated.")
    max_files: Annotated[int, whole(1, 1000)] = Field(3, description="Files kept, the current one included.")
