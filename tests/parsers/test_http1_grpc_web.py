# SPDX-License-Identifier: Apache-2.0
"""Calls of gRPC-Web over HTTP/1.1: which exchanges they are, and what is read and kept of them."""

from __future__ import annotations

import pytest

from parsers.http1 import Http1Parser
from parsers.model import Completeness, Endpoint, Exchange, Kind, Options, Side
from parsers.reader import NeedMoreData, Reader

SERVER = Endpoint("10.0.0.1", 80)
MESSAGE = b"\0\0\0\0\x06s3cret"
TRAILERS = b"\x80\0\0\0\x23grpc-status:5\r\ngrpc-message:s3cret\r\n"


def request(target="/pkg.Shop/Buy", method="POST", content_type="application/grpc-web", more=""):
    return (
        f"{method} {target} HTTP/1.1\r\nHost: shop:8080\r\nContent-Type: {content_type}\r\n"
        f"{more}Content-Length: {len(MESSAGE)}\r\n\r\n"
    ).encode() + MESSAGE


def response(body=MESSAGE + TRAILERS, more=""):
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\n{more}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def parse(parser, data, kind=Kind.REQUEST, asked=None, **flags):
    reader = Reader(data, **flags)
    return parser.parse(reader, kind, asked), reader


def told(asked, answered, completeness=Completeness.COMPLETE):
    parser = Http1Parser(Options())
    first, _ = parse(parser, asked)
    second = parse(parser, answered, Kind.RESPONSE, first)[0] if answered else None
    exchange = Exchange("http", first, second, completeness)
    return first, second, parser.outline(exchange, Side.CLIENT, SERVER)


def test_a_call_is_one_of_grpc():
    first, second, outline = told(request(), response())
    assert first.protocol == "grpc"
    assert not first.open
    assert not second.open
    assert (first.count, second.count) == (1, 1)
    assert outline.name == "pkg.Shop/Buy"
    assert outline.attributes["rpc.response.status_code"] == outline.error_type == "NOT_FOUND"
    assert outline.attributes["server.address"] == "shop"


def test_a_proxy_may_be_asked_for_a_whole_address():
    _, _, outline = told(request("http://other/pkg.Shop/Buy"), response())
    assert outline.name == "pkg.Shop/Buy"


@pytest.mark.parametrize(
    "asked",
    [
        request(method="GET"),
        request(content_type="application/json"),
        request(content_type="text/plain", more="Accept: application/grpc-web-text\r\n"),
    ],
)
def test_what_is_no_call_is_none(asked):
    first, second, outline = told(asked, response())
    assert not first.protocol
    assert first.body is None
    assert "rpc.method" not in outline.attributes
    assert second.count == 1


def test_without_a_response_there_is_no_status():
    _, _, outline = told(request(), None)
    assert "rpc.response.status_code" not in outline.attributes
    assert outline.error_type is None


def test_a_status_in_the_head_counts():
    _, second, outline = told(request(), response(more="Grpc-Status: 16\r\n"))
    assert outline.attributes["rpc.response.status_code"] == "UNAUTHENTICATED"
    assert second.body is None


def test_what_was_not_captured_is_a_gap():
    parser = Http1Parser(Options())
    first, _ = parse(parser, request())
    data = response()[:-20]
    second, reader = parse(parser, data, Kind.RESPONSE, first, cut=True)
    assert second.gap
    assert not second.open
    assert reader.position == len(data) + 20
    outline = parser.outline(Exchange("http", first, second, Completeness.GAP), Side.CLIENT, SERVER)
    assert "rpc.response.status_code" not in outline.attributes


def test_trailers_wait_until_they_are_there():
    parser = Http1Parser(Options())
    first, _ = parse(parser, request())
    data = response()
    second, reader = parse(parser, data[:-20], Kind.RESPONSE, first)
    assert second.open
    rest = data[reader.position :]
    with pytest.raises(NeedMoreData):
        parse(parser, rest[:-20], Kind.RESPONSE, first)
    assert parse(parser, rest, Kind.RESPONSE, first)[0] is None
    assert not second.open
    assert second.body.status == "5"


@pytest.mark.parametrize("kind", list(Kind))
def test_of_bodies_only_what_is_read_is_kept(kind):
    parser = Http1Parser(Options())
    more = "Authorization: s3cret\r\n"
    data = request(more=more) if kind is Kind.REQUEST else response(more=more)
    reader = Reader(data)
    reader.marking = True
    parser.parse(reader, kind, None)
    kept = bytearray(data)
    for start, stop in reader.omitted:
        kept[start:stop] = b"." * (stop - start)
    assert b"s3cret" not in kept
    assert b"application/grpc-web" in kept
    assert (b"grpc-status:5" in kept) is (kind is Kind.RESPONSE)
