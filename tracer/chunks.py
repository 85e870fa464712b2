# SPDX-License-Identifier: Apache-2.0
"""Chunks as a whole: where their payloads lie, and whether they are what a source makes.

Layout: tracer/events.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from tracer.events import (
    BUSY,
    CLOSE,
    CLOSE_STRUCT,
    DATA,
    DATA_STRUCT,
    DISCARDED,
    EGRESS,
    HAS_PEER,
    LENGTH_MASK,
    OPEN,
    OPEN_STRUCT,
    PEER_STRUCT,
    RECORD_DATA_STRUCT,
    RECORD_HEADER_BYTES,
    CloseReason,
)

FLAGS_AT: Final = 2
CAPTURED_AT: Final = 4
"""Of `ws_data`."""
MAX_ROLE: Final = 2
MAX_TRANSPORT: Final = 3


class Payload(NamedTuple):
    """Where the payload of a data event lies in its chunk."""

    cookie: int
    direction: int
    position: int
    size: int
    start: int
    """Index into the chunk of the event."""
    offset: int
    """Index into the chunk of the first captured byte."""
    captured: int
    end: int
    """Index behind the record. Between the captured bytes and there stands what the ring buffer
    held before."""


def payloads(chunk: bytes) -> Iterator[Payload]:
    """Yield where the payload of each data event of `chunk` lies, empty ones too."""
    unpack = RECORD_DATA_STRUCT.unpack_from
    offset = 0
    end = len(chunk) - RECORD_DATA_STRUCT.size
    while offset <= end:
        word, _, kind, direction, flags, _, captured, cookie, _, position, size, *_ = unpack(
            chunk, offset
        )
        start = offset + RECORD_HEADER_BYTES
        offset = start + ((word & LENGTH_MASK) + 7 & ~7)
        if kind == DATA and not word & DISCARDED:
            peer = PEER_STRUCT.size if flags & HAS_PEER else 0
            payload = start + DATA_STRUCT.size + peer
            yield Payload(cookie, direction, position, size, start, payload, captured, offset)


def cut(chunk: bytearray, payload: Payload, captured: int, flag: int) -> None:
    """Shorten what is captured of an event, in place: the record keeps its length."""
    chunk[payload.start + FLAGS_AT] |= flag
    captured_at = payload.start + CAPTURED_AT
    chunk[captured_at : captured_at + 4] = captured.to_bytes(4, "little")


def is_sound(chunk: bytes) -> bool:
    """Whether `chunk` is one that a source made, and not one that was tampered with."""
    offset = 0
    end = len(chunk)
    while offset < end:
        start = offset + RECORD_HEADER_BYTES
        if start >= end:
            return False
        word = int.from_bytes(chunk[offset : offset + 4], "little")
        length = word & LENGTH_MASK
        offset = start + (length + 7 & ~7)
        if word & BUSY or offset > end or not _is_record(chunk, start, length):
            return False
    return True


def _is_record(chunk: bytes, start: int, length: int) -> bool:
    kind = chunk[start]
    if kind == DATA and length >= DATA_STRUCT.size:
        _, direction, flags, _, captured, _, _, _, size, *_ = DATA_STRUCT.unpack_from(chunk, start)
        needed = DATA_STRUCT.size + captured + (PEER_STRUCT.size if flags & HAS_PEER else 0)
        return bool(needed <= length and captured <= size and direction <= EGRESS)
    if kind == OPEN:
        if length < OPEN_STRUCT.size:
            return False
        return chunk[start + 1] <= MAX_ROLE and 1 <= chunk[start + 2] <= MAX_TRANSPORT
    if kind == CLOSE:
        return length >= CLOSE_STRUCT.size and chunk[start + 1] <= CloseReason.REFUSED
    return kind != DATA and length > 0
