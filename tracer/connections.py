# SPDX-License-Identifier: Apache-2.0
"""The connection table: events in, finished exchanges out.

Problem: events of thousands of connections come in one stream, any of them may be missing,
and the table must not grow with what goes on in the world. Plan: one `Connection` a socket
cookie, made by its open record and ended by its close record; a session behind it as long
as its protocol is known or may become known; caps on all of it, each counted.

Time is that of the batches (`Batch.now_ns`), never a clock's, so that a replay decides as
the live run did.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from parsers.datagrams import DatagramSession
from parsers.model import Exchange, Side, Transport
from parsers.registry import Registry
from parsers.session import Session
from parsers.tally import Tally
from tracer.connection import (
    NOWHERE,
    SPENT_QUIET_NS,
    UNENDED_QUIET_NS,
    AnySession,
    Connection,
    TableCounters,
    end,
    held_bytes,
    is_quiet,
    is_spent,
    pass_time,
    peer_at,
    peering_of,
    skip_until,
    turned,
    worth,
)
from tracer.ends import Ends
from tracer.events import (
    CLOSE,
    DATA,
    DISCARDED,
    HAS_PEER,
    INNER,
    INNER_BIT,
    LENGTH_MASK,
    MAX_SNAPLEN,
    MAX_WHOLE,
    OPEN,
    PEER_STRUCT,
    PLAINTEXT,
    RECORD_DATA_STRUCT,
    RECORD_HEADER_BYTES,
    Action,
    CloseEvent,
    CloseReason,
    OpenEvent,
)
from tracer.source import Batch, Source
from tracer.span import Peering, Process
from tracer.tls_links import ENCRYPTED, PROTOCOL, TlsLinks, kernel_tls

MAX_CONNECTIONS: Final = 20_000
"""About 3 KiB each while their protocol is known."""
MAX_BUFFERED_BYTES: Final = 64 * 1024 * 1024
"""Payload and requests of all sessions together that wait for more."""
CLOSE_GRACE_NS: Final = 100_000_000
"""How long data may be read after the close: a receive queue outlives a reset, and two CPUs
may report in either order."""
SWEEP_NS: Final = 250_000_000
LONG_NS: Final = 1_000_000_000_000
"""Added to the time at the end, so that all that waits for silence has waited enough."""
STOP_AGAIN_NS: Final = 1_000_000_000
"""What is still delivered this long after a stop means that the verdict was lost."""
SKIP_BYTES: Final = 256 * 1024
"""A body with more than this to come is not copied out of the kernel."""

log = logging.getLogger(__name__)

Emit = Callable[[Connection, Exchange], None]


@dataclass(slots=True)
class ConnectionTable:
    """All connections that are known."""

    source: Source
    registry: Registry
    emit: Emit
    keep: bool = False
    """Sessions note what a recording may keep."""
    max_connections: int = MAX_CONNECTIONS
    max_buffered_bytes: int = MAX_BUFFERED_BYTES
    after_events: Callable[[], None] | None = None
    """Called when a batch's events are done, before time ends connections that have closed."""
    ignored: str = ""
    """Path of a Unix socket that is not looked at: the tracer's own."""
    strict: bool = False
    """Let a parser's fault out instead of giving its connection up: for tests."""
    tally: Tally = field(default_factory=Tally)
    counters: TableCounters = field(default_factory=TableCounters)
    connections: dict[int, Connection] = field(default_factory=dict)
    _closing: deque[CloseEvent] = field(default_factory=deque)
    _retired: dict[int, AnySession] = field(default_factory=dict)
    """Sessions that ended in this batch, for as long as their kept bytes are asked for."""
    ends: Ends = field(init=False)
    _links: TlsLinks = field(init=False)
    _swept_ns: int = 0
    _faulty: set[str] = field(default_factory=set)
    """Parsers whose fault has been logged."""

    def __post_init__(self) -> None:
        self._links = TlsLinks(self.connections, self.counters)
        self.ends = Ends(self.connections)

    def session_of(self, cookie: int) -> AnySession | None:
        """The session that the last batch's events of a cookie went to, if any."""
        retired = self._retired.get(cookie)
        if retired is not None:
            return retired
        connection = self.connections.get(cookie)
        return None if connection is None else connection.session

    def feed(self, batch: Batch) -> None:
        """Take the events of one batch, and let time pass."""
        self._retired.clear()
        chunk = batch.chunk
        stop = len(chunk)
        offset = 0
        unpack = RECORD_DATA_STRUCT.unpack_from
        connections = self.connections
        while offset < stop:
            kind = chunk[offset + RECORD_HEADER_BYTES]
            if kind == DATA:
                (
                    word, _, _, direction, flags, _, captured, cookie, timestamp_ns,
                    position, size, turn, _, tgid, _, rtt_us, _, _,
                ) = unpack(chunk, offset)  # fmt: skip
                start = offset + RECORD_DATA_STRUCT.size
                offset += RECORD_HEADER_BYTES + ((word & LENGTH_MASK) + 7 & ~7)
                if word & DISCARDED:
                    continue
                connection = connections.get(cookie)
                if connection is None:
                    connection = self._unannounced(cookie, tgid, timestamp_ns, flags)
                connection.last_ns = timestamp_ns
                if rtt_us:
                    connection.rtt_us = rtt_us
                if tgid != connection.tgid and tgid:
                    # The socket was inherited or passed on: who uses it is who counts.
                    connection.tgid = tgid
                    connection.process = self.source.process(tgid, None)
                if flags & PLAINTEXT and not connection.kernel_tls:
                    self._begin_plaintext(connection)
                session = connection.session
                if session is None:
                    self._unparsed(connection, size, timestamp_ns)
                    continue
                if flags & HAS_PEER:
                    if isinstance(session, DatagramSession):
                        session.peer = peer_at(chunk, start)
                    start += PEER_STRUCT.size
                try:
                    session.feed(
                        direction,
                        timestamp_ns,
                        position,
                        size,
                        chunk[start : start + captured],
                        turn,
                        flags,
                    )
                    if session.done:
                        self._emit(connection, session)
                except Exception as error:  # noqa: BLE001 - see _settle
                    self._fail(connection, session, error)
                    continue
                if session.opaque is not None:
                    self._drop_session(connection, session)
                elif session.parser.__class__ is not connection.speaks:
                    self._choose(connection, session)
                elif size != captured or captured > MAX_SNAPLEN:
                    self._spare(connection, session, direction, captured)
                continue
            word = int.from_bytes(chunk[offset : offset + 4], "little")
            start = offset + RECORD_HEADER_BYTES
            offset = start + ((word & LENGTH_MASK) + 7 & ~7)
            if word & DISCARDED:
                continue
            if kind == OPEN:
                self._open(OpenEvent.unpack_from(chunk, start))
            elif kind == CLOSE:
                self._close(CloseEvent.unpack_from(chunk, start))
        if self.after_events is not None:
            self.after_events()
        self._pass_time(batch.now_ns)

    def finish(self, now_ns: int) -> None:
        """There will be no more events: report what can be reported."""
        while self._closing:
            self._end(self._closing.popleft())
        for connection in list(self.connections.values()):
            session = connection.session
            if session is not None:
                self._settle(connection, session, partial(session.idle, now_ns + LONG_NS))
            self._links.ended(connection)

    @property
    def in_flight(self) -> int:
        """Requests whose response has not ended, or not begun."""
        return sum(each.in_flight for each in self.connections.values())

    # -- life and death ---------------------------------------------------------------

    def _open(self, event: OpenEvent) -> None:
        peering = self._links.peering(event) if event.flags & INNER else peering_of(event)
        process = self.source.process(event.tgid, event)
        known = self.connections.get(event.cookie)
        if known is not None and self._end_before(event):
            known = None
        if known is not None:
            self._announced(known, event, peering, process)
            return
        if not event.flags & INNER:
            self.counters.opened += 1
            self.counters.late += peering.late
        is_ignored = bool(self.ignored) and self.ignored == peering.local.address
        session = None
        if not is_ignored:
            session = self._session(peering, self.connections.get(event.carrier))
        connection = Connection(event.cookie, peering, process, event.tgid, session)
        # Before its first transfer too, or the newest would be the first to be evicted.
        connection.last_ns = event.timestamp_ns
        connection.netns = event.netns
        if session is None:
            self.counters.no_parser += not is_ignored
            self._stop(connection)
        elif not peering.late:
            session.begin_at(event.ingress_position, event.egress_position)
        self._add(connection)
        if not event.flags & INNER:
            self.ends.add(connection)
        self._links.link(connection, event)

    def _end_before(self, event: OpenEvent) -> bool:
        """A socket whose connection has ended may connect again: its cookie stays."""
        for closed in self._closing:
            if closed.cookie == event.cookie and closed.egress_position != event.egress_position:
                self._closing.remove(closed)
                self._end(closed)
                return True
        return False

    def _announced(
        self, known: Connection, event: OpenEvent, peering: Peering, process: Process
    ) -> None:
        """The answer to our asking for it: the session goes on."""
        session = known.session
        known.process = process
        known.tgid = event.tgid
        known.last_ns = max(known.last_ns, event.timestamp_ns)
        if session is not None and not self._fits(session, peering.transport):
            self._leave(known, session)
            known.session = session = self._session(peering)
            self.counters.no_parser += session is None
        elif session is not None and session.parser is not None:
            peering = turned(peering, session.side)
        if isinstance(session, DatagramSession):
            session.bind(peering.local.port, peering.remote)
        known.peering = peering
        known.netns = event.netns
        if not event.flags & INNER:
            self.ends.add(known)
        self._links.link(known, event)
        if known.session is None:
            # Asking for the record has replaced the verdict.
            self._stop(known)

    def _begin_plaintext(self, connection: Connection) -> None:
        if connection.session is not None:
            self._leave(connection, connection.session)
        kernel_tls(connection)
        connection.session = self._session(connection.peering, connection)

    def _unannounced(self, cookie: int, tgid: int, timestamp_ns: int, flags: int) -> Connection:
        self.counters.unannounced += 1
        self.source.advise(cookie, Action.ANNOUNCE)
        # Only datagrams say who is at the other end; what says nothing is most likely a stream.
        is_datagram = flags & HAS_PEER and self._parses(Transport.UDP)
        transport = Transport.UDP if is_datagram else Transport.TCP
        peering = Peering(Side.UNKNOWN, transport, NOWHERE, NOWHERE, late=True)
        process = self.source.process(tgid, None)
        connection = Connection(cookie, peering, process, tgid, self._session(peering))
        connection.last_ns = timestamp_ns
        return self._add(connection)

    def _add(self, connection: Connection) -> Connection:
        if len(self.connections) >= self.max_connections:
            self._evict()
        self.connections[connection.cookie] = connection
        return connection

    def _session(self, peering: Peering, carrier: Connection | None = None) -> AnySession | None:
        transport = peering.transport
        if not self._parses(transport):
            return None
        candidates = partial(self.registry.candidates, transport, peering.server.port)
        registry = self.registry
        options = registry.options if peering.tls is None else registry.encrypted_options
        if carrier is not None and carrier.first is not None:
            options = replace(options, before=carrier.first)
        side = peering.side
        if peering.late and side is Side.CLIENT:
            # The kernel says so when nobody listens; the listener may have gone since.
            side = Side.UNKNOWN
        if transport is Transport.UDP:
            datagrams = DatagramSession(
                candidates, options, side, self.tally, late=peering.late, keep=self.keep
            )
            datagrams.bind(peering.local.port, peering.remote)
            return datagrams
        return Session(candidates, options, side, self.tally, late=peering.late, keep=self.keep)

    def _parses(self, transport: Transport) -> bool:
        return bool(self.registry.candidates(transport, 0))

    def _fits(self, session: AnySession, transport: Transport) -> bool:
        """Whether a session made before the transport was known is of the right kind."""
        is_datagram = transport is Transport.UDP
        return self._parses(transport) and is_datagram is isinstance(session, DatagramSession)

    def _close(self, event: CloseEvent) -> None:
        if not event.cookie & INNER_BIT:
            # What is inside of TLS is no connection more.
            self.counters.closed += 1
            self.counters.reset += event.reason == CloseReason.RESET
            self.counters.refused += event.reason == CloseReason.REFUSED
        if event.cookie in self.connections:
            self._closing.append(event)

    def _end(self, event: CloseEvent) -> None:
        connection = self.connections.pop(event.cookie, None)
        if connection is None:
            return
        self.ends.remove(connection)
        self._links.ended(connection)
        session = connection.session
        if session is None or connection.whole or connection.judged:
            self.source.forget(event.cookie)
        if session is None:
            return
        if self._settle(connection, session, partial(end, session, event)):
            self._retire(event.cookie, session)

    def _drop_session(self, connection: Connection, session: AnySession) -> None:
        """Nothing more will be parsed of it, so nothing more need be copied."""
        if session.opaque == "unknown":
            self.counters.unknown_protocol += 1
        elif session.opaque == ENCRYPTED:
            self._links.encrypted(connection)
        else:
            self.counters.switched_protocol += 1
        connection.session = None
        self._retire(connection.cookie, session)
        self._stop(connection)

    def _leave(self, connection: Connection, session: AnySession) -> None:
        """Watch no more of a connection that goes on: what is under way ends with a gap."""
        if self._settle(connection, session, partial(session.give_up, "left")):
            connection.session = None
            self._retire(connection.cookie, session)

    def _settle(
        self, connection: Connection, session: AnySession, step: Callable[[], None]
    ) -> bool:
        """Take a session a step on and hand its exchanges out; False if that has failed."""
        try:
            step()
            if session.done:
                self._emit(connection, session)
        except Exception as error:  # noqa: BLE001 - whatever a parser raises ends its connection only
            self._fail(connection, session, error)
            return False
        return True

    def _fail(self, connection: Connection, session: AnySession, error: Exception) -> None:
        """A parser has raised what it must not: its connection is given up, the rest goes on."""
        if self.strict:
            raise error
        name = session.parser.name if session.parser is not None else "detection"
        if name not in self._faulty:
            self._faulty.add(name)
            log.error("the parser of %s failed, its connection is given up", name, exc_info=error)
        with suppress(Exception):
            session.give_up("failed")
        self.counters.failed += 1
        self.counters.unreported += len(session.done)
        session.done.clear()
        connection.session = None
        self._retire(connection.cookie, session)
        self._stop(connection)

    def _stop(self, connection: Connection) -> None:
        connection.stopped_ns = connection.last_ns
        self.source.advise(connection.cookie, Action.STOP)

    def _unparsed(self, connection: Connection, size: int, timestamp_ns: int) -> None:
        """Events that were under way when the kernel was told to stop."""
        self.counters.unparsed_bytes += size
        if timestamp_ns - connection.stopped_ns > STOP_AGAIN_NS:
            self._stop(connection)

    def _retire(self, cookie: int, session: AnySession) -> None:
        if self.keep:
            self._retired[cookie] = session

    def _spare(
        self, connection: Connection, session: AnySession, direction: int, captured: int
    ) -> None:
        """Save the kernel the copies of a long body; ask for more of what is not long enough."""
        stream = session.streams[direction]
        whole = connection.whole
        if stream.skip > SKIP_BYTES and connection.peering.local is not NOWHERE:
            until = skip_until(stream)
            self.source.advise(connection.cookie, Action.SKIP, direction, until, whole=whole)
        elif whole and 0 < captured < MAX_WHOLE and connection.asked_long_ago:
            # The kernel may have forgotten what it was told, as its map is bounded.
            self._ask_whole(connection)
        elif captured > MAX_SNAPLEN and not whole and not connection.judged:
            # One of its first transfers, taken whole because nobody knew what it speaks.
            connection.judged = True
            self.source.advise(connection.cookie, Action.FULL)

    def _choose(self, connection: Connection, session: AnySession) -> None:
        """A parser was found, or the protocol has changed: does it need more than heads?"""
        connection.speaks = session.parser.__class__
        if connection.first is None:
            connection.first = session.parser
        if getattr(session.parser, "whole", False):
            self._ask_whole(connection)

    def _ask_whole(self, connection: Connection) -> None:
        connection.whole = True
        connection.asked_ns = connection.last_ns
        # There is one verdict, and the open record may have been asked for just before.
        unknown = connection.peering.local is NOWHERE
        action = Action.ANNOUNCE if unknown else Action.FULL
        self.source.advise(connection.cookie, action, whole=True)

    def _emit(self, connection: Connection, session: AnySession) -> None:
        if connection.peering.side is not session.side:
            connection.peering = turned(connection.peering, session.side)
        if connection.peering.local is NOWHERE:
            self._links.count(connection, len(session.done))
        for exchange in session.done:
            if exchange.protocol != PROTOCOL or self._links.learn(connection, exchange):
                self.emit(connection, exchange)
        session.done.clear()

    # -- time and bounds --------------------------------------------------------------

    def _pass_time(self, now_ns: int) -> None:
        closing = self._closing
        while closing and closing[0].timestamp_ns < now_ns - CLOSE_GRACE_NS:
            self._end(closing.popleft())
        if now_ns - self._swept_ns >= SWEEP_NS:
            self._swept_ns = now_ns
            self._sweep(now_ns)

    def _sweep(self, now_ns: int) -> None:
        buffered = 0
        long_ago_ns = now_ns - UNENDED_QUIET_NS
        spent_ns = now_ns - SPENT_QUIET_NS
        quiet, spent = [], []
        for connection in list(self.connections.values()):
            if connection.last_ns < long_ago_ns and is_quiet(connection, now_ns):
                quiet.append(connection)
                continue
            session = connection.session
            if session is None:
                continue
            if session.unsettled:
                self._settle(connection, session, partial(pass_time, session, now_ns))
            elif connection.last_ns < spent_ns and is_spent(session):
                spent.append(connection)
            buffered += held_bytes(connection)
        for connection in quiet:
            self.counters.quiet += 1
            self._forget(connection)
        for connection in spent:
            self._forget(connection)
        if buffered > self.max_buffered_bytes:
            self._shed(buffered)

    def _shed(self, buffered: int) -> None:
        """End the sessions that hold most, until the rest is half of the bound."""
        for connection in sorted(self.connections.values(), key=held_bytes, reverse=True):
            session = connection.session
            if session is None or buffered <= self.max_buffered_bytes // 2:
                break
            buffered -= held_bytes(connection)
            self.counters.overfull += 1
            self._leave(connection, session)
            self._stop(connection)

    def _evict(self) -> None:
        """Forget the sixteenth that will be missed least, so that eviction is rare.

        Within one large batch those that have ended already may be most of the table.
        """
        while self._closing:
            self._end(self._closing.popleft())
        if len(self.connections) < self.max_connections:
            return
        oldest = sorted(self.connections.values(), key=worth)
        for connection in oldest[: max(1, len(oldest) // 16)]:
            self.counters.evicted += not is_spent(connection.session)
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        del self.connections[connection.cookie]
        self.ends.remove(connection)
        self._links.ended(connection)
        session = connection.session
        if session is not None:
            self._leave(connection, session)
        if isinstance(session, DatagramSession):
            # Nothing told that it is closed; if it speaks again, then with its record.
            self.source.advise(connection.cookie, Action.ANNOUNCE)
