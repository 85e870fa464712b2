# SPDX-License-Identifier: Apache-2.0
r"""DNS messages: what their bytes say.

Spec: RFC 1035 section 4 (format), 6891 (EDNS), 6895 (numbers), 2136 (UPDATE), 6762 (mDNS),
9460 (SVCB, HTTPS).

Read are the header, the questions, the addresses of the answers, the extended response code, and
the serial numbers that end a zone transfer. The data of all other records (keys, tokens, text)
is passed over and never kept. Owners of records are not read either, so no pointer into data
that was passed over is ever followed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final

from parsers.model import ParseError

HEADER: Final = Struct("!HHHHHH")
RECORD: Final = Struct("!HHIH")
"""Type, class, TTL and length of the data, behind the owner's name."""

RESPONSE_BIT: Final = 0x8000
TRUNCATED_BIT: Final = 0x0200
RESERVED_BIT: Final = 0x0040
TOP_BIT: Final = 0x8000
"""Of a class: mDNS asks for a private answer, or says that the records are all there are."""

QUERY: Final = 0
NOTIFY: Final = 4
UPDATE: Final = 5
OPCODES: Final = {QUERY: "QUERY", 2: "STATUS", NOTIFY: "NOTIFY", UPDATE: "UPDATE"}
"""Those with messages of this format: IQUERY is obsolete, DSO (RFC 8490) has another."""

A: Final = 1
NS: Final = 2
SOA: Final = 6
AAAA: Final = 28
NETBIOS: Final = 32
NETBIOS_STATUS: Final = 33
OPT: Final = 41
IXFR: Final = 251
AXFR: Final = 252
CLASSES: Final = frozenset({1, 3, 4, 254, 255})
"""IN, CH, HS, NONE, ANY."""

MAX_NAME_BYTES: Final = 255
"""RFC 1035 section 3.1."""
MAX_POINTERS: Final = 64
"""In one name. Each goes back, so no more than this many are of any use."""
MAX_ADDRESSES: Final = 32
"""Of one message that are told; a datagram without EDNS has room for 29."""
MAX_CODE: Final = 11
"""The last response code of the header that means something."""
MAX_QUESTIONS: Final = 64
"""mDNS asks many at once, as many as fit a datagram of 1500 bytes."""
NETBIOS_LABEL: Final = 32
"""A NetBIOS name is one label of that many letters from A to P (RFC 1002 section 4.1)."""
SERIAL_FROM_END: Final = 20
"""Where the serial number of a SOA is: behind it are four more numbers."""

POINTER: Final = 0xC0
PLAIN: Final = frozenset(range(0x21, 0x7F)) - frozenset(b'.\\"')


class ShortError(ParseError):
    """What is there may be the beginning of a message."""


@dataclass(slots=True, frozen=True, eq=False)
class Content:
    """What a message says, but for its id."""

    flags: int
    opcode: int
    code: int
    """Response code, with the upper bits that EDNS has."""
    questions: int
    name: str
    """Of the first question, as it is written; "" if there is none."""
    type: int
    klass: int
    key: tuple[str, int, int] | None
    """What an answer must repeat; None if nothing names it."""
    addresses: tuple[str, ...]
    """IP addresses of the answers."""
    answers: int
    """Records of the answer section that are there."""
    serials: tuple[int, ...]
    """Of the SOA records of the answer section."""
    end: int
    """Index one past the last record."""
    cut: bool
    """The end is not there."""

    @property
    def is_response(self) -> bool:
        return bool(self.flags & RESPONSE_BIT)

    @property
    def is_truncated(self) -> bool:
        return bool(self.flags & TRUNCATED_BIT)


def decode(
    data: bytes, omit: Callable[[int, int], None] | None = None, *, cut: bool = False
) -> Content:
    """Read a message from its first byte on; `omit` is told what of it was not used.

    With `cut` its end may be missing.

    Raises:
        ParseError: it is none.
    """
    if len(data) < HEADER.size:
        raise ShortError("no whole header")
    _, flags, questions, answers, authorities, additions = HEADER.unpack_from(data)
    opcode = flags >> 11 & 15
    if opcode not in OPCODES:
        raise ParseError(f"opcode {opcode}")
    if questions > MAX_QUESTIONS:
        raise ParseError(f"{questions} questions")
    name, kind, klass = "", 0, 0
    key = None
    position = HEADER.size
    reading = _Records(data, omit)
    try:
        for index in range(questions):
            if index:
                position = skip_name(data, position)
            else:
                name, position = read_name(data, position)
            if index == 0:
                kind = data[position] << 8 | data[position + 1]
                klass = data[position + 2] << 8 | data[position + 3]
                key = name.lower(), kind, klass & ~TOP_BIT
            position += 4
    except IndexError:
        position = len(data) + 1
    if position > len(data):
        raise ShortError("no whole question")
    short = False
    try:
        if key is None and answers and flags & RESPONSE_BIT:
            # mDNS: an answer says by itself what to.
            owner, at = read_name(data, position)
            kind, klass = int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 2 : at + 4])
            key = owner.lower(), kind, klass & ~TOP_BIT
        if answers:
            position = reading.read(position, answers, answering=True)
        if authorities or additions:
            position = reading.read(position, authorities + additions, answering=False)
    except IndexError:
        # A server that truncates may leave the counts as they were.
        short = True
        if not cut and not flags & TRUNCATED_BIT:
            raise ShortError("no whole record") from None
        position = len(data)
    return Content(
        flags,
        opcode,
        flags & 15 | reading.code << 4,
        questions,
        name,
        kind,
        klass,
        key,
        tuple(reading.addresses),
        reading.answers,
        tuple(reading.serials),
        position,
        short and cut,
    )


