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
TARGETS = ("plan", "sock", "logs")


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
    whole = wire.encode(ops)
    every = [wire.encode([wire.Op(k.name, tuple(_zero(c) for c in k.schema)), *ops[-2:]]) for k in wire.OPS.values()]
    return [whole, *every, *(whole[:n] for n in range(0, len(whole), 7))]


def _zero(letter: str) -> wire.Value:
    return "" if letter == "s" else b"" if letter == "b" else 0


def sock_seeds() -> list[bytes]:
    packets = [wire.Req(cmd, 1, arg, arg2).pack() for cmd in range(9) for arg in (0, 9, 2**63) for arg2 in (0, 2)]
    framed = [struct.pack("<H", len(p)) + p for p in packets]
    return [*framed, b"".join(framed[::3]), struct.pack("<H", 23) + bytes(23), struct.pack("<H", 299) + bytes(299)]


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


def seeds(target: str, into: Path) -> Path:
    into.mkdir()
    for number, seed in enumerate({"plan": plan_seeds, "sock": sock_seeds, "logs": log_seeds}[target]()):
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
