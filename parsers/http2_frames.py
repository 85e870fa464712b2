# SPDX-License-Identifier: Apache-2.0
"""Frames of HTTP/2: their numbers, and whether some bytes look like them.

Spec: RFC 9113 sections 3.4, 4.1, 6 and 7.

After a loss, or where a connection was joined late, bytes may begin inside the payload of a DATA
frame, and a payload may look like anything. So a frame is believed where it obeys all rules of
its type, and where what stands behind it does so too, up to the end of what is there.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from parsers.http2_fields import Decoder
from parsers.model import Kind, Likeness, ParseError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREFACE_WORD: Final = int.from_bytes(PREFACE[:4], "big")
"""As the first word of a header."""
HEADER_BYTES: Final = 9
HEADER: Final = Struct(">IBI")
"""Length and type together, flags, stream."""
SETTING: Final = Struct(">HI")
GOAWAY_FIELDS: Final = Struct(">II")
STREAM_MASK: Final = 0x7FFFFFFF

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

MAX_FRAME_SIZE: Final = 5
"""The setting of this number."""
DEFAULT_FRAME_BYTES: Final = 16384
LARGEST_FRAME_BYTES: Final = (1 << 24) - 1

MAX_SETTINGS: Final = 32
"""In a frame. Six are defined, and few peers send all of them."""
SETTING_LIMITS: Final = {2: 1, 4: STREAM_MASK, MAX_FRAME_SIZE: LARGEST_FRAME_BYTES, 8: 1}
"""The largest value of a setting, by number: ENABLE_PUSH, windows, frames, CONNECT."""
PRIORITY_BYTES: Final = 5

NO_ERROR: Final = 0x0
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
ERRORS: Final = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
"""By code (RFC 9113 section 7)."""

FLAGS: Final = (0x09, 0x2D, 0, 0, ACK, 0x0C, ACK, 0, 0, END_HEADERS)
"""Those that are defined, by type."""
SIZES: Final = (None, None, 5, 4, None, None, 8, None, 4, None)
"""Of the payload, where there is only one, by type."""
ON_CONNECTION: Final = frozenset({SETTINGS, PING, GOAWAY})
"""Frames of no stream; WINDOW_UPDATE may be either's."""


def error_name(code: int) -> str:
    """What RST_STREAM and GOAWAY call an error; an unknown one is INTERNAL_ERROR's equal."""
    return ERRORS[code] if code < len(ERRORS) else f"0x{code:x}"


def obeys(kind: int, flags: int, stream: int, length: int) -> bool:
    """Whether a header is one of a frame of a known type, to the letter.

    `stream` with the reserved bit, which is not set by anybody.
    """
    if kind > CONTINUATION or flags & ~FLAGS[kind] or stream > STREAM_MASK:
        return False
    size = SIZES[kind]
    if size is not None and length != size:
        return False
    if kind == SETTINGS and (length % 6 or (flags and length)):
        return False
    if kind == GOAWAY and length < 8:
        return False
    if kind == WINDOW_UPDATE:
        return True
    return (stream == 0) == (kind in ON_CONNECTION)


def probe(head: bytes, side: Kind) -> Likeness:
    """How much `head` looks like frames from `side`, one after the other."""
    if side is Kind.REQUEST and (head.startswith(PREFACE) or PREFACE.startswith(head)):
        return Likeness.CERTAIN if len(head) >= len(PREFACE) else Likeness.SHORT
    end = len(head)
    position = 0
    best = Likeness.SHORT
    while position < end:
        # Of the last header only the beginning may be there: zeros obey every rule.
        header = head[position : position + HEADER_BYTES]
        word, flags, stream = HEADER.unpack(header.ljust(HEADER_BYTES, b"\0"))
        kind = word & 0xFF
        length = word >> 8
        if length > DEFAULT_FRAME_BYTES and best is Likeness.SHORT:
            return Likeness.NO
        if len(header) < HEADER_BYTES:
            known = kind <= CONTINUATION and not flags & ~FLAGS[kind]
            return best if known else Likeness.NO
        if not obeys(kind, flags, stream, length) or not _sends(side, kind, stream):
            return Likeness.NO
        start = position + HEADER_BYTES
        position = start + length
        if kind == DATA:
            if position > end and best is Likeness.SHORT:
                # Its payload may be anything: alone, only its end bears it out.
                return Likeness.NO
        elif position <= end:
            found = _judge(kind, flags, head[start:position], side)
            if found is Likeness.NO:
                return found
            best = max(best, found)
        if kind == HEADERS and not flags & END_HEADERS:
            # A block in several frames is rare: what follows is not looked at.
            break
    return best


def _sends(side: Kind, kind: int, stream: int) -> bool:
    """Whether `side` sends such frames on this stream, after whatever came before."""
    if kind == CONTINUATION:
        return False
    if stream & 1 or not stream:
        return kind != PUSH_PROMISE or side is Kind.RESPONSE
    # Streams of even numbers are the server's own: a client says little about them.
    return side is Kind.RESPONSE or kind in {PRIORITY, RST_STREAM, WINDOW_UPDATE}


def _judge(kind: int, flags: int, payload: bytes, side: Kind) -> Likeness:
    """How much a frame that is there as a whole speaks for itself."""
    if kind == HEADERS:
        return _judge_block(flags, payload, side)
    number = int.from_bytes(payload[-4:], "big")
    agrees = True
    if kind == RST_STREAM:
        agrees = number < len(ERRORS)
    elif kind == WINDOW_UPDATE:
        agrees = 0 < number <= STREAM_MASK
    elif kind == GOAWAY:
        agrees = int.from_bytes(payload[4:8], "big") < len(ERRORS)
    elif kind == SETTINGS:
        limits = [SETTING_LIMITS.get(each, STREAM_MASK * 2 + 1) for each in payload[1::6]]
        values = [int.from_bytes(payload[i + 2 : i + 6], "big") for i in range(0, len(payload), 6)]
        agrees = len(values) <= MAX_SETTINGS and all(
            value <= limit for value, limit in zip(values, limits, strict=True)
        )
    return Likeness.LIKELY if agrees else Likeness.NO


def _judge_block(flags: int, payload: bytes, side: Kind) -> Likeness:
    """A field block is borne out by its first field: a request's method, a response's status."""
    try:
        start, stop = strip(payload, flags)
        if not flags & END_HEADERS:
            return Likeness.SHORT
        decoder = Decoder()
        decoder.forget()
        found = decoder.read(payload[start:stop])
    except ParseError:
        return Likeness.NO
    asks, answers = ":method" in found.fields, ":status" in found.fields
    if asks or answers:
        return Likeness.LIKELY if asks is (side is Kind.REQUEST) else Likeness.NO
    # Trailers, or fields that were inserted before.
    return Likeness.SHORT if found.partial or flags & END_STREAM else Likeness.NO


def strip(payload: bytes, flags: int) -> tuple[int, int]:
    """Where in a HEADERS frame's payload the field block is, between priority and padding.

    Raises:
        ParseError: there is not that much.
    """
    start = 0
    stop = len(payload)
    if flags & PADDED and payload:
        stop -= payload[0]
        start = 1
    if flags & WITH_PRIORITY:
        start += PRIORITY_BYTES
    if start > stop or (flags & PADDED and not payload):
        raise ParseError("a frame shorter than its padding")
    return start, stop
