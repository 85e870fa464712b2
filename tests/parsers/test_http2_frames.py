# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    error_name,
    obeys,
    probe,
    strip,
)
from parsers.model import Kind, Likeness, ParseError
from tests.parsers.http2_bytes import CLIENT, SERVER, WHOLE, frame

NO, SHORT, LIKELY, CERTAIN = Likeness
GET = b"\x82\x86\x84\x41\x01a"


REQUEST = frame(HEADERS, WHOLE, 1, GET)
RESPONSE = frame(HEADERS, WHOLE, 1, b"\x88")
UPDATE = frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\5")
BODY = frame(DATA, 0, 1, b"abc")


def test_the_preface_is_certain_and_its_beginning_too_short():
    for size in range(1, len(PREFACE)):
        assert probe(PREFACE[:size], CLIENT) is SHORT
    assert probe(PREFACE, CLIENT) is CERTAIN
    assert probe(PREFACE + b"whatever", CLIENT) is CERTAIN
    assert probe(PREFACE, SERVER) is NO
    assert probe(b"PRI * HTTP/1.1\r\n\r\n", CLIENT) is NO


LIKE = [
    ("a request", CLIENT, REQUEST, LIKELY),
    ("a request from the server", SERVER, REQUEST, NO),
    ("a response", SERVER, RESPONSE, LIKELY),
    ("a response from the client", CLIENT, RESPONSE, NO),
    ("settings", SERVER, frame(SETTINGS, 0, 0, b"\0\3\0\0\0\x64"), LIKELY),
    ("no settings", SERVER, frame(SETTINGS, 0, 0), LIKELY),
    ("acknowledgement", SERVER, frame(SETTINGS, ACK, 0), LIKELY),
    ("acknowledgement with settings", SERVER, frame(SETTINGS, ACK, 0, b"\0\3\0\0\0\x64"), NO),
    ("settings of a stream", SERVER, frame(SETTINGS, 0, 1), NO),
    ("half a setting", SERVER, frame(SETTINGS, 0, 0, b"\0\3\0"), NO),
    ("a setting beyond its limit", SERVER, frame(SETTINGS, 0, 0, b"\0\2\0\0\0\2"), NO),
    ("many settings", SERVER, frame(SETTINGS, 0, 0, b"\0\3\0\0\0\2" * 33), NO),
    ("ping", CLIENT, frame(PING, 0, 0, bytes(8)), LIKELY),
    ("a short ping", CLIENT, frame(PING, 0, 0, bytes(7)), NO),
    ("window", CLIENT, UPDATE, LIKELY),
    ("window of a stream", CLIENT, frame(WINDOW_UPDATE, 0, 5, b"\0\0\0\5"), LIKELY),
    ("window of nothing", CLIENT, frame(WINDOW_UPDATE, 0, 0, bytes(4)), NO),
    ("window too large", CLIENT, frame(WINDOW_UPDATE, 0, 0, b"\xff\0\0\0"), NO),
    ("reset", CLIENT, frame(RST_STREAM, 0, 1, b"\0\0\0\x08"), LIKELY),
    ("reset of a pushed stream", CLIENT, frame(RST_STREAM, 0, 2, b"\0\0\0\x08"), LIKELY),
    ("reset with no such code", CLIENT, frame(RST_STREAM, 0, 1, b"\0\0\1\0"), NO),
    ("going away", SERVER, frame(GOAWAY, 0, 0, bytes(8) + b"bye"), LIKELY),
    ("going away too short", SERVER, frame(GOAWAY, 0, 0, bytes(7)), NO),
    ("going away with no such code", SERVER, frame(GOAWAY, 0, 0, b"\0\0\0\1\0\1\0\0"), NO),
    ("priority", CLIENT, frame(PRIORITY, 0, 3, bytes(5)), LIKELY),
    ("promise", SERVER, frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + GET), LIKELY),
    ("promise from a client", CLIENT, frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + GET), NO),
    ("continuation", CLIENT, frame(CONTINUATION, END_HEADERS, 1, GET), NO),
    ("request of no stream", CLIENT, frame(HEADERS, WHOLE, 0, GET), NO),
    ("request of a pushed stream", CLIENT, frame(HEADERS, WHOLE, 2, GET), NO),
    ("response on a pushed stream", SERVER, frame(HEADERS, WHOLE, 2, b"\x88"), LIKELY),
    ("reserved bit", CLIENT, frame(HEADERS, WHOLE, 1 << 31 | 1, GET), NO),
    ("unknown flag", CLIENT, frame(HEADERS, WHOLE | 2, 1, GET), NO),
    ("unknown type", CLIENT, frame(0x10, 0, 1, GET), NO),
    ("trailers", CLIENT, frame(HEADERS, WHOLE, 1, b"\0\1a\1b"), SHORT),
    ("trailers that end nothing", CLIENT, frame(HEADERS, END_HEADERS, 1, b"\0\1a\1b"), NO),
    ("fields inserted before", CLIENT, frame(HEADERS, END_HEADERS, 1, b"\xbe"), SHORT),
    ("no block", CLIENT, frame(HEADERS, WHOLE, 1, b"\x82\xff"), NO),
    ("padding", CLIENT, frame(HEADERS, WHOLE | PADDED, 1, b"\2" + GET + b"\0\0"), LIKELY),
    ("too much padding", CLIENT, frame(HEADERS, WHOLE | PADDED, 1, b"\x20" + GET), NO),
    ("nothing to pad", CLIENT, frame(HEADERS, WHOLE | PADDED, 1), NO),
    ("priority inside", CLIENT, frame(HEADERS, WHOLE | WITH_PRIORITY, 1, bytes(5) + GET), LIKELY),
    ("half a priority", CLIENT, frame(HEADERS, WHOLE | WITH_PRIORITY, 1, bytes(4)), NO),
    ("part of a block", CLIENT, frame(HEADERS, END_STREAM, 1, GET[:2]), SHORT),
    ("half a block", CLIENT, frame(HEADERS, WHOLE, 1, GET)[:12], SHORT),
    ("two frames", CLIENT, UPDATE + REQUEST, LIKELY),
    ("a frame and a part", CLIENT, REQUEST + REQUEST[:7], LIKELY),
    ("a frame and no frame", CLIENT, REQUEST + b"abcdefg", NO),
    ("a frame and no header", CLIENT, REQUEST + b"\0\0\1\x1f", NO),
    ("body", SERVER, BODY, SHORT),
    ("body of no stream", SERVER, frame(DATA, 0, 0, b"abc"), NO),
    ("half a body", SERVER, BODY[:-1], NO),
    ("body and something else", SERVER, BODY + b"abcdefghi", NO),
    ("body behind a response", SERVER, RESPONSE + BODY[:-1], LIKELY),
    ("large body", SERVER, frame(DATA, 0, 1, bytes(16385)), NO),
    ("large body behind a response", SERVER, RESPONSE + frame(DATA, 0, 1, length=1 << 20), LIKELY),
    ("zeros", CLIENT, bytes(9), NO),
    ("text", SERVER, b"HTTP/1.1 200 OK\r\n", NO),
    ("a little text", SERVER, b"a", NO),
    ("a zero", CLIENT, b"\0", SHORT),
]


