# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.detection import (
    PROBE_BYTES,
    PROBE_TRANSFERS,
    PROBE_TURNS,
    TURN_START,
    Detection,
    Transfer,
)
from parsers.http1 import Http1Parser
from parsers.model import Kind, Side
from tests.parsers.corpus import Player, Step
from tests.parsers.lines import LineParser

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SERVES = (Kind.REQUEST, Kind.RESPONSE)
ASKS = (Kind.RESPONSE, Kind.REQUEST)


class Offers:
    """Offers transfers as they would follow each other."""

    def __init__(self, side=Side.SERVER, *, late=False, parsers=(Http1Parser, LineParser)):
        self.detection = Detection(lambda: list(parsers), side, late=late)
        self.positions = [100, 2**32 - 3]
        self.turn = 0
        self.direction = None

    def __call__(self, direction, data, *, size=None, skip=0, flags=None):
        if direction != self.direction:
            self.direction = direction
            self.turn += 1
            flags = TURN_START if flags is None else flags
        size = len(data) if size is None else size
        position = (self.positions[direction] + skip) % 2**32
        self.positions[direction] = (position + size) % 2**32
        return self.detection.offer(
            Transfer(direction, 0, position, size, data, self.turn, flags or 0)
        )


def test_first_line_of_a_request_decides():
    offer = Offers()
    choice = offer(0, b"GET / HTTP/1.1\r\n")
    assert choice == (Http1Parser, SERVES, (True, False))
    assert len(offer.detection.release()) == 1
    assert offer.detection.held_bytes == 0


def test_transfers_are_held_until_it_is_clear():
    offer = Offers()
    assert offer(0, b"GET ") is None
    assert offer(0, b"/index") is None
    assert not offer.detection.failed
    assert offer.detection.span(0) == 10
    assert offer.detection.span(1) == 0
    assert offer(0, b" HTTP/1.0\n").parser is Http1Parser
    assert [each.data for each in offer.detection.release()] == [b"GET ", b"/index", b" HTTP/1.0\n"]


def test_span_counts_what_was_lost_between_and_wraps():
    offer = Offers(Side.CLIENT)
    offer(1, b"GET /")
    offer(1, b"abc", skip=10)
    assert offer.detection.span(1) == 18


@pytest.mark.parametrize(
    ("side", "direction", "data", "kinds"),
    [
        (Side.UNKNOWN, 0, GET, SERVES),
        (Side.UNKNOWN, 1, GET, ASKS),
        (Side.UNKNOWN, 0, OK, ASKS),
        (Side.UNKNOWN, 1, OK, SERVES),
        (Side.CLIENT, 1, GET, ASKS),
    ],
)
def test_payload_tells_the_side_where_the_kernel_did_not(side, direction, data, kinds):
    assert Offers(side)(direction, data).kinds == kinds


def test_side_that_is_known_is_not_questioned():
    offer = Offers(Side.CLIENT)
    assert offer(0, GET) is None
    assert offer.detection.failed


def test_other_direction_may_speak_against_it():
    offer = Offers()
    assert offer(1, b"220 ready\r\n") is None
    assert offer.detection.failed


def test_likely_on_both_sides_is_enough():
    offer = Offers()
    assert offer(0, b"GET /" + b"a" * 2000) is None
    assert offer(1, b"HTTP/1.1 200").parser is Http1Parser


def test_head_behind_a_cut_or_a_gap_is_not_joined_to_what_was_before():
    offer = Offers()
    assert offer(0, b"GET /", size=500) is None
    assert offer(0, b" HTTP/1.1\r\n") is None
    gap = Offers()
    assert gap(0, b"GET /") is None
    assert gap(0, b" HTTP/1.1\r\n", skip=5) is None
    assert gap(0, b" HTTP/1.1\r\n") is None


def test_what_is_held_is_bounded_in_bytes():
    offer = Offers()
    piece = b"a" * 1000
    assert offer(0, b"GET /") is None
    for _ in range(PROBE_BYTES // len(piece) + 1):
        assert offer(0, piece) is None
        assert offer.detection.held_bytes <= PROBE_BYTES + len(piece)
    assert offer.detection.failed


def test_what_is_held_is_bounded_in_transfers():
    offer = Offers()
    offer(0, b"GET /")
    for _ in range(PROBE_TRANSFERS):
        assert offer(0, b"a") is None
    assert offer.detection.failed
    assert offer.detection.held == []


def test_late_connection_is_looked_at_where_turns_begin():
    offer = Offers(late=True)
    assert offer(0, b"\x00\x01") is None
    assert offer(0, GET) is None, "in the middle of a turn"
    assert not offer.detection.failed
    assert offer(1, b"\x02") is None
    assert offer(0, GET).begun == (True, False)


def test_late_connection_forgets_the_end_of_something():
    offer = Offers(Side.UNKNOWN, late=True)
    assert offer(1, b"hello") is None, "could be a method"
    assert offer(0, GET).kinds == SERVES
    assert len(offer.detection.held) == 1


def test_late_connection_does_not_take_the_middle_of_a_turn_for_its_start():
    offer = Offers(late=True)
    assert offer(0, b"hello") is None
    assert offer(0, b"\x00" + GET) is None
    assert offer.detection.held == []


def test_late_connection_is_given_up_after_some_turns():
    offer = Offers(late=True)
    for turn in range(PROBE_TURNS):
        assert not offer.detection.failed
        assert offer(turn % 2, b"\x00\x01") is None
    assert offer.detection.failed


def test_no_candidates_is_no_choice():
    offer = Offers(parsers=())
    assert offer(0, GET) is None
    assert offer.detection.failed


def test_protocol_is_taken_back_if_the_other_side_cannot_speak_it():
    player = Player([Http1Parser], Side.SERVER)
    player.play([Step(data=GET, size=len(GET)), Step(to_server=False, data=b"ICY\n", size=4)])
    assert player.session.opaque == "unknown"
    assert player.exchanges == []
    assert (player.tally.demotions, player.tally.abandoned_requests) == (1, 1)
    assert player.tally.parse_errors == {"http": 1}
