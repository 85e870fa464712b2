# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from parsers.model import Kind
from parsers.postgresql import PostgresqlParser
from parsers.postgresql_probe import probe
from parsers.postgresql_recording import FILLERS, MAX_FILLER_BYTES, PREFIXES, error, mark, skip
from parsers.reader import Reader
from tests.parsers import postgresql_bytes as pg
from tests.parsers.corpus import Player, cases
from tests.parsers.postgresql_bytes import Connection

CASES = {
    name: case
    for name, case in cases()
    if name.startswith("postgresql-") and not case.refused and "replication" not in name
}
"""Without replication: of what follows its start nothing is kept, and so nothing probed again."""
MASK = 0xFFFFFFFF


def recorded(player):
    """What a recording would have of each transfer."""
    written = [bytearray(b"\xff" * len(data)) for _, _, data in player.fed]
    for kept in player.session.kept:
        if kept.fate:
            continue
        for (direction, position, data), out in zip(player.fed, written, strict=True):
            if direction != kept.direction:
                continue
            # Where the kept bytes begin in the transfer; negative if before it.
            start = ((kept.position - position + 2**31) & MASK) - 2**31
            for index in range(max(start, 0), min(start + kept.size, len(data))):
                out[index] = kept.substitute[index - start] if kept.substitute else data[index]
    return [bytes(each) for each in written]


@pytest.mark.parametrize("name", CASES)
def test_a_recording_replays_whatever_was_lost(name):
    case = CASES[name]
    for side in case.sides:
        # Of an answer to what was lost nothing is kept, though it is looked at.
        first = name == "postgresql-ssl-refused"
        for lost in (None, *range(first, len(case.steps))):
            steps = [
                replace(each, seen=each.seen and i != lost) for i, each in enumerate(case.steps)
            ]
            live = Player([PostgresqlParser], side, late=case.late, keep=True).play(steps)
            written = recorded(live)
            assert b"secret" not in b"".join(written)
            left = iter(written)
            again = [
                replace(each, data=next(left)) if each.what == "transfer" and each.seen else each
                for each in steps
            ]
            played = Player([PostgresqlParser], side, late=case.late).play(again)
            assert played.described() == live.described(), lost
            # Recording changes nothing of what is seen.
            plain = Player([PostgresqlParser], side, late=case.late).play(steps)
            assert plain.described() == live.described(), lost


RESPONSES = {
    "row": pg.row(b"secret", None, b"secret"),
    "null": pg.row(None),
    "empty row": pg.row(),
    "columns": pg.columns("secret", "secret"),
    "no columns": pg.columns(),
    "setting": pg.setting("a", ""),
    "notice": pg.notice("secret"),
    "notification": pg.message("A", b"\0\0\0\1s\0\0"),
    "copy": pg.COPY_IN,
    "types": pg.message("t", b"\0\1\0\0\0\x17"),
    "error": pg.error("42601", text="secret"),
    "short error": pg.message("E", b"S\0C42601\0\0"),
    "fatal": pg.error("57P01", "FATAL"),
    "result": pg.message("V", b"\0\0\0\6secret"),
    "no result": pg.message("V", b"\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_the_form_of_a_message_is_kept_and_not_its_contents(name):
    connection = Connection(keep=True)
    connection.session.kept.clear()
    connection.ask(pg.query("SELECT 1"))
    start = pg.columns("a") if name not in {"columns", "no columns"} else b""
    connection.answer(start, RESPONSES[name], pg.ready())
    written = recorded(connection)[-1]
    assert b"secret" not in written
    assert probe(written, Kind.RESPONSE) is probe(start + RESPONSES[name], Kind.RESPONSE)
    assert len(written) == len(start + RESPONSES[name] + pg.ready())


@pytest.mark.parametrize("parameters", [(), (b"secret",), (b"secret", None, b""), (None,)])
def test_parameters_of_a_bind(parameters):
    connection = Connection(keep=True)
    bind = pg.bind("", "s", *parameters)
    connection.ask(bind, pg.execute(), pg.SYNC)
    written = recorded(connection)[-1]
    assert b"secret" not in written
    assert b"\0s\0" in written
    assert probe(written[: len(bind)], Kind.REQUEST) is probe(bind, Kind.REQUEST)


def test_statements_are_kept_without_their_literals():
    connection = Connection(keep=True)
    connection.ask(pg.query("SELECT a FROM t WHERE b = 'secret'"))
    connection.ask(pg.parse("s", "SELECT a FROM t WHERE c = 'secret'", (23,)), pg.SYNC)
    simple, prepared = recorded(connection)[-2:]
    assert b"SELECT a FROM t WHERE b = ?" in simple
    assert b"SELECT a FROM t WHERE c = ?" in prepared
    assert b"secret" not in simple + prepared


def test_of_a_start_the_name_of_the_database_is_kept():
    connection = Connection(started=False, keep=True)
    connection.ask(pg.startup(user="secret", database="shop", options="-c secret=secret"))
    connection.answer(pg.authentication(3)).ask(pg.message("p", b"secret\0")).answer(pg.HELLO)
    connection.ask(pg.TERMINATE)
    written = b"".join(recorded(connection))
    assert b"shop" in written
    assert b"secret" not in written


def test_the_key_of_a_cancellation_is_not_kept():
    connection = Connection(started=False, keep=True)
    connection.ask(pg.CANCEL)
    assert recorded(connection) == [pg.CANCEL[:8] + b"\xff" * 8]


@pytest.mark.parametrize("tag", [*PREFIXES, *FILLERS])
def test_nothing_is_longer_than_what_it_stands_for(tag):
    make = PREFIXES.get(tag) or FILLERS[tag]
    for size in range(60):
        assert len(make(size)) <= size or tag in b"SA"
        assert len(error(size, b"C42601\0")) == size


def test_what_is_very_long_is_blanked():
    reader = Reader(bytes(2 * MAX_FILLER_BYTES))
    reader.marking = True
    mark(reader, ord("T"), 0, MAX_FILLER_BYTES + 1)
    assert reader.replaced == []
    skip(reader, ord("t"), 3 * MAX_FILLER_BYTES)
    assert reader.omitted == [(0, 2 * MAX_FILLER_BYTES)]
