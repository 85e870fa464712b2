# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from parsers.model import Kind, Message
from parsers.reader import Reader
from parsers.stream import Kept, Stream, kept_ranges


def ranges(data, omitted, *, start=0, position=None, origin=0):
    reader = Reader(data)
    reader.position = len(data) if position is None else position
    for a, b in omitted:
        reader.omit(a, b)
    return [(each.position, each.size) for each in kept_ranges(reader, start, 1, origin)]


def substituted(replaced, omitted=(), *, start=0):
    reader = Reader(b"x" * 10)
    reader.position = 10
    for a, b in omitted:
        reader.omit(a, b)
    for a, text in replaced:
        reader.replace(a, text)
    kept = kept_ranges(reader, start, 1, 100)
    assert {each.fate for each in kept} == {0}
    return [(each.position - 100, each.size, each.substitute) for each in kept]


def test_everything_read_is_kept():
    assert ranges(b"x" * 10, []) == [(0, 10)]


def test_omitted_ranges_are_cut_out_in_any_order():
    assert ranges(b"x" * 10, [(7, 9), (2, 4), (3, 5)]) == [(0, 2), (5, 2), (9, 1)]


def test_nothing_but_omitted_leaves_nothing():
    assert ranges(b"x" * 10, [(0, 10)]) == []


def test_what_lies_past_the_end_is_not_kept():
    assert ranges(b"x" * 10, [], start=4, position=50) == [(4, 6)]


def test_what_was_marked_but_not_taken_keeps_nothing_before_it():
    assert ranges(b"x" * 10, [(2, 3), (8, 9)], position=5) == [(0, 2), (3, 2)]


def test_substitutes_stand_in_for_what_was_replaced():
    assert substituted([(2, b"ab"), (8, b"z")]) == [
        (0, 2, b""),
        (2, 2, b"ab"),
        (4, 4, b""),
        (8, 1, b"z"),
        (9, 1, b""),
    ]


def test_all_may_be_replaced():
    assert substituted([(0, b"0123456789")]) == [(0, 10, b"0123456789")]


def test_replaced_and_omitted_is_replaced():
    assert substituted([(4, b"ab")], omitted=[(2, 8)]) == [(0, 2, b""), (4, 2, b"ab"), (8, 2, b"")]
    assert substituted([(4, b"ab")], omitted=[(4, 6)]) == [(0, 4, b""), (4, 2, b"ab"), (6, 4, b"")]


def test_what_is_replaced_twice_is_so_by_the_first():
    assert substituted([(4, b"CDE"), (2, b"abc")]) == [
        (0, 2, b""),
        (2, 3, b"abc"),
        (5, 2, b"DE"),
        (7, 3, b""),
    ]
    assert substituted([(2, b"abcd"), (3, b"x")])[1:] == [(2, 4, b"abcd"), (6, 4, b"")]


def test_substitutes_end_where_the_bytes_do():
    assert substituted([(8, b"abcd")]) == [(0, 8, b""), (8, 2, b"ab")]
    assert substituted([(0, b"abcd"), (20, b"x")], start=2) == [(2, 2, b"cd"), (4, 6, b"")]
    assert substituted([(1, b"abcd")], start=5) == [(5, 5, b"")]


def test_positions_wrap():
    assert ranges(b"x" * 10, [(4, 6)], origin=2**32 - 5) == [(2**32 - 5, 4), (1, 4)]


def test_direction_is_noted():
    assert kept_ranges(Reader(b""), 0, 1, 0) == []
    reader = Reader(b"a")
    reader.position = 1
    assert kept_ranges(reader, 0, 1, 5) == [Kept(1, 5, 1)]


def test_measure_tells_the_message_how_far_it_has_come():
    stream = Stream(Kind.REQUEST)
    stream.measure()
    stream.message = Message()
    stream.start, stream.offset, stream.last_ns = 10, 25, 99
    stream.measure()
    assert (stream.message.size, stream.message.last_ns) == (15, 99)


def test_forget_drops_what_was_to_be_parsed():
    stream = Stream(Kind.REQUEST)
    stream.buffer, stream.skip, stream.rescanned = b"abc", 5, 7
    stream.forget()
    assert (stream.buffer, stream.skip, stream.rescanned) == (b"", 0, 0)
