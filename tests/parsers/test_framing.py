# SPDX-License-Identifier: Apache-2.0
"""How a connection is cut into messages where bytes are missing: with HTTP and with lines."""

from __future__ import annotations

from functools import partial

import pytest

from parsers import framing
from parsers.correlation import ANSWERED_NS
from parsers.detection import TURN_START
from parsers.framing import MAX_BUFFER_BYTES, MAX_ERRORS, MAX_OVERLAP_BYTES
from parsers.http1 import Http1Parser
from parsers.model import Side
from parsers.session import EOF
from parsers.stream import LOST, REFUSED, WAITED
from tests.parsers.corpus import Player, Step
from tests.parsers.lines import LineParser

HOST = b"Host: h\r\n\r\n"


def ask(number, more=b"", **options):
    data = b"GET /%d HTTP/1.1\r\n" % number + more + HOST
    return Step(data=data, size=len(data), **options)


def reply(length, **options):
    data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length
    return Step(to_server=False, data=data, size=len(data), **options)


def up(data, size=None, **options):
    return Step(data=data, size=len(data) if size is None else size, **options)


down = partial(up, to_server=False)


def play(*steps, parsers=(Http1Parser,), side=Side.SERVER, **options):
    return Player(list(parsers), side, **options).play(steps)


def told(player):
    """`1:5` is request /1 with a response of 5 bytes, `1:-` has none; `!` is not complete."""
    return " ".join(
        each.request.head.target[1:]
        + ":"
        + ("-" if each.response is None else str(each.response.head.length))
        + ("" if each.completeness.value in {"complete", "late_attach"} else "!")
        for each in player.exchanges
    )


def test_gap_costs_what_it_hides_and_no_more():
    player = play(
        ask(1),
        reply(5, seen=False),
        ask(2),
        reply(6),
        ask(3, seen=False),
        reply(7),
        ask(4),
        reply(8),
    )
    assert told(player) == "1:-! 2:6 4:8"
    assert player.tally.unpaired_responses == 1
    assert player.tally.gap_bytes == reply(5).size + ask(3).size


def test_body_of_4_gib_that_nobody_saw_is_no_gap():
    size = 6 * 2**30
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    body = [down(b"", 2**30, seen=False)] * 3
    player = play(ask(1), down(head), *body, down(b"", 2**30), *body[:2], reply(3))
    assert told(player) == f"1:{size}"
    assert player.exchanges[0].response.size == size + len(head)
    assert player.tally.gap_bytes == 0
    assert player.tally.unpaired_responses == 1


def test_position_that_goes_back_a_little_is_an_overlap():
    player = play(ask(1))
    session = player.session
    again = reply(3).data
    session.feed(1, 5, 1000, len(again), again, 2, 8)
    session.feed(1, 6, 1000, 10, again[:10], 2, 0)
    session.feed(1, 7, 1000 + len(again) - 3, 10, b"xxxHTTP/1.", 2, 0)
    assert told(player) == "1:3"
    assert player.tally.overlap_bytes == 13
    assert session.streams[1].buffer == b"HTTP/1."


def test_position_that_goes_back_far_is_a_gap():
    player = play(ask(1), reply(1), ask(2))
    stream = player.session.streams[1]
    position = (stream.position - MAX_OVERLAP_BYTES - 1) % 2**32
    player.session.feed(1, 5, position, 5, b"HTTP/", 4, 8)
    assert player.tally.overlap_bytes == 0
    assert player.tally.gap_bytes > 2**31


def test_end_of_the_stream_takes_a_position():
    player = play(ask(1), down(b"HTTP/1.1 200 OK\r\n\r\nabc"), side=Side.CLIENT)
    stream = player.session.streams[0]
    player.session.feed(0, 5, stream.position + 1, 0, b"", 2, EOF)
    assert told(player) == "1:-2"
    assert player.tally.gap_bytes == 0


def test_end_behind_a_gap_is_not_taken_for_the_end_of_the_message():
    player = play(ask(1), reply(9, seen=False), Step("eof", to_server=False), Step("close"))
    assert told(player) == "1:-!"
    assert player.exchanges[0].error_type is None


def test_head_that_an_answer_divides_is_one_head():
    first, second, third = (
        ask(1).data,
        b"POST /2 HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        ask(3).data,
    )
    for cut in range(1, len(second)):
        divided = up(first + second[:cut]), reply(5), up(second[cut:] + third)
        player = play(*divided, reply(6), reply(7))
        assert told(player) == "1:5 2:6 3:7", cut
        assert player.exchanges[1].request.head.method == "POST"
        assert player.exchanges[1].request.size == len(second)
        assert player.tally.gap_bytes == 0


def test_request_answered_before_it_was_whole_is_reported_when_it_is():
    upload = up(b"PUT /1 HTTP/1.1\r\nContent-Length: 500\r\n\r\nabc")
    player = play(upload, reply(2), up(b"x" * 497), ask(2), reply(3))
    assert told(player) == "1:2 2:3"
    assert player.exchanges[0].request.size == upload.size + 497


