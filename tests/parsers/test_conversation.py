# SPDX-License-Identifier: Apache-2.0
"""Messages in parts that interleave, extend others, answer many or nobody, and switch.

The protocol: `>name verb size` and that many bytes. Verbs: `+` a part of the message with that
name, `.` its last part, `!` the end of its exchange, `=` a whole message in a sequence, `1` one
that nobody answers, `a` more bytes of the last of the sequence, `*3` a response to three requests,
`~lines` an interim message after which the connection speaks lines, as does the oldest request;
`^lines` the same, but for that request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from parsers.model import Completeness, Likeness, Message, ParseError, Side, Transport
from tests.parsers.corpus import STEP_NS, Player, Step
from tests.parsers.lines import MARKS, LineParser


@dataclass(slots=True)
class Part(Message):
    text: str


class PartParser:
    name: ClassVar[str] = "parts"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP})
    ports: ClassVar[frozenset[int]] = frozenset()
    whole: ClassVar[bool] = True

    def __init__(self, options):
        self.known = {}
        self.last = [None, None]
        self.resumed = []

    @staticmethod
    def probe(head, kind):
        return Likeness.CERTAIN if head.startswith(MARKS[kind]) else Likeness.NO

    def parse(self, reader, kind, request):
        line = reader.line(1000)
        if line[:1] != MARKS[kind]:
            raise ParseError(f"line {line!r}")
        name, verb, size = line[1:].decode().split(" ")
        if reader.resumed:
            self.resumed.append(name)
        key = kind, name
        if verb == "a":
            message = self.last[kind]
        elif verb in "+.!":
            message = self.known.get(key)
            if message is None:
                message = self.known[key] = Part(name)
                message.correlation_id = name
            message.open = verb == "+"
            message.ends = verb == "!"
        else:
            message = self.last[kind] = Part(name)
            message.one_way = verb == "1"
            if verb[0] == "*":
                message.answers = int(verb[1:])
            if verb[0] in "~^":
                message.interim = True
                message.switches_to = verb[1:]
                message.correlation_id = 7 if verb[0] == "~" else None
        reader.skip(int(size))
        return message


def step(text, size=0, to_server=True, **options):
    data = text.encode() + b" %d\n" % size + b"x" * size
    return Step(data=data, size=len(data), to_server=to_server, **options)


def up(text, size=0, **options):
    return step(f">{text}", size, **options)


def down(text, size=0, **options):
    return step(f"<{text}", size, to_server=False, **options)


def play(*steps, **options):
    return Player([PartParser, LineParser], options.pop("side", Side.SERVER), **options).play(steps)


def told(player):
    return " ".join(
        each.request.text
        + ":"
        + ("-" if each.response is None else each.response.text)
        + ("" if each.completeness is Completeness.COMPLETE else "!")
        for each in player.exchanges
    )


def test_parts_of_several_messages_interleave():
    steps = [up("a +", 10), up("b .", 20), up("a .", 30), down("b +", 5), down("a .", 6)]
    player = play(*steps, down("b .", 7))
    assert told(player) == "a:a b:b"
    first, second = player.exchanges
    assert first.request.size == len(up("a +", 10).data + up("a .", 30).data)
    assert second.response.size == len(down("b +", 5).data + down("b .", 7).data)
    assert second.response.last_ns - second.response.first_ns == 2 * STEP_NS


def test_skip_over_bytes_to_come_belongs_to_the_part():
    part = up("a .", 1000)
    late = Step(data=b"", size=990)
    start = Step(data=part.data[:-990], size=len(part.data) - 990)
    player = play(up("b +", 1), start, late, down("a .", 1), up("b .", 1), down("b .", 1))
    assert told(player) == "a:a b:b"
    assert player.exchanges[0].request.size == len(part.data)
    assert player.exchanges[0].request.last_ns == player.exchanges[0].request.first_ns + STEP_NS


def test_gap_inside_a_part_is_none():
    part = up("a +", 1000)
    start = Step(data=part.data[:-990], size=len(part.data) - 990)
    lost = Step(data=b"x" * 500, size=500, seen=False)
    rest = Step(data=b"x" * 490, size=490)
    player = play(start, lost, rest, up("a .", 3), down("a .", 1))
    assert told(player) == "a:a"


def test_gap_over_the_end_of_a_part_marks_all_that_is_under_way():
    steps = [up("a +", 10), up("b +", 10), down("a +", 1)]
    player = play(*steps, up("a .", 5, seen=False), down("a .", 1), up("b .", 1), down("b .", 1))
    player.play([Step("close")])
    assert told(player) == "b:b! a:a!"


@pytest.mark.parametrize("verb", ["+", "."])
@pytest.mark.parametrize("reason", ["close", "reset"])
def test_end_of_the_connection_inside_a_part_is_what_failed(verb, reason):
    part = down(f"a {verb}", 500)
    player = play(up("a ."), replace(part, data=part.data[:100], size=100), Step(reason))
    (exchange,) = player.exchanges
    ends = {"close": "connection_closed", "reset": "connection_reset"}
    assert exchange.error_type == ends[reason]
    assert exchange.completeness is Completeness.COMPLETE
    assert exchange.response.size == 100


def test_end_of_the_connection_inside_a_request_leaves_it_unanswered():
    part = up("a .", 500)
    player = play(replace(part, data=part.data[:100], size=100), Step("close"))
    (exchange,) = player.exchanges
    assert exchange.completeness is Completeness.UNANSWERED
    assert exchange.error_type == "connection_closed"


def test_end_of_the_connection_behind_a_loss_says_nothing():
    part = down("a .", 500)
    lost = [up("a ."), down("a +", 9, seen=False), replace(part, data=part.data[100:200], size=100)]
    (exchange,) = play(*lost, Step("reset")).exchanges
    assert exchange.completeness is Completeness.GAP
    assert exchange.error_type is None


def test_message_that_ends_its_exchange():
    player = play(up("a +", 10), up("b .", 1), down("b +", 1), up("a !"), down("b !"))
    assert told(player) == "a:- b:b"
    assert all(each.completeness is Completeness.COMPLETE for each in player.exchanges)


def test_request_that_nobody_answers_is_reported_alone():
    player = play(up("a ="), up("b 1", 5), up("c ="), down("A ="), down("C ="))
    assert told(player) == "b:- a:A c:C"
    assert player.exchanges[0].request.size == len(up("b 1", 5).data)


def test_lost_rest_of_a_one_way_request_is_a_gap():
    part = up("b 1", 500)
    player = play(up("a ="), down("A ="), Step(data=part.data[:20], size=20), down("X ="))
    player.play([Step("close")])
    assert told(player) == "a:A b:-!"


def test_response_may_answer_several():
    player = play(up("a ="), up("b ="), up("c ="), up("d ="), down("X *3", 4), down("D ="))
    assert told(player) == "a:X b:X c:X d:D"
    assert player.exchanges[0].response is player.exchanges[2].response


def test_response_to_more_than_was_asked_answers_what_was():
    player = play(up("a ="), down("X *1000000"), up("b ="), down("B ="))
    assert told(player) == "a:X b:B"


def test_whole_message_may_be_extended():
    player = play(up("a ="), up("more a", 100), down("A ="))
    assert told(player) == "a:A"
    assert player.exchanges[0].request.size == len(up("a =").data + up("more a", 100).data)


def test_switch_hands_the_waiting_request_over():
    rest = Step(to_server=False, data=b"<9 late\n<7 seven\n", size=17)
    player = play(up("a ="), up("b ="), down("x ~lines"), rest, Step(data=b">9 nine\n", size=8))
    assert [each.response.text for each in player.exchanges] == ["seven", "late"]
    assert [each.protocol for each in player.exchanges] == ["lines", "lines"]
    assert isinstance(player.session.parser, LineParser)


def test_switch_that_hands_nothing_over_ends_what_waits():
    lines = Step(data=b"> c\n", size=4), Step(to_server=False, data=b"< C\n", size=4)
    player = play(up("a ="), up("b +", 5), up("d ="), down("D +"), down("x ^lines"), *lines)
    assert told(player).endswith("c:C")
    assert sorted(told(player).split()) == ["a:-!", "b:-!", "c:C", "d:-!"]
    assert [each.protocol for each in player.exchanges] == ["parts"] * 3 + ["lines"]
    assert type(player.exchanges[0].parser) is PartParser


def test_switch_to_an_unknown_protocol_gives_up():
    player = play(up("a ="), down("x ~tls"), up("b ="))
    assert player.session.opaque == "tls"
    assert told(player) == "a:-!"


def test_interim_request_is_none():
    player = play(up("a ~tls"), up("b ="))
    assert player.session.opaque == "tls"
    assert told(player) == ""


@pytest.mark.parametrize("side", [Side.SERVER, Side.CLIENT])
def test_parser_is_told_where_bytes_were_lost(side):
    steps = [up("a ="), down("A ="), up("b =", seen=False), down("B ="), up("c ="), down("C =")]
    player = play(*steps, up("d ="), side=side)
    assert player.session.parser.resumed == ["c"]
    assert told(player) == "a:A c:C"


def test_parser_is_told_that_it_joined_late():
    player = play(up("a ="), down("A ="), up("b ="), late=True)
    assert player.session.parser.resumed == ["a", "A"]
