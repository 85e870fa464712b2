# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import pytest

from parsers.datagram_pairing import NOBODY
from parsers.datagrams import MAX_MISFITS, MAX_MISFITS_AT_PORT, DatagramSession
from parsers.model import Completeness, Endpoint, Options, Side
from parsers.stream import Kept
from parsers.tally import Tally
from tests.parsers.packets import OtherParser, PacketParser

IN, OUT = 0, 1
SERVER = Endpoint("10.0.0.1", 99)


class Socket:
    """A session, fed with positions and times as a kernel would."""

    def __init__(self, side=Side.UNKNOWN, *, local=40_000, remote=NOBODY, **options):
        self.tally = Tally()
        parsers = options.pop("parsers", [OtherParser, PacketParser])
        self.session = DatagramSession(
            lambda: parsers, Options(), side, self.tally, late=False, **options
        )
        self.session.bind(local, remote)
        self.session.begin_at(0, 0)
        self.ends = [0, 0]
        self.now_ns = 0

    def move(self, direction, data, peer=None, *, size=None, seen=True):
        self.now_ns += 1000
        position = self.ends[direction]
        size = len(data) if size is None else size
        self.ends[direction] = (position + size) % 2**32
        if peer is not None:
            self.session.peer = peer
        if seen:
            self.session.feed(direction, self.now_ns, position, size, data, 1, 0)
        return self

    def recv(self, data, peer=None, **more):
        return self.move(IN, data, peer, **more)

    def send(self, data, peer=None, **more):
        return self.move(OUT, data, peer, **more)

    def said(self):
        return [
            (each.request.text, each.response and each.response.text, each.completeness.value)
            for each in self.session.done
        ]


def test_side_is_that_of_the_first_message():
    asking = Socket().send(b"?1 a").recv(b"!1 b")
    serving = Socket().recv(b"?1 a").send(b"!1 b")
    late = Socket().send(b"!1 b")
    assert asking.session.side is Side.CLIENT
    assert serving.session.side is late.session.side is Side.SERVER
    assert asking.said() == serving.said() == [("a", "b", "complete")]
    assert asking.session.parser.name == "packets"


def test_extent_and_times_are_the_datagrams():
    told = Socket().send(b"?1 a").recv(b"!1 bcd")
    (exchange,) = told.session.done
    request, response = exchange.request, exchange.response
    assert (request.size, response.size) == (4, 6)
    assert (request.first_ns, request.last_ns) == (1000, 1000)
    assert (response.first_ns, response.last_ns) == (2000, 2000)
    assert exchange.protocol == "packets"
    assert told.tally.exchanges == 1


@pytest.mark.parametrize("port", [7777, 1234])
def test_port_breaks_a_tie(port):
    ours = Socket(remote=Endpoint("10.0.0.1", port)).send(b"?1")
    theirs = Socket(local=port).recv(b"?1", SERVER)
    by_peer = Socket().send(b"?1", Endpoint("10.0.0.1", port))
    for each in (ours, theirs, by_peer):
        assert (each.session.parser is not None) is (port == 7777)


def test_what_fits_nothing_is_given_up_soon():
    told = Socket()
    for index in range(MAX_MISFITS):
        assert told.session.opaque is None
        told.send(b"\x80%d" % index)
    assert told.session.opaque == "unknown"
    told.send(b"?1 a")
    assert told.session.parser is None
    assert not told.tally.parse_errors


def test_strangers_at_a_known_port_are_borne_longer():
    told = Socket(local=7777)
    for _ in range(MAX_MISFITS_AT_PORT - 1):
        told.recv(b"\x80", Endpoint("6.6.6.6", 6))
    told.recv(b"?1 a", SERVER).send(b"!1 b", SERVER)
    assert told.said() == [("a", "b", "complete")]
    told = Socket(local=7777)
    for _ in range(MAX_MISFITS_AT_PORT):
        told.recv(b"\x80", Endpoint("6.6.6.6", 6))
    assert told.session.opaque == "unknown"


