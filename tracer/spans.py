# SPDX-License-Identifier: Apache-2.0
"""Exchanges become spans: times on the wall clock, ids, kind, names.

Ids come from a generator with a seed, which a recording carries: so a replay makes the
same spans, byte for byte.
"""

from __future__ import annotations

from typing import Final

from parsers.model import Exchange, Outline
from tracer.connection import Connection
from tracer.joining import Joining
from tracer.peers import Peers
from tracer.routes import Routes
from tracer.span import KIND_OF_SIDE, Peering, Span, SpanKind

HTTP: Final = "http"
NO_ID: Final = b""


class SpanMaker:
    """Makes the spans of one run."""

    __slots__ = ("_joining", "_peers", "_routes", "unix_offset_ns")

    def __init__(self, joining: Joining, peers: Peers, routes: Routes) -> None:
        self._joining = joining
        self._peers = peers
        self._routes = routes
        self.unix_offset_ns = 0
        """Of the batch whose exchanges are being made into spans."""

    def make(self, connection: Connection, exchange: Exchange) -> Span:
        """The span of an exchange, as the traced end of its connection and its parser are now.

        It is nobody's until `complete`.
        """
        request = exchange.request
        response = exchange.response
        start_ns = request.first_ns
        end_ns = request.last_ns
        first_byte_ns = 0
        response_bytes = 0
        response_count = -1
        if response is not None:
            # Who answers early may throw the rest of the request away much later.
            end_ns = max(start_ns, response.last_ns)
            first_byte_ns = max(0, response.first_ns - start_ns)
            response_bytes = response.size
            response_count = response.count
        peering = connection.peering_of(exchange)
        offset = self.unix_offset_ns
        return Span(
            NO_ID,
            NO_ID,
            NO_ID,
            KIND_OF_SIDE[peering.side],
            start_ns + offset,
            end_ns + offset,
            self._outline(connection, exchange, peering),
            exchange.protocol,
            connection.process,
            peering,
            exchange.completeness,
            request.size,
            response_bytes,
            first_byte_ns,
            connection.rtt_us,
            request.count,
            response_count,
            request.resends,
        )

    def other(self, connection: Connection, span: Span) -> Connection | None:
        """Who is at the other end of what has just been made."""
        return self._joining.other(connection, span.peering)

    def complete(
        self, span: Span, connection: Connection, exchange: Exchange, other: Connection | None
    ) -> None:
        """Give the span its ids, and the names of its other end and its route.

        Where `other`, who is at the other end, is not known when the span is made, it is looked for
        after the batch: two CPUs report in either order.
        """
        span.trace_id, span.span_id, span.parent_span_id, span.peer, span.twin, lead_ns = (
            self._joining.identify(connection, exchange, span.peering, other)
        )
        if lead_ns:
            span.start_unix_ns -= lead_ns
            if span.first_byte_ns:
                span.first_byte_ns += lead_ns
        span.peer_name = self._peers.name(span, span.peer)
        if exchange.protocol == HTTP:
            kind = span.kind
            owner = span.peer_name if kind is SpanKind.CLIENT else span.process.service_name
            span.outline = self._routes.apply(span.outline, kind, owner)

    @staticmethod
    def _outline(connection: Connection, exchange: Exchange, peering: Peering) -> Outline:
        session = connection.session
        parser = exchange.parser or (None if session is None else session.parser)
        assert parser is not None
        return parser.outline(exchange, peering.side, peering.named_server)
