# SPDX-License-Identifier: Apache-2.0
"""Rate, errors and duration of requests: which histogram a span belongs to, with what attributes.

Attributes are those that the conventions require or recommend. Three are left out that would make
as many series as there are peers or names: `network.peer.address` and `.port` of databases
(`server.address` says as much), and `dns.question.name` of DNS look-ups, although the
conventions require it. DNS look-ups have the resolver's `server.address` instead.

What is not in a table here has no such metric: a database's own side, which the conventions do
not know; answers of a DNS server; TLS handshakes; and exchanges of which nobody knows who asked.

OTel: https://opentelemetry.io/docs/specs/semconv/http/http-metrics/ 1.44.0, and rpc/rpc-metrics,
database/database-metrics, dns/dns-metrics
"""

from __future__ import annotations

from typing import Final, NamedTuple

from exporters.instruments import Attributes, Instrument
from parsers.model import AttributeValue, Outline
from tracer.span import SpanKind

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds."""
DATABASE_BOUNDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)

ERROR_TYPE: Final = "error.type"


class Measure(NamedTuple):
    """A histogram, and the attributes that it takes of an outline besides `error.type`."""

    instrument: Instrument
    before: tuple[str, ...]
    """In order, and what is smaller than `error.type`."""
    after: tuple[str, ...]


def _measure(name: str, description: str, bounds: tuple[float, ...], *keys: str) -> Measure:
    return Measure(
        Instrument(name, "histogram", "s", description, bounds),
        tuple(sorted(key for key in keys if key < ERROR_TYPE)),
        tuple(sorted(key for key in keys if key > ERROR_TYPE)),
    )


HTTP_KEYS: Final = (
    "http.request.method",
    "http.response.status_code",
    "network.protocol.name",
    "network.protocol.version",
)
RPC_KEYS: Final = (
    "rpc.system.name",
    "rpc.method",
    # The second is the name after 1.44; an outline has one of them.
    "rpc.response.status_code",
    "rpc.status_code",
)
HTTP_SERVER: Final = _measure(
    "http.server.request.duration",
    "Duration of HTTP server requests.",
    BOUNDS,
    *HTTP_KEYS,
    "http.route",
    "url.scheme",
)
HTTP_CLIENT: Final = _measure(
    "http.client.request.duration",
    "Duration of HTTP client requests.",
    BOUNDS,
    *HTTP_KEYS,
    "server.address",
    "server.port",
)
RPC_SERVER: Final = _measure(
    "rpc.server.call.duration", "Duration of inbound remote procedure calls.", BOUNDS, *RPC_KEYS
)
RPC_CLIENT: Final = _measure(
    "rpc.client.call.duration",
    "Duration of outbound remote procedure calls.",
    BOUNDS,
    *RPC_KEYS,
    "server.address",
    "server.port",
)
DATABASE: Final = _measure(
    "db.client.operation.duration",
    "Duration of database client operations.",
    DATABASE_BOUNDS,
    "db.system.name",
    "db.collection.name",
    "db.namespace",
    "db.operation.name",
    "db.response.status_code",
    "db.query.summary",
    "db.stored_procedure.name",
    "server.address",
    "server.port",
)
DNS: Final = _measure(
    "dns.lookup.duration",
    "Measures the time taken to perform a DNS lookup.",
    BOUNDS,
    "server.address",
)
DNS_PROTOCOL: Final = "dns"


def measure_of(kind: SpanKind, outline: Outline, protocol: str) -> Measure | None:
    """The histogram of a span with this outline; None if it has none."""
    if kind is SpanKind.INTERNAL:
        return None
    attributes = outline.attributes
    serves = kind is SpanKind.SERVER
    if "rpc.system.name" in attributes:
        return RPC_SERVER if serves else RPC_CLIENT
    if "http.request.method" in attributes:
        return HTTP_SERVER if serves else HTTP_CLIENT
    if serves:
        return None
    if "db.system.name" in attributes:
        return DATABASE
    return DNS if protocol == DNS_PROTOCOL else None


def attributes_of(measure: Measure, outline: Outline) -> Attributes:
    """What `measure` takes of `outline`, in order of keys."""
    all_of_it = outline.attributes
    found = [(key, scalar(all_of_it[key])) for key in measure.before if key in all_of_it]
    if outline.error_type is not None:
        found.append((ERROR_TYPE, outline.error_type))
    found += [(key, scalar(all_of_it[key])) for key in measure.after if key in all_of_it]
    return tuple(found)


def scalar(value: AttributeValue) -> AttributeValue:
    """The value in a form that can be a key: a list, which none of these should be, as text."""
    return value if isinstance(value, str | int | float) else ",".join(map(str, value))
