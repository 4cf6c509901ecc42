"""What goes over the wire between the daemon and `wharf-shim`: the launch plan and the socket's packets.

The one Python source of the operation table, which a test compares with C's. Little endian; docs/runtime.md has it.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from config.record import record

Value = int | str | bytes

PLAN_MAGIC: Final = 0x4E4C5057
PLAN_VERSION: Final = 1
PLAN_MAX: Final = 4 << 20
OPS_MAX: Final = 16384
_HEADER: Final = struct.Struct("<IHHII")
_OP: Final = struct.Struct("<HHI")

# code, name, fields as name:kind. Kinds: u = u64, i = i64, s = text (length, bytes, NUL), b = bytes (length, bytes).
_TABLE: Final[tuple[tuple[int, str, str], ...]] = (
    (1, "NAMESPACES", "flags:u"),
    (2, "USERMAP", "uid_map:s gid_map:s"),
    (3, "JOINNS", "kind:u path:s"),
    (4, "ROOT", "path:s propagation:u"),
    (5, "MOUNT", "fstype:s source:s target:s attr:u data:s flags:u"),
    (6, "BIND", "source:s target:s attr_set:u attr_clr:u propagation:u flags:u"),
    (7, "DEVNODE", "path:s mode:u major:u minor:u uid:u gid:u"),
    (8, "SYMLINK", "target:s path:s"),
    (9, "HOSTNAME", "name:s"),
    (10, "DOMAINNAME", "name:s"),
    (11, "SYSCTL", "key:s value:s"),
    (12, "LOOPBACK", ""),
    (13, "PIVOT", ""),
    (14, "MASK", "path:s"),
    (15, "READONLY", "path:s"),
    (16, "ROOTATTR", "attr_set:u propagation:u"),
    (17, "RLIMIT", "resource:u soft:u hard:u"),
    (18, "OOMADJ", "score:i"),
    (19, "UMASK", "mask:u"),
    (20, "SETSID", ""),
    (21, "KEYRING", ""),
    (22, "CAPS", "bounding:u effective:u permitted:u inheritable:u ambient:u"),
    (23, "USER", "uid:u gid:u groups:b"),
    (24, "CWD", "path:s"),
    (25, "NNP", ""),
    (26, "SECCOMP", "flags:u filter:b"),
    (27, "ENV", "text:s"),
    (28, "ARG", "text:s"),
    (29, "EXEC", ""),
    (30, "JOIN", "flags:u"),
    (31, "STATE", "kind:u prefix:s suffix:s"),
    (32, "HOOK", "kind:u timeout_ms:u path:s"),
    (33, "HOOKARG", "text:s"),
    (34, "HOOKENV", "text:s"),
    (35, "CONSOLE", "rows:u columns:u"),
    (36, "IDMAP", "uid_map:s gid_map:s flags:u"),
    (37, "TIMENS", "offsets:s"),
    (38, "PERSONALITY", "domain:u"),
    (39, "IOPRIO", "kind:u level:u"),
    (40, "SCHED", "policy:u nice:i priority:u flags:u runtime:u deadline:u period:u"),
    (41, "APPARMOR", "label:s"),
    (42, "SELINUX", "label:s"),
    (43, "PROPAGATION", "path:s flags:u"),
    (44, "MOUNTATTR", "path:s attr_set:u attr_clr:u flags:u"),
    (45, "PEER", "kind:u timeout_ms:u flags:u"),
    (46, "OVERLAY", "directory:s lower:s upper:s work:s"),
)

MOUNT_CREATE: Final = 1  # MOUNT flags: make a missing target directory
MOUNT_COPY_UP: Final = 2  # a tmpfs begins with what the target holds
BIND_RECURSIVE: Final = 1  # BIND flags
BIND_FILE: Final = 2  # the target is a file (made when missing)
BIND_ATTR_RECURSIVE: Final = 4
IDMAP_RECURSIVE = MOUNTATTR_RECURSIVE = PEER_INSIDE = 1  # flags of IDMAP, MOUNTATTR; PEER: it runs in the leaf


@record
class OpKind:
    """One row of the operation table."""

    code: int
    name: str
    fields: tuple[str, ...]
    schema: str


def _kind(code: int, name: str, text: str) -> OpKind:
    pairs = [field.split(":") for field in text.split()]
    return OpKind(code, name, tuple(p[0] for p in pairs), "".join(p[1] for p in pairs))


OPS: Final[dict[str, OpKind]] = {name: _kind(code, name, text) for code, name, text in _TABLE}
BY_CODE: Final[dict[int, OpKind]] = {kind.code: kind for kind in OPS.values()}


@record
class Op:
    """One operation of a plan: its name and its values in the table's order."""

    name: str
    values: tuple[Value, ...]

    def __getitem__(self, field: str) -> Value:
        return self.values[OPS[self.name].fields.index(field)]

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{f}={v!r}" for f, v in zip(OPS[self.name].fields, self.values, strict=True))])


