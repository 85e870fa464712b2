# SPDX-License-Identifier: Apache-2.0
"""Responses, and what they answer. Conversations are in tests/corpus/postgresql."""

from __future__ import annotations

import pytest

from parsers.model import Completeness, Kind, Options, ParseError, Side, Transport
from parsers.postgresql import MAX_ERROR_BYTES, PostgresqlParser
from parsers.reader import NeedMoreData, Reader
from parsers.registry import Registry
from tests.parsers import postgresql_bytes as pg
from tests.parsers.postgresql_bytes import Connection

SELECT = pg.parse("", "SELECT a FROM t") + pg.bind("", "") + pg.execute()
SELECTED = pg.PARSED + pg.BOUND + pg.row(b"1") + pg.done("SELECT 1")


def test_it_is_registered():
    assert PostgresqlParser in Registry.load().parsers.values()
    assert PostgresqlParser.name == "postgresql"
    assert PostgresqlParser.transports == {Transport.TCP, Transport.UNIX}
    assert PostgresqlParser.ports == {5432}
    assert PostgresqlParser.whole


def test_rows_are_counted():
    connection = Connection()
    connection.ask(pg.query("SELECT a FROM t"))
    connection.answer(pg.columns("a"), pg.row(b"1") * 3, pg.done("SELECT 3"), pg.ready())
    (exchange,) = connection.exchanges
    assert exchange.response.count == 3


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (pg.columns("a") + pg.done("SELECT 0"), 0),
        (pg.done("SELECT 0"), 0),
        (pg.done("FETCH 0"), 0),
        (pg.done("INSERT 0 5"), -1),
        (pg.done("BEGIN"), -1),
        (pg.EMPTY, -1),
        (pg.columns("a") + pg.error("22012"), -1),
        (pg.columns("a") + pg.row(b"1") + pg.error("22012"), 1),
        (pg.columns("a") + pg.row(b"1") + pg.done("INSERT 0 1"), 1),
    ],
)
def test_no_rows_are_none_or_not_expected(answer, count):
    connection = Connection()
    connection.ask(pg.query("x")).answer(answer, pg.ready())
    (exchange,) = connection.exchanges
    assert exchange.response.count == count


def test_a_preparation_returns_no_rows_and_not_none():
    connection = Connection()
    connection.ask(pg.parse("", "SELECT 1"), pg.describe("S"), pg.SYNC)
    connection.answer(pg.PARSED, pg.message("t", b"\0\0"), pg.columns("a"), pg.ready())
    assert connection.exchanges[0].response.count == -1


def test_rows_of_several_statements_are_added():
    connection = Connection()
    connection.ask(pg.query("SELECT 1; SELECT 2"))
    one = pg.columns("a") + pg.row(b"1") + pg.done("SELECT 1")
    connection.answer(one, one, pg.ready())
    assert connection.exchanges[0].response.count == 2


def test_the_rows_of_a_part_of_a_portal():
    connection = Connection()
    connection.ask(SELECT[:-4], b"\0\0\0\2", pg.SYNC)
    connection.answer(pg.PARSED, pg.BOUND, pg.row(b"1") * 2, pg.SUSPENDED, pg.ready("T"))
    (exchange,) = connection.exchanges
    assert exchange.response.count == 2
    assert exchange.response.transaction == ord("T")


def test_a_value_that_is_still_to_come_was_never_needed():
    connection = Connection()
    big = pg.row(b"x" * 1000)
    connection.ask(pg.query("SELECT a")).answer(pg.columns("a"), big[:50], hole=len(big) - 50)
    connection.answer(pg.done("SELECT 1"), pg.ready())
    assert connection.exchanges[0].completeness is Completeness.COMPLETE
    assert connection.exchanges[0].response.count == 1


@pytest.mark.parametrize("marking", [False, True])
def test_many_rows_are_one_step(marking):
    parser = PostgresqlParser(Options())
    parser.parse(Reader(pg.query("SELECT a")), Kind.REQUEST, None)
    reader = Reader(pg.columns("a") + pg.row(b"1") * 1000 + b"D\0\0")
    reader.marking = marking
    response = parser.parse(reader, Kind.RESPONSE, None)
    assert response.rows == 1000
    assert reader.available == 3
    assert response.open


def test_a_long_error_is_not_waited_for():
    connection = Connection()
    error = pg.error("P0001", text="x" * 5000)
    connection.ask(pg.query("SELECT f()")).answer(error[: MAX_ERROR_BYTES + 100])
    connection.answer(error[MAX_ERROR_BYTES + 100 :], pg.ready())
    assert connection.take() == [("SELECT", "P0001", "complete")]


def test_of_an_error_the_beginning_is_enough():
    connection = Connection()
    error = pg.error("P0001", text="x" * 5000)
    connection.ask(pg.query("SELECT f()")).answer(error[:200], hole=len(error) - 200)
    connection.answer(pg.ready())
    assert connection.take() == [("SELECT", "P0001", "complete")]


