# SPDX-License-Identifier: Apache-2.0
"""What is asked and answered on a PostgreSQL connection.

A request here is what the server works on as one: a start-up, a simple query, a function call,
or a *unit* of the extended query protocol: Parse, Bind and Describe up to and with an Execute,
or up to the Sync or Flush that ends them without one.

Spec: PostgreSQL 17, "Message Flow" and "Message Formats".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

from parsers.model import Kind, Message

QUERY: Final = "Query"
EXECUTE: Final = "Execute"
FUNCTION_CALL: Final = "FunctionCall"
STARTUP: Final = "StartupMessage"
CANCEL: Final = "CancelRequest"
PARSE: Final = "Parse"
RUNS: Final = frozenset({QUERY, EXECUTE})
"""Operations that run a statement."""
PREPARES: Final = frozenset({PARSE, "Bind", "Describe"})
"""Operations of units that run none."""
MAX_EARLIER: Final = 64
"""Statements of a unit that are told apart when one is refused; drivers prepare as many at once."""


class Prefix(bytes):
    """The beginning of a statement whose rest was not read."""

    __slots__ = ()


class Batch:
    """The units between two Syncs: after an error the server skips the rest of them."""

    __slots__ = ("synced", "units")

    def __init__(self) -> None:
        self.units = 0
        """How many were seen so far."""
        self.synced = False
        """Its Sync was seen. After a Flush, a simple query may come without one."""


@dataclass(slots=True)
class PostgresqlRequest(Message):
    """A start-up, query, function call, cancellation, or unit."""

    kind: ClassVar[Kind] = Kind.REQUEST
    operation: str
    """Name of the protocol message that says what is to be done."""
    text: bytes | None
    """The statement, if it is known."""
    database: str
    """Empty if it is not known."""
    batch: Batch
    index: int
    """How many units of the batch come before."""
    replies: bytes
    """Tags of which the response begins with one."""
    until_ready: bool = False
    """Its response ends with ReadyForQuery: only that says the transaction's state."""
    steps: int = field(default=0, init=False)
    """How many replies the parts of a unit get, without that to Execute."""
    earlier: list[tuple[int, bytes | None]] = field(default_factory=list, init=False)
    """Statements before `text`, each with the number of steps before the next: clients prepare
    several before one Sync."""
    flushed: bool = field(default=False, init=False)
    """A Flush has ended the unit: nothing follows the replies."""
    given: int = field(default=0, init=False)
    """Passwords, and ends of COPY data, that the client has added."""
    answered: bool = field(default=False, init=False)
    """Its response has ended."""

    def turn_to(self, text: bytes | None) -> None:
        """The next parts of a unit are about `text`."""
        if self.steps and text is not self.text:
            before = self.text
            if len(self.earlier) >= MAX_EARLIER:
                self.earlier.pop()
                before = None
            self.earlier.append((self.steps, before))
        self.text = text

    def refuse(self, step: int) -> None:
        """The part after `step` others has failed: it may be about an earlier statement."""
        for stop, text in self.earlier:
            if step < stop:
                self.text = text
                self.operation = PARSE
                return


@dataclass(slots=True)
class PostgresqlResponse(Message):
    """All that the server says to one request."""

    kind: ClassVar[Kind] = Kind.RESPONSE
    request: PostgresqlRequest | None
    """None if it was not seen."""
    status: str = field(default="", init=False)
    """SQLSTATE of the error."""
    transaction: int = field(default=0, init=False)
    """Status indicator of ReadyForQuery: one of `ITE`; 0 if it did not end so."""
    aborted: bool = field(default=False, init=False)
    """The server has skipped the request, because of an error before it in its batch."""
    rows: int = field(default=0, init=False)
    """DataRows so far."""
    returns: bool = field(default=False, init=False)
    """It returns rows, if only none."""
    steps: int = field(default=0, init=False)
    """Replies to parts of a unit so far."""
    asked: int = field(default=0, init=False)
    """How often it asked for more of the request: COPY data or a password."""

    @property
    def lacks(self) -> bool:
        """Something that it asked for was not seen."""
        return self.request is not None and self.asked > self.request.given
