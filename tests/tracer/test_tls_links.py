# SPDX-License-Identifier: Apache-2.0
"""A socket and what it carries are one connection for whoever reads spans, in any order."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from parsers.http1 import Http1Parser
from parsers.mysql import MysqlParser
from parsers.tls import TlsParser
from tests.parsers.mysql_bytes import CAPABILITIES, greeting, login, ok, packet
from tests.parsers.tls_bytes import (
    CHANGE,
    NEWEST,
    SEALED,
    alert,
    alpn,
    client_hello,
    name_of,
    record,
    server_hello,
)
from tests.tracer.conversations import CLIENT, MS, SERVER, Conversation
from tests.tracer.fakes import OK, S, Table, span_maker
from tracer.connection import NOWHERE
from tracer.events import INNER, INNER_BIT, LATE, PLAINTEXT, CloseReason, DataEvent
from tracer.span import TLS_IN_USE, SpanKind
from tracer.summary import Seen, summarise
from tracer.tls_links import MAX_ORPHANS, TlsLinks

INSIDE = INNER_BIT | 7
HELLO = record(client_hello(name_of(b"shop.example.com"), alpn(b"http/1.1")))
ANSWER = record(server_hello(NEWEST)) + CHANGE + SEALED
VERSION = "1.3"
GET = b"GET /a HTTP/1.1\r\n\r\n"
"""Says no host, so that the name in the hello is all that is known."""


class Watched(Table):
    """A table that makes spans as the pipeline does."""

    def __init__(self, **options):
        parsers = {"http1": Http1Parser, "tls": TlsParser}
        super().__init__(**{"parsers": parsers} | options)
        self.spans = []
        maker = span_maker()
        self.table.emit = lambda *found: self.spans.append(maker.make(*found))

    def attributes(self):
        """Of the only span."""
        (span,) = self.spans
        return span.attributes()

    def summary(self):
        return summarise(Seen(), self.table, {}, {}, 1.0, {})


@pytest.fixture
def table():
    return Watched()


def outer(role=CLIENT, **options):
    """A socket on which TLS begins; ports of a server on 80, as of all conversations."""
    return Conversation(cookie=1, role=role, **options)


def handshake(conversation):
    """Both hellos, and a record that nobody can read."""
    if conversation.role == CLIENT:
        return conversation.send(HELLO).recv(ANSWER).send(CHANGE + SEALED)
    return conversation.recv(HELLO).send(ANSWER).recv(CHANGE + SEALED)


def inner(carrier=1, role=CLIENT, *, late=False, cookie=INSIDE, after=None):
    """What that socket carries, from its open record on."""
    found = Conversation(cookie=cookie, role=role, positions=[0, 0])
    if after is not None:
        found.now_ns = after.now_ns + MS
    found.open()
    return announce(found, carrier, late=late)


def announce(found, carrier, *, late=False):
    """Make the latest event, an open record, one of a TLS object."""
    nothing = dict.fromkeys(("netns", "local_port", "remote_port"), 0)
    found.events[-1] = replace(
        found.events[-1],
        flags=INNER | (LATE if late else 0),
        carrier=carrier,
        local=bytes(16),
        remote=bytes(16),
        **nothing,
    )
    return found


def ask(found):
    return found.send(GET).recv(OK) if found.role == CLIENT else found.recv(GET).send(OK)


def assert_joined(attributes, role):
    assert attributes["network.peer.address"] == "10.0.0.2"
    assert attributes["network.peer.port"] == 40000
    assert attributes["tls.protocol.name"] == "tls"
    assert attributes["http.response.status_code"] == 200
    if role == CLIENT:
        assert attributes["server.address"] == "shop.example.com"
        assert attributes["server.port"] == 40000


@pytest.mark.parametrize("role", [CLIENT, SERVER])
@pytest.mark.parametrize(
    ("version", "system"), [(b"10.11.6-MariaDB", "mariadb"), (b"8.0.36", "mysql")]
)
def test_what_was_said_in_clear_before_it_is_known_inside(role, version, system):
    """MySQL's greeting says which server it is; the login inside of TLS may not."""
    table = Watched(parsers={"mysql": MysqlParser, "tls": TlsParser})
    request = packet(1, struct.pack("<IIB23x", CAPABILITIES | 0x800, 1, 45))
    socket = outer(role).open()
    asks, answers = (socket.send, socket.recv) if role == CLIENT else (socket.recv, socket.send)
    answers(greeting(version))
    asks(request)
    table.feed(handshake(socket))
    stream = inner(role=role, after=socket)
    asks, answers = (stream.send, stream.recv) if role == CLIENT else (stream.recv, stream.send)
    asks(login(sequence=2))
    answers(ok(3))
    table.feed(stream)
    assert table.attributes()["db.system.name"] == system


