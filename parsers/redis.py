# SPDX-License-Identifier: Apache-2.0
r"""Redis: RESP2, RESP3 and inline commands.

Spec: https://redis.io/docs/latest/develop/reference/protocol-spec/, and of the commands that
change how a connection is answered: /develop/pubsub/, /commands/client-reply/,
/commands/client-tracking/, /commands/monitor/, /commands/psync/.
OTel: https://opentelemetry.io/docs/specs/semconv/db/redis/ (1.44.0).

Where the conventions leave a choice:

* `db.operation.name` is the command as sent; a container's with its subcommand (`CONFIG GET`),
  which is what Redis calls the command.
* Each command of a transaction has a reply (`QUEUED`) and so an exchange of its own. EXEC's tells
  how many commands it ran, if not one (`db.operation.batch.size`), and fails with the first error
  among their results: clients raise it, and no other exchange would show it. A transaction that
  was aborted by WATCH has no batch size and is no error.
* `db.namespace` is the database in which a command ran, as far as that is known: not on
  connections that were joined late or damaged, before the next SELECT or RESET.
* `error.type` is the prefix of the error, and `_OTHER` if it has none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Final

from parsers.cache import Cache
from parsers.model import (
    Endpoint,
    Exchange,
    Kind,
    Likeness,
    Message,
    Options,
    Outline,
    Side,
    Transport,
)
from parsers.reader import Reader
from parsers.redis_commands import Command, Role
from parsers.redis_outline import DEFAULT_PORT, describe
from parsers.redis_probe import probe_request, probe_response
from parsers.redis_pushes import (
    KINDS,
    MESSAGES,
    UNKNOWN_COUNTS,
    Counts,
    count,
    first_word,
    pass_monitored,
    read_total,
    refuse_acknowledgement,
)
from parsers.redis_replies import read_values
from parsers.redis_requests import pass_arguments, read_head

REPLICATION: Final = "redis-replication"
"""What a connection speaks behind PSYNC: a stream of commands that nobody answers."""

REQUEST: Final = Kind.REQUEST
LISTENING: Final = frozenset({Role.SUBSCRIBE, Role.LISTEN, Role.RESET})
"""Commands that a subscribed connection of RESP2 may send."""
HEADER: Final = re.compile(rb"[*~]([0-9]{1,9})\r\n")
"""How the results of a transaction begin."""

_outlines: Cache[tuple[object, ...], Outline] = Cache()
"""By everything they depend on: exchanges that mean the same share one."""


@dataclass(slots=True)
class RedisRequest(Message):
    """A command."""

    kind: ClassVar[Kind] = Kind.REQUEST
    command: Command
    namespace: str | None = field(default=None, init=False)
    """Set where there will be no reply to tell it."""
    expected: int = field(default=0, init=False)
    """Replies that this is answered with, once that is known."""
    confirmed: int = field(default=0, init=False)
    """How many of them have come."""


@dataclass(slots=True)
class RedisReply(Message):
    """The reply to a command, or to one of its channels."""

    kind: ClassVar[Kind] = Kind.RESPONSE
    namespace: str | None
    """Index of the database that the command worked on."""
    error: str = field(default="", init=False)
    batch: int = field(default=-1, init=False)
    """Commands that EXEC ran."""


class RedisParser:
    """Redis on one connection."""

    name: ClassVar[str] = "redis"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP, Transport.UNIX})
    ports: ClassVar[frozenset[int]] = frozenset({DEFAULT_PORT})
    whole: ClassVar[bool] = True

    __slots__ = (
        "_asked",
        "_asking",
        "_command",
        "_counts",
        "_database",
        "_left",
        "_mute",
        "_queued",
        "_redact",
        "_reply",
        "_skip",
        "_stack",
        "_unanswered",
    )

    def __init__(self, options: Options) -> None:
        self._redact = options.redact
        self._database: str | None = "0"
        self._queued: str | None = None
        """The database that EXEC will select."""
        self._asked = False
        """There has been a command."""
        self._unanswered = False
        """Joined late, and no reply has been seen so far."""
        self._asking: RedisRequest | None = None
        """The request whose arguments are being passed over, while it is open."""
        self._left = 0
        """Arguments of it that are still to come."""
        self._mute: bool | None = False
        """CLIENT REPLY OFF; None where the end of it may have been lost."""
        self._skip = False
        """CLIENT REPLY SKIP: the next command is not answered."""
        self._stack: list[int] = []
        """What is still to come of a reply or push (parsers/redis_replies.py)."""
        self._reply: RedisReply | None = None
        """The reply that `_stack` belongs to; None if it is a push."""
        self._command: Command | None = None
        """What it answers."""
        self._counts: Counts = (0, 0, 0)
        """Subscribed channels, patterns and shard channels."""

    @staticmethod
    def probe(head: bytes, kind: Kind) -> Likeness:
        """Certain of an array that begins with a command; lines must be known ones."""
        return probe_request(head) if kind is REQUEST else probe_response(head)

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message | None:
        """A command, a reply, a pushed message, or the next part of one."""
        if reader.resumed:
            self._forget(kind)
        if kind is REQUEST:
            return self._parse_request(reader)
        if self._stack:
            reply = self._reply
            if reply is None or reply.open:
                self._read_on(reader, reply)
                return None
            self._stack = []
        return self._parse_reply(reader, request if isinstance(request, RedisRequest) else None)

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        """Redis client span, by the conventions; the server's has the same attributes."""
        request = exchange.request
        reply = exchange.response
        assert isinstance(request, RedisRequest)
        command = request.command
        namespace, error, batch = request.namespace, "", -1
        if isinstance(reply, RedisReply):
            namespace, error, batch = reply.namespace, reply.error, reply.batch
        key = (command, namespace, error, batch, exchange.error_type, server)
        outline = _outlines.get(key)
        if outline is None:
            outline = describe(command, namespace, error, batch, exchange.error_type, server)
            _outlines.keep(key, outline, 1000 + 2 * len(command.text))
        return outline

    def _forget(self, kind: Kind) -> None:
        """Bytes of a direction were lost or never seen: there may have been a SELECT."""
        self._database = None
        self._queued = None
        self._counts = UNKNOWN_COUNTS
        if not self._asked:
            self._asked = self._unanswered = True
        if kind is not REQUEST:
            self._stack = []
        else:
            # What would have been skipped is lost.
            self._skip = False
            self._mute = None if self._mute else self._mute

    # -- requests ---------------------------------------------------------------------

    def _parse_request(self, reader: Reader) -> RedisRequest | None:
        asking = self._asking
        if asking is not None:
            if asking.open:
                self._left = pass_arguments(reader, self._left)
                asking.open = self._left > 0
                return None
            self._asking = None
        command, left = read_head(reader, redact=self._redact)
        if command is None:
            return None
        self._asked = True
        request = RedisRequest(command)
        if left:
            # The session calls again at once if any of them are here.
            request.open = True
            self._asking = request
            self._left = left
        if command.role or self._mute is not False or self._skip:
            self._consider(request, command.role)
        return request

    def _consider(self, request: RedisRequest, role: Role) -> None:
        """A command that changes how commands are answered, or one that is not."""
        skip, self._skip = self._skip, False
        if role in {Role.REPLY_ON, Role.RESET}:
            self._mute = False
            return
        if role is Role.ACK:
            # It was no client's connection: nothing on it is asked or answered.
            request.interim = True
            request.switches_to = REPLICATION
        elif role is Role.REPLY_OFF:
            self._mute = True
        elif role is Role.REPLY_SKIP:
            self._skip = not self._mute
            skip = True
        if self._mute is not False or skip:
            request.one_way = True
            request.gap = self._mute is None
            request.namespace = self._database
            if role is Role.SELECT:
                self._database = None

    # -- replies ----------------------------------------------------------------------

    def _parse_reply(self, reader: Reader, request: RedisRequest | None) -> RedisReply | None:
        data = reader.data
        start = reader.position
        tag = data[start : start + 1]
        command = None if request is None else request.command
        role = Role.NONE if command is None else command.role
        if tag in b"+\n-$":
            if tag == b"+" and pass_monitored(reader):
                return None
            if role is Role.SYNC:
                return self._parse_sync(reader)
            if tag == b"-" and request is None and not self._asked:
                # A server that refuses clients says so before it is asked.
                self._push(reader, keep=False)
                return None
        elif tag == b">" or (tag == b"*" and (command is None or role in LISTENING)):
            word = first_word(reader)
            if word in KINDS:
                if request is not None and command is not None and command.word == word:
                    return self._confirm(reader, request, KINDS[word])
                self._counts = UNKNOWN_COUNTS
            if tag == b">" or word in MESSAGES or word in KINDS:
                self._push(reader, keep=word in MESSAGES or word in KINDS)
                return None
            if word == b"REPLCONF":
                # A master asks its replica: nobody was a client here.
                reply = RedisReply(None)
                reply.interim = True
                reply.switches_to = REPLICATION
                self._push(reader, keep=True)
                return reply
        if request is None and self._mute is None:
            # Somebody is answered again.
            self._mute = False
        if self._unanswered:
            if tag == b"*":
                refuse_acknowledgement(reader)
            self._unanswered = False
        status = data[start : start + 9] if tag == b"+" else b""
        reply = RedisReply(self._database)
        batch = -1
        if role is Role.EXEC:
            match = HEADER.match(data, start)
            batch = int(match[1]) if match is not None else -1
        stack = [1]
        reply.error = read_values(reader, stack, 2 if role is Role.EXEC else 1)
        reply.batch = batch
        self._command = command
        if stack:
            reply.open = True
            self._stack = stack
            self._reply = reply
        elif role:
            self._settle(reply, role, command, status)
        return reply

    def _push(self, reader: Reader, *, keep: bool) -> None:
        """Begin to read a value that is no reply; `keep` its first word, which was read."""
        stack = [1]
        read_values(reader, stack, 0)
        if keep and reader.marking:
            del reader.omitted[0]
        self._stack = stack
        self._reply = None

    def _read_on(self, reader: Reader, reply: RedisReply | None) -> None:
        """The next elements of what has begun."""
        command = self._command
        role = Role.NONE if reply is None or command is None else command.role
        stack = self._stack.copy()
        error = read_values(reader, stack, 2 if role is Role.EXEC else 1)
        self._stack = stack
        if reply is None:
            return
        reply.error = reply.error or error
        if not stack:
            reply.open = False
            self._reply = None
            if role:
                self._settle(reply, role, command, b"")

    def _settle(
        self, reply: RedisReply, role: Role, command: Command | None, status: bytes
    ) -> None:
        """A whole reply to a command that changes something."""
        if role is Role.SELECT and command is not None:
            if status.startswith(b"+OK\r"):
                self._database = str(command.number)
            elif status.startswith(b"+QUEUED\r"):
                self._queued = str(command.number)
        elif role is Role.RESET and status.startswith(b"+RESET\r"):
            self._database = "0"
            self._queued = None
            self._counts = (0, 0, 0)
        elif role in {Role.EXEC, Role.DISCARD}:
            if self._queued is not None and reply.batch >= 0:
                # If anything failed, that may have been the SELECT.
                self._database = None if reply.error else self._queued
            self._queued = None

    def _parse_sync(self, reader: Reader) -> RedisReply | None:
        """The answer to a replica: from then on it is sent what others change."""
        tag = reader.data[reader.position : reader.position + 1]
        if tag == b"\n":
            # While the snapshot is made, the replica is kept waiting with these.
            reader.position += 1
            return None
        reply = RedisReply(self._database)
        if tag == b"$":
            # SYNC knows no status: the snapshot itself follows.
            reader.line(64)
        else:
            reply.error = read_values(reader, [1], 1)
        if not reply.error:
            reply.switches_to = REPLICATION
        return reply

    def _confirm(self, reader: Reader, request: RedisRequest, kind: int) -> RedisReply:
        """One of the replies to a subscription, which has one for each channel."""
        total = read_total(reader)
        expected = request.expected or request.command.number or max(self._counts[kind], 1)
        counts = count(self._counts, kind, total)
        reply = RedisReply(self._database)
        # It was not seen how many there would be.
        reply.gap = not request.command.number and self._counts[kind] < 0 and total != 0
        self._push(reader, keep=True)
        if total >= 0 and reader.marking:
            # The number, which was read.
            reader.replaced.pop()
        self._counts = counts
        request.expected = expected
        request.confirmed += 1
        reply.interim = request.confirmed < expected
        return reply