def test_mistakes_cost_themselves_where_it_is_known_to_be_the_protocol():
    told = Socket().send(b"?1 a").recv(b"!1 b")
    for _ in range(100):
        told.recv(b"\x80")
    told.send(b"?2 c").recv(b"!2 d")
    assert told.said() == [("a", "b", "complete"), ("c", "d", "complete")]
    assert told.tally.parse_errors == {"packets": 100}
    assert not told.tally.demotions


def test_mistakes_take_back_what_was_never_answered():
    told = Socket().send(b"?1 a").send(b"?2 b")
    for _ in range(MAX_MISFITS):
        told.send(b"\x80")
    assert told.session.opaque == "unknown"
    assert told.tally.demotions == 1
    assert told.tally.abandoned_requests == 2
    assert not told.session.done


def test_socket_may_ask_and_answer():
    told = Socket(Side.SERVER).recv(b"?1 a", SERVER).send(b"?7 b", Endpoint("10.0.0.9", 9))
    told.recv(b"!7 c", Endpoint("10.0.0.9", 9)).send(b"!1 d", SERVER)
    asked, served = told.session.done
    assert (asked.side, asked.remote) == (Side.CLIENT, Endpoint("10.0.0.9", 9))
    assert (served.side, served.remote) == (None, SERVER)


def test_connected_socket_says_nothing_of_its_peer():
    told = Socket(remote=SERVER).send(b"?1 a").recv(b"!1 b", SERVER)
    (exchange,) = told.session.done
    assert (exchange.side, exchange.remote) == (None, None)


def test_what_was_captured_in_part_is_truncated():
    told = Socket().send(b"?1 a").recv(b"!1 b", size=100)
    assert told.said() == [("a", "b", "truncated")]


def test_parser_may_know_of_a_loss():
    told = Socket().send(b"?1 gap").recv(b"!1 b")
    assert told.said() == [("gap", "b", "gap")]


def test_what_was_not_captured_is_lost():
    told = Socket().send(b"?1 a").recv(b"", size=100)
    told.session.expire(10**12)
    assert told.said() == [("a", None, "gap")]
    assert told.session.done[0].error_type is None


def test_messages_of_no_account():
    told = Socket().send(b"?1 a").recv(b"!1 nothing").recv(b"!+ wait").recv(b"!1 b")
    assert told.said() == [("a", "b", "complete")]
    assert not told.tally.unpaired_responses


def test_bytes_that_were_read_may_be_kept():
    told = Socket(keep=True).send(b"\x80").send(b"?1 a").recv(b"!1 b").recv(b"\x80")
    assert told.session.kept == [Kept(OUT, 1, 4), Kept(IN, 0, 4)]
    assert told.session.undecided(IN) == told.session.undecided(OUT) == 0


def test_giving_up_reports_what_waits():
    told = Socket().send(b"?1 a")
    told.session.give_up("left")
    assert told.said() == [("a", None, "gap")]
    assert told.session.opaque == "left"
    assert not told.session.unsettled


def test_positions_wrap():
    told = Socket()
    told.session.begin_at(2**32 - 2, 2**32 - 2)
    told.ends = [2**32 - 2, 2**32 - 2]
    told.send(b"?1 a").send(b"?2 b")
    told.session.expire(10**12)
    assert [each.completeness for each in told.session.done] == [Completeness.UNANSWERED] * 2


def test_two_threads_may_be_told_in_either_order():
    told = Socket().send(b"?1 a").send(b"?2 b")
    for position, data in ((4, b"!2 d"), (0, b"!1 c"), (8, b"!9 z")):
        told.session.feed(IN, 9000 + position, position, 4, data, 1, 0)
    assert told.said() == [("b", "d", "complete"), ("a", "c", "complete")]
    told.now_ns = 20_000
    told.send(b"?3 e").recv(b"", size=0)
    assert told.session._ends[IN] == 12


def test_anything_at_all_raises_nothing():
    random_ = random.Random(1)
    told = Socket(local=7777)
    for _ in range(3000):
        data = random_.choice([b"?", b"!", b"\x80"]) + random_.randbytes(random_.randrange(3))
        data += random_.choice([b"", b" x"])
        peer = Endpoint("10.0.0.1", random_.randrange(4))
        told.move(random_.randrange(2), data.replace(b"\xff", b""), peer, size=len(data) + 1)
        told.session.idle(told.now_ns)