def op(name: str, /, **fields: Value) -> Op:
    """An operation by name with all its fields, each checked against the table.

    Raises KeyError, TypeError, ValueError: a wrong call is our bug.
    """
    kind = OPS[name]
    if set(fields) != set(kind.fields):
        raise TypeError(f"{name} takes {', '.join(kind.fields) or 'nothing'}; given {', '.join(fields) or 'nothing'}")
    return Op(name, tuple(_checked(name, f, k, fields[f]) for f, k in zip(kind.fields, kind.schema, strict=True)))


def _checked(name: str, field: str, kind: str, value: Value) -> Value:
    where = f"{name}.{field}"
    if kind in "ui":
        low, high = (0, 2**64) if kind == "u" else (-(2**63), 2**63)
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{where}: an integer is needed, not {value!r}")
        if not low <= value < high:
            raise ValueError(f"{where}: {value} is out of range")
        return int(value)
    if kind == "s":
        if not isinstance(value, str):
            raise TypeError(f"{where}: text is needed, not {value!r}")
        if "\0" in value:
            raise ValueError(f"{where}: NUL in text")
        return value
    if not isinstance(value, bytes):
        raise TypeError(f"{where}: bytes are needed, not {value!r}")
    return value


def groups_bytes(gids: Iterable[int]) -> bytes:
    """The `groups` field of USER."""
    gids = tuple(gids)
    return struct.pack(f"<{len(gids)}I", *gids)


def encode(ops: Sequence[Op]) -> bytes:
    """The plan as the shim reads it. Raises ValueError when it is over the shim's limits."""
    parts = [_encode_op(step, one) for step, one in enumerate(ops)]
    length = _HEADER.size + sum(map(len, parts))
    if length > PLAN_MAX or len(parts) > OPS_MAX:
        raise ValueError(f"plan of {length} bytes, {len(parts)} operations is over the limit")
    return b"".join([_HEADER.pack(PLAN_MAGIC, PLAN_VERSION, 0, length, len(parts)), *parts])


def _encode_op(step: int, one: Op) -> bytes:
    kind = OPS[one.name]
    body = bytearray()
    for code, value in zip(kind.schema, one.values, strict=True):
        if isinstance(value, int):
            body += struct.pack("<Q" if code == "u" else "<q", value)
        else:
            raw = os.fsencode(value)
            body += struct.pack("<I", len(raw)) + raw + (b"\0" if code == "s" else b"")
    padding = -len(body) % 8
    return _OP.pack(kind.code, step, len(body)) + bytes(body) + bytes(padding)


def decode(data: bytes) -> tuple[Op, ...]:
    """Inverse of `encode`, as strict as the shim. Raises ValueError on anything malformed."""
    if len(data) < _HEADER.size:
        raise ValueError("plan: short header")
    magic, version, flags, length, count = _HEADER.unpack_from(data)
    if (magic, version, flags) != (PLAN_MAGIC, PLAN_VERSION, 0):
        raise ValueError("plan: unknown magic, version or flags")
    if length != len(data) or length > PLAN_MAX or count > OPS_MAX:
        raise ValueError("plan: wrong length")
    ops: list[Op] = []
    at = _HEADER.size
    for step in range(count):
        one, at = _decode_op(data, at, step)
        ops.append(one)
    if at != length:
        raise ValueError("plan: bytes after the last operation")
    return tuple(ops)


