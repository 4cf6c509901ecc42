"""The kept corpus and fresh seeds through every parser of the shim, with sanitizers; then some seconds of libFuzzer.

WHARFINGER_FUZZ_SECONDS: how long for each target (3). New findings land in the test's temporary directory: keep a crash
by copying it into corpus/TARGET.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import linux, wire
from runtime.wire import op

HERE = Path(__file__).parent
SECONDS = int(os.environ.get("WHARFINGER_FUZZ_SECONDS", "3"))
TARGETS = ("plan", "sock", "logs", "start", "files")


def build(into: Path, compiler: str) -> Path:
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}") or "cmake"
    configure = [
        cmake,
        "-S",
        str(HERE.parents[1]),
        "-B",
        str(into),
        "-DWHARF_FUZZ=ON",
        f"-DCMAKE_C_COMPILER={compiler}",
    ]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL, timeout=60)
    subprocess.run([cmake, "--build", str(into), "-j2"], check=True, stdout=subprocess.DEVNULL, timeout=300)
    return into / "tests/fuzz"


def has_libfuzzer(compiler: str, tmp: Path) -> bool:
    source = tmp / "probe.c"
    source.write_text("int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n) { (void)d; return n > 9; }")
    command = [compiler, "-fsanitize=fuzzer,address", "-o", str(tmp / "probe"), str(source)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.fixture(scope="session")
def targets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """Directory of the programs; whether libFuzzer's are among them."""
    tmp = tmp_path_factory.mktemp("fuzz")
    clang = shutil.which("clang")
    if clang and has_libfuzzer(clang, tmp):
        return build(tmp / "build", clang), True
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    return build(tmp / "build", compiler), False


def plan_seeds() -> list[bytes]:
    ops = [
        op("NAMESPACES", flags=linux.CLONE_NEWNS),
        op("USERMAP", uid_map="0 100000 65536\n", gid_map="0 100000 65536\n"),
        op("ROOT", path="/srv/root", propagation=linux.MS_SLAVE | linux.MS_REC),
        op("MOUNT", fstype="tmpfs", source="tmpfs", target="/dev", attr=2, data="mode=755,size=64k", flags=1),
        op("BIND", source="/a", target="/b", attr_set=1, attr_clr=0, propagation=0, flags=1),
        op("DEVNODE", path="/dev/null", mode=0o20666, major=1, minor=3, uid=0, gid=0),
        op("PIVOT"),
        op("RLIMIT", resource=7, soft=1024, hard=2048),
        op("OOMADJ", score=-5),
        op("CAPS", bounding=1, effective=1, permitted=1, inheritable=0, ambient=0),
        op("USER", uid=1000, gid=100, groups=wire.groups_bytes([1, 2, 3])),
        op("SECCOMP", flags=0, filter=struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)),
        op("ENV", text="PATH=/bin"),
        op("ARG", text="/bin/true"),
        op("EXEC"),
    ]
    more = [
        op("NAMESPACES", flags=linux.CLONE_NEWNS | linux.CLONE_NEWUSER),
        op("JOINNS", kind=linux.CLONE_NEWNET, path="/proc/9/ns/net"),
        op("HOSTNAME", name="web"),
        op("DOMAINNAME", name="example"),
        op("SYSCTL", key="net.ipv4.ip_forward", value="1"),
        op("IDMAP", uid_map="0 100000 65536\n", gid_map="0 100000 65536\n", flags=1),
        op("TIMENS", offsets="monotonic 5 0\n"),
        op("CONSOLE", rows=24, columns=80),
        op("APPARMOR", label="web"),
        op("PROPAGATION", path="/mnt", flags=linux.MS_SLAVE),
        op("MOUNTATTR", path="/mnt", attr_set=1, attr_clr=0, flags=1),
        op("SCHED", policy=3, nice=-5, priority=0, flags=0, runtime=0, deadline=0, period=0),
        op("STATE", kind=1, prefix='{"pid":', suffix="}"),
        *(one for kind in range(6) for one in hook(kind)),
        *ops[-3:],
    ]
    calls = [
        one
        for kind in range(3)
        for one in (op("PEER", kind=kind, timeout_ms=9000, flags=kind % 2), op("ARG", text="/bin/crun"))
    ]
    whole = wire.encode(ops)
    others = [wire.encode(more), wire.encode([ops[-3], *calls, ops[-1]])]
    every = [wire.encode([wire.Op(k.name, tuple(_zero(c) for c in k.schema)), *ops[-2:]]) for k in wire.OPS.values()]
    return [whole, *others, *every, *(whole[:n] for n in range(0, len(whole), 7))]


def hook(kind: int) -> list[wire.Op]:
    """One with an argument and a variable."""
    words = [op("HOOKARG", text="hook"), op("HOOKENV", text="A=b")]
    return [op("HOOK", kind=kind, timeout_ms=kind * 100, path="/usr/bin/hook"), *words]


def _zero(letter: str) -> wire.Value:
    return "" if letter == "s" else b"" if letter == "b" else 0


def packet(data: bytes, *, attached: bool = False, fds: int = 0) -> bytes:
    return struct.pack("<H", len(data) | attached << 13 | fds << 14) + data


