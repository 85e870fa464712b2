# SPDX-License-Identifier: Apache-2.0
"""What people's backends make of our spans: Jaeger, the Collector and Tempo themselves are asked.

The demo's shop is what they are told of, from its recording and live. Whoever calls whom in it is
`EDGES`, and everything that draws a picture has to draw that one.
"""

from __future__ import annotations

import gzip
import json
import subprocess
from collections import Counter
from contextlib import ExitStack

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint

from exporters.otlp import OtlpExporter
from exporters.settings import OtlpSettings
from tests.end_to_end import backend_servers
from tests.end_to_end.demo_site import (
    EDGES,
    RECORDING,
    REQUESTS,
    SERVICES,
    agent,
    check_pairs,
    drawn,
    forget_settings,
    only,
    replay,
    shop_again,
)
from tests.exporters.backends import http_backend
from tests.exporters.samples import span
from tests.rig import WIRESPAN, wait_until

pytestmark = [pytest.mark.backends, pytest.mark.timeout(120)]

PROTOCOLS = ("http/protobuf", "grpc")
SERVICE = "service.name"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    forget_settings(monkeypatch)


@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_jaeger_draws_the_demo_from_its_recording(protocol, compression):
    with backend_servers.jaeger() as jaeger:
        replay(jaeger.flags(protocol), "--compression", compression)
        assert drawn(jaeger.dependencies) == EDGES
        assert jaeger.services() == SERVICES
        check_pairs(jaeger.spans())


def test_a_trace_of_jaeger_has_both_ends_of_a_request():
    with backend_servers.jaeger() as jaeger:
        replay(jaeger.flags("grpc"))
        drawn(jaeger.dependencies)
        calls = [
            each
            for each in jaeger.spans().values()
            if each["operationName"] == "shop.Stock/Look" and each["service"] == "shop"
        ]
        trace = jaeger.trace(calls[0]["traceID"])
        pair = [each for each in trace if each["operationName"] == "shop.Stock/Look"]
        assert {each["service"] for each in pair} == {"shop", "stock"}
        assert jaeger.trace("0123456789abcdef0123456789abcdef") == []


@pytest.mark.kernel
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_jaeger_draws_the_live_demo_and_nothing_of_us(protocol):
    with ExitStack() as stack:
        jaeger = stack.enter_context(backend_servers.jaeger())
        site, go_shopping = shop_again(stack)
        ports = only([*site.ports, jaeger.grpc, jaeger.http])
        with agent(*jaeger.flags(protocol), "--no-metrics", *ports):
            go_shopping()
            # Long before the end: what is sent then would be seen if it could be.
            wait_until(lambda: len(jaeger.services()) > 3, "spans arrive")
        assert drawn(jaeger.dependencies) == EDGES
        assert jaeger.services() == SERVICES
        spans = jaeger.spans()
        check_pairs(spans)
        seen = {int(each["tags"]["network.peer.port"]) for each in spans.values()}
        assert not seen & {jaeger.grpc, jaeger.http}


def exporter(receiver, protocol, **changes):
    """One of this process."""
    _, endpoint, *_ = receiver.flags(protocol)
    settings = OtlpSettings.from_environment(
        {}, endpoint=endpoint, protocol=protocol, schedule_delay_s=0.1, **changes
    )
    return OtlpExporter(settings)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_after_a_restart_of_jaeger_spans_arrive_and_the_counters_tell_the_rest(protocol):
    some = [[span(100 * lot + number) for number in range(20)] for lot in (1, 2, 3)]
    ids = [{each.span_id.hex() for each in lot} for lot in some]
    with ExitStack() as stack:
        with backend_servers.jaeger() as first:
            sender = exporter(first, protocol)
            stack.callback(sender.close)
            sender.export(some[0])
            wait_until(lambda: first.spans().keys() == ids[0], "the first arrive")
        sender.export(some[1])
        wait_until(lambda: sender.counters()["retries"], "somebody knows that it is gone")
        with backend_servers.jaeger(first) as second:
            sender.export(some[2])
            assert sender.flush(20)
            counters = sender.counters()
            arrived = set(second.spans())
    # Those of the outage were held back and sent again.
    assert arrived == ids[1] | ids[2]
    assert counters["spans_received"] == counters["spans_sent"] == 60


def plain(attributes):
    """Keys with values and their types."""
    return {
        each.key: (kind := each.value.WhichOneof("value"), str(getattr(each.value, kind)))
        for each in attributes
    }


