# SPDX-License-Identifier: Apache-2.0
"""Records of TLS, and the two hellos in them.

Spec: RFC 8446 sections 4.1 and 5.1, RFC 5246 sections 6.2 and 7.4.1, RFC 6066 section 3
(server_name), RFC 7301 (ALPN), RFC 8701 (GREASE).
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is one
from typing import Final, NamedTuple

from parsers.model import ParseError
from parsers.reader import Reader

CHANGE_CIPHER_SPEC: Final = 20
ALERT: Final = 21
HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23

CLIENT_HELLO: Final = 1
SERVER_HELLO: Final = 2

HEADER_BYTES: Final = 5
MAX_RECORD_BYTES: Final = 2**14 + 2048
"""RFC 5246 section 6.2.3; RFC 8446 allows less."""
MAX_HELLO_BYTES: Final = 2**16 - 1
"""What Go's crypto/tls accepts. With tickets and post-quantum key shares it has 2 to 4 KiB."""
FIXED_BYTES: Final = 39
"""Of both hellos, up to and with the length of the session id."""
MAX_HELLO_RECORDS: Final = 256
"""Over how many records a hello may be spread. Some clients send it in tiny ones on purpose."""

RANDOM: Final = slice(6, 38)
"""Where both hellos have it, from the type of the message on."""
RETRY: Final = sha256(b"HelloRetryRequest").digest()
"""The random of a ServerHello that is a HelloRetryRequest (RFC 8446 section 4.1.3)."""

SERVER_NAME: Final = 0
ALPN: Final = 16
PRE_SHARED_KEY: Final = 41
SUPPORTED_VERSIONS: Final = 43
READ: Final = frozenset({SERVER_NAME, ALPN, SUPPORTED_VERSIONS})
"""Extensions whose contents are used, and so kept in a recording."""

RECORD: Final = Struct(">BBBH")
EXTENSION: Final = Struct(">HH")

Piece = tuple[int, int]
"""Where a part of a message begins: in the message, and in the reader's data."""


class ClientHello(NamedTuple):
    """What is used of a ClientHello, as it was sent."""

    server_name: bytes
    """Contents of the extension; empty if there is none."""
    offered: bytes
    """Contents of the ALPN extension; empty if there is none."""


class ServerHello(NamedTuple):
    """What is used of a ServerHello."""

    version: int
    suite: int
    protocol: bytes
    """Contents of the ALPN extension; empty if there is none."""
    resumed: bool | None
    """Whether it accepts a pre-shared key; None if its message does not say so."""


def read_header(reader: Reader) -> tuple[int, int]:
    """Content type and length of the next record.

    Raises:
        ParseError: it is none.
    """
    kind, major, minor, length = RECORD.unpack(reader.take(HEADER_BYTES))
    if not is_header(kind, major, minor) or length > MAX_RECORD_BYTES:
        raise ParseError(f"record of type {kind}, version {major}.{minor}, length {length}")
    return kind, length


def is_header(kind: int, major: int, minor: int) -> bool:
    """Whether a record may begin so, in SSL 3.0 to TLS 1.3."""
    return CHANGE_CIPHER_SPEC <= kind <= APPLICATION_DATA and major == 3 and minor <= 4


def is_hello(data: bytes, position: int, kind: int) -> bool:
    """Whether the record at `position` begins with a hello in clear, as far as it is here."""
    if data[position] != HANDSHAKE:
        return False
    length = int.from_bytes(data[position + 3 : position + HEADER_BYTES], "big")
    start = position + HEADER_BYTES
    head = data[start : start + min(length, 6)]
    return length > 0 and bytes([kind, 0]).startswith(head[:2]) and head[4:5] in {b"", b"\3"}


def read_client_hello(reader: Reader) -> tuple[ClientHello, bool]:
    """A ClientHello, and whether it is whole: of one that was not captured, what there is.

    Raises:
        ParseError: it is none.
    """
    data, whole, _, pieces = _read_message(reader, CLIENT_HELLO, may_be_cut=True)
    try:
        at = FIXED_BYTES + data[FIXED_BYTES - 1]
        at += 2 + int.from_bytes(data[at : at + 2], "big")
        at += 1 + (data[at] if at < len(data) or whole else 0)
        found = _extensions(data, at, whole=whole)
    except (IndexError, StructError) as error:
        raise ParseError("a ClientHello that is too short") from error
    if reader.marking:
        _omit(reader, pieces, data, found)
    return ClientHello(_contents(data, found, SERVER_NAME), _contents(data, found, ALPN)), whole