# Orders


@pytest.mark.parametrize("role", [CLIENT, SERVER])
def test_socket_first(table, role):
    socket = handshake(outer(role).open())
    table.feed(socket)
    table.feed(ask(inner(role=role, after=socket)))
    attributes = table.attributes()
    assert_joined(attributes, role)
    assert attributes["tls.client.server_name"] == "shop.example.com"
    assert attributes["tls.protocol.version"] == VERSION
    assert table.spans[0].kind is (SpanKind.CLIENT if role == CLIENT else SpanKind.SERVER)
    assert (table.counters.encrypted, table.counters.unbound) == (1, 0)


@pytest.mark.parametrize("role", [CLIENT, SERVER])
def test_stream_first(table, role):
    """Its record says the socket's cookie, whose own record comes later."""
    stream = inner(role=role)
    table.feed(stream)
    socket = handshake(outer(role).open())
    table.feed(socket)
    stream.now_ns = socket.now_ns
    table.feed(ask(stream))
    attributes = table.attributes()
    assert_joined(attributes, role)
    assert attributes["tls.client.server_name"] == "shop.example.com"


def test_socket_becomes_known_in_the_middle(table):
    """The first exchange has no address; a second record names the socket."""
    socket = handshake(outer().open())
    table.feed(socket)
    stream = ask(inner(carrier=0, after=socket))
    table.feed(stream)
    assert "network.peer.address" not in table.spans[0].attributes()
    assert table.spans[0].attributes()["tls.protocol.name"] == "tls"
    assert table.counters.unbound == 1
    table.feed(ask(announce(stream.open(), 1)))
    table.spans.pop(0)
    assert_joined(table.attributes(), CLIENT)
    assert table.counters.unbound == 1
    assert any("their socket not known" in line for line in table.summary())


def test_request_before_the_socket_is_known_and_response_after(table):
    socket = handshake(outer().open())
    table.feed(socket)
    stream = inner(carrier=0, after=socket).send(GET)
    table.feed(stream)
    table.feed(announce(stream.open(), 1).recv(OK))
    assert_joined(table.attributes(), CLIENT)
    assert table.counters.unbound == 0


def test_handshake_becomes_known_after_the_exchange(table):
    """Spans that are made afterwards have it."""
    stream = inner()
    table.feed(outer().open())
    table.feed(ask(stream))
    assert table.attributes()["tls.protocol.name"] == "tls"
    assert "tls.protocol.version" not in table.spans.pop().attributes()
    socket = outer()
    socket.now_ns = stream.now_ns
    table.feed(handshake(socket))
    stream.now_ns = socket.now_ns
    table.feed(ask(stream))
    assert_joined(table.attributes(), CLIENT)


def test_socket_that_was_forgotten_is_no_fault(table):
    socket = handshake(outer().open())
    table.feed(socket)
    stream = ask(inner(after=socket))
    table.feed(stream)
    socket.now_ns = stream.now_ns
    table.feed(socket.close())
    table.wait(S)
    table.spans.clear()
    table.feed(ask(stream))
    assert_joined(table.attributes(), CLIENT)
    table.spans.clear()
    table.feed(ask(announce(stream.open(), 1)))
    assert table.attributes()["http.response.status_code"] == 200


def test_side_that_the_stream_shows_is_kept(table):
    """A late socket may be on the wrong side; what it carries tells."""
    socket = handshake(outer(CLIENT).open())
    table.feed(socket)
    stream = inner(role=CLIENT, late=True, after=socket).recv(GET).send(OK)
    table.feed(stream)
    assert table.spans[0].kind is SpanKind.SERVER


def test_two_streams_of_two_sockets_stay_apart(table):
    for cookie in (1, 2):
        socket = Conversation(cookie=cookie, role=CLIENT).open()
        hello = record(client_hello(name_of(b"shop%d" % cookie)))
        table.feed(socket.send(hello).recv(ANSWER).send(CHANGE + SEALED))
    for cookie in (2, 1):
        table.feed(ask(inner(carrier=cookie, cookie=INNER_BIT | cookie)))
    names = [span.attributes()["server.address"] for span in table.spans]
    assert names == ["shop2", "shop1"]


