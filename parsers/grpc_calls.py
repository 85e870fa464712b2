# SPDX-License-Identifier: Apache-2.0
"""What a gRPC call means: its status and its outline. Shared by HTTP/2 and gRPC-Web.

Spec: grpc.io PROTOCOL-HTTP2.md ("Requests", "Responses", "Errors", "Client Cancellation"),
statuscodes.md, http-grpc-status-mapping.md.
OTel: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/ (1.44.0, release candidate).

The wire does not say which methods a server has. Where it answers UNIMPLEMENTED its span calls
the method `_OTHER`, so that a scan of made-up names makes no new names of spans.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from parsers.cache import Cache
from parsers.http_attributes import (
    CREDENTIALS,
    HOST,
    MAX_HOST_CHARS,
    MAX_PORT,
    OTHER,
    REDACTED,
    SECRET_PARAMETER,
)
from parsers.model import AttributeValue, Endpoint, Outline, Side

STATUS_KEY: Final = "rpc.response.status_code"
"""The conventions rename it to `rpc.status_code` after 1.44."""
MESSAGE_COUNTS: Final = ("wirespan.rpc.request.messages", "wirespan.rpc.response.messages")
"""How many messages went each way: see `Outline.counts`."""
TIMEOUT_KEY: Final = "wirespan.rpc.timeout"
"""Seconds that the client gave the call, to two digits."""

CONTENT_TYPE: Final = "application/grpc"
MAX_METHOD_CHARS: Final = 512
"""More than protoc's names need; what is longer is no name."""
MAX_OUTLINES: Final = 4096
OUTLINE_BYTES: Final = 1024
"""About what an outline takes beside its method."""

