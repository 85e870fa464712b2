# SPDX-License-Identifier: Apache-2.0
"""All connections of a capture: which segment belongs to which, and who is the client.

Each connection appears once, as its client would see it: egress is client to server. Who the
client is: who sent the SYN; else whose peer is known as a server from another SYN; else what
the payload looks like; else the higher port, and then the session may turn it around.

Spec: RFC 9293 (TCP), RFC 768 (UDP).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from parsers.model import Side, Transport
from tracer.dissect import Datagram, Segment
from tracer.events import EGRESS, INGRESS, Cause, CloseReason, Event
from tracer.reassembly import ACK, FIN, MASK, MAX_JUMP, RST, SYN, End, Output, Talk
from tracer.source import Counter

MAX_CONNECTIONS: Final = 20_000
"""As many as the connection table has room for."""
MAX_ADDRESSES: Final = 65_536
"""Servers and clients that are remembered."""
CLOSED_NS: Final = 60_000_000_000
"""How long a closed connection is remembered, so that its stragglers are known."""
DUPLICATE_NS: Final = 2_000_000
"""A datagram captured twice, on two interfaces that it passed, comes twice within this."""
WELL_KNOWN: Final = 1024
UNWRAPPED: Final = 1 << 32
"""Where positions begin, so that there is room before."""

Key = tuple[Transport, End, End]
K = TypeVar("K")
V = TypeVar("V")


class Assembler:
    """The table of connections."""

    def __init__(
        self,
        is_request: Callable[[bytes], bool | None],
        is_question: Callable[[bytes], bool | None] = lambda _: None,
    ) -> None:
        """Take what tells the requests of streams, and what tells those of datagrams."""
        self._is_request = is_request
        self._is_question = is_question
        self._output = Output()
        self.unused = self._output.unused
        self._talks: dict[Key, Talk] = {}
        self._stuck: dict[int, Talk] = {}
        self._servers: dict[End, None] = {}
        self._clients: dict[bytes, int] = {}
        self._cookies = 0
        self._tgids = 0
        self._swept_ns = 0

    def take_events(self) -> list[Event]:
        """The events made since the last call."""
        events, self._output.events = self._output.events, []
        return events

    def counters(self) -> dict[Cause, Counter]:
        """What became of every byte so far."""
        return {cause: Counter(*row) for cause, row in self._output.counters.items()}

    def datagram(self, datagram: Datagram) -> None:
        """Take one UDP datagram."""
        source, destination = datagram.source, datagram.destination
        timestamp_ns = datagram.timestamp_ns
        key = _key(Transport.UDP, source, destination)
        talk = self._touch(key)
        if talk is None:
            client, server = source, destination
            asks = self._is_question(datagram.data)
            if asks is None:
                asks = not client[1] < WELL_KNOWN <= server[1]
            if not asks:
                client, server = server, client
            talk = self._add(key, client, server, Side.CLIENT, late=False)
            talk.halves[INGRESS].at = talk.halves[EGRESS].at = 0
            talk.open(timestamp_ns)
        talk.last_ns = timestamp_ns
        last = talk.last_datagram
        talk.last_datagram = (timestamp_ns, source, datagram.data)
        again = last is not None and last[1:] == (source, datagram.data)
        if again and last is not None and timestamp_ns - last[0] < DUPLICATE_NS:
            self.unused["captured_twice"] += 1
            return
        direction = EGRESS if source == talk.client else INGRESS
        talk.move(direction, timestamp_ns, datagram.size, datagram.data, peer=talk.server)

    def segment(self, segment: Segment) -> None:
        """Take one TCP segment."""
        key = _key(Transport.TCP, segment.source, segment.destination)
        talk = self._touch(key)
        now_ns = segment.timestamp_ns
        if talk is not None and _is_another(talk, segment):
            talk.end(CloseReason.CLOSED, now_ns)
            del self._talks[key]
            talk = None
        if talk is None:
            talk = self._begin(key, segment)
            if talk is None:
                self.unused["unknown_connection"] += 1
                return
        elif talk.closed_ns:
            self.unused["after_close"] += bool(segment.size)
            return
        talk.last_ns = now_ns
        direction = EGRESS if segment.source == talk.client else INGRESS
        segment = self._place(talk, direction, segment)
        if not talk.opened and talk.halves[0].at >= 0 and talk.halves[1].at >= 0:
            talk.open(talk.syn_ns or now_ns)
        if segment.flags & RST:
            refused = direction == INGRESS and talk.syn >= 0 and not talk.answered
            talk.end(CloseReason.REFUSED if refused else CloseReason.RESET, now_ns)
        elif segment.size or segment.flags & FIN:
            talk.take(direction, segment)
        if talk.waits:
            self._advance(talk, now_ns)

    def settle(self, now_ns: int) -> None:
        """Time has passed: give up waiting for what did not come, forget what is over."""
        for talk in list(self._stuck.values()):
            self._advance(talk, now_ns)
        if now_ns - self._swept_ns > CLOSED_NS // 4:
            self._swept_ns = now_ns
            before_ns = now_ns - CLOSED_NS
            over = [key for key, talk in self._talks.items() if 0 < talk.closed_ns < before_ns]
            for key in over:
                del self._talks[key]

    def finish(self) -> None:
        """The capture has ended: deliver what waits."""
        for talk in self._stuck.values():
            talk.flush()
        self._stuck.clear()

    def _advance(self, talk: Talk, now_ns: int) -> None:
        talk.advance(now_ns)
        if talk.waits:
            self._stuck[talk.cookie] = talk
        else:
            self._stuck.pop(talk.cookie, None)

    def _place(self, talk: Talk, direction: int, segment: Segment) -> Segment:
        """Learn from a header where both directions stand; the segment where its payload does."""
        half, other = talk.halves[direction], talk.halves[1 - direction]
        if segment.flags & SYN:
            if direction == EGRESS:
                talk.syn = segment.sequence
                talk.syn_ns = talk.syn_ns or segment.timestamp_ns
            else:
                talk.answered = True
            _remember(self._servers, talk.server, None)
            segment = segment._replace(sequence=segment.sequence + 1 & MASK)
        if half.at < 0:
            half.at = segment.sequence + UNWRAPPED
        if segment.flags & ACK:
            if other.at < 0:
                other.at = segment.acknowledgment + UNWRAPPED
            other.acknowledged = max(other.acknowledged, other.place(segment.acknowledgment))
            if talk.answered and direction == EGRESS and talk.syn_ns and not talk.rtt_us:
                # From the SYN to the answer to its answer is once around, wherever one listens.
                talk.rtt_us = max(1, (segment.timestamp_ns - talk.syn_ns) // 1000)
        return segment

    def _begin(self, key: Key, segment: Segment) -> Talk | None:
        """A new connection, if this segment may begin one."""
        source, destination = segment.source, segment.destination
        if segment.flags & SYN:
            if segment.flags & ACK:
                source, destination = destination, source
            return self._add(key, source, destination, Side.CLIENT, late=False)
        if not segment.size or segment.flags & RST:
            return None
        role = Side.CLIENT
        if destination in self._servers:
            is_request: bool | None = True
        elif source in self._servers:
            is_request = False
        else:
            role = Side.UNKNOWN
            is_request = self._is_request(segment.data)
            if is_request is None:
                is_request = source[1] >= destination[1]
        if not is_request:
            source, destination = destination, source
        return self._add(key, source, destination, role, late=True)

    def _touch(self, key: Key) -> Talk | None:
        """The connection between two ends, which is now the one used last."""
        talk = self._talks.pop(key, None)
        if talk is not None:
            self._talks[key] = talk
        return talk

    def _add(self, key: Key, client: End, server: End, role: Side, *, late: bool) -> Talk:
        if len(self._talks) >= MAX_CONNECTIONS:
            oldest = self._talks.pop(next(iter(self._talks)))
            if not oldest.closed_ns:
                oldest.flush()
                self._stuck.pop(oldest.cookie, None)
                self.unused["forgotten_connections"] += 1
        self._cookies += 1
        tgid = self._clients.get(client[0])
        if tgid is None:
            self._tgids = tgid = self._tgids % 0x7FFFFFFF + 1
            _remember(self._clients, client[0], tgid)
        talk = Talk(self._output, self._cookies, key[0], client, server, role, late, tgid)
        self._talks[key] = talk
        return talk


def _key(transport: Transport, source: End, destination: End) -> Key:
    """The same for both directions."""
    if source < destination:
        return transport, source, destination
    return transport, destination, source


def _is_another(talk: Talk, segment: Segment) -> bool:
    """Whether a segment belongs to a later connection between the same ends."""
    if segment.flags & SYN:
        if segment.flags & ACK:
            return bool(talk.closed_ns) and segment.source == talk.client
        same = segment.source == talk.client and segment.sequence == talk.syn
        # Or its answer was captured before it.
        return not same and not (talk.syn < 0 and talk.answered and not talk.turn)
    if talk.closed_ns or not segment.size:
        return False
    half = talk.halves[EGRESS if segment.source == talk.client else INGRESS]
    return half.at >= 0 and abs(half.place(segment.sequence) - half.at) > MAX_JUMP


def _remember(table: dict[K, V], key: K, value: V) -> None:
    """Put something into a bounded table; the oldest makes room."""
    if len(table) >= MAX_ADDRESSES and key not in table:
        del table[next(iter(table))]
    table[key] = value
