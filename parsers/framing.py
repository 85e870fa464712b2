# SPDX-License-Identifier: Apache-2.0
"""Cutting a connection's bytes into messages, where some of the bytes may be missing.

* A gap inside a body that the parser skips is no gap.
* Where framing is lost, the rest of the turn is passed over. The next turn of that direction
  is where a message begins, if it looks like one; nothing is looked for in the middle of a
  turn, since nobody could tell which of its messages that is. Only of a multiplexed parser, whose
  messages say themselves which they are, the beginning of each later transfer is tried as well.
* What follows a response to an unknown request is unsure: its length may have depended on the
  request. There too the next turn decides.
"""

from __future__ import annotations

from typing import Final

from parsers.conversation import REQUEST, Conversation
from parsers.detection import TURN_START, Transfer
from parsers.model import Likeness, ParseError, Parser
from parsers.reader import NeedMoreData, Reader
from parsers.stream import (
    HELD,
    LOST,
    POSITION_MASK,
    REFUSED,
    UNREAD,
    WAITED,
    Kept,
    Stream,
    kept_ranges,
)

MAX_BUFFER_BYTES: Final = 256 * 1024
"""Unparsed bytes a direction. nginx, Apache and Node accept heads of 8 to 64 KiB."""
MAX_RESCANNED_BYTES: Final = 8 * 1024 * 1024
"""Parsed again and again while one message trickles in; bounds what a retry may cost. A head
of 4 KiB may come byte by byte, one of 128 KiB in pieces of 1 KiB."""
MAX_OVERLAP_BYTES: Final = 16 * 1024 * 1024
"""How far back a transfer may begin; farther back it is 4 GiB ahead."""
MAX_ERRORS: Final = 4
"""Mistakes in a row after which the connection is taken to speak something else."""


