# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers import http1
from parsers.http1 import MAX_TRAILERS, PROBE_URL_BYTES, Http1Parser, HttpRequest, HttpResponse
from parsers.model import (
    Completeness,
    Endpoint,
    Exchange,
    Kind,
    Likeness,
    Options,
    ParseError,
    Parser,
    Side,
)
from parsers.reader import UNTIL_CLOSE, NeedMoreData, Reader

SERVER = Endpoint("10.0.0.1", 80)
GET = b"GET /a?token=abc HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def parser(**options) -> Parser:
    return Http1Parser(Options(**options))


def request(data: bytes) -> HttpRequest:
    message = parser().parse(Reader(data), Kind.REQUEST, None)
    assert isinstance(message, HttpRequest)
    return message


def response(data: bytes, asked: bytes | None = None, **options) -> tuple[HttpResponse, Reader]:
    reader = Reader(data, **options)
    message = parser().parse(reader, Kind.RESPONSE, None if asked is None else request(asked))
    assert isinstance(message, HttpResponse)
    return message, reader


@pytest.mark.parametrize(
    ("kind", "head", "likeness"),
    [
        (Kind.REQUEST, b"GET / HTTP/1.1\r\nHo", Likeness.CERTAIN),
        (Kind.REQUEST, b"M-SEARCH * HTTP/1.1\n", Likeness.CERTAIN),
        (Kind.REQUEST, b"\r\n\nGET / HTTP/1.0\n", Likeness.CERTAIN),
        (Kind.REQUEST, b"GET / HTTP/1.1", Likeness.LIKELY),
        (Kind.REQUEST, b"GET / HTTP/1.1\r", Likeness.LIKELY),
        (Kind.REQUEST, b"GET /" + b"a" * PROBE_URL_BYTES, Likeness.LIKELY),
        (Kind.REQUEST, b"", Likeness.SHORT),
        (Kind.REQUEST, b"\r\n", Likeness.SHORT),
        (Kind.REQUEST, b"G", Likeness.SHORT),
        (Kind.REQUEST, b"GET ", Likeness.SHORT),
        (Kind.REQUEST, b"GET /a", Likeness.SHORT),
        (Kind.REQUEST, b"GET /a ", Likeness.SHORT),
        (Kind.REQUEST, b"GET /a HTTP/1.", Likeness.SHORT),
        (Kind.REQUEST, b"GET /a HTTP/2", Likeness.NO),
        (Kind.REQUEST, b"GET /a HTTP/1.1.1", Likeness.NO),
        (Kind.REQUEST, b"PRI * HTTP/2.0\r\n", Likeness.NO),
        (Kind.REQUEST, b"GET /a TTP", Likeness.NO),
        (Kind.REQUEST, b"GET /a b", Likeness.NO),
        (Kind.REQUEST, b"A" * 33, Likeness.NO),
        (Kind.REQUEST, b"\x16\x03\x01", Likeness.NO),
        (Kind.RESPONSE, b"HTTP/1.1 200 OK\r\n", Likeness.CERTAIN),
        (Kind.RESPONSE, b"HTTP/1.0 404\n", Likeness.CERTAIN),
        (Kind.RESPONSE, b"HTTP/1.1 200", Likeness.LIKELY),
        (Kind.RESPONSE, b"HTTP/1.1 200 Fine", Likeness.LIKELY),
        (Kind.RESPONSE, b"", Likeness.SHORT),
        (Kind.RESPONSE, b"HTT", Likeness.SHORT),
        (Kind.RESPONSE, b"HTTP/1.1 5", Likeness.SHORT),
        (Kind.RESPONSE, b"HTTP/1.1 0", Likeness.NO),
        (Kind.RESPONSE, b"HTTP/2", Likeness.NO),
        (Kind.RESPONSE, b"HTTP/1.1 2000", Likeness.NO),
        (Kind.RESPONSE, b"HTTP/1.1 2xx OK\r\n", Likeness.NO),
        (Kind.RESPONSE, b"\r\nHTTP/1.1 200 OK\r\n", Likeness.NO),
    ],
)
def test_first_bytes(kind, head, likeness):
    assert Http1Parser.probe(head, kind) is likeness


def test_only_streams_speak_it():
    assert {each.name for each in Http1Parser.transports} == {"TCP", "UNIX"}
    assert 80 in Http1Parser.ports


@pytest.mark.parametrize(
    ("asked", "data", "skipped"),
    [
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 5),
        (GET, b"HTTP/1.1 200 OK\r\n\r\n", UNTIL_CLOSE),
        (GET, b"HTTP/1.1 204 OK\r\nContent-Length: 5\r\n\r\n", 0),
        (b"HEAD / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 0),
        (b"HEAD / HTTP/1.1\r\n\r\n", CHUNKED, 0),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n", 5),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 0),
        (None, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 5),
    ],
)
def test_body_of_a_response_is_skipped(asked, data, skipped):
    message, reader = response(data, asked)
    assert reader.position == len(data) + skipped
    assert not message.open


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_interim_response_ends_nothing(status):
    message, _ = response(b"HTTP/1.1 %d X\r\n\r\n" % status)
    assert message.interim
    assert message.switches_to is None


