# SPDX-License-Identifier: Apache-2.0
"""What a recording keeps of a handshake: enough to replay it, and no secret."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parsers.model import Side
from parsers.registry import Registry
from tests.parsers.corpus import Player, cases
from tests.parsers.tls_bytes import (
    CHANGE,
    NEWEST,
    RANDOM,
    SEALED,
    client_hello,
    down,
    record,
    server_hello,
    up,
)

PARSERS = list(Registry.load().parsers.values())
CASES = {name: case for name, case in cases() if name.startswith("tls-")}
MASK = 0xFFFFFFFF


def recorded(player):
    """What a recording would have of each transfer."""
    written = [bytearray(b"\xff" * len(data)) for _, _, data in player.fed]
    for kept in player.session.kept:
        for (direction, position, data), out in zip(player.fed, written, strict=True):
            if direction != kept.direction or kept.fate:
                continue
            start = ((kept.position - position + 2**31) & MASK) - 2**31
            for index in range(max(start, 0), min(start + kept.size, len(data))):
                out[index] = data[index]
    return [bytes(each) for each in written]


@pytest.mark.parametrize("name", CASES)
def test_a_recording_replays(name):
    case = CASES[name]
    for side in case.sides:
        live = Player(PARSERS, side, late=case.late, keep=True).play(case.steps)
        left = iter(recorded(live))
        again = [
            replace(each, data=next(left)) if each.what == "transfer" and each.seen else each
            for each in case.steps
        ]
        played = Player(PARSERS, side, late=case.late).play(again)
        assert played.described() == case.golden
        if all(step.size == len(step.data) for step in case.steps):
            # Of what was not captured, a recording says more than this one.
            assert played.session.opaque == live.session.opaque


def test_a_recording_has_no_secrets():
    hello = record(client_hello((35, b"TICKET"), (41, b"IDENTITY"), session=b"SESSION"))
    answer = record(server_hello(NEWEST, (51, b"KEYSHARE"), session=b"SESSION"))
    steps = up(hello), down(answer), up(CHANGE + SEALED)
    player = Player(PARSERS, Side.SERVER, keep=True).play(steps)
    written = b"".join(recorded(player))
    for secret in (b"TICKET", b"IDENTITY", b"SESSION", b"KEYSHARE", RANDOM):
        assert secret not in written
