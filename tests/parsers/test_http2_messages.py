# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from parsers.http2_fields import Decoder
from parsers.http2_messages import (
    GrpcRequest,
    Http2Request,
    Http2Response,
    outline,
    read_request,
    read_response,
)
from parsers.http_attributes import View
from parsers.model import Completeness, Endpoint, Exchange, Kind, Message, Side
from tests.parsers.http2_bytes import GET, HTTP, OK, POST, indexed, literal, status

HERE = Endpoint("10.0.0.1", 8080)
CANCEL, INTERNAL_ERROR, NO_ERROR = 8, 2, 0


def field(name: str, value: str) -> bytes:
    return literal(name.encode(), value.encode())


SIMPLE = GET + HTTP + field(":path", "/a?b=1") + field(":authority", "example.com:81")
CALL = (
    POST
    + HTTP
    + field(":path", "/pkg.Service/Method")
    + field(":authority", "example.com:50051")
    + field("content-type", "application/grpc")
)
ANSWER = OK + field("content-type", "application/grpc")


def ask(block: bytes, *, joined: bool = False) -> Http2Request:
    decoder = Decoder()
    if joined:
        decoder.forget()
    head = read_request(decoder.read(block))
    assert head is not None
    request = GrpcRequest(head) if head.grpc else Http2Request(head)
    request.first_ns = request.last_ns = 1_000_000_000
    return request


def answer(block: bytes) -> Http2Response:
    head = read_response(Decoder().read(block))
    response = Http2Response(head)
    response.grpc_status = head.grpc_status
    response.last_ns = 2_000_000_000
    return response


def describe(request: Message, response: Message | None, side: Side = Side.SERVER, error=None):
    exchange = Exchange("http2", request, response, Completeness.COMPLETE, error)
    return outline(exchange, View(side, HERE, redact=True))


BASE = {
    "http.request.method": "GET",
    "url.path": "/a",
    "url.query": "b=1",
    "url.scheme": "http",
    "http.response.status_code": 200,
    "server.address": "example.com",
    "server.port": 81,
    "network.protocol.version": "2",
}
ROWS = [
    pytest.param(SIMPLE, BASE, id="server"),
    pytest.param(
        GET + indexed(7) + field(":path", "/") + field(":authority", "example.com"),
        {"url.scheme": "https", "server.port": 443},
        id="scheme",
    ),
    pytest.param(
        GET + HTTP + field(":path", "/") + field("host", "other.com"),
        {"server.address": "other.com", "server.port": 80},
        id="host without authority",
    ),
    pytest.param(
        SIMPLE + field("host", "other.com"), {"server.address": "example.com"}, id="authority first"
    ),
    pytest.param(
        GET + HTTP + field(":path", "/"),
        {"server.address": "10.0.0.1", "server.port": 8080},
        id="neither",
    ),
    pytest.param(SIMPLE + field("user-agent", "curl"), {"user_agent.original": "curl"}, id="agent"),
    pytest.param(
        SIMPLE + field("x-forwarded-proto", "https") + field("x-forwarded-host", "front.com"),
        {"url.scheme": "https", "server.address": "front.com", "server.port": 443},
        id="proxied",
    ),
    pytest.param(
        field(":method", "BREW") + SIMPLE[1:],
        {"http.request.method": "_OTHER", "http.request.method_original": "BREW"},
        id="method",
    ),
    pytest.param(
        field(":method", "CONNECT") + field(":authority", "example.com:443"),
        {"url.path": "", "server.address": "example.com", "server.port": 443},
        id="tunnel",
    ),
    pytest.param(
        field(":method", "CONNECT") + field(":protocol", "websocket") + SIMPLE[1:],
        {"url.path": "/a", "url.query": "b=1", "server.address": "example.com"},
        id="extended connect",
    ),
    pytest.param(
        field(":method", "OPTIONS") + HTTP + field(":path", "*"), {"url.path": "*"}, id="asterisk"
    ),
    pytest.param(
        GET + HTTP + field(":path", "/?token=abc"), {"url.query": "token=REDACTED"}, id="secret"
    ),
]


@pytest.mark.parametrize(("block", "attributes"), ROWS)
def test_attributes_of_a_server(block, attributes):
    found = describe(ask(block), answer(OK))
    assert attributes.items() <= found.attributes.items()


def test_attributes_of_a_client():
    found = describe(ask(SIMPLE), answer(status(404)), Side.CLIENT)
    assert (found.name, found.error_type) == ("GET", "404")
    assert found.attributes == {
        "http.request.method": "GET",
        "url.full": "http://example.com:81/a?b=1",
        "http.response.status_code": 404,
        "server.address": "example.com",
        "server.port": 81,
        "network.protocol.version": "2",
    }


def test_client_behind_a_proxy():
    request = ask(SIMPLE + field("x-forwarded-for", "10.9.8.7"))
    assert describe(request, answer(OK)).client_address == "10.9.8.7"


