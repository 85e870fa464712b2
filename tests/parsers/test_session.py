# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.correlation import EARLY_NS
from parsers.detection import PROBE_BYTES, PROBE_TRANSFERS
from parsers.framing import MAX_BUFFER_BYTES
from parsers.http1 import Http1Parser
from parsers.model import Endpoint, Options, Side
from parsers.session import TURN_END_NS, Session
from parsers.tally import Tally
from tests.parsers.corpus import Player, Step
from tests.parsers.lines import LineParser

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SECRET = b"zq7xkv9"


def up(data, **options):
    return Step(data=data, size=len(data), **options)


def down(data, **options):
    return up(data, to_server=False, **options)


def play(*steps, side=Side.SERVER, parsers=(Http1Parser,), **options):
    return Player(list(parsers), side, **options).play(steps)


@pytest.mark.parametrize("side", list(Side))
def test_exchange_has_times_and_sizes(side):
    player = play(up(GET[:5]), up(GET[5:]), down(OK[:9]), down(OK[9:]), side=side)
    (exchange,) = player.exchanges
    assert (exchange.request.size, exchange.response.size) == (len(GET), len(OK))
    times = [exchange.request.first_ns, exchange.request.last_ns]
    times += [exchange.response.first_ns, exchange.response.last_ns]
    assert times == sorted(set(times))
    assert (exchange.request.turn, exchange.response.turn) == (1, 2)
    assert exchange.protocol == "http"
    assert player.session.side is (Side.SERVER if side is Side.UNKNOWN else side)


def test_empty_line_behind_a_request_does_not_begin_the_next():
    player = play(up(GET + b"\r\n"), down(OK), Step("wait", seconds=9), up(GET), down(OK))
    first, second = player.exchanges
    assert second.request.first_ns > first.response.last_ns + 8_000_000_000
    assert first.request.size == second.request.size == len(GET)


def test_state_is_told():
    player = play(up(GET[:9]))
    session = player.session
    assert (session.buffered_bytes, session.undecided(0), session.undecided(1)) == (9, 9, 0)
    assert not session.unsettled
    player.play([up(GET[9:] + GET[:3])])
    assert (session.in_flight, session.buffered_bytes, session.undecided(0)) == (1, 3, 3)
    assert session.unsettled
    player.play([down(OK[:-1])])
    assert (session.in_flight, session.unsettled) == (0, True)
    player.play([down(OK[-1:])])
    assert not session.unsettled


def test_lost_response_ends_when_nothing_more_comes():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    player = play(up(GET), down(head), down(b"5\r\n", seen=False), down(b"x"))
    player.session.idle(player.now_ns + TURN_END_NS)
    assert player.exchanges == []
    player.session.idle(player.now_ns + TURN_END_NS + 1)
    assert len(player.exchanges) == 1


def test_response_that_was_early_is_given_up_in_time():
    player = play(down(OK), side=Side.CLIENT)
    assert player.session.unsettled
    player.session.idle(player.now_ns + EARLY_NS + 1)
    assert not player.session.unsettled
    assert player.tally.unpaired_responses == 1


def test_unanswered_request_expires_with_its_size_so_far():
    player = play(up(b"PUT / HTTP/1.1\r\nContent-Length: 99\r\n\r\nabc"))
    player.session.expire(player.now_ns + 1)
    (exchange,) = player.exchanges
    assert exchange.error_type == "timeout"
    assert exchange.request.size == len(b"PUT / HTTP/1.1\r\nContent-Length: 99\r\n\r\nabc")


def test_end_before_the_protocol_is_known_says_nothing():
    player = play(up(b"GET"), Step("eof"), Step("close"))
    assert player.exchanges == []
    assert player.session.buffered_bytes == 3


def test_connection_that_lost_its_first_transfer_is_joined_like_a_late_one():
    player = play(up(GET, seen=False), up(GET), down(OK + OK), up(GET), down(OK))
    assert len(player.exchanges) == 1
    assert player.exchanges[0].completeness.value == "complete"


def test_late_connection_says_how_its_first_exchange_began():
    player = play(down(b"the end"), up(GET), down(OK), up(GET), down(OK), late=True)
    assert [each.completeness.value for each in player.exchanges] == ["late_attach", "complete"]


def test_candidates_are_asked_for_only_while_needed():
    asked = []
    session = Session(
        lambda: asked.append(1) or [LineParser], Options(), Side.SERVER, Tally(), late=False
    )
    session.feed(0, 1, 0, 5, b">1 a\n", 1, 8)
    session.feed(0, 2, 5, 5, b">2 b\n", 1, 0)
    assert len(asked) == 1
    assert session.parser.outline(None, Side.SERVER, Endpoint("", 0)).name == "line"


# -- any bytes, any split ------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    [
        GET,
        OK,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5\r\nhello\r\n",
        b"ffffffff\r\n",
        b"0\r\n\r\n",
        b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\n\r\n",
        b"HEAD / HTTP/1.0\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"GET /" + b"a" * 3000,
    ]
)
STEPS = st.lists(
    st.builds(
        lambda data, more, **options: Step(data=data, size=len(data) + more, **options),
        data=st.one_of(st.binary(max_size=30), FRAGMENTS, st.lists(FRAGMENTS).map(b"".join)),
        more=st.sampled_from([0, 0, 0, 1, 500, 2**31]),
        to_server=st.booleans(),
        seen=st.sampled_from([True, True, True, False]),
    )
    | st.sampled_from([Step("eof"), Step("eof", to_server=False), Step("wait", seconds=2)]),
    max_size=40,
)


