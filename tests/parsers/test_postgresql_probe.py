# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from collections import Counter

import pytest

from parsers.model import Kind, Likeness
from parsers.postgresql_probe import probe
from tests.parsers import postgresql_bytes as pg

NO, SHORT, LIKELY, CERTAIN = Likeness

REQUESTS = {
    "startup": pg.startup(user="ann", database="shop"),
    "startup 3.2": pg.startup(2, user="ann"),
    "ssl": pg.SSL,
    "gss": pg.GSS,
    "cancel": pg.CANCEL,
    "query": pg.query("SELECT 'é\n'"),
    "empty query": pg.query(""),
    "parse": pg.parse("s1", "SELECT $1", (23, 25)),
    "bind": pg.bind("", "s1", b"a", None, b""),
    "bind nothing": pg.bind("", ""),
    "describe": pg.describe("S", "s1"),
    "close": pg.close("P", "c1"),
    "execute": pg.execute("c1", 10),
    "batch": pg.bind("", "s1", b"a") + pg.execute() + pg.SYNC,
    "two syncs": pg.SYNC + pg.SYNC,
    "copy": pg.message("d", b"1\n") + pg.message("c"),
}
RESPONSES = {
    "authentication": pg.authentication(5, b"salt"),
    "scram": pg.authentication(10, b"SCRAM-SHA-256\0\0"),
    "setting": pg.setting("TimeZone", "UTC"),
    "ready": pg.ready("T"),
    "columns": pg.columns("id", "name"),
    "row": pg.row(b"1", None, b""),
    "done": pg.done("INSERT 0 1"),
    "error": pg.error("42601"),
    "notice": pg.notice(),
    "notification": pg.message("A", b"\0\0\0\1" + pg.strings("jobs", "")),
    "copy": pg.message("H", b"\0\0\2\0\1\0\0"),
    "replies": pg.PARSED + pg.BOUND,
    "types": pg.message("t", b"\0\1\0\0\0\x17") + pg.NO_DATA,
    "function": pg.message("V", b"\0\0\0\1x") + pg.ready(),
}
WRONG_REQUESTS = {
    "tag": b"Z\0\0\0\4",
    "text": b"Query the database",
    "length": b"Q\0\0\0\4",
    "too long": b"Q\x05\0\0\0",
    "control": pg.query("SELECT \1"),
    "two ends": pg.query(b"SELECT\0 1"),
    "start of text": pg.query("\1" * 20)[:9],
    "sync length": b"S\0\0\0\5x",
    "parse types": pg.message("P", b"\0x\0\0\5"),
    "parse name": pg.message("P", b"\1\1\1\1"),
    "bind names": pg.message("B", b"\1" * 8),
    "bind formats": pg.message("B", b"\0\0\0\2\0\0\0\0\0\0\0\0"),
    "bind values": pg.message("B", b"\0\0\0\0\0\1\0\0\0\x7f\0\0"),
    "bind length": pg.message("B", b"\0\0\0\0\0\1\xff\0\0\0\0\0"),
    "describe": pg.message("D", b"Xs\0"),
    "second": pg.SYNC + b"\0\0\0\0\0",
    "second's length": pg.SYNC + b"Q\x20",
    "version 2": b"\0\0\1\x28\0\2\0\0",
    "half a version": b"\0\0\1\x28\0\2",
    "packet length": b"\0\0\0\7",
    "packet too long": b"\0\1\0\0",
    "ssl length": b"\0\0\0\x09\x04\xd2\x16\x2f",
    "unknown code": b"\0\0\0\x08\x04\xd2\x00\x01",
    "cancel length": b"\0\0\0\x0a\x04\xd2\x16\x2e",
    "parameters": b"\0\0\0\x10\0\3\0\0\1\2\3\4\5\6\7\0",
    "kafka": b"\0\0\0\x1a\0\3\0\0\0\0\0\1\0\6client",
    "behind the start": pg.startup(user="ann") + b"x",
    "half of other parameters": b"\0\0\0\x40\0\3\0\0\1\2",
}
WRONG_RESPONSES = {
    "tag": b"Q\0\0\0\4",
    "ready": pg.message("Z", b"Q"),
    "command": pg.message("C", b"select\0"),
    "authentication": pg.authentication(99),
    "salt": pg.authentication(5),
    "setting": pg.message("S", b"a\0b\0c\0"),
    "columns": pg.message("T", b"\0\2a\0" + bytes(18)),
    "rest of columns": pg.message("T", b"\0\1a\0" + bytes(20)),
    "row": pg.message("D", b"\0\1\0\0\0\5x"),
    "row of many": pg.message("D", b"\xff\xff\0\0"),
    "error": pg.message("E", b"SERROR\0\0\0\0"),
    "error without code": pg.message("E", b"SERROR\0\0"),
    "types": pg.message("t", b"\0\2\0\0\0\1"),
    "copy": pg.message("G", b"\2\0\0"),
    "copy columns": pg.message("G", b"\0\0\2\0\0"),
    "function": pg.message("V", b"\0\0\0\5x"),
    "mysql greeting": b"N\0\0\0\x0a8.0.33\0" + bytes(70),
    "half a row": b"D\0\0\1\0\x77\1\1",
    "http": b"HTTP/1.1 200 OK\r\n",
    "smtp": b"220 mail",
}


