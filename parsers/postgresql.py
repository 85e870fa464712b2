# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL, protocol 3.0 and 3.2: which bytes are which request and which response.

Spec: PostgreSQL 17, chapter "Frontend/Backend Protocol".

What is one exchange, and where its response ends:

* start-up with all of its authentication: at the first ReadyForQuery, or at its error;
* a simple query, whatever number of statements it has, and a function call: at ReadyForQuery;
* a unit of the extended protocol (parsers/postgresql_messages.py): at ReadyForQuery if its Sync
  follows it directly, else at the reply to its last part;
* a unit that the server skips after an error in its batch: at the batch's ReadyForQuery.

Close, Terminate and a Sync of nothing make no exchange, nor does an SSL or GSS request that is
refused; one that is accepted ends what can be read. CancelRequest, which nothing answers, is an
exchange of its own. COPY data extends the request that it is for.

Rows, parameters and passwords are skipped, never read. The text of an error is not read either:
it may hold values.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from parsers.model import (
    Endpoint,
    Exchange,
    Kind,
    Message,
    Options,
    Outline,
    ParseError,
    Side,
    Transport,
)
from parsers.postgresql_messages import (
    QUERY,
    RUNS,
    STARTUP,
    Batch,
    PostgresqlRequest,
    PostgresqlResponse,
)
from parsers.postgresql_outline import outline
from parsers.postgresql_probe import MAX_CHAIN, probe
from parsers.postgresql_recording import error, mark, skip
from parsers.postgresql_requests import Requests
from parsers.postgresql_wire import HEADER, HEADER_BYTES, MAX_MESSAGE_BYTES, header
from parsers.reader import Reader

MAX_ERROR_BYTES: Final = 512
"""Of an ErrorResponse that are read: severity and SQLSTATE come first."""
MAX_TAG_BYTES: Final = 64
"""Of a CommandComplete. postgres/src/include/tcop/cmdtag.h COMPLETION_TAG_BUFSIZE."""
NAMELESS: Final = frozenset({"26000", "34000"})
"""invalid_sql_statement_name, invalid_cursor_name."""
UNKNOWN_STATUS: Final = "XX000"
"""internal_error: an error without a code is still one."""

SQLSTATE: Final = re.compile(rb"(?:\A|\0)C([0-9A-Z]{5})\0")
FATAL: Final = re.compile(rb"(?:\A|\0)V(?:FATAL|PANIC)\0")
TOLD: Final = re.compile(rb"(?:\A|\0)(?:V(?:FATAL|PANIC)(?:\0C[0-9A-Z]{5})?|C[0-9A-Z]{5})\0")
"""What is read of an error: all that the two above look for."""
RETURNING: Final = (b"SELECT", b"FETCH ")
"""Begin the command tags of what returns rows even if it returns none."""

AUTHENTICATION: Final = ord("R")
ASKS: Final = frozenset({3, 5, 10, 11})
"""Kinds of authentication request that the client answers."""
BIND_COMPLETE: Final = ord("2")
COMMAND_COMPLETE: Final = ord("C")
COPY_BOTH: Final = ord("W")
COPY_IN: Final = ord("G")
DATA_ROW: Final = ord("D")
EMPTY_QUERY: Final = ord("I")
ERROR: Final = ord("E")
NO_DATA: Final = ord("n")
PARSE_COMPLETE: Final = ord("1")
PORTAL_SUSPENDED: Final = ord("s")
READY: Final = ord("Z")
ROW_DESCRIPTION: Final = ord("T")
STEPS: Final = frozenset({PARSE_COMPLETE, BIND_COMPLETE, ROW_DESCRIPTION, NO_DATA})
"""End the reply to a Parse, a Bind, a Describe."""
ENDS: Final = frozenset({COMMAND_COMPLETE, EMPTY_QUERY, PORTAL_SUSPENDED})
"""End the reply to an Execute."""
ASIDE: Final = frozenset(b"NSA3")
"""Notices, settings and notifications come at any time; CloseComplete is of no unit."""
REPLIES: Final = frozenset(b"RKZTDCEINSAGHWVv123tnscd")

READ: Final = frozenset({COMMAND_COMPLETE, ERROR, READY})
"""Messages that are not skipped."""
NEEDED: Final = READ | {AUTHENTICATION}
"""Messages of which something is read."""
SIZES: Final = {
    AUTHENTICATION: (8, MAX_MESSAGE_BYTES),
    COMMAND_COMPLETE: (5, 4 + MAX_TAG_BYTES),
    READY: (5, 5),
}
ANY_SIZE: Final = (4, MAX_MESSAGE_BYTES)

