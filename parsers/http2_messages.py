# SPDX-License-Identifier: Apache-2.0
"""Messages of HTTP/2, and what an exchange of them means.

Spec: RFC 9113 sections 8.1 to 8.3; OTel: HTTP spans 1.44.0 (parsers/http_attributes.py), RPC
spans (parsers/grpc_calls.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from parsers.cache import Cache
from parsers.grpc_calls import Call, Reset, describe_call, find_status, is_grpc, is_grpc_web
from parsers.http2_fields import MAX_CACHED_BYTES, Block
from parsers.http2_frames import CANCEL, NO_ERROR, error_name
from parsers.http_attributes import View, describe
from parsers.model import Exchange, Kind, Message, Outline, ParseError

HEAD_BYTES: Final = 700
"""About what a head or an outline takes beside its strings."""
NOT_RESET: Final = -1


@dataclass(slots=True, eq=False)
class RequestHead:
    """What the head of a request says. Shared by all that say the same."""

    method: str
    target: str
    """`:path`, or the authority that CONNECT asks for; empty if it is unknown."""
    version: str
    fields: dict[str, str]
    """The fields that are used, `:scheme` among them; `:authority` as `host`."""
    partial: bool
    """Some fields are unknown."""
    grpc: str
    """The content type, if it is one of gRPC or gRPC-Web."""


class ResponseHead(NamedTuple):
    """What the head of a response says, or its trailers."""

    status: int
    """0 if it is unknown."""
    grpc: str
    """The content type, if it is one of gRPC or gRPC-Web."""
    grpc_status: str


NO_HEAD: Final = ResponseHead(0, grpc="", grpc_status="")


@dataclass(slots=True)
class Http2Request(Message):
    """A request."""

    kind: ClassVar[Kind] = Kind.REQUEST
    head: RequestHead
    reset: int = NOT_RESET
    """The error code with which its stream was ended early."""
    reset_by_client: bool = False


@dataclass(slots=True)
class GrpcRequest(Http2Request):
    """A call of gRPC."""

    protocol: ClassVar[str] = "grpc"


@dataclass(slots=True)
class Http2Response(Message):
    """A response, interim ones among them."""

    kind: ClassVar[Kind] = Kind.RESPONSE
    head: ResponseHead
    grpc_status: str = ""
    """As head or trailers say it."""
    reset: int = NOT_RESET
    reset_by_client: bool = False


_request_heads: Cache[tuple[object, ...], RequestHead] = Cache()
_outlines: Cache[tuple[object, ...], Outline] = Cache()


def read_request(block: Block) -> RequestHead | None:
    """The request that begins with `block`; None if it is the end of one, or unknown."""
    head = block.head
    if isinstance(head, RequestHead):
        return head
    fields = block.fields
    method = fields.get(":method")
    if method is None:
        return None
    key = (block.partial, *fields.items())
    found = _request_heads.get(key)
    if found is None:
        found = _make_request(method, dict(fields), partial=block.partial)
        size = sum([len(value) for value in fields.values()])
        if size <= MAX_CACHED_BYTES:
            _request_heads.keep(key, found, HEAD_BYTES + size)
    block.head = found
    return found


def _make_request(method: str, fields: dict[str, str], *, partial: bool) -> RequestHead:
    authority = fields.pop(":authority", "")
    if authority:
        fields["host"] = authority
    target = fields.pop(":path", "")
    if method == "CONNECT" and ":protocol" not in fields:
        # A tunnel (section 8.5); with `:protocol` it has a target like any other (RFC 8441).
        target = target or authority
    grpc = _read_type(fields)
    return RequestHead(method, target, "2", fields, partial, grpc)


def read_response(block: Block) -> ResponseHead:
    """What `block` says of a response, at its beginning or at its end.

    Raises:
        ParseError: its status is no number.
    """
    head = block.head
    if isinstance(head, ResponseHead):
        return head
    fields = block.fields
    status = fields.get(":status", "0")
    if not (status.isascii() and status.isdigit()) or len(status) > 3:
        raise ParseError(f"status {status[:16]!r}")
    grpc = _read_type(fields)
    block.head = head = ResponseHead(int(status), grpc, fields.get("grpc-status", ""))
    return head


def _read_type(fields: dict[str, str]) -> str:
    content_type = fields.get("content-type", "")
    return content_type if is_grpc(content_type) or is_grpc_web(content_type) else ""


def outline(exchange: Exchange, view: View) -> Outline:
    """HTTP or RPC span, client or server, by the conventions."""
    request = exchange.request
    response = exchange.response
    status = 0
    code = NOT_RESET
    by_client = False
    if isinstance(response, Http2Response):
        status = response.head.status
        code, by_client = response.reset, response.reset_by_client
    if isinstance(request, Http2Request) and code == NOT_RESET:
        code, by_client = request.reset, request.reset_by_client
    # An upgraded connection's first request is one of HTTP/1.
    head = getattr(request, "head", None)
    assert head is not None
    if isinstance(request, GrpcRequest):
        return _outline_call(exchange, request, code, view, by_client=by_client)
    error = exchange.error_type
    if error is None and code > NO_ERROR and not (by_client and code == CANCEL):
        error = error_name(code)
    key = (head, status, error, view)
    found = _outlines.get(key)
    if found is None:
        partial = isinstance(request, Http2Request) and request.head.partial
        found = describe(head, status, error, view, partial=partial)
        held = len(head.target) + sum(map(len, head.fields.values()))
        if held <= MAX_CACHED_BYTES:
            _outlines.keep(key, found, HEAD_BYTES + 3 * held)
    return found


def _outline_call(
    exchange: Exchange, request: GrpcRequest, code: int, view: View, *, by_client: bool
) -> Outline:
    fields = request.head.fields
    timeout = fields.get("grpc-timeout", "")
    grpc_status = ""
    status = 0
    whole = False
    last_ns = request.last_ns
    response = exchange.response
    if isinstance(response, Http2Response):
        grpc_status = response.grpc_status
        status = response.head.status
        whole = not (response.open or response.gap)
        if response.count < 0 and is_grpc_web(response.head.grpc):
            # Its status would have been in the body.
            whole = False
        if not by_client:
            last_ns = response.last_ns
    reset = Reset(code, by_client, last_ns - request.first_ns) if code > NO_ERROR else None
    call = Call(request.head.target, fields.get("host", ""), timeout)
    name = find_status(grpc_status, status if whole or status != 200 else 0, reset, timeout)
    return describe_call(call, name, exchange.error_type, view.side, view.server, status)
