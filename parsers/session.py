# SPDX-License-Identifier: Apache-2.0
"""One connection: transfers in, exchanges out.

A session is fed transfers in the order in which they happened and yields exchanges. What
makes it different from an endpoint's protocol stack is that it may have joined late, and
that any transfer may be missing:

* Positions tell what is missing.
* A *turn* is a run of transfers in one direction; its number counts missing transfers too.
* parsers/detection.py holds transfers until a parser fits, parsers/framing.py cuts bytes into
  messages, parsers/pairing.py joins them.

Cost: a transfer that holds one whole message takes one parse call and no copy.
"""

from __future__ import annotations

from typing import Final

from parsers.conversation import REQUEST
from parsers.correlation import ANSWERED_NS
from parsers.detection import TURN_START, Candidates, Detection, Transfer
from parsers.framing import Framing
from parsers.model import Options, Side
from parsers.stream import POSITION_MASK
from parsers.tally import Tally

EOF: Final = 1
"""`enum ws_data_flag`: the peer has finished sending."""

TURN_END_NS: Final = 1_000_000_000
"""Silence after which a response of unknown length is taken to have ended."""


class Session(Framing):
    """One connection. `feed` it transfers; take exchanges from `done`."""

    __slots__ = ("_detection", "late")

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
        super().__init__(candidates, options, side, tally, late=late, keep=keep)
        self.late = late
        """The connection had been in use before its first transfer here."""
        self._detection = Detection(candidates, side, late=late)

    def begin_at(self, ingress_position: int, egress_position: int) -> None:
        """Where both directions stood before the first transfer, so that its loss shows."""
        self.streams[0].position = ingress_position
        self.streams[1].position = egress_position

    # -- bytes in ---------------------------------------------------------------------

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
        """Take one transfer; arguments as in `Transfer`.

        With `size` 0 it says how far the direction has come, so that a loss before it shows.
        """
        if self.opaque is not None:
            return
        if self.parser is None:
            if size:
                self._detect(Transfer(direction, timestamp_ns, position, size, data, turn, flags))
            return
        stream = self.streams[direction]
        if position != stream.position:
            overlap = self._jump(stream, position, size, turn, flags)
            if overlap:
                self._tally.overlap_bytes += min(overlap, size)
                if overlap >= size:
                    return
                size -= overlap
                data = data[overlap:]
        if not size:
            if flags & EOF:
                self._end_stream(stream, None)
            return
        if flags & TURN_START:
            if stream.lost or stream.unsure or stream.buffer:
                self._next_turn(stream, data, turn, flags)
        elif stream.lost:
            self._rejoin(stream, data, turn)
        stream.position = stream.position + size & POSITION_MASK
        stream.offset += size
        stream.turn = turn
        stream.last_ns = timestamp_ns
        if stream.lost:
            self._tally.gap_bytes += size
            return
        skip = stream.skip
        if skip:
            if skip > size:
                stream.skip = skip - size
                return
            stream.skip = 0
            size -= skip
            data = data[skip:]
        if stream.buffer:
            data = stream.buffer + data
            size += len(stream.buffer)
        else:
            stream.begun_ns = timestamp_ns
        self._parse(stream, data, size - len(data), timestamp_ns, flags)

    def close(self, timestamp_ns: int, reason: str | None) -> None:
        """The connection has ended. `reason` is None for an orderly end, else an error type."""
        for stream in self.streams:
            self._end_stream(stream, reason)
        self._pairing.end(timestamp_ns, reason or "connection_closed")

    def idle(self, now_ns: int) -> None:
        """Time has passed: end what only silence ends."""
        self._pairing.release_early(now_ns)
        self._pairing.ids.idle(now_ns)
        for stream in self.streams:
            if stream.lost and now_ns - stream.last_ns > TURN_END_NS:
                self._finish(stream)
            elif stream.answer is not None and now_ns - stream.last_ns > ANSWERED_NS:
                if stream.message is not None and stream.message.open:
                    self._lose(stream, 0, stream.turn)
                self._finish(stream)

    def expire(self, before_ns: int, now_ns: int = 0) -> None:
        """Give up, at `now_ns`, requests that began before `before_ns`."""
        for stream in self.streams:
            stream.measure()
        self._pairing.expire(before_ns, "timeout", now_ns)

    def give_up(self, reason: str) -> None:
        """Parse nothing more of this connection."""
        self._detection.release()
        super().give_up(reason)

    # -- what others ask --------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """Something waits for more bytes or for time."""
        return self._pairing.waits or any(stream.message for stream in self.streams)

    @property
    def in_flight(self) -> int:
        """Requests without a response so far."""
        return len(self._pairing)

    @property
    def buffered_bytes(self) -> int:
        """Payload that is held."""
        ingress, egress = self.streams
        return self._detection.held_bytes + len(ingress.buffer) + len(egress.buffer)

    def undecided(self, direction: int) -> int:
        """How many of the last bytes of a direction may yet be kept."""
        return self._detection.span(direction) or len(self.streams[direction].buffer)

    # -- detection --------------------------------------------------------------------

    def _detect(self, transfer: Transfer) -> None:
        detection = self._detection
        known = self.streams[transfer.direction].position
        if not detection.held and known not in {-1, transfer.position}:
            detection.joined = True
        held = detection.held
        choice = detection.offer(transfer)
        if choice is None and detection.held is not held:
            for each in held[:-1]:
                self._note_held(each)
        if choice is None:
            if detection.failed:
                self.give_up("unknown")
            return
        self.parser = choice.parser(self._options)
        self._pairing.parser = self.parser
        self._pairing.protocol = choice.parser.name
        serves = choice.kinds[0] is REQUEST
        self.side = Side.SERVER if serves else Side.CLIENT
        self._pairing.reorders = not serves and not detection.joined
        for stream, kind in zip(self.streams, choice.kinds, strict=True):
            stream.kind = kind
            if detection.joined:
                stream.position = -1
                stream.lost = True
        for each in detection.release():
            flags = each.flags
            if detection.joined and not choice.begun[each.direction]:
                flags &= ~TURN_START
            notes = len(self.kept or ())
            self.feed(*each[:-1], flags)
            if self.streams[each.direction].lost and len(self.kept or ()) == notes:
                self._note_held(each)
