# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

import pytest

from parsers.stream import HELD, LOST, REFUSED, WAITED, Kept
from tests.tracer.conversations import MS, START_NS, Conversation
from tracer import redaction
from tracer.events import EGRESS, INGRESS, DataEvent, chunk_of, walk
from tracer.redaction import Redactor
from tracer.source import Batch

PEER = (bytes(15) + b"\1", 53)


class Session:
    """What a redactor asks of a session."""

    def __init__(self):
        self.kept = []
        self.waiting = [0, 0]

    def undecided(self, direction):
        return self.waiting[direction]


class Case:
    """A redactor, one session, and transfers that go on from each other."""

    def __init__(self, position=1000):
        self.redactor = Redactor()
        self.session = Session()
        self.at = [position, position]
        self.now_ns = START_NS

    def move(self, data, *notes, direction=INGRESS, waiting=0, after_ns=MS, peer=None):
        """One batch with one transfer; notes are (offset, size, fate) from its first byte.

        Or (offset, size, 0, substitute).
        """
        self.now_ns += after_ns
        position = self.at[direction]
        event = DataEvent(
            direction=direction,
            cookie=1,
            timestamp_ns=self.now_ns,
            position=position,
            size=len(data),
            turn=1,
            data=data,
            peer=peer,
        )
        self.at[direction] = (position + len(data)) % 2**32
        self.session.kept += [
            Kept(direction, (position + offset) % 2**32, size, *fate)
            for offset, size, *fate in notes
        ]
        self.session.waiting[direction] = waiting
        return self.give([event])

    def give(self, events):
        batch = Batch(chunk_of(events), self.now_ns, 0)
        return seen(self.redactor.take(batch, lambda cookie: self.session))

    def drain(self):
        return seen(self.redactor.drain())


def seen(batches):
    return [
        (event.data, event.flags)
        for batch in batches
        for event in walk(batch.chunk)
        if isinstance(event, DataEvent)
    ]


def test_what_nobody_kept_is_blanked():
    assert Case().move(b"secret") == [(b"\xff" * 6, 0)]


def test_what_was_kept_stays():
    assert Case().move(b"open secret open", (0, 5), (11, 5)) == [
        (b"open " + b"\xff" * 6 + b" open", 0)
    ]


def test_positions_wrap():
    assert Case(2**32 - 3).move(b"abcdef", (0, 2), (4, 2)) == [(b"ab\xff\xffef", 0)]


def test_substitute_is_written_in_place():
    assert Case().move(b"set 1234 ok", (0, 4), (4, 4, 0, b"0000"), (8, 3)) == [(b"set 0000 ok", 0)]
    assert Case(2**32 - 6).move(b"set 1234 ok", (4, 4, 0, b"abcd")) == [
        (b"\xff\xff\xff\xffabcd\xff\xff\xff", 0)
    ]


def test_substitute_for_all_of_a_transfer():
    assert Case().move(b"1234", (0, 4, 0, b"0000")) == [(b"0000", 0)]
    assert Case().move(b"12", (0, 1, 0, b"a"), (1, 1, 0, b"b")) == [(b"ab", 0)]


def test_substitute_may_be_split_over_transfers():
    case = Case()
    assert case.move(b"set 12", waiting=6) == []
    assert case.move(b"34", waiting=8) == []
    found = case.move(b"56 ok", (-8, 4), (-4, 6, 0, b"abcdef"), (2, 3))
    assert found == [(b"set ab", 0), (b"cd", 0), (b"ef ok", 0)]


def test_what_comes_again_of_a_substitute_is_blanked():
    case = Case()
    assert case.move(b"12", waiting=2) == []
    case.at[INGRESS] -= 2
    assert case.move(b"1234", (0, 4, 0, b"abcd")) == [(b"ab", 0), (b"\xff\xffcd", 0)]
    case.at[INGRESS] -= 4
    assert case.move(b"1234") == [(b"\xff" * 4, 0)]


def test_substitute_reaches_as_far_as_was_captured():
    case = Case()
    event = DataEvent(
        direction=INGRESS, cookie=1, timestamp_ns=5, position=1000, size=10, turn=1, data=b"set 12"
    )
    case.session.kept = [Kept(INGRESS, 1000, 4), Kept(INGRESS, 1004, 6, 0, b"abcdef")]
    assert case.give([event]) == [(b"set ab", 0)]


def test_substitute_behind_which_bytes_are_cut_off():
    case = Case()
    notes = (0, 4, 0, b"abcd"), (4, 2)
    assert case.move(b"1234okwait", *notes, (6, 4, LOST)) == [(b"abcdok", LOST)]


def test_notes_of_one_range_may_cover_many_transfers():
    case = Case()
    assert case.move(b"abc", waiting=3) == []
    assert case.move(b"def", (-3, 6)) == [(b"abc", 0), (b"def", 0)]
    assert not case.redactor._connections


