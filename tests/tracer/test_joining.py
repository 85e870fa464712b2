# SPDX-License-Identifier: Apache-2.0
"""One exchange seen from both ends: one trace, the server's span below the client's."""

from __future__ import annotations

import dns.message
import dns.rrset
import pytest

from parsers.dns import DnsParser
from parsers.http2 import Http2Parser
from parsers.http2_frames import PREFACE, SETTINGS
from parsers.model import Transport
from tests.parsers.http2_bytes import frame, get, head, status
from tests.tracer.fakes import GET, MS, OK, S, Table, moved, opened, span_maker
from tracer import joining
from tracer.events import INNER, INNER_BIT, address_bytes
from tracer.span import SpanKind

CLIENT, SERVER = 1, 2
IN, OUT = 0, 1
"""Cookies of the two ends."""


class Machine(Table):
    """Both ends of connections, and the spans made of them."""

    def __init__(self, **options):
        super().__init__(**options)
        self.spans = []
        maker = span_maker(7, self.table)
        self.joining = maker.maker._joining
        self.table.emit = lambda *found: self.spans.append(maker.make(*found))
        self.positions = {}
        self.turns = {}

    def connect(
        self, client=CLIENT, server=SERVER, *, ip="10.0.0.1", port=40_000, netns=(1, 1), **changes
    ):
        here, there = (address_bytes(ip), port), (address_bytes(ip), 80)
        for cookie, role, local, remote, ns in (
            (client, 1, here, there, netns[0]),
            (server, 2, there, here, netns[1]),
        ):
            if cookie:
                self.feed(
                    opened(
                        cookie,
                        role=role,
                        tgid=cookie,
                        local=local[0],
                        local_port=local[1],
                        remote=remote[0],
                        remote_port=remote[1],
                        comm=("curl" if role == 1 else "nginx").encode(),
                        netns=ns,
                        **changes,
                    )
                )

    def move(self, cookie, direction, data, **changes):
        position = self.positions.get((cookie, direction), 0)
        before, turn = self.turns.get(cookie, (None, 0))
        turn += before != direction
        flags = 8 if before != direction else 0
        self.positions[cookie, direction] = position + len(data)
        self.turns[cookie] = direction, turn
        self.feed(
            moved(
                cookie,
                direction,
                data=data,
                position=position,
                turn=turn,
                flags=flags,
                timestamp_ns=self.now_ns + MS,
                tgid=cookie & 0xF,
                **changes,
            )
        )

    def ask(self, request=GET, client=CLIENT, server=SERVER):
        self.move(client, OUT, request)
        self.move(server, IN, request)

    def answer(self, response=OK, order=(SERVER, CLIENT)):
        for cookie in order:
            self.move(cookie, OUT if cookie == SERVER else IN, response)

    def by_kind(self):
        clients = [span for span in self.spans if span.kind is SpanKind.CLIENT]
        servers = [span for span in self.spans if span.kind is SpanKind.SERVER]
        return clients, servers


def assert_joined(client, server):
    assert server.trace_id == client.trace_id
    assert server.parent_span_id == client.span_id
    assert client.parent_span_id == b""
    assert server.span_id != client.span_id
    assert (client.peer, server.peer) == (server.process, client.process)
    assert server.twin
    assert (client.peer_name, server.peer_name) == ("nginx", "curl")


@pytest.mark.parametrize("order", [(SERVER, CLIENT), (CLIENT, SERVER)])
def test_whichever_end_is_done_first(order):
    machine = Machine()
    machine.connect()
    for _ in range(3):
        machine.ask()
        machine.answer(order=order)
    clients, servers = machine.by_kind()
    for client, server in zip(clients, servers, strict=True):
        assert_joined(client, server)
    assert len({span.trace_id for span in machine.spans}) == 3
    assert len({span.span_id for span in machine.spans}) == 6


def test_pipelined_requests_are_joined_each_with_its_own():
    machine = Machine()
    machine.connect()
    machine.ask(GET * 3)
    machine.answer(OK * 3)
    clients, servers = machine.by_kind()
    assert len(clients) == len(servers) == 3
    for client, server in zip(clients, servers, strict=True):
        assert_joined(client, server)