class _Records:
    """What is read of records on the way."""

    __slots__ = ("_data", "_omit", "addresses", "answers", "code", "serials")

    def __init__(self, data: bytes, omit: Callable[[int, int], None] | None) -> None:
        self._data = data
        self._omit = omit
        self.addresses: list[str] = []
        self.answers = 0
        self.serials: list[int] = []
        self.code = 0

    def read(self, position: int, number: int, *, answering: bool) -> int:
        """Read that many records; where they end.

        Raises:
            IndexError: they are not all there.
            ParseError: what is there are no records.
        """
        data, omit = self._data, self._omit
        end = len(data)
        for _ in range(number):
            if data[position] >= POINTER:
                # As most of them.
                if (data[position] << 8 | data[position + 1]) & 0x3FFF >= position:
                    raise ParseError("a pointer that does not go back")
                start = position + 2 + RECORD.size
            else:
                start = skip_name(data, position) + RECORD.size
            if start > end:
                raise IndexError
            kind, _, ttl, size = RECORD.unpack_from(data, start - RECORD.size)
            position = start + size
            if position > end:
                if omit is not None:
                    omit(start, end)
                raise IndexError
            if answering:
                self.answers += 1
                if (kind == A and size == 4) or (kind == AAAA and size == 16):
                    if len(self.addresses) < MAX_ADDRESSES:
                        self.addresses.append(_address(data[start:position]))
                        continue
                elif kind == SOA and size > SERIAL_FROM_END:
                    at = position - SERIAL_FROM_END
                    self.serials.append(int.from_bytes(data[at : at + 4]))
                    if omit is not None:
                        omit(start, at)
                        omit(at + 4, position)
                    continue
            elif kind == OPT:
                self.code = ttl >> 24
            if omit is not None and size:
                omit(start, position)
        return position


def read_name(data: bytes, position: int) -> tuple[str, int]:
    r"""The name at `position` as text without the final dot, and where it ends.

    What is no plain character of a host name is written as `\.` or `\123` (RFC 1035 section
    5.1); names in another script stay as they came (`xn--...`).

    Raises:
        IndexError: its end is not there.
        ParseError: it is none.
    """
    labels: list[bytes] = []
    total = 0
    end = -1
    lowest = position
    for _ in range(MAX_POINTERS):
        size = data[position]
        while 0 < size < 64:
            position += 1
            label = data[position : position + size]
            position += size
            total += size + 1
            if total >= MAX_NAME_BYTES:
                raise ParseError("a name of more than 255 bytes")
            labels.append(label)
            size = data[position]
        if size == 0:
            return _text(tuple(labels)) or ".", position + 1 if end < 0 else end
        if size < POINTER:
            raise ParseError(f"label of type {size >> 6}")
        target = (size & 0x3F) << 8 | data[position + 1]
        if end < 0:
            end = position + 2
        if not HEADER.size <= target < lowest:
            raise ParseError("a pointer that does not go back")
        position = lowest = target
    raise ParseError(f"more than {MAX_POINTERS} pointers")


def skip_name(data: bytes, position: int) -> int:
    """Where the name at `position` ends.

    Raises:
        IndexError: its end is not there.
        ParseError: it is none.
    """
    limit = position + MAX_NAME_BYTES
    start = position
    while size := data[position]:
        if size >= POINTER:
            if ((size & 0x3F) << 8 | data[position + 1]) >= start:
                raise ParseError("a pointer that does not go back")
            return position + 2
        if size >= 64:
            raise ParseError(f"label of type {size >> 6}")
        position += size + 1
        if position >= limit:
            raise ParseError("a name of more than 255 bytes")
    return position + 1


def looks_like_netbios(content: Content) -> bool:
    """The name service of NetBIOS (RFC 1002) has the format of DNS."""
    if content.type not in {NETBIOS, NETBIOS_STATUS}:
        return False
    label = content.name.partition(".")[0]
    return len(label) == NETBIOS_LABEL and min(label) >= "A" and max(label) <= "P"


@lru_cache(maxsize=4096)
def _text(labels: tuple[bytes, ...]) -> str:
    return ".".join(
        label.decode("ascii") if PLAIN.issuperset(label) else _escaped(label) for label in labels
    )


def _escaped(label: bytes) -> str:
    return "".join(
        chr(byte) if byte in PLAIN else f"\\{chr(byte)}" if byte in b'.\\"' else f"\\{byte:03}"
        for byte in label
    )


@lru_cache(maxsize=4096)
def _address(packed: bytes) -> str:
    if len(packed) == 4:
        return "{}.{}.{}.{}".format(*packed)
    return str(ipaddress.IPv6Address(packed))
