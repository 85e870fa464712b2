# SPDX-License-Identifier: Apache-2.0
"""One connection of a capture: TCP segments in any order become transfers in theirs.

Problem: a capture shows segments as some network card saw them: out of order, twice, or not
at all. Sessions want transfers in the order in which they happened. Plan: a segment is
delivered when the bytes before it were, and when the bytes that it acknowledges were, so a
response never comes before its request. What waits is bounded in time (of the capture) and
in size; then the missing bytes are declared lost and become an event without payload, a gap
of known length.

Spec: RFC 9293.
"""

from __future__ import annotations

from collections import Counter as Count
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, NamedTuple

from parsers.model import Side, Transport
from tracer.dissect import Segment
from tracer.events import (
    EGRESS,
    EOF,
    INGRESS,
    LATE,
    TURN_START,
    Cause,
    CloseEvent,
    CloseReason,
    DataEvent,
    Event,
    OpenEvent,
)

FIN: Final = 1
SYN: Final = 2
RST: Final = 4
ACK: Final = 16

MASK: Final = 0xFFFFFFFF
MAX_JUMP: Final = 1 << 30
"""No window is larger (RFC 7323): what is further off is another connection."""
REORDER_NS: Final = 20_000_000
"""How long bytes that were acknowledged may still turn up: cards with several queues."""
RETRANSMIT_NS: Final = 3_000_000_000
"""How long bytes that were not acknowledged may still come."""
MAX_HELD_SEGMENTS: Final = 4096
"""Of one connection."""
MAX_HELD_BYTES: Final = 64 * 1024 * 1024
"""Of all connections."""

End = tuple[bytes, int]
"""Address and port."""


@dataclass(slots=True)
class Output:
    """Where all connections put what they make."""

    events: list[Event] = field(default_factory=list)
    unused: Count[str] = field(default_factory=Count)
    """Frames without effect, and connections that were forgotten, by name."""
    counters: dict[Cause, list[int]] = field(default_factory=dict)
    """Fields of `tracer.source.Counter`."""
    held_bytes: int = 0
    """Payload that waits."""


class Waiting(NamedTuple):
    """A segment that cannot be delivered yet, ordered by where it stands."""

    at: int
    serial: int
    segment: Segment


@dataclass(slots=True)
class Half:
    """One direction of a TCP connection."""

    at: int = -1
    """Where the next byte stands: its sequence number, not wrapped; -1 while unknown."""
    acknowledged: int = -1
    """Up to where the other end has it, as far as acknowledgments were seen."""
    ended: bool = False
    """FIN was delivered."""
    waiting: list[Waiting] = field(default_factory=list)
    """Heap."""

    def place(self, sequence: int) -> int:
        """The unwrapped place of a sequence number near `at`."""
        return self.at + (sequence - self.at + (1 << 31) & MASK) - (1 << 31)

    def missing(self, segment: Segment) -> int:
        """How many bytes a segment of the other direction acknowledges that did not come."""
        if self.at < 0 or not segment.flags & ACK:
            return 0
        ahead = self.place(segment.acknowledgment) - self.at
        return ahead if 0 < ahead <= MAX_JUMP else 0


