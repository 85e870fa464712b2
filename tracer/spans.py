# SPDX-License-Identifier: Apache-2.0
"""Exchanges become spans: times on the wall clock, ids, kind.

Ids come from a generator with a seed, which a recording carries: so a replay makes the
same spans, byte for byte.
"""

from __future__ import annotations

from random import Random
from typing import Final

from parsers.model import Exchange, Outline
from tracer.connection import Connection
from tracer.span import KIND_OF_SIDE, Peering, Span

ID_BYTES: Final = 24
"""16 of a trace id, 8 of a span id."""
IDS_AT_ONCE: Final = 256
NO_PARENT: Final = b""


class SpanMaker:
    """Makes the spans of one run."""

    __slots__ = ("_ids", "_random", "_used", "unix_offset_ns")

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._ids = b""
        self._used = 0
        self.unix_offset_ns = 0
        """Of the batch whose exchanges are being made into spans."""

    def make(self, connection: Connection, exchange: Exchange) -> Span:
        """The span of an exchange, seen from the traced end of its connection."""
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
        trace_id, span_id = self._next_ids()
        peering = connection.peering_of(exchange)
        offset = self.unix_offset_ns
        return Span(
            trace_id,
            span_id,
            NO_PARENT,
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

    @staticmethod
    def _outline(connection: Connection, exchange: Exchange, peering: Peering) -> Outline:
        session = connection.session
        parser = exchange.parser or (None if session is None else session.parser)
        assert parser is not None
        return parser.outline(exchange, peering.side, peering.named_server)

    def _next_ids(self) -> tuple[bytes, bytes]:
        used = self._used
        if used >= len(self._ids):
            self._ids = self._random.randbytes(ID_BYTES * IDS_AT_ONCE)
            used = 0
        self._used = used + ID_BYTES
        return self._ids[used : used + 16], self._ids[used + 16 : used + ID_BYTES]
