# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from parsers.model import (
    Completeness,
    Endpoint,
    Exchange,
    Kind,
    Likeness,
    ParseError,
    Side,
    Transport,
)
from parsers.mysql import MysqlParser, MysqlRequest
from parsers.mysql_packets import MysqlReply
from parsers.reader import NeedMoreData
from tests.parsers.corpus import Player, cases
from tests.parsers.mysql_bytes import (
    CAPABILITIES,
    DEPRECATE_EOF,
    Talker,
    command,
    definition,
    eof,
    error,
    execute,
    greeting,
    login,
    ok,
    packet,
    prepared,
    query,
    rows,
)

SERVER = Endpoint("10.0.0.1", 3306)


@pytest.fixture
def talker():
    return Talker().logs_in()


def outline(talker, request, reply, error_type=None):
    exchange = Exchange("mysql", request, reply, Completeness.COMPLETE, error_type)
    return talker.parser.outline(exchange, Side.CLIENT, SERVER)


def exchange(talker, asked, answered, **flags):
    """What is said of a request and its response."""
    request = talker.asks(asked)
    reply = talker.answers(answered, **flags)
    assert isinstance(reply, MysqlReply)
    assert not reply.open
    return outline(talker, request, reply)


def namespace(talker):
    """What is taken to be the current database."""
    told = exchange(talker, query(b"SELECT 1"), rows(1))
    return told.attributes.get("db.namespace")


def test_what_the_parser_says_of_itself():
    assert MysqlParser.name == "mysql"
    assert MysqlParser.whole
    assert MysqlParser.ports == {3306}
    assert MysqlParser.transports == {Transport.TCP, Transport.UNIX}
    assert MysqlParser.probe(query(b"SELECT 1"), Kind.REQUEST) is Likeness.CERTAIN
    assert MysqlParser.probe(greeting(), Kind.RESPONSE) is Likeness.CERTAIN


def test_a_login_is_one_exchange():
    talker = Talker()
    assert talker.answers(greeting(b"5.5.5-10.11.6-MariaDB")) is None
    request = talker.asks(login())
    reply = talker.answers(packet(2, b"\xfesome_plugin\0"))
    assert reply.open
    assert talker.asks(packet(3, b"HASH")) is None
    assert talker.answers(ok(4)) is reply
    told = outline(talker, request, reply)
    assert told.name == "COM_CONNECT shop"
    assert told.attributes["db.system.name"] == "mariadb"


def test_a_refused_login_names_the_database_asked_for():
    talker = Talker()
    talker.answers(greeting())
    told = exchange(talker, login(b"nowhere"), error(2, 1049))
    assert told.attributes["db.namespace"] == "nowhere"
    assert told.error_type == "1049"
    assert namespace(talker) is None


def test_tls_makes_no_exchange():
    message = Talker().asks(packet(1, struct.pack("<IIB23x", 0x200A00, 1, 45)))
    assert (message.interim, message.switches_to) == (True, "tls")


@pytest.mark.parametrize("flag", [0x20, 1 << 26])
def test_compression_begins_with_the_end_of_the_login(flag):
    talker = Talker()
    talker.answers(greeting(capabilities=CAPABILITIES | flag))
    talker.asks(login(capabilities=CAPABILITIES | flag))
    assert talker.answers(ok(2)).switches_to == "mysql-compressed"
    talker = Talker()
    talker.answers(greeting(capabilities=CAPABILITIES))
    talker.asks(login(capabilities=CAPABILITIES | flag))
    assert talker.answers(ok(2)).switches_to is None


def test_login_of_an_old_client_leaves_the_database_open():
    talker = Talker()
    talker.asks(packet(1, struct.pack("<H", 0x2085) + b"\xff\xff\xffcarol\0HASHHASH\0"))
    talker.answers(ok(2))
    assert namespace(talker) is None


def test_lost_login():
    talker = Talker()
    talker.answers(greeting())
    assert talker.answers(packet(2, b"\1\3") + ok(3)).sqlstate == ""
    assert namespace(talker) is None


