# SPDX-License-Identifier: Apache-2.0
r"""Spans as JSON, one object a line.

    {"trace_id":"0af7…","span_id":"b7ad…","parent_span_id":null,"name":"GET","kind":"server",
     "start_time_unix_nano":1700000000123456789,"end_time_unix_nano":1700000000124696789,
     "status":"unset","attributes":{"http.request.method":"GET"},"resource":{"service.name":"shop"}}

Ids are hexadecimal; `parent_span_id` is null for a root span. `kind` is `client`, `server`
or `internal`, `status` is `unset` or `error`. All else is ASCII too: what a terminal could
take for a command is escaped as `\u001b`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from exporters.protobuf import Cache
from parsers.model import AttributeValue
from tracer.span import Process, Span, SpanKind

KINDS: Final = {
    SpanKind.INTERNAL: "internal",
    SpanKind.SERVER: "server",
    SpanKind.CLIENT: "client",
}
MAX_PROCESSES: Final = 1024
MAX_NAMES: Final = 4096

_encode: Final = json.JSONEncoder(separators=(",", ":"), default=list).encode


class JsonLines:
    """Turns spans into lines."""

    __slots__ = ("_names", "_resources")

    def __init__(self) -> None:
        self._resources: Cache[Process, str] = Cache(
            lambda process: _object(process.resource), MAX_PROCESSES
        )
        self._names: Cache[str, str] = Cache(_string, MAX_NAMES)

    def line(self, span: Span) -> str:
        """`span` as one line, without the line's end."""
        parent = span.parent_span_id
        return (
            f'{{"trace_id":"{span.trace_id.hex()}","span_id":"{span.span_id.hex()}",'
            f'"parent_span_id":{_quoted(parent.hex()) if parent else "null"},'
            f'"name":{self._names[span.outline.name]},"kind":"{KINDS[span.kind]}",'
            f'"start_time_unix_nano":{span.start_unix_ns},'
            f'"end_time_unix_nano":{span.end_unix_ns},'
            f'"status":"{"unset" if span.outline.error_type is None else "error"}",'
            f'"attributes":{_object(span.attributes())},'
            f'"resource":{self._resources[span.process]}}}'
        )


def _object(attributes: Mapping[str, AttributeValue]) -> str:
    text = _encode(dict(attributes))
    if "NaN" in text or "Infinity" in text:  # perhaps the number, which JSON does not have
        text = _encode({key: _finite(value) for key, value in attributes.items()})
    return _visible(text)


def _finite(value: AttributeValue) -> AttributeValue:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _string(text: str) -> str:
    return _visible(_encode(text))


def _visible(text: str) -> str:
    """DEL is the one control character that JSON lets pass; it can only be inside a string."""
    return text.replace("\x7f", "\\u007f")


def _quoted(text: str) -> str:
    return f'"{text}"'
