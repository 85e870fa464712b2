# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes what is served, and answers what Grafana asks of it."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager

import pytest

from exporters.metrics import MetricsExporter
from exporters.metrics_settings import MetricsSettings
from parsers.model import Side
from tests.end_to_end.prometheus_server import JOB, fetch, prometheus, promtool
from tests.end_to_end.servers import ask, counting_connection
from tests.exporters import samples
from tests.rig import WIRESPAN, free_port, nginx, running, wait_until
from tests.tracer.health_rig import Rig
from tracer.events import Cause
from tracer.source import Counter

pytestmark = pytest.mark.backends

HOST = {"service.namespace": "demo", "host.name": "h"}
SHOP = samples.process("shop", 1, **HOST, **{"service.instance.id": "h:a"})
STOCK = samples.process("stock", 2, **HOST, **{"service.instance.id": "h:b"})


def span(process, side, *, ms, **changes):
    """A span that has just ended."""
    now_ns = time.time_ns()
    return samples.span(
        process=process,
        peering=samples.peering(side),
        start_unix_ns=now_ns - ms * 1_000_000,
        end_unix_ns=now_ns,
        **changes,
    )


def exchanges(number):
    """Both ends of `number` requests of the shop to the stock, one in four failed; and one
    query to a database for each, which nobody sees from its end.
    """
    for index in range(number):
        outline = samples.outline(error_type="500" if index % 4 == 0 else None)
        yield span(SHOP, Side.CLIENT, ms=30, outline=outline, peer=STOCK, peer_name="stock")
        yield span(
            STOCK, Side.SERVER, ms=20, outline=outline, peer=SHOP, peer_name="shop", twin=True
        )
        query = samples.outline("SELECT orders", attributes={"db.system.name": "postgresql"})
        yield span(
            STOCK, Side.CLIENT, ms=3, outline=query, protocol="postgresql", peer_name="orders"
        )


@contextmanager
def serving():
    """An exporter of metrics that is scraped, with the agent's health."""
    exporter = MetricsExporter(MetricsSettings(prometheus="127.0.0.1:0"))
    rig = Rig(exporters={"metrics": exporter})
    rig.source.tally = {Cause.DELIVERED: Counter(7, 700), Cause.RING_FULL: Counter(2, 90)}
    exporter.observe(rig.health.readings)
    try:
        yield exporter
    finally:
        exporter.close()


@pytest.fixture(scope="module")
def scraped():
    """A server that has scraped 8 exchanges, then 12 more."""
    with serving() as exporter:
        spans = [*exchanges(8)]
        exporter.export(spans)
        with prometheus(exporter.endpoint.port) as server:
            server.wait('sum(traces_service_graph_request_total{server="stock"})', 8)
            more = [*exchanges(12)]
            exporter.export(more)
            server.wait('sum(traces_service_graph_request_total{server="stock"})', 20)
            yield server, spans + more


@pytest.fixture
def server(scraped):
    return scraped[0]


def labels(**given):
    return frozenset(given.items())


SHOP_TO_STOCK = labels(client="shop", server="stock")
STOCK_TO_ORDERS = labels(client="stock", server="orders")


def test_scrapes_succeed_and_nothing_of_them_is_left_out(server):
    target = server.target()
    assert (target["health"], target["lastError"]) == ("up", "")
    assert server.scalar("scrape_samples_scraped") == server.scalar(
        "scrape_samples_post_metric_relabeling"
    )
    assert server.scalar("scrape_samples_scraped") > 100


def test_edges_have_the_rate_that_grafana_draws(server):
    found = server.query(
        "sum by (client, server) (rate(traces_service_graph_request_total[1m])) > 0"
    )
    assert found.keys() == {SHOP_TO_STOCK, STOCK_TO_ORDERS}
    assert len(set(found.values())) == 1
    totals = server.query("sum by (client, server) (traces_service_graph_request_total)")
    assert totals == {SHOP_TO_STOCK: 20, STOCK_TO_ORDERS: 20}


def test_failed_requests_of_an_edge_are_there(server):
    found = server.query("sum by (client, server) (traces_service_graph_request_failed_total)")
    assert found == {SHOP_TO_STOCK: 5}
    share = server.query(
        "sum by (client, server) (rate(traces_service_graph_request_failed_total[1m]))"
        " / sum by (client, server) (rate(traces_service_graph_request_total[1m]))"
    )
    assert share == {SHOP_TO_STOCK: pytest.approx(3 / 12, abs=0.01)}


def test_mean_time_of_an_edge_is_that_of_its_server(server):
    side = "traces_service_graph_request_{}_seconds_{}"
    for name, expected in (("server", 0.020), ("client", 0.030)):
        total = server.query(f"sum by (client, server) ({side.format(name, 'sum')})")
        count = server.query(f"sum by (client, server) ({side.format(name, 'count')})")
        assert count[SHOP_TO_STOCK] == 20
        assert total[SHOP_TO_STOCK] / 20 == pytest.approx(expected, rel=0.01)
    assert total[STOCK_TO_ORDERS] / 20 == pytest.approx(0.003, rel=0.01)


