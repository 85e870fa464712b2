# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.tracer.test_assembler import MS, Wire, moved
from tracer import reassembly
from tracer.events import EGRESS, INGRESS, Cause, CloseEvent, DataEvent
from tracer.reassembly import ACK, FIN


def feed(wire, *segments):
    for segment in segments:
        wire.assembler.segment(segment)
    return wire


def gaps(events):
    return [
        (each.direction, each.size)
        for each in events
        if isinstance(each, DataEvent) and each.cause == Cause.UNSEEN
    ]


def test_reordered_segments_are_delivered_in_order():
    wire = Wire().shake()
    a, b, c = (wire.segment(0, data) for data in (b"?a", b"bb", b"cc"))
    feed(wire, c, a, b)
    assert moved(wire.events()) == [(EGRESS, b"?a"), (EGRESS, b"bb"), (EGRESS, b"cc")]


def test_response_captured_before_its_request_waits_for_it():
    wire = Wire().shake()
    ask, tell = wire.segment(0, b"?ask"), wire.segment(1, b"!tell")
    feed(wire, tell, ask)
    assert moved(wire.events()) == [(EGRESS, b"?ask"), (INGRESS, b"!tell")]


def test_retransmission_is_dropped_and_overlap_trimmed():
    wire = Wire().shake()
    a, b = wire.segment(0, b"?abc"), wire.segment(0, b"def")
    both = a._replace(data=b"?abcdef", size=7)
    feed(wire, a, a, both, b)
    assert moved(wire.events()) == [(EGRESS, b"?abc"), (EGRESS, b"def")]
    assert wire.assembler.unused == {"retransmitted": 2, "overlapping": 1}


def test_lost_segment_becomes_a_gap_once_its_receipt_was_acknowledged():
    wire = Wire().shake().send(0, b"?a")
    wire.segment(0, b"lost")
    wire.send(0, b"more").send(1, b"!").send(0, b"on", after_ns=30 * MS)
    events = wire.events()
    assert gaps(events) == [(EGRESS, 4)]
    assert moved(events) == [
        (EGRESS, b"?a"),
        (EGRESS, b""),
        (EGRESS, b"more"),
        (INGRESS, b"!"),
        (EGRESS, b"on"),
    ]
    assert wire.assembler.counters()[Cause.UNSEEN].bytes == 4


def test_lost_request_is_a_gap_before_its_response_and_begins_a_turn():
    wire = Wire().shake()
    wire.segment(0, b"?lost")
    wire.send(1, b"!")
    wire.assembler.settle(wire.now_ns + 100 * MS)
    events = wire.events()
    assert gaps(events) == [(EGRESS, 5)]
    assert [each.turn for each in events if isinstance(each, DataEvent)] == [1, 2]
    assert wire.assembler.counters()[Cause.UNSEEN].requests == 1


def test_bytes_not_acknowledged_are_waited_for_as_long_as_a_retransmission_takes():
    wire = Wire().shake().send(0, b"?a")
    lost = wire.segment(0, b"lost")
    wire.send(0, b"more").send(0, b"more", after_ns=1000 * MS)
    assert gaps(wire.events()) == []
    feed(wire, lost._replace(timestamp_ns=wire.now_ns))
    assert moved(wire.events()) == [(EGRESS, b"lost"), (EGRESS, b"more"), (EGRESS, b"more")]


def test_waiting_ends_without_another_segment():
    wire = Wire().shake().send(0, b"?a")
    wire.segment(0, b"lost")
    wire.send(0, b"more")
    wire.assembler.settle(wire.now_ns + reassembly.RETRANSMIT_NS)
    assert gaps(wire.events()) == [(EGRESS, 4)]
    assert not wire.assembler._stuck


def test_end_of_the_capture_delivers_what_waits():
    wire = Wire().shake().send(0, b"?a")
    wire.segment(0, b"lost")
    wire.send(0, b"more")
    wire.assembler.finish()
    assert moved(wire.events())[-1] == (EGRESS, b"more")


