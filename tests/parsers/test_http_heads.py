# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers import http_heads
from parsers.http_heads import (
    CHUNKED,
    MAX_CACHED_HEADS,
    MAX_HEAD_BYTES,
    MAX_LINE_BYTES,
    UNCLEAR,
    UNTIL_CLOSE,
    pass_empty_lines,
    read_request,
    read_response,
    recall,
    request_heads,
    response_heads,
)
from parsers.model import ParseError
from parsers.reader import NeedMoreData, Reader


@pytest.fixture(autouse=True)
def no_heads():
    request_heads.clear()
    response_heads.clear()


def request(data, **options):
    return read_request(Reader(data, **options))


def response(data, **options):
    return read_response(Reader(data, **options))


def kept(data, *, cut=False, read=read_request, again=False):
    """What may be kept of a head: the rest as dots."""
    reader = Reader(data, cut=cut)
    reader.marking = True
    if again:
        read(Reader(data))
        assert recall(request_heads if read is read_request else response_heads, reader)
    else:
        read(reader)
    text = bytearray(data)
    for start, stop in reader.omitted:
        text[start:stop] = b"." * (stop - start)
    return bytes(text)


def test_request_says_method_target_version_and_the_fields_that_are_read():
    head = request(
        b"POST /a?b=c HTTP/1.0\r\nHOST: example.com:8080 \r\nUser-Agent:  a  b\r\nX-Y: z\r\n\r\n"
    )
    assert (head.method, head.target, head.version) == ("POST", "/a?b=c", "1.0")
    assert head.fields == {"host": "example.com:8080", "user-agent": "a  b"}
    assert head.length == 0
    assert not head.frames


def test_response_says_status_and_version():
    head = response(b"HTTP/1.1 404 Not  Found\r\nServer: x\r\n\r\n")
    assert (head.status, head.version, head.fields, head.length) == (404, "1.1", {}, UNTIL_CLOSE)


@pytest.mark.parametrize("method", ["HEAD", "CONNECT"])
def test_some_methods_frame_their_response(method):
    assert request(method.encode() + b" a:1 HTTP/1.1\r\n\r\n").frames


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (b"Content-Length: 12\r\n", 12),
        (b"Content-Length: 007\r\n", 7),
        (b"content-length:5,5\r\nCONTENT-LENGTH: 5\r\n", 5),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", UNCLEAR),
        (b"Content-Length: 5, 6\r\n", UNCLEAR),
        (b"Content-Length: \r\n", UNCLEAR),
        (b"Content-Length: -1\r\n", UNCLEAR),
        (b"Content-Length: 0x10\r\n", UNCLEAR),
        ("Content-Length: \u0661\r\n".encode(), UNCLEAR),
        (b"Content-Length: 999999999999999999\r\n", 999999999999999999),
        (b"Content-Length: 1000000000000000000\r\n", UNCLEAR),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", CHUNKED),
        (b"Transfer-Encoding: gzip, Chunked \r\n", CHUNKED),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", CHUNKED),
        (b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", 5),
        (b"Content-Length:\r\n 5\r\n", 5),
        (b"X-Content-Length: 5\r\nX: Content-Length: 6\r\n", None),
    ],
)
def test_length_of_a_body(fields, length):
    asked = 0 if length is None else length
    assert request(b"POST / HTTP/1.1\r\n" + fields + b"\r\n").length == asked
    replied = UNTIL_CLOSE if length is None else length
    assert response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n").length == replied


def test_unknown_coding_ends_a_response_with_the_connection_and_leaves_a_request_unclear():
    fields = b"Transfer-Encoding: chunked, gzip\r\nContent-Length: 5\r\n\r\n"
    assert request(b"POST / HTTP/1.1\r\n" + fields).length == UNCLEAR
    assert response(b"HTTP/1.1 200 OK\r\n" + fields).length == UNTIL_CLOSE


@pytest.mark.parametrize("status", [100, 101, 103, 204, 304])
def test_some_responses_have_no_body_whatever_they_say(status):
    assert response(b"HTTP/1.1 %d X\r\nContent-Length: 9\r\n\r\n" % status).length == 0


def test_lines_may_be_folded():
    head = request(b"GET / HTTP/1.1\r\nUser-Agent: a\r\n \t b\n\tc\r\nHost:\r\n h\r\n\r\n")
    assert head.fields == {"user-agent": "a b c", "host": "h"}


def test_first_of_several_counts_except_for_lists():
    head = request(
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Forwarded-For: 1\r\nX-Forwarded-For: 2\r\n\r\n"
    )
    assert head.fields == {"host": "a", "x-forwarded-for": "1, 2"}


def test_bytes_that_are_no_utf8_are_shown():
    head = request(b"GET /\xff\xc3\xa9 HTTP/1.1\r\nUser-Agent: \xfe\r\n\r\n")
    assert head.target == "/\\xff\u00e9"
    assert head.fields["user-agent"] == "\\xfe"


