"""Breaks the runtime and the daemon on purpose, one rule at a time, and runs the tests that must notice.

`python -m scripts.mutants [NAME...]`, or `make mutants`. Each mutant is a small change of a source, given as the text
to replace and what stands in its place, and the tests of which one must fail. All happens in a copy of the tree, with
programs and an interpreter of its own: the sources and .venv stay as they are. Exit code 1: a mutant survived, no test
failed; 2: the tests fail without a mutant, or a change does not fit its source any more.

Not a part of CI: it takes a build for each.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scripts.mutants_table import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 240  # seconds for the tests of one mutant
BUILD_LIMIT = 300


class Copy:
    """A tree to break, with an interpreter whose packages are .venv's, but for our own."""

    def __init__(self, base: Path) -> None:
        self.tree = base / "tree"
        self.bin = base / "venv" / "bin"
        self._build = base / "build"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", base / "venv"], check=True, timeout=60)
        packages = next((base / "venv/lib").glob("python3*")) / "site-packages"
        # as plain directories: what .venv's own .pth files do (our packages from ROOT) is not done
        (packages / "copy.pth").write_text(f"{self.tree}\n{sysconfig.get_path('purelib')}\n")
        self._scripts()
        subprocess.run(
            ["cmake", "-S", self.tree, "-B", self._build], check=True, stdout=subprocess.DEVNULL, timeout=BUILD_LIMIT
        )
        self.build()

    def _scripts(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for name, target in project["scripts"].items():
            module, _, function = target.partition(":")
            script = f"#!{self.bin}/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            (self.bin / name).write_text(script)
            (self.bin / name).chmod(0o755)

    def build(self) -> bool:
        """The C programs of the tree as it is now, beside the interpreter; False if it does not compile."""
        made = subprocess.run(
            ["cmake", "--build", self._build], capture_output=True, text=True, timeout=BUILD_LIMIT, check=False
        )
        if made.returncode != 0:
            print(made.stdout[-2000:], made.stderr[-2000:])
            return False
        for name in ("wharf-shim", "wharf-launch"):
            new = self.bin / f".{name}"
            shutil.copy2(self._build / name, new)
            new.replace(self.bin / name)  # one that runs is not written to
        return True

    def test(self, tests: Sequence[str], limit: int = LIMIT, vm: bool = False) -> tuple[int, str]:
        """pytest's exit code (124: over the limit, which is a failure too), and what it printed."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("WHARFINGER", "PYTHON", "OCI_"))}
        env |= {
            "PATH": f"{self.bin}:{sysconfig.get_path('scripts')}:{env.get('PATH', '')}",
            "VIRTUAL_ENV": str(self.bin.parent),
        }
        marks = "vm or kernel" if vm else "not vm"
        command = [str(self.bin / "python"), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", marks, *tests]
        if vm:
            run = str(self.tree / "tests/vm/run")
            command = [run, "--mem", "1000M", "--timeout", str(limit), "--", *command]
        process = subprocess.Popen(
            command,
            cwd=self.tree,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            return _end(process, limit)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @contextmanager
    def broken(self, mutant: Mutant) -> Iterator[None]:
        """With the change. Raises ValueError when its text is not there, or there twice."""
        path = self.tree / mutant.file
        text = path.read_text()
        if text.count(mutant.old) != 1:
            raise ValueError(f"{mutant.name}: its text is there {text.count(mutant.old)} times in {mutant.file}")
        path.write_text(text.replace(mutant.old, mutant.new))
        try:
            yield
        finally:
            path.write_text(text)


def _end(process: subprocess.Popen[str], limit: int) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return 124, f"over {limit} s"
    return process.returncode, output


def failed(output: str) -> str:
    """The first test that failed."""
    names = [line.split()[1] for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return names[0] if names else "the run was over its time"


def try_out(copy: Copy, mutant: Mutant) -> bool:
    """Whether it was noticed; prints a line."""
    started = time.monotonic()
    with copy.broken(mutant):
        if mutant.file.endswith((".c", ".h")) and not copy.build():
            raise ValueError(f"{mutant.name}: it does not compile")
        code, output = copy.test(mutant.tests, vm=mutant.vm)
    if code not in (0, 1, 124):
        raise ValueError(f"{mutant.name}: pytest ended with {code}: {output[-600:]}")
    word = f"noticed by {failed(output)}" if code else "SURVIVED"
    print(f"{mutant.name}: {word} ({time.monotonic() - started:.0f} s)", flush=True)
    return code != 0


def main(names: Sequence[str]) -> int:
    chosen = [m for m in MUTANTS if not names or m.name in names]
    if unknown := set(names) - {m.name for m in chosen}:
        print(f"no such mutant: {', '.join(sorted(unknown))}")
        return 2
    with tempfile.TemporaryDirectory(prefix="mutants-", dir=ROOT / "build", ignore_cleanup_errors=True) as base:
        copy = Copy(Path(base))
        for vm in (False, True):
            tests = sorted({test for mutant in chosen if mutant.vm is vm for test in mutant.tests})
            code, output = copy.test(tests, 4 * LIMIT, vm) if tests else (0, "")
            if code:
                print(f"the tests fail without a mutant: {failed(output)}\n{output[-3000:]}")
                return 2
        try:
            survived = [m.name for m in chosen if not try_out(copy, m)]
        except ValueError as error:
            print(error)
            return 2
    print(f"{len(chosen) - len(survived)} of {len(chosen)} mutants were noticed", *survived)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
