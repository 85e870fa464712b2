# SPDX-License-Identifier: Apache-2.0
"""Spans as the bytes of an ExportTraceServiceRequest, without the protobuf classes.

Building the official messages costs over 30 us a span, most of it for attributes that
were the same a moment ago. So bytes are kept of everything that repeats: of an `Outline`,
of a `Peering`, of a `Process`, of a size. What is new in each span is laid out by two
`struct` calls. The bytes are those that `SerializeToString` of the official classes
gives (fields in order of number, proto3 defaults left out); tests hold the two equal.

Caches are keyed by the objects themselves, so no key outlives its object, and each
forgets everything when it is full: what is hot comes back at once, and hits stay cheap.

Spec: https://protobuf.dev/programming-guides/encoding/
OTel: https://github.com/open-telemetry/opentelemetry-proto 1.11.0, trace/v1/trace.proto
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from exporters.protobuf import (
    DOUBLE,
    INT64,
    Cache,
    key_name,
    key_value,
    message,
    text,
    utf8,
    varint,
)
from exporters.semconv import (
    FLAGS_LOCAL,
    FLAGS_REMOTE,
    SCHEMA_URL,
    SCOPE_NAME,
    SCOPE_VERSION,
    STATUS_ERROR,
)
from parsers.model import AttributeValue, Completeness, Outline
from tracer.span import (
    DB_SYSTEM,
    DB_SYSTEM_BEFORE,
    PEER_KEYS,
    Peering,
    Process,
    Span,
    SpanKind,
)

EncodedSpan: TypeAlias = tuple[Process, bytes]
"""A Span message without its tag and length, and whose it is."""

MAX_OUTLINES: Final = 2048
MAX_PEERINGS: Final = 4096
MAX_PROCESSES: Final = 1024
MAX_TEXTS: Final = 4096
"""Attributes with a string value, by key and value."""
MAX_SIZES: Final = 4096
MAX_PEERS: Final = 4096
"""Names of other ends."""
MAX_CACHED_TEXT: Final = 256
"""Characters; longer values seldom repeat outside their outline."""
MAX_OUTLINE_BYTES: Final = 4096
"""Outlines that take more are laid out anew each time, so that the cache stays small."""

# ---- attributes of a span ----

SPAN_ATTRIBUTE: Final = 0x4A
"""Field 9 of Span."""
RESOURCE_ATTRIBUTE: Final = 0x0A
"""Field 1 of Resource."""


def _attribute(key: str, value: AttributeValue) -> bytes:
    """A KeyValue as attribute of a span: in one step if its lengths take one byte each."""
    name = key_name[key]
    if type(value) is str:
        raw = utf8(value)
        size = len(raw)
        whole = len(name) + size + 4
        if whole < 128:
            return b"J%c%b\x12%c\n%c%b" % (whole, name, size + 2, size, raw)
    elif type(value) is int and value in INT64:
        raw = varint(value)
        size = len(raw) + 1
        whole = len(name) + size + 2
        if whole < 128:
            return b"J%c%b\x12%c\x18%b" % (whole, name, size, raw)
    return key_value(SPAN_ATTRIBUTE, key, value)


_texts: Final[Cache[tuple[str, str], bytes]] = Cache(lambda pair: _attribute(*pair), MAX_TEXTS)


def attributes(items: Iterable[tuple[str, AttributeValue]]) -> bytes:
    """Attributes of a span, in the order given."""
    return b"".join(
        [
            _texts[key, value]
            if type(value) is str and len(value) <= MAX_CACHED_TEXT
            else _attribute(key, value)
            for key, value in items
        ]
    )


COMPLETENESS: Final = "wirespan.completeness"
REQUEST_SIZE: Final = "wirespan.request.size"
RESPONSE_SIZE: Final = "wirespan.response.size"
FIRST_BYTE: Final = "wirespan.time_to_first_byte"
RTT: Final = "wirespan.rtt"
RESENDS: Final = "wirespan.request.resends"
CLIENT_ADDRESS: Final = "client.address"
ERROR_TYPE: Final = "error.type"

LATE_KEYS: Final = frozenset(
    {
        COMPLETENESS,
        REQUEST_SIZE,
        RESPONSE_SIZE,
        FIRST_BYTE,
        RTT,
        RESENDS,
        CLIENT_ADDRESS,
        ERROR_TYPE,
        DB_SYSTEM_BEFORE,
        *PEER_KEYS,
    }
)
"""What `Span.attributes` may put over attributes of the outline."""

_complete: Final = attributes([(COMPLETENESS, Completeness.COMPLETE.value)])
_request_sizes: Final[Cache[int, bytes]] = Cache(
    lambda size: key_value(SPAN_ATTRIBUTE, REQUEST_SIZE, size), MAX_SIZES
)
_response_sizes: Final[Cache[int, bytes]] = Cache(
    lambda size: key_value(SPAN_ATTRIBUTE, RESPONSE_SIZE, size), MAX_SIZES
)
_counts: Final[Cache[tuple[str, int], bytes]] = Cache(lambda pair: _attribute(*pair), MAX_SIZES)
_peer_names: Final[Cache[str, bytes]] = Cache(
    lambda name: attributes([(key, name) for key in PEER_KEYS]) if name else b"", MAX_PEERS
)
# A double has eight bytes whatever its value: all that stands before it is constant.
_first_byte: Final = key_value(SPAN_ATTRIBUTE, FIRST_BYTE, 0.0)[:-8]
_rtt: Final = key_value(SPAN_ATTRIBUTE, RTT, 0.0)[:-8]
_pack_first_byte: Final = Struct(f"<{len(_first_byte)}sd").pack
_pack_both: Final = Struct(f"<{len(_first_byte)}sd{len(_rtt)}sd").pack


# ---- spans ----

# trace_id, span_id, parent_span_id: tag, length, bytes
_pack_root: Final = Struct("<2s16s2s8s").pack
_pack_child: Final = Struct("<2s16s2s8s2s8s").pack
# kind; start and end as fixed64
_pack_times: Final = Struct("<BBBQBQ").pack

_status_error: Final = message(0x7A, b"\x18" + varint(STATUS_ERROR))
_flags_local: Final = b"\x85\x01" + FLAGS_LOCAL.to_bytes(4, "little")
_flags_remote: Final = b"\x85\x01" + FLAGS_REMOTE.to_bytes(4, "little")


class _Outline(NamedTuple):
    """Bytes of an outline."""

    name: bytes
    attributes: bytes
    client: bytes
    """Attribute `client.address`, if the outline knows better than the socket."""
    error: bytes
    """Attribute `error.type`."""
    end_local: bytes
    """Status and flags, for a parent in this process or none."""
    end_remote: bytes
    clashes: frozenset[str]
    """Its keys that something later may put its own value over."""
    counts: tuple[str, str] | None
    """Keys of what is counted in each exchange; None if nothing is."""


class _Peering(NamedTuple):
    """Bytes of a peering."""

    attributes: bytes
    with_client: bytes
    """The same and `client.address`, for spans of the server's kind."""


