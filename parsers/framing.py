# SPDX-License-Identifier: Apache-2.0
"""Cutting a connection's bytes into messages, where some of the bytes may be missing.

* A gap inside a body that the parser skips is no gap.
* Where framing is lost, the rest of the turn is passed over. The next turn of that direction
  is where a message begins, if it looks like one; nothing is looked for in the middle of a
  turn, since nobody could tell which of its messages that is.
* What follows a response to an unknown request is unsure: its length may have depended on the
  request. There too the next turn decides.
"""

from __future__ import annotations

from typing import Final

from parsers.detection import TURN_START, Candidates, Transfer
from parsers.model import (
    Completeness,
    Exchange,
    Kind,
    Likeness,
    Message,
    Options,
    ParseError,
    Parser,
    Side,
)
from parsers.pairing import Pairing
from parsers.reader import UNTIL_CLOSE, NeedMoreData, Reader
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
from parsers.tally import Tally

MAX_BUFFER_BYTES: Final = 256 * 1024
"""Unparsed bytes a direction. nginx, Apache and Node accept heads of 8 to 64 KiB."""
MAX_RESCANNED_BYTES: Final = 8 * 1024 * 1024
"""Parsed again and again while one message trickles in; bounds what a retry may cost. A head
of 4 KiB may come byte by byte, one of 128 KiB in pieces of 1 KiB."""
MAX_OVERLAP_BYTES: Final = 16 * 1024 * 1024
"""How far back a transfer may begin; farther back it is 4 GiB ahead."""
MAX_ERRORS: Final = 4
"""Mistakes in a row after which the connection is taken to speak something else."""

REQUEST: Final = Kind.REQUEST


