# SPDX-License-Identifier: Apache-2.0
"""The exporter as a whole, against real backends."""

from __future__ import annotations

import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from exporters import metrics
from exporters.environment import SettingsError
from exporters.metrics import MetricsExporter
from exporters.metrics_settings import MetricsSettings
from parsers.model import Side
from tests.exporters import samples
from tests.exporters.backends import Reply, free_port, grpc_backend, http_backend
from tracer.telemetry import Reading

SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OTEL_METRICS_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def backend():
    with http_backend() as made:
        yield made


@pytest.fixture
def make(request):
    def made(**options):
        exporter = MetricsExporter.from_options(options)
        request.addfinalizer(exporter.close)
        return exporter

    return made


def spans(count=3, seconds=0.5):
    return [
        samples.span(end_unix_ns=samples.START_NS + round(seconds * SECOND)) for _ in range(count)
    ]


def received(backend):
    """What the backend was told, by service and metric: numbers, or counts of histograms."""
    found = {}
    for request in backend.requests:
        assert request.path == "/v1/metrics"
        found = found_in(request.body)
    return found


def found_in(body):
    found = {}
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        service = {a.key: a.value.string_value for a in resource.resource.attributes}[
            "service.name"
        ]
        for metric in resource.scope_metrics[0].metrics:
            which = metric.WhichOneof("data")
            for point in getattr(metric, which).data_points:
                value = point.count if "histogram" in which else point.as_int or point.as_double
                found[service, metric.name] = value
    return found


def counts(exporter):
    return {name: count for name, count in exporter.counters().items() if count}


def test_spans_arrive_as_metrics(backend, make):
    exporter = make(endpoint=backend.url())
    exporter.export(spans())
    exporter.export(spans(2))
    assert exporter.flush(5)
    assert received(backend) == {
        ("shop", "http.server.request.duration"): 5,
        ("wirespan", "traces_service_graph_request_total"): 5,
        ("wirespan", "traces_service_graph_request_server"): 5,
    }
    assert counts(exporter) == {
        "spans_received": 5,
        "exports": 1,
        "points_sent": 3,
        "requests": 1,
    }


def test_by_grpc_a_backend_for_traces_only_says_that_it_does_not_know_metrics(make, caplog):
    with grpc_backend() as traces_only:
        exporter = make(endpoint=f"http://localhost:{traces_only.port}", protocol="grpc")
        exporter.export(spans())
        assert exporter.flush(5)
        exporter.close()
    assert "take traces only" in caplog.text
    assert counts(exporter)["points_dropped_status"] == 3


def test_by_grpc_they_arrive(make):
    bodies = []

    def export(body, context):
        bodies.append(body)
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    service = "opentelemetry.proto.collector.metrics.v1.MetricsService"
    handler = grpc.unary_unary_rpc_method_handler(export)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Export": handler}),)
    )
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        exporter = make(endpoint=f"http://localhost:{port}", protocol="grpc")
        exporter.export(spans())
        assert exporter.flush(5)
        exporter.close()
    finally:
        server.stop(0).wait()
    (body,) = bodies
    assert found_in(body)["shop", "http.server.request.duration"] == 3


def test_a_backend_for_traces_only_answers_404_and_is_left_alone(backend, make, caplog):
    backend.replies.append(Reply(404, b"404 page not found\n", "text/plain"))
    exporter = make(endpoint=backend.url())
    exporter.export(spans())
    assert exporter.flush(5)
    assert exporter.flush(5)
    assert len(backend.requests) == 1
    assert caplog.text.count("take traces only") == 1


def test_exponential_histograms_and_deltas_if_asked_for(backend, make, monkeypatch):
    prefix = "OTEL_EXPORTER_OTLP_METRICS_"
    monkeypatch.setenv(prefix + "TEMPORALITY_PREFERENCE", "delta")
    monkeypatch.setenv(
        prefix + "DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram"
    )
    exporter = make(endpoint=backend.url())
    for count in (3, 2):
        exporter.export(spans(count))
        assert exporter.flush(5)
    assert received(backend)["shop", "http.server.request.duration"] == 2
    message = ExportMetricsServiceRequest.FromString(backend.requests[-1].body)
    metric = message.resource_metrics[0].scope_metrics[0].metrics[0]
    assert metric.WhichOneof("data") == "exponential_histogram"


def test_the_exemplar_leads_to_the_latest_span(backend, make):
    exporter = make(endpoint=backend.url())
    sent = spans()
    exporter.export(sent)
    assert exporter.flush(5)
    message = ExportMetricsServiceRequest.FromString(backend.requests[0].body)
    (point,) = message.resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points
    (exemplar,) = point.exemplars
    assert (exemplar.trace_id, exemplar.span_id) == (sent[-1].trace_id, sent[-1].span_id)