def _outline(outline: Outline, late_keys: frozenset[str]) -> _Outline:
    client, error = outline.client_address, outline.error_type
    clashes = late_keys.intersection(outline.attributes)
    counts = outline.counts if any(outline.counts) else None
    if counts and (
        counts[0] == counts[1] or not (late_keys | outline.attributes.keys()).isdisjoint(counts)
    ):
        clashes |= {COMPLETENESS}  # which every span has
    status = b"" if error is None else _status_error
    items = dict(outline.attributes)
    if DB_SYSTEM in items:
        items[DB_SYSTEM_BEFORE] = items[DB_SYSTEM]
    return _Outline(
        text(0x2A, outline.name),
        attributes(items.items()),
        attributes([(CLIENT_ADDRESS, client)]) if client else b"",
        attributes([(ERROR_TYPE, error)]) if error is not None else b"",
        status + _flags_local,
        status + _flags_remote,
        clashes,
        counts,
    )


class SpanEncoder:
    """Lays out spans. Not thread-safe: one belongs to one thread."""

    __slots__ = ("_late_keys", "_outlines", "_peerings")

    def __init__(self) -> None:
        self._outlines: dict[Outline, _Outline] = {}
        self._peerings: Cache[Peering, _Peering] = Cache(self._peering, MAX_PEERINGS)
        self._late_keys = LATE_KEYS
        """And those of all peerings so far."""

    def encode(self, spans: Sequence[Span]) -> list[EncodedSpan]:
        """The bytes of each span, in order."""
        outlines, peerings = self._outlines, self._peerings
        request_sizes, response_sizes = _request_sizes, _response_sizes
        peer_names = _peer_names
        server, complete = SpanKind.SERVER, Completeness.COMPLETE
        encoded: list[EncodedSpan] = []
        for span in spans:
            peer, peer_with_client = peerings[span.peering]
            try:
                outline = outlines[span.outline]
            except KeyError:
                outline = self._outline(span.outline)
            name, constant, client, error, end, end_remote, clashes, counts = outline
            if clashes and _clash(span, clashes):
                encoded.append((span.process, _encode_plainly(span, outline)))
                continue
            parent = span.parent_span_id
            kind = span.kind
            if kind is server:
                peer = peer + client if client else peer_with_client
                if parent:
                    end = end_remote
            first_byte_ns, rtt_us = span.first_byte_ns, span.rtt_us
            if first_byte_ns:
                if rtt_us:
                    waits = _pack_both(_first_byte, first_byte_ns / 1e9, _rtt, rtt_us / 1e6)
                else:
                    waits = _pack_first_byte(_first_byte, first_byte_ns / 1e9)
            else:
                waits = _rtt + DOUBLE.pack(rtt_us / 1e6) if rtt_us else b""
            if counts or span.resends:
                waits += _counted(span, counts)
            completeness = span.completeness
            body = b"".join(
                (
                    _ids_with_state(span)
                    if span.trace_state
                    else _pack_child(
                        b"\n\x10", span.trace_id, b"\x12\x08", span.span_id, b'"\x08', parent
                    )
                    if parent
                    else _pack_root(b"\n\x10", span.trace_id, b"\x12\x08", span.span_id),
                    name,
                    _pack_times(0x30, kind, 0x39, span.start_unix_ns, 0x41, span.end_unix_ns),
                    constant,
                    peer,
                    peer_names[span.peer_name],
                    error,
                    _complete
                    if completeness is complete
                    else _texts[COMPLETENESS, completeness.value],
                    request_sizes[span.request_bytes],
                    response_sizes[span.response_bytes],
                    waits,
                    end,
                )
            )
            encoded.append((span.process, body))
        return encoded

    def _outline(self, outline: Outline) -> _Outline:
        laid_out = _outline(outline, self._late_keys)
        if len(laid_out.attributes) <= MAX_OUTLINE_BYTES:
            if len(self._outlines) >= MAX_OUTLINES:
                self._outlines.clear()
            self._outlines[outline] = laid_out
        return laid_out

    def _peering(self, peering: Peering) -> _Peering:
        items = peering.attributes()
        if not items.keys() <= self._late_keys:
            self._late_keys |= items.keys()
            self._outlines.clear()
        constant = attributes(items.items())
        client = peering.remote.address
        return _Peering(
            constant, constant + attributes([(CLIENT_ADDRESS, client)]) if client else constant
        )