def spans_of(requests):
    """Resource, scope and all fields of each span by its id."""
    return {
        each.span_id: (
            plain(group.resource.attributes),
            (scope.scope.name, scope.scope.version, scope.schema_url),
            (each.trace_id, each.parent_span_id, each.name, each.kind, each.flags),
            (each.start_time_unix_nano, each.end_time_unix_nano),
            (each.status.code, each.status.message, each.trace_state),
            plain(each.attributes),
        )
        for request in requests
        if request.path == "/v1/traces"
        for group in request.message.resource_spans
        for scope in group.scope_spans
        for each in scope.spans
    }


def metrics_of(requests):
    """Resource, name and points of each metric, in the order in which they came."""
    for request in requests:
        if request.path == "/v1/metrics":
            body = request.body
            if request.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in group.scope_metrics:
                    for metric in scope.metrics:
                        data = getattr(metric, metric.WhichOneof("data"))
                        yield plain(group.resource.attributes), metric.name, data.data_points


def graph_of(requests, name="request_total", *, ours=False):
    """A value of each edge: of our own service graph, or of the one that the Collector makes."""
    newest = {}
    for resource, metric, points in metrics_of(requests):
        if metric == f"traces_service_graph_{name}" and (SERVICE in resource) == ours:
            for point in points:
                labels = plain(point.attributes)
                # Failed or not, a database or not: each is a series of its own.
                newest[tuple(sorted(labels.items()))] = (
                    (labels["client"][1], labels["server"][1]),
                    value_of(point),
                )
    edges = Counter()
    for edge, number in newest.values():
        edges[edge] += number
    return edges


def value_of(point):
    """Of a histogram the sum."""
    if isinstance(point, HistogramDataPoint):
        return point.sum
    return point.as_int or round(point.as_double)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_collector_passes_on_what_we_sent(protocol):
    with http_backend() as backend:
        replay(["--endpoint", backend.url()])
        sent = spans_of(backend.requests)
    assert len(sent) == 2 * REQUESTS
    with http_backend() as backend, backend_servers.collector(backend.url()) as collector:
        replay(collector.flags(protocol))
        wait_until(lambda: len(spans_of(backend.requests)) >= len(sent), "all arrive")
        assert spans_of(backend.requests) == sent


def test_service_graph_of_the_collector_is_the_demo():
    with http_backend() as backend, backend_servers.collector(backend.url()) as collector:
        replay(collector.flags("grpc"))
        assert drawn(lambda: graph_of(backend.requests)) == EDGES


@pytest.mark.kernel
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_our_service_graph_is_the_one_that_the_collector_makes_of_our_spans(protocol):
    with ExitStack() as stack:
        backend = stack.enter_context(http_backend())
        collector = stack.enter_context(backend_servers.collector(backend.url()))
        site, go_shopping = shop_again(stack)
        with agent(*collector.flags(protocol), *only(site.ports)):
            go_shopping()
        theirs = drawn(lambda: graph_of(backend.requests))
        ours = drawn(lambda: graph_of(backend.requests, ours=True))
        assert theirs == ours == EDGES
        failed = graph_of(backend.requests, "request_failed_total", ours=True)
        assert failed == graph_of(backend.requests, "request_failed_total")
        assert failed[("stock", "postgres")] == 1
        for name in ("request_client", "request_server"):
            seconds = graph_of(backend.requests, name, ours=True)
            assert seconds.keys() == EDGES.keys()
            assert seconds == pytest.approx(graph_of(backend.requests, name))


def test_service_graph_of_tempo_is_the_demo():
    with backend_servers.prometheus() as prometheus, backend_servers.tempo(prometheus) as tempo:
        replay(tempo.flags("grpc"))
        assert drawn(prometheus.edges) == EDGES


def test_tempo_has_the_traces():
    shown = subprocess.run(
        [WIRESPAN, "replay", str(RECORDING), "-o", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    sent = [json.loads(line) for line in shown.stdout.splitlines()]
    with backend_servers.tempo() as tempo:
        replay(tempo.flags("http/protobuf"))
        for trace_id in {each["trace_id"] for each in sent}:
            wait_until(lambda trace_id=trace_id: tempo.trace(trace_id), "a trace")
            assert sorted(
                (each["service"], each["name"]) for each in tempo.trace(trace_id)
            ) == sorted(
                (each["resource"]["service.name"], each["name"])
                for each in sent
                if each["trace_id"] == trace_id
            )