class Framing(Conversation):
    """The parse loop over both streams, and what a loss means for it."""

    __slots__ = ()

    def _demote(self) -> None:
        """It was not that protocol after all, and what is pending was never a request."""
        self._tally.demotions += 1
        if not self._agreed:
            self._pairing.abandon()
            for stream in self.streams:
                stream.message = None
        self.give_up("unknown")

    def _parse(self, stream: Stream, data: bytes, hole: int, timestamp_ns: int, flags: int) -> None:
        """Parse `data`, behind which the transfer had `hole` bytes that were not captured."""
        reader = self._reader
        pending = self._pairing.pending
        kind = stream.kind
        reader.data = data
        reader.end = end = len(data)
        reader.position = start = 0
        reader.cut = hole > 0 and not flags & WAITED
        reader.resumed = stream.resumed
        base = stream.offset - hole - end
        if stream.message is not None:
            self._passed(stream, base, timestamp_ns)
        parser = self.parser
        assert parser is not None
        while start < end and self.opaque is None:
            try:
                message = parser.parse(reader, kind, pending[0] if pending and kind else None)
            except NeedMoreData:
                _forget_marks(reader)
                break
            except ParseError:
                reader.position = start
            position = reader.position
            if position <= start:
                # Not a message, or a parser that would never get on.
                _forget_marks(reader)
                stream.buffer = b""
                self._unread(stream, end - start, hole, REFUSED)
                self._mistake(stream, parser, end - start + hole)
                break
            if self.kept is not None:
                self._keep(self.kept, stream, base, start)
            reader.resumed = stream.resumed = False
            if message is not None:
                if not message.turn:
                    self._begin(stream, message, base + start)
                if message is not stream.message or message.correlation_id is not None:
                    self._extend(stream, message, position - start, timestamp_ns)
            stream.begun_ns = timestamp_ns
            if stream.buffer:
                stream.buffer = b""
                stream.rescanned = 0
            start = position
            if reader.lost:
                reader.lost = False
                self._lose(stream, max(end - start, 0) + hole, stream.turn)
                break
            if start > end:
                stream.skip = start - end
                break
            if stream.message is not None:
                self._passed(stream, base + start, timestamp_ns)
            parser = self.parser
            assert parser is not None
        reader.data = b""
        if (hole or start < end) and self.opaque is None and not stream.lost:
            if flags & REFUSED:
                self._mistake(stream, parser, hole)
            elif not flags & WAITED:
                self._leave(stream, data[start:], hole, timestamp_ns)

    def _leave(self, stream: Stream, rest: bytes, hole: int, timestamp_ns: int) -> None:
        """Keep what could not be parsed yet, and pass over what was not captured."""
        if not hole:
            stream.buffer = rest
            stream.rescanned += len(rest)
            if len(rest) > MAX_BUFFER_BYTES or stream.rescanned > MAX_RESCANNED_BYTES:
                self._tally.limits += 1
                stream.buffer = b""
                self._unread(stream, len(rest), 0, LOST)
                self._lose(stream, len(rest), stream.turn)
            return
        known = min(hole, stream.skip)
        self._pass(stream, known, stream.offset - hole + known, timestamp_ns)
        if known < hole:
            stream.buffer = b""
            self._unread(stream, len(rest), hole, LOST)
            self._lose(stream, len(rest) + hole - known, stream.turn)

    def _pass(self, stream: Stream, size: int, offset: int, timestamp_ns: int) -> None:
        """Pass over `size` bytes that nobody reads, up to `offset`, which no transfer showed."""
        if not size:
            return
        stream.skip -= size
        if not stream.skip:
            self._passed(stream, offset, timestamp_ns)

    def _mistake(self, stream: Stream, parser: Parser, size: int) -> None:
        """What comes cannot begin a message."""
        errors = self._tally.parse_errors
        errors[parser.name] = errors.get(parser.name, 0) + 1
        self._errors += 1
        if stream.message is None and (self._errors >= MAX_ERRORS or not self._agreed):
            self._demote()
        else:
            self._lose(stream, size, stream.turn)

    def _keep(self, kept: list[Kept], stream: Stream, base: int, start: int) -> None:
        """Note which of the bytes just parsed may be kept."""
        reader = self._reader
        direction = 0 if stream is self.streams[0] else 1
        origin = stream.position - (stream.offset - base)
        kept.extend(kept_ranges(reader, start, direction, origin))
        _forget_marks(reader)

    def _note_held(self, transfer: Transfer) -> None:
        """Note that a transfer was held for nothing."""
        if self.kept is not None:
            self.kept.append(Kept(transfer.direction, transfer.position, transfer.size, HELD))

    # -- gaps -------------------------------------------------------------------------------

    def _jump(self, stream: Stream, position: int, size: int, turn: int, flags: int) -> int:
        """The transfer does not begin where the last one ended.

        Returns how many of its first bytes had come before.
        """
        ahead = position - stream.position & POSITION_MASK
        if stream.position < 0:
            stream.position = position
            return 0
        if ahead > POSITION_MASK - MAX_OVERLAP_BYTES:
            return POSITION_MASK + 1 - ahead
        if not size and ahead == 1:
            # A FIN takes a sequence number.
            return 0
        begins = flags & TURN_START
        # A length that may be wrong says nothing across turns.
        known = 0 if begins and stream.unsure else min(ahead, stream.skip)
        stream.offset += known
        self._pass(stream, known, stream.offset, stream.last_ns)
        if known < ahead and self.opaque is None:
            lost = ahead - known
            self._tally.gap_bytes += lost
            if begins:
                # What is lost belongs to the turns before this.
                self._lose(stream, len(stream.buffer), turn - 1)
                self._finish(stream)
            else:
                self._lose(stream, len(stream.buffer), turn)
            stream.offset += lost
        stream.position = position
        return 0

    def _lose(self, stream: Stream, size: int, turn: int) -> None:
        """Framing is lost for the rest of `turn`, and `size` bytes with it."""
        self._tally.gap_bytes += size
        self._forget(stream)
        stream.lost = True
        message = stream.message
        if message is not None:
            message.gap = not message.truncated
        if stream.kind is REQUEST:
            self._pairing.lose_requests(turn)
        else:
            self._pairing.lose_responses(turn)

    def _rejoin(self, stream: Stream, data: bytes, turn: int) -> None:
        """Within a turn, framing is found again only where messages of many exchanges mix."""
        parser = self.parser
        assert parser is not None
        if is_multiplexed(parser) and parser.probe(data, stream.kind) >= Likeness.LIKELY:
            self._finish(stream)
            if stream.kind is not REQUEST:
                self._pairing.lose_responses(turn)
            self._forget(stream)
            stream.lost = False
            stream.resumed = stream.unsure = True

    def _next_turn(self, stream: Stream, data: bytes, turn: int, flags: int) -> None:
        """A new turn of a direction whose framing was lost or unsure: a message may begin."""
        parser = self.parser
        assert parser is not None
        likeness = parser.probe(data, stream.kind) if data else Likeness.NO
        if flags & UNREAD and likeness is Likeness.NO:
            likeness = Likeness.SHORT
        if stream.lost:
            self._finish(stream)
            begins = likeness is not Likeness.NO
            if stream.kind is not REQUEST:
                self._pairing.lose_responses(turn - begins)
            if not begins:
                self._errors += not (is_multiplexed(parser) and self._agreed)
                if self._errors >= MAX_ERRORS:
                    self._demote()
                return
        elif stream.unsure:
            if likeness is Likeness.NO:
                return
            self._finish(stream)
        elif (
            likeness is not Likeness.CERTAIN
            or parser.probe(stream.buffer + data, stream.kind) is not Likeness.NO
        ):
            # The rest of a head that began in an earlier turn; it may look like a whole one.
            return
        self._tally.gap_bytes += len(stream.buffer)
        if stream.lost or stream.buffer or stream.skip:
            stream.resumed = True
        self._forget(stream)
        stream.lost = False
        # Until a message really has begun.
        stream.unsure = True


def _forget_marks(reader: Reader) -> None:
    reader.omitted.clear()
    reader.replaced.clear()


def is_multiplexed(parser: Parser) -> bool:
    """Whether a turn may begin within a message, as messages come in interleaved parts."""
    return getattr(parser, "multiplexed", False)
