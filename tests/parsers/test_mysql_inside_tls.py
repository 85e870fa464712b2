# SPDX-License-Identifier: Apache-2.0
"""A connection inside of TLS, which begins with the client's login: the greeting was in clear."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from parsers.model import Likeness, ParseError, Side
from parsers.mysql import MysqlParser, MysqlRequest
from parsers.mysql_probe import probe_request
from tests.parsers.corpus import Player, Step
from tests.parsers.mysql_bytes import (
    CAPABILITIES,
    DEPRECATE_EOF,
    Talker,
    command,
    error,
    greeting,
    login,
    ok,
    packet,
    prepared,
    query,
    rows,
)
from tests.parsers.test_mysql import exchange, namespace, recorded

PASSWORD = b"open sesame"


def inner(**options):
    return login(sequence=2, **options)


def mariadb(data):
    """A login with capabilities that only MariaDB has."""
    return data[:32] + b"\x1d\0\0\0" + data[36:]


def test_login_is_the_first_that_is_seen():
    talker = Talker()
    told = exchange(talker, inner(), ok(3))
    assert told.name == "COM_CONNECT shop"
    assert told.attributes["db.system.name"] == "mysql"
    assert namespace(talker) == "shop"


def test_login_tells_mariadb_by_its_capabilities():
    talker = Talker()
    data = mariadb(inner())
    assert exchange(talker, data, ok(3)).attributes["db.system.name"] == "mariadb"
    told = exchange(talker, query(b"SELECT 1"), rows(1))
    assert told.attributes["db.system.name"] == "mariadb"


@pytest.mark.parametrize("deprecated", [False, True])
def test_greeting_in_clear_is_known(deprecated):
    before = Talker()
    flag = DEPRECATE_EOF if deprecated else 0
    before.answers(greeting(b"10.11.6-MariaDB", CAPABILITIES | flag))
    talker = Talker(before=before.parser)
    told = exchange(talker, inner(capabilities=CAPABILITIES | DEPRECATE_EOF), ok(3))
    assert told.attributes["db.system.name"] == "mariadb"
    talker.asks(command(0x16, b"SELECT ?"))
    assert not talker.answers(prepared(1, 0, 1, deprecated=deprecated)).open
    assert talker.reader.available == 0


def test_login_that_is_refused():
    told = exchange(Talker(), inner(database=b"nowhere"), error(3, 1049))
    assert told.attributes["db.namespace"] == "nowhere"
    assert told.error_type == "1049"


@pytest.mark.parametrize(
    "payload", [struct.pack("<IIB23x", 0x200A00, 1, 45), inner()[4:34], b"\3SELECT 1"]
)
def test_what_is_no_login_there(payload):
    with pytest.raises(ParseError):
        Talker().asks(packet(2, payload))


def test_round_of_a_change_of_the_user_is_no_login():
    talker = Talker().logs_in()
    talker.asks(command(0x11, b"a\0\0shop\0\x2d\0p\0"))
    talker.answers(packet(1, b"\xfesome_plugin\0"))
    assert talker.asks(packet(2, b"HASH" * 5)) is None
    with pytest.raises(ParseError):
        # The change itself was lost.
        Talker().asks(packet(2, b"HASH" * 5))


@pytest.mark.parametrize("deprecated", [False, True])
def test_whether_the_server_deprecates_eof_is_seen(deprecated):
    talker = Talker()
    talker.asks(inner(capabilities=CAPABILITIES | DEPRECATE_EOF))
    talker.answers(ok(3))
    exchange(talker, query(b"SELECT 1"), rows(1, deprecated=deprecated))
    talker.asks(command(0x16, b"SELECT ?"))
    data = prepared(1, 1, 1, deprecated=deprecated)
    assert not talker.answers(data).open
    assert talker.reader.position == len(data)


def test_eof_is_to_come_where_the_client_does_not_deprecate_it():
    talker = Talker()
    talker.asks(inner())
    talker.answers(ok(3))
    talker.asks(command(0x16, b"SELECT ?"))
    assert talker.answers(prepared(1, 0, 1)[:-9]).open


def test_compression_begins_with_the_end_of_the_login():
    talker = Talker()
    talker.asks(inner(capabilities=CAPABILITIES | 0x20))
    assert talker.answers(ok(3)).switches_to == "mysql-compressed"


def test_password_is_kept_nowhere():
    """Full authentication of caching_sha2_password sends it as it is."""
    full, secret = packet(3, b"\1\4"), packet(4, PASSWORD + b"\0")
    turns = [(">", inner()), ("<", full), (">", secret), ("<", ok(5)), (">", query(b"SELECT 1"))]
    steps = [Step(to_server=way == ">", data=data, size=len(data)) for way, data in turns]
    for lost in (None, *range(len(steps))):
        seen = [replace(each, seen=index != lost) for index, each in enumerate(steps)]
        player = Player([MysqlParser], Side.SERVER, keep=True).play(seen)
        assert PASSWORD not in b"".join(recorded(player))
        assert PASSWORD.decode() not in repr(player.exchanges)
    assert probe_request(secret) is Likeness.NO
    talker = Talker()
    talker.asks(inner())
    talker.answers(full)
    assert talker.asks(secret) is None
    assert not talker.answers(ok(5)).open
    assert isinstance(talker.asks(query(b"SELECT 1")), MysqlRequest)


def test_database_is_unknown_while_an_answer_to_its_change_is_awaited():
    talker = Talker().logs_in()
    talker.asks(command(2, b"other"))
    assert talker.asks(query(b"SELECT 1")).namespace == ""
