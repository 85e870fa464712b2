# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracer.conversations import Conversation
from tracer.chunks import cut, is_sound, payloads
from tracer.events import BUSY, DISCARDED, DataEvent, chunk_of, walk

PEER = (bytes(15) + b"\1", 53)


def talk():
    return Conversation().open().recv(b"ask").send(b"answer!", size=900).recv(b"").close().events


def datagram(data=b"question"):
    return DataEvent(
        direction=1, cookie=9, timestamp_ns=5, position=7, size=8, turn=1, data=data, peer=PEER
    )


def test_payloads_lie_where_the_slow_way_finds_them():
    events = [*talk(), datagram()]
    chunk = chunk_of(events)
    found = [
        (
            each.cookie,
            each.direction,
            each.position,
            each.size,
            chunk[each.offset :][: each.captured],
        )
        for each in payloads(chunk)
    ]
    assert found == [
        (each.cookie, each.direction, each.position, each.size, each.data)
        for each in events
        if isinstance(each, DataEvent)
    ]


def test_discarded_records_have_no_payload():
    chunk = bytearray(chunk_of([datagram()]))
    chunk[3] |= DISCARDED >> 24
    assert list(payloads(bytes(chunk))) == []


def test_cut_shortens_an_event_in_place_and_leaves_its_peer():
    chunk = bytearray(chunk_of([datagram(), *talk()]))
    first, *_ = payloads(bytes(chunk))
    cut(chunk, first, 3, 16)
    event, *others = walk(bytes(chunk))
    assert (event.data, event.size, event.peer) == (b"que", 8, PEER)
    assert event.flags & 16
    assert others == list(walk(chunk_of(talk())))
    assert is_sound(bytes(chunk))


def test_what_a_source_makes_is_sound():
    assert is_sound(b"")
    assert is_sound(chunk_of([*talk(), datagram()]))


@pytest.mark.parametrize("size", [1, 8, 9, 100, 215])
def test_cut_chunk_is_not_sound(size):
    assert not is_sound(chunk_of(talk())[:size])


def test_record_still_being_written_is_not_sound():
    chunk = bytearray(chunk_of(talk()))
    chunk[3] |= BUSY >> 24
    assert not is_sound(bytes(chunk))


@pytest.mark.parametrize(
    ("event", "at", "value"),
    [
        ("open", 1, 3),
        ("open", 2, 0),
        ("open", 2, 4),
        ("data", 1, 2),
        ("data", 4, 9),
        ("close", 1, 4),
    ],
)
def test_values_that_no_source_writes_are_not_sound(event, at, value):
    names = {"OpenEvent": "open", "DataEvent": "data", "CloseEvent": "close"}
    (chosen,) = [each for each in talk() if names[type(each).__name__] == event][:1]
    chunk = bytearray(chunk_of([chosen]))
    assert is_sound(bytes(chunk))
    chunk[8 + at] = value
    assert not is_sound(bytes(chunk))


@given(st.binary(max_size=300))
def test_any_bytes_are_judged(data):
    if is_sound(data):
        assert sum(1 for _ in walk(data)) <= len(data) // 9