@pytest.mark.parametrize("deprecated", [False, True])
def test_handshake_tells_whether_an_eof_ends_definitions(deprecated):
    capabilities = CAPABILITIES | (DEPRECATE_EOF if deprecated else 0)
    talker = Talker().logs_in(capabilities=capabilities)
    talker.asks(command(0x16, b"SELECT ?"))
    data = prepared(1, 1, 1, deprecated=deprecated)
    assert talker.answers(data[: data.rindex(b"\3def") - 4]).open
    assert not talker.answers(data[data.rindex(b"\3def") - 4 :]).open


def test_late_eof_behind_definitions_is_nobodys():
    talker = Talker()
    talker.asks(command(0x16, b"SELECT ?"))
    data = prepared(1, 0, 1)
    assert not talker.answers(data[:-9]).open
    assert talker.answers(data[-9:]) is None
    talker.asks(command(0x16, b"SELECT ?"))
    assert talker.answers(data[:-9]).open


def test_statement_is_known_by_its_number(talker):
    assert exchange(talker, command(0x16, b"SELECT a FROM t"), prepared(7, 1, 0)).error_type is None
    assert exchange(talker, execute(7), rows(2)).name == "SELECT t"
    fetched = packet(1, b"\0\0\1a") + eof(2)
    told = exchange(talker, command(0x1C, struct.pack("<II", 7, 1)), fetched)
    assert told.attributes["db.query.text"] == "SELECT a FROM t"
    assert "db.query.text" not in exchange(talker, execute(8), rows(2)).attributes
    assert talker.asks(command(0x19, struct.pack("<I", 7))) is None
    assert "db.query.text" not in exchange(talker, execute(7), rows(2)).attributes


def test_statement_that_was_refused_is_not_kept(talker):
    exchange(talker, command(0x16, b"SELECT a FROM t"), error(1))
    assert "db.query.text" not in exchange(talker, execute(0), rows(2)).attributes


def test_statement_that_the_server_does_not_know(talker):
    exchange(talker, command(0x16, b"SELECT a FROM t"), prepared(7, 1, 0))
    told = exchange(talker, execute(7), error(1, 1243))
    assert "db.query.text" not in told.attributes


@pytest.mark.parametrize("again", [command(0x1F), command(0x11, b"a\0\0shop\0\x2d\0p\0")])
def test_reset_forgets_statements(talker, again):
    exchange(talker, command(0x16, b"SELECT a FROM t"), prepared(7, 1, 0))
    exchange(talker, again, ok())
    assert "db.query.text" not in exchange(talker, execute(7), rows(2)).attributes


def test_statement_prepared_last():
    talker = Talker().logs_in()
    talker.asks(command(0x16, b"INSERT INTO t VALUES (?)"))
    talker.asks(execute(0xFFFFFFFF))
    bulk = talker.asks(command(0xFA, struct.pack("<IH", 0xFFFFFFFF, 128) + b"x"))
    talker.answers(prepared(3, 0, 1))
    talker.answers(ok())
    reply = talker.answers(ok())
    assert outline(talker, bulk, reply).name == "INSERT t"
    lost = talker.asks(execute(0xFFFFFFFF), resumed=True)
    assert lost.query is None


def test_current_database(talker):
    assert namespace(talker) == "shop"
    assert exchange(talker, query(b"USE other"), ok()).attributes["db.namespace"] == "other"
    assert exchange(talker, query(b"USE missing"), error(1)).attributes["db.namespace"] == "other"
    exchange(talker, command(2, b"third"), ok())
    assert namespace(talker) == "third"
    exchange(talker, command(6, b"other"), ok())
    assert namespace(talker) == "third"
    exchange(talker, command(6, b"THIRD"), ok())
    assert namespace(talker) is None
    tracked = b"\0\x07\1\5\4told"
    exchange(talker, query(b"CALL p()"), ok(status=0x4002, rest=tracked))
    assert namespace(talker) == "told"
    exchange(talker, query(b"DO 1; use x"), error(1))
    assert namespace(talker) is None