def test_directions_are_apart():
    case = Case()
    assert case.move(b"abc", waiting=3) == []
    assert case.move(b"xyz", (0, 3), direction=EGRESS) == []
    assert case.move(b"def", (-3, 3)) == [(b"abc", 0), (b"xyz", 0), (b"\xff\xff\xff", 0)]


def test_waited_for_in_vain_is_cut_off_and_says_so():
    case = Case()
    assert case.move(b"keepwait", (0, 4), waiting=4) == []
    assert case.move(b"more", (-4, 8, WAITED)) == [(b"keep", WAITED), (b"", WAITED)]


@pytest.mark.parametrize("fate", [REFUSED, LOST])
def test_only_the_transfer_that_decided_says_what_became_of_the_bytes(fate):
    case = Case()
    assert case.move(b"keepwait", (0, 4), waiting=4) == []
    assert case.move(b"more", (-4, 8, fate)) == [(b"keep", WAITED), (b"", fate)]


def test_bytes_held_to_find_out_the_protocol_are_cut_off_unless_something_became_of_them():
    case = Case()
    assert case.move(b"abc", (0, 3, HELD)) == [(b"", WAITED)]
    assert case.move(b"abc", (0, 3, HELD), (0, 3)) == [(b"abc", 0)]
    assert case.move(b"abc", (0, 3, HELD), (1, 2, REFUSED)) == [(b"\xff", REFUSED)]


def test_undecided_at_the_end_is_waited_for_in_vain():
    case = Case()
    assert case.move(b"keepwait", (0, 4), waiting=4) == []
    assert case.drain() == [(b"keep", WAITED)]
    assert case.redactor.undecided_bytes == 0


def test_undecided_is_counted_when_time_is_up():
    case = Case()
    assert case.move(b"keepwait", (0, 4), waiting=4) == []
    case.now_ns += redaction.HOLD_NS
    other = Batch(b"", case.now_ns + 1, 0)
    assert seen(case.redactor.take(other, lambda cookie: case.session)) == [(b"keep", WAITED)]
    assert case.redactor.undecided_bytes == 4


def test_bytes_that_came_twice_are_undecided_as_long_as_the_first_are():
    case = Case()
    assert case.move(b"abc", waiting=3) == []
    case.at[INGRESS] -= 3
    assert case.move(b"abc", waiting=3) == []
    assert case.move(b"d", (-3, 4)) == [(b"abc", 0), (b"\xff" * 3, 0), (b"d", 0)]


def test_position_that_jumps_while_undecided_holds_all_of_it():
    case = Case()
    assert case.move(b"abc", waiting=3) == []
    case.at[INGRESS] += 1000
    assert case.move(b"def", waiting=1006) == []


def test_session_that_is_gone_decides_nothing_more():
    case = Case()
    assert case.move(b"abc", waiting=3) == []
    case.session = None
    later = Batch(b"", case.now_ns + 1, 0)
    assert seen(case.redactor.take(later, lambda cookie: None)) == [(b"\xff" * 3, 0)]


def test_peer_of_a_datagram_stays():
    case = Case()
    event = DataEvent(
        direction=1, cookie=1, timestamp_ns=5, position=0, size=8, turn=1, data=b"question",
        peer=PEER,
    )  # fmt: skip
    (batch,) = case.redactor.take(Batch(chunk_of([event]), 5, 0), lambda cookie: None)
    (redacted,) = walk(batch.chunk)
    assert (redacted.peer, redacted.data) == (PEER, b"\xff" * 8)


def test_other_events_and_empty_batches_are_as_they_were():
    (opened,) = Conversation().open().events
    redactor = Redactor()
    for batch in (Batch(chunk_of([opened]), 5, 6), Batch(b"", 7, 8)):
        assert list(redactor.take(batch, lambda cookie: None)) == [batch]


def test_nothing_is_remembered_of_connections_that_are_written():
    case = Case()
    for _ in range(100):
        case.move(b"abcdef", (0, 3))
    assert not case.redactor._connections
    assert not case.redactor._waiting
    assert case.redactor._held_bytes == 0


def test_notes_on_bytes_never_seen_do_no_harm():
    case = Case()
    session = SimpleNamespace(kept=[Kept(0, 5, 5), Kept(1, 9, 9, REFUSED)], undecided=lambda _: 0)
    case.session = session
    event = DataEvent(
        direction=0, cookie=1, timestamp_ns=5, position=1000, size=3, turn=1, data=b"abc"
    )
    assert case.give([event]) == [(b"\xff" * 3, 0)]


def test_what_the_ring_buffer_held_before_is_not_kept():
    case = Case()
    event = DataEvent(
        direction=INGRESS, cookie=1, timestamp_ns=5, position=1000, size=5, turn=1, data=b"abcde"
    )
    clean = chunk_of([event])
    stale = clean.removesuffix(bytes(3)) + b"key"
    case.session.kept.append(Kept(INGRESS, 1000, 5, 0))
    (batch,) = case.redactor.take(Batch(stale, case.now_ns, 0), lambda _: case.session)
    assert batch.chunk == clean
