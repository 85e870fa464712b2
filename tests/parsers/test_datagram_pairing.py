# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.correlation import EARLY_NS
from parsers.datagram_pairing import (
    MAX_ANSWERED,
    MAX_EARLY,
    MAX_PENDING,
    NOBODY,
    PENDING_BYTES,
    side_of,
)
from parsers.datagrams import PATIENCE_NS
from parsers.model import Endpoint, Kind, Side
from tests.parsers.test_datagrams import IN, OUT, SERVER, Socket

ONE, TWO, THREE = (Endpoint(f"10.0.0.{n}", 99) for n in (1, 2, 3))
GROUP = Endpoint("224.0.0.251", 5353)


def errors(told):
    return [each.error_type for each in told.session.done]


@pytest.mark.parametrize(
    ("direction", "kind", "side"),
    [
        (IN, Kind.REQUEST, Side.SERVER),
        (OUT, Kind.RESPONSE, Side.SERVER),
        (OUT, Kind.REQUEST, Side.CLIENT),
        (IN, Kind.RESPONSE, Side.CLIENT),
    ],
)
def test_side_of_a_message(direction, kind, side):
    assert side_of(direction, kind) is side


def test_answers_come_in_any_order():
    told = Socket().send(b"?1 a").send(b"?2 b").recv(b"!2 d").recv(b"!1 c")
    assert told.said() == [("b", "d", "complete"), ("a", "c", "complete")]


def test_same_id_with_others_is_another():
    told = Socket(Side.SERVER).recv(b"?1 a", ONE).recv(b"?1 b", TWO)
    told.send(b"!1 d", TWO).send(b"!1 c", ONE).send(b"!1 e", THREE)
    assert told.said() == [("b", "d", "complete"), ("a", "c", "complete")]
    assert [each.remote for each in told.session.done] == [TWO, ONE]
    told.session.idle(10**12)
    assert told.tally.unpaired_responses == 1


# -- resends, second copies, silence ------------------------------------------------------


def test_asked_again_is_the_same_request():
    told = Socket().send(b"?1 a").send(b"?2 b").send(b"?1 a").recv(b"!1 c").recv(b"!2 d")
    assert told.said() == [("a", "c", "complete"), ("b", "d", "complete")]
    first, second = (each.request for each in told.session.done)
    assert (first.resends, second.resends) == (1, 0)
    assert (first.first_ns, first.last_ns) == (1000, 3000)


def test_second_answers_are_counted_and_join_nothing():
    told = Socket().send(b"?1 a").recv(b"!1 b").recv(b"!1 b").send(b"?1 again").recv(b"!1 c")
    assert told.said() == [("a", "b", "complete"), ("again", "c", "complete")]
    assert told.tally.unpaired_responses == 1


def test_answered_requests_are_remembered_up_to_a_bound():
    told = Socket()
    for number in range(MAX_ANSWERED + 5):
        told.send(b"?%d a" % number).recv(b"!%d b" % number)
    assert len(told.session._answered) == MAX_ANSWERED


def test_silence_ends_with_patience():
    told = Socket().send(b"?1 a").send(b"?2 b")
    told.now_ns = PATIENCE_NS // 2
    told.send(b"?1 a")
    assert told.session.unsettled
    assert told.session.in_flight == 2
    told.session.expire(2500)
    assert told.said() == [("b", None, "unanswered")], "the other was asked again"
    told.session.expire(told.now_ns + 1)
    assert told.said()[1:] == [("a", None, "unanswered")]
    assert errors(told) == ["timeout", "timeout"]
    assert not told.session.unsettled
    told.recv(b"!1 c")
    told.session.idle(10**12)
    assert told.tally.unpaired_responses == 1


def test_silence_after_a_loss_may_be_none():
    told = Socket().send(b"?1 a").recv(b"!1 b", seen=False).send(b"?2 c").recv(b"!2 d")
    told.session.expire(10**12)
    assert told.said() == [("c", "d", "complete"), ("a", None, "gap")]
    assert errors(told) == [None, None]


def test_loss_before_it_was_asked_is_none_of_its():
    told = Socket().send(b"?1 a").recv(b"x" * 9, seen=False).recv(b"!1 b").send(b"?2 c")
    told.session.expire(10**12)
    assert told.said()[1:] == [("c", None, "unanswered")]


def test_closing_ends_what_waits():
    told = Socket().send(b"?1 a").send(b"?2 b").recv(b"!9 z")
    told.session.close(5000, "connection_reset")
    told.session.close(6000, None)
    assert errors(told) == ["connection_reset"] * 2
    assert told.session.done[0].request.last_ns == 5000
    assert told.tally.unpaired_responses == 1
    told.send(b"?3 c").session.close(7000, None)
    assert errors(told)[2:] == ["connection_closed"]


