# SPDX-License-Identifier: Apache-2.0
"""One socket, and what the end of watching it means for what is under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import NoneType
from typing import Final

from parsers.datagrams import PATIENCE_NS, DatagramSession
from parsers.model import AttributeValue, Endpoint, Exchange, Parser, Side, Transport
from parsers.session import Session
from parsers.stream import POSITION_MASK, Stream
from tracer.events import LATE, PEER_STRUCT, CloseEvent, CloseReason, OpenEvent, address_text
from tracer.span import Peering, Process

QUIET_NS: Final = 1_800_000_000_000
"""After which a silent connection is forgotten; it is taken up again when it speaks."""
UNENDED_QUIET_NS: Final = 120_000_000_000
"""The same where no close record will ever come: the kernel tells the end of TCP only."""
REQUEST_TIMEOUT_NS: Final = 300_000_000_000
"""After which a request without a response is reported as unanswered."""
SPENT_QUIET_NS: Final = 10_000_000_000
"""After which a UDP socket that has asked and was answered is forgotten. Most resolvers use one
for each question, and nothing tells that it is closed; of one that speaks again, the kernel is
told to send the record again, so nothing is missed."""
MAX_PEERINGS: Final = 1024
"""Other ends of one socket that are remembered."""
ASK_AGAIN_NS: Final = 1_000_000_000
"""What is under way when the kernel is told something does not heed it yet."""
REQUEST_BYTES: Final = 300
"""Of a request that waits, about."""
MAX_SKIP_BYTES: Final = 1 << 30
"""Positions are compared modulo 2**32, so a distance must stay well below half of it."""
ERROR_OF_REASON: Final[dict[int, str]] = {
    CloseReason.RESET: "connection_reset",
    CloseReason.TIMED_OUT: "timeout",
    CloseReason.REFUSED: "connection_refused",
}
"""What an orderly end is not."""
NOWHERE: Final = Endpoint("", 0)
ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - to be told from an address, not to be bound
"""What says that a socket has none of its own; that of IPv6 is no text at all."""

AnySession = Session | DatagramSession
"""What parses a socket: one stream, or datagrams of many."""


@dataclass(slots=True)
class TableCounters:
    """What became of connections, by name."""

    opened: int = 0
    late: int = 0
    """Of those opened: older than the tracer."""
    closed: int = 0
    reset: int = 0
    refused: int = 0
    evicted: int = 0
    """Forgotten because there were too many."""
    quiet: int = 0
    """Forgotten because they were silent for long."""
    unannounced: int = 0
    """Whose open record was not known: they are reported without addresses until it comes."""
    unknown_protocol: int = 0
    """Given up: no parser knows what they speak."""
    switched_protocol: int = 0
    """Given up: an HTTP upgrade or a tunnel."""
    encrypted: int = 0
    """That speak TLS on the wire."""
    sealed: int = 0
    """Of those that have ended: nobody saw their plaintext."""
    unbound: int = 0
    """Exchanges seen inside a TLS library whose socket was not known: without addresses."""
    no_parser: int = 0
    """On a transport that no parser speaks."""
    overfull: int = 0
    """Sessions ended because all of them together held too much."""
    failed: int = 0
    """Sessions ended because their parser raised what no parser may raise."""
    unreported: int = 0
    """Exchanges of those that were under way or could not be described."""
    unparsed_bytes: int = 0
    """Bytes of transfers that belong to no session."""


class Connection:
    """One socket."""

    __slots__ = (
        "asked_ns",
        "carried",
        "carrier",
        "cookie",
        "first",
        "judged",
        "kernel_tls",
        "last_ns",
        "netns",
        "other",
        "peering",
        "peerings",
        "process",
        "rtt_us",
        "session",
        "speaks",
        "stopped_ns",
        "tgid",
        "tls",
        "whole",
    )

    def __init__(
        self, cookie: int, peering: Peering, process: Process, tgid: int, session: AnySession | None
    ) -> None:
        self.cookie = cookie
        self.peering = peering
        self.process = process
        self.tgid = tgid
        self.session = session
        self.rtt_us = 0
        self.netns = 0
        """Inode of its network namespace; 0 while unknown."""
        self.other: Connection | None = None
        """The other end, if it is on this machine; it may have ended."""
        self.last_ns = 0
        """Of its latest event."""
        self.stopped_ns = 0
        """When the kernel was last told to stop, in the time of its events."""
        self.speaks: type = NoneType
        """The parser for which it was decided how much of each transfer is wanted."""
        self.first: Parser | None = None
        """What it was found to speak at first; it still knows that after the switch to TLS."""
        self.judged = False
        """The kernel was told to capture no more than the beginning of each transfer."""
        self.whole = False
        """More than the snap length is wanted of each transfer."""
        self.asked_ns = 0
        """When the kernel was last told so, in the time of its events."""
        self.tls: Mapping[str, AttributeValue] | None = None
        """Of a socket: what its TLS handshake said in clear."""
        self.carried: Connection | None = None
        """Of a socket that carries TLS: what is seen of it inside the library."""
        self.carrier = 0
        """Of what is seen inside TLS: cookie of its socket, 0 while it is not known."""
        self.kernel_tls = False
        """The kernel encrypts what this socket sends."""
        self.peerings: dict[tuple[Side, Endpoint], Peering] | None = None
        """Those of exchanges on another side or with another end than the socket's."""

    @property
    def asked_long_ago(self) -> bool:
        """What is still cut short although all of it was asked for shows that this is forgotten."""
        return self.last_ns - self.asked_ns > ASK_AGAIN_NS

    @property
    def in_flight(self) -> int:
        """Requests whose response has not ended, or not begun."""
        session = self.session
        if session is None:
            return 0
        return session.in_flight + sum(each.request is not None for each in session.streams)

    def peering_of(self, exchange: Exchange) -> Peering:
        """Who was at which end: one object as long as it is the same, for exporters cache by it."""
        own = self.peering
        if exchange.side is None and exchange.remote is None:
            return own
        key = exchange.side or own.side, exchange.remote or own.remote
        known = self.peerings
        if known is None or len(known) >= MAX_PEERINGS:
            self.peerings = known = {}
        peering = known.get(key)
        if peering is None or peering.local is not own.local:
            # The socket's record may have come in between.
            peering = known[key] = replace(own, side=key[0], remote=key[1])
        return peering