@given(
    steps=STEPS,
    side=st.sampled_from(list(Side)),
    late=st.booleans(),
    keep=st.booleans(),
    end=st.sampled_from(["close", "reset", "wait"]),
)
def test_no_bytes_raise_anything(steps, side, late, keep, end):
    player = play(*steps, side=side, parsers=[LineParser, Http1Parser], late=late, keep=keep)
    session = player.session
    assert session.buffered_bytes <= 2 * MAX_BUFFER_BYTES + PROBE_BYTES + 50_000
    assert len(session._detection.held) <= PROBE_TRANSFERS
    assert session.in_flight >= 0
    assert 0 <= session.undecided(0) < 2**32
    player.play([Step(end)])
    session.expire(player.now_ns + 1)
    for each in player.exchanges:
        assert each.request.first_ns <= each.request.last_ns
        assert each.request.size >= 0
        if each.response is not None:
            assert 0 <= each.response.first_ns <= each.response.last_ns
        assert session.parser.outline(each, session.side, Endpoint("10.0.0.1", 80)).name
    assert session.in_flight == 0


NAMES = st.sampled_from(["X-A", "Accept", "Cookie", "Authorization", "Via", "x-api-key"])
BODIES = st.binary(max_size=20)


@st.composite
def conversations(draw, secret=b""):
    """Both directions of a valid conversation, in turns, and how many exchanges it has."""
    turns = []
    count = 0
    for _ in range(draw(st.integers(1, 4))):
        asked, replied = b"", b""
        for _ in range(draw(st.integers(1, 3))):
            method = draw(st.sampled_from([b"GET", b"POST", b"HEAD"]))
            query = b"?token=" + secret if secret and draw(st.booleans()) else b""
            asked += method + b" /%d" % count + query + b" HTTP/1.1\r\n"
            asked += draw(messages(secret, bodiless=False))
            if draw(st.booleans()):
                replied += b"HTTP/1.1 103 Early\r\n" + fields(draw, secret) + b"\r\n"
            replied += b"HTTP/1.1 200 OK\r\n" + draw(messages(secret, bodiless=method == b"HEAD"))
            count += 1
        turns += [(True, asked), (False, replied)]
    return turns, count


def fields(draw, secret):
    lines = [f"{name}: ".encode() + secret for name in draw(st.lists(NAMES, max_size=3))]
    return b"".join(line + draw(st.sampled_from([b"\r\n", b"\r\n fold\r\n"])) for line in lines)


@st.composite
def messages(draw, secret, *, bodiless):
    head = fields(draw, secret)
    body = draw(BODIES) + secret
    if draw(st.booleans()):
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        return head + length + (b"" if bodiless else body)
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    if bodiless:
        return head
    extension = b";x=" + secret if draw(st.booleans()) else b""
    trailer = b"X: " + secret + b"\r\n" if draw(st.booleans()) else b""
    if body:
        head += b"%x" % len(body) + extension + b"\r\n" + body + b"\r\n"
    return head + b"0\r\n" + trailer + b"\r\n"


def pieces(turns, cuts):
    """The turns in transfers that end where `cuts` says."""
    for to_server, data in turns:
        start = 0
        for cut in sorted({cut % len(data) for cut in cuts} | {len(data)}):
            if cut > start:
                yield up(data[start:cut], to_server=to_server)
                start = cut


CUTS = st.lists(st.integers(0, 2**16), max_size=12)


@given(conversation=conversations(), cuts=CUTS, side=st.sampled_from(list(Side)))
def test_any_split_of_a_conversation_gives_the_same(conversation, cuts, side):
    turns, count = conversation
    whole = play(*pieces(turns, []), side=side)
    assert len(whole.exchanges) == count
    assert {each.completeness.value for each in whole.exchanges} == {"complete"}
    assert play(*pieces(turns, cuts), side=side).described() == whole.described()
    assert play(*pieces(turns, range(5000)), side=side).described() == whole.described()


@given(conversation=conversations(SECRET), cuts=CUTS, snap=st.integers(1, 200), loss=CUTS)
def test_what_is_kept_holds_no_secret(conversation, cuts, snap, loss):
    turns, _ = conversation
    steps = list(pieces(turns, cuts))
    lost = {each % len(steps) for each in loss[:2]}
    whole = play(*steps, keep=True)
    assert_no_secret(whole)
    # Again, since now the heads are known; and with losses and cuts.
    assert_no_secret(play(*steps, keep=True))
    broken = [
        Step(each.what, each.to_server, each.data[:snap], each.size, seen=i not in lost)
        for i, each in enumerate(steps)
    ]
    assert_no_secret(play(*broken, keep=True))
    assert_no_secret(play(*broken, keep=True, late=True))


def assert_no_secret(player):
    """Lay out what was kept where it was, with zeros between."""
    shown = []
    for direction, position, data in player.fed:
        text = bytearray(len(data))
        for each in player.session.kept:
            if each.direction == direction and not each.fate:
                start = (each.position - position + 2**31) % 2**32 - 2**31
                a, b = max(start, 0), min(start + each.size, len(data))
                if a < b:
                    text[a:b] = data[a:b]
        shown.append((direction, text))
    for wanted in (0, 1):
        text = b"".join(bytes(each) for direction, each in shown if direction == wanted)
        assert not re.search(b"|".join(SECRET[i : i + 3] for i in range(5)), text), text


def test_reads_that_do_not_end_a_message_hold_no_transfer_in_memory():
    session = play(up(GET), down(OK)).session
    assert session._reader.data == b""