def sock_seeds() -> list[bytes]:
    """A byte that says what the container is (ended, terminal, input, attached), then packets."""
    commands = range(wire.CMD_ATTACH + 2)
    packets = [wire.Req(cmd, 1, arg, arg2).pack() for cmd in commands for arg in (0, 9, 2**63) for arg2 in (0, 2)]
    framed = [packet(p) for p in packets]
    exec_plan = wire.encode([op("JOIN", flags=linux.CLONE_NEWNS), op("ARG", text="/bin/true"), op("EXEC")])
    executed = packet(wire.Req(wire.CMD_EXEC, 1, 0, 0).pack(), fds=3)
    client = packet(wire.Req(wire.CMD_ATTACH, 1, 0, 0).pack(), fds=1)
    typed = [
        wire.ATTACH_INPUT + b"text\n",
        wire.ATTACH_INPUT + bytes(4096),
        wire.ATTACH_INPUT + bytes(4097),
        wire.ATTACH_SIZE + struct.pack("<HH", 24, 80),
        wire.ATTACH_SIZE + b"\1",
        wire.ATTACH_CLOSE,
    ]
    seeds = [bytes([flags]) + one for flags in (0, 1) for one in framed]
    for flags in range(16):
        head = bytes([flags])
        seeds += [head + b"".join(framed[::3]), head + client * 6]
        seeds += [head + packet(p, attached=True) for p in typed]
        seeds.append(head + b"".join(packet(p, attached=True) for p in [typed[1]] * 20 + typed))
    seeds += [b"\0" + executed, b"\0" + executed + exec_plan, b"\1" + executed + exec_plan]
    return [*seeds, b"\0" + packet(bytes(23)), b"\0" + packet(bytes(299)), b"\0" + packet(bytes(24), fds=2)]


def start_seeds() -> list[bytes]:
    """How many fds come, then the message."""
    runs = (wire.TAG_PLAN, wire.TAG_RUNDIR, wire.TAG_LOGDIR, wire.TAG_CGROUP, wire.TAG_CGPARENT, wire.TAG_SHIMCG)
    taken = (*runs[1:], wire.TAG_INIT, wire.TAG_OUT_PIPE, wire.TAG_ERR_PIPE, wire.TAG_STDIN)
    lists = [(), runs, taken, (wire.TAG_FDS,) * 64, (1, 1), (0,), (200,), (*runs, wire.TAG_GATE, wire.TAG_BUNDLE)]
    messages = [
        bytes([len(tags)]) + wire.Start(7, 1 << 20, 3, flags, "web", tags).pack()
        for tags in lists
        for flags in (0, wire.START_CREATE | wire.START_STDIN, wire.START_EXEC, wire.START_TAKEOVER)
    ]
    whole = messages[4]
    return [*messages, bytes([3]) + whole[1:], bytes([65]) + whole[1:], whole + b"x", whole[:-1]]


def file_seeds() -> list[bytes]:
    """Files by their place in the target's table."""
    note = b"version=1\ngeneration=%d\npid=41\nstart_ticks=900\nstarted_ns=5\nlate=1\nmem.parent.oom_kill.start=2\n"
    events = b"low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 1\n"
    stat = b"41 (a b) c) Z 1 " + b"7 " * 48 + b"256\n"
    status = b"Name:\tx\nState:\tR (running)\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"
    frozen = b"populated 1\nfrozen 1\n"
    contents = [note % 0, events, events, b"77\n", stat, status, frozen, b"1\n"]
    files = [struct.pack("<BH", i, len(text)) + text for i, text in enumerate(contents)]
    cut = [struct.pack("<BH", i, n) + text[:n] for i, text in enumerate(contents) for n in (0, 1, len(text) // 2)]
    huge = b"".join(struct.pack("<BH", i, 2000) + b"9" * 2000 for i in range(len(contents)))
    odd = struct.pack("<BH", 0, len(note % 1)) + note % 1
    return [*files, *cut, b"".join(files), b"".join(files) + b"\0", odd, odd + b"\0", huge]


def log_seeds() -> list[bytes]:
    luck = random.Random(7)
    seeds = []
    for limit in (0, 1, 3, 255):
        parts = [bytes([limit])]
        for _ in range(30):
            size = luck.choice([0, 1, 2, 80, 4096, 16383, 16384, 16385])
            text = b"".join(luck.choice([b"x", b"\n", b"\0", b"text\n"]) for _ in range(size))[:size]
            parts.append(struct.pack("<BH", luck.randrange(4), size) + text)
        seeds.append(b"".join(parts))
    return seeds


SEEDS = {"plan": plan_seeds, "sock": sock_seeds, "logs": log_seeds, "start": start_seeds, "files": file_seeds}


def seeds(target: str, into: Path) -> Path:
    into.mkdir()
    for number, seed in enumerate(SEEDS[target]()):
        (into / f"seed-{number}").write_bytes(seed)
    for kept in (HERE / "corpus" / target).iterdir():
        shutil.copy2(kept, into)
    return into


@pytest.mark.timeout(400)
@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_finds_nothing(targets: tuple[Path, bool], target: str, tmp_path: Path) -> None:
    files = sorted(seeds(target, tmp_path / "corpus").iterdir())
    command = [str(targets[0] / f"replay_{target}"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"{len(files)} replayed\n"


@pytest.mark.timeout(120 + SECONDS)
@pytest.mark.parametrize("target", TARGETS)
def test_some_seconds_find_nothing(targets: tuple[Path, bool], target: str, tmp_path: Path) -> None:
    if not targets[1]:
        pytest.skip("no clang with libFuzzer here")
    corpus = seeds(target, tmp_path / "corpus")
    command = [
        str(targets[0] / f"fuzz_{target}"),
        f"-max_total_time={SECONDS}",
        "-rss_limit_mb=1024",
        "-max_len=65536",
        "-timeout=10",
        f"-artifact_prefix={tmp_path}/",
        str(corpus),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100 + SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
