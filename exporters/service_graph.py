# SPDX-License-Identifier: Apache-2.0
"""The metrics of the service graph: what Grafana draws a map of services from.

Names and labels are Tempo's and the Collector's; of the names of histograms those of the
Collector, to which Prometheus adds the unit: `traces_service_graph_request_server_seconds`. The
protocol is no label, as in neither of them. Buckets are the Collector's too: Tempo's begin at
0.1 s, where most exchanges inside of a machine room are long over.

Requests are counted once for each edge (exporters/edges.py): of the client's span, or of the
server's where the client is not seen. Each end's duration is its own span's. Where a server is
not seen, its duration is what its client has waited, as Tempo has it.

Whoever draws these must not let Tempo's generator or the Collector's connector make the same
from the spans: edges would count twice.

Spec: grafana/tempo 3.0 modules/generator/processor/servicegraphs;
opentelemetry-collector-contrib connector/servicegraphconnector
"""

from __future__ import annotations

from typing import Final, NamedTuple

from exporters.edges import Edge, edge_of, is_counted
from exporters.instruments import Attributes, Instrument
from tracer.span import Span, SpanKind

BOUNDS: Final = (
    0.002, 0.004, 0.006, 0.008, 0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.4, 2.0, 5.0, 10.0, 15.0,
)  # fmt: skip
"""Seconds."""

REQUESTS: Final = Instrument(
    "traces_service_graph_request_total",
    "counter",
    "{request}",
    "Total count of requests between two nodes",
)
FAILED: Final = Instrument(
    "traces_service_graph_request_failed_total",
    "counter",
    "{request}",
    "Total count of failed requests between two nodes",
)
SERVER_SECONDS: Final = Instrument(
    "traces_service_graph_request_server",
    "histogram",
    "s",
    "Time for a request between two nodes as seen from the server",
    BOUNDS,
)
CLIENT_SECONDS: Final = Instrument(
    "traces_service_graph_request_client",
    "histogram",
    "s",
    "Time for a request between two nodes as seen from the client",
    BOUNDS,
)


class EdgeMetrics(NamedTuple):
    """What a span adds to."""

    labels: Attributes
    counters: tuple[Instrument, ...]
    histograms: tuple[Instrument, ...]


def edge_metrics(span: Span) -> EdgeMetrics | None:
    """What `span` adds to; None if it has no edge."""
    edge = edge_of(span)
    if edge is None:
        return None
    counters: tuple[Instrument, ...] = ()
    if is_counted(span):
        counters = (REQUESTS,) if span.outline.error_type is None else (REQUESTS, FAILED)
    if span.kind is SpanKind.SERVER:
        histograms: tuple[Instrument, ...] = (SERVER_SECONDS,)
    elif not span.twin:
        histograms = (CLIENT_SECONDS, SERVER_SECONDS)
    else:
        histograms = (CLIENT_SECONDS,)
    return EdgeMetrics(labels_of(edge), counters, histograms)


def labels_of(edge: Edge) -> Attributes:
    """Its labels in order: namespaces only where there are some."""
    labels = [("client", edge.client)]
    if edge.client_namespace:
        labels.append(("client_service_namespace", edge.client_namespace))
    labels += [("connection_type", edge.connection_type), ("server", edge.server)]
    if edge.server_namespace:
        labels.append(("server_service_namespace", edge.server_namespace))
    return tuple(labels)
