# SPDX-License-Identifier: Apache-2.0
"""UDP sockets in the connection table, their spans, their recordings."""

from __future__ import annotations

import dns.message
import dns.rrset
import pytest

from parsers.datagrams import PATIENCE_NS, DatagramSession
from parsers.dns import DnsParser
from parsers.http1 import Http1Parser
from parsers.model import Endpoint, Options, Side, Transport
from parsers.registry import Registry
from tests.tracer.conversations import Collected, PlayedSource, batches_of, plain
from tests.tracer.fakes import MS, START_NS, Action, S, Table, moved, opened, span_maker
from tracer.connection import MAX_PEERINGS, SPENT_QUIET_NS, UNENDED_QUIET_NS
from tracer.events import address_bytes
from tracer.pipeline import Pipeline
from tracer.recorder import Recorder
from tracer.recording import open_source
from tracer.span import Peering, SpanKind

IN, OUT = 0, 1
UDP = Transport.UDP
ANY = "0.0.0.0"


def query(number=1, name="shop.example."):
    return dns.message.make_query(name, "A", id=number).to_wire()


def reply(number=1, name="shop.example.", *, text=""):
    message = dns.message.make_response(dns.message.from_wire(query(number, name)))
    message.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "10.1.2.3"))
    if text:
        message.additional.append(dns.rrset.from_text(name, 60, "IN", "TXT", text))
    return message.to_wire()


def peer(number, port=53):
    return address_bytes(f"10.0.0.{number}"), port


def end(number, port=53):
    return Endpoint(f"10.0.0.{number}", port)


def socket(cookie=1, *, local=(ANY, 40_000), remote=(ANY, 0), **changes):
    return opened(
        cookie,
        transport=UDP,
        local=address_bytes(local[0]),
        local_port=local[1],
        remote=address_bytes(remote[0]),
        remote_port=remote[1],
        **({"role": 1} | changes),
    )


class Talk:
    """Datagrams of one socket, with the positions and times of a kernel."""

    def __init__(self, cookie=1, now_ns=START_NS):
        self.cookie = cookie
        self.ends = [0, 0]
        self.now_ns = now_ns
        self.events = []

    def open(self, **options):
        self.events.append(socket(self.cookie, timestamp_ns=self.now_ns, **options))
        return self

    def move(self, direction, data, number=0, port=53):
        self.now_ns += MS
        self.events.append(
            moved(
                self.cookie,
                direction,
                data=data,
                position=self.ends[direction],
                timestamp_ns=self.now_ns,
                peer=peer(number, port) if number else None,
            )
        )
        self.ends[direction] += len(data)
        return self

    def send(self, data, number=0, port=53):
        return self.move(OUT, data, number, port)

    def recv(self, data, number=0, port=53):
        return self.move(IN, data, number, port)

    def take(self):
        events, self.events = self.events, []
        return events


@pytest.fixture
def table():
    return Table(parsers={"http1": Http1Parser, "dns": DnsParser})


def peerings(table):
    return [connection.peering_of(exchange) for connection, exchange in table.emitted]


# -- the table ----------------------------------------------------------------------------


def test_connected_socket_has_the_peering_of_its_record(table):
    talk = Talk().open(local=("10.0.0.9", 40_000), remote=("10.0.0.1", 53))
    table.feed(*talk.send(query()).recv(reply()).take())
    ((connection, _),) = table.emitted
    assert peerings(table) == [connection.peering]
    assert connection.peering.side is Side.CLIENT
    assert connection.peering.remote == end(1)
    assert not table.source.advice


def test_unconnected_client_says_whom_it_asked(table):
    talk = Talk().open()
    table.feed(*talk.send(query(1), 1).send(query(2), 2).recv(reply(2), 2).recv(reply(1), 1).take())
    assert [(each.side, each.remote) for each in peerings(table)] == [
        (Side.CLIENT, end(2)),
        (Side.CLIENT, end(1)),
    ]


def test_server_on_any_address_has_none(table):
    talk = Talk().open(local=(ANY, 53), role=2)
    table.feed(*talk.recv(query(), 7, 5000).send(reply(), 7, 5000).take())
    (peering,) = peerings(table)
    assert peering.side is Side.SERVER
    assert peering.server == Endpoint("", 53)
    assert peering.remote == end(7, 5000)


def test_peering_of_the_same_end_is_the_same_object(table):
    talk = Talk().open()
    for number in range(1, 4):
        talk.send(query(number), 1).recv(reply(number), 1)
    table.feed(*talk.take())
    first, *others = peerings(table)
    assert all(each is first for each in others)


def test_peerings_of_a_socket_are_bounded(table):
    talk = Talk().open(local=(ANY, 53), role=2)
    for port in range(1, MAX_PEERINGS + 10):
        talk.recv(query(), 7, port).send(reply(), 7, port)
    table.feed(*talk.take())
    assert len({each.remote for each in peerings(table)}) == MAX_PEERINGS + 9
    assert len(table.emitted[0][0].peerings) <= MAX_PEERINGS