READINGS = [
    Reading("wirespan.spans", "counter", "{span}", "Spans", 7, (("protocol", "http"),)),
    Reading("wirespan.spans", "counter", "{span}", "Spans", 8, (("protocol", "grpc"),)),
    Reading("process.memory.usage", "gauge", "By", "Memory", 1.5),
]


def own(exporter):
    """The agent's own metrics: values by name and attributes."""
    groups = [g for g in exporter.collect() if g.resource["service.name"] == "wirespan"]
    return {
        (metric.instrument.name, metric.instrument.kind, point.attributes): point.value
        for group in groups
        for metric in group.metrics
        for point in metric.points
    }


def test_the_agents_own_health_is_among_the_metrics(make):
    exporter = make(otlp="false")
    exporter.observe(lambda: READINGS)
    assert own(exporter) == {
        ("wirespan.spans", "counter", (("protocol", "http"),)): 7,
        ("wirespan.spans", "counter", (("protocol", "grpc"),)): 8,
        ("process.memory.usage", "gauge", ()): 1.5,
    }
    first, second = (exporter.collect()[-1].metrics for _ in range(2))
    assert [metric.instrument for metric in first] == [metric.instrument for metric in second]


def test_health_that_cannot_be_had_leaves_the_rest(make, caplog):
    exporter = make(otlp="false", prometheus="127.0.0.1:0")

    def readings():
        yield READINGS[0]
        raise OSError("kernel gone")

    exporter.observe(readings)
    exporter.export(spans())
    assert len(exporter.collect()) == 2
    assert "kernel gone" in caplog.text
    assert exporter.counters()["readings_failed"] == 1


def test_too_many_readings_are_counted(make, monkeypatch):
    monkeypatch.setattr(metrics, "MAX_OBSERVED", 2)
    exporter = make(otlp="false")
    exporter.observe(lambda: READINGS)
    assert len(own(exporter)) == 2
    assert exporter.counters()["readings_dropped"] == 1


def test_prometheus_may_scrape(make):
    exporter = make(otlp="false", prometheus="127.0.0.1:0")
    exporter.export(spans())
    exporter.observe(lambda: READINGS)
    with urllib.request.urlopen(exporter.endpoint.url, timeout=5) as response:
        text = response.read().decode()
    assert "http_server_request_duration_seconds_count" in text
    assert "traces_service_graph_request_total" in text
    assert exporter.counters()["scrapes"] == 1
    assert exporter.flush(0)


def test_without_a_reader_nothing_is_counted_but_the_spans(make):
    exporter = make(otlp="false")
    exporter.export(spans())
    assert exporter.collect() == []
    assert counts(exporter) == {"spans_received": 3}


def test_nobody_scrapes_where_otlp_cannot_be(monkeypatch, tmp_path):
    port = free_port()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "none.pem"))
    options = {"endpoint": "https://localhost:1", "prometheus": f"127.0.0.1:{port}"}
    for _ in range(2):  # the second would find the port in use
        with pytest.raises(SettingsError, match=r"none\.pem"):
            MetricsExporter.from_options(options)


def test_a_bad_option_is_an_error(make):
    with pytest.raises(SettingsError, match="speed"):
        make(speed="fast")


def test_close_may_come_twice_and_export_after_it_does_no_harm(backend, make):
    exporter = make(endpoint=backend.url())
    exporter.close()
    exporter.export(spans())
    exporter.close()
    assert not exporter.flush(1)


def test_readers_and_the_pipeline_do_not_disturb_each_other():
    settings = MetricsSettings(prometheus="127.0.0.1:0")
    exporter = MetricsExporter(settings, resource={"service.name": "wirespan"})
    errors = []
    running = True

    def read():
        seen = 0
        try:
            while running:
                for group in exporter.collect():
                    for metric in group.metrics:
                        if metric.instrument.name == "http.client.request.duration":
                            count = sum(point.value.count for point in metric.points)
                            assert count >= seen
                            assert all(sum(p.value.counts) == p.value.count for p in metric.points)
                            seen = count
        except BaseException as problem:
            errors.append(problem)
            raise

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    peering = samples.peering(Side.CLIENT)
    try:
        for number in range(300):
            outline = samples.outline(
                attributes={"http.request.method": "GET", "server.address": f"s{number}"}
            )
            batch = [samples.span(peering=peering, outline=outline) for _ in range(10)]
            exporter.export(batch)
    finally:
        running = False
        for thread in threads:
            thread.join(5)
        exporter.close()
    assert errors == []
    (group,) = [g for g in exporter.collect() if g.resource["service.name"] == "shop"]
    assert sum(point.value.count for point in group.metrics[0].points) == 3000
