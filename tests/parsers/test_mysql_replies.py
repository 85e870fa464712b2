# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.model import ParseError
from parsers.mysql_packets import ANY_SEQUENCE, MysqlReply, Step
from parsers.mysql_replies import read_reply
from parsers.reader import NeedMoreData, Reader
from tests.parsers.mysql_bytes import definition, eof, error, ok, packet, prepared, rows


def begun(step=Step.RESULT, sequence=1, deprecates=None):
    reply = MysqlReply(step, sequence, deprecates)
    reply.open = True
    if step is Step.ROWS:
        reply.rows = 0
    return reply


def read(data, reply=None, *, marking=False):
    """Read all of it, as many calls as that takes; the reply and where it ended."""
    reply = reply or begun()
    reader = Reader(data)
    reader.marking = marking
    while reply.open and reader.available > 0:
        read_reply(reader, reply)
    return reply, reader


@pytest.mark.parametrize("deprecated", [False, True])
@pytest.mark.parametrize("number", [0, 1, 300])
def test_rows_are_counted(number, deprecated):
    data = rows(number, deprecated=deprecated)
    reply, reader = read(data + b"behind")
    assert (reply.rows, reply.open, reader.position) == (number, False, len(data))
    assert reply.deprecates_eof is deprecated


@given(st.lists(st.integers(1, 400), max_size=40), st.booleans())
def test_any_division_gives_the_same(cuts, deprecated):
    data = rows(20, deprecated=deprecated, status=10)
    first = data[-9 if not deprecated else -11 :][3] + 1
    data += ok(first, 8) + rows(5, first=first + 1, deprecated=deprecated)
    reply = begun()
    held = b""
    position = 0
    for cut in sorted({*(each for each in cuts if each < len(data)), len(data)}):
        reader = Reader(held + data[position:cut])
        position = max(position, cut)
        while reply.open and reader.available > 0:
            try:
                read_reply(reader, reply)
            except NeedMoreData:
                break
        held = reader.data[reader.position :]
        if reader.position > reader.end:
            position += reader.position - reader.end
    assert reply.rows == 25
    assert not reply.open


def test_results_follow_each_other():
    first = rows(2, status=10)
    second = ok(first[-6] + 1, 10)
    reply, _ = read(first + second + rows(3, first=first[-6] + 2))
    assert reply.rows == 5


def test_row_of_several_packets_is_one():
    head = packet(1, b"\1") + definition(2) + eof(3)
    reply, reader = read(head + b"\xff\xff\xff\4\xfd")
    assert reply.large
    assert reader.position == len(head) + 4 + 0xFFFFFF
    rest = packet(5, b"rest") + packet(6, b"\1a") + eof(7)
    reply, _ = read(rest, reply)
    assert (reply.rows, reply.open) == (2, False)


def test_row_that_begins_like_an_end():
    reply, _ = read(b"\xff\xff\xff\1\xfe" + bytes(3), begun(Step.ROWS))
    assert (reply.rows, reply.large) == (1, True)


def test_rows_of_a_cursor_are_asked_for():
    reply, _ = read(packet(1, b"\1") + definition(2) + eof(3, 0x42))
    assert (reply.open, reply.rows) == (False, 0)
    reply, _ = read(packet(1, b"\0\0\1a") + eof(2, 0x82), begun(Step.ROWS))
    assert (reply.open, reply.rows) == (False, 1)


@pytest.mark.parametrize("flag", [b"\0", b"\1"])
def test_definitions_may_be_left_out(flag):
    data = packet(1, b"\1" + flag)
    data += definition(2) if flag == b"\1" else b""
    data += packet(data[3] + 1 if flag == b"\0" else 3, b"\1a")
    reply, _ = read(data + ok(data[-3] + 1, head=0xFE))
    assert (reply.open, reply.rows) == (False, 1)


def test_a_file_is_asked_for():
    reply, _ = read(packet(1, b"\xfb/tmp/a"))
    assert (reply.asks, reply.open, reply.sequence) == (True, True, ANY_SEQUENCE)
    progress = packet(7, b"\xff\xff\xff\1\1\2\0\0\0")
    reply, _ = read(progress + ok(8), reply)
    assert (reply.asks, reply.open) == (False, False)


@pytest.mark.parametrize("deprecated", [False, True])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(("columns", "parameters"), [(0, 0), (2, 0), (0, 2), (2, 3), (1, 1)])
def test_prepared_statement(columns, parameters, deprecated, known):
    data = prepared(7, columns, parameters, deprecated=deprecated)
    reply = begun(Step.PREPARED, deprecates=deprecated if known else None)
    reply, reader = read(data, reply)
    assert (reply.open, reply.statement, reader.position) == (False, 7, len(data))


def test_prepared_statement_without_definitions():
    reply, _ = read(packet(1, b"\0\7\0\0\0\1\0\1\0\0\0\0\0"), begun(Step.PREPARED))
    assert (reply.open, reply.statement) == (False, 7)


