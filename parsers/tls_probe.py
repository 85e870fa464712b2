# SPDX-License-Identifier: Apache-2.0
"""How much some bytes look like TLS.

A hello is known by its lengths, which must fit each other. Any other record has a header of
three bytes that vary little, and a length: one proves nothing, two in a row do, and so does one of
data that is as long as it says.
"""

from __future__ import annotations

from typing import Final

from parsers.model import Kind, Likeness
from parsers.tls_names import ALERTS
from parsers.tls_wire import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    CLIENT_HELLO,
    FIXED_BYTES,
    HANDSHAKE,
    HEADER_BYTES,
    MAX_HELLO_BYTES,
    MAX_RECORD_BYTES,
    SERVER_HELLO,
    is_header,
    is_hello,
)

NO, SHORT, LIKELY, CERTAIN = Likeness

MIN_HELLO_BYTES: Final = 38
"""Without a session id and extensions (RFC 5246 section 7.4.1.3)."""
MAX_SESSION_ID_BYTES: Final = 32
MIN_SEALED_BYTES: Final = 16
"""No record that is encrypted is shorter: so much proves that nobody has changed it."""
MIN_FINISHED_BYTES: Final = 32
"""The Finished message, encrypted: 16 bytes and that."""
IN_CLEAR: Final = frozenset({4, 11, 12, 13, 14, 15, 16, 22, 23})
"""Handshake messages that follow the hellos before TLS 1.3."""
LEVELS: Final = frozenset({1, 2})
HELLOS: Final = ((CLIENT_HELLO, SERVER_HELLO), (SERVER_HELLO, CLIENT_HELLO))
"""By the kind of message: the hello that it may be, and the one that it cannot be."""


def probe(head: bytes, kind: Kind) -> Likeness:
    """Certain of a hello in its direction, of two records in a row, and of one of data alone."""
    if not head or not is_header(head[0], *_version(head)):
        return NO
    if len(head) < HEADER_BYTES:
        return SHORT
    length = int.from_bytes(head[3:HEADER_BYTES], "big")
    if not 0 < length <= MAX_RECORD_BYTES:
        return NO
    contents = head[HEADER_BYTES : HEADER_BYTES + length]
    own, other = HELLOS[kind]
    if is_hello(head, 0, own):
        likeness = _probe_hello(contents, length)
        if likeness is LIKELY and len(contents) == length:
            # It goes on in the next record.
            return _probe_next(head, HEADER_BYTES + length, HANDSHAKE)
        return likeness
    if not _fits(head[0], contents, length) or (contents and is_hello(head, 0, other)):
        return NO
    if head[0] == APPLICATION_DATA and len(head) == HEADER_BYTES + length:
        # One read or write of one record.
        return CERTAIN
    return _probe_next(head, HEADER_BYTES + length)


def _version(head: bytes) -> tuple[int, int]:
    """The version in a header, or one that fits as long as it is not there."""
    return (head[1] if len(head) > 1 else 3), (head[2] if len(head) > 2 else 3)


def _probe_hello(contents: bytes, length: int) -> Likeness:
    """How much the contents of a record of `length` bytes look like a hello.

    LIKELY as long as there is not enough of it.
    """
    asks = contents[:1] == bytes([CLIENT_HELLO])
    if len(contents) >= 4:
        size = int.from_bytes(contents[1:4], "big")
        # A ClientHello has its last record for itself.
        if not MIN_HELLO_BYTES <= size <= MAX_HELLO_BYTES or (asks and size + 4 < length):
            return NO
    if len(contents) < min(length, 6):
        return SHORT
    if len(contents) < FIXED_BYTES:
        return LIKELY
    session = contents[FIXED_BYTES - 1]
    if session > MAX_SESSION_ID_BYTES:
        return NO
    following = contents[FIXED_BYTES + session : FIXED_BYTES + session + 2]
    if len(following) < 2:
        return LIKELY
    if asks and (following == b"\0\0" or following[1] % 2):
        # How long the list of suites is.
        return NO
    return CERTAIN


def _fits(kind: int, contents: bytes, length: int) -> bool:
    """Whether the contents of a record of `length` bytes, no hello, may be of a type."""
    if kind == CHANGE_CIPHER_SPEC:
        return length == 1 and contents in {b"", b"\1"}
    if kind == ALERT and length == 2:
        level, number = contents[:1], contents[1:]
        return (not level or level[0] in LEVELS) and (not number or number[0] in ALERTS)
    if kind == HANDSHAKE:
        return length >= MIN_FINISHED_BYTES or (
            length >= 4 and (not contents or contents[0] in IN_CLEAR)
        )
    return length >= MIN_SEALED_BYTES


def _probe_next(head: bytes, at: int, kind: int | None = None) -> Likeness:
    """What the header of the second record says of the first; of `kind`, if that is given."""
    following = head[at : at + HEADER_BYTES]
    if not following:
        return LIKELY
    if not is_header(following[0], *_version(following)) or following[2:3] not in {
        b"",
        head[2:3],
    }:
        return NO
    if kind is not None and following[0] != kind:
        return NO
    if len(following) < HEADER_BYTES:
        return LIKELY
    length = int.from_bytes(following[3:], "big")
    return CERTAIN if 0 < length <= MAX_RECORD_BYTES else NO
