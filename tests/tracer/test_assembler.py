# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tracer import assembler as assembler_module
from tracer.assembler import Assembler
from tracer.dissect import Datagram, Segment
from tracer.events import (
    EGRESS,
    EOF,
    HAS_PEER,
    INGRESS,
    LATE,
    TURN_START,
    CloseEvent,
    CloseReason,
    DataEvent,
    OpenEvent,
)
from tracer.reassembly import ACK, FIN, RST, SYN

CLIENT = (bytes(15) + b"\2", 40000)
SERVER = (bytes(15) + b"\1", 80)
MS = 1_000_000


def asks(head):
    return {b"?": True, b"!": False}.get(head[:1])


class Wire:
    """Segments between a client and a server, straight into an assembler."""

    def __init__(self, client=CLIENT, server=SERVER, assembler=None):
        self.ends = (client, server)
        self.assembler = assembler or Assembler(asks)
        self.sequence = [2**32 - 3, 500]
        self.now_ns = 10**9

    def segment(self, side, data=b"", flags=ACK, size=None, after_ns=MS):
        self.now_ns += after_ns
        size = len(data) if size is None else size
        sent = Segment(
            self.now_ns,
            self.ends[side],
            self.ends[1 - side],
            self.sequence[side],
            self.sequence[1 - side] if flags & ACK else 0,
            flags,
            data,
            size,
        )
        step = size + bool(flags & (SYN | FIN))
        self.sequence[side] = (self.sequence[side] + step) % 2**32
        return sent

    def send(self, *arguments, **options):
        self.assembler.segment(self.segment(*arguments, **options))
        return self

    def shake(self):
        return self.send(0, flags=SYN).send(1, flags=SYN | ACK).send(0)

    def events(self):
        return self.assembler.take_events()


def moved(events):
    return [(each.direction, each.data) for each in events if isinstance(each, DataEvent)]


def test_handshake_opens_a_connection_with_both_positions_and_rtt():
    events = Wire().shake().send(0, b"?").events()
    opened, data = events
    assert isinstance(opened, OpenEvent)
    assert (opened.role, opened.flags) == (1, 0)
    assert (opened.local, opened.local_port) == CLIENT
    assert (opened.remote, opened.remote_port) == SERVER
    assert (opened.egress_position, opened.ingress_position) == (2**32 - 2, 501)
    assert data.position == 2**32 - 2
    assert data.rtt_us == 2000


def test_turns_are_counted_and_their_first_transfer_is_marked():
    wire = Wire().shake().send(0, b"?a").send(0, b"b").send(1, b"!").send(0, b"?")
    data = [each for each in wire.events() if isinstance(each, DataEvent)]
    assert [each.turn for each in data] == [1, 1, 2, 3]
    assert [bool(each.flags & TURN_START) for each in data] == [True, False, True, True]
    counters = wire.assembler.counters()[0]
    assert (counters.events, counters.bytes) == (4, 5)
    assert (counters.requests, counters.responses, counters.turns) == (2, 1, 0)


def test_orderly_end_marks_the_servers_and_closes_once():
    wire = Wire().shake().send(0, b"?").send(1, b"!").send(1, flags=FIN | ACK)
    wire.send(0, flags=FIN | ACK).send(1)
    *_, end, closed = wire.events()
    assert end.flags == EOF
    assert (end.direction, end.size) == (INGRESS, 0)
    assert isinstance(closed, CloseEvent)
    assert (closed.reason, closed.turns) == (CloseReason.CLOSED, 2)


@pytest.mark.parametrize("side", [0, 1])
def test_reset_closes(side):
    *_, closed = Wire().shake().send(0, b"?").send(side, flags=RST).events()
    assert closed.reason == CloseReason.RESET


def test_refused_connection_is_told_from_a_reset_one():
    *_, closed = Wire().send(0, flags=SYN).send(1, flags=RST | ACK).events()
    assert closed.reason == CloseReason.REFUSED


def test_segments_after_the_close_are_counted_and_open_nothing():
    wire = Wire().shake().send(0, b"?").send(1, flags=RST)
    wire.events()
    wire.send(0, b"late").send(1, b"later").send(0)
    assert wire.events() == []
    assert wire.assembler.unused == {"after_close": 2}


def test_same_ends_again_are_another_connection():
    wire = Wire().shake().send(0, b"?").send(1, flags=RST)
    again = Wire(assembler=wire.assembler)
    again.now_ns = wire.now_ns
    again.sequence = [77, 88]
    again.shake().send(0, b"?")
    opened = [each for each in wire.events() if isinstance(each, OpenEvent)]
    assert [each.cookie for each in opened] == [1, 2]


def test_syn_on_a_connection_that_seemed_open_ends_it():
    wire = Wire().shake().send(0, b"?")
    wire.sequence = [7777, 8888]
    wire.shake().send(0, b"?")
    kinds = [type(each).__name__ for each in wire.events()]
    assert kinds == ["OpenEvent", "DataEvent", "CloseEvent", "OpenEvent", "DataEvent"]


