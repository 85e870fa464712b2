# SPDX-License-Identifier: Apache-2.0
"""One UDP socket: datagrams in, exchanges out.

What makes it different from a connection: a datagram is one whole message, so nothing is cut,
held or resumed; one that is lost harms no other; and a socket may talk to many, and both ask
and answer (parsers/datagram_pairing.py). So an exchange says itself which side the socket was
on and who was at the other end, where that is not what the socket says.

UDP: RFC 768.
"""

from __future__ import annotations

from typing import ClassVar, Final

from parsers.datagram_pairing import EGRESS, INGRESS, NOBODY, DatagramPairing, side_of
from parsers.detection import Candidates
from parsers.model import (
    Endpoint,
    Kind,
    Likeness,
    Message,
    Options,
    ParseError,
    Parser,
    Side,
)
from parsers.reader import NeedMoreData, Reader
from parsers.stream import POSITION_MASK, Kept, Stream, kept_ranges
from parsers.tally import Tally

PATIENCE_NS: Final = 15_000_000_000
"""After which a request without an answer is reported. Resolvers give a server five seconds
and ask again, which starts this anew; nobody waits three times as long."""
MAX_MISFITS: Final = 4
"""Datagrams in a row that fit no parser, after which the socket speaks something else."""
MAX_MISFITS_AT_PORT: Final = 64
"""The same where the port is one of a parser's: a server on it hears from strangers too."""

REQUEST: Final = Kind.REQUEST
RESPONSE: Final = Kind.RESPONSE


class DatagramSession(DatagramPairing):
    """One socket. `feed` it datagrams; take exchanges from `done`. See `Session`."""

    streams: ClassVar[tuple[Stream, Stream]] = (Stream(REQUEST), Stream(RESPONSE))
    """Nothing of a datagram is ever still to come."""

    __slots__ = ("_candidates", "_ends", "_errors", "_options", "kept", "late", "opaque", "peer")

    def __init__(
        self,
        candidates: Candidates,
        options: Options,
        side: Side,
        tally: Tally,
        *,
        late: bool,
        keep: bool = False,
    ) -> None:
        super().__init__(side, tally)
        self.late = late
        self.opaque: str | None = None
        """Why the rest is not parsed."""
        self.kept: list[Kept] | None = [] if keep else None
        self.peer = NOBODY
        """Who is at the other end of the datagram that comes next, where its record says so."""
        self._candidates = candidates
        self._options = options
        self._ends = [-1, -1]
        """Positions at which the next datagrams begin, ingress and egress; -1 while unknown."""
        self._errors = 0
        """Datagrams in a row that were no message."""

    def begin_at(self, ingress_position: int, egress_position: int) -> None:
        """Where both directions stood before the first datagram, so that its loss shows."""
        self._ends = [ingress_position, egress_position]

    def bind(self, local_port: int, remote: Endpoint) -> None:
        """What the socket's record says of its ends; `remote` has port 0 if it is not connected."""
        self._local_port = local_port
        self.remote = self.peer = remote if remote.port else NOBODY

    # -- datagrams in -----------------------------------------------------------------

    def feed(
        self,
        direction: int,
        timestamp_ns: int,
        position: int,
        size: int,
        data: bytes,
        turn: int,
        flags: int,
    ) -> None:
        """Take one datagram, sent to or received from `peer`."""
        peer, self.peer = self.peer, self.remote
        self._note_position(direction, position, size, timestamp_ns)
        if self.opaque is not None:
            return
        if not data:
            # It was not captured, but it may have been the answer.
            self._lost_ns[direction] = timestamp_ns
            self._tally.gap_bytes += size
            return
        parser = self.parser or self._choose(direction, data, peer)
        if parser is None:
            return
        message = self._parse(parser, direction, position, size, data, peer)
        if message is None:
            return
        message.first_ns = message.last_ns = timestamp_ns
        message.size = size
        message.turn = turn
        message.open = False
        if message.kind is REQUEST:
            self._ask(direction, peer, message)
        elif not message.interim:
            self._answer(1 - direction, peer, message)

    def _note_position(self, direction: int, position: int, size: int, timestamp_ns: int) -> None:
        """See whether datagrams were missed before this one."""
        end = self._ends[direction]
        if position != end and end >= 0:
            if position - end & POSITION_MASK > POSITION_MASK >> 1:
                # Two threads work on the socket, and what was first is told second.
                return
            self._lost_ns[direction] = timestamp_ns
            self._tally.gap_bytes += position - end & POSITION_MASK
        self._ends[direction] = position + size & POSITION_MASK

    def _choose(self, direction: int, data: bytes, peer: Endpoint) -> Parser | None:
        """The parser that this datagram fits; None if it fits none.

        All of a message is there, so nothing is held until more has come.
        """
        for candidate in self._candidates():
            known = self._is_known(candidate, peer)
            wanted = Likeness.LIKELY if known else Likeness.CERTAIN
            for kind in (REQUEST, RESPONSE):
                if candidate.probe(data, kind) >= wanted:
                    self.parser = candidate(self._options)
                    self.side = side_of(direction, kind)
                    self._errors = 0
                    return self.parser
        self._errors += 1
        if self._errors >= self._patience(peer):
            self.give_up("unknown")
        return None

    def _is_known(self, parser: type[Parser] | Parser, peer: Endpoint) -> bool:
        """Whether the port of either end is one of the parser's."""
        return self._local_port in parser.ports or peer.port in parser.ports

    def _patience(self, peer: Endpoint) -> int:
        known = any(self._is_known(each, peer) for each in self._candidates())
        return MAX_MISFITS_AT_PORT if known else MAX_MISFITS

    def _parse(
        self,
        parser: Parser,
        direction: int,
        position: int,
        size: int,
        data: bytes,
        peer: Endpoint,
    ) -> Message | None:
        """The message that a datagram is; None if it is none, or of no account."""
        asks = direction == (EGRESS if self.side is Side.CLIENT else INGRESS)
        for kind in (REQUEST, RESPONSE) if asks else (RESPONSE, REQUEST):
            reader = Reader(data, cut=len(data) < size)
            reader.marking = self.kept is not None
            try:
                message = parser.parse(reader, kind, None)
            except (ParseError, NeedMoreData):
                continue
            self._errors = 0
            if self.kept is not None:
                self.kept.extend(kept_ranges(reader, 0, direction, position))
            if message is not None and reader.lost:
                message.truncated = True
            return message
        self._mistake(parser, peer)
        return None

    def _mistake(self, parser: Parser, peer: Endpoint) -> None:
        """A datagram is no message. It costs no more than itself, unless they all are none."""
        errors = self._tally.parse_errors
        errors[parser.name] = errors.get(parser.name, 0) + 1
        self._errors += 1
        if not self._answering and self._errors >= self._patience(peer):
            self._tally.demotions += 1
            self._abandon()
            self.give_up("unknown")

    # -- ends -------------------------------------------------------------------------

    def give_up(self, reason: str) -> None:
        """Parse nothing more of this socket."""
        self.opaque = reason
        self._leave()

    def undecided(self, direction: int) -> int:
        """How many of the last bytes of a direction may yet be kept: none."""
        return 0
