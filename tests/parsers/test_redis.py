# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import replace

import pytest

from parsers.model import Completeness, Endpoint, Exchange, Kind, Options, Side, Transport
from parsers.reader import Reader
from parsers.redis import RedisParser, RedisReply, RedisRequest
from tests.parsers.corpus import CORPUS, START, Player, load

SERVER = Endpoint("10.0.0.1", 6379)


def array(*words):
    raw = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in raw)


class Wire:
    """A parser fed by hand; requests wait in order."""

    def __init__(self, **options):
        self.parser = RedisParser(Options(**options))
        self.pending = []
        self.outlines = []

    def ask(self, data, *, resumed=False):
        reader = Reader(data)
        reader.resumed = resumed
        while reader.available > 0:
            message = self.parser.parse(reader, Kind.REQUEST, None)
            reader.resumed = False
            if message is not None and not message.one_way:
                self.pending.append(message)
        return self

    def reply(self, data, *, resumed=False):
        reader = Reader(data)
        reader.resumed = resumed
        told = []
        while reader.available > 0:
            request = self.pending[0] if self.pending else None
            message = self.parser.parse(reader, Kind.RESPONSE, request)
            reader.resumed = False
            told.append(message)
            if message is not None and not message.interim and self.pending:
                self.outlines.append(self.outline(self.pending.pop(0), message))
        return told

    def outline(self, request, response, error=None, server=SERVER):
        exchange = Exchange("redis", request, response, Completeness.COMPLETE, error)
        return self.parser.outline(exchange, Side.CLIENT, server)

    def told(self, *data):
        for asked, answered in zip(data[::2], data[1::2], strict=True):
            self.ask(asked).reply(answered)
        return self.outlines[-1]


def test_what_the_parser_says_of_itself():
    assert RedisParser.name == "redis"
    assert RedisParser.ports == {6379}
    assert RedisParser.transports == {Transport.TCP, Transport.UNIX}
    assert RedisParser.whole


def test_attributes_of_a_command():
    outline = Wire().told(
        array("HMSET", "myhash", "field1", "Hello", "field2", "World"), b"+OK\r\n"
    )
    assert outline.name == "HMSET"
    assert outline.error_type is None
    assert outline.attributes == {
        "db.system.name": "redis",
        "db.operation.name": "HMSET",
        "db.namespace": "0",
        "db.query.text": "HMSET myhash field1 ? field2 ?",
        "server.address": "10.0.0.1",
    }


@pytest.mark.parametrize(
    ("server", "attributes"),
    [
        (Endpoint("10.0.0.1", 6379), {"server.address": "10.0.0.1"}),
        (Endpoint("::1", 7000), {"server.address": "::1", "server.port": 7000}),
        (Endpoint("/run/redis.sock", 0), {"server.address": "/run/redis.sock"}),
        (Endpoint("", 0), {}),
    ],
)
def test_the_server_is_named_with_a_port_of_its_own(server, attributes):
    wire = Wire().ask(array("PING"))
    outline = wire.outline(wire.pending[0], RedisReply("0"), server=server)
    found = {key: value for key, value in outline.attributes.items() if key.startswith("server.")}
    assert found == attributes


@pytest.mark.parametrize(
    ("reply", "status", "error"),
    [
        (b"-WRONGTYPE Operation\r\n", "WRONGTYPE", "WRONGTYPE"),
        (b"-MOVED 1 a:1\r\n", "MOVED", "MOVED"),
        (b"-ASK 1 a:1\r\n", "ASK", "ASK"),
        (b"!9\r\nERR oops!\r\n", "ERR", "ERR"),
        (b"-what a mess\r\n", None, "_OTHER"),
        (b"$-1\r\n", None, None),
        (b"*1\r\n-ERR x\r\n", None, None),
    ],
)
def test_an_error_is_told_by_its_prefix(reply, status, error):
    outline = Wire().told(array("GET", "a"), reply)
    assert outline.attributes.get("db.response.status_code") == status
    assert outline.error_type == error


def test_no_reply_is_an_error_of_the_connection():
    wire = Wire().ask(array("GET", "a"))
    outline = wire.outline(wire.pending[0], None, "connection_reset")
    assert outline.error_type == "connection_reset"
    assert "db.response.status_code" not in outline.attributes
    assert "db.namespace" not in outline.attributes


def test_a_script_names_the_span():
    outline = Wire().told(array("FCALL", "add_to_cart", "1", "cart", "x"), b":1\r\n")
    assert outline.name == "FCALL add_to_cart"
    assert outline.attributes["db.operation.name"] == "FCALL"
    assert outline.attributes["db.stored_procedure.name"] == "add_to_cart"


