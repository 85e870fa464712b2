# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus server that scrapes one endpoint, and what it answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.rig import free_port, is_listening, running, wait_until

INTERVAL_S: Final = 0.2
JOB: Final = "agents"
CONFIGURATION: Final = """
global: {{scrape_interval: {milliseconds}ms, scrape_timeout: {milliseconds}ms}}
scrape_configs:
  - job_name: {job}
    honor_labels: {honor}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""

_opener: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str) -> bytes:
    """What a GET is answered with, asked for without a proxy."""
    with _opener.open(url, timeout=10) as answer:
        return answer.read()


class Prometheus:
    """Asks a running server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, **parameters: Any) -> Any:
        """`data` of an answer of the API."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        return json.loads(fetch(url))["data"]

    def query(self, expression: str) -> dict[frozenset[tuple[str, str]], float]:
        """Values by labels, now."""
        return {
            frozenset((k, v) for k, v in each["metric"].items() if k != "__name__"): float(
                each["value"][1]
            )
            for each in self.get("query", query=expression)["result"]
        }

    def scalar(self, expression: str) -> float | None:
        """The only value there is; None if there is none."""
        found = list(self.query(expression).values())
        assert len(found) <= 1, found
        return found[0] if found else None

    def wait(self, expression: str, value: float) -> None:
        wait_until(lambda: self.scalar(expression) == value, f"{expression} is {value}")

    def target(self) -> dict[str, Any]:
        """How the scrapes went."""
        (target,) = self.get("targets")["activeTargets"]
        return target


@contextmanager
def prometheus(scraped: int, *, honor_labels: bool = True) -> Iterator[Prometheus]:
    """Run a server that scrapes the port `scraped`."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Debian's prometheus is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wirespan-prometheus-") as folder:
        configuration = Path(folder) / "prometheus.yml"
        configuration.write_text(
            CONFIGURATION.format(
                job=JOB,
                honor=str(honor_labels).lower(),
                port=scraped,
                milliseconds=round(1000 * INTERVAL_S),
            )
        )
        command = [
            program,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]
        log = Path(folder) / "log"
        with log.open("wb") as output, running(command, stdout=output, stderr=output):
            server = Prometheus(port)
            wait_until(lambda: is_listening(port), "Prometheus listens")
            wait_until(lambda: _is_scraping(server), "Prometheus scrapes")
            yield server
            assert "level=error" not in log.read_text(), log.read_text()


def _is_scraping(server: Prometheus) -> bool:
    try:
        return server.scalar("up") == 1
    except OSError:
        return False


def promtool(text: bytes) -> subprocess.CompletedProcess[bytes]:
    """What `promtool check metrics` says."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("Debian's prometheus is not installed")
    return subprocess.run(
        [program, "check", "metrics"], input=text, capture_output=True, check=False, timeout=30
    )
