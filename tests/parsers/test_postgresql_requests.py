# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.model import ParseError
from parsers.postgresql_messages import Prefix
from parsers.postgresql_recording import MAX_TEXT_BYTES
from parsers.postgresql_requests import MAX_NAME_BYTES, MAX_STARTUP_BYTES, Requests
from parsers.reader import NeedMoreData, Reader
from tests.parsers import postgresql_bytes as pg
from tests.parsers.postgresql_bytes import Connection


def read(requests, *parts, cut=False, marking=False, resumed=False):
    """The messages that the bytes belong to, one for each step."""
    reader = Reader(b"".join(parts), cut=cut)
    reader.marking = marking
    reader.resumed = resumed
    found = []
    while reader.available > 0:
        found.append(requests.parse(reader, None))
        reader.resumed = False
    return found


@pytest.fixture
def requests():
    made = Requests()
    read(made, pg.startup(user="ann", database="shop"))
    return made


def test_a_unit_ends_with_its_execute_and_takes_its_sync(requests):
    data = pg.parse("", "SELECT 1") + pg.bind("", "", b"1") + pg.describe("P") + pg.execute()
    (unit,) = read(requests, data, pg.SYNC)
    assert (unit.operation, unit.text, unit.open) == ("Execute", b"SELECT 1", False)
    assert unit.until_ready
    assert unit.database == "shop"


def test_a_sync_that_comes_later_is_the_same_unit(requests):
    (unit,) = read(requests, pg.bind("", ""), pg.execute())
    assert not unit.until_ready
    assert read(requests, pg.SYNC) == [unit]
    assert unit.until_ready
    assert read(requests, pg.SYNC) == [None]


def test_a_sync_after_the_response_is_nobodys(requests):
    (unit,) = read(requests, pg.execute())
    unit.answered = True
    assert read(requests, pg.close("S", "a"), pg.SYNC) == [None, None]
    assert not unit.until_ready


def test_each_execute_is_one(requests):
    units = read(requests, (pg.bind("", "") + pg.execute()) * 3, pg.SYNC)
    assert [unit.index for unit in units] == [0, 1, 2]
    assert units[0].batch is units[2].batch
    assert units[0].batch.units == 3
    assert units[0].batch.synced
    (after,) = read(requests, pg.execute())
    assert after.batch is not units[0].batch


@given(at=st.sets(st.integers(1, 60)))
def test_a_unit_may_come_in_any_pieces(at):
    data = pg.parse("", "SELECT 1") + pg.bind("", "", b"1") + pg.execute() + pg.SYNC
    connection = Connection()
    for start, stop in pairwise([0, *sorted(each for each in at if each < len(data)), len(data)]):
        connection.ask(data[start:stop])
    connection.answer(pg.PARSED, pg.BOUND, pg.done("SELECT 0"), pg.ready("T"))
    (exchange,) = connection.exchanges
    assert exchange.request.size == len(data)
    assert exchange.response.transaction == ord("T")


@pytest.mark.parametrize(
    ("data", "operation", "text", "replies"),
    [
        (pg.parse("a", "SELECT 2"), "Parse", b"SELECT 2", b"1E"),
        (pg.bind("", "s"), "Bind", b"SELECT 1", b"2E"),
        (pg.describe("S", "s"), "Describe", b"SELECT 1", b"tE"),
        (pg.describe("P", "p"), "Describe", None, b"TnE"),
        (pg.message("D", b"X\0"), "Describe", None, b"E"),
        (pg.message("D"), "Describe", None, b"E"),
    ],
)
@pytest.mark.parametrize("end", [pg.SYNC, pg.FLUSH])
def test_a_unit_without_an_execute(requests, data, operation, text, replies, end):
    read(requests, pg.parse("s", "SELECT 1"), pg.SYNC)
    (unit,) = read(requests, data, end)
    assert (unit.operation, unit.text, unit.replies) == (operation, text, replies)
    assert unit.steps == 1
    assert (unit.until_ready, unit.flushed) == (end == pg.SYNC, end == pg.FLUSH)


def test_texts_are_found_through_portal_and_statement(requests):
    read(requests, pg.parse("s", "SELECT 1"), pg.bind("p", "s"), pg.SYNC)
    assert read(requests, pg.execute("p"))[0].text == b"SELECT 1"
    assert read(requests, pg.execute("q"))[0].text is None
    read(requests, pg.close("S", "s"))
    assert read(requests, pg.execute("p"))[0].text == b"SELECT 1"
    read(requests, pg.close("P", "p"))
    assert read(requests, pg.execute("p"))[0].text is None
    assert read(requests, pg.bind("", "s"), pg.execute())[0].text is None