REPLICATION: Final = "postgresql-replication"


class PostgresqlParser:
    """PostgreSQL on one connection."""

    name: ClassVar[str] = "postgresql"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP, Transport.UNIX})
    ports: ClassVar[frozenset[int]] = frozenset({5432})
    whole: ClassVar[bool] = True

    __slots__ = ("_aborted", "_redact", "_requests", "_response", "_unready")

    def __init__(self, options: Options) -> None:
        self._redact = options.redact
        self._requests = Requests()
        self._response: PostgresqlResponse | None = None
        """The latest; more of it is to come while it is open."""
        self._unready: Batch | None = None
        """The batch of the latest response, if its ReadyForQuery is still to come."""
        self._aborted: Batch | None = None
        """The batch that the server skips the rest of."""

    probe = staticmethod(probe)

    def parse(self, reader: Reader, kind: Kind, request: Message | None) -> Message | None:
        """One request or response, or the next part of one."""
        response = self._response
        if response is not None and not response.open:
            response = None
        if kind is Kind.REQUEST:
            return self._requests.parse(reader, response)
        if reader.resumed:
            if response is not None:
                response.open = False
                response = None
            self._unready = self._aborted = None
            self._requests.encryption = ""
        if response is not None:
            self._go_on(reader, response)
            return response
        if self._requests.encryption:
            return self._encrypt(reader)
        return self._begin(reader, request if isinstance(request, PostgresqlRequest) else None)

    def outline(self, exchange: Exchange, side: Side, server: Endpoint) -> Outline:
        """Database span: both sides say the same."""
        return outline(exchange, server, redact=self._redact)

    # -- responses --------------------------------------------------------------------

    def _encrypt(self, reader: Reader) -> Message | None:
        """The single byte that answers an SSL or GSS request."""
        requests = self._requests
        answer = reader.data[reader.position]
        if answer == ERROR:
            # A server that knows no such request; the connection ends with it.
            _, stop = header(reader)
            reader.skip(stop - reader.position)
            requests.encryption = ""
            return None
        if answer not in b"NSG":
            raise ParseError(f"answer {answer} to a request for encryption")
        reader.position += 1
        encryption, requests.encryption = requests.encryption, ""
        if answer == ord("N"):
            return None
        response = PostgresqlResponse(None)
        response.interim = True
        response.switches_to = encryption
        return response

    def _begin(self, reader: Reader, request: PostgresqlRequest | None) -> Message | None:
        """The first message of a response, or one that is in none."""
        start = reader.position
        tag, stop = header(reader)
        size = stop - reader.position
        if tag in ASIDE:
            skip(reader, tag, stop)
            return None
        if tag == READY:
            return self._ready(reader, size, request)
        if self._unready is not None and not self._unready.synced:
            self._unready = None
        if tag == ERROR and self._is_nobodys(reader, stop, request):
            reader.skip(stop - reader.position)
            return None
        if request is not None and (
            (self._unready is not None and request.batch is not self._unready)
            or self._aborted is not None
            or tag not in request.replies
        ):
            # Older requests were answered, or lost, without our seeing it.
            reader.skip(size)
            reader.lose()
            return None
        reader.position = start
        response = PostgresqlResponse(request)
        response.open = True
        self._go_on(reader, response)
        self._response = response
        return response

    def _is_nobodys(self, reader: Reader, stop: int, request: PostgresqlRequest | None) -> bool:
        """Whether an error is the answer to no request."""
        if self._unready is not None and (request is None or request.batch is not self._unready):
            # The Sync has failed: deferred constraints are checked when it commits.
            return True
        # Nobody asked: the server shuts down, or ends an idle session.
        return request is None and FATAL.search(_read_error(reader, stop)) is not None

    def _ready(
        self, reader: Reader, size: int, request: PostgresqlRequest | None
    ) -> Message | None:
        """ReadyForQuery when no response is open: it answers what the server has skipped."""
        state = _state(reader, size)
        aborted, self._aborted = self._aborted, None
        self._unready = None
        if request is None or aborted is None or request.batch is not aborted:
            return None
        response = PostgresqlResponse(request)
        response.transaction = state
        response.aborted = True
        response.answers = request.batch.units - request.index
        return response

    def _go_on(self, reader: Reader, response: PostgresqlResponse) -> None:
        """Read as much of a response as there is.

        Mostly a loop over plain variables, since most of what comes are rows.
        """
        data = reader.data
        end = reader.end
        marking = reader.marking
        start = position = reader.position
        rows = response.rows
        while end - position >= HEADER_BYTES:
            tag, size = HEADER(data, position)
            if tag == DATA_ROW and 4 <= size <= MAX_MESSAGE_BYTES:
                rows += 1
                if marking:
                    if rows - response.rows <= MAX_CHAIN:
                        mark(reader, tag, position + HEADER_BYTES, position + 1 + size)
                    reader.omit(position + HEADER_BYTES, min(position + 1 + size, end))
                position += size + 1
                continue
            low, high = SIZES.get(tag, ANY_SIZE)
            if tag not in REPLIES or not low <= size <= high:
                if position > start:
                    break
                raise ParseError(f"tag {tag} length {size}")
            stop = position + 1 + size
            if stop > end and tag in NEEDED and not _is_enough(reader, tag, position):
                break
            reader.position = position + HEADER_BYTES
            response.rows = rows
            over = self._note(reader, response, tag, stop)
            position = stop
            if over:
                break
        if position == start:
            reader.take(end - start + 1)
        response.rows = rows
        reader.position = position

    def _note(self, reader: Reader, response: PostgresqlResponse, tag: int, stop: int) -> bool:
        """Read one message that is no row; whether it is the last of `response`."""
        request = response.request
        ends = False
        if response.asked and request is not None and response.lacks and tag not in ASIDE:
            # It goes on without what it waited for, so that was lost; or refuses it half-way.
            request.gap = True
            response.asked = 0
        if tag == READY:
            response.transaction = reader.data[reader.position]
            self._unready = self._aborted = None
            return _end(response)
        if tag == ERROR:
            head = _read_error(reader, stop)
            match = SQLSTATE.search(head)
            response.status = match[1].decode() if match else UNKNOWN_STATUS
            if request is not None and request.earlier:
                request.refuse(response.steps)
            if response.status in NAMELESS and request is not None and request.operation != QUERY:
                # So it is not what we think that name stands for.
                request.text = None
            if FATAL.search(head) or (request is not None and request.operation == STARTUP):
                # The connection ends with it.
                return _end(response)
            ends = True
        elif tag in ENDS:
            response.returns |= reader.data.startswith(RETURNING, reader.position)
            ends = True
        elif tag in STEPS:
            response.steps += 1
            response.returns |= tag == ROW_DESCRIPTION
        elif tag == AUTHENTICATION:
            kind = int.from_bytes(reader.take(4), "big")
            response.asked += kind in ASKS
        elif tag == COPY_IN:
            response.asked += 1
        elif tag == COPY_BOTH:
            response.switches_to = REPLICATION
            return _end(response)
        if tag not in READ:
            skip(reader, tag, stop)
        if request is None or request.until_ready:
            return False
        if not ends and not (request.flushed and response.steps >= request.steps):
            return False
        self._unready = request.batch
        if tag == ERROR:
            self._aborted = request.batch
        return _end(response)


