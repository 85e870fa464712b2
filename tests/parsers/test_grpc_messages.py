# SPDX-License-Identifier: Apache-2.0
"""gRPC: messages are counted in whatever pieces they come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from parsers.grpc_messages import MessageCounter
from parsers.reader import Reader


def message(size, flag=0):
    return bytes([flag]) + size.to_bytes(4, "big") + b"m" * size


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1)), max_size=8),
    st.lists(st.integers(1, 30), max_size=40),
)
def test_messages_are_counted_in_any_pieces(messages, cuts):
    data = b"".join(message(size, flag) for size, flag in messages)
    fed, read = MessageCounter(), MessageCounter()
    at = 0
    for cut in [*cuts, len(data) + 1]:
        part = data[at : at + cut]
        at += len(part)
        fed.feed(part)
        reader = Reader(part)
        left = len(part)
        while left:
            taken = read.read(reader, left)
            assert taken
            left -= taken
        assert reader.position == len(part)
    for counter in (fed, read):
        assert counter.count == len(messages)
        assert counter.compressed == sum(flag for _, flag in messages)
        assert counter.whole
        assert not counter.lost


def test_only_prefixes_are_read():
    counter = MessageCounter()
    reader = Reader(message(100) + message(7))
    reader.marking = True
    assert counter.read(reader, reader.end) == reader.end
    assert reader.omitted == [(5, 105), (110, 117)]


def test_what_is_still_to_come_is_passed_over():
    counter = MessageCounter()
    reader = Reader(message(100)[:20])
    assert counter.read(reader, 60) == 60
    assert (counter.pending, counter.wanted, counter.whole) == (45, 0, False)
    counter.skip(45)
    assert counter.whole


def test_nothing_is_read_where_nothing_is_there():
    counter = MessageCounter()
    assert counter.read(Reader(b""), 10) == 0
    assert counter.wanted == 5


def test_wanted_and_pending_say_what_comes_next():
    counter = MessageCounter()
    counter.feed(b"\0\0")
    assert (counter.wanted, counter.pending) == (3, 0)
    counter.feed(b"xx\0\0\x02ab", 2, 5)
    assert (counter.wanted, counter.pending, counter.count) == (0, 2, 1)


def test_a_hole_in_a_message_is_none():
    counter = MessageCounter()
    counter.feed(message(10)[:6])
    counter.skip(4)
    counter.skip(5)
    assert (counter.count, counter.wanted) == (1, 5)


def test_a_hole_in_a_prefix_makes_the_count_unknown():
    counter = MessageCounter()
    counter.feed(message(10)[:6])
    counter.skip(10)
    assert counter.lost
    assert counter.missed
    counter.feed(message(1))
    counter.skip(1000)
    reader = Reader(message(1))
    assert counter.read(reader, 6) == 6
    assert counter.count == -1


def test_a_prefix_that_was_not_captured_makes_the_count_unknown():
    counter = MessageCounter()
    reader = Reader(message(3), cut=True)
    assert counter.read(reader, 100) == 100
    assert counter.lost
    assert counter.missed


def test_a_payload_that_was_not_captured_does_not():
    counter = MessageCounter()
    reader = Reader(message(50)[:20], cut=True)
    assert counter.read(reader, 80) == 55
    assert not counter.lost


def test_what_is_no_prefix_makes_the_count_unknown():
    counter = MessageCounter()
    counter.feed(b"\x02\0\0\0\x01a")
    assert counter.lost
    assert not counter.missed