@pytest.mark.parametrize("name", REQUESTS)
def test_whole_requests_are_certain(name):
    assert probe(REQUESTS[name], Kind.REQUEST) is CERTAIN


@pytest.mark.parametrize("name", RESPONSES)
def test_whole_responses_are_certain(name):
    assert probe(RESPONSES[name], Kind.RESPONSE) is CERTAIN


@pytest.mark.parametrize("name", WRONG_REQUESTS)
def test_other_requests_are_refused(name):
    assert probe(WRONG_REQUESTS[name], Kind.REQUEST) is NO


@pytest.mark.parametrize("name", WRONG_RESPONSES)
def test_other_responses_are_refused(name):
    assert probe(WRONG_RESPONSES[name], Kind.RESPONSE) is NO


@pytest.mark.parametrize("name", REQUESTS)
def test_what_begins_like_a_request_is_never_refused(name):
    data = REQUESTS[name]
    for size in range(len(data)):
        assert probe(data[:size], Kind.REQUEST) is not NO, size
    assert probe(data[:1], Kind.REQUEST) is SHORT


@pytest.mark.parametrize("name", RESPONSES)
def test_what_begins_like_a_response_is_never_refused(name):
    data = RESPONSES[name]
    for size in range(len(data)):
        assert probe(data[:size], Kind.RESPONSE) is not NO, size


def test_a_single_byte_may_answer_a_wish_for_encryption():
    for answer in b"NSG":
        assert probe(bytes([answer]), Kind.RESPONSE) is SHORT
    assert probe(b"X", Kind.RESPONSE) is NO


def test_a_message_alone_that_says_little_is_likely():
    assert probe(pg.SYNC, Kind.REQUEST) is LIKELY
    assert probe(pg.message("d", b"\xff"), Kind.RESPONSE) is LIKELY
    assert probe(pg.query("SELECT " + "x" * 5000)[:4096], Kind.REQUEST) is LIKELY
    assert probe(pg.startup(user="ann")[:12], Kind.REQUEST) is LIKELY
    assert probe(pg.startup(user="ann")[:8], Kind.REQUEST) is SHORT


def test_no_more_messages_are_looked_at_than_needed():
    assert probe(pg.SYNC * 8 + b"\0", Kind.REQUEST) is CERTAIN


def test_random_bytes_are_refused():
    random_ = random.Random(7)
    found = Counter()
    for _ in range(20_000):
        data = random_.randbytes(random_.randrange(20, 60))
        found[probe(data, Kind.REQUEST)] += 1
        found[probe(data, Kind.RESPONSE)] += 1
    assert found[NO] > 39_900
    assert found[NO] + found[SHORT] == 40_000
