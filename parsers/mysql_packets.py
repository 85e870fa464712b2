# SPDX-License-Identifier: Apache-2.0
"""A response of MySQL, and the packets that end one: OK, ERR and EOF.

Spec: MySQL "Client/Server Protocol", page "Generic Response Packets"; MariaDB "OK_Packet",
"ERR_Packet". parsers/mysql_replies.py reads what stands before them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import ClassVar, Final

from parsers.model import Kind, Message, ParseError
from parsers.mysql_wire import (
    MORE_RESULTS,
    SESSION_STATE_CHANGED,
    SESSION_TRACK_SCHEMA,
    lenenc,
)
from parsers.reader import Reader

MAX_OK_BYTES: Final = 64 * 1024
"""Read of an OK: what it says of the session may be long."""
MAX_TRACKED: Final = 1024
"""Changes of the session that one OK tells."""
EOF_BYTES: Final = 5
OK_LEAST_BYTES: Final = 7
ANY_SEQUENCE: Final = -1

GREETING: Final = 0x0A
OK: Final = 0x00
LOCAL_INFILE: Final = 0xFB
EOF: Final = 0xFE
ERR: Final = 0xFF
PROGRESS: Final = 0xFFFF
"""MariaDB: an ERR with this number only says how far the server is."""
DEFINITION: Final = b"\x03def"
"""How each column definition begins: the name of the only catalog."""

WORD: Final = Struct("<I")
"""The header of a packet as one number, or the number of a statement."""


class Step(IntEnum):
    """What comes next in a response."""

    RESULT = 0
    """OK, ERR, a file's name, or the number of columns."""
    DEFINITIONS = 1
    AFTER_DEFINITIONS = 2
    ROWS = 3
    PREPARED = 4
    PARAMETERS = 5
    """Definitions of a prepared statement's parameters, then of its columns."""
    COLUMNS = 6
    FIELDS = 7
    """Definitions as many as there are, with no number before them."""
    LOGIN = 8
    TEXT = 9
    EVENTS = 10
    """The binary log, without end."""


@dataclass(slots=True)
class MysqlReply(Message):
    """A response, with all its result sets."""

    kind: ClassVar[Kind] = Kind.RESPONSE
    step: Step
    sequence: int
    """Of the next packet."""
    deprecates_eof: bool | None
    """As the handshake had it, or what was seen of it since."""
    left: int = field(default=0, init=False)
    """Definitions still to come."""
    columns: int = field(default=0, init=False)
    """Of a prepared statement, whose parameters are defined first."""
    large: bool = field(default=False, init=False)
    """The last packet goes on in the next."""
    rows: int = field(default=-1, init=False)
    """So far; -1 while there was no result set."""
    statement: int = field(default=0, init=False)
    """Number of the statement that was prepared."""
    code: int = field(default=0, init=False)
    """Number of the error."""
    sqlstate: str = field(default="", init=False)
    schema: str | None = field(default=None, init=False)
    """The current database, where the server says that it has changed."""
    namespace: str | None = field(default=None, init=False)
    """The current database when it was whole; None before."""
    asks: bool = field(default=False, init=False)
    """The client has to send something before there is more: a file, or what proves the user."""


def status_of(data: bytes, body: int) -> int:
    """The server's status in an EOF."""
    return int.from_bytes(data[body + 3 : body + 5], "little")


def end_result(reply: MysqlReply, status: int) -> None:
    """A result has ended; there may be another."""
    if status & MORE_RESULTS and reply.step in {Step.RESULT, Step.ROWS, Step.AFTER_DEFINITIONS}:
        reply.step = Step.RESULT
    else:
        reply.open = False


def read_end(reader: Reader, reply: MysqlReply, body: int, size: int) -> int:
    """EOF, or an OK that stands for it."""
    if size >= OK_LEAST_BYTES:
        return read_ok(reader, reply, body, size)
    if reader.end - body < size:
        return -1
    if size != EOF_BYTES:
        raise ParseError(f"EOF of {size} bytes")
    end_result(reply, status_of(reader.data, body))
    return size


def read_error(reader: Reader, reply: MysqlReply, body: int, size: int) -> int:
    """ERR: number and SQLSTATE; the message stays where it is."""
    data = reader.data
    if size < 3 or size > MAX_OK_BYTES:
        raise ParseError(f"ERR of {size} bytes")
    if reader.end - body < min(size, 9):
        return -1
    code = int.from_bytes(data[body + 1 : body + 3], "little")
    if code == PROGRESS:
        return 3
    reply.open = False
    reply.code = code
    state = data[body + 4 : body + 9]
    if size >= 9 and data[body + 3] == ord("#") and state.isalnum():
        reply.sqlstate = state.decode("ascii", "replace")
        return 9
    return 3


def read_ok(reader: Reader, reply: MysqlReply, body: int, size: int) -> int:
    """OK: the server's status, and what has changed of the session."""
    data = reader.data
    if size < OK_LEAST_BYTES or size > MAX_OK_BYTES:
        raise ParseError(f"OK of {size} bytes")
    if reader.end - body < size:
        return -1
    stop = body + size
    # Rows, number of the last row inserted; mostly a byte each.
    _, position = lenenc(data, body + 1, stop)
    _, position = lenenc(data, position, stop)
    fixed = position + 4
    if fixed > stop:
        raise ParseError("OK")
    status = int.from_bytes(data[position : position + 2], "little")
    if fixed < stop:
        fixed = _read_session(reader, reply, fixed, stop, status)
    end_result(reply, status)
    return fixed - body


def _read_session(reader: Reader, reply: MysqlReply, position: int, stop: int, status: int) -> int:
    """What an OK says of the session. Returns the end of what may be kept of it."""
    if not status & SESSION_STATE_CHANGED:
        return position
    data = reader.data
    kept = position
    try:
        size, position = lenenc(data, position, stop)
        if reader.marking:
            reader.omit(position, min(position + size, stop))
        position += size
        size, position = lenenc(data, position, stop)
        stop = min(position + size, stop)
        for _ in range(MAX_TRACKED):
            if position + 1 >= stop:
                break
            kind = data[position]
            size, position = lenenc(data, position + 1, stop)
            if kind == SESSION_TRACK_SCHEMA:
                length, begin = lenenc(data, position, stop)
                reply.schema = data[begin : min(begin + length, stop)].decode("utf-8", "replace")
            elif reader.marking:
                reader.omit(position, min(position + size, stop))
            position += size
    except ParseError:
        # Without CLIENT_SESSION_TRACK it is a message for people.
        return kept
    return min(position, stop)
