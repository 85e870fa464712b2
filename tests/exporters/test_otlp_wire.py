# SPDX-License-Identifier: Apache-2.0
"""Our bytes against the official protobuf classes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue

from exporters import otlp_wire
from exporters.otlp_wire import RequestEncoder, SpanEncoder
from parsers.model import Completeness, Endpoint, Outline, Side, Transport
from tests.exporters import samples
from tracer.span import Peering, Process, Span, SpanKind


def any_value(value: Any) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case str():
            return AnyValue(string_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
    return AnyValue(array_value=ArrayValue(values=[any_value(item) for item in value]))


def key_values(attributes: Any) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def official(spans: list[Span]) -> bytes:
    """The request as the official classes make it."""
    request = ExportTraceServiceRequest()
    groups: dict[Process, Any] = {}
    for span in spans:
        scope = groups.get(span.process)
        if scope is None:
            group = request.resource_spans.add(schema_url=otlp_wire.SCHEMA_URL)
            group.resource.attributes.extend(key_values(span.process.resource))
            scope = groups[span.process] = group.scope_spans.add(schema_url=otlp_wire.SCHEMA_URL)
            scope.scope.name = otlp_wire.SCOPE_NAME
            scope.scope.version = otlp_wire.SCOPE_VERSION
        message = scope.spans.add(
            trace_id=span.trace_id,
            span_id=span.span_id,
            trace_state=span.trace_state,
            parent_span_id=span.parent_span_id,
            name=span.outline.name,
            kind=int(span.kind),
            start_time_unix_nano=span.start_unix_ns,
            end_time_unix_nano=span.end_unix_ns,
            attributes=key_values(span.attributes()),
            flags=0x303 if span.parent_span_id and span.kind is SpanKind.SERVER else 0x103,
        )
        if span.outline.error_type is not None:
            message.status.code = 2
    return bytes(request.SerializeToString(deterministic=True))


def ours(spans: list[Span]) -> bytes:
    return RequestEncoder().encode(SpanEncoder().encode(spans))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=300)
INTS = st.integers(-(1 << 63), (1 << 63) - 1)
VALUES = st.one_of(
    TEXTS, st.booleans(), INTS, st.integers(0, 700), st.floats(allow_nan=False), st.lists(TEXTS)
)
KEYS = st.one_of(
    st.sampled_from(
        [
            "http.route",
            "peer.service",
            "db.system.name",
            "db.system",
            "network.transport",
            "network.peer.port",
            "wirespan.rtt",
            "error.type",
        ]
    ),
    TEXTS,
)
ATTRIBUTES = st.dictionaries(KEYS, VALUES, max_size=8)
ENDPOINTS = st.builds(Endpoint, st.sampled_from(["", "10.0.0.5", "::1", "/run/a.sock"]), INTS)
OUTLINES = st.builds(
    Outline,
    TEXTS,
    ATTRIBUTES,
    st.none() | TEXTS,
    client_address=st.none() | st.just("192.0.2.7"),
    counts=st.tuples(*[st.sampled_from(["", "db.rows", "b"]) | KEYS] * 2),
)
PEERINGS = st.builds(
    Peering,
    st.sampled_from(Side),
    st.sampled_from(Transport),
    ENDPOINTS,
    ENDPOINTS,
    st.booleans(),
)
PROCESSES = st.builds(Process, st.integers(1, 9), st.just(0), ATTRIBUTES)
SIZES = st.one_of(st.integers(0, 300), st.integers(0, 1 << 45))
TIMES = st.integers(1, (1 << 64) - 1)  # zero, which proto3 leaves out, is no time of an exchange


@st.composite
def batches(draw: st.DrawFn) -> list[Span]:
    """Spans that share outlines, peerings and processes as real ones do."""
    outlines = draw(st.lists(OUTLINES, min_size=1, max_size=3))
    peerings = draw(st.lists(PEERINGS, min_size=1, max_size=3))
    processes = draw(st.lists(PROCESSES, min_size=1, max_size=3))
    one = st.builds(
        Span,
        trace_id=st.binary(min_size=16, max_size=16),
        span_id=st.binary(min_size=8, max_size=8),
        parent_span_id=st.just(b"") | st.binary(min_size=8, max_size=8),
        kind=st.sampled_from(SpanKind),
        start_unix_ns=TIMES,
        end_unix_ns=TIMES,
        outline=st.sampled_from(outlines),
        protocol=st.just("http"),
        process=st.sampled_from(processes),
        peering=st.sampled_from(peerings),
        completeness=st.sampled_from(Completeness),
        request_bytes=SIZES,
        response_bytes=SIZES,
        first_byte_ns=SIZES,
        rtt_us=st.integers(0, 1 << 31),
        request_count=st.just(-1) | SIZES,
        response_count=st.just(-1) | SIZES,
        resends=st.sampled_from([0, 1, 1000]),
        peer_name=st.sampled_from(["", "stock", "db.example"]) | TEXTS,
        trace_state=st.sampled_from(["", "ot=th:8"]),
    )
    return draw(st.lists(one, max_size=6))


@given(batches())
def test_bytes_are_those_of_the_official_classes(spans: list[Span]) -> None:
    request = ours(spans)
    assert request == official(spans)
    parsed = ExportTraceServiceRequest.FromString(request)
    assert parsed.SerializeToString(deterministic=True) == request


@given(st.lists(batches(), max_size=4))
def test_what_is_cached_from_one_batch_is_right_in_the_next(rounds: list[list[Span]]) -> None:
    spans, requests = SpanEncoder(), RequestEncoder()
    for batch in rounds + rounds:
        assert requests.encode(spans.encode(batch)) == official(batch)


@pytest.mark.parametrize("first_byte_ns", [0, 1, 800_000])
@pytest.mark.parametrize("rtt_us", [0, 45])
@pytest.mark.parametrize("completeness", Completeness)
def test_measures_are_laid_out_as_readers_see_them(
    first_byte_ns: int, rtt_us: int, completeness: Completeness
) -> None:
    span = samples.span(first_byte_ns=first_byte_ns, rtt_us=rtt_us, completeness=completeness)
    message = ExportTraceServiceRequest.FromString(ours([span]))
    attributes = message.resource_spans[0].scope_spans[0].spans[0].attributes
    measures = key_values(dict(span.measures()))
    assert list(attributes)[-len(measures) :] == measures


def test_counts_and_resends_are_the_last_of_the_measures() -> None:
    counted = samples.outline(counts=("db.operation.batch.size", "db.response.returned_rows"))
    spans = [
        samples.span(outline=counted, request_count=asked, response_count=answered, resends=again)
        for asked, answered, again in [(2, 100_000, 1), (-1, 0, 0), (0, -1, 3), (-1, -1, 0)]
    ]
    assert ours(spans) == official(spans)
    message = ExportTraceServiceRequest.FromString(ours(spans))
    attributes = [
        {each.key: each.value.int_value for each in span.attributes}
        for span in message.resource_spans[0].scope_spans[0].spans
    ]
    keys = "db.operation.batch.size", "db.response.returned_rows", "wirespan.request.resends"
    assert [[each.get(key) for key in keys] for each in attributes] == [
        [2, 100_000, 1],
        [None, 0, None],
        [0, None, 3],
        [None, None, None],
    ]


@pytest.mark.parametrize(
    "counts", [("rows", "rows"), ("url.path", ""), ("", "wirespan.rtt"), ("network.peer.port", "x")]
)
def test_a_count_that_names_what_is_there_does_not_double_it(counts: tuple[str, str]) -> None:
    counted = samples.outline(counts=counts)
    span = samples.span(outline=counted, request_count=2, response_count=3)
    assert ours([span, span]) == official([span, span])


def test_spans_are_grouped_by_process_in_order_of_appearance() -> None:
    one, two = samples.process("one"), samples.process("two")
    spans = [samples.span(n, process=p) for n, p in enumerate([one, two, one, two, one], 1)]
    message = ExportTraceServiceRequest.FromString(ours(spans))
    names = [
        (group.resource.attributes[0].value.string_value, [s.span_id[-1] for s in scope.spans])
        for group in message.resource_spans
        for scope in group.scope_spans
    ]
    assert names == [("one", [1, 3, 5]), ("two", [2, 4])]


def test_processes_that_say_the_same_stay_apart() -> None:
    message = ExportTraceServiceRequest.FromString(
        ours([samples.span(process=samples.process()), samples.span(process=samples.process())])
    )
    assert len(message.resource_spans) == 2


def test_no_spans_make_an_empty_request() -> None:
    assert ours([]) == b""


def test_success_has_no_status_and_an_error_has_one() -> None:
    spans = [samples.span(), samples.span(outline=samples.outline(error_type="500"))]
    message = ExportTraceServiceRequest.FromString(ours(spans))
    fine, failed = message.resource_spans[0].scope_spans[0].spans
    assert not fine.HasField("status")
    assert failed.status.code == 2
    assert not failed.status.message


def test_an_outline_that_names_an_attribute_of_the_peering_does_not_double_it() -> None:
    lookup = samples.outline("DNS", attributes={"network.transport": "udp", "dns.x": "y"})
    tcp = samples.span(outline=lookup)
    unix = samples.span(outline=lookup, peering=samples.peering(transport=Transport.UNIX))
    assert ours([tcp, unix, tcp, unix]) == official([tcp, unix, tcp, unix])


def test_text_that_is_not_unicode_is_spelt_out() -> None:
    span = samples.span(outline=samples.outline(attributes={"url.path": "/\udcff"}))
    message = ExportTraceServiceRequest.FromString(ours([span]))
    values = message.resource_spans[0].scope_spans[0].spans[0].attributes
    assert values[0].value.string_value == "/\\udcff"


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1, 1 << 200])
def test_an_integer_beyond_64_bits_becomes_text(number: int) -> None:
    span = samples.span(outline=samples.outline(attributes={"size": number}))
    message = ExportTraceServiceRequest.FromString(ours([span]))
    values = message.resource_spans[0].scope_spans[0].spans[0].attributes
    assert values[0].value.string_value == str(number)


def test_caches_stay_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_wire, "MAX_OUTLINES", 8)
    encoder = SpanEncoder()
    spans = [samples.span(outline=samples.outline(f"GET {n}")) for n in range(100)]
    assert RequestEncoder().encode(encoder.encode(spans)) == official(spans)
    assert len(encoder._outlines) <= 8


def test_a_huge_outline_is_not_kept() -> None:
    encoder = SpanEncoder()
    spans = [samples.span(outline=samples.outline(attributes={"url.full": "x" * 5000}))]
    assert RequestEncoder().encode(encoder.encode(spans)) == official(spans)
    assert not encoder._outlines