def test_forwarder_is_on_both_sides(table):
    talk = Talk().open(local=(ANY, 53), role=2)
    talk.recv(query(1), 7, 5000).send(query(9), 1).recv(reply(9), 1).send(reply(1), 7, 5000)
    table.feed(*talk.take())
    assert [(each.side, each.remote) for each in peerings(table)] == [
        (Side.CLIENT, end(1)),
        (Side.SERVER, end(7, 5000)),
    ]


def test_role_is_what_the_messages_say(table):
    table.feed(
        *Talk().open(role=1, local=("10.0.0.9", 53)).recv(query(), 7).send(reply(), 7).take()
    )
    (peering,) = peerings(table)
    assert peering.side is Side.SERVER


def test_unknown_datagrams_are_stopped_after_a_few(table):
    talk = Talk().open(remote=("10.0.0.1", 443))
    for _ in range(4):
        talk.send(b"\xc3\0\0\0\1" + bytes(40))
    table.feed(*talk.take())
    assert table.source.actions(1) == [Action.STOP]
    assert table.counters.unknown_protocol == 1
    table.feed(*talk.send(query()).take())
    assert not table.emitted


def test_silence_is_reported_when_patience_ends(table):
    talk = Talk().open(remote=("10.0.0.1", 53))
    table.feed(*talk.send(query()).take())
    table.wait(PATIENCE_NS // 2)
    assert not table.emitted
    assert table.table.in_flight == 1
    table.wait(PATIENCE_NS)
    ((_, exchange),) = table.emitted
    assert exchange.error_type == "timeout"
    assert table.table.in_flight == 0


def test_what_waits_at_the_end_is_not_said_to_have_failed(table):
    table.feed(*Talk().open(remote=("10.0.0.1", 53)).send(query()).take())
    table.table.finish(table.now_ns)
    assert not table.emitted
    assert table.table.in_flight == 1


def test_silent_sockets_are_forgotten(table):
    asking = Talk(1).open(remote=("10.0.0.1", 53)).send(query()).recv(reply()).take()
    serving = Talk(2).open(local=(ANY, 53), role=2).recv(query(), 7).send(reply(), 7).take()
    table.feed(*asking, *serving)
    table.wait(SPENT_QUIET_NS - S)
    assert len(table.table.connections) == 2
    table.wait(2 * S)
    assert list(table.table.connections) == [2]
    assert table.counters.quiet == 0, "it was most likely closed"
    table.wait(UNENDED_QUIET_NS)
    assert not table.table.connections
    assert table.counters.quiet == 1


def test_forgotten_socket_that_speaks_again_has_to_say_who_it_is(table):
    table.feed(*Talk().open(remote=("10.0.0.1", 53)).send(query()).recv(reply()).take())
    table.wait(SPENT_QUIET_NS + S)
    assert table.source.actions(1) == [Action.ANNOUNCE]


def test_socket_that_waits_for_an_answer_is_not_spent(table):
    talk = Talk().open(remote=("10.0.0.1", 53)).send(query(1)).recv(reply(1)).send(query(2))
    table.feed(*talk.take())
    table.wait(SPENT_QUIET_NS + S)
    assert 1 in table.table.connections
    table.wait(PATIENCE_NS)
    table.wait(S)
    assert 1 not in table.table.connections


def test_answered_sockets_make_room_before_connections_do():
    table = Table(parsers={"http1": Http1Parser, "dns": DnsParser}, max_connections=64)
    table.feed(opened(1000))
    waiting = Talk(1001, START_NS + 1).open(remote=("10.0.0.1", 53)).send(query())
    table.feed(*waiting.take())
    for cookie in range(1, 500):
        talk = Talk(cookie, START_NS + cookie * MS).open(remote=("10.0.0.1", 53))
        table.feed(*talk.send(query()).recv(reply()).take())
    assert len(table.emitted) == 499
    assert {1000, 1001} <= table.table.connections.keys()
    assert len(table.table.connections) <= 64
    assert table.counters.evicted == 0, "what makes room had nothing more to say"


# -- sockets of which the record comes late, or never -------------------------------------


def test_unannounced_datagrams_have_the_peer_at_least(table):
    talk = Talk().send(query(1), 1).recv(reply(1), 1)
    table.feed(*talk.take())
    (peering,) = peerings(table)
    assert (peering.side, peering.transport, peering.remote) == (Side.CLIENT, UDP, end(1))
    assert table.source.actions(1) == [Action.ANNOUNCE]
    record = socket(local=("10.0.0.9", 40_000))
    table.feed(record, *talk.send(query(2), 1).recv(reply(2), 1).take())
    assert peerings(table)[1].local == Endpoint("10.0.0.9", 40_000)


def test_unannounced_connected_socket_is_known_once_it_is_announced(table):
    talk = Talk().send(query(1))
    table.feed(*talk.take())
    assert not isinstance(table.table.connections[1].session, DatagramSession)
    record = socket(remote=("10.0.0.1", 53))
    table.feed(record, *talk.recv(reply(1)).send(query(2)).recv(reply(2)).take())
    (peering,) = peerings(table)
    assert (peering.side, peering.remote) == (Side.CLIENT, end(1))


def test_record_of_a_stream_corrects_what_was_taken_for_datagrams(table):
    table.feed(moved(data=query(), peer=peer(1)))
    table.feed(opened())
    assert not isinstance(table.table.connections[1].session, DatagramSession)


def test_record_without_a_parser_stops_it():
    table = Table(parsers={"dns": DnsParser})
    table.feed(moved(data=query(), peer=peer(1)), opened())
    assert table.table.connections[1].session is None
    assert table.counters.no_parser == 1


# -- spans --------------------------------------------------------------------------------


def test_span_of_a_datagram(table):
    table.feed(
        *Talk().open(local=(ANY, 53), role=2).recv(query(), 7, 5000).send(reply(), 7, 5000).take()
    )
    maker = span_maker()
    span = maker.make(*table.emitted[0])
    attributes = span.attributes()
    assert span.kind is SpanKind.SERVER
    assert span.outline.name == "DNS A"
    assert attributes["network.transport"] == "udp"
    assert attributes["client.address"] == attributes["network.peer.address"] == "10.0.0.7"
    assert attributes["network.peer.port"] == 5000
    assert "server.address" not in attributes


@pytest.mark.parametrize(
    ("transport", "told"), [(UDP, "udp"), (Transport.TCP, None), (Transport.UNIX, "unix")]
)
def test_transport_of_a_peering(transport, told):
    peering = Peering(Side.CLIENT, transport, end(1), end(2), late=False)
    assert peering.attributes().get("network.transport") == told


# -- recordings ---------------------------------------------------------------------------


def run(source, writer=None):
    collected = Collected()
    registry = Registry({"http1": Http1Parser, "dns": DnsParser}, Options())
    pipeline = Pipeline(source, registry, [collected], seed=42, writer=writer)
    pipeline.run()
    return collected.spans, pipeline


def recorded(path, events, **options):
    source = PlayedSource(batches_of(events, **options))
    recorder = Recorder(path, source, seed=42, snaplen=4096)
    spans, pipeline = run(recorder, recorder)
    recorder.close()
    again = open_source(path)
    replayed, replayed_pipeline = run(again)
    again.close()
    assert replayed == spans
    assert replayed_pipeline.table.tally == pipeline.table.tally
    assert replayed_pipeline.table.counters == pipeline.table.counters
    return spans


@pytest.mark.parametrize("per_batch", [1, 3, 100])
def test_recording_replays_to_the_same_spans_without_what_nobody_read(tmp_path, per_batch):
    talk = Talk().open(local=(ANY, 53), role=2)
    talk.recv(b"secret datagram", 9, 9)
    for number in range(1, 9):
        talk.recv(query(number), number, 5000).send(
            reply(number, text='"secret text"'), number, 5000
        )
        talk.recv(b"secret garbage", 9, 9)
    talk.recv(query(99, "silent.example."), 9, 9)
    asks = Talk(2).open(remote=("10.0.0.1", 53)).send(query()).send(query()).recv(reply())
    strange = Talk(3).open(remote=("10.0.0.1", 443))
    for _ in range(9):
        strange.send(b"secret of another protocol")
    events = [*talk.take(), *asks.take(), *strange.take()]
    spans = recorded(tmp_path / "a.wspan", events, per_batch=per_batch)
    assert len(spans) == 9
    assert b"secret" not in plain(tmp_path / "a.wspan")


def test_datagrams_that_are_told_out_of_order_are_recorded(tmp_path):
    """Two threads that send on one socket."""
    talk = Talk().open(local=(ANY, 53), role=2)
    for number in range(1, 9):
        talk.recv(query(number), number, 5000)
    for number in range(1, 9):
        talk.send(reply(number), number, 5000)
    opening, *received = talk.take()
    sent = received[8:]
    sent[0], sent[1], sent[3], sent[5] = sent[1], sent[3], sent[5], sent[0]
    events = [opening, *received[:8]]
    for at, event in enumerate(sent):
        events.append(
            moved(
                1,
                OUT,
                data=event.data,
                position=event.position,
                peer=event.peer,
                timestamp_ns=START_NS + 20 * MS + at,
            )
        )
    assert len(recorded(tmp_path / "a.wspan", events, per_batch=100)) == 8
    assert len(recorded(tmp_path / "b.wspan", events, per_batch=1)) == 8