def test_database_is_unknown_where_its_change_was_lost(talker):
    talker.asks(query(b"USE other"))
    del talker.waiting[0]
    exchange(talker, query(b"SELECT 1"), rows(1), resumed=True)
    assert namespace(talker) is None


def test_database_is_known_where_only_rows_were_lost(talker):
    exchange(talker, query(b"SELECT 1"), rows(1), resumed=True)
    assert namespace(talker) == "shop"


def test_database_is_unknown_where_requests_were_lost(talker):
    talker.asks(query(b"SELECT 1"), resumed=True)
    talker.answers(rows(1))
    assert namespace(talker) is None


@pytest.mark.parametrize(
    ("answered", "known"), [(ok(), None), (rows(1), "shop"), (error(1), "shop")]
)
def test_response_to_a_request_that_was_not_seen(talker, answered, known):
    assert not talker.answers(answered).open
    assert namespace(talker) == known


def test_no_database_is_told_of_a_change_without_an_end(talker):
    request = talker.asks(query(b"USE other"))
    reply = talker.answers(packet(1, b"\1"))
    reply.open = False
    assert "db.namespace" not in outline(talker, request, reply).attributes
    assert outline(talker, request, None).attributes["db.namespace"] == "shop"


def test_rows_are_counted(talker):
    request = talker.asks(query(b"SELECT a FROM t"))
    reply = talker.answers(rows(3))
    assert reply.count == 3
    assert outline(talker, request, reply).counts[1] == "db.response.returned_rows"
    talker.asks(query(b"DO 1"))
    assert talker.answers(ok()).count == -1


def test_file_of_the_client(talker):
    talker.asks(query(b"LOAD DATA LOCAL INFILE 'a' INTO TABLE t"))
    reply = talker.answers(packet(1, b"\xfba"))
    assert talker.asks(packet(2, b"SELECT 1")) is None
    assert talker.asks(packet(0, b"\3SELECT 1")) is None
    assert talker.asks(packet(3, b"")) is None
    assert talker.answers(ok(4)) is reply
    assert isinstance(talker.asks(query(b"SELECT 1")), MysqlRequest)


def test_lost_file_ends_with_the_next_command(talker):
    talker.asks(query(b"LOAD DATA LOCAL INFILE 'a' INTO TABLE t"))
    talker.answers(packet(1, b"\xfba"))
    assert isinstance(talker.asks(query(b"SELECT 1"), resumed=True), MysqlRequest)


def test_command_of_several_packets(talker):
    request = talker.asks(b"\xff\xff\xff\0\3INSERT INTO t VALUES ('a", cut=True)
    assert request.open
    assert request.truncated
    assert talker.asks(b"\xff\xff\xff\1") is request
    assert talker.asks(packet(2, b"")) is request
    assert not request.open
    del talker.waiting[1:]
    assert not talker.answers(ok(3)).open


def test_long_data_of_several_packets(talker):
    assert talker.asks(b"\xff\xff\xff\0\x18") is None
    assert talker.asks(packet(1, b"rest")) is None
    talker.asks(b"\xff\xff\xff\0\x18")
    with pytest.raises(ParseError):
        talker.asks(query(b"SELECT 1"))


def test_early_response_to_a_long_command(talker):
    talker.asks(b"\xff\xff\xff\0\3INSERT INTO t VALUES ('a", cut=True)
    assert talker.answers(error(9, 1153)).code == 1153


def test_unasked_error(talker):
    assert talker.answers(error(0, 4031, b"#HY000")) is None
    talker.asks(query(b"SELECT 1"))
    assert talker.answers(error(0, 1927, b"#70100")).code == 1927


def test_streams_of_other_kinds(talker):
    talker.asks(command(0x12, bytes(12)))
    assert talker.answers(packet(1, bytes(30))).switches_to == "mysql-replication"
    talker = Talker().logs_in()
    talker.asks(command(0x20))
    assert talker.answers(ok()).switches_to == "mysql-clone"


