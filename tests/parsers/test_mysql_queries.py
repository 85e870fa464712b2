# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers import mysql_queries
from parsers.model import ParseError
from parsers.mysql_queries import (
    MAX_CACHED_BYTES,
    MAX_STATEMENTS,
    MAX_TEXT_BYTES,
    Query,
    Statements,
    read_query,
)
from parsers.reader import NeedMoreData, Reader


def read(payload, *, size=None, marking=False, cut=False):
    reader = Reader(payload, cut=cut)
    reader.marking = marking
    query, lost = read_query(reader, len(payload) if size is None else size)
    return query, lost, reader


def test_same_bytes_give_the_same_object():
    assert read(b"SELECT 71")[0] is read(b"SELECT 71")[0]
    long = b"SELECT " + b"1" * MAX_CACHED_BYTES
    assert read(long)[0] is not read(long)[0]


def test_a_zero_behind_the_text_is_none_of_it():
    for marking in (False, True):
        query, _, reader = read(b"SELECT 'x' FROM t\0", marking=marking)
        assert query.text.replace("?", "'x'").split() == ["SELECT", "'x'", "FROM", "t"]
        assert reader.position == reader.end
    # It may be none that ends the text.
    assert read(b"SELECT a\0", size=MAX_TEXT_BYTES + 1, cut=True)[0].text == "SELECT a\0"


@pytest.mark.parametrize(
    ("text", "database", "drops"),
    [
        ("SELECT 1", None, None),
        ("use shop", "shop", None),
        (" USE `a``b` ; ", "a`b", None),
        ("USE 'shop'", None, ""),
        ("/* x */ use shop", None, ""),
        ("SELECT 1; use shop", None, ""),
        ("SELECT * FROM t USE INDEX (i)", None, None),
        ("SELECT users FROM dropped", None, None),
        ("DROP DATABASE shop", None, "shop"),
        ("drop schema if exists `shop`", None, "shop"),
        ("drop table t", None, None),
    ],
)
def test_what_changes_the_current_database(text, database, drops):
    query = read(text.encode())[0]
    assert (query.text, query.database, query.drops) == (text, database, drops)


def test_attributes_stand_before_the_text():
    assert read(b"\0\1SELECT 1")[0].text == "SELECT 1"
    payload = b"\2\1\0\1" + b"\xfe\0\4name\x0c\0\4when" + b"\6SECRET\4SECR" + b"SELECT 2"
    query, _, reader = read(payload, marking=True)
    assert query.text.startswith("SELECT ")
    assert "2" not in query.text
    data = bytearray(payload)
    for start, stop in reader.omitted:
        data[start:stop] = b"\xff" * (stop - start)
    for start, substitute in reader.replaced:
        data[start : start + len(substitute)] = substitute
    assert b"SECR" not in data
    assert b"name" not in data
    again = read(bytes(data))[0]
    assert again.text == query.text


@pytest.mark.parametrize(
    ("kind", "value"),
    [(0x01, b"S"), (0x0D, b"SS"), (0x03, b"SSSS"), (0x08, b"S" * 8), (0x06, b""), (0xF6, b"\1S")],
)
def test_values_of_all_sizes_are_passed(kind, value):
    payload = b"\1\1\0\1" + bytes([kind, 0, 0]) + value + b"SELECT 1"
    assert read(payload)[0].text == "SELECT 1"


def test_null_has_no_value():
    assert read(b"\1\1\1\1\x08\0\0SELECT 1")[0].text == "SELECT 1"


@pytest.mark.parametrize(
    "payload", [b"\1\1\0\1\x08\0\0", b"\xfa\1\0\1", b"\1\1\0\1\x0c\0\0", b"\1\1\0\1\xfe\0\x30abc"]
)
def test_attributes_end_within_the_command(payload):
    with pytest.raises(ParseError):
        read(payload)


def test_rest_of_a_long_text_is_skipped():
    payload = b"INSERT INTO t VALUES ('" + b"x" * MAX_TEXT_BYTES + b"')"
    query, lost, reader = read(payload)
    assert len(query.text) == MAX_TEXT_BYTES
    assert not query.whole
    assert not lost
    assert reader.position == len(payload)


def test_what_was_not_captured_is_no_reason_to_say_nothing():
    query, lost, reader = read(b"SELECT a FROM", size=100, cut=True)
    assert (query.text, query.whole, lost) == ("SELECT a FROM", False, True)
    assert reader.position == 100
    with pytest.raises(NeedMoreData):
        read(b"SELECT a FROM", size=100)


def test_a_recording_has_the_statement_without_its_values():
    payload = b"SELECT a FROM t WHERE b = 'secret' -- secret"
    query, _, reader = read(payload, marking=True)
    ((start, substitute),) = reader.replaced
    assert start == 0
    assert len(substitute) == len(payload)
    assert b"secret" not in substitute
    assert query.text == substitute.decode()


def test_statements_are_known_by_number():
    known = Statements()
    one, two = Query("one", True, None, None), Query("two", True, None, None)
    known.keep(1, one)
    known.keep(2, two)
    known.keep(1, two)
    assert known.get(1) is two
    known.drop(1)
    known.drop(7)
    assert known.get(1) is None
    assert len(known) == 1
    known.clear()
    assert known.get(2) is None


def test_statements_are_bounded(monkeypatch):
    known = Statements()
    query = Query("SELECT 1", True, None, None)
    for number in range(MAX_STATEMENTS + 10):
        known.keep(number, query)
    assert len(known) == MAX_STATEMENTS
    assert known.get(9) is None
    assert known.get(10) is query
    monkeypatch.setattr(mysql_queries, "MAX_STATEMENT_BYTES", 16)
    known.keep(99_999, query)
    assert len(known) == 2
