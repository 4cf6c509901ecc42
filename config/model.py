"""Container definitions as frozen models: what `containers.NAME` of a definition file may say. Pure, no I/O.

Times are seconds, sizes are bytes. `docs/definitions.md` describes each field for operators.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from config import model_forms as forms
from config.fields import (
    Argv,
    Duration,
    Flag,
    Octal,
    Part,
    Path,
    Scalar,
    as_list,
    duration,
    line,
    one_of,
    problem,
    problems,
    quote,
    size,
    whole,
)
from config.kernel_names import RLIM_INFINITY
from config.model_parts import (
    MIB,
    Dependency,
    HealthCheck,
    IoMax,
    Logging,
    Mount,
    Oom,
    Pressure,
    PressureWord,
    Resources,
    Restart,
    UserNs,
)
from config.words import (
    Capabilities,
    ContainerPath,
    Group,
    HostPath,
    ImageName,
    Labels,
    Name,
    Runtime,
    Signal,
    User,
    Variables,
)

NetworkWord = Literal["host", "none", "bridge"]
SeccompWord = Literal["default", "unconfined"]
Limit = int | Literal["unlimited"]

_HOST = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*", re.ASCII)

# What config.json of a bundle says; a definition that says it as well would be ignored in silence.
_BUNDLE_DECIDES = (
    "command", "entrypoint", "environment", "working_dir", "user", "group_add", "umask", "hostname", "domainname",
    "oom_score_adj", "mounts", "read_only", "shm_size", "network", "cap_add", "cap_drop", "no_new_privileges",
    "seccomp", "user_namespace", "masked_paths", "readonly_paths", "rlimits", "sysctls", "tty",
)  # fmt: skip


def _network(value: str) -> str:
    if value == "bridge":
        raise problem("bridge is not supported yet; use host or none")
    return value


def _init(value: bool) -> bool:
    if value:
        raise problem("is not supported yet; remove it")
    return value


def _host_name(value: object) -> str:
    word = line(value)
    if len(word) > 64 or not _HOST.fullmatch(word):
        raise problem(f"{quote(word)} is not a host name of at most 64 characters")
    return word


HostName = Annotated[str, BeforeValidator(_host_name, json_schema_input_type=str)]


class Container(Part):
    """One container, `containers.NAME:` of a definition file; `name` is the key."""

    name: Name = Field(description="The key under `containers`.")
    image: ImageName | None = Field(
        None, description="Image to run, as in `docker run`; what the definition leaves out is taken from it."
    )
    rootfs: HostPath | None = Field(
        None, description="Directory that becomes `/`; relative to the file. Needs `command` or `entrypoint`."
    )
    bundle: HostPath | None = Field(
        None, description="OCI bundle; its config.json decides all about the process. Relative to the file."
    )
    command: Argv | None = Field(None, description="Arguments, or a text that is split into words (no shell).")
    entrypoint: Argv | None = Field(None, description="Program that `command` is given to as arguments.")
    environment: Variables = Field({}, repr=False, description="Variables: a mapping, or a list of NAME=VALUE.")
    working_dir: ContainerPath | None = Field(None, description="Where the process starts; `/` when not given.")
    user: User | None = Field(None, description="`uid`, `uid:gid` or names of the container's own /etc/passwd.")
    group_add: Annotated[tuple[Group, ...], BeforeValidator(as_list)] = Field((), description="Further groups.")
    umask: Octal | None = Field(None, description="Permission bits that new files lack, octal; 0022 when not given.")
    hostname: HostName | None = Field(None, description="Host name; the container's name when not given.")
    domainname: HostName | None = Field(None, description="NIS domain name.")
    restart: Restart = Field(Restart(), description="When and how it is restarted; short form `on-failure:5`.")
    success_exit_codes: Annotated[
        tuple[int, ...], BeforeValidator(forms.exit_codes, json_schema_input_type=int | list[int])
    ] = Field((0,), description="Exit codes that are no failure.")
    stop_signal: Signal | None = Field(None, description="Signal that asks it to stop; TERM when not given.")
    stop_grace_period: Duration = Field(10.0, description="Time between the stop signal and the kill.")
    autostart: Flag = Field(True, description="Start when the host boots.")
    start_timeout: Annotated[float, duration(0.1)] = Field(30.0, description="A start that takes longer has failed.")
    healthy_after: Duration = Field(1.0, description="A run this long counts as started (supervisord's startsecs).")
    resources: Resources = Field(Resources(), description="Limits.")
    oom: Oom = Field(Oom(), description="Out of memory.")
    pressure: Pressure = Field(Pressure(), description="What counts as pressure.")
    on_pressure: Annotated[PressureWord, one_of(PressureWord)] = Field(
        "event", description="When pressure lasts: an event, or a restart too."
    )
    oom_score_adj: Annotated[int, whole(-1000, 1000)] = Field(
        0, description="Whom the kernel kills first when the host runs out of memory."
    )
    healthcheck: Annotated[HealthCheck | None, BeforeValidator(forms.health)] = Field(
        None, description="How to see that it works; `disable: true` or `test: [NONE]` is none."
    )
    depends_on: Annotated[dict[Name, Dependency], BeforeValidator(forms.listed)] = Field(
        {}, description="Containers that come first: a list of names, or names with conditions."
    )
    mounts: tuple[Mount, ...] = Field((), description="What is mounted into it.")
    tmpfs: Annotated[tuple[Mount, ...], BeforeValidator(forms.tmpfs_mounts)] = Field(
        (), description="Short form of tmpfs mounts: `/run:size=16M,mode=755`. Read as entries of `mounts`."
    )
    read_only: Flag = Field(False, description="The root file system is read-only.")
    shm_size: Annotated[int, size(4096)] = Field(64 * MIB, description="Size of /dev/shm.")
    network: Annotated[NetworkWord, one_of(NetworkWord), AfterValidator(_network)] = Field(
        "none", description="host: the host's network; none: only loopback; bridge: not supported yet."
    )
    cap_add: Capabilities = Field((), description="Capabilities beyond the default ones; ALL is all.")
    cap_drop: Capabilities = Field((), description="Default capabilities that it does not get; ALL is all.")
    no_new_privileges: Flag = Field(True, description="No gain of privileges by setuid programs.")
    seccomp: Annotated[SeccompWord, one_of(SeccompWord)] = Field("default", description="System call filter.")
    user_namespace: UserNs | None = Field(None, description="Maps the container's ids to ordinary ids of the host.")
    masked_paths: tuple[ContainerPath, ...] | None = Field(
        None, description="Paths that it cannot see, in place of the default ones."
    )
    readonly_paths: tuple[ContainerPath, ...] | None = Field(
        None, description="Paths that it cannot write, in place of the default ones."
    )
    rlimits: Annotated[
        dict[str, tuple[int, int]],
        BeforeValidator(forms.limits, json_schema_input_type=dict[str, Limit | dict[str, Limit]]),
    ] = Field({}, alias="ulimits", description="Limits: `nofile: 1024`, or `nofile: {soft: 1024, hard: 4096}`.")
    sysctls: Annotated[dict[str, str], BeforeValidator(forms.sysctl_map, json_schema_input_type=dict[str, Scalar])] = (
        Field({}, description="Kernel settings of its own namespaces.")
    )
    tty: Flag = Field(False, description="Its stdin, stdout and stderr are a terminal of its own; TERM is set.")
    stdin_open: Flag = Field(False, description="Its stdin stays open for `wharfctl attach`; else it is /dev/null.")
    logging: Logging = Field(Logging(), description="Log files.")
    runtime: Runtime = Field("native", description="What makes the container: native, or another OCI runtime.")
    allow_vulnerable_runtime: Flag = Field(
        False, description="Use that runtime though its version has known holes: its packager may have fixed them."
    )
    labels: Labels = Field({}, description="Words for operators and metrics: a mapping, or a list of NAME=VALUE.")
    init: Annotated[Flag, AfterValidator(_init)] = Field(False, description="A small init of ours. Not supported yet.")

    @field_validator("depends_on", mode="after")
    @classmethod
    def _sorted(cls, value: dict[str, Dependency]) -> dict[str, Dependency]:
        return {key: value[key] for key in sorted(value)}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        found = [*self._root_problems(), *self._mount_problems()]
        if self.name in self.depends_on:
            found.append((("depends_on", self.name), "a container cannot depend on itself"))
        if self.on_pressure == "restart":
            found += self._pressure_problems()
        if self.user_namespace is not None and self.user_namespace.idmap and self.runtime != "native":
            found.append((("user_namespace", "idmap"), "needs runtime: native"))
        both = sorted(set(self.cap_add) & set(self.cap_drop))
        found += [(("cap_drop",), f"{cap} is both added and dropped") for cap in both]
        if self.network == "host":
            text = "belongs to the host, whose network this container uses"
            found += [(("sysctls", key), text) for key in sorted(self.sysctls) if key.startswith("net.")]
        if self.runtime != "native":
            keys = [key for key in ("tty", "stdin_open") if getattr(self, key)]
            found += [((key,), f"needs runtime: native; {self.runtime} is given") for key in keys]
        if found:
            raise problems(found)
        if self.tmpfs:  # one list for the runtime; a dumped model comes back the same
            self.__dict__["mounts"] = (*self.mounts, *self.tmpfs)
            self.__dict__["tmpfs"] = ()
        return self

    def _root_problems(self) -> list[tuple[Path, str]]:
        given = [key for key in ("image", "rootfs", "bundle") if getattr(self, key) is not None]
        if not given:
            return [((), "needs image, rootfs or bundle")]
        if len(given) > 1:
            return [((given[1],), f"only one of image, rootfs and bundle; {given[0]} is given")]
        if self.image is not None and self.runtime != "native":
            return [(("runtime",), "an image needs runtime native; unpack it and use rootfs")]
        if self.image is not None and self.user_namespace is not None:
            return [(("user_namespace",), "the files of an image belong to ids of the host; unpack it and use rootfs")]
        if self.bundle is None:
            if self.image is None and self.command is None and self.entrypoint is None:
                return [((), "a rootfs needs a command or an entrypoint")]
            return []
        fields = Container.model_fields
        keys = [key for key in _BUNDLE_DECIDES if getattr(self, key) != fields[key].default]
        keys += ["tmpfs"] if self.tmpfs else []
        return [((fields[key].alias or key,), "the bundle's config.json decides this; remove it here") for key in keys]

    def _pressure_problems(self) -> list[tuple[Path, str]]:
        found: list[tuple[Path, str]] = []
        if self.restart.policy == "no":
            found.append((("on_pressure",), 'restart needs a restart policy; "no" never restarts'))
        for i, source in enumerate(self.pressure.restart_on):
            at: Path = ("pressure", "restart_on", i)
            if self.pressure.off(source):
                found.append((at, f"pressure.{source} is off"))
            elif source == "memory_high" and self.resources.memory_high is None:
                found.append((at, "needs resources.memory_high"))
        return found

    def _mount_problems(self) -> list[tuple[Path, str]]:
        found: list[tuple[Path, str]] = []
        seen: set[str] = set()
        for key, mounts in (("mounts", self.mounts), ("tmpfs", self.tmpfs)):
            for i, mount in enumerate(mounts):
                if mount.target in seen:
                    found.append(((key, i, "target"), f"{quote(mount.target)} is mounted twice"))
                seen.add(mount.target)
                if mount.idmap and self.user_namespace is None:
                    found.append(((key, i, "idmap"), "needs user_namespace"))
        return found

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; with `update` its digest is its own. The values of `update` are not validated."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("digest", None)
        return copy

    @cached_property
    def digest(self) -> str:
        """32 hex digits: equal for equal definitions, whatever the order of keys, comments or spelled-out defaults.

        Only what differs from the defaults goes in, so a field that a later version adds changes no digest.
        """
        text = json.dumps(canonical(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def canonical(container: Container) -> dict[str, Any]:
    """What a definition says beyond the defaults, as JSON values."""
    out: dict[str, Any] = container.model_dump(mode="json", exclude_defaults=True)
    return out


__all__ = [
    "Container", "Dependency", "HealthCheck", "IoMax", "Logging", "Mount", "Oom", "Pressure", "RLIM_INFINITY",
    "Resources", "Restart", "UserNs", "canonical",
]  # fmt: skip
