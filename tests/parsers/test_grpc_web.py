# SPDX-License-Identifier: Apache-2.0
"""Bodies of gRPC-Web, binary and in base64, in any pieces."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.grpc_web import MAX_TRAILERS_BYTES, WebBody
from parsers.reader import Reader


def message(size):
    return b"\0" + size.to_bytes(4, "big") + b"m" * size


def trailers(text, flag=0x80):
    data = text.encode()
    return bytes([flag]) + len(data).to_bytes(4, "big") + data


OK = trailers("grpc-status: 0\r\ngrpc-message: fine\r\n")


def read(data, cuts=(), *, text=False, size=None):
    """Read a body whose bytes arrive in pieces, as a session would have it read."""
    body = WebBody(text=text)
    left = len(data) if size is None else size
    arrived = used = 0
    for cut in [*cuts, len(data)]:
        arrived = min(arrived + cut, len(data))
        while left and used < arrived:
            reader = Reader(data[used:arrived])
            taken = body.read(reader, left)
            left -= taken
            used += taken
            if not taken:
                break
    assert left == 0 or size is not None
    return body


def decoded(reader, data):
    """What is kept of the bytes read, with zeros for the rest."""
    kept = bytearray(data)
    for start, stop in reader.omitted:
        kept[start:stop] = bytes(stop - start)
    for start, substitute in reader.replaced:
        kept[start : start + len(substitute)] = substitute
    return bytes(kept)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.integers(0, 20), max_size=5),
    st.lists(st.integers(1, 25), max_size=30),
    st.lists(st.integers(1, 12), max_size=12),
    st.booleans(),
)
def test_any_pieces_give_the_same(sizes, cuts, flushes, text):
    data = b"".join(map(message, sizes)) + OK
    if text:
        # Padded wherever the sender has flushed.
        pieces, at = [], 0
        for flush in flushes:
            pieces.append(base64.b64encode(data[at : at + flush]))
            at += flush
        data = b"".join(pieces) + base64.b64encode(data[at:])
    body = read(data, cuts, text=text)
    assert (body.status, body.count, body.ended) == ("0", len(sizes), True)
    assert not body.lost


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("grpc-status: 5\r\n", "5"),
        ("grpc-message:x\r\ngrpc-status:13", "13"),
        ("GRPC-STATUS:  7 \r\nx: y\r\n", "7"),
        ("x-grpc-status: 5\r\n", ""),
        ("grpc-status: five\r\n", ""),
        ("grpc-status: 5555\r\n", ""),
    ],
)
def test_the_status_is_in_the_trailers(text, status):
    assert read(trailers(text)).status == status
    assert read(base64.b64encode(trailers(text)), text=True).status == status


def test_empty_trailers_end_it_without_a_status():
    for body in (read(trailers("")), read(base64.b64encode(trailers("")), text=True)):
        assert body.ended
        assert body.status == ""
        assert not body.lost


def test_what_comes_behind_the_trailers_is_nothing():
    for text in (False, True):
        data = OK + b"\0\0\0\0\0" * 9
        body = read(base64.b64encode(data) if text else data, [len(OK) + 4], text=text)
        assert (body.status, body.count) == ("0", 0)


@pytest.mark.parametrize(
    "data",
    [
        trailers("grpc-status: 0\r\n", flag=0x81),
        b"\x80" + (MAX_TRAILERS_BYTES + 1).to_bytes(4, "big") + b"x" * 50,
        b"\x07what is this",
    ],
)
def test_what_cannot_be_read_says_nothing(data):
    for text in (False, True):
        body = read(base64.b64encode(data) if text else data, text=text)
        assert (body.count, body.status) == (-1, "")
        assert not body.missed


@pytest.mark.parametrize("data", [b"!!!!", b"abc", b"ab==c", b"====", b"AAAA=AAA"])
def test_what_is_no_base64_says_nothing(data):
    assert read(data, text=True).count == -1


def test_trailers_torn_by_the_end_of_a_part_say_nothing():
    for text in (False, True):
        body = WebBody(text=text)
        part = OK[:21]
        reader = Reader(base64.b64encode(part) if text else part)
        assert body.read(reader, reader.end) == reader.end
        assert body.lost


def test_a_group_torn_by_the_end_of_a_part_says_nothing():
    body = WebBody(text=True)
    assert body.read(Reader(base64.b64encode(message(20))[:7]), 7) == 7
    assert body.lost


def test_trailers_wait_until_they_are_there():
    body = WebBody(text=False)
    assert body.read(Reader(OK[:20]), len(OK)) == 5
    assert body.read(Reader(OK[5:20]), len(OK) - 5) == 0
    assert body.read(Reader(OK[5:]), len(OK) - 5) == len(OK) - 5
    assert body.status == "0"


def test_what_was_not_captured_says_nothing():
    for text in (False, True):
        data = message(4) + OK
        data = base64.b64encode(data) if text else data
        for cut in range(len(data)):
            body = WebBody(text=text)
            reader = Reader(data[:cut], cut=True)
            taken = body.read(reader, len(data))
            assert body.status == ""
            if not body.missed:
                # Within a message, of which nothing has to be captured.
                assert taken > cut
            else:
                assert taken == len(data)


def test_a_message_need_not_be_captured():
    body = WebBody(text=False)
    data = message(10_000) + OK
    assert body.read(Reader(data[:50], cut=True), len(data)) == 10_005
    assert body.read(Reader(OK), len(OK)) == len(OK)
    assert (body.status, body.count) == ("0", 1)


def test_of_a_binary_body_only_prefixes_and_the_status_are_kept():
    data = message(6) + trailers("x-secret: s3cret\r\ngrpc-status: 3\r\ngrpc-message: s3cret\r\n")
    reader = Reader(data)
    reader.marking = True
    WebBody(text=False).read(reader, len(data))
    kept = decoded(reader, data)
    assert b"s3cret" not in kept
    assert b"m" not in kept
    assert read(kept).status == "3"
    assert read(kept).count == 1


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.integers(0, 20), max_size=4),
    st.lists(st.integers(1, 12), max_size=8),
    st.lists(st.integers(1, 25), max_size=9),
)
def test_of_a_body_in_base64_no_more_is_kept(sizes, flushes, cuts):
    data = b"".join(map(message, sizes)) + trailers("a: mmm\r\ngrpc-status: 3\r\nb: mmm\r\n")
    pieces, at = [], 0
    for flush in flushes:
        pieces.append(base64.b64encode(data[at : at + flush]))
        at += flush
    text = b"".join(pieces) + base64.b64encode(data[at:])
    body = WebBody(text=True)
    kept = b""
    arrived = 0
    for cut in [*cuts, len(text)]:
        arrived = min(arrived + cut, len(text))
        reader = Reader(text[len(kept) : arrived])
        reader.marking = True
        if reader.end and len(kept) < len(text):
            taken = body.read(reader, len(text) - len(kept))
            kept += decoded(reader, reader.data)[:taken]
    assert len(kept) == len(text)
    again = read(kept, text=True)
    assert (again.status, again.count) == (body.status, body.count) == ("3", len(sizes))
    plain = b"".join(
        base64.b64decode(kept[start:stop])
        for start, stop in zip(range(0, len(kept), 4), range(4, len(kept) + 4, 4), strict=True)
    )
    assert b"m" not in plain
