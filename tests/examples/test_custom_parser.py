# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from examples.custom_parser import JobsParser
from parsers.http1 import Http1Parser
from parsers.model import Endpoint, Options, Side, Transport
from parsers.registry import Registry
from parsers.session import Session
from parsers.tally import Tally

TURN_START = 8
QUEUE = Endpoint("10.0.0.1", 11300)
TALK = [
    (0, b"put 1 0 120 9\r\n123456789\r\n"),
    (1, b"INSERTED 42\r\n"),
    (0, b"reserve\r\nreserve\r\n"),
    (1, b"RESERVED 42 9\r\n123456789\r\nRESERVED 43 12\r\nINSERTED 4\r\n\r\n"),
    (0, b"delete 99\r\n"),
    (1, b"NOT_FOUND\r\n"),
    (0, b"reserve\r\n"),
]


def play(pieces, side=Side.SERVER):
    registry = Registry({"http1": Http1Parser, "jobs": JobsParser}, Options())
    session = Session(
        lambda: registry.candidates(Transport.TCP, QUEUE.port),
        registry.options, side, Tally(), late=False,
    )  # fmt: skip
    positions = [0, 0]
    turn = last = 0
    for number, (direction, data) in enumerate(pieces):
        flags = 0 if turn and direction == last else TURN_START
        turn += bool(flags)
        last = direction
        session.feed(direction, number, positions[direction], len(data), data, turn, flags)
        positions[direction] += len(data)
    session.close(999, None)
    return session, [
        (outline.name, outline.error_type)
        for outline in (session.parser.outline(each, side, QUEUE) for each in session.done)
    ]


SPANS = [
    ("put", None),
    ("reserve", None),
    ("reserve", None),
    ("delete", "NOT_FOUND"),
    ("reserve", "connection_closed"),
]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_plug_in_parses_a_conversation_however_it_is_cut(size):
    pieces = [
        (direction, data[at : at + size])
        for direction, data in TALK
        for at in range(0, len(data), size)
    ]
    session, spans = play(pieces)
    assert isinstance(session.parser, JobsParser)
    assert spans == SPANS


def test_body_that_was_not_captured_is_no_gap():
    session, spans = play([(0, b"put 1 0 120 9\r\n123456789\r\n"), (1, b"INSERTED 42\r\n")])
    assert spans == SPANS[:1]
    assert session.done[0].request.size == 26


@pytest.mark.parametrize("asked", [b"hello\r\n", b"get key\r\n", b"x" * 300])
def test_plug_in_refuses_what_it_does_not_speak(asked):
    session = Session(lambda: [JobsParser], Options(), Side.SERVER, Tally(), late=False)
    session.feed(0, 0, 0, len(asked), asked, 1, TURN_START)
    assert session.opaque == "unknown"


def test_plug_in_leaves_others_what_is_theirs():
    session, _ = play([(0, b"GET / HTTP/1.1\r\n\r\n")])
    assert isinstance(session.parser, Http1Parser)


def test_line_that_is_none_is_a_mistake():
    _, spans = play([*TALK[:2], (0, b"nonsense\r\n"), (1, b"UNKNOWN_COMMAND\r\n"), *TALK[4:6]])
    assert spans == [SPANS[0], SPANS[3]]