def _decode_op(data: bytes, at: int, step: int) -> tuple[Op, int]:
    if len(data) - at < _OP.size:
        raise ValueError("plan: short operation")
    code, index, size = _OP.unpack_from(data, at)
    kind = BY_CODE.get(code)
    at += _OP.size
    end = at + size + (-size % 8)
    if kind is None or index != step or end > len(data) or any(data[at + size : end]):
        raise ValueError(f"plan: bad operation {step}")
    body = data[at : at + size]
    values: list[Value] = []
    used = 0
    for letter in kind.schema:
        value, used = _decode_value(body, used, letter)
        values.append(value)
    if used != size:
        raise ValueError(f"plan: bad length of operation {step}")
    return Op(kind.name, tuple(values)), end


def _decode_value(body: bytes, at: int, letter: str) -> tuple[Value, int]:
    width = 8 if letter in "ui" else 4
    if len(body) - at < width:
        raise ValueError("plan: short value")
    if letter in "ui":
        return int.from_bytes(body[at : at + 8], "little", signed=letter == "i"), at + 8
    size = int.from_bytes(body[at : at + 4], "little")
    at += 4
    end = at + size + (letter == "s")
    if end > len(body):
        raise ValueError("plan: short value")
    raw = body[at : at + size]
    if letter == "b":
        return raw, end
    if body[end - 1] != 0 or 0 in raw:
        raise ValueError("plan: text without its NUL")
    return os.fsdecode(raw), end


# Packets
FAULT: Final = struct.Struct("<HHi16s104s")
START: Final = struct.Struct("<IHHQQII64s64s")
STARTED: Final = struct.Struct("<IHHQqQ")  # a FAULT follows
REQ: Final = struct.Struct("<IIQQ")
REP: Final = struct.Struct("<IIiIQQQQ")

START_MAGIC: Final = 0x54525453
STARTED_MAGIC: Final = 0x4E525453
WIRE_VERSION: Final = 1
REPLY: Final = 0x80000000
PACKET_MAX: Final = 4096  # the longest packet that the shim sends
# fds of a start message
TAG_PLAN: Final = 1
TAG_RUNDIR: Final = 2
TAG_LOGDIR: Final = 3
TAG_CGROUP: Final = 4
TAG_CGPARENT: Final = 5
TAG_CGTOP: Final = 6
TAG_SHIMCG: Final = 7
TAG_NETNS: Final = 8
TAG_GATE: Final = 9
TAG_STDIN: Final = 10  # of a container that is taken over: the write end
TAG_STDOUT: Final = 11
TAG_STDERR: Final = 12
TAG_CONSOLE_SOCKET: Final = 13
TAG_INIT: Final = 14  # pidfd of a container to join, or to take over (with the read ends of its output)
TAG_OUT_PIPE: Final = 15
TAG_ERR_PIPE: Final = 16
TAG_TTY: Final = 17
TAG_FDS: Final = 18  # may come several times: these become 3, 4 and so on of the program
TAG_BUNDLE: Final = 19
TAG_COUNTS: Final = 20  # the memfd of `runtime.outputpage`
START_FDS_MAX: Final = 64

START_OOM_GROUP: Final = 1  # flags of a start message
START_CREATE: Final = 2
START_EXEC: Final = 4
START_TAKEOVER: Final = 8  # no plan: a shim was lost, this one goes on
START_STDIN: Final = 16  # init's stdin is a pipe (or its terminal) that attached clients may write to

CMD_HELLO: Final = 1
CMD_SIGNAL: Final = 2
CMD_EXEC: Final = 3
CMD_LOGCONF: Final = 4
CMD_LOGSTAT: Final = 5
CMD_SIGNALEXEC: Final = 6
CMD_REOPEN: Final = 7
CMD_RESIZE: Final = 8
CMD_CLOSESTDIN: Final = 9
CMD_ATTACH: Final = 10
EVENT_EXIT: Final = 0x100
EVENT_EXECEXIT: Final = 0x102