@pytest.mark.parametrize(
    "line",
    [
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/2.0",
        b"GET / http/1.1",
        b"G\x00T / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"A" * 33 + b" / HTTP/1.1",
        b"",
    ],
)
def test_line_that_is_none_is_an_error(line):
    with pytest.raises(ParseError):
        request(line + b"\r\n\r\n")


@pytest.mark.parametrize("line", [b"HTTP/1.1 99 X", b"HTTP/1.2 200 OK", b"ICY 200 OK", b"HTTP/1.1"])
def test_status_line_that_is_none_is_an_error(line):
    with pytest.raises(ParseError):
        response(line + b"\r\n\r\n")


@pytest.mark.parametrize("data", [b"GE", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_head_without_its_end_waits(data):
    with pytest.raises(NeedMoreData):
        request(data)


def test_head_is_bounded():
    with pytest.raises(ParseError):
        request(b"GET /" + b"a" * MAX_LINE_BYTES)
    with pytest.raises(ParseError):
        request(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEAD_BYTES // 6))


def test_head_that_was_cut_says_what_was_captured():
    reader = Reader(b"GET /a HTTP/1.1\r\nHost: h\r\nUser-Age", cut=True)
    head = read_request(reader)
    assert (head.target, head.fields) == ("/a", {"host": "h"})
    assert reader.lost
    assert reader.position == reader.end
    assert not request_heads


def test_cut_behind_the_head_is_none_of_its_business():
    reader = Reader(b"GET /a HTTP/1.1\n\nbody", cut=True)
    read_request(reader)
    assert not reader.lost
    assert reader.position == 17


def test_url_that_was_cut_is_used_as_far_as_it_goes():
    reader = Reader(b"GET /search?q=aaa", cut=True)
    assert read_request(reader).target == "/search?q=aaa"
    assert reader.lost


@pytest.mark.parametrize("line", [b"GE", b"GET ", b"GET /a HT", b"\xff\xff"])
def test_line_that_was_cut_too_early_is_of_no_use(line):
    with pytest.raises(NeedMoreData):
        request(line, cut=True)
    with pytest.raises(NeedMoreData):
        response(b"HTTP/1.1 20", cut=True)


def test_response_that_was_cut_says_its_status():
    reader = Reader(b"HTTP/1.1 500 Oops\r\nSet-Coo", cut=True)
    assert read_response(reader).status == 500
    assert reader.lost
    assert not response_heads


def test_empty_lines_are_passed():
    reader = Reader(b"\r\n\n\r\nGET")
    pass_empty_lines(reader)
    assert reader.position == 5
    reader = Reader(b"\n\r")
    pass_empty_lines(reader)
    assert reader.position == 2


def test_head_with_the_same_bytes_is_parsed_once():
    data = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    first = request(data)
    reader = Reader(b"xx" + data + b"rest")
    reader.position = 2
    assert recall(request_heads, reader) is first
    assert reader.position == 2 + len(data)
    assert recall(request_heads, Reader(data[:-1])) is None
    assert recall(request_heads, Reader(data.replace(b"h\r", b"i\r"))) is None


def test_heads_that_are_kept_are_bounded(monkeypatch):
    monkeypatch.setattr(http_heads, "MAX_CACHED_HEADS", 10)
    assert MAX_CACHED_HEADS >= 10
    for number in range(25):
        request(b"GET /%d HTTP/1.1\r\n\r\n" % number)
        response(b"HTTP/1.1 200 %d\r\n\r\n" % number)
        assert max(len(request_heads), len(response_heads)) <= 10
    request(b"GET / HTTP/1.1\r\nCookie: " + b"c" * 3000 + b"\r\n\r\n")
    assert max(map(len, request_heads)) < 3000


HEAD = (
    b"GET http://u:pw@h/a?id=1&token=abc HTTP/1.1\r\nHost: h\r\nAuthorization: Basic s3cret\r\n"
    b"Cookie: a=b\r\n c=d\r\nUser-Agent : curl\r\nno name: v\r\nnonsense\r\nX:\r\n\r\n"
)
KEPT = (
    b"GET http://....@h/a?id=1&token=... HTTP/1.1\r\nHost: h\r\nAuthorization:.............\r\n"
    b"Cookie:..........\r\nUser-Agent : curl\r\n..........\r\n........\r\nX:\r\n\r\n"
)


@pytest.mark.parametrize("again", [False, True], ids=["new", "known"])
def test_only_what_is_read_is_kept(again):
    assert kept(HEAD, again=again) == KEPT


def test_only_what_is_read_of_a_response_is_kept():
    data = b"HTTP/1.1 200 OK\nSet-Cookie: s3cret\nContent-Length: 5\n\n"
    assert kept(data, read=read_response) == data.replace(b" s3cret", b".......")


def test_line_that_was_cut_is_not_kept():
    assert kept(b"GET / HTTP/1.1\r\nHost: h\r\nAuthoriz", cut=True).endswith(b"h\r\n........")
    assert kept(b"GET /?token=abc", cut=True) == b"GET /?token=..."


def test_lone_carriage_return_ends_no_line():
    assert b"s3cret" not in kept(b"GET / HTTP/1.1\r\nX: a\rAuthorization: s3cret\r\n\r\n")
