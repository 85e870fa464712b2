# SPDX-License-Identifier: Apache-2.0
"""Spans made by hand, for the exporters' tests."""

from __future__ import annotations

import itertools
from typing import Any

from parsers.model import Completeness, Endpoint, Outline, Side, Transport
from tracer.span import KIND_OF_SIDE, Peering, Process, Span

START_NS = 1_700_000_000_123_456_789
"""2023-11-14 22:13:20.123 UTC."""

_numbers = itertools.count(1)


def process(service: str = "shop", pid: int = 4312, **resource: Any) -> Process:
    return Process(pid, 1, {"service.name": service, "process.pid": pid, **resource})


def peering(side: Side = Side.SERVER, **changes: Any) -> Peering:
    values: dict[str, Any] = {
        "transport": Transport.TCP,
        "local": Endpoint("10.0.0.9", 8080),
        "remote": Endpoint("10.0.0.5", 43122),
        "late": False,
    }
    return Peering(side, **{**values, **changes})


def outline(name: str = "GET", error_type: str | None = None, **changes: Any) -> Outline:
    values: dict[str, Any] = {
        "attributes": {
            "http.request.method": "GET",
            "url.path": "/api/users/42",
            "http.response.status_code": 200,
        },
    }
    return Outline(name, error_type=error_type, **{**values, **changes})


def span(number: int | None = None, **changes: Any) -> Span:
    """A plain server span; `number` decides its ids."""
    number = next(_numbers) if number is None else number
    connection = changes.pop("peering", None) or peering()
    values: dict[str, Any] = {
        "trace_id": number.to_bytes(16, "big"),
        "span_id": number.to_bytes(8, "big"),
        "parent_span_id": b"",
        "kind": KIND_OF_SIDE[connection.side],
        "start_unix_ns": START_NS,
        "end_unix_ns": START_NS + 1_240_000,
        "outline": outline(),
        "protocol": "http",
        "process": PROCESS,
        "completeness": Completeness.COMPLETE,
        "request_bytes": 78,
        "response_bytes": 1234,
        "first_byte_ns": 800_000,
        "rtt_us": 45,
        "twin": changes.get("peer") is not None,
    }
    return Span(peering=connection, **{**values, **changes})


PROCESS = process()