@pytest.mark.parametrize(
    ("side", "head", "likeness"), [each[1:] for each in LIKE], ids=[each[0] for each in LIKE]
)
def test_what_frames_look_like(side, head, likeness):
    assert probe(head, side) is likeness


@pytest.mark.parametrize("side", Kind)
def test_random_bytes_are_no_frames(side):
    chance = random.Random(1)
    for _ in range(20000):
        assert probe(chance.randbytes(chance.choice([9, 20, 100])), side) is NO


@given(st.binary(max_size=60), st.sampled_from(Kind))
def test_a_probe_answers_whatever_comes(head, side):
    assert probe(head, side) in Likeness
    assert probe(REQUEST + head, side) in Likeness


def test_more_bytes_never_make_frames_of_what_was_none():
    for _, side, head, _ in LIKE[:40]:
        refused = False
        for size in range(1, len(head) + 1):
            now = probe(head[:size], side) is NO
            assert now or not refused
            refused = now


def test_names_of_errors():
    assert error_name(8) == "CANCEL"
    assert error_name(13) == "HTTP_1_1_REQUIRED"
    assert error_name(0x1234) == "0x1234"


def test_strip_finds_the_block():
    assert strip(GET, 0) == (0, len(GET))
    assert strip(b"\2" + bytes(5) + GET + b"\0\0", PADDED | WITH_PRIORITY) == (6, 6 + len(GET))
    with pytest.raises(ParseError):
        strip(b"", PADDED)


def test_rules_of_a_header():
    assert obeys(PING, 0, 0, 8)
    assert not obeys(PING, 0, 3, 8)
    assert not obeys(CONTINUATION + 1, 0, 3, 8)
