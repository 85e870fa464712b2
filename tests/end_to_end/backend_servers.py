# SPDX-License-Identifier: Apache-2.0
"""The backends that people use, on loopback: Jaeger, Tempo, Prometheus, the Collector.

`.ci/backends` builds them and says which it could not; Prometheus is Debian's. Each keeps what it
is told in memory or in a temporary folder, and listens on free ports of 127.0.0.1 alone.
"""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.rig import is_listening, running, wait_until

HOST: Final = "127.0.0.1"
ROOT: Final = Path(__file__).parents[2]
BUILDER: Final = ROOT / ".ci" / "backends"
ANSWER_S: Final = 20.0
TEN_YEARS_S: Final = 10 * 365 * 86_400
"""Jaeger is asked for all that a recording may be from; its own default is the last two days."""
FLUSH_S: Final = 0.5
"""From one sending of metrics to the next, where a backend makes them."""
WAIT_S: Final = 2
"""How long a service graph waits for the other half of an edge."""

Edges = dict[tuple[str, str], int]
"""Client and server: how many requests."""

_opener: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


_ports: Final = iter(random.sample(range(15_000, 30_000), 15_000))
"""Below those that Linux gives to clients: one of them could take a port that is still unused."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on, and no client will have."""
    for port in _ports:
        with suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise AssertionError("no port is free")


