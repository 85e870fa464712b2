# SPDX-License-Identifier: Apache-2.0
"""Bodies of gRPC-Web: messages as in gRPC, and behind them the trailers as one more.

Spec: grpc.io PROTOCOL-WEB.md ("Message framing", "Text-encoded (response) streams").

The text form is base64 that may be padded wherever the sender has flushed, so all of it is
decoded; of the binary form only prefixes and trailers are read. Where a part of the body was
not captured, or trailers are compressed or torn into pieces by a proxy, the status is unknown.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

from parsers.grpc_calls import is_grpc, is_grpc_web, is_grpc_web_text
from parsers.grpc_messages import PREFIX_BYTES, MessageCounter
from parsers.reader import UNTIL_CLOSE, Reader

TRAILERS: Final = 0x80
"""In a prefix's flag: what follows are the trailers."""
MAX_TRAILERS_BYTES: Final = 16 * 1024
"""Twice what the specification of gRPC suggests that clients take."""
MAX_UNIT_BYTES: Final = 2 * MAX_TRAILERS_BYTES
"""What must be here at once: trailers, which in base64 are a third longer."""
QUAD: Final = 4
"""Characters of base64 that are `TRIPLE` bytes."""
TRIPLE: Final = 3
RUN: Final = re.compile(rb"[^=]+=*|=+")
"""Base64 up to where it was flushed."""
STATUS: Final = re.compile(rb"(?i)(?:^|\n)grpc-status[ \t]*:[ \t]*([0-9]{1,3})[ \t]*(?:[\r\n]|$)")


class WebBody(MessageCounter):
    """The body of one direction."""

    __slots__ = ("_carried", "_text", "_trailers", "ended", "left", "status")

    left: int
    """Bytes of it, or of its part that is being read, that are still to come."""
    ended: bool
    """The trailers are behind us."""
    status: str
    """grpc-status, once it was seen."""

    def __init__(self, *, text: bool) -> None:
        super().__init__()
        self.left = 0
        self.ended = False
        self.status = ""
        self._text = text
        self._trailers = 0
        """Bytes of trailers that come next."""
        self._carried = 0
        """Bytes that come once more and are of a prefix."""

    def read(self, reader: Reader, size: int) -> int:
        """Take what is there of the next `size` bytes of the body; see `MessageCounter.read`."""
        start = reader.position
        stop = start + size
        while reader.position < stop:
            position = reader.position
            if self.lost or self.ended:
                reader.skip(stop - position)
            elif self._text:
                self._read_text(reader, stop)
            elif self._trailers:
                self._read_trailers(reader, stop)
            else:
                super().read(reader, stop - position)
            if reader.position > reader.end:
                break
            if reader.position == position and not self.lost:
                if not reader.cut:
                    break
                self.miss()
        return reader.position - start

    def begin(self, flag: int, size: int) -> None:
        """A prefix is whole."""
        if not flag & TRAILERS:
            super().begin(flag, size)
        elif flag != TRAILERS or size > MAX_TRAILERS_BYTES:
            self.lose()
        elif size:
            self._trailers = size
            self.wanted = 0
        else:
            self._end(b"")

    def _end(self, trailers: bytes) -> tuple[int, int]:
        """The trailers have come; returns where in them the status is."""
        self.ended = True
        self.wanted = self._trailers = 0
        self.pending = UNTIL_CLOSE
        match = STATUS.search(trailers)
        if match is None:
            return 0, 0
        self.status = match[1].decode()
        return match.span()

    def _read_trailers(self, reader: Reader, stop: int) -> None:
        """All of them at once: of what is taken in pieces a recording could not omit values."""
        position = reader.position
        if self._trailers > stop - position:
            self.lose()
        elif self._trailers <= reader.available:
            first, last = self._end(reader.take(self._trailers))
            if reader.marking:
                reader.omit(position, position + first)
                reader.omit(position + last, reader.position)

    def _read_text(self, reader: Reader, stop: int) -> None:
        """As many whole groups of four characters as there are, but no part of a prefix."""
        position = reader.position
        end = min(reader.end, stop)
        end -= (end - position) % QUAD
        matches = list(RUN.finditer(reader.data, position, end))
        try:
            runs = [binascii.a2b_base64(match[0], strict_mode=True) for match in matches]
        except binascii.Error:
            self.lose()
            return
        data = b"".join(runs)
        used, kept = self._walk(data)
        if stop - end < QUAD and not self.ended and (used < len(data) or end < stop):
            # This piece of the body ends within a prefix, or within a group.
            self.lose()
        if self.lost:
            return
        base = 0
        end = position
        for match, run in zip(matches, runs, strict=True):
            size = min(len(run), used - base)
            end = match.end()
            if size < len(run):
                size -= size % TRIPLE
                end = match.start() + size // TRIPLE * QUAD
                if used > base + size:
                    # These share a group with the prefix behind them, and come once more.
                    self.pending = used - base - size
                    self.wanted = 0
                    self._carried = max(kept[-1][1] - base - size, 0)
            if reader.marking and size:
                reader.replace(match.start(), _blanked(run[:size], base, kept))
            base += len(run)
            if base >= used:
                break
        reader.position = end

    def _walk(self, data: bytes) -> tuple[int, list[tuple[int, int]]]:
        """Take messages and trailers; returns how many bytes, and those that say something.

        A prefix is taken whole or not at all, and the trailers with theirs.
        """
        at = 0
        kept = [(0, self._carried)]
        self._carried = 0
        size = len(data)
        while at < size and not self.lost:
            if self.pending:
                step = min(self.pending, size - at)
                self.skip(step)
                at += step
                continue
            start = at + PREFIX_BYTES
            if start > size:
                break
            flag = data[at]
            length = int.from_bytes(data[at + 1 : start], "big")
            kept_now = (at, start)
            if flag == TRAILERS and length <= MAX_TRAILERS_BYTES:
                if start + length > size:
                    break
                first, last = self._end(data[start : start + length])
                kept.append((start + first, start + last))
                at = start + length
            else:
                self.begin(flag, length)
                at = start
            kept.append(kept_now)
        return at, kept


def open_body(content_type: str) -> MessageCounter | None:
    """Who reads a body of this type, if it is one of gRPC or gRPC-Web."""
    if is_grpc(content_type):
        return MessageCounter()
    if is_grpc_web(content_type):
        return WebBody(text=is_grpc_web_text(content_type))
    return None


def _blanked(run: bytes, base: int, kept: list[tuple[int, int]]) -> bytes:
    """Base64 of `run`, which begins at `base`, with zeros for everything that is not kept."""
    blank = bytearray(len(run))
    for start, stop in kept:
        first, last = max(start - base, 0), max(stop - base, 0)
        blank[first:last] = run[first:last]
    return binascii.b2a_base64(blank, newline=False)
