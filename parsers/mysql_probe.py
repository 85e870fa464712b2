# SPDX-License-Identifier: Apache-2.0
"""How much some first bytes look like MySQL.

Little is fixed in this protocol: three bytes of length, a number, and a byte that says what
follows. So all that is there is followed: each packet has to be as long as what it claims to be,
its number has to be the next, and only SQL, a greeting, a login or an SQLSTATE is proof. Bytes
that a recording leaves out (names, messages, values) are not looked at, so that a replay decides
the same.
"""

from __future__ import annotations

import re
from typing import Final

from parsers.model import Likeness
from parsers.mysql_packets import (
    DEFINITION,
    EOF,
    EOF_BYTES,
    ERR,
    GREETING,
    LOCAL_INFILE,
    MAX_OK_BYTES,
    OK,
    OK_LEAST_BYTES,
    PROGRESS,
)
from parsers.mysql_wire import (
    CLIENT_PROTOCOL_41,
    CLIENT_SECURE_CONNECTION,
    CLIENT_SSL,
    COMMANDS,
    CREATE_DB,
    DROP_DB,
    HEADER_BYTES,
    INIT_DB,
    LOGIN_IN_TLS,
    MAX_AUTH_BYTES,
    MAX_NAME_BYTES,
    MAX_VERSION_BYTES,
    QUERY,
    STMT_BULK_EXECUTE,
    STMT_EXECUTE,
    STMT_PREPARE,
)

NO: Final = Likeness.NO
SHORT: Final = Likeness.SHORT
LIKELY: Final = Likeness.LIKELY
CERTAIN: Final = Likeness.CERTAIN

MAX_PACKETS: Final = 4
"""Followed; what has got so far is what it looks like."""
NAMES: Final = frozenset({INIT_DB, CREATE_DB, DROP_DB})
TEXT_BYTES: Final = 256
"""Of a statement that are looked at."""
SQL: Final = re.compile(
    rb"(?:[\s(;]|/\*(?:[^*]|\*(?!/))*\*/|--[ \t][^\n]*\n|\#[^\n]*\n)*+"
    rb"(?:alter|analyze|begin|binlog|call|change|check|checksum|commit|create|deallocate|delete|desc|describe|do|drop|execute|explain"
    rb"|flush|get|grant|handler|help|insert|install|kill|load|lock|optimize|prepare|purge|release"
    rb"|rename|repair|replace|reset|resignal|revoke|rollback|savepoint|select|set|show|shutdown"
    rb"|signal|start|stop|table|truncate|uninstall|unlock|update|use|values|with|xa)\b",
    re.IGNORECASE,
)
BEGINNING: Final = re.compile(
    rb"[\s(;]*+(?:/\*.*|--[ \t]?[^\n]*|\#[^\n]*|[A-Za-z]{0,10}|[/-])", re.DOTALL
)
"""What may yet become a statement."""
UNPRINTABLE: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
VERSION: Final = re.compile(rb"[\x20-\x7e]+")
STATE: Final = re.compile(rb"[0-9A-Z]{5}")
STATUS_BITS: Final = 0x7FFF
MAX_ERROR: Final = 20_000
MIN_ERROR: Final = 1000
UPTIME: Final = b"Uptime: "
"""How the text begins that answers COM_STATISTICS, in all servers."""


def probe_request(head: bytes) -> Likeness:
    """A command, several of them, or a login in clear or inside of TLS."""
    best = SHORT
    position = 0
    for _ in range(MAX_PACKETS):
        if position >= len(head):
            break
        likeness, position = _command(head, position)
        if likeness in {NO, SHORT}:
            return likeness if likeness is NO or best is SHORT else best
        best = max(best, likeness)
    return best