def test_quantiles_come_out_of_the_buckets(server):
    found = server.query(
        "histogram_quantile(0.9, sum by (le, client, server)"
        " (rate(traces_service_graph_request_server_seconds_bucket[1m])))"
    )
    assert 0.01 < found[SHOP_TO_STOCK] <= 0.05
    assert 0.002 < found[STOCK_TO_ORDERS] <= 0.004


def test_edges_say_what_kind_they_are_and_where_their_ends_belong(server):
    (found,) = server.query('traces_service_graph_request_total{client="shop"}')
    assert dict(found) == {
        "client": "shop",
        "server": "stock",
        "client_service_namespace": "demo",
        "server_service_namespace": "demo",
        "job": JOB,
        "instance": server.target()["labels"]["instance"],
    }
    kinds = server.query("count by (connection_type) (traces_service_graph_request_total)")
    assert kinds[labels(connection_type="database")] == 1


def test_services_keep_their_own_identity(server):
    name = "http_server_request_duration_seconds_count"
    found = server.query(f"sum by (job, instance) ({name})")
    assert found == {labels(job="demo/stock", instance="h:b"): 20}
    joined = server.query(f"{name} * on (job, instance) group_left () target_info")
    assert sum(joined.values()) == 20


def test_exemplars_lead_to_traces(scraped):
    server, spans = scraped
    traces = {each.trace_id.hex(): each for each in spans}

    def ask():
        return server.get(
            "query_exemplars",
            query="traces_service_graph_request_server_seconds_bucket",
            start=time.time() - 600,
            end=time.time() + 600,
        )

    found = wait_until(ask, "exemplars")
    marks = [mark for series in found for mark in series["exemplars"]]
    assert marks
    for mark in marks:
        span = traces[mark["labels"]["trace_id"]]
        assert mark["labels"]["span_id"] == span.span_id.hex()
        assert float(mark["value"]) == (span.end_unix_ns - span.start_unix_ns) / 1e9
        assert float(mark["timestamp"]) == pytest.approx(span.end_unix_ns / 1e9, abs=0.01)


def test_agents_health_is_that_of_the_scraped_target(server):
    own = {"job": JOB, "instance": server.target()["labels"]["instance"]}
    lost = server.query('wirespan_kernel_events_total{loss="true"}')
    assert lost == {labels(cause="ring_full", loss="true", **own): 2}
    assert server.scalar('wirespan_kernel_size_bytes_total{cause="delivered"}') == 700
    assert server.scalar('wirespan_exporter_events_total{event="scrapes"}') > 0
    assert server.scalar("process_memory_usage_bytes") > 1 << 20
    assert server.scalar('process_cpu_time_seconds_total{cpu_mode="user"}') > 0
    (info,) = server.query("wirespan_info")
    assert dict(info).keys() >= {"version", "python", "kernel", *own}


def test_without_honor_labels_services_are_still_told_apart():
    with serving() as exporter:
        exporter.export([*exchanges(1)])
        with prometheus(exporter.endpoint.port, honor_labels=False) as server:
            name = "http_server_request_duration_seconds_count"
            found = server.query(f"sum by (exported_job, exported_instance) ({name})")
            assert found == {labels(exported_job="demo/stock", exported_instance="h:b"): 1}
            assert server.target()["lastError"] == ""


def test_promtool_finds_nothing_wrong():
    with serving() as exporter:
        exporter.export([*exchanges(2)])
        checked = promtool(fetch(exporter.endpoint.url))
    assert (checked.returncode, checked.stderr) == (0, b"")


@contextmanager
def agent(port, *flags):
    """The agent, serving metrics only."""
    command = [WIRESPAN, "agent", "--no-tls", "--export", "none", "--socket", "none"]
    command += ["--prometheus", str(port), *flags]
    with running(command, stderr=subprocess.PIPE, text=True) as program:
        line = program.stderr.readline()
        assert line.startswith("Capturing"), line + program.stderr.read()
        yield program


@pytest.mark.kernel
def test_agent_is_scraped_while_it_captures():
    port, number = free_port(), 200
    with nginx() as web, agent(port, "--port", str(web.port)), prometheus(port) as server:
        for _ in range(2):
            connection = counting_connection(web.port)
            for index in range(number // 2):
                ask(connection, "GET", f"/small?{index}")
            connection.close()
        served = 'http_server_request_duration_seconds_count{job="nginx"}'
        server.wait(f"sum({served})", number)
        edges = server.query("sum by (client, server) (traces_service_graph_request_total)")
        assert edges == {key: number for key in edges if dict(key)["server"] == "nginx"}, edges
        assert server.scalar('sum(wirespan_spans_total{completeness="complete"})') >= 2 * number
        assert server.scalar('sum(wirespan_kernel_events_total{loss="true"}) or vector(0)') == 0
        delivered = 'sum(wirespan_kernel_events_total{cause="delivered"})'
        wait_until(lambda: server.scalar(delivered) >= 4 * number, "the kernel was asked again")
        assert server.scalar("sum(wirespan_health_failures_total) or vector(0)") == 0
        checked = promtool(fetch(f"http://127.0.0.1:{port}/metrics"))
        assert (checked.returncode, checked.stderr) == (0, b"")