OK: Final = "OK"
CANCELLED: Final = "CANCELLED"
UNKNOWN: Final = "UNKNOWN"
DEADLINE_EXCEEDED: Final = "DEADLINE_EXCEEDED"
UNIMPLEMENTED: Final = "UNIMPLEMENTED"
STATUSES: Final = (
    OK,
    CANCELLED,
    UNKNOWN,
    "INVALID_ARGUMENT",
    DEADLINE_EXCEEDED,
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    UNIMPLEMENTED,
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""By number (statuscodes.md)."""
STATUS_NAMES: Final = {str(number): name for number, name in enumerate(STATUSES)}
SERVER_ERRORS: Final = frozenset(
    {UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""What is an error of the server, and not only of the client."""
NAMES_BY_RESET: Final = {
    0x7: "UNAVAILABLE",
    0x8: CANCELLED,
    0xB: "RESOURCE_EXHAUSTED",
    0xC: "PERMISSION_DENIED",
}
"""By error code of RST_STREAM; INTERNAL for all others."""
NAMES_BY_HTTP_STATUS: Final = {
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: UNIMPLEMENTED,
    429: "UNAVAILABLE",
    431: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}
"""UNKNOWN for all others."""

TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
TIMEOUT_UNITS_NS: Final = {
    "H": 3_600_000_000_000,
    "M": 60_000_000_000,
    "S": 1_000_000_000,
    "m": 1_000_000,
    "u": 1_000,
    "n": 1,
}
DEADLINE_SLACK_NS: Final = 5_000_000
DEADLINE_SLACK_PARTS: Final = 50
"""Clients round what they send up by a hundredth, and send it a little after they began to wait."""

METHOD: Final = re.compile(r"/((?:[^/\s]+/)*?)([^/\s]+/[^/\s]+)")
"""What stands before service and method is a proxy's."""
SERVICE: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+/[A-Za-z_]\w*", re.ASCII)
"""A service in a package, which no other part of a path looks like."""


def is_grpc(content_type: str) -> bool:
    """Whether a request with this content type is a call of gRPC (over HTTP/2)."""
    return content_type.startswith(CONTENT_TYPE) and content_type[16:17] in ("", "+", ";", " ")


def is_grpc_web(content_type: str) -> bool:
    """Whether it is one of gRPC-Web, in whatever encoding."""
    rest = content_type[20:21]
    return content_type.startswith("application/grpc-web") and (
        rest in ("", "+", ";", " ") or is_grpc_web_text(content_type)
    )


def is_grpc_web_text(content_type: str) -> bool:
    """Whether its body is one of gRPC-Web in base64."""
    return content_type.startswith("application/grpc-web-text")


class Reset(NamedTuple):
    """How a stream was ended before its time."""

    code: int
    """Of RST_STREAM (RFC 9113 section 7)."""
    by_client: bool
    after_ns: int
    """Since the request began."""


class Call(NamedTuple):
    """What a request says of a call. Two that are equal mean the same."""

    path: str
    """Empty where it was not seen."""
    authority: str = ""
    timeout: str = ""
    """grpc-timeout as it was sent."""
    version: str = "2"
    """Of HTTP."""


def parse_timeout_ns(value: str) -> int:
    """Nanoseconds in a grpc-timeout; 0 if it is none."""
    match = TIMEOUT.fullmatch(value)
    return int(match[1]) * TIMEOUT_UNITS_NS[match[2]] if match else 0


def find_status(grpc_status: str, http_status: int, reset: Reset | None, timeout: str = "") -> str:
    """The name of a call's status; empty where none was seen.

    `grpc_status` is what headers or trailers said. `http_status` is 0 for a 200 that is not whole,
    since its status was yet to come; clients wait no longer where it is another.
    """
    if grpc_status:
        return STATUS_NAMES.get(grpc_status, UNKNOWN)
    if reset is not None and http_status in {0, 200}:
        name = NAMES_BY_RESET.get(reset.code, "INTERNAL")
        if name is CANCELLED:
            limit_ns = parse_timeout_ns(timeout)
            slack_ns = DEADLINE_SLACK_NS + limit_ns // DEADLINE_SLACK_PARTS
            if limit_ns and reset.after_ns >= limit_ns - slack_ns:
                return DEADLINE_EXCEEDED
        return name
    if http_status:
        return NAMES_BY_HTTP_STATUS.get(http_status, UNKNOWN)
    return ""


_outlines: Cache[tuple[object, ...], Outline] = Cache(MAX_OUTLINES)
_methods: Cache[str, tuple[str, str]] = Cache()
_seconds: Cache[str, float] = Cache()


def describe_call(
    call: Call,
    status: str,
    error_type: str | None,
    side: Side,
    server: Endpoint,
    http_status: int = 200,
) -> Outline:
    """The outline of a call with the status of `find_status`.

    `error_type` says why there is no whole answer, if there is none; `http_status` is 0 if there
    is none at all.
    """
    seconds = 0.0
    if call.timeout:
        known = _seconds.get(call.timeout)
        seconds = _read_seconds(call.timeout) if known is None else known
    seen = (call.path, call.authority, call.version, seconds)
    key = (seen, status, error_type, side, server, http_status)
    outline = _outlines.get(key)
    if outline is None:
        outline = _describe(call, seconds, status, error_type, side, server, http_status)
        _outlines.keep(key, outline, OUTLINE_BYTES + 4 * len(call.path) + len(call.authority))
    return outline


def _describe(
    call: Call,
    seconds: float,
    status: str,
    error_type: str | None,
    side: Side,
    server: Endpoint,
    http_status: int,
) -> Outline:
    method, original = _methods.get(call.path) or _read_method(call.path)
    if status == UNIMPLEMENTED and side is not Side.CLIENT and method:
        method, original = OTHER, original or method
    attributes: dict[str, AttributeValue] = {"rpc.system.name": "grpc"}
    if method:
        attributes["rpc.method"] = method
    if original:
        attributes["rpc.method_original"] = original
    if status:
        attributes[STATUS_KEY] = status
    if http_status not in {0, 200}:
        # A proxy's answer, of which the status of gRPC is only a reading.
        attributes["http.response.status_code"] = http_status
    host, port = _read_authority(call.authority) or server
    if host:
        attributes["server.address"] = host
        if port:
            attributes["server.port"] = port
    attributes["network.protocol.version"] = call.version
    if seconds:
        attributes[TIMEOUT_KEY] = seconds
    if error_type is None and (
        status in SERVER_ERRORS if side is not Side.CLIENT else status not in {"", OK}
    ):
        error_type = status
    name = method if method not in {"", OTHER} else "grpc"
    return Outline(name, attributes, error_type, counts=MESSAGE_COUNTS)


def _read_seconds(timeout: str) -> float:
    """A timeout in seconds, to two digits; 0.0 if it is none.

    Clients that pass on what is left of it do so to the microsecond: each call would mean
    something else.
    """
    seconds = float(f"{parse_timeout_ns(timeout) / 1e9:.2g}")
    return _seconds.keep(timeout, seconds, len(timeout))


def _read_method(path: str) -> tuple[str, str]:
    """Method and, where that is not all of the path, the original of it."""
    found = ("", "")
    if path:
        plain = path.partition("?")[0]
        match = METHOD.fullmatch(plain) if len(plain) <= MAX_METHOD_CHARS else None
        if match is not None and not match[1]:
            found = (match[2], "")
        else:
            original = SECRET_PARAMETER.sub(rf"\1{REDACTED}", plain)
            original = CREDENTIALS.sub(f"{REDACTED}:{REDACTED}@", original)
            original = original.removeprefix("/")[:MAX_METHOD_CHARS]
            behind = match is not None and SERVICE.fullmatch(match[2])
            found = (match[2] if match is not None and behind else OTHER, original)
    return _methods.keep(path, found, 2 * len(path))


def _read_authority(authority: str) -> tuple[str, int] | None:
    """Host and port, 0 where it names none: one of a virtual host has none of its own."""
    match = HOST.fullmatch(authority) if len(authority) <= MAX_HOST_CHARS else None
    if match is None:
        return None
    port = int(match[2] or 0)
    return (match[1].strip("[]"), port) if port <= MAX_PORT else None