def test_nothing_answers_what_is_one_way():
    told = Socket().send(b"?- a").send(b"?- b")
    assert told.said() == [("a", None, "complete"), ("b", None, "complete")]
    assert not told.session.in_flight


def test_without_an_id_two_at_once_cannot_be_told_apart():
    told = Socket().send(b"? a").recv(b"! b").send(b"? c").send(b"? d").recv(b"! e")
    assert told.said() == [("a", "b", "complete"), ("c", None, "gap"), ("d", "e", "complete")]


# -- answers that are seen first ----------------------------------------------------------


def test_answer_may_be_seen_before_its_request():
    told = Socket(Side.CLIENT).recv(b"!1 b", SERVER).send(b"?1 a", SERVER)
    (exchange,) = told.session.done
    assert told.said() == [("a", "b", "complete")]
    assert exchange.request.first_ns == exchange.response.first_ns == 1000
    assert not told.tally.unpaired_responses


def test_answer_that_is_seen_much_too_early_is_to_something_else():
    told = Socket().recv(b"!1 b")
    told.now_ns += EARLY_NS
    told.send(b"?1 a").recv(b"!1 c")
    assert told.said() == [("a", "c", "complete")]
    assert told.tally.unpaired_responses == 1


def test_answers_wait_a_moment_for_their_request():
    told = Socket().recv(b"!1 b")
    told.session.idle(told.now_ns + EARLY_NS)
    assert told.session.unsettled
    told.session.idle(told.now_ns + EARLY_NS + 1)
    assert not told.session.unsettled
    assert told.tally.unpaired_responses == 1


def test_answers_that_wait_are_bounded():
    told = Socket().recv(b"!0 b").recv(b"!0 b")
    assert told.tally.unpaired_responses == 1
    for number in range(MAX_EARLY + 10):
        told.recv(b"!%d b" % number)
    assert len(told.session._early) == MAX_EARLY
    assert told.tally.unpaired_responses == 12


# -- who is at the other end --------------------------------------------------------------


def test_answer_of_nobody_in_particular_is_to_the_only_one_asked():
    told = Socket().send(b"?1 a", ONE).recv(b"!1 b")
    assert told.said() == [("a", "b", "complete")]
    assert told.session.done[0].remote == ONE
    told.send(b"?2 a", ONE).send(b"?2 b", TWO).recv(b"!2 c")
    assert len(told.session.done) == 1, "either may have answered"


def test_request_to_nobody_in_particular_is_answered_by_anybody():
    told = Socket().send(b"?1 a").recv(b"!1 b", ONE)
    assert told.said() == [("a", "b", "complete")]
    assert told.session.done[0].remote == ONE


@pytest.mark.parametrize("address", ["224.0.0.251", "ff02::fb", "255.255.255.255"])
def test_of_a_group_anybody_answers(address):
    told = Socket(local=5353).send(b"?1 a", Endpoint(address, 5353)).recv(b"!1 b", ONE)
    assert told.said() == [("a", "b", "complete")]
    assert told.session.done[0].remote == ONE
    told.recv(b"!1 c", TWO)
    told.session.idle(10**12)
    assert told.tally.unpaired_responses == 1


def test_silence_of_a_group_is_no_error():
    told = Socket(local=5353).send(b"?1 a", GROUP)
    told.session.expire(10**12)
    assert told.said() == [("a", None, "unanswered")]
    assert errors(told) == [None]
    assert told.session.done[0].remote == GROUP


def test_what_a_group_was_asked_and_others_may_answer_is_not_ours():
    told = Socket(local=5353).recv(b"?1 a", ONE).recv(b"?2 b", TWO).send(b"!2 c", TWO)
    told.session.expire(10**12)
    assert told.said() == [("b", "c", "complete")]
    told = Socket(local=99).recv(b"?1 a", ONE)
    told.session.expire(10**12)
    assert told.said() == [("a", None, "unanswered")], "there the silence is the server's"


# -- bounds -------------------------------------------------------------------------------


def test_requests_that_wait_are_bounded_and_the_oldest_makes_room():
    told = Socket(Side.SERVER)
    for number in range(MAX_PENDING + 3):
        told.recv(b"?%d a" % number, ONE)
    assert told.session.in_flight == MAX_PENDING
    assert told.session.buffered_bytes == MAX_PENDING * PENDING_BYTES
    assert [each.completeness.value for each in told.session.done] == ["gap"] * 3
    assert told.tally.limits == 3


def test_nobody_is_no_one():
    assert not NOBODY.address
    assert not NOBODY.port
