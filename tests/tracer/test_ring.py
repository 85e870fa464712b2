# SPDX-License-Identifier: Apache-2.0
"""Draining a ring buffer, over a file that is laid out as the kernel lays its map out."""

from __future__ import annotations

import mmap
import struct

import pytest

from tracer.events import BUSY, DISCARDED, DataEvent, chunk_of, walk
from tracer.ring import Ring

SIZE = 4096
PENDING = 8


class Kernel:
    """The producer's end: two positions, and the data twice in a row."""

    def __init__(self, path, size=SIZE):
        path.write_bytes(bytes(2 * mmap.PAGESIZE + 2 * size))
        self.file = path.open("r+b")
        self.map = mmap.mmap(self.file.fileno(), 0)
        self.size = size
        self.position = 0

    def reserve(self, body, flags=0):
        """Write a record, which is busy or discarded if `flags` say so; returns its place."""
        record = struct.pack("<II", len(body) | flags, 0) + body
        start = self.position
        self.write(start, record)
        self.position += len(record) + 7 & ~7
        struct.pack_into("<Q", self.map, mmap.PAGESIZE, self.position)
        return start

    def write(self, position, data):
        begin = 2 * mmap.PAGESIZE
        for index, byte in enumerate(data):
            place = (position + index) % self.size
            self.map[begin + place] = self.map[begin + self.size + place] = byte

    def commit(self, start, length, flags=0):
        self.write(start, struct.pack("<I", length | flags))

    def set_pending(self, position):
        struct.pack_into("<Q", self.map, mmap.PAGESIZE + PENDING, position)

    @property
    def consumed(self):
        return struct.unpack_from("<Q", self.map, 0)[0]


@pytest.fixture
def kernel(tmp_path):
    made = Kernel(tmp_path / "ring")
    yield made
    made.map.close()
    made.file.close()


@pytest.fixture
def open_ring(kernel):
    rings = []

    def make(pending_offset=0):
        rings.append(Ring(kernel.file.fileno(), SIZE, pending_offset))
        return rings[-1]

    yield make
    for ring in rings:
        ring.close()


def event(number, size=20):
    return DataEvent(
        direction=1,
        cookie=number,
        timestamp_ns=number,
        position=0,
        size=size,
        turn=1,
        data=bytes([number % 256]) * size,
    )


def cookies(chunk):
    return [one.cookie for one in walk(chunk)]


def test_empty_ring_gives_nothing(open_ring):
    assert open_ring().take() == b""


def test_all_that_is_ready_comes_as_it_lies(kernel, open_ring):
    ring = open_ring()
    written = [event(number, size=number) for number in range(1, 10)]
    for one in written:
        kernel.reserve(one.pack())
    assert ring.take() == chunk_of(written)
    assert kernel.consumed == kernel.position
    assert ring.take() == b""


@pytest.mark.parametrize("pending", [0, PENDING])
def test_record_that_is_being_written_waits_with_all_behind_it(kernel, open_ring, pending):
    ring = open_ring(pending)
    kernel.reserve(event(1).pack())
    body = event(2).pack()
    busy = kernel.reserve(body, BUSY)
    kernel.set_pending(busy)
    kernel.reserve(event(3).pack())
    assert cookies(ring.take()) == [1]
    assert ring.take() == b""
    assert kernel.consumed == busy
    kernel.commit(busy, len(body))
    assert cookies(ring.take()) == [2, 3]


def test_pending_position_behind_the_reader_is_no_guide(kernel, open_ring):
    ring = open_ring(PENDING)
    for number in range(3):
        kernel.reserve(event(number).pack())
    assert len(cookies(ring.take())) == 3
    body = event(9).pack()
    busy = kernel.reserve(body, BUSY)
    assert ring.take() == b""
    kernel.commit(busy, len(body))
    assert cookies(ring.take()) == [9]


def test_discarded_record_is_passed_on_for_the_walk_to_skip(kernel, open_ring):
    ring = open_ring()
    kernel.reserve(event(1).pack(), DISCARDED)
    kernel.reserve(event(2).pack())
    assert cookies(ring.take()) == [2]


def test_records_across_the_end_come_whole(kernel, open_ring):
    ring = open_ring()
    seen = []
    for number in range(1, 200):
        kernel.reserve(event(number, size=number).pack())
        seen += walk(ring.take())
    assert seen == [event(number, size=number) for number in range(1, 200)]
    assert kernel.position > 3 * SIZE


def test_second_reader_goes_on_where_the_first_stopped(kernel, open_ring):
    kernel.reserve(event(1).pack())
    open_ring().take()
    kernel.reserve(event(2).pack())
    assert cookies(open_ring().take()) == [2]
