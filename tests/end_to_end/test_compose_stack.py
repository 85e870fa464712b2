# SPDX-License-Identifier: Apache-2.0
"""The stack of examples/compose without Docker and Grafana: what Grafana would ask has answers.

The configuration files are those of the example; only where programs listen and find each other
is changed, and how long they wait. Grafana itself cannot be installed by tests, so the queries of
its dashboard and data sources are asked as it would ask them.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack, contextmanager

import pytest
import yaml

from tests.end_to_end import backend_servers
from tests.end_to_end.backend_servers import HOST, ROOT, free_port
from tests.end_to_end.demo_site import (
    EDGES,
    REQUESTS,
    agent,
    check_pairs,
    forget_settings,
    only,
    shop_again,
)
from tests.rig import wait_until

pytestmark = [pytest.mark.backends, pytest.mark.kernel, pytest.mark.timeout(120)]

COMPOSE = ROOT / "examples" / "compose"
OFTEN = "500ms"
SILENT = {"Errors"}
"""Panels that have nothing to show of the demo: its refusals are no errors of who refuses."""


def read(name):
    return yaml.safe_load((COMPOSE / name).read_text())


@contextmanager
def stack(scraped):
    """All of it but Grafana; `scraped` is where the agent may be scraped."""
    with ExitStack() as servers:
        jaeger = servers.enter_context(backend_servers.jaeger())
        tempo = servers.enter_context(backend_servers.tempo())
        collecting = read("otel-collector.yaml")
        exposed = f"{HOST}:{free_port()}"
        collecting["exporters"]["otlp/jaeger"]["endpoint"] = f"{HOST}:{jaeger.grpc}"
        collecting["exporters"]["otlp/tempo"]["endpoint"] = f"{HOST}:{tempo.grpc}"
        collecting["exporters"]["prometheus"]["endpoint"] = exposed
        collector = servers.enter_context(backend_servers.configured_collector(collecting))
        scraping = read("prometheus.yml")
        scraping["global"] = {"scrape_interval": OFTEN, "scrape_timeout": OFTEN}
        targets = {"otel-collector": exposed, "wirespan": scraped}
        for job in scraping["scrape_configs"]:
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        flags = read("compose.yaml")["services"]["prometheus"]["command"]
        features = [each for each in flags if "config.file" not in each]
        prometheus = servers.enter_context(backend_servers.prometheus(scraping, *features))
        yield jaeger, tempo, collector, prometheus


def filled_in(expression):
    """As Grafana fills a query in."""
    for name, value in {"$__rate_interval": "1m", "$job": ".*", "$$__tags": 'job=~".+"'}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("way", ["otlp", "scraped"])
def test_grafana_would_find_all_that_it_asks_for(monkeypatch, way):
    forget_settings(monkeypatch)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", OFTEN.removesuffix("ms"))
    scraped = f"{HOST}:{free_port()}"
    with ExitStack() as servers:
        jaeger, tempo, collector, prometheus = servers.enter_context(stack(scraped))
        site, go_shopping = shop_again(servers)
        flags = ["--prometheus", scraped, "--no-metrics"] if way == "scraped" else []
        with agent(*collector.flags("http/protobuf"), *flags, *only(site.ports)):
            go_shopping()
            wait_until(
                lambda: sum(prometheus.edges().values()) >= REQUESTS, "Prometheus has them all"
            )
            # Once, whichever way they came.
            assert prometheus.edges() == EDGES
            check_queries(prometheus)
            check_exemplars(prometheus, tempo)
        # What the Collector still holds in its batch.
        wait_until(lambda: sum(jaeger.dependencies().values()) >= REQUESTS, "Jaeger has them all")
        assert jaeger.dependencies() == EDGES
        check_pairs(jaeger.spans())


def check_queries(prometheus):
    """Each panel, each link and each list of values has something to show."""
    dashboard = json.loads((COMPOSE / "grafana" / "dashboards" / "wirespan.json").read_text())

    def silent():
        return {
            panel["title"]
            for panel in dashboard["panels"]
            if panel["type"] != "row"
            and not any(prometheus.query(filled_in(target["expr"])) for target in panel["targets"])
        }

    wait_until(lambda: silent() == SILENT, "all panels show something")
    (variable,) = dashboard["templating"]["list"]
    series, label = re.fullmatch(
        r"label_values\((.*), (\w+)\)", variable["query"]["query"]
    ).groups()
    services = {labels[label] for labels, _ in prometheus.query(series)}
    assert services == {"curl", "nginx", "shop", "stock"}
    sources = read("grafana/provisioning/datasources/datasources.yaml")["datasources"]
    (tempo,) = (each for each in sources if each["uid"] == "tempo")
    for query in tempo["jsonData"]["tracesToMetrics"]["queries"]:
        assert prometheus.query(filled_in(query["query"])), query["name"]


def check_exemplars(prometheus, tempo):
    """A click on one leads to its trace."""
    for histogram in ("http_server_request", "rpc_server_call", "db_client_operation"):
        found = prometheus.exemplars(f"{histogram}_duration_seconds_bucket")
        assert found, histogram
        for labels in found:
            trace_id = labels["trace_id"]
            wait_until(lambda trace_id=trace_id: tempo.trace(trace_id), f"trace {trace_id}")