def test_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(reassembly, "MAX_HELD_SEGMENTS", 10)
    wire = Wire().shake()
    wire.segment(0, b"lost")
    for _ in range(20):
        wire.send(0, b"x", after_ns=1)
    assert gaps(wire.events()) == [(EGRESS, 4)]


def test_held_bytes_are_bounded_and_accounted(monkeypatch):
    monkeypatch.setattr(reassembly, "MAX_HELD_BYTES", 100)
    wire = Wire().shake()
    wire.segment(0, b"lost")
    for _ in range(20):
        wire.send(0, b"x" * 10, after_ns=1)
    assert gaps(wire.events()) == [(EGRESS, 4)]
    assert wire.assembler._output.held_bytes == 0


def test_fin_that_was_not_captured_is_no_gap():
    wire = Wire().shake().send(0, b"?")
    wire.segment(0, flags=FIN | ACK)
    wire.send(1, b"!").send(1, b"!")
    wire.assembler.settle(wire.now_ns + 10**10)
    assert gaps(wire.events()) == []


def test_fin_waits_for_the_bytes_before_it():
    wire = Wire().shake().send(0, b"?")
    body, fin = wire.segment(1, b"!body"), wire.segment(1, flags=FIN | ACK)
    feed(wire, fin, body).send(0, flags=FIN | ACK)
    events = wire.events()
    assert moved(events) == [(EGRESS, b"?"), (INGRESS, b"!body"), (INGRESS, b"")]
    assert isinstance(events[-1], CloseEvent)


def test_zero_window_probe_and_keep_alive_move_nothing():
    wire = Wire().shake().send(0, b"?a")
    probe = wire.segment(0)
    feed(wire, probe._replace(sequence=(probe.sequence - 1) % 2**32, data=b"\0", size=1))
    wire.send(0, b"b")
    assert moved(wire.events()) == [(EGRESS, b"?a"), (EGRESS, b"b")]


def test_cut_segment_has_its_size_on_the_wire():
    wire = Wire().shake().send(0, b"?cut", size=1000).send(0, b"next")
    first, second = [each for each in wire.events() if isinstance(each, DataEvent)]
    assert (first.data, first.size) == (b"?cut", 1000)
    assert second.position == (first.position + 1000) % 2**32


turns = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 5000)), min_size=1, max_size=12)


@given(turns, st.data())
def test_any_order_within_reach_and_any_repetition_give_the_same_bytes(turns, data):
    wire = Wire().shake()
    wire.events()
    sent = [b"", b""]
    segments = []
    for side, size in turns:
        text = bytes((len(sent[side]) + n) % 251 for n in range(size))
        sent[side] += text
        segments += [
            wire.segment(side, text[at : at + 1000], after_ns=1000) for at in range(0, size, 1000)
        ]
    order = sorted(
        range(len(segments)), key=lambda n: n + data.draw(st.integers(0, 3), label="delay")
    )
    for n in order:
        feed(wire, segments[n])
        if data.draw(st.integers(0, 4)) == 0:
            feed(wire, segments[n])
    events = wire.events()
    assert gaps(events) == []
    got = [b"", b""]
    sides = []
    for each in events:
        got[1 - each.direction] += each.data
        if not sides or sides[-1] != 1 - each.direction:
            sides.append(1 - each.direction)
    assert got == sent
    expected = [side for n, (side, _) in enumerate(turns) if not n or turns[n - 1][0] != side]
    assert sides == expected


@given(turns, st.data())
def test_any_loss_leaves_positions_that_add_up(turns, data):
    wire = Wire().shake()
    wire.events()
    for side, size in turns:
        # One byte that is missing is taken for a FIN, which is likelier.
        segment = wire.segment(side, b"xx" * size, after_ns=data.draw(st.integers(1, 50)) * MS)
        if data.draw(st.integers(0, 2)):
            feed(wire, segment)
    wire.assembler.finish()
    at = {EGRESS: None, INGRESS: None}
    for each in wire.events():
        if isinstance(each, DataEvent):
            assert at[each.direction] in {None, each.position}
            at[each.direction] = (each.position + each.size) % 2**32