def test_a_close_within_a_unit(requests):
    (unit,) = read(
        requests, pg.parse("s", "SELECT 1"), pg.close("S", "s"), pg.bind("", "s"), pg.execute()
    )
    assert unit.text is None
    assert unit.steps == 2


def test_a_simple_query_destroys_what_has_no_name(requests):
    read(requests, pg.parse("", "SELECT 1"), pg.bind("", ""), pg.SYNC)
    (query,) = read(requests, pg.query("SELECT 2"))
    assert (query.operation, query.text, query.until_ready) == ("Query", b"SELECT 2", True)
    assert read(requests, pg.execute())[0].text is None


@pytest.mark.parametrize("text", ["DEALLOCATE s", "DISCARD ALL"])
def test_sql_that_removes_names_is_obeyed_however_it_is_sent(text):
    for send in (
        pg.query(text),
        pg.parse("", text) + pg.bind("", "") + pg.execute() + pg.SYNC,
    ):
        made = Requests()
        read(made, pg.parse("s", "SELECT 1"), pg.SYNC, send)
        assert read(made, pg.bind("", "s"), pg.execute())[0].text is None


def test_after_a_loss_only_names_are_still_known(requests):
    read(requests, pg.parse("s", "SELECT 1"), pg.parse("", "SELECT 2"), pg.bind("p", "s"), pg.SYNC)
    assert read(requests, pg.execute("p"), resumed=True)[0].text is None
    assert read(requests, pg.bind("", ""), pg.execute())[0].text is None
    assert read(requests, pg.bind("", "s"), pg.execute())[0].text == b"SELECT 1"


def test_a_unit_that_was_lost_in_part_is_begun_anew(requests):
    (unit,) = read(requests, pg.parse("", "SELECT 1"))
    assert unit.open
    unit.open = False
    assert read(requests, pg.query("SELECT 2"))[0].operation == "Query"


@pytest.mark.parametrize(
    "wrong",
    [pg.query("SELECT 1"), b"P\0\0\0\3", b"\xff\0\0\0\4", b"Z\0\0\0\4"],
)
def test_what_is_no_part_of_a_unit_is_refused_within_one(requests, wrong):
    reader = Reader(pg.parse("", "SELECT 1") + wrong)
    requests.parse(reader, None)
    assert reader.data[reader.position :] == wrong
    with pytest.raises(ParseError):
        requests.parse(reader, None)


def test_other_tags_are_refused(requests):
    for wrong in (b"Z\0\0\0\4", b"Q\0\0\0\3", b"P\0\0\0\3"):
        with pytest.raises(ParseError):
            read(requests, wrong)


def test_what_asks_for_nothing():
    requests = Requests()
    assert read(requests, pg.FLUSH, pg.SYNC, pg.close("S", "s"), pg.TERMINATE) == [None] * 4
    assert read(requests, pg.message("d", b"x"), pg.message("c")) == [None] * 2


def test_a_function_call(requests):
    (call,) = read(requests, pg.message("F", b"\0\0\0\7\0\0\0\0\0\0"))
    assert (call.operation, call.until_ready) == ("FunctionCall", True)


# -- start-up -------------------------------------------------------------------------


def test_a_database_is_named_like_the_user_unless_it_is_said():
    for parameters, name in (({"user": "ann"}, "ann"), ({"database": "shop"}, "shop"), ({}, "")):
        (start,) = read(Requests(), pg.startup(**parameters))
        assert start.database == name
    (start,) = read(Requests(), pg.startup(user="ann", database="x" * 5000))
    assert len(start.database) == 256


@pytest.mark.parametrize(
    "packet",
    [
        b"\0\0\0\x08\0\2\0\0",
        b"\0\0\0\x07\0\3\0\0",
        b"\0\0\0\x09\x04\xd2\x16\x2fx",
        b"\0\0\0\x08\x04\xd2\0\0",
        (MAX_STARTUP_BYTES + 9).to_bytes(4, "big") + b"\0\3\0\0",
    ],
)
def test_other_packets_are_refused(packet):
    with pytest.raises(ParseError):
        read(Requests(), packet)


def test_a_connection_begins_once(requests):
    with pytest.raises(ParseError):
        read(requests, pg.startup(user="ann"))


def test_a_cancellation_has_no_answer():
    (cancel,) = read(Requests(), pg.CANCEL)
    assert cancel.one_way
    assert cancel.operation == "CancelRequest"


# -- lengths --------------------------------------------------------------------------


def test_of_a_long_text_the_beginning_is_read(requests):
    text = "SELECT " + "x" * MAX_TEXT_BYTES
    for data in (pg.query(text), pg.parse("", text) + pg.SYNC):
        (asked,) = read(requests, data)
        assert isinstance(asked.text, Prefix)
        assert len(asked.text) == MAX_TEXT_BYTES
        assert not asked.truncated