def probe_response(head: bytes) -> Likeness:
    """A greeting, or the beginning of a response."""
    size = int.from_bytes(head[:3], "little")
    if len(head) <= HEADER_BYTES:
        return NO if len(head) > 2 and not size else SHORT
    sequence, first = head[3], head[HEADER_BYTES]
    payload = head[HEADER_BYTES : HEADER_BYTES + size]
    rest = head[HEADER_BYTES + size :]
    if not size:
        return NO
    if first == ERR:
        return _error(payload, rest, size, sequence)
    if not sequence:
        return _greeting(payload, rest, size) if first == GREETING else NO
    is_whole = len(payload) == size
    if first == OK:
        likeness = _ok(payload, rest, size, sequence)
    elif first == EOF:
        likeness = LIKELY if size == EOF_BYTES and is_whole else NO
    elif first == LOCAL_INFILE:
        likeness = LIKELY if is_whole and not rest and 1 < size < MAX_NAME_BYTES else NO
    elif 20 < size <= MAX_OK_BYTES and first in {DEFINITION[0], UPTIME[0]}:
        likeness = _text_of_server(payload)
    elif size <= 4 and sequence < 0xFF:
        likeness = _columns(payload, rest, size, sequence)
    else:
        likeness = NO
    return likeness


def _command(head: bytes, start: int) -> tuple[Likeness, int]:
    """What a packet of the client looks like, and where the next begins."""
    word = head[start : start + HEADER_BYTES]
    size = int.from_bytes(word[:3], "little")
    if len(word) < HEADER_BYTES:
        return (NO if len(word) == 3 and not size else SHORT), start
    body = start + HEADER_BYTES
    payload = head[body : body + min(size, MAX_AUTH_BYTES)]
    sequence = word[3]
    if not size or (sequence and (start or sequence > LOGIN_IN_TLS)):
        return NO, start
    if sequence:
        return _login(payload, size, len(head) - body, sequence), body + size
    if not payload:
        return SHORT, start
    code = payload[0]
    command = COMMANDS.get(code)
    if command is None or not command.least <= size <= command.most:
        return NO, start
    is_whole = len(head) - body >= size
    if code in {QUERY, STMT_PREPARE}:
        likeness = _text(payload[1:], is_whole=is_whole)
    elif code in {STMT_EXECUTE, STMT_BULK_EXECUTE}:
        likeness = _execution(payload, code)
    elif is_whole:
        is_name = code in NAMES and UNPRINTABLE.search(payload, 1)
        likeness = NO if is_name else LIKELY
    else:
        # Only what is short comes in pieces.
        likeness = SHORT if command.most <= 2 * MAX_AUTH_BYTES else NO
    return likeness, body + size


def _text(text: bytes, *, is_whole: bool) -> Likeness:
    if len(text) < 2:
        return NO if is_whole else SHORT
    if text[1] == 1:
        # Attributes come first; their values may be anything.
        return _behind_attributes(text, is_whole=is_whole)
    text = (text.rstrip(b"\0") if is_whole else text)[:TEXT_BYTES]
    if UNPRINTABLE.search(text):
        return NO
    match = SQL.match(text)
    if match is not None and (is_whole or match.end() < len(text)):
        return CERTAIN
    if is_whole and len(text) < TEXT_BYTES:
        return NO
    return SHORT if BEGINNING.fullmatch(text) else NO


def _behind_attributes(text: bytes, *, is_whole: bool) -> Likeness:
    if not text[0]:
        if len(text) == 2:
            return NO if is_whole else SHORT
        if text[3:4] == b"\1":
            return NO
        return _text(text[2:], is_whole=is_whole)
    bound = 2 + (text[0] + 7) // 8
    if text[0] > 250:
        return NO
    if len(text) <= bound:
        return NO if is_whole else SHORT
    return LIKELY if text[bound] == 1 else NO


def _execution(payload: bytes, code: int) -> Likeness:
    if len(payload) < 7:
        return SHORT
    if code == STMT_BULK_EXECUTE:
        # Flags: types are sent, generated numbers are wanted.
        return LIKELY if payload[5] & ~0xC0 == 0 and not payload[6] else NO
    if len(payload) < 10:
        return SHORT
    # Kind of cursor, and how often to execute it.
    return LIKELY if payload[5] & ~0x8F == 0 and payload[6:10] == b"\1\0\0\0" else NO


def _login(payload: bytes, size: int, there: int, sequence: int) -> Likeness:
    if size < 32 or size > MAX_AUTH_BYTES or there > size:
        return NO
    if len(payload) < 32:
        return SHORT if not payload[13:28].strip(b"\0") else NO
    capabilities = int.from_bytes(payload[:4], "little")
    if not capabilities & CLIENT_PROTOCOL_41 or payload[9:28].strip(b"\0"):
        return NO
    if sequence == LOGIN_IN_TLS:
        # CLIENT_SSL was for the request in clear: not every client sets it again.
        return CERTAIN if size > 32 and capabilities & CLIENT_SECURE_CONNECTION else NO
    return CERTAIN if size > 32 or capabilities & CLIENT_SSL else NO


