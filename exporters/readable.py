# SPDX-License-Identifier: Apache-2.0
"""Spans as the SDK's `ReadableSpan`, for exporters that were written for the SDK.

They say what our own OTLP bytes say; tests hold the two equal. The SDK would not have
them built by hand, but there is no other way to one exporter for many resources with ids
and times of our own.

OTel: https://opentelemetry.io/docs/specs/otel/trace/sdk/#span-exporter 1.60.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace import SpanKind as SdkKind

from exporters.protobuf import INT64, Cache, utf8
from exporters.semconv import FLAGS_LOCAL, SCHEMA_URL, SCOPE_NAME, SCOPE_VERSION
from parsers.model import AttributeValue
from tracer.span import Process, Span, SpanKind

MAX_PROCESSES: Final = 1024
MAX_STATES: Final = 1024

KINDS: Final[Mapping[SpanKind, SdkKind]] = {
    SpanKind.INTERNAL: SdkKind.INTERNAL,
    SpanKind.SERVER: SdkKind.SERVER,
    SpanKind.CLIENT: SdkKind.CLIENT,
}
SCOPE: Final = InstrumentationScope(SCOPE_NAME, SCOPE_VERSION, SCHEMA_URL)
FLAGS: Final = TraceFlags(FLAGS_LOCAL & 0xFF)
"""Those of W3C; OTLP keeps others above them."""
UNSET: Final = Status(StatusCode.UNSET)
ERROR: Final = Status(StatusCode.ERROR)
NO_STATE: Final = TraceState()


class _Resource(Resource):
    """Hashes once: `Resource` does so anew for each span, by way of JSON.

    Not made by `Resource.create`, which adds what describes this process, not the one
    that is observed.
    """

    def __init__(self, attributes: Mapping[str, AttributeValue]) -> None:
        super().__init__(_clean(attributes), SCHEMA_URL)
        self._once: Final = super().__hash__()

    def __hash__(self) -> int:
        return self._once


class ReadableSpans:
    """Makes them. Not thread-safe: one belongs to one thread."""

    __slots__ = ("_resources",)

    def __init__(self) -> None:
        self._resources: Cache[Process, Resource] = Cache(
            lambda process: _Resource(process.resource), MAX_PROCESSES
        )

    def read(self, spans: Sequence[Span]) -> list[ReadableSpan]:
        """The same spans, in order."""
        return [self._read(span) for span in spans]

    def _read(self, span: Span) -> ReadableSpan:
        trace_id = int.from_bytes(span.trace_id, "big")
        state = _state(span.trace_state) if span.trace_state else NO_STATE
        own_id = int.from_bytes(span.span_id, "big")
        parent = None
        if span.parent_span_id:
            parent_id = int.from_bytes(span.parent_span_id, "big")
            parent = SpanContext(trace_id, parent_id, span.kind is SpanKind.SERVER, FLAGS)
        return ReadableSpan(
            name=_text(span.outline.name),
            context=SpanContext(trace_id, own_id, False, FLAGS, state),
            parent=parent,
            resource=self._resources[span.process],
            attributes=_clean(span.attributes()),
            kind=KINDS[span.kind],
            status=UNSET if span.outline.error_type is None else ERROR,
            start_time=span.start_unix_ns,
            end_time=span.end_unix_ns,
            instrumentation_scope=SCOPE,
        )


@lru_cache(MAX_STATES)
def _state(header: str) -> TraceState:
    return TraceState.from_header([header])


def _clean(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    """Attributes that protobuf and JSON can hold."""
    return {_text(key): _value(value) for key, value in attributes.items()}


def _value(value: AttributeValue) -> AttributeValue:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return value if value in INT64 else str(value)
    if isinstance(value, float):
        return value
    return [_text(item) for item in value]


def _text(text: str) -> str:
    return text if text.isascii() else utf8(text).decode()
