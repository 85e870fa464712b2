# SPDX-License-Identifier: Apache-2.0
"""The ring buffer, mapped: everything that is ready comes out as one slice.

The kernel's half writes records one after the other and moves the producer position
when it reserves; a record carries the BUSY bit until it is complete. Two positions are
pages of their own, and the data is mapped twice in a row, so that no record is ever
cut by the end (Linux kernel/bpf/ringbuf.c).

Looking at every record's header for the BUSY bit would cost more than copying them.
Since Linux 6.10 the kernel keeps `pending_pos` beside the producer position: nothing
before it is busy. So only what follows it, mostly one record, is looked at. Where the
kernel has no such field, all headers are.
"""

from __future__ import annotations

import mmap
import threading
from typing import Final

from tracer.events import BUSY, LENGTH_MASK, RECORD_HEADER_BYTES

PAGE: Final = mmap.PAGESIZE
MAX_WALK_BYTES: Final = 1 << 20
"""What one `take` looks through header by header."""


class Ring:
    """The consumer's end of a BPF_MAP_TYPE_RINGBUF map."""

    def __init__(self, fd: int, size_bytes: int, pending_offset: int = 0) -> None:
        """`pending_offset`: of `pending_pos` behind the producer position, 0 if unknown."""
        self._mask = size_bytes - 1
        self._consumer_map = mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._map = mmap.mmap(
            fd, PAGE + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE
        )
        self._consumer_view = memoryview(self._consumer_map).cast("Q")
        self._producer_bytes = memoryview(self._map)
        self._positions = self._producer_bytes[:PAGE].cast("Q")
        self._words = self._producer_bytes.cast("I")
        self._pending_index = pending_offset // 8
        self._position: int = self._consumer_view[0]
        self._barrier = threading.Lock()

    def take(self) -> bytes:
        """All complete records in order, as they lie in the ring; empty if there are none."""
        start = self._position
        producer: int = self._positions[0]
        if producer == start:
            return b""
        self._order()
        end = self._complete_to(start, producer)
        begin = PAGE + (start & self._mask)
        chunk = self._map[begin : begin + end - start]
        self._order()
        self._position = self._consumer_view[0] = end
        return chunk

    def close(self) -> None:
        for view in (self._words, self._positions, self._producer_bytes, self._consumer_view):
            view.release()
        self._map.close()
        self._consumer_map.close()

    def _complete_to(self, start: int, producer: int) -> int:
        """The end of the last record before the first that is being written."""
        position = start
        if self._pending_index:
            pending: int = self._positions[self._pending_index]
            if start < pending <= producer:
                position = pending
        limit = min(producer, position + MAX_WALK_BYTES)
        while position < limit:
            word: int = self._words[(PAGE + (position & self._mask)) >> 2]
            if word & BUSY:
                break
            position += (word & LENGTH_MASK) + RECORD_HEADER_BYTES + 7 & ~7
        return position

    def _order(self) -> None:
        # arm64 may see the positions and the data in another order than they were
        # written in; taking a lock is the barrier that Python has.
        with self._barrier:
            pass