def test_rest_of_an_answered_request_is_not_waited_for_without_end():
    upload = up(b"PUT /1 HTTP/1.1\r\nContent-Length: 500\r\n\r\nabc")
    player = play(upload, reply(2))
    assert not player.exchanges
    player.session.idle(player.session.streams[0].last_ns + ANSWERED_NS + 1)
    assert told(player) == "1:2!"
    assert player.exchanges[0].request.size == upload.size


def test_chunks_of_an_answered_request_are_not_waited_for_without_end():
    head = b"PUT /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    player = play(up(head), reply(2))
    player.session.idle(player.session.streams[0].last_ns + ANSWERED_NS + 1)
    assert told(player) == "1:2!"


def test_chunked_request_answered_before_it_was_whole_goes_on():
    head = b"PUT /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    player = play(up(head), reply(2), up(b"2\r\nab\r\n0\r\n\r\n"), ask(2), reply(3))
    assert told(player) == "1:2 2:3"


def test_chunks_are_over_where_the_next_turn_begins():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    lost = down(b"5\r\nhello\r\n", seen=False)
    player = play(ask(1), down(head), lost, down(b"0\r\n\r\n"), ask(2), reply(3))
    assert told(player) == "1:-1! 2:3"


def test_hole_that_ends_with_the_body_is_no_gap():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
    player = play(ask(1), down(head + b"x" * 10, len(head) + 500), ask(2), reply(1))
    assert told(player) == "1:500 2:1"


def test_hole_beyond_the_body_costs_what_follows_it_in_the_turn():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
    asked = up(ask(1).data + ask(2).data)
    player = play(asked, down(head, len(head) + 600), ask(3), reply(1))
    assert told(player).startswith("1:500 2:-!")
    assert player.tally.gap_bytes == 100


def test_transfer_of_which_nothing_was_captured():
    player = play(ask(1), down(b"", 300), ask(2), reply(1), up(b"", 40), reply(2), ask(4), reply(3))
    assert told(player) == "1:-! 2:1 4:3"


