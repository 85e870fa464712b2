# SPDX-License-Identifier: Apache-2.0
"""What a MySQL server answers: result sets, prepared statements, rounds of authentication.

Spec: MySQL "Client/Server Protocol", pages "Text Resultset", "Binary Protocol Resultset",
"COM_STMT_PREPARE Response", "COM_STMT_FETCH"; MariaDB "Result Set Packets".

Whether an EOF stands behind the definitions (CLIENT_DEPRECATE_EOF) is seen by looking: it has
five bytes, an OK has seven or more, and a row that begins with 0xFE has 16 MiB. So result sets
are read alike whether or not the handshake was seen. Only behind the definitions of a prepared
statement, where the response ends, nothing else tells.

Rows are counted and passed over, many at a time; nothing of them is kept.
"""

from __future__ import annotations

from typing import Final

from parsers.model import ParseError
from parsers.mysql_packets import (
    ANY_SEQUENCE,
    DEFINITION,
    EOF,
    EOF_BYTES,
    ERR,
    LOCAL_INFILE,
    OK,
    WORD,
    MysqlReply,
    Step,
    read_end,
    read_error,
    read_ok,
    status_of,
)
from parsers.mysql_wire import (
    CURSOR_EXISTS,
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    lenenc,
)
from parsers.reader import Reader

MAX_COLUMNS: Final = 4096
"""Of a table and of a result set, in both servers."""

# Looked up with each packet.
DEFINITIONS: Final = Step.DEFINITIONS
AFTER_DEFINITIONS: Final = Step.AFTER_DEFINITIONS
ROWS: Final = Step.ROWS


def read_reply(reader: Reader, reply: MysqlReply) -> None:
    """Read as many packets of `reply` as are there; `reply.open` says whether more will come.

    Raises:
        ParseError: the first packet cannot be part of it.
    """
    start = reader.position
    while reply.open and reader.position < reader.end:
        position = reader.position
        step = reply.step
        if (
            step is AFTER_DEFINITIONS
            and reader.available > HEADER_BYTES
            and reader.data[position + HEADER_BYTES] < EOF
        ):
            # A row, so there is no EOF before the rows.
            step = reply.step = ROWS
            reply.deprecates_eof = True
        if not reply.large and (step is ROWS or reply.left):
            if step is ROWS:
                _pass_rows(reader, reply)
            else:
                _pass_definitions(reader, reply, 0 if step is DEFINITIONS else 1)
            position = reader.position
            if position >= reader.end:
                return
        try:
            whole = _read_packet(reader, reply)
        except ParseError:
            reader.position = position
            if position > start:
                # What was read is right; the next call will say so of the rest.
                return
            raise
        if not whole:
            reader.position = position
            if position == start:
                # Too little, which only the Reader may say.
                reader.take(reader.available + 1)
            return


def _pass_rows(reader: Reader, reply: MysqlReply) -> None:
    """Rows that follow each other, as long as nothing is special about them."""
    data = reader.data
    position = reader.position
    last = reader.end - HEADER_BYTES
    rows = reply.rows
    unpack = WORD.unpack_from
    expected = reply.sequence << 24
    marks = reader.omitted if reader.marking else None
    while position < last:
        size = unpack(data, position)[0] - expected
        if not 0 < size < MAX_PAYLOAD_BYTES or data[position + 4] >= EOF:
            break
        if marks is not None and size > 1:
            marks.append((position + 5, min(position + 4 + size, reader.end)))
        position += size + 4
        expected = (expected + 0x1000000) & 0xFF000000
        rows += 1
    reader.position = position
    reply.rows = rows
    reply.sequence = expected >> 24