@pytest.mark.parametrize(
    ("asked", "data", "protocol"),
    [
        (GET, b"HTTP/1.1 101 X\r\nUpgrade: WebSocket\r\n\r\n", "websocket"),
        (GET, b"HTTP/1.1 101 X\r\n\r\n", "unknown"),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", "tls"),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"HTTP/1.1 302 OK\r\n\r\n", None),
        (GET, b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\n\r\n", None),
    ],
)
def test_connection_may_change_its_protocol(asked, data, protocol):
    message, _ = response(data, asked)
    assert message.switches_to == protocol
    assert not message.interim


def test_head_with_an_unclear_length_loses_what_follows():
    reader = Reader(b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\nGET")
    message = parser().parse(reader, Kind.REQUEST, None)
    assert reader.lost
    assert not message.truncated


def test_head_that_was_cut_is_truncated():
    message, reader = response(b"HTTP/1.1 200 OK\r\nContent-Length: 5", cut=True)
    assert message.truncated
    assert reader.lost


def chunks(data: bytes, kind=Kind.REQUEST, **flags) -> tuple[Parser, Reader, HttpRequest]:
    each = parser()
    reader = Reader((POST if kind is Kind.REQUEST else CHUNKED) + data)
    reader.marking = bool(flags.get("marking"))
    message = each.parse(reader, kind, None)
    reader.omitted.clear()
    assert message.open
    return each, reader, message


@pytest.mark.parametrize("kind", list(Kind))
def test_chunks_are_passed_one_by_one(kind):
    each, reader, message = chunks(
        b"3 ;a=b\r\nabc\r\n1A\r\n" + b"x" * 28 + b"0\r\nT: 1\r\n\r\n", kind
    )
    for _ in range(3):
        assert message.open
        assert each.parse(reader, kind, None) is None
    assert not message.open
    assert reader.position == reader.end


@pytest.mark.parametrize("kind", list(Kind))
def test_message_follows_the_last_chunk(kind):
    each, reader, message = chunks(b"0\r\n\r\n" + (POST if kind is Kind.REQUEST else CHUNKED), kind)
    assert each.parse(reader, kind, None) is None
    following = each.parse(reader, kind, None)
    assert following is not message
    assert following.open


@pytest.mark.parametrize("kind", list(Kind))
def test_message_that_the_session_has_ended_has_no_more_chunks(kind):
    each, reader, message = chunks(POST if kind is Kind.REQUEST else CHUNKED, kind)
    message.open = False
    assert each.parse(reader, kind, None).open


@pytest.mark.parametrize("data", [b"", b"5", b"5\r", b"0\r\n", b"0\r\nT: 1\r\n"])
def test_chunk_that_is_not_whole_waits(data):
    each, reader, message = chunks(data)
    with pytest.raises(NeedMoreData):
        each.parse(reader, Kind.REQUEST, None)
    assert message.open


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"1" * 16 + b"\r\n",
        b"1 a\r\n",
        b"1;" + b"x" * 5000,
        b"0\r\n" + b"T: 1\r\n" * (MAX_TRAILERS + 1),
    ],
)
def test_chunk_that_is_none_is_an_error(data):
    each, reader, _ = chunks(data)
    with pytest.raises(ParseError):
        each.parse(reader, Kind.REQUEST, None)


def test_of_chunks_only_their_sizes_are_kept():
    data = b'5;key="s3cret"\r\nhello\r\n0\r\nDigest: s3cret\r\n\r\n'
    each, reader, _ = chunks(data, marking=True)
    each.parse(reader, Kind.REQUEST, None)
    each.parse(reader, Kind.REQUEST, None)
    text = bytearray(reader.data)
    for start, stop in reader.omitted:
        text[start:stop] = b"." * (stop - start)
    assert bytes(text[len(POST) :]) == b"5;............\r\n.......0\r\n..............\r\n\r\n"


def exchange(asked=GET, reply=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", error=None):
    replied = None if reply is None else response(reply)[0]
    return Exchange("http", request(asked), replied, Completeness.COMPLETE, error)


def test_outline_is_the_same_object_for_the_same_meaning():
    each = parser()
    first = each.outline(exchange(), Side.SERVER, SERVER)
    assert each.outline(exchange(), Side.SERVER, SERVER) is first
    assert parser().outline(exchange(), Side.SERVER, SERVER) is first
    for other in (
        each.outline(exchange(), Side.CLIENT, SERVER),
        each.outline(exchange(), Side.SERVER, Endpoint("10.0.0.2", 80)),
        each.outline(exchange(error="timeout"), Side.SERVER, SERVER),
        each.outline(exchange(reply=b"HTTP/1.1 500 X\r\n\r\n"), Side.SERVER, SERVER),
        each.outline(exchange(reply=None), Side.SERVER, SERVER),
        parser(redact=False).outline(exchange(), Side.SERVER, SERVER),
        parser(http_methods=frozenset()).outline(exchange(), Side.SERVER, SERVER),
    ):
        assert other is not first


def test_outline_follows_the_options():
    shown = parser(redact=False).outline(exchange(), Side.SERVER, SERVER)
    assert shown.attributes["url.query"] == "token=abc"
    hidden = parser().outline(exchange(), Side.SERVER, SERVER)
    assert hidden.attributes["url.query"] == "token=REDACTED"
    assert (
        parser(http_methods=frozenset({"PUT"}))
        .outline(exchange(), Side.SERVER, SERVER)
        .attributes["http.request.method"]
        == "_OTHER"
    )


def test_exchange_without_a_response_has_no_status():
    told = parser().outline(exchange(reply=None, error="timeout"), Side.CLIENT, SERVER)
    assert "http.response.status_code" not in told.attributes
    assert told.error_type == "timeout"


def test_outlines_are_bounded(monkeypatch):
    monkeypatch.setattr(http1, "MAX_OUTLINES", 5)
    http1._outlines.clear()
    for number in range(20):
        parser().outline(exchange(b"GET /%d HTTP/1.1\r\n\r\n" % number), Side.SERVER, SERVER)
        assert len(http1._outlines) <= 5