def test_what_unknown_fields_may_say_is_left_out():
    block = SIMPLE + indexed(62) + field("x-forwarded-for", "10.9.8.7")
    request = ask(block, joined=True)
    found = describe(request, answer(OK))
    assert found.client_address is None
    assert found.attributes == {
        "http.request.method": "GET",
        "url.path": "/a",
        "url.query": "b=1",
        "http.response.status_code": 200,
        "network.protocol.version": "2",
    }
    found = describe(request, answer(OK), Side.CLIENT)
    assert found.attributes["url.full"] == "http://example.com:81/a?b=1"
    found = describe(ask(GET + indexed(62), joined=True), None)
    assert found.attributes == {"http.request.method": "GET", "network.protocol.version": "2"}


def test_exchanges_that_mean_the_same_share_an_outline():
    first = describe(ask(SIMPLE), answer(OK))
    assert describe(ask(SIMPLE + field("cookie", "another")), answer(OK)) is first
    assert describe(ask(SIMPLE), answer(status(204))) is not first


def test_large_targets_are_not_kept():
    block = GET + HTTP + field(":path", "/" + "a" * 5000)
    assert describe(ask(block), None) is not describe(ask(block), None)


@pytest.mark.parametrize(
    ("code", "by_client", "error"),
    [
        (CANCEL, True, None),
        (CANCEL, False, "CANCEL"),
        (INTERNAL_ERROR, True, "INTERNAL_ERROR"),
        (INTERNAL_ERROR, False, "INTERNAL_ERROR"),
        (NO_ERROR, False, None),
        (0x99, False, "0x99"),
    ],
)
@pytest.mark.parametrize("side", [Side.CLIENT, Side.SERVER])
def test_a_stream_that_was_reset(code, by_client, error, side):
    request, response = ask(SIMPLE), answer(OK)
    ended = request if by_client else response
    ended.reset, ended.reset_by_client = code, by_client
    assert describe(request, response, side).error_type == error


def test_a_reset_without_a_response_has_no_status():
    request = ask(SIMPLE)
    request.reset, request.reset_by_client = CANCEL, True
    assert "http.response.status_code" not in describe(request, None).attributes


def test_a_connection_that_ended_says_so_itself():
    assert describe(ask(SIMPLE), None, error="connection_reset").error_type == "connection_reset"


@dataclass(slots=True)
class Upgraded(Message):
    """A request of HTTP/1.1, answered in HTTP/2."""

    kind: ClassVar[Kind] = Kind.REQUEST
    head: object


def test_the_request_of_an_upgrade_keeps_its_version():
    head = replace(ask(SIMPLE).head, version="1.1")
    assert describe(Upgraded(head), answer(OK)).attributes["network.protocol.version"] == "1.1"


# -- gRPC -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_block", "response_block", "status_name"),
    [
        (CALL, ANSWER + field("grpc-status", "0"), "OK"),
        (CALL, ANSWER + field("grpc-status", "14"), "UNAVAILABLE"),
        (CALL, status(503), "UNAVAILABLE"),
        (CALL, ANSWER, "UNKNOWN"),
    ],
)
def test_status_of_a_call(request_block, response_block, status_name):
    found = describe(ask(request_block), answer(response_block), Side.CLIENT)
    assert found.name == "pkg.Service/Method"
    assert found.attributes["rpc.response.status_code"] == status_name
    assert found.attributes["server.address"] == "example.com"
    assert found.attributes["server.port"] == 50051
    assert found.error_type == (None if status_name == "OK" else status_name)


@pytest.mark.parametrize("flaw", ["open", "gap"])
def test_status_of_a_call_whose_end_was_not_seen(flaw):
    response = answer(ANSWER)
    setattr(response, flaw, True)
    assert "rpc.response.status_code" not in describe(ask(CALL), response).attributes


@pytest.mark.parametrize(
    ("timeout", "by_client", "name"),
    [("", True, "CANCELLED"), ("1S", True, "DEADLINE_EXCEEDED"), ("2S", True, "CANCELLED")],
)
def test_a_call_that_was_cancelled(timeout, by_client, name):
    request = ask(CALL + (field("grpc-timeout", timeout) if timeout else b""))
    request.last_ns = 2_000_000_000
    response = answer(ANSWER)
    response.open = True
    request.reset, request.reset_by_client = CANCEL, by_client
    found = describe(request, response, Side.CLIENT)
    assert found.attributes["rpc.response.status_code"] == name


def test_a_call_that_the_server_has_reset():
    request = ask(CALL)
    response = answer(ANSWER)
    response.reset = 11
    found = describe(request, response)
    assert found.attributes["rpc.response.status_code"] == "RESOURCE_EXHAUSTED"
    assert describe(request, None).attributes.get("rpc.response.status_code") is None