def test_of_a_text_that_was_cut_the_beginning_is_read(requests):
    for data in (pg.query("SELECT a FROM t"), pg.parse("s", "SELECT a FROM t")):
        (asked,) = read(requests, data[:16], cut=True)
        assert isinstance(asked.text, Prefix)
        assert asked.truncated
        asked.open = False
    assert isinstance(read(requests, pg.bind("", "s"), pg.execute())[0].text, Prefix)


def test_a_text_is_waited_for(requests):
    for data in (pg.query("SELECT a FROM t"), pg.parse("s", "SELECT a FROM t")):
        for size in range(1, len(data) - 2):
            with pytest.raises(NeedMoreData):
                read(requests, data[:size])


def test_names_that_are_too_long_stand_for_nothing_known(requests):
    name = "n" * MAX_NAME_BYTES
    read(requests, pg.parse(name, "SELECT 1"), pg.SYNC)
    (unit,) = read(requests, pg.bind("", name), pg.execute())
    assert unit.text is None
    (unit,) = read(requests, pg.bind(name, ""), pg.execute(name))
    assert unit.text is None
    long = pg.message("E", b"x" * 10_000)
    assert read(requests, long[:5000])[0].text is None


def test_a_name_that_was_cut_stands_for_nothing_known(requests):
    read(requests, pg.parse("", "SELECT 1"), pg.bind("", ""), pg.SYNC)
    for data in (pg.execute("abc"), pg.describe("P", "abc"), pg.execute("abc")):
        (unit,) = read(requests, data[:6], cut=True)
        assert unit.text is None
        unit.open = False
    (unit,) = read(requests, pg.bind("", "") + pg.close("P")[:5], cut=True)
    assert unit.text == b"SELECT 1"
    read(requests, pg.close("P", "")[:-1] + b"x", pg.SYNC)
    assert read(requests, pg.execute())[0].text == b"SELECT 1"


def test_parameters_are_not_waited_for(requests):
    data = pg.bind("", "", b"x" * 1000)
    reader = Reader(data[:20])
    unit = requests.parse(reader, None)
    assert reader.position == len(data)
    assert unit.open


@given(data=st.binary(max_size=80), start=st.sampled_from([b"", b"P", b"B", b"D", b"E", b"C"]))
def test_any_bytes_are_read_or_refused(data, start):
    made = Requests()
    reader = Reader(pg.message(start.decode(), data) if start else data)
    try:
        while reader.available > 0:
            before = reader.position
            made.parse(reader, None)
            assert reader.position > before
    except (NeedMoreData, ParseError):
        pass


# -- COPY -----------------------------------------------------------------------------


def test_copy_data_extends_the_query():
    connection = Connection()
    query = pg.query("COPY t FROM STDIN")
    rows = pg.message("d", b"1\n") * 3
    connection.ask(query).answer(pg.COPY_IN).ask(rows, pg.message("c"))
    connection.answer(pg.done("COPY 3"), pg.ready())
    assert connection.exchanges[0].request.size == len(query + rows) + 5
    assert connection.take() == [("COPY t", None, "complete")]


def test_copy_data_may_come_at_once():
    connection = Connection()
    connection.ask(pg.query("COPY t FROM STDIN"), pg.message("d", b"1\n"), pg.message("c"))
    connection.answer(pg.COPY_IN, pg.done("COPY 1"), pg.ready())
    assert connection.take() == [("COPY t", None, "complete")]


def test_copy_data_that_was_lost_is_a_gap():
    connection = Connection()
    connection.ask(pg.query("COPY t FROM STDIN")).answer(pg.COPY_IN)
    connection.ask(pg.message("d", b"1\n"))
    connection.lose(True, 100)
    connection.ask(pg.message("d", b"1\n"))
    connection.answer(pg.done("COPY 1"), pg.ready())
    assert connection.take() == [("COPY t", None, "gap")]


def test_a_loss_before_more_copy_data_is_a_gap():
    connection = Connection()
    connection.ask(pg.query("COPY t FROM STDIN")).answer(pg.COPY_IN)
    connection.ask(pg.message("d", b"1\n"))
    connection.lose(True, 100)
    connection.answer(pg.notice())
    connection.ask(pg.message("d", b"1\n"), pg.message("c"))
    connection.answer(pg.done("COPY 1"), pg.ready())
    assert connection.take() == [("COPY t", None, "gap")]


def test_copy_data_after_the_error_is_nobodys():
    connection = Connection()
    connection.ask(pg.query("COPY t FROM STDIN")).answer(pg.COPY_IN, pg.error("22P02"), pg.ready())
    connection.ask(pg.message("d", b"1\n"), pg.message("f", b"no\0"))
    # Whether there was more before the error nobody knows.
    assert connection.take() == [("COPY t", "22P02", "gap")]
