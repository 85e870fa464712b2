# SPDX-License-Identifier: Apache-2.0
"""One direction of a session: what is known of its bytes."""

from __future__ import annotations

from operator import itemgetter
from typing import Final, NamedTuple

from parsers.model import Kind, Message
from parsers.reader import Reader

POSITION_MASK: Final = 0xFFFFFFFF


WAITED: Final = 16
"""`enum ws_data_flag`: the parser waited for more of these bytes, and it never came."""
REFUSED: Final = 32
"""The parser found that they begin no message."""
LOST: Final = 64
"""What makes them a message was not captured."""
HELD: Final = 128
"""It was held until more came that told the protocol, or that there is none; no flag."""
UNREAD: Final = WAITED | REFUSED | LOST
"""Flags of transfers in a redacted recording, where such bytes are not captured: they say what
became of them, for a replay cannot know."""


class Kept(NamedTuple):
    """Bytes that a recording may keep: a parser read them and they are no secret."""

    direction: int
    position: int
    size: int
    fate: int = 0
    """Not 0 if they must not be kept, but what became of them."""
    substitute: bytes = b""
    """What to keep in their place, as many bytes; empty if they may be kept themselves."""


class Stream:
    """One direction of a session."""

    __slots__ = (
        "answer",
        "begun_ns",
        "buffer",
        "kind",
        "last_ns",
        "lost",
        "message",
        "offset",
        "position",
        "request",
        "rescanned",
        "resumed",
        "skip",
        "start",
        "turn",
        "unsure",
    )

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.buffer = b""
        """Bytes that are not enough to parse."""
        self.position = -1
        """Position of the next byte; -1 while unknown."""
        self.offset = 0
        """Bytes so far, without wrapping."""
        self.skip = 0
        """Bytes that nobody reads before the next that somebody does."""
        self.lost = False
        """Framing is lost: wait for a turn that begins with a message."""
        self.resumed = False
        """What comes next follows bytes that were lost."""
        self.unsure = False
        """Framing may be wrong (the answer to an unknown request): a turn can set it right."""
        self.message: Message | None = None
        """The one whose bytes are still coming."""
        self.request: Message | None = None
        """What `message`, if a response, answers."""
        self.answer: Message | None = None
        """What was answered to `message`, a request, before it was whole."""
        self.start = 0
        """Offset of the first byte of `message`."""
        self.begun_ns = 0
        """When the first byte not parsed yet came."""
        self.rescanned = 0
        """Bytes of `buffer` that were parsed again, all attempts together."""
        self.turn = 0
        """The latest turn that is known to have carried bytes of this direction."""
        self.last_ns = 0

    def measure(self) -> None:
        """Tell `message` how far it has come."""
        message = self.message
        if message is not None:
            message.last_ns = self.last_ns
            if message.correlation_id is None:
                # Of others, parts of many may lie between.
                message.size = self.offset - self.start

    def forget(self) -> None:
        """Drop what was to be parsed."""
        self.buffer = b""
        self.skip = 0
        self.rescanned = 0


def kept_ranges(reader: Reader, start: int, direction: int, position: int) -> list[Kept]:
    """What may be kept of the bytes read from `start` on; `position` is that of data[0]."""
    stop = min(reader.position, reader.end)
    left_out = reader.omitted
    substitutes = []
    if reader.replaced:
        substitutes = _substitutes(reader, start, stop)
        left_out = left_out + [(a, a + len(text)) for a, text in substitutes]
    parts = []
    for a, b in sorted(left_out):
        if a >= stop:
            # Of what a parser has looked at and not taken.
            break
        if a > start:
            parts.append((start, a - start, b""))
        start = max(start, b)
    if stop > start:
        parts.append((start, stop - start, b""))
    if substitutes:
        parts += [(a, len(text), text) for a, text in substitutes]
        parts.sort()
    return [Kept(direction, position + a & POSITION_MASK, size, 0, text) for a, size, text in parts]


def _substitutes(reader: Reader, start: int, stop: int) -> list[tuple[int, bytes]]:
    """What was replaced between two indices, in order, each byte by the first that says so."""
    found = []
    for a, text in sorted(reader.replaced, key=itemgetter(0)):
        begin = max(a, start)
        inside = text[begin - a : max(stop - a, 0)]
        if inside:
            found.append((begin, inside))
            start = begin + len(inside)
    return found
