# SPDX-License-Identifier: Apache-2.0
"""HTTP/2: frames, streams, messages.

Spec: RFC 9113; RFC 7540 section 3.2 (upgrade from HTTP/1.1); RFC 8441 (extended CONNECT).
OTel: HTTP spans 1.44.0, RPC spans 1.44.0.

A stream is an exchange: its messages carry its number, are open until END_STREAM, and are as
large as their frames. Payload of DATA is skipped; of gRPC calls the five bytes before each
message are read (parsers/grpc_calls.py). Every field block is decoded in order, whatever its
stream (parsers/http2_fields.py), and as a whole: nothing may stand between HEADERS and its
CONTINUATIONs, so it is read when all of it is there.

* What a server pushes has no request on the wire that a client has made: promises and pushed
  responses are read over, and no exchange is made of them.
* RST_STREAM ends an exchange, and says why. GOAWAY ends the requests that it says were not
  processed; a byte of it is counted for each.
* Of a stream whose request is known, a response that ends without having been seen to begin is
  reported as one with a gap.
"""

from __future__ import annotations

from typing import ClassVar, Final

from parsers.grpc_web import MAX_UNIT_BYTES
from parsers.http2_fields import Block, Decoder
from parsers.http2_frames import (
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_BYTES,
    END_HEADERS,
    END_STREAM,
    FLAGS,
    GOAWAY,
    GOAWAY_FIELDS,
    HEADER,
    HEADER_BYTES,
    HEADERS,
    LARGEST_FRAME_BYTES,
    MAX_FRAME_SIZE,
    MAX_SETTINGS,
    PADDED,
    PREFACE,
    PREFACE_WORD,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    STREAM_MASK,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    obeys,
    probe,
    strip,
)
from parsers.http2_messages import outline
from parsers.http2_streams import Streams
from parsers.http_attributes import KNOWN_METHODS, View
from parsers.model import (
    Endpoint,
    Exchange,
    Kind,
    Likeness,
    Message,
    Options,
    Outline,
    ParseError,
    Side,
    Transport,
)
from parsers.reader import Reader

MAX_BLOCK_BYTES: Final = 128 * 1024
"""Of a field block: twice what the most generous common server takes."""
MAX_CONTINUATIONS: Final = 64
"""After a HEADERS frame: more than such a block makes in frames of the usual size."""
MAX_ENDED: Final = 16
"""Requests ended by one GOAWAY, which has 17 bytes at least. More of them end with the
connection."""
REQUEST: Final = Kind.REQUEST


class Direction:
    """What is known of one direction."""

    __slots__ = ("decoder", "ended", "largest", "left", "padding", "stream")

    def __init__(self) -> None:
        self.decoder = Decoder()
        self.largest = DEFAULT_FRAME_BYTES
        """A frame may have so many bytes of payload."""
        self.left = 0
        """Bytes of the frame being read: a gRPC call's DATA without padding, or GOAWAY."""
        self.padding = 0
        self.stream = 0
        """That DATA's; negative if it ends the stream."""
        self.ended: list[Message] | None = None
        """Requests that a GOAWAY has ended, while that is being read."""


