"""A host and a bundle that the tests of the runtime compile for: the same everywhere, so plans can be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.kernel_names import CAPABILITIES
from runtime.probe import HostFacts

ARTICLE = Path(__file__).parents[2] / "fixtures/article-config.json"


@pytest.fixture
def host() -> HostFacts:
    return HostFacts(
        mode="unified",
        cgroup_mount=Path("/sys/fs/cgroup"),
        cgroup_root=Path("/sys/fs/cgroup/wharfinger"),
        controllers=frozenset({"memory", "cpu", "io", "pids", "cpuset"}),
        delegated=False,
        own_cgroup="/",
        kernel=(6, 1),
        release="6.1.0",
        machine="x86_64",
        psi=True,
        cgroup_kill=True,
        seccomp=True,
        features=frozenset({"pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time"}),
        capabilities=frozenset(CAPABILITIES),
        bounding=frozenset(CAPABILITIES),
        nofile=524288,
        thermal=(),
        problems=(),
    )


@pytest.fixture
def article() -> dict[str, Any]:
    """The published config.json, with what its author changes before the run: the terminal, the arguments."""
    spec: dict[str, Any] = json.loads(ARTICLE.read_text())
    spec["process"]["terminal"] = False
    spec["process"]["args"] = ["/bin/sh", "-c", "uname -a && ps aux && sleep 30"]
    return spec


@pytest.fixture
def write_bundle(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes a bundle; text and bytes go into config.json as they are."""

    def write(config: Any) -> Path:
        bundle = tmp_path / "bundle"
        (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
        data = config if isinstance(config, bytes) else config.encode() if isinstance(config, str) else None
        (bundle / "config.json").write_bytes(data if data is not None else json.dumps(config).encode())
        return bundle

    return write