def test_an_error_without_a_code_is_one():
    connection = Connection()
    connection.ask(pg.query("SELECT 1")).answer(pg.message("E", b"Moops\0\0"), pg.ready())
    assert connection.take() == [("SELECT", "XX000", "complete")]


def test_a_name_that_the_server_does_not_know_has_no_text():
    connection = Connection()
    connection.ask(pg.parse("s", "SELECT a FROM t"), pg.SYNC).answer(pg.PARSED, pg.ready())
    connection.take()
    connection.ask(pg.bind("", "s"), pg.execute(), pg.SYNC).answer(pg.error("26000"), pg.ready())
    assert connection.take() == [("Execute shop", "26000", "complete")]
    connection.ask(pg.query("CLOSE c1")).answer(pg.error("34000"), pg.ready())
    assert connection.take() == [("CLOSE", "34000", "complete")]


def test_an_error_in_a_pipeline_aborts_the_rest():
    connection = Connection()
    connection.ask(SELECT * 3, pg.SYNC, SELECT, pg.SYNC)
    connection.answer(pg.error("42P01"), pg.ready("E"), SELECTED, pg.ready())
    assert connection.take() == [
        ("SELECT t", "42P01", "complete"),
        ("SELECT t", "batch_aborted", "complete"),
        ("SELECT t", "batch_aborted", "complete"),
        ("SELECT t", None, "complete"),
    ]


def test_the_sync_of_a_batch_may_fail():
    connection = Connection()
    connection.ask(SELECT).answer(SELECTED)
    connection.ask(pg.SYNC).answer(pg.error("23503"), pg.ready())
    assert connection.take() == [("SELECT t", None, "complete")]
    connection.ask(pg.query("SELECT 1")).answer(pg.done("SELECT 1"), pg.ready())
    assert connection.take() == [("SELECT", None, "complete")]


def test_the_sync_may_fail_while_another_request_waits():
    connection = Connection()
    connection.ask(SELECT).answer(SELECTED)
    connection.ask(pg.SYNC, SELECT, pg.SYNC)
    connection.answer(pg.error("23503"), pg.ready(), SELECTED, pg.ready())
    assert connection.take() == [("SELECT t", None, "complete")] * 2


def test_a_sync_while_the_response_is_under_way_is_part_of_it():
    connection = Connection()
    connection.ask(SELECT).answer(pg.PARSED, pg.BOUND, pg.row(b"1"))
    connection.ask(pg.SYNC).answer(pg.row(b"2"), pg.done("SELECT 2"), pg.ready("T"))
    (exchange,) = connection.exchanges
    assert exchange.response.transaction == ord("T")
    assert exchange.request.size == len(SELECT + pg.SYNC)


def test_a_flush_that_comes_after_the_replies_ends_the_response():
    connection = Connection()
    connection.ask(pg.parse("s", "SELECT a FROM t")).answer(pg.PARSED)
    assert connection.take() == []
    connection.ask(pg.FLUSH)
    connection.ask(pg.bind("", "s"), pg.execute(), pg.SYNC)
    connection.answer(pg.BOUND, pg.done("SELECT 0"), pg.ready())
    assert connection.take() == [
        ("Parse SELECT t", None, "complete"),
        ("SELECT t", None, "complete"),
    ]


def test_a_response_that_cannot_be_to_the_oldest_request_is_to_none():
    connection = Connection()
    connection.ask(pg.query("SELECT 1"))
    connection.answer(pg.PARSED, pg.BOUND, pg.done("SELECT 1"), pg.ready())
    connection.ask(pg.query("SELECT 2")).answer(pg.done("SELECT 1"), pg.ready())
    assert connection.take() == [("SELECT", None, "gap"), ("SELECT", None, "complete")]


def test_replies_after_an_error_are_out_of_step():
    connection = Connection()
    connection.ask(SELECT * 2)
    connection.answer(pg.error("42P01"), SELECTED)
    connection.ask(pg.SYNC).answer(pg.ready())
    assert ("SELECT t", "batch_aborted", "complete") not in connection.take()


def test_what_comes_unasked_disturbs_nothing():
    unasked = pg.notice() + pg.setting("a", "b") + pg.message("A", b"\0\0\0\1a\0b\0")
    connection = Connection()
    connection.answer(unasked)
    connection.ask(pg.query("SELECT 1")).answer(unasked, pg.columns("a"), unasked)
    connection.answer(unasked, pg.done("SELECT 0"), unasked, pg.ready(), unasked)
    assert connection.take() == [("SELECT", None, "complete")]
    assert connection.tally.unpaired_responses == 0


def test_a_server_that_ends_the_connection_answers_nobody():
    connection = Connection()
    connection.answer(pg.error("57P01", "FATAL"))
    assert connection.take() == []
    assert connection.tally.unpaired_responses == 0


def test_other_errors_without_a_request_are_responses_to_what_was_not_seen():
    connection = Connection()
    connection.answer(pg.error("42601"), pg.ready())
    assert connection.tally.unpaired_responses == 1


