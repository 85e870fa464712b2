# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.model import ParseError
from parsers.reader import UNTIL_CLOSE, NeedMoreData, Reader


def test_reads_straight_down():
    reader = Reader(b"\x01\x02\x03\x00\x00\x01\x00abc")
    assert (reader.u8(), reader.u16(), reader.u32()) == (1, 0x203, 256)
    assert reader.take(2) == b"ab"
    assert reader.position == 9


@pytest.mark.parametrize(
    "read",
    [
        lambda reader: reader.take(3),
        lambda reader: reader.u32(),
        lambda reader: reader.u16() + reader.u8(),
        lambda reader: reader.line(10),
        lambda reader: reader.until(b"\0", 10),
        lambda reader: reader.head(10),
    ],
)
def test_short_read_asks_for_more(read):
    with pytest.raises(NeedMoreData):
        read(Reader(b"ab"))


def test_u8_at_the_end_asks_for_more():
    with pytest.raises(NeedMoreData):
        Reader().u8()


@pytest.mark.parametrize("read", [Reader.take, Reader.skip])
def test_negative_length_does_not_go_back(read):
    reader = Reader(b"abcdef")
    reader.take(3)
    with pytest.raises(ParseError, match="length -1"):
        read(reader, -1)
    assert reader.position == 3


@pytest.mark.parametrize(
    ("data", "line"), [(b"a\r\nb", b"a"), (b"a\nb", b"a"), (b"\r\n", b""), (b"a\r\r\n", b"a\r")]
)
def test_line_ends_at_a_line_feed(data, line):
    assert Reader(data).line(10) == line


def test_line_that_is_too_long_is_an_error():
    with pytest.raises(ParseError, match="within 4 bytes"):
        Reader(b"abcd").line(4)
    assert Reader(b"abc\n").line(4) == b"abc"


def test_until_consumes_its_mark():
    reader = Reader(b"user\0\0name\0")
    assert reader.until(b"\0\0", 20) == b"user"
    assert reader.until(b"\0", 20) == b"name"


@pytest.mark.parametrize(
    ("data", "head"),
    [
        (b"a: 1\r\n\r\nrest", b"a: 1\r\n\r\n"),
        (b"a: 1\n\nrest", b"a: 1\n\n"),
        (b"a: 1\n\r\nrest\n\n", b"a: 1\n\r\n"),
        (b"a: 1\r\n\nrest\r\n\r\n", b"a: 1\r\n\n"),
    ],
)
def test_head_ends_at_the_first_empty_line(data, head):
    assert Reader(data).head(100) == head


def test_head_that_is_too_long_is_an_error():
    with pytest.raises(ParseError):
        Reader(b"a\r\n" * 10).head(30)


def test_skip_may_go_past_the_end():
    reader = Reader(b"abc")
    reader.skip(10)
    assert reader.position == 10
    reader.skip_to_close()
    assert reader.position == 10 + UNTIL_CLOSE


def test_what_is_skipped_is_not_kept():
    reader = Reader(b"abcdef")
    reader.marking = True
    reader.skip(2)
    reader.omit(3, 4)
    reader.skip(20)
    reader.skip(5)
    assert reader.omitted == [(0, 2), (3, 4), (2, 6)]


def test_losing_is_noted_for_the_session():
    reader = Reader(b"", cut=True)
    reader.lose()
    assert reader.lost
    assert reader.cut
