# SPDX-License-Identifier: Apache-2.0
r"""The cursor that parsers read with.

A parser reads straight down and never asks whether enough bytes are there: a short read
raises `NeedMoreData` inside the Reader, the session keeps the bytes and calls `parse`
again when more have come. So a parser computes first and assigns to itself last.

`skip` is for bytes that nobody reads (bodies, values). They need not have been captured:
a gap inside them is no gap. It may go past the end of what is there, and is then the last
thing to do before returning.
"""

from __future__ import annotations

from typing import Final, NoReturn

from parsers.model import ParseError

UNTIL_CLOSE: Final = 1 << 62
"""A length no message has: what is skipped ends with the connection."""


class NeedMoreData(Exception):  # noqa: N818 - flow control between Reader and session, not an error
    """The bytes end before the message does. Parsers neither raise nor catch it."""


class Reader:
    """Bytes of one direction, from the first that is not consumed yet."""

    __slots__ = (
        "cut",
        "data",
        "end",
        "lost",
        "marking",
        "omitted",
        "position",
        "replaced",
        "resumed",
    )

    data: bytes
    position: int
    """Index into `data`; past the end after a skip over bytes that are still to come."""
    end: int
    cut: bool
    """`data` ends here for good: what follows was not captured. A parser that can make
    something of a head without its end may do so, and then calls `lose`."""
    lost: bool
    resumed: bool
    """Bytes right before these were lost, or are older than the tracer: what a parser knows
    of this direction alone may no longer hold."""
    marking: bool
    """The session wants to know which bytes may be kept, so `omit` is worth calling."""
    omitted: list[tuple[int, int]]
    replaced: list[tuple[int, bytes]]

    def __init__(self, data: bytes = b"", *, cut: bool = False) -> None:
        self.data = data
        self.position = 0
        self.end = len(data)
        self.cut = cut
        self.lost = False
        self.marking = False
        self.resumed = False
        self.omitted = []
        self.replaced = []

    @property
    def available(self) -> int:
        """Bytes that are there; negative after a skip over some that are not."""
        return self.end - self.position

    def take(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            ParseError: `size` is negative.
        """
        start = self.position
        stop = start + size
        if size < 0:
            raise ParseError(f"length {size}")
        if stop > self.end:
            raise NeedMoreData
        self.position = stop
        return self.data[start:stop]

    def u8(self) -> int:
        """One byte."""
        position = self.position
        if position >= self.end:
            raise NeedMoreData
        self.position = position + 1
        return self.data[position]

    def u16(self) -> int:
        """Two bytes, big endian."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Four bytes, big endian."""
        return int.from_bytes(self.take(4), "big")

    def u32le(self) -> int:
        """Four bytes, little endian."""
        return int.from_bytes(self.take(4), "little")

    def until(self, mark: bytes, limit: int) -> bytes:
        """The bytes up to `mark`, which is consumed.

        Raises:
            ParseError: there is no `mark` within `limit` bytes.
        """
        start = self.position
        stop = self.data.find(mark, start, start + limit)
        if stop < 0:
            self.wait(limit)
        self.position = stop + len(mark)
        return self.data[start:stop]

    def line(self, limit: int) -> bytes:
        r"""The bytes up to ``\n``, which is consumed, without it and a ``\r`` before it.

        Raises:
            ParseError: there is no end of line within `limit` bytes.
        """
        return self.until(b"\n", limit).removesuffix(b"\r")

    def head(self, limit: int) -> bytes:
        r"""The bytes up to and with the first empty line; ``\r`` may be missing anywhere.

        Raises:
            ParseError: there is no empty line within `limit` bytes.
        """
        data = self.data
        start = self.position
        stop = data.find(b"\n\r\n", start, start + limit) + 3
        bare = data.find(b"\n\n", start, stop if stop > 2 else start + limit) + 2
        if bare > 1:
            stop = bare
        elif stop < 3:
            self.wait(limit)
        self.position = stop
        return data[start:stop]

    def wait(self, limit: int) -> NoReturn:
        """What has no end yet cannot be read.

        Raises:
            ParseError: nor will it ever, as there are more than `limit` bytes.
        """
        if self.end - self.position >= limit:
            raise ParseError(f"no end within {limit} bytes")
        raise NeedMoreData

    def skip(self, size: int) -> None:
        """Pass over `size` bytes, present or to come.

        Raises:
            ParseError: `size` is negative.
        """
        if size < 0:
            raise ParseError(f"length {size}")
        start = self.position
        self.position = start + size
        if self.marking and start < self.end:
            self.omitted.append((start, min(self.position, self.end)))

    def skip_to_close(self) -> None:
        """Pass over everything that the connection still brings in this direction."""
        self.skip(UNTIL_CLOSE)

    def omit(self, start: int, stop: int) -> None:
        """Bytes of `data` that must not be kept: a secret, or a value that nobody uses."""
        self.omitted.append((start, stop))

    def replace(self, start: int, substitute: bytes) -> None:
        """What a recording keeps in place of as many bytes of `data` from `start` on.

        For secrets in an encoding that a blank would break. Needs no `omit`.
        """
        self.replaced.append((start, substitute))

    def lose(self) -> None:
        """Where the next message begins is unknown: the session finds it again."""
        self.lost = True