@pytest.mark.parametrize("code", [1, 0x18, 0x19])
def test_what_nobody_answers_is_no_exchange(talker, code):
    assert talker.asks(command(code, bytes({1: 0, 0x18: 6, 0x19: 4}[code]))) is None


@pytest.mark.parametrize("code", [5, 7, 8, 9, 0x0A, 0x0C, 0x0D, 0x0E, 0x15, 0x1A, 0x1B])
def test_other_commands_are_named(talker, code):
    sizes = {5: 4, 7: 1, 0x0C: 4, 0x15: 20, 0x1A: 4, 0x1B: 2}
    answered = packet(1, b"Uptime: 1") if code == 9 else ok()
    told = exchange(talker, command(code, b"x" * sizes.get(code, 0)), answered)
    assert told.attributes["db.operation.name"].startswith("COM_")


def test_field_list(talker):
    answered = definition(1) + definition(2) + eof(3)
    assert exchange(talker, command(4, b"users\0"), answered).name == "COM_FIELD_LIST shop"


@pytest.mark.parametrize(
    "data",
    [packet(2, b"\3SELECT 1"), packet(0, b""), command(0x0F), command(0x0E, b"x"), packet(1, b"x")],
)
def test_what_is_no_command(talker, data):
    with pytest.raises(ParseError):
        talker.asks(data)


def test_numbers_have_to_follow(talker):
    talker.asks(query(b"SELECT 1"))
    with pytest.raises(ParseError):
        talker.answers(ok(2))
    talker.waiting.clear()
    with pytest.raises(ParseError):
        talker.answers(ok(2))


def test_half_a_header_says_nothing(talker):
    talker.asks(query(b"SELECT 1"))
    with pytest.raises(NeedMoreData):
        talker.answers(b"\1\0\0\1")


def test_literals_are_shown_on_demand():
    talker = Talker(redact=False).logs_in()
    told = exchange(talker, query(b"SELECT 'secret'"), rows(1))
    assert told.attributes["db.query.text"] == "SELECT 'secret'"


CASES = {name: case for name, case in cases() if name.startswith("mysql-") and not case.refused}
SECRETS = (b"bob@example.com", b"Robert", b"Mallory", b"HASHHASH", b"SALT", b"SECRET", b"secret")


def recorded(player):
    """What a recording would have of each transfer."""
    written = [bytearray(b"\xff" * len(data)) for _, _, data in player.fed]
    for kept in player.session.kept:
        for (direction, position, data), out in zip(player.fed, written, strict=True):
            # Where the kept bytes begin in the transfer; negative if before it.
            start = ((kept.position - position + 2**31) & 0xFFFFFFFF) - 2**31
            if direction != kept.direction or kept.fate:
                continue
            for index in range(max(start, 0), min(start + kept.size, len(data))):
                out[index] = kept.substitute[index - start] if kept.substitute else data[index]
    return [bytes(each) for each in written]


@pytest.mark.parametrize("name", CASES)
def test_a_recording_replays_whatever_was_lost(name):
    case = CASES[name]
    for side in case.sides:
        for lost in (None, *range(len(case.steps))):
            steps = [
                replace(each, seen=each.seen and i != lost) for i, each in enumerate(case.steps)
            ]
            live = Player([MysqlParser], side, late=case.late, keep=True).play(steps)
            written = recorded(live)
            assert not any(secret in b"".join(written) for secret in SECRETS)
            if live.tally.parse_errors or live.session.opaque:
                # What was refused is not in a recording, which says so.
                continue
            left = iter(written)
            again = [
                replace(each, data=next(left)) if each.what == "transfer" and each.seen else each
                for each in steps
            ]
            played = Player([MysqlParser], side, late=case.late).play(again)
            assert played.described() == live.described(), lost
            # Recording changes nothing of what is seen.
            plain = Player([MysqlParser], side, late=case.late).play(steps)
            assert plain.described() == live.described(), lost