def _is_enough(reader: Reader, tag: int, position: int) -> bool:
    """Whether what is read of a message is there, though its end is not."""
    here = reader.end - position - HEADER_BYTES
    if tag == ERROR:
        return here >= MAX_ERROR_BYTES or reader.cut
    return tag == AUTHENTICATION and here >= 4


def _state(reader: Reader, size: int) -> int:
    """The status indicator of a ReadyForQuery."""
    if size != 1:
        raise ParseError(f"ReadyForQuery of {size} bytes")
    return reader.u8()


def _read_error(reader: Reader, stop: int) -> bytes:
    """The beginning of an ErrorResponse; of the rest a recording keeps nothing."""
    start = reader.position
    data = reader.data
    if min(stop, start + MAX_ERROR_BYTES) > reader.end and not reader.cut:
        reader.take(MAX_ERROR_BYTES)
    head = data[start : min(stop, start + MAX_ERROR_BYTES)]
    if reader.marking:
        told = b"".join(match[0].lstrip(b"\0") for match in TOLD.finditer(head))
        here = max(reader.end - start, 0)
        # The length may be a lie: what fills a message ends with what is here of it.
        reader.replace(start, error(min(stop - start, here + MAX_ERROR_BYTES), told)[:here])
        reader.omit(start, min(stop, reader.end))
    return head


def _end(response: PostgresqlResponse) -> bool:
    request = response.request
    runs = request is None or request.operation in RUNS
    response.open = False
    if response.rows or (response.returns and runs and not response.status):
        response.count = response.rows
    if request is not None:
        request.answered = True
    return True