def is_quiet(connection: Connection, now_ns: int) -> bool:
    """Silent for so long that it can be forgotten."""
    is_tcp = connection.peering.transport is Transport.TCP
    return connection.last_ns < now_ns - (QUIET_NS if is_tcp else UNENDED_QUIET_NS)


def worth(connection: Connection) -> tuple[bool, bool, int]:
    """How much a connection would be missed: those that are parsed more, and the latest.

    Least of those a UDP socket whose questions are answered.
    """
    session = connection.session
    return session is not None, not is_spent(session), connection.last_ns


def is_spent(session: AnySession | None) -> bool:
    """Whether it is a UDP socket that has asked and was answered: who knows if it is still open."""
    return (
        isinstance(session, DatagramSession)
        and session.side is Side.CLIENT
        and session.parser is not None
        and not session.unsettled
    )


def held_bytes(connection: Connection) -> int:
    """Payload and requests that its session holds; -1 if it has none."""
    session = connection.session
    if session is None:
        return -1
    return session.buffered_bytes + REQUEST_BYTES * session.in_flight


def pass_time(session: AnySession, now_ns: int) -> None:
    """End what waits for silence, or has waited for a response for too long."""
    session.idle(now_ns)
    patience_ns = PATIENCE_NS if isinstance(session, DatagramSession) else REQUEST_TIMEOUT_NS
    session.expire(now_ns - patience_ns, now_ns)


def skip_until(stream: Stream) -> int:
    """The position up to which nothing of the body under way is wanted.

    The transfer with its last byte is: it tells when the body ended.
    """
    return stream.position + min(stream.skip - 1, MAX_SKIP_BYTES) & POSITION_MASK


def end(session: AnySession, event: CloseEvent) -> None:
    """The connection has ended.

    What was moved before the close and never came is a gap: without it a lost response
    would look like a server's silence.
    """
    now_ns = event.timestamp_ns
    ends = (event.ingress_position, event.egress_position)
    for direction, (stream, position) in enumerate(zip(session.streams, ends, strict=True)):
        missed = position - stream.position & POSITION_MASK
        if stream.position >= 0 and missed <= POSITION_MASK >> 1:
            session.feed(direction, now_ns, position, 0, b"", event.turns, 0)
    session.close(now_ns, ERROR_OF_REASON.get(event.reason))


def peering_of(event: OpenEvent) -> Peering:
    """The ends of a connection as its open record names them."""
    transport = Transport(event.transport)
    side = Side(event.role)
    late = bool(event.flags & LATE)
    if transport is Transport.UNIX:
        path = event.path.decode("utf-8", "backslashreplace").replace("\0", "@")
        end = Endpoint(path, 0)
        return Peering(side, transport, end, end, late)
    local = Endpoint(address_text(event.local), event.local_port)
    remote = Endpoint(address_text(event.remote), event.remote_port)
    if transport is Transport.UDP and local.address == ANY_ADDRESS:
        local = Endpoint("", local.port)
    return Peering(side, transport, local, remote, late)


def turned(peering: Peering, side: Side) -> Peering:
    """The same connection, its side known from what it carries."""
    return replace(peering, side=side)


def peer_at(chunk: bytes, offset: int) -> Endpoint:
    """The other end of a datagram, as its record has it."""
    address, port, _, _ = PEER_STRUCT.unpack_from(chunk, offset)
    return Endpoint(address_text(address), port)
