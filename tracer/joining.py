# SPDX-License-Identifier: Apache-2.0
"""One exchange, seen from both ends, is one trace: the server's span is the child of the client's.

Both ends see the same bytes at the same positions, so a request is known by the client's socket
and its number there: that of its stream or transaction where the protocol has one, else the
position of its first byte. Whichever end is done first draws the ids of both and leaves them for
the other. So no span waits for another, and what was joined is the same in a replay.

A server is made a child only if its client's socket is being parsed, so that the parent will
come; if it is lost all the same, a span with an unknown parent is left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from random import Random
from typing import Final, TypeAlias

from parsers.model import Exchange, Side, Transport
from tracer.connection import Connection
from tracer.ends import Ends
from tracer.span import Peering, Process

MAX_PENDING: Final = 16_384
"""Ends that wait for the other one. It mostly comes within the same batch."""
SAME_NS: Final = 5_000_000_000
"""Between the two ends' views of one request; transaction numbers come again."""
TRACE_ID_BYTES: Final = 16
SPAN_ID_BYTES: Final = 8
BYTES_AT_ONCE: Final = 6144
NO_PARENT: Final = b""


Identity: TypeAlias = tuple[bytes, bytes, bytes, Process | None, bool, int]
"""Trace id, span id, parent span id (empty for a root), the process at the other end if it is seen,
whether that end makes a span of the same exchange, and nanoseconds that it began earlier."""
Waiting: TypeAlias = tuple[Side, int, bytes, bytes, Process]
"""What the first end has left: its side, when it began, trace id, the client's span id, and who
it is."""


class Joining:
    """Gives spans their ids."""

    __slots__ = ("_bytes", "_ends", "_random", "_used", "_waiting")

    def __init__(self, seed: int, ends: Ends) -> None:
        self._random = Random(seed)
        self._bytes = b""
        self._used = 0
        self._ends = ends
        self._waiting: OrderedDict[tuple[int, Hashable], Waiting] = OrderedDict()

    def other(self, connection: Connection, peering: Peering) -> Connection | None:
        """Who is at the other end right now, if it is seen."""
        other = connection.other
        if other is None and (connection.carrier or peering.transport is Transport.UDP):
            return self._ends.other(connection, peering)
        return other

    def identify(
        self,
        connection: Connection,
        exchange: Exchange,
        peering: Peering,
        other: Connection | None,
    ) -> Identity:
        """Who a span is; `other` is who was at the other end when it was made."""
        if other is None:
            # Its record may have come behind what it says.
            other = self.other(connection, peering)
        side = peering.side
        is_client = side is Side.CLIENT
        if other is None:
            if not (
                # Nothing opens a datagram socket: it may be told of later than its client.
                is_client
                and peering.transport is Transport.UDP
                and self._ends.is_here(connection, peering.remote)
            ):
                return self._root(None, twin=False)
            process, is_parsed = None, False
        else:
            process, is_parsed = other.process, other.session is not None
        request = exchange.request
        number: Hashable = request.correlation_id
        if number is None:
            if connection.carrier and (peering.late or other is None or other.peering.late):
                # Inside TLS, bytes are counted from where the tracer came.
                return self._root(process, twin=is_parsed)
            number = request.position
        client = connection if is_client or other is None else other
        key = client.cookie, number
        waiting = self._waiting.pop(key, None)
        began_ns = request.first_ns
        if waiting is not None and waiting[0] is not side and abs(waiting[1] - began_ns) < SAME_NS:
            _, first_ns, trace_id, client_span_id, process = waiting
            if is_client:
                # A send is seen when it has returned, by when it may have been received.
                lead_ns = max(0, began_ns - first_ns)
                return trace_id, client_span_id, NO_PARENT, process, True, lead_ns
            return trace_id, self._take(SPAN_ID_BYTES), client_span_id, process, True, 0
        if side is Side.UNKNOWN or not (is_client or is_parsed):
            return self._root(process, twin=False)
        trace_id, client_span_id = self._take(TRACE_ID_BYTES), self._take(SPAN_ID_BYTES)
        if len(self._waiting) >= MAX_PENDING:
            self._waiting.popitem(last=False)
        self._waiting[key] = side, began_ns, trace_id, client_span_id, connection.process
        if is_client:
            return trace_id, client_span_id, NO_PARENT, process, is_parsed, 0
        return trace_id, self._take(SPAN_ID_BYTES), client_span_id, process, True, 0

    def _root(self, process: Process | None, *, twin: bool) -> Identity:
        used = self._used
        end = used + TRACE_ID_BYTES + SPAN_ID_BYTES
        if end > BYTES_AT_ONCE or not self._bytes:
            self._bytes = self._random.randbytes(BYTES_AT_ONCE)
            used, end = 0, TRACE_ID_BYTES + SPAN_ID_BYTES
        self._used = end
        middle = used + TRACE_ID_BYTES
        return self._bytes[used:middle], self._bytes[middle:end], NO_PARENT, process, twin, 0

    def _take(self, size: int) -> bytes:
        used = self._used
        if used + size > len(self._bytes):
            self._bytes = self._random.randbytes(BYTES_AT_ONCE)
            used = 0
        self._used = used + size
        return self._bytes[used : used + size]
