# SPDX-License-Identifier: Apache-2.0
"""What a PostgreSQL client sends.

Spec: PostgreSQL 17, "Message Flow" and "Message Formats" (frontend messages).

After a loss named statements are kept: a server refuses to prepare a name twice, so one can
only have changed its text if both its removal and the new preparation were lost. The unnamed
statement and all portals are forgotten, for they change all the time.
"""

from __future__ import annotations

import re
from typing import Final

from parsers.model import Message, ParseError
from parsers.postgresql_messages import (
    CANCEL,
    EXECUTE,
    FUNCTION_CALL,
    QUERY,
    STARTUP,
    Batch,
    PostgresqlRequest,
    PostgresqlResponse,
    Prefix,
)
from parsers.postgresql_names import Names
from parsers.postgresql_recording import MAX_TEXT_BYTES, mark_parameters, read_statement
from parsers.postgresql_wire import (
    CANCEL_CODE,
    ENCRYPTIONS,
    HEADER,
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_STARTUP_BYTES,
    PROTOCOL_3,
    SPECIAL,
    header,
)
from parsers.reader import Reader

MAX_NAME_BYTES: Final = 1024
"""Of a statement's or portal's name; what a longer one stands for is not known."""
MAX_DATABASE_BYTES: Final = 256
"""Names have 63 bytes (NAMEDATALEN), the aliases of poolers more."""

BIND: Final = ord("B")
CLOSE: Final = ord("C")
COPY_DATA: Final = ord("d")
COPY_DONE: Final = ord("c")
COPY_FAIL: Final = ord("f")
DESCRIBE: Final = ord("D")
EXECUTE_TAG: Final = ord("E")
FLUSH: Final = ord("H")
FUNCTION: Final = ord("F")
PARSE: Final = ord("P")
PASSWORD: Final = ord("p")
QUERY_TAG: Final = ord("Q")
SYNC: Final = ord("S")
TERMINATE: Final = ord("X")

SYNC_MESSAGE: Final = b"S\0\0\0\4"
BEGIN: Final = frozenset({PARSE, BIND, DESCRIBE, EXECUTE_TAG})
"""Messages that begin a unit."""
PARTS: Final = BEGIN | {CLOSE, SYNC, FLUSH}
"""Messages that go on with one."""

REPLIES_TO_QUERY: Final = b"TCIGHWE"
REPLIES_TO_STARTUP: Final = b"RvE"
REPLIES_TO_FUNCTION: Final = b"VE"
REPLIES_TO: Final = {PARSE: b"1E", BIND: b"2E", EXECUTE_TAG: b"DCIsGHWE"}
REPLIES_TO_DESCRIBE: Final = {"S": b"tE", "P": b"TnE"}
OPERATIONS: Final = {PARSE: "Parse", BIND: "Bind", DESCRIBE: "Describe", EXECUTE_TAG: EXECUTE}

PARAMETER: Final = re.compile(rb"([^\0]++)\0([^\0]*+)\0")