def _greeting(payload: bytes, rest: bytes, size: int) -> Likeness:
    if rest or not 30 <= size <= 1024:
        return NO
    version, ended, behind = payload[1 : MAX_VERSION_BYTES + 1].partition(b"\0")
    if not ended:
        is_text = not version or VERSION.fullmatch(version)
        return SHORT if is_text and len(version) < MAX_VERSION_BYTES else NO
    if not VERSION.fullmatch(version) or not any(digit in version for digit in b"0123456789"):
        return NO
    if len(behind) < 13:
        return SHORT
    if behind[12]:
        return NO
    return CERTAIN if len(payload) == size else SHORT


def _error(payload: bytes, rest: bytes, size: int, sequence: int) -> Likeness:
    if size < 3 or size > MAX_NAME_BYTES:
        return NO
    if len(payload) < 3:
        return SHORT
    code = int.from_bytes(payload[1:3], "little")
    if code == PROGRESS:
        return LIKELY if sequence else NO
    if not MIN_ERROR <= code < MAX_ERROR or rest:
        return NO
    if len(payload) < min(size, 9):
        return SHORT if payload[3:4] in {b"", b"#"} else NO
    if payload[3:4] == b"#" and STATE.fullmatch(payload[4:9]):
        return CERTAIN if len(payload) == size else LIKELY
    # Before the login there is no SQLSTATE.
    return LIKELY if not sequence and len(payload) == size else NO


def _text_of_server(payload: bytes) -> Likeness:
    """A definition, or the text that answers COM_STATISTICS."""
    for start in (DEFINITION, UPTIME):
        if payload[: len(start)] == start[: len(payload)]:
            return LIKELY if len(payload) >= len(start) else SHORT
    return NO


def _ok(payload: bytes, rest: bytes, size: int, sequence: int) -> Likeness:
    """An OK; or what else begins with a zero: a prepared statement, a row."""
    if len(payload) < min(size, OK_LEAST_BYTES):
        return SHORT if size <= MAX_OK_BYTES else NO
    if size < OK_LEAST_BYTES or size > MAX_OK_BYTES:
        return _packets(rest, sequence) if len(payload) == size else NO
    if payload[1] < 0xFB and payload[2] < 0xFB:
        status = int.from_bytes(payload[3:5], "little")
        warnings = int.from_bytes(payload[5:7], "little")
        if status & 3 and not status & ~STATUS_BITS and warnings < 1000 and not rest:
            return LIKELY
    if size == 12 and len(payload) == 12 and not payload[9]:
        return LIKELY
    if len(payload) < size:
        return SHORT if not rest else NO
    return _packets(rest, sequence)


def _packets(rest: bytes, sequence: int) -> Likeness:
    """What has to follow a packet: others with the next numbers."""
    found = 0
    while rest and found < MAX_PACKETS:
        sequence = sequence + 1 & 0xFF
        if len(rest) < HEADER_BYTES:
            return SHORT
        if rest[3] != sequence:
            return NO
        size = int.from_bytes(rest[:3], "little")
        rest = rest[HEADER_BYTES + size :]
        found += 1
    return LIKELY if found else SHORT


def _columns(payload: bytes, rest: bytes, size: int, sequence: int) -> Likeness:
    """A number of columns, with their definitions or without."""
    if len(payload) < size:
        return SHORT
    width = 1 if payload[0] < 0xFB else 3
    if width > size or (width == 3 and payload[0] != 0xFC) or size > width + 1:
        return NO
    if size > width and payload[width] > 1:
        return NO
    if not rest:
        return SHORT
    if len(rest) > 3 and rest[3] != sequence + 1 & 0xFF:
        return NO
    if size > width and not payload[width]:
        return _packets(rest, sequence)
    if not DEFINITION.startswith(rest[HEADER_BYTES : HEADER_BYTES + 4]):
        return NO
    return CERTAIN if len(rest) >= HEADER_BYTES + 4 else SHORT