def _pass_definitions(reader: Reader, reply: MysqlReply, least: int) -> None:
    """Definitions that follow each other, but for the last where more depends on it."""
    data = reader.data
    position = reader.position
    last = reader.end - HEADER_BYTES - len(DEFINITION)
    left = reply.left
    expected = reply.sequence << 24
    marks = reader.omitted if reader.marking else None
    while left > least and position <= last:
        size = WORD.unpack_from(data, position)[0] - expected
        if not 4 <= size < MAX_PAYLOAD_BYTES or not data.startswith(DEFINITION, position + 4):
            break
        if marks is not None:
            marks.append((position + 8, min(position + 4 + size, reader.end)))
        position += size + 4
        expected = (expected + 0x1000000) & 0xFF000000
        left -= 1
    reader.position = position
    reply.left = left
    reply.sequence = expected >> 24
    if not left:
        reply.step = AFTER_DEFINITIONS


def _read_packet(reader: Reader, reply: MysqlReply) -> bool:
    """The next packet, unless too little of it is there."""
    data = reader.data
    start = reader.position
    body = start + HEADER_BYTES
    there = reader.end - body
    if there < 0:
        return False
    word = WORD.unpack_from(data, start)[0]
    size = word & MAX_PAYLOAD_BYTES
    sequence = word >> 24
    if sequence != reply.sequence != ANY_SEQUENCE:
        raise ParseError(f"packet {sequence} instead of {reply.sequence}")
    kept = 0
    reply.asks = False
    if reply.large:
        reply.large = size == MAX_PAYLOAD_BYTES
    elif not size:
        raise ParseError("empty packet")
    elif there < 1:
        return False
    else:
        is_error = data[body] == ERR
        kept = (read_error if is_error else READERS[reply.step])(reader, reply, body, size)
        if kept < 0:
            return False
        if not kept:
            # It is not this step's, but the next one's.
            return _read_packet(reader, reply)
    if reader.marking and kept < size:
        reader.omit(body + kept, min(body + size, reader.end))
    reply.sequence = sequence + 1 & 0xFF if not reply.asks else ANY_SEQUENCE
    reader.position = body + size
    return True


def _read_result(reader: Reader, reply: MysqlReply, body: int, size: int) -> int:
    first = reader.data[body]
    if first == OK:
        return read_ok(reader, reply, body, size)
    if first == EOF:
        return read_end(reader, reply, body, size)
    if first == LOCAL_INFILE:
        reply.asks = True
        return 1
    if size > 4:
        raise ParseError(f"{size} bytes of a number of columns")
    if reader.end - body < size:
        return -1
    columns, position = lenenc(reader.data, body, body + size)
    follows = reader.data[position : body + size]
    # The last byte is there with CLIENT_OPTIONAL_RESULTSET_METADATA (MySQL) or
    # MARIADB_CLIENT_CACHE_METADATA: 0 if the definitions are left out.
    if not 0 < columns <= MAX_COLUMNS or follows not in {b"", b"\0", b"\1"}:
        raise ParseError("number of columns")
    reply.left = 0 if follows == b"\0" else columns
    reply.rows = max(reply.rows, 0)
    reply.step = DEFINITIONS if reply.left else AFTER_DEFINITIONS
    return size


def _read_definition(reader: Reader, _reply: MysqlReply, body: int, size: int) -> int:
    """One that was not passed with others: too little of it is there, or it is none."""
    return _definition(reader, body, size)


def _definition(reader: Reader, body: int, size: int) -> int:
    data = reader.data
    if reader.end - body < len(DEFINITION):
        return -1
    if not data.startswith(DEFINITION, body) or not 4 <= size < MAX_PAYLOAD_BYTES:
        raise ParseError("column definition")
    return len(DEFINITION)


def _read_after_definitions(reader: Reader, reply: MysqlReply, body: int, size: int) -> int:
    if size == EOF_BYTES and reader.data[body] == EOF:
        if reader.end - body < size:
            return -1
        reply.step = ROWS
        reply.deprecates_eof = False
        if status_of(reader.data, body) & CURSOR_EXISTS:
            # The rows are asked for one by one (COM_STMT_FETCH).
            return read_end(reader, reply, body, size)
        return size
    reply.step = ROWS
    reply.deprecates_eof = True
    return 0


