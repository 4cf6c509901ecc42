"""`wharf-oci` as engines call it: a bundle, a state directory and a cgroup of its own for each test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.ocicli.spec import example
from tests.kernel.shimkit import REPO, make_root, remove_cgroup

Config = dict[str, Any]


class Oci:
    """Commands of one state directory. `id` is the container that they are about when none is named."""

    def __init__(self, launch: Path, cgroup2: Path, tmp: Path) -> None:
        self.id = "c1"
        self.state_dir = tmp / "state"
        self.bundle = tmp / "bundle"
        self.top = cgroup2 / f"wharf-test-{uuid.uuid4().hex[:8]}"
        self._cgroup2 = cgroup2
        make_root(self.bundle / "rootfs")
        self.env = {**os.environ, "PYTHONPATH": str(REPO), "WHARFINGER_LAUNCH": str(launch)}
        self.env.pop("LISTEN_FDS", None)

    @property
    def cgroup(self) -> Path:
        return self.top / self.id

    def configure(self, *args: str, change: Callable[[Config], None] | None = None, name: str = "") -> None:
        """Write config.json: `args` in a container with its own namespaces."""
        config = example()
        config["process"].update(terminal=False, args=list(args))
        config["linux"]["cgroupsPath"] = f"/{self.top.relative_to(self._cgroup2)}/{name or self.id}"
        config["linux"].pop("resources")
        if change:
            change(config)
        (self.bundle / "config.json").write_text(json.dumps(config))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "runtime.ocicli.main", "--root", str(self.state_dir), *words]

    def __call__(self, *words: str, code: int = 0, stdin: str = "", before: Sequence[str] = ()) -> str:
        """Run a command to its end, by the program `before` if any; its output."""
        ran = subprocess.run(
            [*before, *self.command(*words)],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.env,
            cwd=self.bundle,
            timeout=60,
        )
        assert ran.returncode == code, (words, ran.returncode, ran.stdout, ran.stderr)
        return ran.stdout if code == 0 else ran.stdout + ran.stderr

    def quiet(self, *words: str, code: int = 0, stdout: Any = subprocess.DEVNULL) -> str:
        """Run one whose container keeps its stdio, so that no pipe of ours waits for it; its stderr on failure."""
        with open(self.bundle.parent / "stderr", "w+b") as errors:
            ran = subprocess.run(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=errors,
                env=self.env,
                cwd=self.bundle,
                timeout=60,
            )
            errors.seek(0)
            text = errors.read().decode(errors="replace")
        assert ran.returncode == code, (words, ran.returncode, text)
        return text

    def state(self, name: str = "") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("state", name or self.id))
        return found

    def wait(self, status: str, name: str = "") -> dict[str, Any]:
        """Until it has this status."""
        end = time.monotonic() + 20
        while True:
            found = self.state(name)
            if found["status"] == status:
                return found
            assert time.monotonic() < end, found
            time.sleep(0.02)

    def leftovers(self) -> list[str]:
        """What is there of containers."""
        found = [str(p) for p in self.state_dir.iterdir()] if self.state_dir.exists() else []
        return found + [str(p) for p in self.top.glob("*") if p.is_dir()]

    def clean(self) -> None:
        if self.state_dir.exists():
            for path in self.state_dir.iterdir():
                self("delete", "--force", path.name)
        if self.top.exists():
            with suppress(OSError):
                (self.top / "cgroup.kill").write_text("1")
            for path in sorted(self.top.rglob("*"), key=lambda p: -len(p.parts)):
                if path.is_dir():
                    remove_cgroup(path)
            remove_cgroup(self.top)


@contextmanager
def make_oci(launch: Path, cgroup2: Path, tmp: Path) -> Iterator[Oci]:
    oci = Oci(launch, cgroup2, tmp)
    try:
        yield oci
    finally:
        oci.clean()