def test_captured_twice_is_seen_once():
    wire = Wire()
    for side, data, flags in [
        (0, b"", SYN),
        (1, b"", SYN | ACK),
        (0, b"", ACK),
        (0, b"?abc", ACK),
        (1, b"!def", ACK),
        (1, b"", FIN | ACK),
        (0, b"", FIN | ACK),
        (1, b"", ACK),
    ]:
        segment = wire.segment(side, data, flags)
        wire.assembler.segment(segment)
        wire.assembler.segment(segment)
    events = wire.events()
    assert moved(events) == [(EGRESS, b"?abc"), (INGRESS, b"!def"), (INGRESS, b"")]
    assert sum(isinstance(each, CloseEvent) for each in events) == 1


def test_answer_to_a_syn_may_be_captured_before_it():
    wire = Wire()
    syn, answer = wire.segment(0, flags=SYN), wire.segment(1, flags=SYN | ACK)
    wire.assembler.segment(answer)
    wire.assembler.segment(syn)
    wire.send(0).send(0, b"?")
    opened, data = wire.events()
    assert (opened.role, opened.local) == (1, CLIENT[0])
    assert data.data == b"?"


def test_connection_without_a_syn_is_late_and_its_role_not_certain():
    opened, *_ = Wire().send(0, b"?").events()
    assert (opened.flags, opened.role) == (LATE, 0)


@pytest.mark.parametrize(
    ("ports", "side", "head", "client"),
    [
        ((40000, 80), 0, b"x", 0),
        ((40000, 80), 1, b"x", 0),
        ((40000, 50051), 0, b"?", 0),
        ((40000, 50051), 1, b"!", 0),
    ],
)
def test_without_a_syn_payload_and_then_ports_say_who_is_the_client(ports, side, head, client):
    wire = Wire((CLIENT[0], ports[0]), (SERVER[0], ports[1])).send(side, head)
    opened, data = wire.events()
    assert opened.local_port == ports[client]
    assert data.direction == (EGRESS if side == client else INGRESS)


def test_server_known_from_another_connection_is_certain():
    first = Wire((CLIENT[0], 1), (SERVER[0], 50051)).shake()
    late = Wire((CLIENT[0], 2), (SERVER[0], 50051), first.assembler).send(1, b"x")
    opened = [each for each in late.events() if isinstance(each, OpenEvent)][-1]
    assert (opened.role, opened.flags, opened.local_port) == (1, LATE, 2)


def test_acknowledgment_of_an_unknown_connection_opens_nothing():
    wire = Wire().send(0).send(1)
    assert wire.events() == []
    assert wire.assembler.unused == {"unknown_connection": 2}


def test_each_client_address_is_one_process():
    first = Wire().shake().send(0, b"?")
    Wire((CLIENT[0], 2), assembler=first.assembler).shake().send(0, b"?")
    Wire((bytes(15) + b"\3", 2), assembler=first.assembler).shake().send(0, b"?")
    opened = [each for each in first.events() if isinstance(each, OpenEvent)]
    assert [each.tgid for each in opened] == [1, 1, 2]


def test_table_of_connections_is_bounded(monkeypatch):
    monkeypatch.setattr(assembler_module, "MAX_CONNECTIONS", 10)
    wire = Wire().shake()
    for port in range(1, 30):
        Wire((CLIENT[0], port), assembler=wire.assembler).shake()
    assert len(wire.assembler._talks) == 10
    assert wire.assembler.unused["forgotten_connections"] == 20


def test_closed_connections_are_forgotten_in_time():
    wire = Wire().shake().send(0, flags=RST)
    wire.assembler.settle(wire.now_ns + 2 * assembler_module.CLOSED_NS)
    assert not wire.assembler._talks


def datagram(source, destination, data, at_ns):
    return Datagram(at_ns, source, destination, data, len(data))


def test_datagrams_go_both_ways_with_the_servers_address():
    assembler = Assembler(asks)
    assembler.datagram(datagram(CLIENT, (SERVER[0], 53), b"ask", MS))
    assembler.datagram(datagram((SERVER[0], 53), CLIENT, b"tell", 2 * MS))
    opened, ask, tell = assembler.take_events()
    assert (opened.transport, opened.role, opened.remote_port) == (2, 1, 53)
    assert (ask.direction, ask.data, ask.position, ask.turn) == (EGRESS, b"ask", 0, 1)
    assert (tell.direction, tell.data, tell.position, tell.turn) == (INGRESS, b"tell", 0, 2)
    assert ask.peer == tell.peer == (SERVER[0], 53)
    assert DataEvent.unpack_from(ask.pack(), 0).flags & HAS_PEER


def test_well_known_port_serves_although_it_is_seen_first():
    assembler = Assembler(asks)
    assembler.datagram(datagram((SERVER[0], 53), CLIENT, b"tell", MS))
    opened, tell = assembler.take_events()
    assert opened.local_port == CLIENT[1]
    assert tell.direction == INGRESS


def test_datagram_captured_on_two_interfaces_is_one():
    assembler = Assembler(asks)
    for at_ns in (MS, MS + 10_000, 5_000 * MS):
        assembler.datagram(datagram(CLIENT, (SERVER[0], 53), b"ask", at_ns))
    assert len(assembler.take_events()) == 3
    assert assembler.unused == {"captured_twice": 1}
