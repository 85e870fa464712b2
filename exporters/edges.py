# SPDX-License-Identifier: Apache-2.0
"""Who asked whom: the edge of the service graph that a span belongs to.

Terms and labels are those of Tempo's and the Collector's service graphs, so that what draws
theirs draws ours. An exchange that was seen from both ends makes two spans and is one edge:
everything is counted of the client's, who knows how it went for the one who asked, and only
the server's own duration of the server's.

Spec: grafana/tempo 3.0 modules/generator/processor/servicegraphs
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tracer.span import DB_SYSTEM, Process, Span, SpanKind

USER: Final = "user"
"""A client of which nothing is known, as Tempo calls it."""
DATABASE: Final = "database"
VIRTUAL: Final = "virtual_node"
"""One of the two ends was not observed."""
SERVICE_NAMESPACE: Final = "service.namespace"


class Edge(NamedTuple):
    """A client and a server that exchange in one protocol."""

    client: str
    client_namespace: str
    server: str
    server_namespace: str
    connection_type: str
    """Empty, `database` or `virtual_node`."""
    protocol: str
    """As `Span.protocol` has it: http, grpc, postgresql, ..."""


def edge_of(span: Span) -> Edge | None:
    """The edge of `span`; None where nobody knows who asked."""
    kind = span.kind
    if kind is SpanKind.INTERNAL:
        return None
    own, peer = span.process, span.peer
    connection_type = ""
    if DB_SYSTEM in span.outline.attributes:
        connection_type = DATABASE
    elif peer is None:
        connection_type = VIRTUAL
    peer_name = span.peer_name or (USER if kind is SpanKind.SERVER else "unknown")
    peer_namespace = "" if peer is None else _namespace(peer)
    if kind is SpanKind.SERVER:
        return Edge(
            peer_name,
            peer_namespace,
            own.service_name,
            _namespace(own),
            connection_type,
            span.protocol,
        )
    return Edge(
        own.service_name,
        _namespace(own),
        peer_name,
        peer_namespace,
        connection_type,
        span.protocol,
    )


def is_counted(span: Span) -> bool:
    """Whether `span` counts for its edge, and not its twin from the other end."""
    return span.kind is SpanKind.CLIENT or not span.twin


def _namespace(process: Process) -> str:
    return str(process.resource.get(SERVICE_NAMESPACE, ""))
