# SPDX-License-Identifier: Apache-2.0
"""The terms that parsers, the tracer and exporters share.

A parser cuts the bytes of one connection into *messages*; the session pairs them
into *exchanges*; a parser's `outline` says what an exchange means in the words of
the OpenTelemetry semantic conventions.

Terms: RFC 9110 section 3.9 ("exchange"), OpenTelemetry semantic conventions 1.44.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from parsers.reader import Reader

AttributeValue = str | bool | int | float | Sequence[str]
"""What an OpenTelemetry attribute may hold here."""


class ParseError(Exception):
    """These bytes cannot be the start of a message: the data's fault, not the parser's."""


class Kind(IntEnum):
    """Which way a message goes."""

    REQUEST = 0
    RESPONSE = 1


class Side(IntEnum):
    """What the traced process is on a connection; values are `enum ws_role`."""

    UNKNOWN = 0
    CLIENT = 1
    SERVER = 2


class Transport(IntEnum):
    """Values are `enum ws_transport`."""

    TCP = 1
    UDP = 2
    UNIX = 3


class Likeness(IntEnum):
    """How much some first bytes look like a protocol."""

    NO = 0
    """They cannot be."""
    SHORT = 1
    """Too few bytes to say; nothing speaks against it."""
    LIKELY = 2
    """They could be, and so could something else: the other direction must agree."""
    CERTAIN = 3
    """Nothing else begins like this."""


class Completeness(Enum):
    """What an exchange knows of itself."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    """A head was longer than the snap length: attributes past the cut are missing."""
    GAP = "gap"
    """Bytes of it were lost or never seen; what it says is right, but not all."""
    LATE_ATTACH = "late_attach"
    """The first on a connection older than the tracer: it may have begun before."""
    UNANSWERED = "unanswered"
    """The connection ended, or patience did, before a response."""


class Endpoint(NamedTuple):
    """One end of a connection: an address in text and a port, or a path and 0."""

    address: str
    port: int


@dataclass(slots=True)
class Message:
    """One request or response. Parsers subclass it with the fields of their protocol.

    The session fills in the extent; a parser leaves it alone.
    """

    kind: ClassVar[Kind]
    correlation_id: int | None = field(default=None, init=False)
    """Set where a protocol matches by id and not by order."""
    interim: bool = field(default=False, init=False)
    """A response that does not end its exchange (HTTP 1xx)."""
    switches_to: str | None = field(default=None, init=False)
    """Name of the protocol that the connection speaks after this message."""
    open: bool = field(default=False, init=False)
    """The parser has yet to find the end of it. The session clears it where the rest is lost."""
    truncated: bool = field(default=False, init=False)
    """The end of the head was not captured."""
    first_ns: int = field(default=0, init=False)
    """CLOCK_BOOTTIME of the transfer that carried the first byte."""
    last_ns: int = field(default=0, init=False)
    """CLOCK_BOOTTIME of the transfer that carried the last byte so far."""
    size: int = field(default=0, init=False)
    """Bytes on the wire so far, head and body."""
    turn: int = field(default=0, init=False)
    """The connection's turn that brought the end of its head."""
    gap: bool = field(default=False, init=False)
    """Bytes of it were lost."""


@dataclass(slots=True)
class Exchange:
    """A request with its response, or with none."""

    protocol: str
    request: Message
    response: Message | None
    completeness: Completeness
    error_type: str | None = None
    """Why there is no whole response: `connection_reset`, `connection_closed`, `timeout`."""


@dataclass(slots=True, frozen=True, eq=False)
class Outline:
    """What an exchange means. Shared by all exchanges that mean the same.

    Exporters cache by identity, so a parser hands out the same object again where
    it can, and nobody changes it.
    """

    name: str
    """Span name, of low cardinality."""
    attributes: Mapping[str, AttributeValue]
    error_type: str | None
    """Set exactly when the span's status is an error."""
    client_address: str | None = None
    """Who asked, where the message names it (`X-Forwarded-For`), else None."""


@dataclass(slots=True, frozen=True)
class Options:
    """What a user may ask of every parser."""

    redact: bool = True
    """Replace secrets and literals in attributes."""
    http_methods: frozenset[str] | None = None
    """HTTP methods that are known, where the user says so
    (`OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`); None for those of the conventions."""


class Parser(Protocol):
    """One protocol on one connection. See parsers/README.md for the rules.

    An instance lives as long as its connection and keeps what the protocol makes it
    keep. Besides `ParseError` no exception may leave it.
    """

    name: ClassVar[str]
    """The OpenTelemetry name of the protocol."""
    transports: ClassVar[frozenset[Transport]]
    ports: ClassVar[frozenset[int]]
    """Server ports that break a tie between parsers; never proof."""

    def __init__(self, options: Options) -> None: ...

    @staticmethod
    def probe(head: bytes, kind: Kind) -> Likeness:
        """How much `head` looks like the start of a message.

        It is asked of the first bytes of a connection, of those of a turn where the session has
        to find a message again, and while `head` is still growing.
        """
        ...

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message | None:
        """Read one message, or the next part of one.

        Returns the message as soon as it says what it is. While its `open` is true the
        session calls again for the rest; the parser then returns None and clears `open`
        at the end. `request` is the oldest request without a response.

        Raises:
            ParseError: the bytes cannot start a message.
        """
        ...

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        """What `exchange` means, seen from `side`; `server` is the socket's server end."""
        ...
