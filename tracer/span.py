# SPDX-License-Identifier: Apache-2.0
"""Connection, process and span: what exporters are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from parsers.model import AttributeValue, Completeness, Endpoint, Outline, Side, Transport


class SpanKind(IntEnum):
    """Values are those of OTLP (opentelemetry/proto/trace/v1/trace.proto)."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


KIND_OF_SIDE: Final = {
    Side.CLIENT: SpanKind.CLIENT,
    Side.SERVER: SpanKind.SERVER,
    Side.UNKNOWN: SpanKind.INTERNAL,
}


SERVER_NAME: Final = "tls.client.server_name"
TLS_IN_USE: Final[Mapping[str, AttributeValue]] = {"tls.protocol.name": "tls"}
"""All that is known of a connection whose handshake was not seen."""

PEER_KEYS: Final = ("service.peer.name", "peer.service")
"""The conventions' key for the service at the other end, and the one before, which is what
Tempo's and the Collector's service graphs read."""
DB_SYSTEM: Final = "db.system.name"
DB_SYSTEM_BEFORE: Final = "db.system"
"""What that was called before, by which Tempo knows a database."""


@dataclass(slots=True, frozen=True, eq=False)
class Process:
    """Facts of one process, read once and kept past its exit.

    Compared and hashed by identity: one object a process, so that exporters can
    group by it without hashing its contents.
    """

    pid: int
    start_ns: int
    """CLOCK_BOOTTIME of its start; with `pid` the identity."""
    resource: Mapping[str, AttributeValue]
    """Resource attributes of its service instance, `service.name` among them."""

    @property
    def service_name(self) -> str:
        return str(self.resource["service.name"])


@dataclass(slots=True, eq=False)
class Peering:
    """The part of a span that its connection decides: one object a connection.

    Compared by identity, so that exporters can cache what they make of it.
    """

    side: Side
    transport: Transport
    local: Endpoint
    remote: Endpoint
    late: bool
    """The connection is older than the tracer."""
    tls: Mapping[str, AttributeValue] | None = None
    """What its handshake said in clear, if it is encrypted on the wire; None if it is not."""

    @property
    def server(self) -> Endpoint:
        """The end that serves; the remote one where that is unknown."""
        return self.local if self.side is Side.SERVER else self.remote

    @property
    def named_server(self) -> Endpoint:
        """The same, by the name that the client asked for in the TLS handshake if it did."""
        server = self.server
        name = self.tls.get(SERVER_NAME) if self.tls else None
        return Endpoint(name, server.port) if isinstance(name, str) else server

    def attributes(self) -> dict[str, AttributeValue]:
        """Attributes that every span of the connection has."""
        attributes: dict[str, AttributeValue] = dict(self.tls or ())
        if self.transport is Transport.UNIX:
            attributes["network.transport"] = "unix"
            return attributes
        if self.transport is Transport.UDP:
            attributes["network.transport"] = "udp"
        if self.remote.address:
            attributes["network.peer.address"] = self.remote.address
            attributes["network.peer.port"] = self.remote.port
        return attributes


@dataclass(slots=True, eq=False)
class Span:
    """One exchange, with process, addresses and ids."""

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    """Empty for a root span."""
    kind: SpanKind
    start_unix_ns: int
    end_unix_ns: int
    outline: Outline
    protocol: str
    process: Process
    peering: Peering
    completeness: Completeness
    request_bytes: int
    response_bytes: int
    first_byte_ns: int
    """Nanoseconds from the request's first byte to the response's; 0 if there was none."""
    rtt_us: int
    """Smoothed round-trip time of the connection; 0 where TCP knows none."""
    request_count: int = -1
    """Rows, elements or messages of the request, see `Outline.counts`; -1 where nobody counts."""
    response_count: int = -1
    resends: int = 0
    """How often the request was sent again before it was answered."""
    peer: Process | None = None
    """The process at the other end, if it is on this machine and seen."""
    twin: bool = False
    """That end makes a span of the same exchange."""
    peer_name: str = ""
    """What the other end is called: its service, else the best name there is; an address only
    where there is none, and empty for a client that has none."""
    trace_state: str = ""
    """W3C tracestate, with what a sampler says of how many such spans there were."""

    def measures(self) -> Iterator[tuple[str, AttributeValue]]:
        """Attributes that differ from exchange to exchange, in the order exporters send them."""
        yield "wirespan.completeness", self.completeness.value
        yield "wirespan.request.size", self.request_bytes
        yield "wirespan.response.size", self.response_bytes
        if self.first_byte_ns:
            yield "wirespan.time_to_first_byte", self.first_byte_ns / 1e9
        if self.rtt_us:
            yield "wirespan.rtt", self.rtt_us / 1e6
        asked, answered = self.outline.counts
        if asked and self.request_count >= 0:
            yield asked, self.request_count
        if answered and self.response_count >= 0:
            yield answered, self.response_count
        if self.resends:
            yield "wirespan.request.resends", self.resends

    def attributes(self) -> dict[str, AttributeValue]:
        """All attributes, keys as in the conventions."""
        attributes = dict(self.outline.attributes)
        if DB_SYSTEM in attributes:
            attributes[DB_SYSTEM_BEFORE] = attributes[DB_SYSTEM]
        attributes.update(self.peering.attributes())
        if self.kind is SpanKind.SERVER:
            client = self.outline.client_address or self.peering.remote.address
            if client:
                attributes["client.address"] = client
        if self.peer_name:
            attributes.update((key, self.peer_name) for key in PEER_KEYS)
        if self.outline.error_type is not None:
            attributes["error.type"] = self.outline.error_type
        attributes.update(self.measures())
        return attributes
