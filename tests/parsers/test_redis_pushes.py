# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from parsers.model import ParseError
from parsers.reader import NeedMoreData, Reader
from parsers.redis_pushes import (
    MAX_CHANNEL_BYTES,
    UNKNOWN_COUNTS,
    count,
    first_word,
    pass_monitored,
    read_total,
    refuse_acknowledgement,
)

CONFIRMATION = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:2\r\n"
LINE = b'+1700000000.123456 [0 127.0.0.1:5000] "GET" "a"\r\n'


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"*3\r\n$7\r\nmessage\r\n", b"message"),
        (b">2\r\n$10\r\ninvalidate\r\n", b"invalidate"),
        (b"*0\r\n", b""),
        (b"*-1\r\n", b""),
        (b"*1\r\n:1\r\n", b""),
        (b"*1\r\n*", b""),
        (b"*1\r\n$-1\r\n", b""),
        (b"*1\r\n$99\r\n", b""),
        (b"*1\r\n$1000\r\n", b""),
        (b"*x\r\n", b""),
    ],
)
def test_the_first_word_is_a_short_string(data, word):
    assert first_word(Reader(data)) == word


def test_half_a_word_is_waited_for():
    whole = b"*3\r\n$7\r\nmessage\r\n"
    for size in range(1, len(whole)):
        with pytest.raises(NeedMoreData):
            first_word(Reader(whole[:size]))
    with pytest.raises(ParseError):
        first_word(Reader(b"*" + b"1" * 20))


@pytest.mark.parametrize(
    ("data", "total"),
    [
        (CONFIRMATION, 2),
        (b">3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n", 0),
        (b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n", 0),
        (b"*3\r\n$9\r\nsubscribe\r\n$0\r\n\r\n:1\r\n", 1),
        (b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n" % (MAX_CHANNEL_BYTES + 1), -1),
    ],
)
def test_a_confirmation_tells_a_number(data, total):
    assert read_total(Reader(data)) == total


def test_half_a_confirmation_is_waited_for():
    for size in range(CONFIRMATION.index(b"$4"), len(CONFIRMATION)):
        with pytest.raises(NeedMoreData):
            read_total(Reader(CONFIRMATION[:size]))


@pytest.mark.parametrize(
    "data",
    [
        b"*3\r\n$9\r\nsubscribe\r\n:1\r\n:1\r\n",
        b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n$1\r\n",
        b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:" + b"1" * 20,
    ],
)
def test_what_is_no_confirmation_is_refused(data):
    with pytest.raises(ParseError):
        read_total(Reader(data))


@pytest.mark.parametrize(
    ("counts", "kind", "total", "after"),
    [
        ((0, 0, 0), 0, 1, (1, 0, 0)),
        ((1, 0, 0), 0, 1, (1, 0, 0)),
        ((2, 0, 0), 1, 3, (2, 1, 0)),
        ((2, 1, 0), 0, 2, (1, 1, 0)),
        ((2, 1, 5), 1, 2, (2, 0, 5)),
        ((2, 1, 5), 2, 6, (2, 1, 6)),
        (UNKNOWN_COUNTS, 0, 3, UNKNOWN_COUNTS),
        (UNKNOWN_COUNTS, 1, 3, UNKNOWN_COUNTS),
        (UNKNOWN_COUNTS, 1, 0, (0, 0, -1)),
        ((1, 1, 1), 0, -1, UNKNOWN_COUNTS),
    ],
)
def test_subscriptions_are_counted_by_what_is_told(counts, kind, total, after):
    assert count(counts, kind, total) == after


def test_a_replica_is_no_server():
    whole = b"*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$2\r\n14\r\n"
    with pytest.raises(ParseError):
        refuse_acknowledgement(Reader(whole))
    for size in range(1, whole.index(b"$2")):
        with pytest.raises(NeedMoreData):
            refuse_acknowledgement(Reader(whole[:size]))
    for data in (b"*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n", b"*1\r\n:1\r\n"):
        assert refuse_acknowledgement(Reader(data)) is None


def test_lines_of_monitor_are_passed_over():
    reader = Reader(LINE + b"+OK\r\n")
    assert pass_monitored(reader)
    assert reader.position == len(LINE)
    assert not pass_monitored(reader)
    assert reader.position == len(LINE)


def test_half_a_line_of_monitor_is_waited_for():
    for size in range(2, len(LINE)):
        with pytest.raises(NeedMoreData):
            pass_monitored(Reader(LINE[:size]))


@pytest.mark.parametrize("data", [b"+OK\r\n", b"+12 monkeys\r\n", b"+1.5\r\n", b"+"])
def test_other_statuses_are_left(data):
    reader = Reader(data)
    assert not pass_monitored(reader)
    assert reader.position == 0


def test_what_monitor_shows_is_not_kept():
    reader = Reader(LINE)
    reader.marking = True
    assert pass_monitored(reader)
    assert reader.omitted == [(LINE.index(b"127"), len(LINE) - 2)]
