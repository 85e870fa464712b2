# SPDX-License-Identifier: Apache-2.0
"""Where messages of many exchanges mix, turns begin anywhere: framing is found again elsewhere."""

from __future__ import annotations

import pytest
from hpack import Encoder

from parsers.http2 import Http2Parser
from parsers.model import Completeness, Side
from tests.parsers.corpus import Player, Step

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes.fromhex("000000040000000000")
UPDATE = bytes.fromhex("000004080000000000") + b"\0\1\0\0"
BODY = b"no frame begins like this, nor does any part of it. " * 300


def frame(kind, flags, stream, payload):
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


class Conversation:
    """Both ends of a connection, which makes the transfers of a case."""

    def __init__(self, side):
        self.player = Player([Http2Parser], side)
        self.encoders = (Encoder(), Encoder())
        self.send(PREFACE + SETTINGS)
        self.send(SETTINGS, to_server=False)

    def send(self, data, *, to_server=True, seen=True):
        self.player.play([Step(to_server=to_server, data=data, size=len(data), seen=seen)])

    def ask(self, stream, path):
        fields = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "h")]
        self.send(frame(1, 5, stream, self.encoders[0].encode(fields)))

    def head(self, stream):
        return frame(1, 4, stream, self.encoders[1].encode([(":status", "200")]))

    @property
    def told(self):
        return [
            (each.request.head.target, each.response and each.response.head.status)
            for each in self.player.exchanges
        ]


@pytest.fixture(params=[Side.CLIENT, Side.SERVER])
def conversation(request):
    return Conversation(request.param)


def test_a_turn_that_begins_inside_a_frame_ends_nothing(conversation):
    """A client updates its window while a body is coming: each time a turn begins."""
    conversation.ask(1, "/big")
    conversation.send(conversation.head(1), to_server=False)
    conversation.send(frame(0, 0, 1, BODY)[:5000], to_server=False, seen=False)
    for _ in range(20):
        conversation.send(UPDATE)
        conversation.send(BODY[5000:9000], to_server=False)
    assert conversation.player.session.opaque is None
    conversation.ask(3, "/next")
    conversation.send(conversation.head(3) + frame(0, 1, 3, b"hello"), to_server=False)
    assert conversation.told == [("/next", 200)]


def test_within_a_turn_a_frame_is_found_again(conversation):
    conversation.ask(1, "/big")
    conversation.ask(3, "/other")
    conversation.send(conversation.head(1), to_server=False)
    conversation.send(frame(0, 0, 1, BODY), to_server=False, seen=False)
    conversation.send(BODY[:3000], to_server=False)
    conversation.send(conversation.head(3) + frame(0, 1, 3, b"hello"), to_server=False)
    conversation.send(frame(0, 1, 1, b"the end"), to_server=False)
    assert conversation.told == [("/other", 200), ("/big", 200)]
    other, big = conversation.player.exchanges
    assert big.completeness is Completeness.GAP
    # Its answer may have been among what was lost, as far as anybody knows.
    assert other.completeness is Completeness.GAP


def test_requests_are_found_again_as_well(conversation):
    conversation.ask(1, "/lost")
    conversation.send(frame(0, 0, 1, BODY)[:4000], seen=False)
    conversation.send(BODY[:3000])
    conversation.ask(3, "/next")
    conversation.send(conversation.head(3) + frame(0, 1, 3, b"hello"), to_server=False)
    assert ("/next", 200) in conversation.told


def test_the_extent_of_what_is_under_way_is_that_of_its_frames(conversation):
    """A session is asked now and then to give up what is too old."""
    conversation.ask(1, "/big")
    conversation.send(conversation.head(1), to_server=False)
    conversation.ask(3, "/other")
    conversation.send(conversation.head(3) + frame(0, 0, 1, BODY)[:5000], to_server=False)
    conversation.player.session.expire(0)
    conversation.send(frame(0, 0, 1, BODY)[5000:] + frame(0, 1, 1, b""), to_server=False)
    (big,) = conversation.player.exchanges
    assert big.response.size == 9 + 1 + 9 + len(BODY) + 9


def test_found_again_framing_is_trusted_again(conversation):
    """A body may look like frames, and a turn may begin where it does."""
    conversation.ask(1, "/lost")
    conversation.send(conversation.head(1), to_server=False, seen=False)
    conversation.ask(3, "/next")
    conversation.send(conversation.head(3) + frame(0, 1, 3, b"hello"), to_server=False)
    conversation.ask(5, "/frames")
    conversation.ask(7, "/waits")
    nested = frame(1, 5, 7, Encoder().encode([(":status", "500")]))
    body = frame(0, 1, 5, b"frames: " + nested)
    conversation.send(conversation.head(5) + body[:17], to_server=False)
    conversation.send(UPDATE)
    conversation.send(body[17:], to_server=False)
    assert ("/frames", 200) in conversation.told
    assert ("/waits", 500) not in conversation.told