@pytest.mark.parametrize(
    ("results", "size", "error"),
    [
        (b"*2\r\n+OK\r\n:1\r\n", 2, None),
        (b"*1\r\n+OK\r\n", None, None),
        (b"*0\r\n", 0, None),
        (b"*-1\r\n", None, None),
        (b"_\r\n", None, None),
        (b"*3\r\n+OK\r\n-ERR a\r\n-OOM b\r\n", 3, "ERR"),
        (b"*2\r\n*1\r\n-ERR a\r\n:1\r\n", 2, None),
        (b"-EXECABORT Transaction discarded\r\n", None, "EXECABORT"),
    ],
)
def test_exec_tells_how_many_it_ran_and_the_first_error(results, size, error):
    outline = Wire().told(array("MULTI"), b"+OK\r\n", array("EXEC"), results)
    assert outline.name == "EXEC"
    assert outline.attributes.get("db.operation.batch.size") == size
    assert outline.attributes.get("db.response.status_code") == error
    assert outline.error_type == error


def test_results_of_exec_may_come_one_by_one():
    wire = Wire().ask(array("EXEC"))
    (reply,) = wire.reply(b"*3\r\n+OK\r\n")
    assert reply.open
    assert wire.reply(b"-ERR a\r\n") == [None]
    assert wire.reply(b"*1\r\n") == [None]
    assert reply.open
    assert wire.reply(b"-OOM b\r\n") == [None]
    assert not reply.open
    assert (reply.error, reply.batch) == ("ERR", 3)


def namespaces(*conversation):
    wire = Wire()
    wire.told(*conversation)
    return [outline.attributes.get("db.namespace") for outline in wire.outlines]


GET = array("GET", "a")


def test_the_database_is_the_one_selected():
    assert namespaces(array("SELECT", "2") + GET, b"+OK\r\n$-1\r\n") == ["0", "2"]
    assert namespaces(array("SELECT", "99") + GET, b"-ERR range\r\n$-1\r\n") == ["0", "0"]
    assert namespaces(
        array("SELECT", "2"), b"+OK\r\n", array("RESET"), b"+RESET\r\n", GET, b"$-1\r\n"
    ) == ["0", "2", "0"]


@pytest.mark.parametrize(
    ("results", "after"),
    [(b"*1\r\n+OK\r\n", "2"), (b"*-1\r\n", "0"), (b"*1\r\n-ERR range\r\n", None)],
)
def test_a_database_selected_in_a_transaction_counts_when_it_was_run(results, after):
    queued = array("MULTI") + array("SELECT", "2") + array("EXEC") + GET
    replies = b"+OK\r\n+QUEUED\r\n" + results + b"$-1\r\n"
    assert namespaces(queued, replies)[-1] == after
    discarded = array("MULTI") + array("SELECT", "2") + array("DISCARD") + array("EXEC") + GET
    assert namespaces(discarded, b"+OK\r\n+QUEUED\r\n+OK\r\n*0\r\n$-1\r\n")[-1] == "0"


def test_after_a_loss_the_database_is_unknown_until_it_is_selected():
    wire = Wire()
    wire.told(GET, b"$-1\r\n")
    wire.ask(GET, resumed=True).reply(b"$-1\r\n")
    wire.told(array("SELECT", "3") + GET, b"+OK\r\n$-1\r\n")
    wire.ask(GET).reply(b"$-1\r\n", resumed=True)
    found = [outline.attributes.get("db.namespace") for outline in wire.outlines]
    assert found == ["0", None, None, "3", None]


def test_outlines_are_shared():
    wire = Wire()
    for value in "abc":
        wire.told(array("SET", "k", value), b"+OK\r\n")
    assert len(set(wire.outlines)) == 1


def test_literals_are_shown_to_who_asks_for_them():
    assert Wire(redact=False).told(array("SET", "k", "v"), b"+OK\r\n").attributes[
        "db.query.text"
    ] == ("SET k v")


def one_way(wire, data):
    reader = Reader(data)
    told = []
    while reader.available > 0:
        message = wire.parser.parse(reader, Kind.REQUEST, None)
        told.append(message.one_way)
    return told


def test_client_reply_says_what_is_answered():
    wire = Wire()
    skip, off = array("CLIENT", "REPLY", "SKIP"), array("CLIENT", "REPLY", "OFF")
    on = array("CLIENT", "REPLY", "ON")
    assert one_way(wire, skip + GET + GET) == [True, True, False]
    assert one_way(wire, skip + skip + GET + GET) == [True, True, True, False]
    assert one_way(wire, skip + on + GET) == [True, False, False]
    assert one_way(wire, off + GET + skip + GET + GET) == [True] * 5
    assert one_way(wire, on + GET) == [False, False]
    assert one_way(wire, off + GET + array("RESET") + GET) == [True, True, False, False]