def test_orphans_are_bounded(table):
    streams = [inner(carrier=number, cookie=INNER_BIT | number) for number in range(1, 1400)]
    table.feed(*streams)
    links = table.table._links
    assert len(links._orphans) == MAX_ORPHANS
    assert min(links._orphans) == 1400 - MAX_ORPHANS


# Handshakes


@pytest.mark.parametrize("role", [CLIENT, SERVER])
def test_good_handshake_is_no_span(table, role):
    table.feed(handshake(outer(role).open()).close())
    table.wait(S)
    assert table.spans == []


def test_failed_handshake_is_a_span(table):
    table.feed(outer().open().send(HELLO).recv(alert(40)).close())
    table.wait(S)
    attributes = table.attributes()
    assert attributes["error.type"] == "handshake_failure"
    assert attributes["tls.client.server_name"] == "shop.example.com"
    assert attributes["network.peer.address"] == "10.0.0.2"


@pytest.mark.parametrize("reason", [CloseReason.CLOSED, CloseReason.RESET])
def test_handshake_that_is_cut_off_is_a_span(table, reason):
    table.feed(outer().open().send(HELLO).close(reason))
    table.wait(S)
    assert "error.type" in table.attributes()


# Counters


def test_socket_nobody_sees_into_is_sealed(table):
    table.feed(handshake(outer().open()).close())
    table.wait(S)
    assert (table.counters.encrypted, table.counters.sealed) == (1, 1)
    assert any("1 connection encrypted, and nobody sees" in line for line in table.summary())


@pytest.mark.parametrize("is_first", [False, True])
def test_socket_whose_stream_is_seen_is_not_sealed(table, is_first):
    socket, stream = handshake(outer().open()), inner()
    if is_first:
        table.feed(stream)
    table.feed(socket)
    stream.now_ns = socket.now_ns
    table.feed(ask(stream))
    socket.now_ns = stream.now_ns
    table.feed(socket.close(), stream.close())
    table.wait(S)
    assert (table.counters.encrypted, table.counters.sealed) == (1, 0)
    assert not any("encrypted" in line for line in table.summary())


def test_socket_whose_stream_becomes_known_late_is_not_sealed(table):
    socket = handshake(outer().open())
    stream = ask(inner(carrier=0))
    table.feed(socket, stream)
    table.feed(announce(stream.open(), 1))
    table.feed(socket.close())
    table.wait(S)
    assert table.counters.sealed == 0


def test_sockets_that_are_open_at_the_end_count_too(table):
    table.feed(handshake(outer().open()))
    table.table.finish(table.now_ns)
    assert table.counters.sealed == 1


def test_socket_in_clear_is_neither(table):
    table.feed(ask(Conversation(role=CLIENT).open()).close())
    table.wait(S)
    counters = table.counters
    assert (counters.encrypted, counters.sealed, counters.unbound) == (0, 0, 0)


def test_streams_are_no_connections_of_their_own(table):
    table.feed(handshake(outer().open()), inner())
    assert table.counters.opened == 1


# The kernel's TLS


def kernel_encrypted(conversation):
    """From here on the kernel does TLS: what the socket moves is plaintext."""
    conversation.events = [
        replace(each, flags=each.flags | PLAINTEXT) if isinstance(each, DataEvent) else each
        for each in conversation.events
    ]
    return conversation


@pytest.mark.parametrize("role", [CLIENT, SERVER])
def test_plaintext_on_the_socket_itself_is_parsed(table, role):
    socket = handshake(outer(role).open())
    table.feed(socket)
    table.feed(kernel_encrypted(ask(socket)))
    attributes = table.attributes()
    assert_joined(attributes, role)
    assert attributes["tls.protocol.version"] == VERSION
    table.feed(socket.close())
    table.wait(S)
    assert table.counters.sealed == 0


def test_plaintext_without_a_handshake_is_parsed(table):
    table.feed(kernel_encrypted(ask(outer(late=True).open())))
    attributes = table.attributes()
    assert attributes["tls.protocol.name"] == "tls"
    assert "tls.protocol.version" not in attributes
    assert attributes["network.peer.address"] == "10.0.0.2"


# Alone


def test_nothing_is_known_of_a_stream_without_its_socket():
    links = TlsLinks({}, Watched().counters)
    (event,) = inner(carrier=99, late=True).events
    peering = links.peering(event)
    assert peering.late
    assert peering.local is peering.remote is NOWHERE
    assert peering.tls is TLS_IN_USE