class Http2Parser:
    """HTTP/2 on one connection."""

    name: ClassVar[str] = "http2"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP, Transport.UNIX})
    ports: ClassVar[frozenset[int]] = frozenset({80, 8080, 50051})
    whole: ClassVar[bool] = True
    refinements: ClassVar[frozenset[str]] = frozenset({"grpc"})
    multiplexed: ClassVar[bool] = True

    __slots__ = ("_directions", "_methods", "_redact", "_scheme", "_streams")

    def __init__(self, options: Options) -> None:
        self._redact = options.redact
        self._scheme = "https" if options.encrypted else "http"
        self._methods = KNOWN_METHODS if options.http_methods is None else options.http_methods
        self._streams = Streams()
        self._directions = (Direction(), Direction())

    @staticmethod
    def probe(head: bytes, kind: Kind) -> Likeness:
        """Certain of the preface; likely where whole frames bear each other out."""
        return probe(head, kind)

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message | None:
        """One frame, or a field block with all its frames; of a gRPC call's DATA a part."""
        direction = self._directions[kind]
        if reader.resumed:
            self._resume(kind, direction)
        if direction.left:
            if direction.ended is not None:
                return _end_next(reader, direction)
            position = reader.position
            message = self._count(reader, kind, direction)
            if reader.position == position:
                # The trailers of gRPC-Web are read at once.
                reader.wait(MAX_UNIT_BYTES)
            return message
        position = reader.position
        if reader.end - position < HEADER_BYTES:
            reader.take(HEADER_BYTES)
        word, flags, number = HEADER.unpack_from(reader.data, position)
        number &= STREAM_MASK
        length = word >> 8
        frame = word & 0xFF
        if length > DEFAULT_FRAME_BYTES and kind is REQUEST and word == PREFACE_WORD:
            _read_preface(reader, direction)
            return None
        if length > direction.largest:
            raise ParseError(f"a frame of {length} bytes")
        if frame == HEADERS:
            if not number:
                raise ParseError("HEADERS of no stream")
            block = _read_block(reader, direction, flags, number, length)
            take = self._streams.ask if kind is REQUEST else self._streams.answer
            return take(block, number, ends=bool(flags & END_STREAM))
        if frame == DATA:
            if not number:
                raise ParseError("DATA of no stream")
            return self._read_data(reader, kind, flags, number, length)
        if frame > CONTINUATION:
            # Of an extension (section 5.5).
            reader.position = position + HEADER_BYTES
            reader.skip(length)
            return None
        return self._read_control(reader, kind, frame, flags, number, length)

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        """HTTP or RPC span, client or server, by the conventions."""
        return outline(exchange, View(side, server, self._redact, self._methods, self._scheme))

    def _read_data(
        self, reader: Reader, kind: Kind, flags: int, number: int, length: int
    ) -> Message | None:
        """A frame of payload."""
        stream = self._streams.get(number)
        message = None if stream is None else stream.message(kind)
        ends = flags & END_STREAM
        if stream is None or (message is not None and not message.open):
            message = None
            ends = 0
        elif length and message is not None and stream.counters[kind] is not None:
            direction = self._directions[kind]
            padding = 0
            if flags & PADDED:
                padding = reader.take(HEADER_BYTES + 1)[HEADER_BYTES]
                if padding >= length:
                    raise ParseError("a frame shorter than its padding")
                length -= 1 + padding
            else:
                reader.position += HEADER_BYTES
            direction.left = length
            direction.padding = padding
            direction.stream = -number if ends else number
            return self._count(reader, kind, direction)
        reader.position += HEADER_BYTES
        reader.skip(length)
        if ends and stream is not None:
            if message is not None:
                self._streams.close(stream, message, number)
            elif kind is not REQUEST:
                return self._streams.unseen(stream, number)
        return message

    def _count(self, reader: Reader, kind: Kind, direction: Direction) -> Message | None:
        """The next part of a gRPC call's DATA frame."""
        number = abs(direction.stream)
        stream = self._streams.get(number)
        counter = None if stream is None else stream.counters[kind]
        message = None if stream is None else stream.message(kind)
        if stream is None or counter is None or message is None:
            # Reset in the middle of the frame.
            reader.skip(direction.left + direction.padding)
            direction.left = 0
            return None
        if direction.left:
            direction.left -= counter.read(reader, direction.left)
            message.count = counter.count
        if not direction.left:
            if direction.padding:
                reader.skip(direction.padding)
            if direction.stream < 0:
                self._streams.close(stream, message, number)
        return message

    def _read_control(
        self, reader: Reader, kind: Kind, frame: int, flags: int, number: int, length: int
    ) -> Message | None:
        """A frame that carries no part of a message."""
        if frame == CONTINUATION or not obeys(frame, flags & FLAGS[frame], number, length):
            raise ParseError(f"frame of type {frame} with {length} bytes on stream {number}")
        start = reader.position + HEADER_BYTES
        if frame == RST_STREAM:
            reader.take(HEADER_BYTES)
            return self._streams.reset(kind, number, reader.u32())
        if frame == PUSH_PROMISE:
            if kind is REQUEST:
                raise ParseError("PUSH_PROMISE from a client")
            _read_block(reader, self._directions[kind], flags, number, length, promised=4)
            return None
        if frame == GOAWAY and kind is not REQUEST:
            head = reader.take(HEADER_BYTES + 8)
            reader.position = start - HEADER_BYTES
            last, code = GOAWAY_FIELDS.unpack_from(head, HEADER_BYTES)
            ended = self._streams.go_away(last & STREAM_MASK, code)
            direction = self._directions[kind]
            direction.left = HEADER_BYTES + length
            # What it says to people is no part of what it says.
            direction.padding = length - 8
            direction.ended = ended[:MAX_ENDED]
            return _end_next(reader, direction)
        if frame == SETTINGS and 0 < length <= 6 * MAX_SETTINGS:
            settings = reader.take(HEADER_BYTES + length)
            for setting, value in SETTING.iter_unpack(settings[HEADER_BYTES:]):
                if setting == MAX_FRAME_SIZE and value <= LARGEST_FRAME_BYTES:
                    # It binds the other side, from when that has seen it.
                    other = self._directions[1 - kind]
                    other.largest = max(other.largest, value)
            return None
        if frame in {GOAWAY, WINDOW_UPDATE}:
            # A recording keeps what `probe` looks at.
            size = min(length, 8)
            reader.take(HEADER_BYTES + size)
            reader.skip(length - size)
            return None
        reader.position = start
        reader.skip(length)
        return None

    def _resume(self, kind: Kind, direction: Direction) -> None:
        """Bytes were lost."""
        direction.decoder.forget()
        for each in self._directions:
            # There may have been SETTINGS among them.
            each.largest = LARGEST_FRAME_BYTES
        direction.left = 0
        direction.ended = None
        self._streams.lose(kind)