class Requests:
    """The client's direction of one connection."""

    __slots__ = (
        "_batch",
        "_database",
        "_last",
        "_latest",
        "_portals",
        "_started",
        "_statements",
        "_unit",
        "encryption",
    )

    def __init__(self) -> None:
        self.encryption = ""
        """What the connection speaks if the server answers the latest packet with yes."""
        self._database = ""
        self._statements = Names()
        self._portals = Names()
        self._started = False
        self._batch = Batch()
        self._unit: PostgresqlRequest | None = None
        """The latest unit; more of it is to come while it is open."""
        self._latest: PostgresqlRequest | None = None
        """The latest request of any kind."""
        self._last: PostgresqlRequest | None = None
        """The unit that a Close or Sync would extend."""

    def parse(self, reader: Reader, response: PostgresqlResponse | None) -> Message | None:
        """One request or the next part of one; `response` is the one under way."""
        if reader.resumed:
            self._resume()
            if response is not None and response.request is not None and response.lacks:
                response.request.gap = True
        tag = reader.data[reader.position]
        if not tag:
            return self._start(reader)
        unit = self._unit
        if unit is not None and not unit.open:
            # The session has ended it, since the rest was lost.
            unit = self._unit = None
        if unit is not None or tag in BEGIN:
            return self._read_unit(reader, unit, response)
        tag, stop = header(reader)
        size = stop - reader.position
        if tag == SYNC:
            reader.take(size)
            return self._sync()
        if tag == QUERY_TAG:
            return self._query(reader, stop)
        if tag == COPY_DATA:
            return self._copy(reader, stop, response)
        if tag in {PASSWORD, COPY_DONE, COPY_FAIL}:
            reader.skip(size)
            request = self._asked(response)
            if request is not None:
                request.given += 1
            return request
        if tag == CLOSE:
            self._close(reader.take(size))
            return self._extended()
        if tag == FUNCTION:
            reader.skip(size)
            return self._ask(FUNCTION_CALL, None, REPLIES_TO_FUNCTION)
        if tag not in {FLUSH, TERMINATE}:
            raise ParseError(f"tag {tag}")
        reader.take(size)
        return None

    def _resume(self) -> None:
        """Bytes were lost."""
        self._statements.drop(b"")
        self._portals.clear()
        self._unit = self._last = self._latest = None
        self._batch = Batch()
        self.encryption = ""

    # -- what is no unit --------------------------------------------------------------

    def _start(self, reader: Reader) -> Message | None:
        """A packet without a tag, which only the beginning of a connection has."""
        size = reader.u32() - 8
        major = reader.u16()
        minor = reader.u16()
        if self._started or not 0 <= size <= MAX_STARTUP_BYTES:
            raise ParseError(f"start-up packet of {size} bytes")
        if major == SPECIAL and minor == CANCEL_CODE:
            # Whoever has the key may cancel; nothing of it is kept.
            reader.skip(size)
            request = PostgresqlRequest(CANCEL, None, "", self._batch, 0, b"")
            request.one_way = True
            return request
        if major == SPECIAL and minor in ENCRYPTIONS and not size:
            self.encryption = ENCRYPTIONS[minor]
            return None
        if major != PROTOCOL_3:
            raise ParseError(f"version {major}.{minor}")
        start = reader.position
        parameters = reader.take(size)
        values = {match[1]: match.span(2) for match in PARAMETER.finditer(parameters)}
        # The database is named like the user unless it is said.
        name = values.get(b"database") or values.get(b"user") or (0, 0)
        if reader.marking:
            for a, b in values.values():
                if (a, b) != name:
                    reader.omit(start + a, start + b)
        database = parameters[name[0] : name[1]][:MAX_DATABASE_BYTES]
        self._database = database.decode("utf-8", "replace")
        self._started = True
        return self._ask(STARTUP, None, REPLIES_TO_STARTUP)

    def _query(self, reader: Reader, stop: int) -> Message:
        text = read_statement(reader, reader.position, stop)
        if text is None:
            reader.take(stop - reader.position)
        assert text is not None
        reader.skip(stop - reader.position)
        # A simple query destroys both.
        self._statements.drop(b"")
        self._portals.drop(b"")
        request = self._ask(QUERY, text, REPLIES_TO_QUERY)
        if isinstance(text, Prefix):
            request.truncated = reader.cut
        else:
            self._statements.obey(text)
        return request

    def _ask(self, operation: str, text: bytes | None, replies: bytes) -> PostgresqlRequest:
        """A request that a ReadyForQuery of its own answers."""
        batch = Batch()
        batch.units = 1
        request = PostgresqlRequest(operation, text, self._database, batch, 0, replies)
        request.until_ready = True
        self._latest = request
        self._last = None
        self._batch = Batch()
        return request

    def _copy(
        self, reader: Reader, stop: int, response: PostgresqlResponse | None
    ) -> Message | None:
        """As much COPY data as there is."""
        data = reader.data
        end = reader.end
        while True:
            reader.skip(stop - reader.position)
            if end - stop < HEADER_BYTES:
                break
            tag, size = HEADER(data, stop)
            if tag != COPY_DATA or not 4 <= size <= MAX_MESSAGE_BYTES:
                break
            reader.position = stop + HEADER_BYTES
            stop += 1 + size
        return self._asked(response)

    def _asked(self, response: PostgresqlResponse | None) -> PostgresqlRequest | None:
        """What COPY data and passwords are for; a client need not wait until it is asked."""
        if response is not None:
            return response.request
        latest = self._latest
        return None if latest is None or latest.answered else latest

    def _close(self, body: bytes) -> None:
        name, ended, _ = body[1:].partition(b"\0")
        if ended:
            (self._statements if body[:1] == b"S" else self._portals).drop(name)

    # -- units ------------------------------------------------------------------------

    def _extended(self) -> Message | None:
        """What a Close or Sync extends: the unit before it, if that is not over."""
        last = self._last
        return None if last is None or last.answered else last

    def _sync(self) -> Message | None:
        """The end of a batch: ReadyForQuery will follow its last response."""
        last = self._last
        if last is not None and last.answered:
            last = None
        if last is not None:
            last.until_ready = True
        self._last = None
        self._batch.synced = True
        self._batch = Batch()
        return last

    def _read_unit(
        self, reader: Reader, unit: PostgresqlRequest | None, response: PostgresqlResponse | None
    ) -> Message:
        """As much of a unit as there is."""
        data = reader.data
        end = reader.end
        start = reader.position
        begins = unit is None
        if unit is None:
            batch = self._batch
            unit = PostgresqlRequest("", None, self._database, batch, batch.units, b"")
            unit.open = True
        while end - reader.position >= HEADER_BYTES:
            position = reader.position
            tag, size = HEADER(data, position)
            if tag not in PARTS or not 4 <= size <= MAX_MESSAGE_BYTES:
                if position > start:
                    break
                raise ParseError(f"tag {tag} length {size} in a unit")
            reader.position = position + HEADER_BYTES
            stop = position + 1 + size
            if not self._part(reader, unit, tag, stop):
                reader.position = position
                break
            reader.skip(stop - reader.position)
            if not unit.open:
                break
        if reader.position == start:
            reader.take(end - start + 1)
        if begins:
            unit.batch.units += 1
            self._unit = self._last = self._latest = unit
        if unit.open:
            return unit
        self._unit = None
        if unit.flushed:
            _settle(unit, response)
        elif unit.until_ready:
            self._sync()
        elif data.startswith(SYNC_MESSAGE, reader.position):
            reader.position += HEADER_BYTES
            self._sync()
        return unit

    def _part(self, reader: Reader, unit: PostgresqlRequest, tag: int, stop: int) -> bool:
        """Read one message of a unit; False, and nothing is done, if not enough of it is here."""
        data = reader.data
        body = reader.position
        kind = ""
        if tag == PARSE:
            zero = data.find(b"\0", body, min(stop, body + MAX_NAME_BYTES))
            text = read_statement(reader, zero + 1, stop) if zero >= 0 else None
            if text is None and not _is_here(reader, stop, MAX_NAME_BYTES + MAX_TEXT_BYTES):
                return False
            if zero >= 0:
                self._statements.keep(data[body:zero], text)
            if text is not None and not isinstance(text, Prefix) and stop <= reader.end:
                # The types of parameters are no secret.
                reader.position = stop
            unit.turn_to(text)
            unit.truncated = isinstance(text, Prefix) and reader.cut
        elif tag == BIND:
            zero = data.find(b"\0", body, min(stop, body + MAX_NAME_BYTES))
            second = -1
            if zero >= 0:
                second = data.find(b"\0", zero + 1, min(stop, zero + 1 + MAX_NAME_BYTES))
            if second < 0 and not _is_here(reader, stop, 2 * MAX_NAME_BYTES):
                return False
            text = self._statements.get(data[zero + 1 : second]) if second >= 0 else None
            unit.turn_to(text)
            if second >= 0:
                self._portals.keep(data[body:zero], text)
                reader.position = second + 1
                if reader.marking:
                    mark_parameters(reader, second + 1, stop)
        elif not _is_here(reader, stop, 2 * MAX_NAME_BYTES):
            return False
        else:
            content = b""
            if stop <= reader.end:
                content = reader.take(stop - body)
            if tag == EXECUTE_TAG:
                portal, ended, _ = content.partition(b"\0")
                unit.text = self._portals.get(portal) if ended else None
                unit.open = False
                if unit.text is not None:
                    self._statements.obey(unit.text)
            elif tag == DESCRIBE:
                kind = content[:1].decode("latin-1")
                name, ended, _ = content[1:].partition(b"\0")
                if ended and not unit.text:
                    unit.text = (self._statements if kind == "S" else self._portals).get(name)
            elif tag == CLOSE:
                self._close(content)
                return True
            else:
                unit.open = False
                unit.until_ready = tag == SYNC
                unit.flushed = tag == FLUSH
                return True
        if tag == EXECUTE_TAG:
            unit.operation = EXECUTE
        else:
            unit.steps += 1
        if not unit.replies:
            unit.operation = OPERATIONS[tag]
            unit.replies = REPLIES_TO.get(tag) or REPLIES_TO_DESCRIBE.get(kind, b"E")
        return True


def _is_here(reader: Reader, stop: int, enough: int) -> bool:
    """A message is there up to `stop`, or `enough` of it, or no more will come."""
    return stop <= reader.end or reader.end - reader.position >= enough or reader.cut


def _settle(unit: PostgresqlRequest, response: PostgresqlResponse | None) -> None:
    """A Flush came after all replies, so the response has ended already."""
    if response is not None and response.request is unit and response.steps >= unit.steps:
        response.open = False
        unit.answered = True
