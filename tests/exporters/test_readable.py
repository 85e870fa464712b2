# SPDX-License-Identifier: Apache-2.0
"""The official encoder must say of our `ReadableSpan`s what our own encoder says of the spans."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource

from exporters import readable
from exporters.otlp_wire import RequestEncoder, SpanEncoder
from exporters.readable import ReadableSpans
from parsers.model import Completeness, Endpoint, Outline, Side, Transport
from tests.exporters import samples
from tracer.span import KIND_OF_SIDE, Peering, Process, Span

TEXTS = st.text(max_size=20)  # with lone surrogates, which protobuf refuses
KEYS = st.sampled_from(["http.route", "db.system.name", "error.type", "k\udcff", "wirespan.rtt"])
VALUES = st.one_of(
    TEXTS, st.booleans(), st.integers(), st.floats(allow_nan=False), st.lists(TEXTS, max_size=3)
)
ATTRIBUTES = st.dictionaries(KEYS, VALUES, max_size=4)
OUTLINES = st.builds(
    Outline,
    TEXTS,
    ATTRIBUTES,
    st.none() | TEXTS,
    client_address=st.none() | st.just("192.0.2.7"),
    counts=st.sampled_from([("", ""), ("asked", "answered")]),
)
SERVICES = ["shop", "till", "bank"]
TIMES = st.integers(1, (1 << 63) - 1)


@st.composite
def batches(draw):
    """Spans that share processes as real ones do."""
    processes = [
        Process(n, 0, {**draw(ATTRIBUTES), "service.name": service})
        for n, service in enumerate(SERVICES)
    ]
    spans = []
    for _ in range(draw(st.integers(0, 5))):
        side = draw(st.sampled_from(Side))
        end = Endpoint(draw(st.sampled_from(["", "10.0.0.5"])), 8080)
        peering = Peering(side, draw(st.sampled_from(Transport)), end, end, False)
        spans.append(
            Span(
                draw(st.binary(min_size=16, max_size=16)),
                draw(st.binary(min_size=8, max_size=8)),
                draw(st.just(b"") | st.binary(min_size=8, max_size=8)),
                KIND_OF_SIDE[side],
                draw(TIMES),
                draw(TIMES),
                draw(OUTLINES),
                "http",
                draw(st.sampled_from(processes)),
                peering,
                draw(st.sampled_from(Completeness)),
                request_bytes=1,
                response_bytes=draw(st.integers(0, 1 << 40)),
                first_byte_ns=draw(st.integers(0, 1 << 40)),
                rtt_us=draw(st.integers(0, 1 << 20)),
                request_count=draw(st.integers(-1, 3)),
                peer_name=draw(st.sampled_from(["", "bank"])),
                trace_state=draw(st.sampled_from(["", "ot=th:e666", "ot=th:0,a=1"])),
            )
        )
    return spans


def ours(spans):
    """Our bytes, less what the official encoder leaves out or puts in."""
    message = ExportTraceServiceRequest.FromString(
        RequestEncoder().encode(SpanEncoder().encode(spans))
    )
    for group in message.resource_spans:
        for span in group.scope_spans[0].spans:
            span.flags &= ~0xFF  # it writes no W3C flags
            span.status.SetInParent()  # and an empty status
    return message


@given(batches())
def test_the_official_encoder_says_what_ours_says(spans):
    assert encode_spans(ReadableSpans().read(spans)) == ours(spans)


def test_a_span_as_exporters_see_it():
    span = samples.span(
        5, parent_span_id=bytes([1] * 8), trace_state="ot=th:e666", outline=samples.outline()
    )
    (read,) = ReadableSpans().read([span])
    assert read.context.trace_id == 5
    assert read.context.trace_flags.sampled
    assert not read.context.is_remote
    assert read.context.trace_state["ot"] == "th:e666"
    assert read.parent.is_remote
    assert read.parent.trace_id == 5
    assert read.kind.name == "SERVER"
    assert read.end_time - read.start_time == 1_240_000
    assert read.status.is_unset
    assert read.instrumentation_scope.name == "wirespan"
    assert read.resource.schema_url == read.instrumentation_scope.schema_url
    assert json.loads(read.to_json())["attributes"]["url.path"] == "/api/users/42"


def test_the_parent_of_a_client_span_is_in_its_own_process():
    peering = samples.peering(Side.CLIENT)
    (read,) = ReadableSpans().read([samples.span(parent_span_id=bytes([1] * 8), peering=peering)])
    assert not read.parent.is_remote


def test_an_error_is_the_status():
    (read,) = ReadableSpans().read([samples.span(outline=samples.outline(error_type="500"))])
    assert read.status.status_code.name == "ERROR"
    assert read.attributes["error.type"] == "500"


def test_a_resource_is_the_observed_process_and_not_this_one(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "agent")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=agents")
    (read,) = ReadableSpans().read([samples.span()])
    assert dict(read.resource.attributes) == dict(samples.PROCESS.resource)


def test_a_resource_is_made_and_hashed_once_a_process(monkeypatch):
    reader = ReadableSpans()
    one, two = reader.read([samples.span(), samples.span()])
    assert one.resource is two.resource
    plain = Resource(dict(samples.PROCESS.resource), one.resource.schema_url)
    assert one.resource == plain
    assert hash(one.resource) == hash(plain)
    monkeypatch.setattr(Resource, "__hash__", lambda _: pytest.fail("hashed again"))
    hash(one.resource)


def test_resources_are_kept_within_a_bound():
    reader = ReadableSpans()
    for n in range(readable.MAX_PROCESSES + 10):
        reader.read([samples.span(process=samples.process(f"s{n}"))])
    assert len(reader._resources) <= readable.MAX_PROCESSES
