"""A Prometheus beside one wharfingerd: its configuration, its process, its answers. For the demo and the tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RULES = Path(__file__).resolve().parents[1] / "grafana/rules"
CONFIG = """global: {{scrape_interval: {interval}, evaluation_interval: {interval}}}
rule_files: [{rules}/recording.yml, {rules}/alerts.yml]
scrape_configs:
  - job_name: wharfinger
    static_configs: [{{targets: ["{target}"]}}]
    sample_limit: 150000
    body_size_limit: 64MB
"""


def program() -> str | None:
    """`prometheus`, that `make setup` puts beside the interpreter."""
    return shutil.which("prometheus", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")


@dataclass
class Prometheus:
    """base: a directory of its own. target: HOST:PORT of the daemon's metrics."""

    base: Path
    target: str
    port: int
    interval: str = "1s"
    rules: Path = RULES
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        found = program()
        if found is None:
            raise SystemExit("prometheus is not here: run make setup, or install it")
        self.base.mkdir(parents=True, exist_ok=True)
        config = self.base / "prometheus.yml"
        config.write_text(CONFIG.format(interval=self.interval, rules=self.rules, target=self.target))
        with (self.base / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    found,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self.base / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--storage.tsdb.retention.time=1d",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **words: str) -> Any:
        """`data` of an answer of its API. Raises ValueError with its words when it refuses."""
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(words)}", timeout=20
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{words}: {error.read().decode(errors='replace')[:500]}") from None

    def query(self, text: str) -> list[tuple[Mapping[str, str], float]]:
        """An instant vector: labels and value of each series."""
        return [(each["metric"], float(each["value"][1])) for each in self.ask("query", query=text)["result"]]

    def firing(self) -> set[tuple[str, str]]:
        """Alert and container (empty: the host's own) of all that fire."""
        alerts = self.ask("alerts")["alerts"]
        return {(a["labels"]["alertname"], a["labels"].get("name", "")) for a in alerts if a["state"] == "firing"}

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