ATTACHED_TTY: Final = 1  # `a` of the reply to ATTACH
ATTACHED_INPUT: Final = 2
# The first byte of an attached client's packets: to the shim, and from it.
ATTACH_INPUT: Final = b"i"
ATTACH_SIZE: Final = b"s"  # rows and columns, u16 each
ATTACH_CLOSE: Final = b"c"
ATTACH_STDOUT: Final = b"o"  # and b"e" for stderr
ATTACH_END: Final = b"x"  # how and status, u8 each

REP_ENDED: Final = 1  # flags of a reply: init has ended
REP_FAULT: Final = 2  # a FAULT is appended
REP_RECORD: Final = 4  # the exit record's text is appended
REP_UNSAVED: Final = 8  # the exit record could not be written (yet)

HOW: Final[dict[int, str]] = {1: "exited", 2: "signaled", 3: "signaled", 4: "unknown"}  # `b` of an end; 3: core dump


@record
class Fault:
    """Which operation failed, on which system call and path, with which errno. `op` is "" outside of the plan."""

    op: str
    step: int
    err: int
    call: str
    path: str

    @staticmethod
    def unpack(data: bytes) -> "Fault":
        code, step, err, call, path = FAULT.unpack(data[: FAULT.size])
        name = BY_CODE[code].name if code in BY_CODE else ""
        return Fault(name, step, err, _text(call), _text(path))


@record
class Start:
    """The start message, without its fds. `tags` say what each fd is, in order."""

    generation: int
    log_max_size: int
    log_max_files: int
    flags: int
    name: str
    tags: tuple[int, ...]

    def pack(self) -> bytes:
        name = os.fsencode(self.name)
        if len(name) > 63 or len(self.tags) > START_FDS_MAX:
            raise ValueError("name or fd list too long for a start message")
        head = (START_MAGIC, WIRE_VERSION, len(self.tags))
        return START.pack(
            *head, self.generation, self.log_max_size, self.log_max_files, self.flags, name, bytes(self.tags)
        )


@record
class Started:
    """Answer to a start message; `fault` is set when nothing runs. `started_ns`: CLOCK_BOOTTIME."""

    generation: int
    pid: int
    started_ns: int
    fault: Fault | None

    @staticmethod
    def unpack(data: bytes) -> "Started":
        if len(data) != STARTED.size + FAULT.size:
            raise ValueError("started: wrong length")
        magic, version, kind, generation, pid, started_ns = STARTED.unpack_from(data)
        if magic != STARTED_MAGIC or version != WIRE_VERSION or kind not in (1, 2):
            raise ValueError("started: unknown magic, version or kind")
        fault = Fault.unpack(data[STARTED.size :]) if kind == 2 else None
        return Started(generation, pid, started_ns, fault)


@record
class Req:
    """A request on the shim's socket."""

    cmd: int
    seq: int
    arg: int = 0
    arg2: int = 0

    def pack(self) -> bytes:
        return REQ.pack(self.cmd, self.seq, self.arg, self.arg2)


@record
class Rep:
    """A reply, or an event (`seq` 0). `tail` is what follows the fixed part: a fault or a record."""

    cmd: int
    seq: int
    err: int
    flags: int
    a: int
    b: int
    c: int
    d: int
    tail: bytes = b""

    @staticmethod
    def unpack(data: bytes) -> "Rep":
        if len(data) < REP.size:
            raise ValueError("reply: too short")
        cmd, seq, err, flags, a, b, c, d = REP.unpack_from(data)
        return Rep(cmd, seq, err, flags, a, b, c, d, data[REP.size :])

    @property
    def fault(self) -> Fault | None:
        return Fault.unpack(self.tail) if self.flags & REP_FAULT and len(self.tail) >= FAULT.size else None


def _text(raw: bytes) -> str:
    return os.fsdecode(raw.split(b"\0", 1)[0])