def test_streams_that_end_in_another_order_at_each_end():
    machine = Machine(parsers={"http2": Http2Parser})
    machine.connect()
    machine.ask(PREFACE + frame(SETTINGS, 0, 0) + get(1) + get(3))
    first, second = head(3, status(200)), head(1, status(204))
    machine.move(SERVER, OUT, frame(SETTINGS, 0, 0) + first + second)
    machine.move(CLIENT, IN, frame(SETTINGS, 0, 0) + first + second)
    clients, servers = machine.by_kind()
    assert len(clients) == 2
    for client, server in zip(clients, servers, strict=True):
        assert_joined(client, server)


def test_a_client_elsewhere_leaves_the_server_without_a_parent():
    machine = Machine()
    machine.connect(client=0)
    machine.move(SERVER, IN, GET)
    machine.move(SERVER, OUT, OK)
    (span,) = machine.spans
    assert (span.parent_span_id, span.peer, span.peer_name) == (b"", None, "")


def test_a_client_whose_socket_is_not_parsed_is_named_and_no_parent():
    machine = Machine()
    machine.connect()
    machine.move(SERVER, IN, GET)
    machine.table.connections[CLIENT].session = None
    machine.move(SERVER, OUT, OK)
    (span,) = machine.spans
    assert span.parent_span_id == b""
    assert span.peer_name == "curl"
    assert not span.twin, "so that it is counted"


def test_loopback_of_another_namespace_is_another_connection():
    machine = Machine()
    machine.connect(ip="127.0.0.1", netns=(1, 2))
    machine.ask()
    machine.answer()
    assert all(span.parent_span_id == b"" and span.peer is None for span in machine.spans)


def test_other_addresses_are_the_same_in_every_namespace():
    machine = Machine()
    machine.connect(netns=(1, 2))
    machine.ask()
    machine.answer()
    ((client,), (server,)) = machine.by_kind()
    assert_joined(client, server)


def test_lost_bytes_at_one_end_join_nothing_wrongly():
    machine = Machine()
    machine.connect()
    machine.move(CLIENT, OUT, GET)
    machine.positions[SERVER, IN] = len(GET)  # never seen there
    machine.turns[SERVER] = (OUT, 2)
    machine.move(CLIENT, IN, OK)
    machine.positions[SERVER, OUT] = len(OK)
    machine.ask()
    machine.answer()
    clients, servers = machine.by_kind()
    assert len(clients) == 2
    assert [span.parent_span_id for span in servers] == [clients[1].span_id]


def test_inside_tls_both_ends_are_joined_by_what_carries_them():
    machine = Machine()
    machine.connect()
    inner = {CLIENT: INNER_BIT | 0x11, SERVER: INNER_BIT | 0x12}
    for cookie, role in ((CLIENT, 1), (SERVER, 2)):
        machine.feed(
            opened(
                inner[cookie], role=role, carrier=cookie, flags=INNER, tgid=cookie, remote_port=0
            )
        )
    machine.move(inner[CLIENT], OUT, GET)
    machine.move(inner[SERVER], IN, GET)
    machine.move(inner[SERVER], OUT, OK)
    machine.move(inner[CLIENT], IN, OK)
    ((client,), (server,)) = machine.by_kind()
    assert server.parent_span_id == client.span_id
    assert server.trace_id == client.trace_id


def test_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(joining, "MAX_PENDING", 2)
    machine = Machine()
    machine.connect()
    machine.ask(GET * 4)
    machine.move(CLIENT, IN, OK * 4)
    machine.move(SERVER, OUT, OK * 4)
    assert len(machine.spans) == 8
    assert len(machine.joining._waiting) == 2


# -- datagrams ----------------------------------------------------------------------------


def query(number):
    return dns.message.make_query("shop.example.", "A", id=number).to_wire()


def reply(number):
    message = dns.message.make_response(dns.message.from_wire(query(number)))
    message.answer.append(dns.rrset.from_text("shop.example.", 60, "IN", "A", "10.1.2.3"))
    return message.to_wire()


