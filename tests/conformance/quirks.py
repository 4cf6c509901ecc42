"""Where other runtimes, as Debian 12 packages them, do otherwise: an expected failure for that runtime alone."""

from __future__ import annotations

QUIRKS: dict[str, dict[str, str]] = {"crun": {}, "runc": {}}