def binary(name: str) -> str:
    """The path of what `.ci/backends` has built; skips where it has not."""
    found = subprocess.run([BUILDER, "where", name], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(found.stderr.strip())
    return found.stdout.strip()


def ask(port: int, path: str, **query: Any) -> Any:
    """The JSON that a GET is answered with; None where there is nothing."""
    url = f"http://{HOST}:{port}{path}?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    try:
        with _opener.open(request, timeout=ANSWER_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return None
            raise AssertionError(f"{url}: {error.code} {error.read()!r}") from None


@contextmanager
def started(
    name: str, command: list[str], configuration: Any, ports: tuple[int, ...]
) -> Iterator[Path]:
    """Run a server until the block ends; its configuration is JSON, which YAML is too.

    `{home}` in the command is a folder of its own, in which `config.yaml` is.
    """
    with tempfile.TemporaryDirectory(prefix=f"wirespan-{name}-") as folder:
        home = Path(folder)
        (home / "config.yaml").write_text(json.dumps(configuration).replace("{home}", folder))
        with (home / "log").open("wb") as log:
            words = [word.replace("{home}", folder) for word in command]
            with running(words, stdout=log, stderr=log, cwd=folder) as program:
                wait_until(
                    lambda: program.poll() is not None or all(map(is_listening, ports)),
                    f"{name} listens",
                )
                assert program.poll() is None, (home / "log").read_text()[-2000:]
                try:
                    yield home
                finally:
                    # There is nothing to save, and Jaeger would take five seconds to do it.
                    program.kill()


@dataclass(frozen=True)
class Receiver:
    """Something that takes OTLP."""

    grpc: int
    http: int
    query: int
    """The port of its API."""

    def flags(self, protocol: str) -> list[str]:
        """What wirespan is told."""
        port = self.grpc if protocol == "grpc" else self.http
        return ["--endpoint", f"http://{HOST}:{port}", "--protocol", protocol]

    def receivers(self) -> dict[str, Any]:
        """What it is told itself, in the Collector's words."""
        return {
            "otlp": {
                "protocols": {
                    "grpc": {"endpoint": f"{HOST}:{self.grpc}"},
                    "http": {"endpoint": f"{HOST}:{self.http}"},
                }
            }
        }


@dataclass(frozen=True)
class Jaeger(Receiver):
    """A running Jaeger, by the API that its page uses."""

    def services(self) -> set[str]:
        """Names of all services that have spans."""
        return set(ask(self.query, "/api/services")["data"] or ())

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Spans of a trace by its hexadecimal id, each with its service; none if unknown."""
        found = ask(self.query, f"/api/traces/{trace_id}")
        return [] if found is None else _with_services(found["data"][0])

    def traces(self, service: str, limit: int = 1000) -> list[list[dict[str, Any]]]:
        """Traces in which `service` has spans."""
        now_us = time.time_ns() // 1000
        found = ask(
            self.query,
            "/api/traces",
            service=service,
            limit=limit,
            start=now_us - TEN_YEARS_S * 10**6,
            end=now_us,
        )
        return [_with_services(each) for each in found["data"]]

    def dependencies(self) -> Edges:
        """What the page called System Architecture shows."""
        now_ms = time.time_ns() // 10**6
        found = ask(
            self.query, "/api/dependencies", endTs=now_ms + 1000, lookback=TEN_YEARS_S * 1000
        )
        return {(each["parent"], each["child"]): each["callCount"] for each in found["data"]}

    def spans(self) -> dict[str, dict[str, Any]]:
        """All there are, by id."""
        traces = (trace for service in self.services() for trace in self.traces(service))
        return {span["spanID"]: span for trace in traces for span in trace}


def _with_services(trace: dict[str, Any]) -> list[dict[str, Any]]:
    processes = trace["processes"]
    return [
        span
        | {
            "service": processes[span["processID"]]["serviceName"],
            "tags": {tag["key"]: tag["value"] for tag in span["tags"]},
            "parents": [
                each["spanID"] for each in span["references"] if each["refType"] == "CHILD_OF"
            ],
        }
        for span in trace["spans"]
    ]


@contextmanager
def jaeger(at: Jaeger | None = None) -> Iterator[Jaeger]:
    """A Jaeger that remembers nothing; `at` where another one was."""
    program = binary("jaeger")
    made = at or Jaeger(free_port(), free_port(), free_port())
    configuration = {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            # No batches: what was accepted can be asked for.
            "pipelines": {
                "traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}
            },
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
        },
        "extensions": {
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 10_000}}}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": {"endpoint": f"{HOST}:{made.query}"},
                "grpc": {"endpoint": f"{HOST}:{free_port()}"},
            },
        },
        "receivers": made.receivers(),
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }
    ports = (made.grpc, made.http, made.query)
    with started("jaeger", [program, "--config", "{home}/config.yaml"], configuration, ports):
        yield made


@contextmanager
def collector(onward: str) -> Iterator[Receiver]:
    """A Collector that passes spans and metrics on to the OTLP/HTTP backend at `onward`.

    Among the metrics are those of its service graph connector, every `FLUSH_S`.
    """
    configuration = {
        "connectors": {
            "servicegraph": {
                "metrics_flush_interval": f"{FLUSH_S}s",
                "store": {"ttl": f"{WAIT_S}s", "max_items": 10_000},
            }
        },
        "exporters": {"otlphttp": {"endpoint": onward}},
        "service": {
            "pipelines": {
                "traces": {"receivers": ["otlp"], "exporters": ["otlphttp", "servicegraph"]},
                "metrics": {"receivers": ["otlp", "servicegraph"], "exporters": ["otlphttp"]},
            }
        },
    }
    with configured_collector(configuration) as made:
        yield made


@contextmanager
def configured_collector(configuration: Any) -> Iterator[Receiver]:
    """A Collector with this configuration, but for where it listens."""
    program = binary("collector")
    made = Receiver(free_port(), free_port(), 0)
    configuration["receivers"] = made.receivers()
    # Its own would be served at a port of everybody's.
    configuration["service"]["telemetry"] = {
        "metrics": {"level": "none"},
        "logs": {"level": "warn"},
    }
    command = [program, "--config", "{home}/config.yaml"]
    with started("collector", command, configuration, (made.grpc, made.http)):
        yield made


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    port: int

    @property
    def write_url(self) -> str:
        """Where samples may be written."""
        return f"http://{HOST}:{self.port}/api/v1/write"

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of an instant query."""
        answer = ask(self.port, "/api/v1/query", query=expression)
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    def exemplars(self, expression: str) -> list[dict[str, str]]:
        """Labels of the exemplars that the series of `expression` have."""
        now_s = time.time()
        answer = ask(
            self.port,
            "/api/v1/query_exemplars",
            query=expression,
            start=now_s - 3600,
            end=now_s + 60,
        )
        return [each["labels"] for series in answer["data"] for each in series["exemplars"]]

    def edges(self) -> Edges:
        """What Grafana draws as the service graph."""
        total = "sum by (client, server) (traces_service_graph_request_total)"
        return {
            (labels["client"], labels["server"]): round(value)
            for labels, value in self.query(total)
        }


@contextmanager
def prometheus(configuration: Any = None, *flags: str) -> Iterator[Prometheus]:
    """A Prometheus; without a configuration it scrapes nothing and takes remote writes."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed")
    made = Prometheus(free_port())
    command = [program, "--config.file={home}/config.yaml", "--storage.tsdb.path={home}/data"]
    command += [f"--web.listen-address={HOST}:{made.port}", "--log.level=warn"]
    command += flags if configuration else ["--web.enable-remote-write-receiver"]
    with started("prometheus", command, configuration or {"global": {}}, (made.port,)):
        wait_until(lambda: _is_ready(made.port, "/-/ready"), "prometheus is ready")
        yield made


@dataclass(frozen=True)
class Tempo(Receiver):
    """A running Tempo."""

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Spans of a trace by its hexadecimal id, each with its service; none if unknown."""
        found = ask(self.query, f"/api/traces/{trace_id}")
        spans = []
        for group in found["batches"] if found else ():
            service = next(
                each["value"]["stringValue"]
                for each in group["resource"]["attributes"]
                if each["key"] == "service.name"
            )
            for scope in group["instrumentationLibrarySpans"]:
                spans += [span | {"service": service} for span in scope["spans"]]
        return spans


@contextmanager
def tempo(metrics: Prometheus | None = None) -> Iterator[Tempo]:
    """A Tempo of one process; its generator writes the service graph to `metrics` if given."""
    program = binary("tempo")
    made = Tempo(free_port(), free_port(), free_port())
    ring = {"kvstore": {"store": "inmemory"}, "instance_addr": HOST}
    inner = free_port()
    configuration: dict[str, Any] = {
        "usage_report": {"reporting_enabled": False},
        "server": {
            "http_listen_address": HOST,
            "http_listen_port": made.query,
            "grpc_listen_address": HOST,
            "grpc_listen_port": inner,
            "log_level": "warn",
        },
        "distributor": {"ring": ring, "receivers": made.receivers()},
        "ingester": {
            "lifecycler": {
                "address": HOST,
                "final_sleep": "0s",
                "min_ready_duration": "0s",
                "ring": {"kvstore": {"store": "inmemory"}, "replication_factor": 1},
            }
        },
        "querier": {"frontend_worker": {"frontend_address": f"{HOST}:{inner}"}},
        "storage": {
            "trace": {
                "backend": "local",
                "wal": {"path": "{home}/wal"},
                "local": {"path": "{home}/blocks"},
            }
        },
    }
    if metrics is not None:
        configuration |= {
            "metrics_generator_enabled": True,
            "overrides": {"metrics_generator_processors": ["service-graphs"]},
            "metrics_generator": {
                "ring": ring,
                "processor": {"service_graphs": {"wait": f"{WAIT_S}s"}},
                "registry": {"collection_interval": f"{WAIT_S}s"},
                "storage": {
                    "path": "{home}/generator",
                    "remote_write": [{"url": metrics.write_url}],
                },
            },
        }
    command = [program, "-config.file={home}/config.yaml"]
    with started("tempo", command, configuration, (made.grpc, made.http, made.query)):
        wait_until(lambda: _is_ready(made.query, "/ready"), "tempo is ready", 40)
        yield made


def _is_ready(port: int, path: str) -> bool:
    try:
        with _opener.open(f"http://{HOST}:{port}{path}", timeout=ANSWER_S):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False