@pytest.mark.parametrize("order", [(SERVER, CLIENT), (CLIENT, SERVER)])
@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
def test_a_resolver_and_its_name_server(order, bound):
    machine = Machine(parsers={"dns": DnsParser})
    any_address, host = address_bytes("0.0.0.0"), address_bytes("127.0.0.1")
    common = {"transport": Transport.UDP}
    machine.feed(
        opened(
            CLIENT, role=1, tgid=CLIENT, local=host, local_port=5000, remote=host, remote_port=53,
            comm=b"curl", **common,
        ),
        opened(
            SERVER, role=2, tgid=SERVER, local=address_bytes(bound), local_port=53,
            remote=any_address, remote_port=0, comm=b"nginx", **common,
        ),
    )  # fmt: skip
    for _ in range(2):  # the same number again is another transaction
        for cookie, direction, data in (
            (CLIENT, OUT, query(9)),
            (SERVER, IN, query(9)),
            *[(each, OUT if each == SERVER else IN, reply(9)) for each in order],
        ):
            port = 53 if cookie == CLIENT else 5000
            machine.move(cookie, direction, data, peer=(host, port))
        machine.now_ns += S
    clients, servers = machine.by_kind()
    assert len(clients) == 2
    for client, server in zip(clients, servers, strict=True):
        assert_joined(client, server)
    assert clients[0].trace_id != clients[1].trace_id


HOST, ANYWHERE = address_bytes("127.0.0.1"), address_bytes("0.0.0.0")


def resolver(cookie, role, port, remote=None, remote_port=0, local=HOST, name=b"dnsmasq"):
    return opened(
        cookie, role=role, tgid=cookie, transport=Transport.UDP, local=local, local_port=port,
        remote=remote or ANYWHERE, remote_port=remote_port, comm=name,
    )  # fmt: skip


def test_a_name_server_elsewhere_is_not_the_one_that_listens_everywhere_here():
    machine = Machine(parsers={"dns": DnsParser})
    there = address_bytes("192.0.2.53")
    machine.feed(
        resolver(SERVER, 2, 53, local=ANYWHERE),
        resolver(CLIENT, 1, 5000, there, 53, local=address_bytes("10.0.0.1"), name=b"app"),
    )
    machine.move(CLIENT, OUT, query(9), peer=(there, 53))
    machine.move(CLIENT, IN, reply(9), peer=(there, 53))
    (span,) = machine.spans
    assert (span.peer, span.twin, span.peer_name) == (None, False, "192.0.2.53:53")


def test_a_forwarder_is_not_its_own_upstream():
    machine = Machine(parsers={"dns": DnsParser})
    there = address_bytes("192.0.2.53")
    machine.feed(resolver(SERVER, 2, 53, local=ANYWHERE))
    for number in (1, 1, 2):
        machine.move(SERVER, OUT, query(number), peer=(there, 53))
        machine.move(SERVER, IN, reply(number), peer=(there, 53))
    assert [span.peer for span in machine.spans] == [None] * 3


def test_a_client_elsewhere_with_the_port_of_a_resolver_here_is_no_parent():
    machine = Machine(parsers={"dns": DnsParser})
    there = address_bytes("192.0.2.9")
    machine.feed(resolver(SERVER, 2, 53, local=ANYWHERE), resolver(3, 1, 40_000, local=ANYWHERE))
    machine.move(SERVER, IN, query(9), peer=(there, 40_000))
    machine.move(SERVER, OUT, reply(9), peer=(there, 40_000))
    (span,) = machine.spans
    assert (span.parent_span_id, span.peer, span.twin) == (b"", None, False)


def test_the_same_number_again_at_the_same_end_joins_nothing():
    machine = Machine(parsers={"dns": DnsParser})
    machine.feed(resolver(CLIENT, 1, 5000, HOST, 53, name=b"app"))
    for _ in range(3):
        machine.move(CLIENT, OUT, query(9), peer=(HOST, 53))
        machine.move(CLIENT, IN, reply(9), peer=(HOST, 53))
    assert [(span.peer, span.parent_span_id) for span in machine.spans] == [(None, b"")] * 3
    assert len({span.trace_id for span in machine.spans}) == 3


def test_ids_are_those_of_the_seed():
    def spans():
        machine = Machine()
        machine.connect()
        for _ in range(300):
            machine.ask()
            machine.answer()
        return [(span.trace_id, span.span_id, span.parent_span_id) for span in machine.spans]

    assert spans() == spans()
    assert len({span_id for _, span_id, _ in spans()}) == 600
