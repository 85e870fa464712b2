# SPDX-License-Identifier: Apache-2.0
"""The messages of one connection: how they begin, grow and end.

A message in sequence is the one under way in its direction until it is whole. Messages with an
id are under way together; each grows when its parser returns it again, and is under way alone
only while bytes that nobody reads are passed over.
"""

from __future__ import annotations

from typing import Final

from parsers.detection import Candidates
from parsers.model import Completeness, Exchange, Kind, Message, Options, Parser, Side
from parsers.pairing import Pairing
from parsers.reader import UNTIL_CLOSE, Reader
from parsers.stream import POSITION_MASK, WAITED, Kept, Stream
from parsers.tally import Tally

REQUEST: Final = Kind.REQUEST


class Conversation:
    """The streams of one connection, and the messages found in them."""

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
        self._conclude()
        for stream in self.streams:
            self._forget(stream)

    def _conclude(self) -> None:
        """End what is under way: the rest of it will not be parsed."""
        for stream in self.streams:
            if stream.message is not None:
                stream.message.gap = True
                self._finish(stream)
        self._pairing.give_up()

    @property
    def _agreed(self) -> bool:
        """Both directions have spoken the protocol."""
        ingress, egress = self.streams
        pairing = self._pairing
        return bool(pairing.reported or ingress.request or egress.request or pairing.ids.answers)

    # -- messages ---------------------------------------------------------------------------

    def _begin(self, stream: Stream, message: Message, offset: int) -> None:
        """A message has said what it is."""
        self._errors = 0
        message.first_ns = stream.begun_ns
        message.turn = stream.turn
        message.position = stream.position - stream.offset + offset & POSITION_MASK
        stream.message = message
        stream.start = offset
        if stream.kind is REQUEST:
            stream.unsure = False
            response = self.streams[stream is self.streams[0]]
            if response.lost or (response.unsure and not self._pairing.reorders):
                # Whatever response was still open has ended before this.
                parser = self.parser
                self._finish(response)
                if self.parser is not parser:
                    # That one has changed the protocol: this was never a request of the old.
                    self._tally.abandoned_requests += 1
                    stream.message = None
                    return
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
            stream.unsure = False

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

    def _complete(self, stream: Stream, message: Message, offset: int, timestamp_ns: int) -> None:
        """The last byte of `message` is the one before `offset`."""
        stream.message = None
        if message.correlation_id is not None and not message.interim:
            self._pairing.ids.settle(message)
        else:
            message.last_ns = timestamp_ns
            message.size = offset - stream.start
            if stream.kind is REQUEST:
                if message.one_way or stream.answer is not None or message.switches_to is not None:
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
        if response.answers > 1:
            for _ in range(min(response.answers - 1, len(pairing.pending))):
                pairing.answer(pairing.claim(response), response, error_type)
        if response.switches_to is not None:
            self._switch(response)

    def _switch(self, message: Message) -> None:
        """After some messages a connection goes on with another protocol, known or not."""
        name = message.switches_to
        if name is None or self.opaque is not None:
            return
        for parser in self._candidates():
            if parser.name == name:
                if message.correlation_id is None:
                    # No request is handed over: what waits is of the protocol before.
                    self._conclude()
                self.parser = self._pairing.parser = parser(self._options)
                self._pairing.protocol = name
                if message.correlation_id is not None:
                    self._pairing.rename_oldest(message.correlation_id)
                return
        self.give_up(name)

    # -- ends -------------------------------------------------------------------------------

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
        message = stream.message
        if message is not None and message.correlation_id is not None and not stream.lost:
            # Nothing was lost of it: it has no end, and the end of the connection says why.
            stream.measure()
            message.size -= stream.skip
            stream.message = None
            message.open = True
        whole = stream.lost or (reason is None and stream.skip > UNTIL_CLOSE >> 1)
        self._finish(stream, None if whole else reason or "connection_closed")
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        """Drop what was to be parsed."""
        if stream.buffer and stream.kind is REQUEST:
            self._tally.cut_requests += 1
        self._unread(stream, len(stream.buffer), 0, WAITED)
        stream.forget()

    def _unread(self, stream: Stream, size: int, hole: int, fate: int) -> None:
        """Note what became of the last `size` bytes captured, `hole` bytes before the latest."""
        if self.kept is not None and size:
            direction = 0 if stream is self.streams[0] else 1
            position = stream.position - hole - size & POSITION_MASK
            self.kept.append(Kept(direction, position, size, fate))