class Framing:
    """The streams of one connection, the parser that reads them, and the messages found."""

    __slots__ = (
        "_candidates",
        "_errors",
        "_options",
        "_pairing",
        "_reader",
        "_tally",
        "done",
        "kept",
        "opaque",
        "parser",
        "side",
        "streams",
    )

    def __init__(
        self,
        candidates: Candidates,
        options: Options,
        side: Side,
        tally: Tally,
        *,
        late: bool,
        keep: bool,
    ) -> None:
        self.side = side
        self.parser: Parser | None = None
        self.opaque: str | None = None
        """Why the rest is not parsed: the protocol switched to, or `unknown`."""
        self.kept: list[Kept] | None = [] if keep else None
        serves = side is not Side.CLIENT
        self.streams = (
            Stream(Kind.REQUEST if serves else Kind.RESPONSE),
            Stream(Kind.RESPONSE if serves else Kind.REQUEST),
        )
        """Ingress and egress."""
        self._candidates = candidates
        self._options = options
        self._pairing = Pairing(tally, late=late)
        self.done: list[Exchange] = self._pairing.done
        self._tally = tally
        self._reader = Reader()
        self._reader.marking = keep
        self._errors = 0

    def give_up(self, reason: str) -> None:
        """Parse nothing more of this connection."""
        self.opaque = reason
        for stream in self.streams:
            if stream.message is not None:
                stream.message.gap = True
                self._finish(stream)
            self._forget(stream)
        self._pairing.give_up()

    @property
    def _agreed(self) -> bool:
        """Both directions have spoken the protocol."""
        ingress, egress = self.streams
        pairing = self._pairing
        return bool(pairing.reported or ingress.request or egress.request or pairing.ids.answers)

    def _demote(self) -> None:
        """It was not that protocol after all, and what is pending was never a request."""
        self._tally.demotions += 1
        if not self._agreed:
            self._pairing.abandon()
            for stream in self.streams:
                stream.message = None
        self.give_up("unknown")

    # -- the parse loop ---------------------------------------------------------------

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
            self._passed(stream, base + start, timestamp_ns)
            parser = self.parser
            assert parser is not None
        reader.data = b""
        if (hole or start < end) and self.opaque is None and not stream.lost:
            if flags & REFUSED:
                self._mistake(stream, parser, hole)
            elif not flags & WAITED:
                self._leave(stream, data[start:], hole, timestamp_ns)

    def _begin(self, stream: Stream, message: Message, offset: int) -> None:
        """A message has said what it is."""
        self._errors = 0
        message.first_ns = stream.begun_ns
        message.turn = stream.turn
        stream.message = message
        stream.start = offset
        if stream.kind is REQUEST:
            stream.unsure = False
            response = self.streams[stream is self.streams[0]]
            if response.lost or (response.unsure and not self._pairing.reorders):
                # Whatever response was still open has ended before this.
                self._finish(response)
            if message.interim or message.one_way:
                return
            if message.correlation_id is not None:
                self._pairing.ids.ask(message)
            else:
                self._pairing.ask(message)
        elif message.interim:
            return
        elif message.correlation_id is not None:
            self._pairing.ids.claim(message)
        else:
            stream.request = request = self._pairing.claim(message)
            stream.unsure = request is None

    def _extend(self, stream: Stream, message: Message, size: int, timestamp_ns: int) -> None:
        """Bytes of a message whose parts may come interleaved with those of others.

        Or of one that was whole already: of that, only the extent grows.
        """
        message.size += size
        message.last_ns = timestamp_ns
        if message.correlation_id is not None:
            stream.message = message

    def _passed(self, stream: Stream, offset: int, timestamp_ns: int) -> None:
        """All bytes before `offset` that belong to the message under way are behind us."""
        message = stream.message
        if message is None:
            return
        if message.correlation_id is not None:
            # Until it is returned again, it is under way no more.
            stream.message = None
            message.last_ns = timestamp_ns
            if not message.open:
                self._complete(stream, message, offset, timestamp_ns)
        elif not message.open:
            self._complete(stream, message, offset, timestamp_ns)

    def _complete(self, stream: Stream, message: Message, offset: int, timestamp_ns: int) -> None:
        """The last byte of `message` is the one before `offset`."""
        stream.message = None
        if message.correlation_id is not None and not message.interim:
            self._pairing.ids.settle(message)
        else:
            message.last_ns = timestamp_ns
            message.size = offset - stream.start
            if stream.kind is REQUEST:
                self._asked(stream, message)
            elif not message.interim:
                self._answer(stream, message, None)
            else:
                self._switch(message)

    def _asked(self, stream: Stream, request: Message) -> None:
        """A request is whole, or as whole as it will be."""
        if request.one_way:
            completeness = Completeness.GAP if request.gap else Completeness.COMPLETE
            self._pairing.report(request, None, completeness)
        else:
            self._answer_late(stream, request)
        self._switch(request)

    def _answer_late(self, stream: Stream, request: Message) -> None:
        """Report what was answered before the request had ended, as it now has."""
        answer, stream.answer = stream.answer, None
        if answer is not None:
            self._pairing.answer(request, answer, None)

    def _answer(self, stream: Stream, response: Message, error_type: str | None) -> None:
        request, stream.request = stream.request, None
        asking = self.streams[stream is self.streams[0]]
        if asking.message is not None and asking.message is request:
            # Answered before it was whole: the rest is late, lost, or will never come.
            if not asking.lost and error_type is None and response.switches_to is None:
                asking.answer = response
                return
            asking.measure()
            asking.message.gap = not asking.message.truncated
            asking.message.open = False
            asking.message = None
        pairing = self._pairing
        pairing.answer(request, response, error_type)
        for _ in range(min(response.answers - 1, len(pairing.pending))):
            pairing.answer(pairing.claim(response), response, error_type)
        self._switch(response)

    def _switch(self, message: Message) -> None:
        """After some messages a connection goes on with another protocol, known or not."""
        name = message.switches_to
        if name is None or self.opaque is not None:
            return
        for parser in self._candidates():
            if parser.name == name:
                self.parser = self._pairing.parser = parser(self._options)
                self._pairing.protocol = name
                if message.correlation_id is not None:
                    self._pairing.rename_oldest(message.correlation_id)
                return
        self.give_up(name)

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

    def _unread(self, stream: Stream, size: int, hole: int, fate: int) -> None:
        """Note what became of the last `size` bytes captured, `hole` bytes before the latest."""
        if self.kept is not None and size:
            direction = 0 if stream is self.streams[0] else 1
            position = stream.position - hole - size & POSITION_MASK
            self.kept.append(Kept(direction, position, size, fate))

    def _note_held(self, transfer: Transfer) -> None:
        """Note that a transfer was held for nothing."""
        if self.kept is not None:
            self.kept.append(Kept(transfer.direction, transfer.position, transfer.size, HELD))

    def _forget(self, stream: Stream) -> None:
        """Drop what was to be parsed."""
        if stream.buffer and stream.kind is REQUEST:
            self._tally.cut_requests += 1
        self._unread(stream, len(stream.buffer), 0, WAITED)
        stream.forget()

    # -- gaps and ends ----------------------------------------------------------------

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
                self._errors += 1
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

    def _finish(self, stream: Stream, error_type: str | None = None) -> None:
        """End the message whose bytes are still coming, as it is."""
        message = stream.message
        if message is None:
            return
        stream.measure()
        stream.message = None
        if message.correlation_id is not None:
            # More of it may come yet, behind what was lost.
            message.gap = True
            if not message.open:
                self._pairing.ids.settle(message)
            return
        message.open = False
        if stream.kind is REQUEST:
            message.gap = not message.truncated
            self._asked(stream, message)
        elif not message.interim:
            self._answer(stream, message, error_type)

    def _end_stream(self, stream: Stream, reason: str | None) -> None:
        """No more bytes in this direction."""
        whole = stream.lost or (reason is None and stream.skip > UNTIL_CLOSE >> 1)
        self._finish(stream, None if whole else reason or "connection_closed")
        self._forget(stream)


def _forget_marks(reader: Reader) -> None:
    reader.omitted.clear()
    reader.replaced.clear()
