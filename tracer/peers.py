# SPDX-License-Identifier: Apache-2.0
"""What to call the other end of an exchange.

In this order: the service that is seen there; the name that the request or the handshake had for
it (`Host`, SNI); the name that was last resolved to its address; of a database, that of the
database. An address is the last resort, and only for what serves: the address of a client is no
name of it.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from parsers.model import Transport
from tracer.names import Names
from tracer.span import DB_SYSTEM, Process, Span, SpanKind

MAX_JUDGED: Final = 4096
"""Texts of which it is remembered whether they are addresses."""


class Peers:
    """Names the other ends of spans."""

    __slots__ = ("_names",)

    def __init__(self, names: Names) -> None:
        self._names = names

    def name(self, span: Span, peer: Process | None) -> str:
        """The name of the other end; empty for a client without one."""
        if peer is not None:
            return peer.service_name
        peering = span.peering
        remote = peering.remote
        if span.kind is not SpanKind.CLIENT:
            return self._names.of(remote.address) or "" if remote.address else ""
        attributes = span.outline.attributes
        asked = attributes.get("server.address")
        if type(asked) is str and asked and not is_address(asked):
            return asked
        if peering.transport is Transport.UNIX:
            return remote.address or "unix"
        known = self._names.of(remote.address)
        if known:
            return known
        system = attributes.get(DB_SYSTEM)
        if system is not None:
            database = attributes.get("db.namespace")
            # Redis numbers its databases, which names nothing.
            is_named = isinstance(database, str) and not database.isdecimal()
            return f"{database} ({system})" if is_named else f"{system} at {_at(span)}"
        return _at(span)


@lru_cache(MAX_JUDGED)
def is_address(text: str) -> bool:
    """Whether `text` is an IP address and no name."""
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def _at(span: Span) -> str:
    """The address of the server, as a last resort."""
    remote = span.peering.remote
    address = f"[{remote.address}]" if ":" in remote.address else remote.address
    return f"{address}:{remote.port}" if address else "unknown"