def test_answer_to_an_unknown_request_ends_with_its_turn():
    player = play(
        ask(1),
        reply(1),
        ask(2, seen=False),
        down(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"),
        ask(3),
        reply(3),
    )
    assert told(player) == "1:1 3:3"


def test_answer_to_an_unknown_request_may_go_on_in_the_next_turn():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"
    player = play(
        ask(1),
        reply(1),
        ask(2, seen=False),
        down(head + b"\0\0\0"),
        up(b"\r\n"),
        down(b"\0\0\0"),
        ask(3),
        reply(3),
    )
    assert told(player) == "1:1 3:3"


def test_gap_behind_an_answer_to_an_unknown_request_is_not_its_body():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"
    lost = [ask(1, seen=False), down(head), ask(2), reply(2, seen=False)]
    assert told(play(*lost, ask(3), reply(3))) == "2:-! 3:3"


def test_head_may_go_on_in_the_next_turn():
    first, second = ask(1).cut(9)
    player = play(ask(0), reply(0), first, down(b""), reply(2), second)
    assert player.tally.parse_errors == {}
    assert told(player).startswith("0:0")
    player = play(ask(0), first, reply(0), second, reply(1))
    assert told(player) == "0:0 1:1"


def test_head_that_never_ends_gives_way_to_the_next():
    player = play(ask(0), reply(0), up(b"GET /1 HT"), reply(1), ask(2), reply(2))
    assert told(player) == "0:0 2:2"


def test_lost_turn_that_begins_with_no_message_stays_lost():
    put = up(b"PUT /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    interim = down(b"HTTP/1.1 100 Continue\r\n\r\n")
    lost = up(b"3\r\nabc\r\n", seen=False)
    player = play(put, lost, up(b"\0\0"), interim, up(b"\0\1"), reply(1), ask(2), reply(2))
    assert told(player) == "1:1! 2:2"


def test_connection_that_speaks_something_else_after_all_is_given_up():
    garbage = [up(b"\0\1\n"), down(b"\0\2\n")] * MAX_ERRORS
    player = play(ask(1), reply(1), *garbage, ask(2))
    assert player.session.opaque == "unknown"
    assert player.tally.demotions == 1
    assert told(player) == "1:1"


def test_lost_connection_that_speaks_something_else_is_given_up():
    player = play(ask(1), reply(1), ask(2), down(b"", 9, seen=False), ask(3))
    for _ in range(MAX_ERRORS):
        player.play([down(b"\0\0"), up(b"\0\0")])
    assert player.session.opaque == "unknown"
    assert told(player) == "1:1 2:-! 3:-!"


def test_first_exchange_under_way_is_reported_when_its_connection_is_given_up():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"
    player = play(ask(1), down(head), *[up(b"\0\n"), down(b"x")] * MAX_ERRORS)
    assert player.session.opaque == "unknown"
    assert told(player) == "1:900!"
    assert player.tally.abandoned_requests == 0


def test_mistakes_between_messages_are_forgiven():
    player = play(ask(0), reply(0))
    for number in range(MAX_ERRORS * 2):
        player.play([up(b"\0\n"), down(b"\0\n"), ask(number), reply(number)])
    assert player.session.opaque is None
    assert len(player.exchanges) == 1 + MAX_ERRORS * 2


def test_request_under_way_when_its_connection_is_given_up_has_a_gap():
    player = play(ask(1), down(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), ask(2))
    player.session.give_up("too much")
    assert told(player) == "1:9! 2:-!"
    assert player.session.buffered_bytes == 0
    player.play([reply(3)])
    player.session.close(9, None)
    assert len(player.exchanges) == 2


def test_head_that_trickles_in_may_be_long(monkeypatch):
    monkeypatch.setattr(framing, "MAX_RESCANNED_BYTES", 200_000)
    long = ask(1, b"X: " + b"a" * 500 + b"\r\n")
    pieces = [up(long.data[i : i + 1]) for i in range(long.size)]
    assert told(play(*pieces, reply(1))) == "1:1"


def test_head_that_trickles_in_for_ever_is_given_up(monkeypatch):
    monkeypatch.setattr(framing, "MAX_RESCANNED_BYTES", 20_000)
    long = ask(1, b"X: " + b"a" * 500 + b"\r\n")
    pieces = [up(long.data[i : i + 1]) for i in range(long.size)]
    player = play(ask(0), reply(0), *pieces, reply(1), ask(2), reply(2))
    assert player.tally.limits == 1
    assert told(player) == "0:0 2:2"


def test_head_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(framing, "MAX_BUFFER_BYTES", 1000)
    assert MAX_BUFFER_BYTES > 1000
    player = play(ask(0), reply(0), up(ask(1).data[:-2]), *[up(b"X: a\r\n")] * 200)
    assert player.tally.limits == 1
    assert player.session.buffered_bytes == 0


def test_parser_that_does_not_get_on_is_stopped():
    player = play(up(b">1 a\n"), up(b"!\n"), parsers=[LineParser])
    assert player.tally.parse_errors == {"lines": 1}
    assert player.session.opaque == "unknown"


def test_messages_with_an_id_are_joined_by_it():
    player = play(up(b">1 a\n>2 b\n"), down(b"<2 B\n<1 A\n<3 C\n"), parsers=[LineParser])
    pairs = [(each.request.text, each.response.text) for each in player.exchanges]
    assert pairs == [("b", "B"), ("a", "A")]
    player.play([Step("wait", seconds=1)])
    assert player.tally.unpaired_responses == 1


def test_tunnel_ends_what_was_still_coming():
    connect = up(b"CONNECT h:1 HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
    player = play(connect, down(b"HTTP/1.1 200 OK\r\n\r\n"), up(b"\0\0\0"), ask(2))
    assert player.session.opaque == "tls"
    assert len(player.exchanges) == 1


def test_switch_whose_head_was_cut_is_made_when_the_turn_ends():
    head = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nX: "
    player = play(ask(1), down(head, 500), Step("wait", seconds=5))
    assert player.session.opaque == "websocket"
    player = play(ask(1), down(head, 500), down(b"\0\0", seen=False), up(b"\0"), down(b"\x81"))
    assert player.session.opaque == "websocket"


def test_gap_after_a_switch_whose_head_was_cut_ends_it():
    head = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nX: "
    player = play(ask(1), down(head, 500), up(b"\0\0"), down(b"a", seen=False), up(b""), down(b"a"))
    assert player.session.opaque == "websocket"
    assert len(player.exchanges) == 1


@pytest.mark.parametrize("reason", ["close", "reset"])
def test_end_of_the_connection_ends_what_is_lost(reason):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    player = play(ask(1), down(head), down(b"5\r\nabc\r\n", seen=False), down(b"0"), Step(reason))
    assert told(player) == "1:-1!"
    assert player.exchanges[0].error_type is None


# -- replays: bytes that a redacted recording does not have, and what became of them -------


def test_bytes_that_were_refused_are_refused_again():
    player = play(ask(1), reply(1), ask(2))
    position = player.session.streams[1].position
    player.session.feed(1, 5, position, 20, b"", 4, TURN_START | REFUSED)
    assert player.tally.parse_errors == {"http": 1}
    assert told(player) == "1:1 2:-!"


def test_bytes_that_waited_for_more_are_no_gap():
    player = play(ask(1), reply(1), ask(2))
    position = player.session.streams[1].position
    player.session.feed(1, 5, position, 20, b"", 4, TURN_START | WAITED)
    assert player.tally.gap_bytes == 0
    assert player.session.in_flight == 1


def test_lost_turn_begins_with_bytes_that_a_parser_wanted():
    player = play(ask(1), reply(1), ask(2), down(b"", 9, seen=False), ask(3))
    for turn in range(6, 6 + 2 * MAX_ERRORS, 2):
        position = (player.session.streams[1].position + 9) % 2**32
        player.session.feed(1, 5, position, 20, b"\xff" * 20, turn, TURN_START | LOST)
    assert player.session.opaque is None
