# SPDX-License-Identifier: Apache-2.0
"""The messages of a gRPC call, counted without being read.

Spec: grpc.io PROTOCOL-HTTP2.md ("Length-Prefixed-Message", "Data Frames").
"""

from __future__ import annotations

from typing import Final

from parsers.reader import UNTIL_CLOSE, Reader

PREFIX_BYTES: Final = 5
"""Of a length-prefixed message: a flag and four bytes of length."""
COMPRESSED: Final = 1


class MessageCounter:
    """Counts the messages in one direction of a call, whose bytes come in any pieces."""

    __slots__ = ("compressed", "count", "missed", "pending", "prefix", "wanted")

    count: int
    """Messages that have begun; -1 once a prefix was lost, as then nobody knows."""
    compressed: int
    """How many of them were compressed."""
    wanted: int
    """Bytes that must be read next."""
    pending: int
    """Bytes that nobody needs and that come next, if `wanted` is 0."""
    prefix: bytes
    """What is there of the next message's."""
    missed: bool
    """A part that had to be read was not captured."""

    def __init__(self) -> None:
        self.count = 0
        self.compressed = 0
        self.wanted = PREFIX_BYTES
        self.pending = 0
        self.prefix = b""
        self.missed = False

    @property
    def lost(self) -> bool:
        """Where the next message begins is unknown."""
        return self.count < 0

    @property
    def whole(self) -> bool:
        """The last byte so far was the last of a message."""
        return self.wanted == PREFIX_BYTES

    def lose(self) -> None:
        """A prefix was lost, or is none: claim nothing more."""
        self.count = -1
        self.prefix = b""
        self.wanted = 0
        self.pending = UNTIL_CLOSE

    def miss(self) -> None:
        """What had to be read next was not captured."""
        self.missed = True
        self.lose()

    def skip(self, size: int) -> None:
        """So many bytes went by unseen."""
        if size > self.pending:
            self.miss()
        elif not self.lost:
            self.pending -= size
            if not self.pending and not self.wanted:
                self.wanted = PREFIX_BYTES

    def feed(self, data: bytes, start: int = 0, stop: int | None = None) -> None:
        """Take bytes of the body: all of `data`, or a part."""
        if stop is None:
            stop = len(data)
        while start < stop and self.count >= 0:
            pending = self.pending
            if pending:
                size = min(pending, stop - start)
                start += size
                self.pending = pending = pending - size
                if not pending:
                    self.wanted = PREFIX_BYTES
                continue
            size = min(self.wanted, stop - start)
            self._extend(data[start : start + size])
            start += size

    def read(self, reader: Reader, size: int) -> int:
        """Take what is there of the next `size` bytes of the body.

        Returns how many the reader has passed over: more than are there if those are of a message,
        or were not captured; 0 if there are none. Prefixes alone are read, the rest is skipped.
        """
        end = reader.end
        start = reader.position
        stop = start + size
        while True:
            position = reader.position
            pending = self.pending
            if pending:
                pending = min(pending, stop - position)
                if pending:
                    reader.skip(pending)
                    self.skip(pending)
            else:
                step = min(self.wanted, stop - position, end - position)
                if step <= 0:
                    break
                reader.position = position + step
                self._extend(reader.data[position : position + step])
            if reader.position >= stop:
                return size
            if reader.position >= end:
                break
        if reader.cut and self.wanted and reader.position == end:
            self.miss()
            reader.skip(stop - end)
        return reader.position - start

    def _extend(self, part: bytes) -> None:
        """Take a part of a prefix, or all of it."""
        wanted = self.wanted - len(part)
        if wanted:
            self.prefix += part
            self.wanted = wanted
            return
        if self.prefix:
            part = self.prefix + part
            self.prefix = b""
        self.begin(part[0], int.from_bytes(part[1:], "big"))

    def begin(self, flag: int, size: int) -> None:
        """A prefix is whole."""
        if flag > COMPRESSED:
            self.lose()
            return
        self.count += 1
        self.compressed += flag
        self.pending = size
        self.wanted = 0 if size else PREFIX_BYTES