def _read_row(reader: Reader, reply: MysqlReply, body: int, size: int) -> int:
    first = reader.data[body]
    if first == EOF and size < MAX_PAYLOAD_BYTES:
        return read_end(reader, reply, body, size)
    reply.rows += 1
    reply.large = size == MAX_PAYLOAD_BYTES
    return 1


def _read_prepared(reader: Reader, reply: MysqlReply, body: int, size: int) -> int:
    """COM_STMT_PREPARE_OK."""
    data = reader.data
    if data[body] != OK or not 9 <= size <= 13:
        raise ParseError("response to COM_STMT_PREPARE")
    if reader.end - body < size:
        return -1
    reply.statement = WORD.unpack_from(data, body + 1)[0]
    columns = int.from_bytes(data[body + 5 : body + 7], "little")
    parameters = int.from_bytes(data[body + 7 : body + 9], "little")
    if size == 13 and not data[body + 12]:
        # CLIENT_OPTIONAL_RESULTSET_METADATA: no definitions.
        columns = parameters = 0
    reply.left, reply.columns = parameters, columns
    reply.step = Step.PARAMETERS
    if not parameters:
        reply.left, reply.columns = columns, 0
        reply.step = Step.COLUMNS
    reply.open = bool(reply.left)
    return size


def _read_described(reader: Reader, reply: MysqlReply, body: int, size: int) -> int:
    """Definitions of parameters or columns, each group with an EOF behind it or not."""
    if reply.left:
        kept = _definition(reader, body, size)
        if kept < 0 or (reply.deprecates_eof is None and reader.end - body < size):
            # What is behind it may have to be looked at.
            return -1
        reply.left -= 1
        if not reply.left and not _eof_follows(reader, reply, body + size):
            _next_group(reply)
        return kept
    if reader.data[body] == EOF and size == EOF_BYTES:
        if reader.end - body < size:
            return -1
        reply.deprecates_eof = False
        _next_group(reply)
        return size
    if reply.step is Step.COLUMNS or reply.deprecates_eof is not None:
        raise ParseError("no EOF behind definitions")
    reply.deprecates_eof = True
    _next_group(reply)
    return 0


def _eof_follows(reader: Reader, reply: MysqlReply, position: int) -> bool:
    """Whether to wait for an EOF behind the last definition of a group."""
    if reply.deprecates_eof is not None:
        return not reply.deprecates_eof
    if reply.columns:
        # What comes next tells.
        return True
    # The handshake was not seen: servers write all of this response at once.
    return reader.data.startswith(b"\x05\0\0", position)


def _next_group(reply: MysqlReply) -> None:
    reply.left, reply.columns = reply.columns, 0
    reply.step = Step.COLUMNS
    reply.open = bool(reply.left)


def _read_field(reader: Reader, reply: MysqlReply, body: int, size: int) -> int:
    if reader.data[body] == EOF:
        return read_end(reader, reply, body, size)
    return _definition(reader, body, size)


def _read_login(reader: Reader, reply: MysqlReply, body: int, size: int) -> int:
    """Rounds of authentication, until an OK or an ERR."""
    first = reader.data[body]
    if first == OK:
        return read_ok(reader, reply, body, size)
    # Another method, more data, another factor, or what a plug-in has to say.
    reply.asks = True
    return 1


def _read_text(_reader: Reader, reply: MysqlReply, _body: int, size: int) -> int:
    reply.open = False
    return min(size, 8)


def _read_event(reader: Reader, reply: MysqlReply, body: int, size: int) -> int:
    first = reader.data[body]
    if first == EOF:
        return read_end(reader, reply, body, size)
    reply.open = False
    reply.switches_to = "mysql-replication"
    return 1


READERS: Final = (
    _read_result,
    _read_definition,
    _read_after_definitions,
    _read_row,
    _read_prepared,
    _read_described,
    _read_described,
    _read_field,
    _read_login,
    _read_text,
    _read_event,
)
"""By step. Each returns how many bytes of the payload it has read, -1 if too few are there, 0 if
the packet belongs to the step that it has set."""