def _read_preface(reader: Reader, direction: Direction) -> None:
    """What a client sends before its first frame (section 3.4); as a frame it is too long."""
    start = reader.take(len(PREFACE))
    if start != PREFACE:
        raise ParseError(f"preface {start!r}")
    direction.decoder = Decoder()


def _read_block(
    reader: Reader, direction: Direction, flags: int, number: int, length: int, promised: int = 0
) -> Block:
    """A field block, whose first frame is the one at the reader's position."""
    data = reader.data
    position = reader.position
    start = position + HEADER_BYTES
    stop = start + length
    if length > MAX_BLOCK_BYTES:
        raise ParseError(f"a field block of {length} bytes")
    if stop > reader.end:
        reader.take(HEADER_BYTES + length)
    end = stop
    if flags & (PADDED | WITH_PRIORITY):
        a, b = strip(data[start:stop], flags if not promised else flags & PADDED)
        end = start + b
        start += a
    start += promised
    if start > end:
        raise ParseError("PUSH_PROMISE without a stream")
    block = data[start:end]
    pieces = [(start, end)]
    if reader.marking and stop > end:
        reader.omit(end, stop)
    while not flags & END_HEADERS:
        reader.position = stop
        word, flags, other = HEADER.unpack(reader.take(HEADER_BYTES))
        length = word >> 8
        if word & 0xFF != CONTINUATION or other & STREAM_MASK != number:
            raise ParseError("a frame inside a field block")
        if len(block) + length > MAX_BLOCK_BYTES or len(pieces) > MAX_CONTINUATIONS:
            raise ParseError(f"a field block of more than {len(block)} bytes")
        block += reader.take(length)
        stop = reader.position
        pieces.append((stop - length, stop))
    reader.position = stop
    found = direction.decoder.read(block, marking=reader.marking)
    if reader.marking:
        _mark(reader, pieces, found)
    return found


def _mark(reader: Reader, pieces: list[tuple[int, int]], block: Block) -> None:
    """Tell the reader what must not be kept of a block that lies in `pieces`."""
    for first, last, substitute in block.marks:
        offset = 0
        for start, stop in pieces:
            a = max(first, offset)
            b = min(last, offset + stop - start)
            if a < b and substitute:
                reader.replace(start + a - offset, substitute[a - first : b - first])
            elif a < b:
                reader.omit(start + a - offset, start + b - offset)
            offset += stop - start


def _end_next(reader: Reader, direction: Direction) -> Message | None:
    """One request that GOAWAY has ended, or the rest of the frame."""
    assert direction.ended is not None
    if direction.ended:
        reader.position += 1
        direction.left -= 1
        return direction.ended.pop(0)
    reader.position += direction.left - direction.padding
    reader.skip(direction.padding)
    direction.left = 0
    direction.ended = None
    return None
