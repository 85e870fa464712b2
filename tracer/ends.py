# SPDX-License-Identifier: Apache-2.0
"""Which two sockets of this machine are the two ends of one connection.

A TCP connection is known by its two addresses at both ends, so the other end is the socket that
has them the other way round. The two are linked when the record of the second one comes, and stay
so: both may have ended, and their addresses be another connection's, by the time that what they
said is a span. A datagram socket that is not connected has many other ends, and each is looked up
by its own address.

Loopback addresses mean something else in each network namespace. All others are taken to be the
machine's own, since what crosses a pair of virtual interfaces has the same addresses on both
sides; where two namespaces have the same ones at the same time, nothing is linked. What address
translation changes on the way is not found here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from parsers.model import Endpoint, Transport
from tracer.connection import NOWHERE, Connection
from tracer.span import Peering

MAX_ENDS: Final = 32_768
"""Sockets by address; about 300 bytes each."""
MAX_ADDRESSES: Final = 4096
"""Of the machine's own; what is in use comes back at once."""
AMBIGUOUS: Final = 0
"""In place of a cookie: sockets of two namespaces have these addresses."""

Key = tuple[Transport, int, Endpoint, Endpoint]
"""Transport, network namespace (0: any), own address, the other end's."""


class Ends:
    """The sockets that were seen, by their addresses."""

    __slots__ = ("_addresses", "_connections", "_cookies", "_max_ends")

    def __init__(self, connections: Mapping[int, Connection], max_ends: int = MAX_ENDS) -> None:
        self._connections = connections
        self._cookies: OrderedDict[Key, int] = OrderedDict()
        self._addresses: set[tuple[int, str]] = set()
        """That sockets of a network namespace are bound to: they are its own."""
        self._max_ends = max_ends

    def add(self, connection: Connection) -> None:
        """The addresses of a socket are known: link it with its other end, if that is here."""
        key = _key(connection)
        if key is None:
            return
        transport, scope, local, remote = key
        if local.address:
            if len(self._addresses) >= MAX_ADDRESSES:
                self._addresses.clear()
            self._addresses.add((connection.netns, local.address))
        self._note(connection, key)
        if transport is not Transport.TCP:
            return
        _link(connection, self._alive((transport, scope, remote, local)))

    def remove(self, connection: Connection) -> None:
        """A socket is not watched any more; what it is linked with stays so."""
        key = _key(connection)
        if key is not None and self._cookies.get(key) == connection.cookie:
            del self._cookies[key]

    def other(self, connection: Connection, peering: Peering) -> Connection | None:
        """The socket at the other end of `peering`; None if it was not seen here.

        Of what is inside TLS it is what was seen inside TLS there.
        """
        if connection.other is not None:
            return connection.other
        if connection.carrier:
            return self._inner(connection)
        remote = peering.remote
        if peering.transport is not Transport.UDP or not remote.port:
            return None
        found = self._alive((Transport.UDP, _scope(connection, remote), remote, NOWHERE))
        if found is None and self.is_here(connection, remote):
            # One that is bound to no address has that port at all of its namespace's.
            anywhere = Endpoint("", remote.port)
            found = self._alive((Transport.UDP, connection.netns, anywhere, NOWHERE))
        return None if found is connection else found

    def is_here(self, connection: Connection, end: Endpoint) -> bool:
        """Whether an address is known to be one of the connection's own namespace."""
        return _scope(connection, end) != 0 or (connection.netns, end.address) in self._addresses

    def _note(self, connection: Connection, key: Key) -> None:
        """The newest socket with these addresses is the one that counts, and goes last."""
        former = self._alive(key)
        cookies = self._cookies
        cookies.pop(key, None)
        if len(cookies) >= self._max_ends:
            cookies.popitem(last=False)
        is_alone = former is None or former.netns == connection.netns
        cookies[key] = connection.cookie if is_alone else AMBIGUOUS

    def _alive(self, key: Key) -> Connection | None:
        return self._connections.get(self._cookies.get(key, AMBIGUOUS))

    def _inner(self, connection: Connection) -> Connection | None:
        """Link what is seen inside TLS with what is seen inside at the other end."""
        carrier = self._connections.get(connection.carrier)
        if carrier is None or carrier.other is None:
            return None
        _link(connection, carrier.other.carried)
        return connection.other


def _link(connection: Connection, other: Connection | None) -> None:
    # One that has its other end is an older connection with the same addresses.
    if other is not None and other is not connection and other.other is None:
        connection.other, other.other = other, connection


def _key(connection: Connection) -> Key | None:
    """By what a socket is found; None if it has no address."""
    peering = connection.peering
    local = peering.local
    if local is NOWHERE or not local.port or connection.carrier:
        return None
    remote = peering.remote if peering.transport is Transport.TCP else NOWHERE
    return peering.transport, _scope(connection, local), local, remote


def _scope(connection: Connection, end: Endpoint) -> int:
    """The namespace that an address has its meaning in; 0 if it has one on the whole machine."""
    address = end.address
    if address.startswith("127.") or address in {"::1", ""}:
        return connection.netns
    return 0
