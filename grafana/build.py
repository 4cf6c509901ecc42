"""Dashboards from one source: `python -m grafana.build` writes grafana/dashboards/*.json; a test holds them in step."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana.boards import BOARDS
from grafana.panels import model

HERE = Path(__file__).resolve().parent


def texts() -> dict[str, str]:
    """The text of each file below dashboards/, by its name."""
    return {f"{name}.json": json.dumps(model(board), indent=2) + "\n" for name, board in BOARDS.items()}


def main() -> int:
    for name, text in texts().items():
        (HERE / "dashboards" / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
