# SPDX-License-Identifier: Apache-2.0
"""What the packets of MySQL and MariaDB are made of: numbers, flags, commands, the handshake.

Spec: MySQL "Client/Server Protocol" (source code documentation), pages "Basic Data Types",
"Connection Phase" and "Command Phase"; MariaDB "Client/Server Protocol".

A packet is three bytes of length (little endian), a sequence number that begins at 0 with each
command and wraps, and the payload. A payload of 0xFFFFFF bytes goes on in the next packet.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from parsers.model import ParseError
from parsers.reader import Reader

HEADER_BYTES: Final = 4
MAX_PAYLOAD_BYTES: Final = 0xFFFFFF
"""A payload of as many goes on in the next packet."""
MAX_NAME_BYTES: Final = 1024
"""Of a user or a database: 64 characters in both servers, of up to four bytes."""
MAX_VERSION_BYTES: Final = 256
MAX_AUTH_BYTES: Final = 65_536
"""What a client answers a challenge with; tokens and tickets are the longest."""

# "Capabilities Flags"
CLIENT_MYSQL: Final = 1
"""A server that does not set it has extended capabilities: MariaDB from 10.2 on."""
CLIENT_CONNECT_WITH_DB: Final = 8
CLIENT_COMPRESS: Final = 0x20
CLIENT_PROTOCOL_41: Final = 0x200
CLIENT_SSL: Final = 0x800
CLIENT_SECURE_CONNECTION: Final = 0x8000
CLIENT_PLUGIN_AUTH_LENENC: Final = 1 << 21
CLIENT_DEPRECATE_EOF: Final = 1 << 24
CLIENT_ZSTD: Final = 1 << 26
ANY_CAPABILITIES: Final = ~0
"""Of a server that has not said which it has."""

LOGIN_IN_TLS: Final = 2
"""Sequence number of a client's response to the greeting that comes inside of TLS: number 1 was
the request for it, in clear."""
LOGIN_NUMBERS: Final = frozenset({1, LOGIN_IN_TLS})

# "Server Status Flags"
MORE_RESULTS: Final = 0x0008
CURSOR_EXISTS: Final = 0x0040
SESSION_STATE_CHANGED: Final = 0x4000
SESSION_TRACK_SCHEMA: Final = 1

# "Command Phase"; from 0xFA on of MariaDB.
QUIT: Final = 0x01
INIT_DB: Final = 0x02
QUERY: Final = 0x03
FIELD_LIST: Final = 0x04
CREATE_DB: Final = 0x05
DROP_DB: Final = 0x06
STATISTICS: Final = 0x09
CONNECT: Final = 0x0B
CHANGE_USER: Final = 0x11
BINLOG_DUMP: Final = 0x12
STMT_PREPARE: Final = 0x16
STMT_EXECUTE: Final = 0x17
STMT_SEND_LONG_DATA: Final = 0x18
STMT_CLOSE: Final = 0x19
STMT_RESET: Final = 0x1A
STMT_FETCH: Final = 0x1C
BINLOG_DUMP_GTID: Final = 0x1E
RESET_CONNECTION: Final = 0x1F
CLONE: Final = 0x20
STMT_BULK_EXECUTE: Final = 0xFA

LAST_PREPARED: Final = 0xFFFFFFFF
"""MariaDB: the statement that was prepared last, whose number may not be known yet."""


class Command(NamedTuple):
    """A command by its first byte."""

    name: str
    least: int
    """Bytes of payload, the first byte included."""
    most: int = MAX_PAYLOAD_BYTES


COMMANDS: Final = {
    QUIT: Command("COM_QUIT", 1, 1),
    INIT_DB: Command("COM_INIT_DB", 1, MAX_NAME_BYTES),
    QUERY: Command("COM_QUERY", 1),
    FIELD_LIST: Command("COM_FIELD_LIST", 2, 2 * MAX_NAME_BYTES),
    CREATE_DB: Command("COM_CREATE_DB", 2, MAX_NAME_BYTES),
    DROP_DB: Command("COM_DROP_DB", 2, MAX_NAME_BYTES),
    0x07: Command("COM_REFRESH", 2, 2),
    0x08: Command("COM_SHUTDOWN", 1, 2),
    STATISTICS: Command("COM_STATISTICS", 1, 1),
    0x0A: Command("COM_PROCESS_INFO", 1, 1),
    0x0C: Command("COM_PROCESS_KILL", 5, 5),
    0x0D: Command("COM_DEBUG", 1, 1),
    0x0E: Command("COM_PING", 1, 1),
    CHANGE_USER: Command("COM_CHANGE_USER", 3, 2 * MAX_AUTH_BYTES),
    BINLOG_DUMP: Command("COM_BINLOG_DUMP", 11, MAX_NAME_BYTES),
    0x15: Command("COM_REGISTER_SLAVE", 18, MAX_NAME_BYTES),
    STMT_PREPARE: Command("COM_STMT_PREPARE", 1),
    STMT_EXECUTE: Command("COM_STMT_EXECUTE", 10),
    STMT_SEND_LONG_DATA: Command("COM_STMT_SEND_LONG_DATA", 7),
    STMT_CLOSE: Command("COM_STMT_CLOSE", 5, 5),
    STMT_RESET: Command("COM_STMT_RESET", 5, 5),
    0x1B: Command("COM_SET_OPTION", 3, 3),
    STMT_FETCH: Command("COM_STMT_FETCH", 9, 9),
    BINLOG_DUMP_GTID: Command("COM_BINLOG_DUMP_GTID", 11, MAX_AUTH_BYTES),
    RESET_CONNECTION: Command("COM_RESET_CONNECTION", 1, 1),
    CLONE: Command("COM_CLONE", 1, 1),
    STMT_BULK_EXECUTE: Command("COM_STMT_BULK_EXECUTE", 7),
}
"""Those that a server takes from a client, with the bounds of their lengths."""


def lenenc(data: bytes, position: int, stop: int) -> tuple[int, int]:
    """A length-encoded integer of `data` and where it ends, which is not behind `stop`.

    Raises:
        ParseError: it would, or it is none.
    """
    first = data[position] if position < stop else 0xFF
    position += 1
    if first < 0xFB:
        return first, position
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    if not width or position + width > stop:
        raise ParseError("length-encoded integer")
    return int.from_bytes(data[position : position + width], "little"), position + width


class Greeting(NamedTuple):
    """What a server says first."""

    system: str
    """db.system.name"""
    capabilities: int


UNSEEN_GREETING: Final = Greeting("mysql", ANY_CAPABILITIES)


def read_greeting(reader: Reader, stop: int) -> Greeting:
    """The initial handshake packet ("Protocol::HandshakeV10"), behind its first byte."""
    version = reader.until(b"\0", MAX_VERSION_BYTES)
    start = reader.position
    # Number of the connection, challenge, filler.
    fixed = reader.take(min(15, max(stop - start, 0)))
    if len(fixed) < 15 or fixed[12]:
        raise ParseError("greeting")
    capabilities = int.from_bytes(fixed[13:15], "little")
    if stop - reader.position >= 5:
        # Character set, status, and the upper half.
        capabilities |= int.from_bytes(reader.take(5)[3:], "little") << 16
    if reader.marking:
        reader.omit(start, start + 12)
    reader.skip(stop - reader.position)
    mariadb = b"mariadb" in version.lower() or not capabilities & CLIENT_MYSQL
    return Greeting("mariadb" if mariadb else "mysql", capabilities)


class Login(NamedTuple):
    """What a client answers the greeting with."""

    capabilities: int
    database: str | None
    """None if it cannot be told."""
    encrypts: bool
    """Only asks for TLS ("Protocol::SSLRequest")."""
    to_mariadb: bool
    """It names capabilities that MariaDB alone has: its greeting has offered them."""


def read_login(reader: Reader, stop: int, sequence: int) -> Login:
    """The handshake response ("Protocol::HandshakeResponse41"), in clear or inside of TLS.

    Raises:
        ParseError: it is none.
    """
    start = reader.position
    size = stop - start
    capabilities = int.from_bytes(reader.take(min(2, size)), "little")
    if sequence == LOGIN_IN_TLS and (size <= 32 or not capabilities & CLIENT_PROTOCOL_41):
        raise ParseError("handshake response")
    if not capabilities & CLIENT_PROTOCOL_41 or size < 32:
        # "Protocol::HandshakeResponse320": nothing is of use in it.
        encrypts = size == 5 and bool(capabilities & CLIENT_SSL)
        if size < 6 and not encrypts:
            raise ParseError("handshake response")
        reader.skip(stop - reader.position)
        return Login(capabilities, None, encrypts, to_mariadb=False)
    # Largest packet, character set, filler; the last four are capabilities of MariaDB.
    fixed = reader.take(30)
    capabilities |= int.from_bytes(fixed[:2], "little") << 16
    if fixed[7:26].strip(b"\0"):
        raise ParseError("handshake response")
    if size == 32 and capabilities & CLIENT_SSL:
        return Login(capabilities, "", encrypts=True, to_mariadb=any(fixed[26:]))
    pass_name(reader)
    pass_secret(reader, stop, capabilities)
    database = ""
    if capabilities & CLIENT_CONNECT_WITH_DB and reader.position < stop:
        database = reader.until(b"\0", MAX_NAME_BYTES).decode("utf-8", "replace")
    # Plug-in, attributes of the connection, level of compression.
    reader.skip(stop - reader.position)
    return Login(capabilities, database, encrypts=False, to_mariadb=any(fixed[26:]))


def deprecates_eof(client: int, server: int) -> bool | None:
    """Whether an OK stands for the EOF behind definitions; None if that has to be seen."""
    if client & CLIENT_DEPRECATE_EOF and server == ANY_CAPABILITIES:
        # Clients say what they can, whatever the server.
        return None
    return bool(client & server & CLIENT_DEPRECATE_EOF)


def read_change_user(reader: Reader, stop: int, capabilities: int) -> str:
    """The database that a COM_CHANGE_USER asks for."""
    pass_name(reader)
    pass_secret(reader, stop, capabilities & ~CLIENT_PLUGIN_AUTH_LENENC)
    database = reader.until(b"\0", MAX_NAME_BYTES).decode("utf-8", "replace")
    reader.skip(stop - reader.position)
    return database


def pass_name(reader: Reader) -> None:
    """A user's name, which nobody uses."""
    start = reader.position
    size = len(reader.until(b"\0", MAX_NAME_BYTES))
    if reader.marking:
        reader.omit(start, start + size)


def pass_secret(reader: Reader, stop: int, capabilities: int) -> None:
    """What proves the user: read past, kept nowhere."""
    start = reader.position
    if capabilities & CLIENT_PLUGIN_AUTH_LENENC:
        first = reader.u8()
        width = {0xFC: 2, 0xFD: 3}.get(first, 0)
        size = int.from_bytes(reader.take(width), "little") if width else first
    elif capabilities & CLIENT_SECURE_CONNECTION:
        size = reader.u8()
    else:
        size = len(reader.until(b"\0", MAX_NAME_BYTES))
        if reader.marking:
            reader.omit(start, start + size)
        return
    start = reader.position
    if size > min(stop - start, MAX_AUTH_BYTES):
        raise ParseError(f"{size} bytes of authentication")
    reader.take(size)
    if reader.marking:
        reader.omit(start, start + size)