def read_server_hello(reader: Reader) -> tuple[ServerHello, int]:
    """A ServerHello, and how much of its record is left behind it.

    Raises:
        ParseError: it is none.
    """
    data, _, rest, pieces = _read_message(reader, SERVER_HELLO)
    try:
        at = FIXED_BYTES + data[FIXED_BYTES - 1]
        suite = int.from_bytes(data[at : at + 2], "big")
        # Behind it, the compression method.
        found = _extensions(data, at + 3, whole=True)
    except (IndexError, StructError) as error:
        raise ParseError("a ServerHello that is too short") from error
    if reader.marking:
        _omit(reader, pieces, data, found)
    version = _contents(data, found, SUPPORTED_VERSIONS) or data[4:6]
    resumed = None if data[RANDOM] == RETRY else PRE_SHARED_KEY in found
    hello = ServerHello(
        int.from_bytes(version, "big"), suite, _contents(data, found, ALPN), resumed
    )
    return hello, rest


def server_name(contents: bytes) -> str:
    """The host name in a server_name extension; empty if there is none."""
    # A list of names, each with its type; only host names are defined.
    if len(contents) < 5 or contents[2] != 0:
        return ""
    size = int.from_bytes(contents[3:5], "big")
    return contents[5 : 5 + size].decode("ascii", "backslashreplace")


def protocol_names(contents: bytes) -> tuple[str, ...]:
    """The names in an ALPN extension, without those that only keep others awake (GREASE)."""
    names = []
    at = 2
    while at < len(contents):
        size = contents[at]
        name = contents[at + 1 : at + 1 + size]
        at += 1 + size
        if name and not _is_grease(name):
            names.append(name.decode("ascii", "backslashreplace"))
    return tuple(names)


def _is_grease(name: bytes) -> bool:
    return len(name) == 2 and name[0] == name[1] and name[0] & 15 == 10


def _read_message(
    reader: Reader, expected: int, *, may_be_cut: bool = False
) -> tuple[bytes, bool, int, list[Piece]]:
    """A handshake message, which may be spread over records.

    Returns the message with its header, whether it is whole, how much is left of its last
    record, and where its parts are.

    Raises:
        ParseError: it is another, or too long.
    """
    data = b""
    size = 4
    pieces = []
    for _ in range(MAX_HELLO_RECORDS):
        kind, rest = read_header(reader)
        if kind != HANDSHAKE or not rest:
            raise ParseError(f"record of type {kind}, length {rest} within a hello")
        pieces.append((len(data), reader.position))
        while rest and len(data) < size:
            part = min(rest, size - len(data))
            here = reader.available
            if part > here and reader.cut and may_be_cut and len(data) + here >= FIXED_BYTES:
                return data + reader.take(here), False, 0, pieces
            data += reader.take(part)
            rest -= part
            if size == 4:
                if data[0] != expected:
                    raise ParseError(f"handshake message {data[0]}")
                if len(data) == size:
                    size += int.from_bytes(data[1:4], "big")
                    if not 42 <= size <= MAX_HELLO_BYTES:
                        raise ParseError(f"hello of {size} bytes")
        if len(data) == size:
            return data, True, rest, pieces
    raise ParseError(f"hello in more than {MAX_HELLO_RECORDS} records")


def _extensions(data: bytes, at: int, *, whole: bool) -> dict[int, slice]:
    """Where the contents of each extension are; `at` is where the block begins.

    Raises:
        ParseError: they are not as long as they say.
    """
    found: dict[int, slice] = {}
    end = len(data)
    if at == end and whole:
        # There were none before TLS 1.2.
        return found
    if whole and at + 2 + int.from_bytes(data[at : at + 2], "big") != end:
        raise ParseError("extensions that do not end with their hello")
    at += 2
    while at < end:
        if not whole and at + 4 > end:
            break
        kind, size = EXTENSION.unpack_from(data, at)
        at += 4 + size
        if kind in found:
            raise ParseError(f"extension {kind} twice")
        if at <= end:
            found[kind] = slice(at - size, at)
        elif whole:
            raise ParseError(f"extension {kind} of {size} bytes")
        elif kind not in READ:
            found[kind] = slice(at - size, end)
    return found


def _contents(data: bytes, found: dict[int, slice], kind: int) -> bytes:
    where = found.get(kind)
    return data[where] if where is not None else b""


def _omit(reader: Reader, pieces: list[Piece], data: bytes, found: dict[int, slice]) -> None:
    """Keep no randoms, session ids, tickets, and keys: only what is used, and all lengths."""
    session = FIXED_BYTES + data[FIXED_BYTES - 1]
    ranges = [(FIXED_BYTES, session)]
    if data[RANDOM] != RETRY:
        ranges.append((RANDOM.start, RANDOM.stop))
    if data[0] == CLIENT_HELLO:
        suites = session + 2 + int.from_bytes(data[session : session + 2], "big")
        ranges.append((session + 2, suites))
    ranges += [(each.start, each.stop) for kind, each in found.items() if kind not in READ]
    for begin, end in ranges:
        for index, (start, position) in enumerate(pieces):
            following = pieces[index + 1][0] if index + 1 < len(pieces) else len(data)
            first, last = max(begin, start), min(end, following)
            if first < last:
                reader.omit(position + first - start, position + last - start)