def test_a_ready_for_query_alone_is_nobodys():
    connection = Connection()
    connection.ask(pg.SYNC).answer(pg.ready("T"))
    assert connection.take() == []


@pytest.mark.parametrize(
    ("wish", "answer", "name"), [(pg.SSL, b"S", "tls"), (pg.GSS, b"G", "gss-encrypted")]
)
def test_encryption_ends_what_can_be_read(wish, answer, name):
    connection = Connection(started=False)
    connection.ask(wish).answer(answer)
    assert connection.session.opaque == name
    assert connection.take() == []


def test_encryption_refused():
    connection = Connection(started=False)
    connection.ask(pg.GSS).answer(b"N").ask(pg.SSL).answer(b"N")
    connection.ask(pg.startup(user="ann")).answer(pg.HELLO)
    assert connection.take() == [("StartupMessage ann", None, "complete")]


def test_a_wish_for_encryption_is_answered_by_something_else():
    parser = PostgresqlParser(Options())
    parser.parse(Reader(pg.SSL), Kind.REQUEST, None)
    with pytest.raises(ParseError):
        parser.parse(Reader(b"X"), Kind.RESPONSE, None)


def test_replication_is_another_protocol():
    connection = Connection()
    connection.ask(pg.query("START_REPLICATION 0/1"))
    connection.answer(pg.message("W", b"\0\0\0"), pg.message("d", b"wal"))
    assert connection.session.opaque == "postgresql-replication"
    assert connection.take() == [("Query shop", None, "complete")]


def test_a_password_that_was_lost():
    connection = Connection(started=False)
    connection.ask(pg.startup(user="ann")).answer(pg.authentication(3))
    connection.lose(True, 20)
    connection.answer(pg.HELLO)
    assert connection.take() == [("StartupMessage ann", None, "gap")]


@pytest.mark.parametrize("kind", [2, 7, 8, 12])
def test_not_every_authentication_message_is_answered(kind):
    connection = Connection(started=False)
    connection.ask(pg.startup(user="ann")).answer(pg.authentication(kind, b"x"), pg.HELLO)
    assert connection.take() == [("StartupMessage ann", None, "complete")]


def test_a_long_authentication_message_is_skipped():
    connection = Connection(started=False)
    ticket = pg.authentication(8, b"x" * 900)
    connection.ask(pg.startup(user="ann")).answer(ticket[:100], hole=len(ticket) - 100)
    connection.answer(pg.HELLO)
    assert connection.take() == [("StartupMessage ann", None, "complete")]


@pytest.mark.parametrize(
    "wrong",
    [
        b"Q\0\0\0\4",
        b"Z\0\0\0\6II",
        b"C\0\0\1\0",
        b"T\0\0\0\3",
        b"R\0\0\0\4",
        b"\xff\xff\xff\xff\xff",
    ],
)
def test_what_no_server_says_is_refused(wrong):
    for before in (b"", pg.columns("a")):
        parser = PostgresqlParser(Options())
        reader = Reader(before + wrong + b"\0" * 300)
        if before:
            parser.parse(reader, Kind.RESPONSE, None)
            assert reader.position == len(before)
        with pytest.raises(ParseError):
            parser.parse(reader, Kind.RESPONSE, None)


def test_half_a_message_is_waited_for():
    parser = PostgresqlParser(Options())
    for half in (b"T\0", pg.done("SELECT 1")[:-1], pg.error("42601")[:-1]):
        with pytest.raises(NeedMoreData):
            parser.parse(Reader(half), Kind.RESPONSE, None)
    reader = Reader(pg.columns("a") + pg.ready()[:-1])
    assert parser.parse(reader, Kind.RESPONSE, None).open
    assert reader.position == len(pg.columns("a"))
    with pytest.raises(NeedMoreData):
        parser.parse(reader, Kind.RESPONSE, None)


def test_after_a_loss_a_new_turn_is_a_new_response():
    connection = Connection()
    connection.ask(pg.query("SELECT 1")).answer(pg.columns("a"))
    connection.lose(False, 100)
    connection.answer(pg.row(b"1"), pg.ready())
    connection.ask(pg.query("SELECT 2")).answer(pg.columns("a"), pg.done("SELECT 0"), pg.ready())
    assert connection.take() == [("SELECT", None, "gap"), ("SELECT", None, "complete")]


def test_a_response_that_is_open_ends_where_its_rest_was_lost():
    parser = PostgresqlParser(Options())
    response = parser.parse(Reader(pg.columns("a")), Kind.RESPONSE, None)
    reader = Reader(pg.columns("b"))
    reader.resumed = True
    assert parser.parse(reader, Kind.RESPONSE, None) is not response
    assert not response.open


def test_both_sides_say_the_same():
    said = []
    for side in Side:
        connection = Connection(side=side)
        connection.ask(pg.query("SELECT a FROM t")).answer(pg.done("SELECT 0"), pg.ready())
        said.append(connection.described())
    assert said[0] == said[1] == said[2]