def _counted(span: Span, counts: tuple[str, str] | None) -> bytes:
    """The last of the measures, which few protocols have."""
    found = b""
    if counts is not None:
        asked, answered = counts
        if asked and span.request_count >= 0:
            found = _counts[asked, span.request_count]
        if answered and span.response_count >= 0:
            found += _counts[answered, span.response_count]
    return found + _counts[RESENDS, span.resends] if span.resends else found


def _clash(span: Span, keys: frozenset[str]) -> bool:
    return not keys.isdisjoint(LATE_KEYS | span.peering.attributes().keys())


def _ids_with_state(span: Span) -> bytes:
    parent, state = span.parent_span_id, span.trace_state
    return b"".join(
        (
            message(0x0A, span.trace_id),
            message(0x12, span.span_id),
            text(0x1A, state) if state else b"",
            message(0x22, parent) if parent else b"",
        )
    )


def _encode_plainly(span: Span, outline: _Outline) -> bytes:
    """The same without short cuts, for the rare outline whose keys clash with later ones."""
    parent = span.parent_span_id
    remote = parent and span.kind is SpanKind.SERVER
    return b"".join(
        (
            _ids_with_state(span),
            outline.name,
            _pack_times(0x30, span.kind, 0x39, span.start_unix_ns, 0x41, span.end_unix_ns),
            attributes(span.attributes().items()),
            outline.end_remote if remote else outline.end_local,
        )
    )


# ---- requests ----

_scope: Final = message(0x0A, text(0x0A, SCOPE_NAME) + text(0x12, SCOPE_VERSION))
_schema_url: Final = text(0x1A, SCHEMA_URL)
_span_heads: Final[Cache[int, bytes]] = Cache(lambda size: b"\x12" + varint(size), 16384)


def _resource(attributes: Mapping[str, AttributeValue]) -> bytes:
    """A Resource message as field 1 of ResourceSpans."""
    return message(
        0x0A,
        b"".join([key_value(RESOURCE_ATTRIBUTE, key, value) for key, value in attributes.items()]),
    )


class RequestEncoder:
    """Puts encoded spans into requests. Not thread-safe: one belongs to one thread."""

    __slots__ = ("_resources",)

    def __init__(self) -> None:
        self._resources: Cache[Process, bytes] = Cache(
            lambda process: _resource(process.resource), MAX_PROCESSES
        )

    def encode(self, spans: Iterable[EncodedSpan]) -> bytes:
        """An ExportTraceServiceRequest: one ResourceSpans a process, in order of appearance."""
        groups: dict[Process, list[bytes]] = {}
        heads = _span_heads
        for process, body in spans:
            try:
                group = groups[process]
            except KeyError:
                group = groups[process] = [_scope]
            group.append(heads[len(body)])
            group.append(body)
        parts: list[bytes] = []
        for process, group in groups.items():
            group.append(_schema_url)
            scope_head = b"\x12" + varint(sum(map(len, group)))
            resource = self._resources[process]
            size = len(resource) + len(scope_head) + sum(map(len, group)) + len(_schema_url)
            parts += (b"\x0a" + varint(size), resource, scope_head)
            parts += group
            parts.append(_schema_url)
        return b"".join(parts)