def test_after_a_loss_nobody_knows_whether_there_will_be_replies():
    def ask(*, resumed=False):
        reader = Reader(GET)
        reader.resumed = resumed
        message = wire.parser.parse(reader, Kind.REQUEST, None)
        return message.one_way, message.gap

    wire = Wire().ask(array("CLIENT", "REPLY", "OFF"))
    assert ask() == (True, False)
    assert ask(resumed=True) == (True, True)
    assert ask() == (True, True)
    # The answer to CLIENT REPLY ON, which was lost.
    wire.reply(b"+OK\r\n")
    assert ask() == (False, False)
    wire = Wire().ask(array("CLIENT", "REPLY", "SKIP"))
    assert ask(resumed=True) == (False, False)
    wire = Wire().ask(array("CLIENT", "REPLY", "OFF"))
    assert wire.reply(b"+OK\r\n")
    assert ask() == (True, False)


def test_who_is_not_answered_is_on_a_known_database():
    wire = Wire()
    reader = Reader(array("CLIENT", "REPLY", "OFF") + GET + array("SELECT", "1") + GET)
    told = [wire.parser.parse(reader, Kind.REQUEST, None).namespace for _ in range(4)]
    assert told == ["0", "0", "0", None]


def test_a_reply_that_was_cut_off_is_forgotten():
    wire = Wire().ask(GET + GET)
    (reply,) = wire.reply(b"*5\r\n:1\r\n")
    reply.open = False
    (reply,) = wire.reply(b"$1\r\nx\r\n")
    assert isinstance(reply, RedisReply)
    assert not reply.open


def test_a_push_that_was_cut_off_is_forgotten():
    wire = Wire().ask(GET)
    assert wire.reply(b">3\r\n$7\r\nmessage\r\n") == [None]
    (reply,) = wire.reply(b"$1\r\nx\r\n", resumed=True)
    assert isinstance(reply, RedisReply)


def test_a_request_that_was_cut_off_is_forgotten():
    wire = Wire().ask(array("DEL", *["k"] * 40)[:-7])
    assert wire.pending[0].open
    wire.pending[0].open = False
    wire.ask(GET)
    assert isinstance(wire.pending[1], RedisRequest)
    assert wire.pending[1].command.text == "GET a"


def test_confirmations_of_unknown_number_have_a_gap():
    wire = Wire()
    wire.ask(array("UNSUBSCRIBE"), resumed=True)
    first, second = wire.reply(
        b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n"
        b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n"
    )
    assert first.gap
    assert not first.interim
    assert second is None
    wire.ask(array("UNSUBSCRIBE"))
    (only,) = wire.reply(b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n")
    assert not only.gap


def test_a_replication_link_is_given_up_on_either_side():
    wire = Wire()
    message = wire.parser.parse(Reader(array("REPLCONF", "ACK", "1")), Kind.REQUEST, None)
    assert message.switches_to == "redis-replication"
    assert message.interim
    (message,) = wire.reply(array("REPLCONF", "GETACK", "*"))
    assert message.switches_to == "redis-replication"
    assert message.interim


def test_errors_before_any_command_are_no_replies():
    wire = Wire()
    assert wire.reply(b"-ERR max number of clients reached\r\n") == [None]
    wire.ask(GET)
    (reply,) = wire.reply(b"-ERR x\r\n")
    assert isinstance(reply, RedisReply)


SMALL = 5000
"""Bytes of a conversation whose recording is played again here."""
SECRETS = (b"hunter2", b"s3cret", b"secret", b"hello world", b"v" * 20, b"payload", b"Ada")


def blanked(case, keep):
    """The steps of `case`, with what a recording of them would hold."""
    wire = {True: b"", False: b""}
    for step in case.steps:
        wire[step.to_server] += step.data + bytes(step.size - len(step.data))
    left = {key: bytearray(b"\xff" * len(data)) for key, data in wire.items()}
    for each in keep.session.kept:
        to_server = each.direction == keep.client_sends
        at = (each.position - START[0 if to_server else 1]) % 2**32
        text = each.substitute or wire[to_server][at : at + each.size]
        if not each.fate:
            left[to_server][at : at + each.size] = text
    steps = []
    begun = {True: 0, False: 0}
    for step in case.steps:
        at = begun[step.to_server]
        steps.append(replace(step, data=bytes(left[step.to_server][at : at + len(step.data)])))
        begun[step.to_server] += step.size
    return steps


@pytest.mark.parametrize("path", sorted((CORPUS / "redis").glob("*.txt")), ids=lambda p: p.stem)
def test_a_recording_holds_no_value_and_gives_the_same(path):
    case = load(path)
    if sum(step.size for step in case.steps) > SMALL:
        return
    keep = Player([RedisParser], case.sides[0], late=case.late, keep=True).play(case.steps)
    steps = blanked(case, keep)
    for secret in SECRETS:
        assert all(secret not in step.data for step in steps)
    if not any(each.fate for each in keep.session.kept):
        again = Player([RedisParser], case.sides[0], late=case.late).play(steps)
        assert again.described() == keep.described()