def test_eof_of_a_group_may_come_late():
    data = prepared(7, 1, 1)
    reply = begun(Step.PREPARED, deprecates=False)
    reader = Reader(data[:-9])
    while reader.available > 0:
        read_reply(reader, reply)
    assert reply.open
    with pytest.raises(NeedMoreData):
        read_reply(Reader(data[-9:-1]), reply)
    read_reply(Reader(data[-9:]), reply)
    assert not reply.open


def test_fields_have_no_number():
    reply, _ = read(definition(1) + definition(2) + eof(3), begun(Step.FIELDS))
    assert not reply.open


def test_rounds_of_authentication():
    data = packet(2, b"\xfeplugin\0")
    reply, _ = read(data, begun(Step.LOGIN, ANY_SEQUENCE))
    assert reply.asks
    reply, _ = read(packet(4, b"\1\3") + ok(5), reply)
    assert not reply.open


def test_text_and_events():
    assert not read(packet(1, b"Uptime: 3"), begun(Step.TEXT))[0].open
    reply, _ = read(packet(1, b"\0" + bytes(30)), begun(Step.EVENTS))
    assert (reply.open, reply.switches_to) == (False, "mysql-replication")
    assert read(eof(1), begun(Step.EVENTS))[0].switches_to is None
    for step in (Step.TEXT, Step.EVENTS, Step.LOGIN, Step.FIELDS, Step.PREPARED, Step.ROWS):
        assert read(error(1), begun(step))[0].code == 1064


@pytest.mark.parametrize(
    ("data", "step"),
    [
        (ok(2), Step.RESULT),
        (b"\0\0\0\1\0", Step.RESULT),
        (packet(1, b"hello"), Step.RESULT),
        (packet(1, b"\xfc\1\x10"), Step.RESULT),
        (packet(1, b"\xfc\1"), Step.RESULT),
        (packet(1, b"\1\2"), Step.RESULT),
        (packet(1, b"\xfe\0\0"), Step.RESULT),
        (packet(1, b"\3dex" + bytes(9)), Step.FIELDS),
        (packet(1, b"\1" + bytes(12)), Step.PREPARED),
        (packet(1, bytes(5)), Step.PREPARED),
        (packet(1, b"\3") + b"def!", Step.FIELDS),
    ],
)
def test_what_is_no_response(data, step):
    with pytest.raises(ParseError):
        read(data, begun(step))


@pytest.mark.parametrize(
    "data",
    [
        rows(3)[:-9] + eof(77),
        packet(1, b"\1") + packet(2, b"\3dex" + bytes(9)),
        prepared(1, 1, 1)[:-9] + packet(6, b"x"),
    ],
)
def test_what_was_right_before_a_mistake_stays(data):
    step = Step.PREPARED if data[4] == 0 else Step.RESULT
    reply = begun(step, deprecates=False if step is Step.PREPARED else None)
    reader = Reader(data)
    read_reply(reader, reply)
    assert 0 < reader.position < len(data)
    with pytest.raises(ParseError):
        read_reply(reader, reply)


def test_nothing_of_rows_and_names_is_kept():
    data = rows(3) + b""
    _, reader = read(data, marking=True)
    kept = bytearray(data)
    for start, stop in reader.omitted:
        kept[start:stop] = b"\xff" * (stop - start)
    assert b"secret" not in kept
    assert b"shop" not in kept
    assert read(bytes(kept))[0].rows == 3


@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_packets_wait_for_what_is_looked_at(size):
    count = packet(1, b"\1\1")
    for data, step in (
        (count, Step.RESULT),
        (definition(1), Step.FIELDS),
        (definition(1), Step.DEFINITIONS),
        (definition(1), Step.COLUMNS),
        (prepared(1, 1, 1), Step.PREPARED),
        (eof(1), Step.AFTER_DEFINITIONS),
    ):
        if size >= len(data):
            continue
        reply = begun(step)
        reply.left = 1
        with pytest.raises(NeedMoreData):
            read_reply(Reader(data[:size]), reply)
        assert reply.step is step


def test_many_definitions():
    head = packet(1, b"\5") + b"".join(definition(2 + i) for i in range(5))
    reply, reader = read(head + eof(7) + eof(8), marking=True)
    assert (reply.rows, reply.open) == (0, False)
    assert len(reader.omitted) == 5
    reply = begun()
    read_reply(Reader(packet(1, b"\5") + definition(2) + packet(3, b"\3dex" + bytes(9))), reply)
    assert reply.left == 4


def test_no_eof_where_one_was_announced():
    reply = begun(Step.PREPARED, deprecates=False)
    reader = Reader(prepared(1, 1, 0, deprecated=True) + ok(3))
    read_reply(reader, reply)
    with pytest.raises(ParseError):
        read_reply(reader, reply)


def test_eof_between_groups_may_come_in_pieces():
    data = prepared(1, 1, 1)
    size = data.index(b"\xfe") + 2
    reply = begun(Step.PREPARED)
    reader = Reader(data[:size])
    read_reply(reader, reply)
    with pytest.raises(NeedMoreData):
        read_reply(reader, reply)
    assert reply.open
