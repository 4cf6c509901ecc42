"""OCI runtime spec to launch plan: the flat list of operations that the shim runs. All policy is here, none in C.

Pure but for one look at each bind source (is it there, is it a directory): the same input gives the same bytes.
Source: runtime-spec config.md, config-linux.md; the order is runc's, docs/runtime.md tells it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.errors import DefinitionError
from config.record import record
from runtime import linux, oci, users, wire
from runtime.mountopts import PROPAGATION
from runtime.plancred import (
    TERM,
    attribute_ops,
    caps_op,
    console_ops,
    exec_ops,
    label_ops,
    privilege_ops,
    rlimit_ops,
    user_op,
)
from runtime.plandescribe import describe
from runtime.planhooks import Owner, hook_ops
from runtime.planmounts import device_ops, makes_devices_elsewhere, mask_ops, mount_ops, place, root_idmap_ops
from runtime.planspaces import NAMESPACES, Namespaces, namespace_ops, namespaces
from runtime.probe import HostFacts
from runtime.wire import Op, op

if TYPE_CHECKING:
    from runtime.images.merged import Stack  # whose imports wharf-oci need not pay for

# sysctls that belong to a namespace (runc's list), and the namespace that must be the container's own
_IPC_SYSCTLS = frozenset(
    {
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    }
)
_SYSCTL = r"[A-Za-z0-9_-]+([./][A-Za-z0-9_.:@-]+)+"
_HOST_MAX = 64  # UTS fields


@record
class Plan:
    """What the shim will do, in order. `warnings`: what the host could not give."""

    ops: tuple[Op, ...]
    warnings: tuple[str, ...] = ()

    def encode(self) -> bytes:
        try:
            return wire.encode(self.ops)
        except ValueError as error:
            raise DefinitionError(str(error)) from None

    def describe(self) -> list[str]:
        """One line an operation; values of the environment are not shown, they may be secrets."""
        return [describe(one) for one in self.ops]


def compile_plan(
    spec: oci.Spec,
    rootfs: str | Path,
    host: HostFacts,
    owner: Owner | None = None,
    *,
    map_root: bool = False,
    stack: Stack | None = None,
) -> Plan:
    """Compile `spec` for the root at `rootfs` (absolute), or on `stack`; `owner`: whose it is, for its hooks.
    `map_root`: the owners of the root's files are shown through the container's id maps, which no spec can say.

    Raises DefinitionError (JSON pointer of what cannot be run) and LaunchError (a bind source is missing).
    """
    oci.check(spec)
    root = Path(rootfs)
    if not root.is_absolute():
        raise DefinitionError(f"{root} must be an absolute path", "/root/path")
    if os.path.normpath(root) == "/":
        raise DefinitionError("the host's own root cannot be a container's root", "/root/path")
    process, config = spec["process"], spec["linux"]
    warnings: list[str] = []
    spaces = namespaces(config, host)
    mounts, late = mount_ops(spec, spaces, host)
    devices, notes = device_ops(spec, bool(spaces.apart & linux.CLONE_NEWUSER))
    warnings += notes
    ops = namespace_ops(config, spaces, warnings)
    if stack is not None:
        own = {"upper": str(stack.upper), "work": str(stack.work)}
        ops.append(op("OVERLAY", directory=str(stack.directory), lower=":".join(stack.names), **own))
    ops += root_idmap_ops(config, spaces) if map_root else []
    ops.append(op("ROOT", path=str(root), propagation=_root_propagation(config)))
    ops += mounts
    ops += devices
    ops += _console(spec)
    ops += _identity(spec, spaces)
    ops += _sysctls(spec, spaces)
    if spaces.new & linux.CLONE_NEWNET:
        ops.append(op("LOOPBACK"))
    ops.append(op("PIVOT"))
    ops += mask_ops(spec)
    ops += late
    ops += _root_attributes(spec)
    ops += rlimit_ops(process)
    ops += _oom_ops(process)
    ops.append(op("UMASK", mask=(process.get("user") or {}).get("umask", 0o022)))
    ops += [op("SETSID"), op("KEYRING"), *attribute_ops(process, config), *label_ops(process, host.lsms)]
    ops += [caps_op(process, host.bounding, warnings), user_op(process), op("CWD", path=process["cwd"])]
    ops += privilege_ops(spec, warnings)
    ops += hook_ops(spec, owner)
    ops += exec_ops(process)
    return Plan(tuple(ops), tuple(warnings))


def compile_exec(
    spec: oci.Spec,
    args: Sequence[str],
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    cwd: str | None = None,
    *,
    rootfs: users.Root | None = None,
    terminal: tuple[int, int] | None = None,
) -> Plan:
    """A plan that joins the running container of `spec` and runs `args` there, as confined as its init is.

    `env` is added to the container's own. `user` as in a definition; names need `rootfs`. `terminal`: rows and columns
    of a terminal of its own, whose TERM is the container's, or TERM. Raises DefinitionError.
    """
    base = spec["process"]
    rows, columns = terminal or (0, 0)
    process = {**base, "terminal": terminal is not None, "consoleSize": {"height": rows, "width": columns}}
    process["args"] = list(args)
    if not process["args"]:
        raise DefinitionError("nothing to run", "exec")
    if terminal is not None and not any(entry.startswith("TERM=") for entry in base.get("env") or ()):
        env = {"TERM": TERM, **(env or {})}
    if env:
        process["env"] = [*(base.get("env") or ()), *(f"{key}={value}" for key, value in env.items())]
    if cwd is not None:
        process["cwd"] = cwd
    if user is not None:
        who = users.resolve(rootfs, user)
        process["user"] = {"uid": who.uid, "gid": who.gid, "additionalGids": list(who.groups)}
        process["capabilities"] = _caps_for(who.uid, base)
        if who.uid != (base.get("user") or {}).get("uid", 0):
            kept = [e for e in process.get("env") or () if not e.startswith("HOME=") or (env and "HOME" in env)]
            process["env"] = [*kept, f"HOME={who.home}"] if not (env and "HOME" in env) else kept
    return compile_exec_process(spec, process)


def compile_exec_process(spec: oci.Spec, process: Mapping[str, Any]) -> Plan:
    """A plan that joins the running container of `spec` and runs `process`, which has the shape of the spec's own.

    Raises DefinitionError.
    """
    joined = {**spec, "process": process}
    oci.check(joined)
    warnings: list[str] = []
    join = 0
    for entry in spec["linux"].get("namespaces") or ():
        join |= NAMESPACES.get(entry["type"], 0)
    ops = [op("JOIN", flags=join), *console_ops(process), op("CWD", path=process["cwd"])]
    ops += [caps_op(process, None, warnings), user_op(process), *privilege_ops(joined, warnings)]
    ops += rlimit_ops(process)
    ops += _oom_ops(process)
    ops.append(op("UMASK", mask=_umask(process, spec["process"])))
    ops += [*attribute_ops(process, spec["linux"]), *label_ops(process, None)]
    ops += exec_ops(process)
    return Plan(tuple(ops), tuple(warnings))


def _console(spec: Mapping[str, Any]) -> list[Op]:
    ops = console_ops(spec["process"])
    if ops and not {"/dev", "/dev/pts"} & {place(mount["destination"]) for mount in spec.get("mounts") or ()}:
        raise DefinitionError("a terminal needs a devpts mounted at /dev/pts", "/process/terminal")
    return ops


def _umask(*processes: Mapping[str, Any]) -> int:
    masks = [process["user"]["umask"] for process in processes if "umask" in (process.get("user") or {})]
    return int(masks[0]) if masks else 0o022


def _caps_for(uid: int, base: Mapping[str, Any]) -> dict[str, list[str]]:
    """Root in a container has its bounding set; any other user has none, as execve would leave it."""
    bounding = list((base.get("capabilities") or {}).get("bounding") or ())
    usable = bounding if uid == 0 else []
    return {"bounding": bounding, "effective": usable, "permitted": usable}


def _oom_ops(process: Mapping[str, Any]) -> list[Op]:
    """What nobody asked for is as inherited (config.md, "oomScoreAdj"); a shim does not hand its own down."""
    return [op("OOMADJ", score=process["oomScoreAdj"])] if "oomScoreAdj" in process else []


def _root_propagation(config: Mapping[str, Any]) -> int:
    """While the mounts are made, the new namespace must not tell the host of them; it may hear from it."""
    word = config.get("rootfsPropagation") or "rslave"
    return PROPAGATION["rprivate" if word in ("private", "rprivate") else "rslave"]


def _root_attributes(spec: Mapping[str, Any]) -> list[Op]:
    attr = linux.MOUNT_ATTR_RDONLY if spec["root"].get("readonly") else 0
    bounding = (spec["process"].get("capabilities") or {}).get("bounding") or ()
    if not makes_devices_elsewhere(spec) and "CAP_MKNOD" not in bounding:
        attr |= linux.MOUNT_ATTR_NODEV  # nodes that an image brings along are nobody's: /dev has those that are meant
    word = spec["linux"].get("rootfsPropagation") or ""
    propagation = PROPAGATION[word] if word in ("shared", "rshared", "unbindable") else 0
    return [op("ROOTATTR", attr_set=attr, propagation=propagation)] if attr or propagation else []


def _identity(spec: Mapping[str, Any], spaces: Namespaces) -> list[Op]:
    ops = []
    for key, name in (("hostname", "HOSTNAME"), ("domainname", "DOMAINNAME")):
        value = spec.get(key)
        if not value:
            continue
        if not spaces.apart & linux.CLONE_NEWUTS:
            raise DefinitionError("needs a uts namespace of the container's own", f"/{key}")
        if len(value.encode()) > _HOST_MAX:
            raise DefinitionError(f"is longer than {_HOST_MAX} bytes", f"/{key}")
        ops.append(op(name, name=value))
    return ops


def _sysctls(spec: Mapping[str, Any], spaces: Namespaces) -> list[Op]:
    ops = []
    for key, value in (spec["linux"].get("sysctl") or {}).items():
        where = f"/linux/sysctl/{oci.escape(key)}"
        if not re.fullmatch(_SYSCTL, key) or ".." in key:
            raise DefinitionError(f"{key!r} is not the name of a sysctl", where)
        dotted = key.replace("/", ".")
        if dotted == "kernel.hostname" or (dotted == "kernel.domainname" and spec.get("domainname")):
            raise DefinitionError(f"{key} has a property of its own", where, f"set {dotted[7:]!r}")
        if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
            need, word = linux.CLONE_NEWIPC, "ipc"
        elif dotted.startswith("net."):
            need, word = linux.CLONE_NEWNET, "network"
        elif dotted in ("kernel.domainname", "kernel.hostname"):
            need, word = linux.CLONE_NEWUTS, "uts"
        elif dotted.startswith("user."):
            need, word = linux.CLONE_NEWUSER, "user"
        else:
            raise DefinitionError(f"{key} belongs to the whole host: a container cannot set it", where)
        if not spaces.apart & need:
            raise DefinitionError(f"{key} needs a {word} namespace of the container's own", where)
        ops.append(op("SYSCTL", key=key, value=value))
    return ops
