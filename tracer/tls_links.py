# SPDX-License-Identifier: Apache-2.0
"""What joins a socket that carries TLS with what is seen of it inside the library.

The plaintext of a TLS object is a connection of its own, whose open record names the socket
that carries it and no address. The socket's connection has the addresses, and what the
handshake said in clear: both belong to the spans of the plaintext. Either record may come
first, and the socket may become known in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from parsers.model import Exchange, Side, Transport
from tracer.connection import NOWHERE, Connection, TableCounters, turned
from tracer.events import INNER_BIT, LATE, OpenEvent
from tracer.span import TLS_IN_USE, Peering

PROTOCOL: Final = "tls"
"""Of handshakes in clear: they say what is known of a connection, and are no exchange of it."""
OF_TLS: Final = ("tls.", "wirespan.tls.")
ENCRYPTED: Final = "encrypted"
"""What a connection switches to once its hellos are done."""
MAX_ORPHANS: Final = 1024
"""Connections inside of a library that wait for the record of their socket."""


class TlsLinks:
    """Of all connections of one table."""

    def __init__(self, connections: Mapping[int, Connection], counters: TableCounters) -> None:
        self._connections = connections
        self._counters = counters
        self._orphans: dict[int, Connection] = {}
        """By the cookie of their socket."""

    def peering(self, event: OpenEvent) -> Peering:
        """The ends of what is seen inside a library: those of its socket, if that is known."""
        late = bool(event.flags & LATE)
        carrier = self._connections.get(event.carrier)
        if carrier is not None:
            return _inside(carrier, late=late)
        return Peering(Side(event.role), Transport.TCP, NOWHERE, NOWHERE, late, TLS_IN_USE)

    def link(self, connection: Connection, event: OpenEvent) -> None:
        """A record has come: join the connection with its socket, or with what it carries."""
        if event.carrier:
            self._unlink(connection, event.carrier)
            carrier = self._connections.get(event.carrier)
            if carrier is not None:
                carrier.carried = connection
            else:
                if len(self._orphans) >= MAX_ORPHANS:
                    del self._orphans[next(iter(self._orphans))]
                self._orphans[event.carrier] = connection
            return
        orphan = self._orphans.pop(connection.cookie, None) if self._orphans else None
        if orphan is not None:
            connection.carried = orphan
        self._hand_on(connection)

    def _unlink(self, connection: Connection, carrier_cookie: int) -> None:
        """Its socket was only likely, and is another."""
        former, connection.carrier = connection.carrier, carrier_cookie
        if former in {0, carrier_cookie}:
            return
        self._orphans.pop(former, None)
        carrier = self._connections.get(former)
        if carrier is not None and carrier.carried is connection:
            carrier.carried = None

    def encrypted(self, connection: Connection) -> None:
        """Its hellos are done; what follows on this socket nobody can read."""
        self._counters.encrypted += 1
        if connection.tls is None:
            connection.tls = TLS_IN_USE
        self._hand_on(connection)

    def learn(self, connection: Connection, exchange: Exchange) -> bool:
        """Keep what a handshake said; True if it has failed, which is worth a span."""
        session = connection.session
        parser = exchange.parser or (None if session is None else session.parser)
        assert parser is not None
        peering = connection.peering
        outline = parser.outline(exchange, peering.side, peering.server)
        # Its other attributes are those of an exchange, and theirs to say.
        connection.tls = {
            key: value for key, value in outline.attributes.items() if key.startswith(OF_TLS)
        }
        self._hand_on(connection)
        # Whatever is missing of a handshake: where data has come through it has worked.
        has_failed = outline.error_type is not None and not _has_spoken(connection.carried)
        if not has_failed and session is not None and session.parser is parser:
            session.give_up(ENCRYPTED)
        return has_failed

    def ended(self, connection: Connection) -> None:
        """Count it if nobody has seen what it carried."""
        is_seen = connection.carried is not None or connection.kernel_tls
        self._counters.sealed += connection.tls is not None and not is_seen

    def count(self, connection: Connection, exchanges: int) -> None:
        """Count exchanges that have no address, since their socket is not known."""
        if connection.cookie & INNER_BIT and connection.peering.local is NOWHERE:
            self._counters.unbound += exchanges

    @staticmethod
    def _hand_on(carrier: Connection) -> None:
        inner = carrier.carried
        if inner is not None:
            side = inner.peering.side or carrier.peering.side
            inner.peering = turned(_inside(carrier, late=inner.peering.late), side)


def _has_spoken(inner: Connection | None) -> bool:
    """Whether anything was seen of what a socket carries."""
    if inner is None:
        return False
    session = inner.session
    return session is None or session.parser is not None or session.buffered_bytes > 0


def kernel_tls(connection: Connection) -> None:
    """From here on the kernel does TLS for the socket, so that what is seen of it is plaintext."""
    connection.kernel_tls = True
    connection.peering = replace(connection.peering, tls=connection.tls or TLS_IN_USE)


def _inside(carrier: Connection, *, late: bool) -> Peering:
    return replace(carrier.peering, late=late, tls=carrier.tls or TLS_IN_USE)
