# SPDX-License-Identifier: Apache-2.0
"""The terms that parsers, the tracer and exporters share.

A parser cuts the bytes of one connection into *messages*; the session pairs them
into *exchanges*; a parser's `outline` says what an exchange means in the words of
the OpenTelemetry semantic conventions.

Terms: RFC 9110 section 3.9 ("exchange"), OpenTelemetry semantic conventions 1.44.0.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
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
    protocol: ClassVar[str] = ""
    """Name of what its exchange speaks, where that is more than the parser's name (gRPC)."""
    correlation_id: Hashable | None = field(default=None, init=False)
    """Set where a protocol matches by id and not by order. Messages with an id may be open at
    the same time, their parts interleaved."""
    one_way: bool = field(default=False, init=False)
    """A request that nothing will answer."""
    answers: int = field(default=1, init=False)
    """How many of the oldest requests a response is to."""
    ends: bool = field(default=False, init=False)
    """Nothing more of its exchange will come, in either direction (RST_STREAM). Needs an id."""
    resends: int = field(default=0, init=False)
    """How often a request with an id was sent again before it was answered."""
    count: int = field(default=-1, init=False)
    """Rows, elements or messages in it, where somebody counts them; see `Outline.counts`."""
    interim: bool = field(default=False, init=False)
    """It makes no exchange: a response that is followed by another to the same request
    (HTTP 1xx), or a request that only prepares the connection."""
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
    position: int = field(default=0, init=False)
    """Of its first byte in its direction, modulo 2**32: the same at both ends of a connection."""
    gap: bool = field(default=False, init=False)
    """Bytes of it were lost. A parser sets it where it knows of such a loss alone."""


@dataclass(slots=True)
class Exchange:
    """A request with its response, or with none."""

    protocol: str
    request: Message
    response: Message | None
    completeness: Completeness
    error_type: str | None = None
    """Why there is no whole response: `connection_reset`, `connection_closed`, `timeout`."""
    side: Side | None = None
    """What the traced process is in it, where that is not the connection's."""
    remote: Endpoint | None = None
    """Who the other end is, where a socket has many."""
    parser: Parser | None = field(default=None, repr=False)
    """Who describes it, where the connection has gone on to another protocol since."""


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
    counts: tuple[str, str] = ("", "")
    """Attribute keys of the request's and the response's `count`; empty where it is none."""


@dataclass(slots=True, frozen=True)
class Options:
    """What a user may ask of every parser."""

    redact: bool = True
    """Replace secrets and literals in attributes."""
    encrypted: bool = False
    """What is parsed crosses the wire in TLS: not for a user to say."""
    before: Parser | None = None
    """What the connection spoke in clear before TLS began: not for a user to say either."""
    http_methods: frozenset[str] | None = None
    """HTTP methods that are known, where the user says so
    (`OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`); None for those of the conventions."""


class Parser(Protocol):
    """One protocol on one connection. See parsers/README.md for the rules.

    An instance lives as long as its connection and keeps what the protocol makes it
    keep. Besides `ParseError` no exception may leave it.

    Two more class attributes may be there. `refinements`, a frozenset of names: what
    `Message.protocol` of its messages may say. `multiplexed`, a bool: parts of many messages,
    each with an id, come interleaved, so that a turn may begin inside of a part and framing
    may be found again within one.
    """

    name: ClassVar[str]
    """The OpenTelemetry name of the protocol."""
    transports: ClassVar[frozenset[Transport]]
    ports: ClassVar[frozenset[int]]
    """Server ports that break a tie between parsers; never proof."""
    whole: ClassVar[bool]
    """Many messages follow each other in one transfer, so the beginning of it is not enough."""

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

        Returns the message that the bytes belong to: a new one as soon as it says what it is,
        or one returned before, which they extend. None stands for the one that is open, or
        for none if none is. While a message's `open` is true more of it is to come; the parser
        clears it with the last part. `request` is the oldest request without a response,
        where responses come in order.

        Raises:
            ParseError: the bytes cannot start a message.
        """
        ...

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        """What `exchange` means, seen from `side`; `server` is the socket's server end."""
        ...
