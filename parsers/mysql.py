# SPDX-License-Identifier: Apache-2.0
"""MySQL and MariaDB: commands with their responses, and the login as one exchange.

Spec: MySQL "Client/Server Protocol" (source code documentation); MariaDB "Client/Server
Protocol". OTel: parsers/mysql_attributes.py.

The first packet of either side's turn has a sequence number that says what it can be: 0 begins
a command or a connection, 1 answers. Beyond that all is told by lengths, so values are skipped:
rows, parameters, files. A login is the client's response to the greeting with all rounds of
authentication, and what the server says in the end. Inside of TLS a connection begins with that
response, as number 2: the greeting was in clear.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

from parsers.model import (
    Endpoint,
    Exchange,
    Kind,
    Likeness,
    Message,
    Options,
    Outline,
    ParseError,
    Side,
    Transport,
)
from parsers.mysql_attributes import Asked, outline_of
from parsers.mysql_packets import (
    ANY_SEQUENCE,
    EOF,
    EOF_BYTES,
    ERR,
    GREETING,
    WORD,
    MysqlReply,
    Step,
)
from parsers.mysql_probe import probe_request, probe_response
from parsers.mysql_queries import Query, Statements, read_query
from parsers.mysql_replies import read_reply
from parsers.mysql_wire import (
    BINLOG_DUMP,
    BINLOG_DUMP_GTID,
    CHANGE_USER,
    CLIENT_COMPRESS,
    CLIENT_SECURE_CONNECTION,
    CLIENT_ZSTD,
    CLONE,
    COMMANDS,
    CONNECT,
    DROP_DB,
    FIELD_LIST,
    HEADER_BYTES,
    INIT_DB,
    LAST_PREPARED,
    LOGIN_NUMBERS,
    MAX_PAYLOAD_BYTES,
    QUERY,
    QUIT,
    RESET_CONNECTION,
    STATISTICS,
    STMT_BULK_EXECUTE,
    STMT_CLOSE,
    STMT_EXECUTE,
    STMT_FETCH,
    STMT_PREPARE,
    STMT_SEND_LONG_DATA,
    UNSEEN_GREETING,
    Greeting,
    deprecates_eof,
    read_change_user,
    read_greeting,
    read_login,
)
from parsers.reader import Reader

REQUEST: Final = Kind.REQUEST
UNKNOWN_STATEMENT: Final = 1243
"""ER_UNKNOWN_STMT_HANDLER"""
UNANSWERED: Final = frozenset({QUIT, STMT_CLOSE, STMT_SEND_LONG_DATA})
TEXTS: Final = frozenset({QUERY, STMT_PREPARE})
RUNS: Final = frozenset({QUERY, STMT_EXECUTE})
LOGINS: Final = frozenset({CONNECT, CHANGE_USER})
BY_NUMBER: Final = frozenset({STMT_EXECUTE, STMT_BULK_EXECUTE, STMT_FETCH})
STEPS: Final = {
    FIELD_LIST: Step.FIELDS,
    STATISTICS: Step.TEXT,
    CONNECT: Step.LOGIN,
    CHANGE_USER: Step.LOGIN,
    BINLOG_DUMP: Step.EVENTS,
    BINLOG_DUMP_GTID: Step.EVENTS,
    STMT_PREPARE: Step.PREPARED,
    STMT_FETCH: Step.ROWS,
}
"""How the response to a command begins, where not like that to a query."""


@dataclass(slots=True)
class MysqlRequest(Message):
    """A command, or the login."""

    kind: ClassVar[Kind] = Kind.REQUEST
    command: int
    system: str
    namespace: str
    """The current database; empty if none is, or if that is not known."""
    query: Query | None = field(default=None, init=False)
    database: str | None = field(default=None, init=False)
    """Current once it has succeeded."""
    drops: str | None = field(default=None, init=False)
    """A database that is gone then; empty if it may be any."""
    packets: int = field(default=1, init=False)
    """How many it came in: the response goes on with the number of the next."""


class MysqlParser:
    """MySQL's protocol on one connection."""

    name: ClassVar[str] = "mysql"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP, Transport.UNIX})
    ports: ClassVar[frozenset[int]] = frozenset({3306})
    whole: ClassVar[bool] = True

    __slots__ = (
        "_answered",
        "_authenticates",
        "_changing",
        "_client_capabilities",
        "_deprecates_eof",
        "_greeted",
        "_in_file",
        "_large",
        "_namespace",
        "_prepared",
        "_redact",
        "_reply",
        "_sending",
        "_statements",
        "greeting",
    )

    def __init__(self, options: Options) -> None:
        self._redact = options.redact
        clear = options.before
        self.greeting: Greeting = (
            clear.greeting if isinstance(clear, MysqlParser) else UNSEEN_GREETING
        )
        """What is known of the server."""
        self._client_capabilities = CLIENT_SECURE_CONNECTION
        self._greeted = False
        """The greeting was the last that was seen."""
        self._deprecates_eof: bool | None = None
        self._namespace = ""
        self._changing = False
        """A command is under way after which another database may be current."""
        self._statements = Statements()
        self._prepared: Query | None = None
        """What was asked to be prepared last."""
        self._sending: MysqlRequest | None = None
        """The request that goes on in the client's next packet, while `_large`."""
        self._large = False
        self._authenticates = False
        """The client's packets that are no commands are rounds of authentication."""
        self._in_file = False
        """The client is sending a file, up to an empty packet."""
        self._reply: MysqlReply | None = None
        self._answered: MysqlRequest | None = None
        """The request of `_reply`."""

    @staticmethod
    def probe(head: bytes, kind: Kind) -> Likeness:
        """Lengths, numbers and what commands and responses begin with."""
        return probe_request(head) if kind is REQUEST else probe_response(head)

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message | None:
        """A command, or as many packets of a response as are there."""
        if kind is REQUEST:
            return self._parse_request(reader)
        return self._parse_response(reader, request)

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        """A database span, by the conventions."""
        request = exchange.request
        reply = exchange.response
        assert isinstance(request, MysqlRequest)
        namespace, code, sqlstate = request.namespace, 0, ""
        if isinstance(reply, MysqlReply):
            code, sqlstate = reply.code, reply.sqlstate
            if reply.namespace is not None:
                namespace = reply.namespace
            elif request.command != CONNECT and (request.database, request.drops) != (None, None):
                # Whether it has come to that is lost.
                namespace = ""
        asked = Asked(request.command, request.system, namespace, server, self._redact)
        # What the server does not know was closed or reset, and that was lost.
        query = request.query if code != UNKNOWN_STATEMENT else None
        return outline_of(asked, query, code, sqlstate, exchange.error_type)

    # -- the client -------------------------------------------------------------------

    def _parse_request(self, reader: Reader) -> Message | None:
        if reader.resumed:
            self._large = self._in_file = self._authenticates = False
            self._prepared = None
            self._namespace = ""
        word = reader.u32le()
        self._greeted = False
        size, sequence = word & MAX_PAYLOAD_BYTES, word >> 24
        if self._large:
            return self._continue(reader, size, sequence)
        if self._in_file or (sequence and self._authenticates):
            # Of a file, or a round of authentication. It counts for nobody: what was lost of it
            # would not show.
            reader.skip(size)
            self._in_file = self._in_file and size > 0
            return None
        if sequence in LOGIN_NUMBERS:
            return self._log_in(reader, reader.position + size, sequence)
        if sequence or not size:
            raise ParseError(f"packet {sequence} of {size} bytes")
        return self._command(reader, size)

    def _continue(self, reader: Reader, size: int, sequence: int) -> Message | None:
        """The next packet of a command that did not fit into one."""
        message = self._sending
        if not sequence:
            raise ParseError("a command inside of another")
        reader.skip(size)
        self._large = size == MAX_PAYLOAD_BYTES
        if message is not None:
            message.packets += 1
            message.open = self._large
        return message

    def _command(self, reader: Reader, size: int) -> Message | None:
        stop = reader.position + size
        code = reader.u8()
        command = COMMANDS.get(code)
        if command is None or not command.least <= size <= command.most:
            raise ParseError(f"command {code} of {size} bytes")
        namespace = "" if self._changing else self._namespace
        message = MysqlRequest(code, self.greeting.system, namespace)
        if code in TEXTS:
            query, message.truncated = read_query(reader, size - 1)
            message.query = query
            if code == STMT_PREPARE:
                self._prepared = query
        elif code in BY_NUMBER:
            number = reader.u32le()
            # What the probe looks at has to be in a recording.
            reader.take(min(5, size - 5))
            reader.skip(stop - reader.position)
            if number == LAST_PREPARED:
                message.query = self._prepared
            else:
                message.query = self._statements.get(number)
        elif code == STMT_CLOSE:
            self._statements.drop(reader.u32le())
        elif code == INIT_DB:
            message.database = reader.take(size - 1).decode("utf-8", "replace")
        elif code == DROP_DB:
            message.drops = reader.take(size - 1).decode("utf-8", "replace")
        elif code == CHANGE_USER:
            message.database = read_change_user(reader, stop, self._client_capabilities)
        else:
            reader.skip(size - 1)
        if code in RUNS and message.query is not None:
            message.database, message.drops = message.query.database, message.query.drops
        if message.database is not None or message.drops is not None:
            self._changing = True
        self._authenticates = code == CHANGE_USER
        self._large = size == MAX_PAYLOAD_BYTES
        if code in UNANSWERED:
            self._sending = None
            return None
        self._sending = message
        message.open = self._large
        return message

    def _log_in(self, reader: Reader, stop: int, sequence: int) -> Message:
        login = read_login(reader, stop, sequence)
        if login.to_mariadb:
            self.greeting = self.greeting._replace(system="mariadb")
        message = MysqlRequest(CONNECT, self.greeting.system, login.database or "")
        message.packets = sequence + 1
        if login.encrypts:
            message.interim = True
            message.switches_to = "tls"
            return message
        self._client_capabilities = login.capabilities & self.greeting.capabilities
        self._deprecates_eof = deprecates_eof(login.capabilities, self.greeting.capabilities)
        message.database, message.drops = login.database, "" if login.database is None else None
        self._authenticates = True
        return message

    # -- the server -------------------------------------------------------------------

    def _parse_response(self, reader: Reader, request: Message | None) -> Message | None:
        if reader.resumed and self._changing:
            # Whether it has succeeded was lost.
            self._changing = False
            self._namespace = ""
        reply = self._reply
        if reply is not None and reply.open:
            read_reply(reader, reply)
        else:
            if reader.available <= HEADER_BYTES:
                reader.take(HEADER_BYTES + 1)
            asked = request if isinstance(request, MysqlRequest) else None
            if asked is None and self._pass_unasked(reader):
                return None
            word = WORD.unpack_from(reader.data, reader.position)[0]
            is_error = reader.data[reader.position + HEADER_BYTES] == ERR
            step, sequence = Step.RESULT, 1
            if asked is None and self._greeted:
                # The login was lost.
                step, sequence = Step.LOGIN, ANY_SEQUENCE
            elif asked is not None:
                step = STEPS.get(asked.command, Step.RESULT)
                sequence = asked.packets & 0xFF
                if asked.open or asked.command == CONNECT or (is_error and not word >> 24):
                    # A server that ends a connection (ER_CLIENT_INTERACTION_TIMEOUT) begins anew.
                    sequence = ANY_SEQUENCE
            reply = MysqlReply(step, sequence, self._deprecates_eof)
            reply.open = True
            if step is Step.ROWS:
                reply.rows = 0
            read_reply(reader, reply)
            self._reply, self._answered = reply, asked
        if not reply.open:
            self._finish(reply, self._answered)
        elif reply.asks and reply.step is Step.RESULT:
            self._in_file = True
        return reply

    def _pass_unasked(self, reader: Reader) -> bool:
        """A greeting, or an error that nobody asked for; whether it was one."""
        data, start = reader.data, reader.position
        word = WORD.unpack_from(data, start)[0]
        size, sequence = word & MAX_PAYLOAD_BYTES, word >> 24
        first = data[start + HEADER_BYTES]
        if not sequence and first == GREETING:
            reader.take(HEADER_BYTES + 1)
            self.greeting = read_greeting(reader, start + HEADER_BYTES + size)
            self._greeted = True
            return True
        is_end = first == EOF and size == EOF_BYTES and sequence > 1
        if is_end:
            # Of a statement that was prepared: only now does it show that there is one.
            self._deprecates_eof = False
        elif sequence or first != ERR:
            return False
        reader.skip(HEADER_BYTES + size)
        return True

    def _finish(self, reply: MysqlReply, request: MysqlRequest | None) -> None:
        """A response is whole: what it says of the session."""
        self._answered = None
        self._greeted = False
        self._deprecates_eof = reply.deprecates_eof
        reply.count = reply.rows
        if request is None or request.command in LOGINS:
            self._authenticates = False
        if request is None:
            if not reply.code and reply.rows < 0:
                # Who knows what has succeeded.
                self._namespace = ""
            return
        if request.database is not None or request.drops is not None:
            self._changing = False
        if reply.code:
            if request.drops is not None:
                self._namespace = ""
            if request.command == CONNECT:
                return
        else:
            self._succeed(reply, request)
        reply.namespace = self._namespace

    def _succeed(self, reply: MysqlReply, request: MysqlRequest) -> None:
        if request.database is not None:
            self._namespace = request.database
        elif request.drops is not None and request.drops.lower() in {"", self._namespace.lower()}:
            self._namespace = ""
        if reply.schema is not None:
            self._namespace = reply.schema
        command = request.command
        if command == STMT_PREPARE and request.query is not None:
            self._statements.keep(reply.statement, request.query)
        elif command == CONNECT:
            if self._client_capabilities & (CLIENT_COMPRESS | CLIENT_ZSTD):
                reply.switches_to = "mysql-compressed"
        elif command in {RESET_CONNECTION, CHANGE_USER}:
            self._statements.clear()
        elif command == CLONE:
            reply.switches_to = "mysql-clone"