@dataclass(slots=True, eq=False)
class Talk:
    """One connection, TCP or UDP, seen from its client."""

    output: Output
    cookie: int
    transport: Transport
    client: End
    server: End
    role: Side
    late: bool
    tgid: int
    halves: tuple[Half, Half] = field(default_factory=lambda: (Half(), Half()))
    """Ingress and egress."""
    opened: bool = False
    closed_ns: int = 0
    last_ns: int = 0
    syn: int = -1
    """Sequence number of the client's SYN."""
    syn_ns: int = 0
    answered: bool = False
    """SYN-ACK was seen."""
    rtt_us: int = 0
    last_datagram: tuple[int, End, bytes] | None = None
    _direction: int = -1
    turn: int = 0
    _serial: int = 0
    _stuck_ns: int = 0
    """Since when nothing that waits could be delivered; 0 if nothing waits."""

    # -- order ------------------------------------------------------------------------

    def take(self, direction: int, segment: Segment) -> None:
        """Take a segment with payload or FIN, to be delivered when it is its turn."""
        half = self.halves[direction]
        self._serial += 1
        heappush(half.waiting, Waiting(half.place(segment.sequence), self._serial, segment))
        self.output.held_bytes += len(segment.data)

    @property
    def waits(self) -> bool:
        """Segments wait to be delivered."""
        return bool(self.halves[0].waiting or self.halves[1].waiting)

    def advance(self, now_ns: int) -> None:
        """Deliver what can be; declare lost what has been waited for long enough."""
        while self.waits:
            if self._deliver():
                self._stuck_ns = 0
                continue
            if not self._stuck_ns:
                self._stuck_ns = now_ns
            count = len(self.halves[0].waiting) + len(self.halves[1].waiting)
            full = count > MAX_HELD_SEGMENTS or self.output.held_bytes > MAX_HELD_BYTES
            patience_ns = REORDER_NS if self._is_acknowledged() else RETRANSMIT_NS
            if not full and now_ns - self._stuck_ns < patience_ns:
                return
            self._lose()
        self._stuck_ns = 0

    def flush(self) -> None:
        """Deliver all that waits, with gaps where something is missing."""
        while self.waits:
            if not self._deliver():
                self._lose()

    def _deliver(self) -> bool:
        """Deliver one segment that waits for nothing more; False if there is none."""
        ready = -1
        serial = self._serial + 1
        for direction in (EGRESS, INGRESS):
            half = self.halves[direction]
            if not half.waiting or half.waiting[0].at > half.at:
                continue
            first = half.waiting[0]
            if first.serial < serial and not self.halves[1 - direction].missing(first.segment):
                ready, serial = direction, first.serial
        if ready >= 0:
            self._pass(ready)
        return ready >= 0

    def _pass(self, direction: int) -> None:
        """Hand on the first segment that waits, without what came before."""
        half = self.halves[direction]
        at, _, segment = heappop(half.waiting)
        self.output.held_bytes -= len(segment.data)
        old = half.at - at
        if segment.size > old:
            if old:
                self.output.unused["overlapping"] += 1
            data = segment.data[old:] if old else segment.data
            self.move(direction, segment.timestamp_ns, segment.size - old, data)
        elif segment.size:
            self.output.unused["retransmitted"] += 1
        if segment.flags & FIN and half.at == at + segment.size and not half.ended:
            half.ended = True
            half.at += 1
            if direction == INGRESS:
                self._mark_end(segment.timestamp_ns)
            if self.halves[1 - direction].ended:
                self.end(CloseReason.CLOSED, segment.timestamp_ns)

    def _is_acknowledged(self) -> bool:
        """Whether what is waited for had arrived where it was sent to."""
        for half, other in (self.halves, self.halves[::-1]):
            if half.waiting:
                first = half.waiting[0]
                if half.acknowledged >= first.at > half.at or other.missing(first.segment):
                    return True
        return False

    def _lose(self) -> None:
        """Declare lost the bytes that what has waited longest waits for."""
        directions = [each for each in (EGRESS, INGRESS) if self.halves[each].waiting]
        direction = min(directions, key=lambda each: self.halves[each].waiting[0].serial)
        half = waits_in = self.halves[direction]
        first = half.waiting[0]
        stop = first.at
        if first.at <= half.at:
            # It waits for bytes of the other direction, which it acknowledges.
            direction = 1 - direction
            half = self.halves[direction]
            stop = half.at + half.missing(first.segment)
            if half.waiting:
                if half.waiting[0].at <= half.at:
                    self._pass(direction)
                    return
                stop = min(stop, half.waiting[0].at)
        size = stop - half.at
        if size == 1 and half is not waits_in:
            # More likely a FIN, which takes a number too, than a byte.
            half.at += 1
            return
        self.move(direction, first.segment.timestamp_ns, size, b"", cause=Cause.UNSEEN)

    # -- events -----------------------------------------------------------------------

    def open(self, timestamp_ns: int) -> None:
        """Announce the connection."""
        self.opened = True
        ingress, egress = self.halves
        self.output.events.append(
            OpenEvent(
                role=self.role,
                transport=self.transport,
                flags=LATE if self.late else 0,
                tgid=self.tgid,
                cookie=self.cookie,
                timestamp_ns=timestamp_ns,
                process_start_ns=0,
                cgroup_id=0,
                netns=0,
                egress_position=max(egress.at, 0) & MASK,
                ingress_position=max(ingress.at, 0) & MASK,
                local_port=self.client[1],
                remote_port=self.server[1],
                local=self.client[0],
                remote=self.server[0],
                comm=b"",
                path=b"",
            )
        )

    def move(
        self,
        direction: int,
        timestamp_ns: int,
        size: int,
        data: bytes,
        *,
        cause: Cause = Cause.DELIVERED,
        peer: End | None = None,
    ) -> None:
        """One transfer, or a gap."""
        if not self.opened:
            self.open(timestamp_ns)
        flags = 0
        row = self.output.counters.setdefault(cause, [0, 0, 0, 0, 0])
        row[0] += 1
        row[1] += size
        if direction != self._direction:
            self._direction = direction
            self.turn += 1
            flags = TURN_START
            column = 3 if direction == INGRESS else 2
            row[column if self.role is Side.CLIENT else 4] += 1
        half = self.halves[direction]
        self.output.events.append(
            DataEvent(
                direction=direction,
                cookie=self.cookie,
                timestamp_ns=timestamp_ns,
                position=half.at & MASK,
                size=size,
                turn=self.turn,
                data=data,
                flags=flags,
                cause=cause,
                tgid=self.tgid,
                rtt_us=self.rtt_us,
                peer=peer,
            )
        )
        half.at += size

    def _mark_end(self, timestamp_ns: int) -> None:
        """The server has finished sending."""
        self.output.events.append(
            DataEvent(
                direction=INGRESS,
                cookie=self.cookie,
                timestamp_ns=timestamp_ns,
                position=self.halves[INGRESS].at - 1 & MASK,
                size=0,
                turn=self.turn,
                flags=EOF,
                tgid=self.tgid,
            )
        )

    def end(self, reason: CloseReason, timestamp_ns: int) -> None:
        """The connection has ended, once."""
        if self.closed_ns:
            return
        self.closed_ns = timestamp_ns
        self.flush()
        if not self.opened:
            self.open(timestamp_ns)
        ingress, egress = self.halves
        self.output.events.append(
            CloseEvent(
                reason=reason,
                turns=self.turn,
                cookie=self.cookie,
                timestamp_ns=timestamp_ns,
                egress_position=max(egress.at, 0) & MASK,
                ingress_position=max(ingress.at, 0) & MASK,
            )
        )
