# SPDX-License-Identifier: Apache-2.0
r"""How much some bytes look like PostgreSQL.

A tag and a length are little to go by, and half of the letters are tags; but the lengths of a
transfer's messages form a chain, and nearly every message has a form that few bytes have by
chance. Letters of text as a length are more than any message has, so text is none.

Spec: PostgreSQL 17, "Message Formats".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from parsers.model import Kind, Likeness
from parsers.postgresql_wire import (
    CANCEL_CODE,
    ENCRYPTIONS,
    HEADER,
    HEADER_BYTES,
    MAX_STARTUP_BYTES,
    PROTOCOL_3,
    SPECIAL,
)

MAX_FIRST_BYTES: Final = 1 << 26
"""Length of a message up to which it is believed. Servers take 1 GB, of clients nobody knows."""
MAX_CHAIN: Final = 8
"""Messages that are looked at."""
MAX_COLUMNS: Final = 1664
"""postgres/src/include/access/htup_details.h MaxTupleAttributeNumber."""
MAX_PARAMETERS: Final = 65535

TEXT: Final = rb"[^\0-\x08\x0e-\x1f\x7f]"
NAME: Final = rb"[^\0-\x1f\x7f]{0,255}+\0"
QUERY: Final = re.compile(rb"%b*+\0" % TEXT)
PARSE: Final = re.compile(rb"%b%b*+\0" % (NAME, TEXT), re.DOTALL)
BIND: Final = re.compile(rb"%b%b" % (NAME, NAME))
EXECUTE: Final = re.compile(rb"%b[\0-\x7f].{3}" % NAME, re.DOTALL)
OBJECT: Final = re.compile(rb"[SP]%b" % NAME)
SETTING: Final = re.compile(rb"[A-Za-z_][\w.]*+\0[^\0]*+\0")
COMMAND: Final = re.compile(rb"[A-Z][A-Z0-9 ]*+\0")
FIELDS: Final = re.compile(rb"(?:[A-Za-z][^\0]*+\0)++\0", re.DOTALL)
NOTIFICATION: Final = re.compile(rb".{4}[^\0]++\0[^\0]*+\0", re.DOTALL)
COPY_FORMAT: Final = re.compile(rb"[\0\1]..(?:\0[\0\1])*+", re.DOTALL)
STARTUP: Final = re.compile(rb"(?:[A-Za-z_][\w.]*+\0[^\0]*+\0)++\0")
STARTUP_START: Final = re.compile(rb"[A-Za-z_][\w.]*+(?:\0[^\0]*+(?:\0.*+)?)?", re.DOTALL)
TEXT_START: Final = re.compile(rb"%b*+(?:\0.*+)?" % TEXT, re.DOTALL)
COLUMN: Final = re.compile(rb"[^\0]*+\0.{18}", re.DOTALL)

AUTHENTICATIONS: Final = frozenset({0, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12})
SALTED: Final = {0: 4, 2: 4, 3: 4, 5: 8, 6: 4, 7: 4, 9: 4}
"""Length of an authentication request by its kind, where it is fixed."""

Check = Callable[[bytes], bool]
Shape = tuple[int, int, bool, Check]
"""Least and greatest length, whether one such message is proof, and what its body must be."""


def _anything(_: bytes) -> bool:
    return True


def _is(pattern: re.Pattern[bytes]) -> Check:
    return lambda body: pattern.fullmatch(body) is not None


def _u16(body: bytes, position: int) -> int:
    return int.from_bytes(body[position : position + 2], "big")


def _is_parse(body: bytes) -> bool:
    match = PARSE.match(body)
    return match is not None and len(body) == match.end() + 2 + 4 * _u16(body, match.end())


def _is_bind(body: bytes) -> bool:
    match = BIND.match(body)
    if match is None:
        return False
    position = match.end()
    formats = _u16(body, position)
    position += 2 + 2 * formats
    values = _u16(body, position)
    if formats not in {0, 1, values}:
        return False
    position = _values(body, position + 2, values)
    return position >= 0 and len(body) == position + 2 + 2 * _u16(body, position)


def _values(body: bytes, position: int, number: int) -> int:
    """Where so many values end, each with its length; -1 if they do not fit."""
    for _ in range(number):
        size = int.from_bytes(body[position : position + 4], "big", signed=True)
        position += 4 + max(size, 0)
        if size < -1 or position > len(body):
            return -1
    return position


def _is_row(body: bytes) -> bool:
    number = _u16(body, 0)
    return number <= MAX_COLUMNS and _values(body, 2, number) == len(body)


def _is_row_description(body: bytes) -> bool:
    position = 2
    for _ in range(min(_u16(body, 0), MAX_COLUMNS)):
        match = COLUMN.match(body, position)
        if match is None:
            return False
        position = match.end()
    return position == len(body)


def _is_parameter_description(body: bytes) -> bool:
    return len(body) == 2 + 4 * _u16(body, 0)


def _is_copy(body: bytes) -> bool:
    return COPY_FORMAT.fullmatch(body) is not None and len(body) == 3 + 2 * _u16(body, 1)


def _is_authentication(body: bytes) -> bool:
    kind = int.from_bytes(body[:4], "big")
    return kind in AUTHENTICATIONS and SALTED.get(kind, len(body)) == len(body)


def _is_error(body: bytes) -> bool:
    return FIELDS.fullmatch(body) is not None and b"\0C" in body


def _is_function_result(body: bytes) -> bool:
    return _values(body, 0, 1) == len(body)


_BARE: Final[Shape] = (4, 4, False, _anything)
REQUESTS: Final[dict[int, Shape]] = {
    ord("Q"): (5, MAX_FIRST_BYTES, True, _is(QUERY)),
    ord("P"): (8, MAX_FIRST_BYTES, True, _is_parse),
    ord("B"): (12, MAX_FIRST_BYTES, True, _is_bind),
    ord("E"): (9, 1024, True, _is(EXECUTE)),
    ord("D"): (6, 1024, True, _is(OBJECT)),
    ord("C"): (6, 1024, True, _is(OBJECT)),
    ord("S"): _BARE,
    ord("H"): _BARE,
    ord("X"): _BARE,
    ord("c"): _BARE,
    ord("d"): (4, MAX_FIRST_BYTES, False, _anything),
    ord("f"): (5, 65536, False, _anything),
    ord("p"): (5, 65536, False, _anything),
    ord("F"): (14, MAX_FIRST_BYTES, False, _anything),
}
RESPONSES: Final[dict[int, Shape]] = {
    ord("R"): (8, 65536, True, _is_authentication),
    ord("K"): (12, 268, False, _anything),
    ord("S"): (7, 65536, True, _is(SETTING)),
    ord("Z"): (5, 5, True, lambda body: body in {b"I", b"T", b"E"}),
    ord("C"): (6, 68, True, _is(COMMAND)),
    ord("T"): (6, MAX_FIRST_BYTES, True, _is_row_description),
    ord("D"): (6, MAX_FIRST_BYTES, True, _is_row),
    ord("E"): (9, 1 << 20, True, _is_error),
    ord("N"): (9, 1 << 20, True, _is_error),
    ord("A"): (10, 65536, True, _is(NOTIFICATION)),
    ord("G"): (7, 65536, True, _is_copy),
    ord("H"): (7, 65536, True, _is_copy),
    ord("W"): (7, 65536, True, _is_copy),
    ord("V"): (8, MAX_FIRST_BYTES, False, _is_function_result),
    ord("v"): (12, 65536, False, _anything),
    ord("t"): (6, 6 + 4 * MAX_PARAMETERS, False, _is_parameter_description),
    ord("d"): (4, MAX_FIRST_BYTES, False, _anything),
    ord("1"): _BARE,
    ord("2"): _BARE,
    ord("3"): _BARE,
    ord("n"): _BARE,
    ord("s"): _BARE,
    ord("I"): _BARE,
    ord("c"): _BARE,
}
BEGINNINGS: Final[dict[int, re.Pattern[bytes]]] = {
    ord("Q"): TEXT_START,
    ord("P"): TEXT_START,
    ord("B"): TEXT_START,
    ord("E"): TEXT_START,
}
BEGINNINGS_OF_RESPONSES: Final[dict[int, re.Pattern[bytes]]] = {
    ord("R"): re.compile(rb"\0(?:\0(?:\0(?:[\0-\x0c].*+)?)?)?", re.DOTALL),
    ord("T"): re.compile(rb"[\0-\6](?:.(?:%b*+(?:\0.*+)?)?)?" % TEXT, re.DOTALL),
    ord("D"): re.compile(rb"[\0-\6](?:.(?:(?:[\0-\3]|\xff{4}).*+)?)?|\0.\xff{1,3}", re.DOTALL),
    ord("E"): TEXT_START,
    ord("N"): TEXT_START,
    ord("C"): TEXT_START,
    ord("S"): TEXT_START,
}
"""What a message that is not all there must begin with; of others a beginning says little."""


def probe(head: bytes, kind: Kind) -> Likeness:
    """By the chain of lengths and the form of each message."""
    if not head:
        return Likeness.SHORT
    if kind is Kind.REQUEST:
        return _probe_start(head) if not head[0] else _probe_chain(head, REQUESTS, BEGINNINGS)
    # The answer to an SSL or GSS request is a single byte.
    if len(head) == 1 and head in b"NSG":
        return Likeness.SHORT
    return _probe_chain(head, RESPONSES, BEGINNINGS_OF_RESPONSES)


def _probe_chain(
    head: bytes, shapes: dict[int, Shape], beginnings: dict[int, re.Pattern[bytes]]
) -> Likeness:
    position = whole = 0
    proof = begun = False
    while position < len(head) and whole < MAX_CHAIN:
        shape = shapes.get(head[position])
        if shape is None:
            return Likeness.NO
        if len(head) - position < HEADER_BYTES:
            # Four bytes of length of which the first is never more than this.
            if head[position + 1 : position + 2] > b"\x04":
                return Likeness.NO
            break
        tag, size = HEADER(head, position)
        least, most, telling, check = shape
        if not least <= size <= most:
            return Likeness.NO
        body = head[position + HEADER_BYTES : position + 1 + size]
        if len(body) == size - 4:
            if not check(body):
                return Likeness.NO
            proof = proof or telling
            whole += 1
        elif body and tag in beginnings:
            if beginnings[tag].fullmatch(body) is None:
                return Likeness.NO
            begun = True
        position += 1 + size
    if proof or whole > 1:
        return Likeness.CERTAIN
    return Likeness.LIKELY if whole or begun else Likeness.SHORT


def _probe_start(head: bytes) -> Likeness:
    """The packets without a tag that a connection begins with."""
    size = int.from_bytes(head[:4].ljust(4, b"\0"), "big")
    if size > MAX_STARTUP_BYTES or (len(head) >= 4 and size < 8):
        return Likeness.NO
    if len(head) < 8:
        # Of which is known: 3 or 1234, and then 0 to 4 or 5678 to 5680.
        fits = b"\0\3".startswith(head[4:6]) or b"\4\xd2".startswith(head[4:6])
        return Likeness.SHORT if fits else Likeness.NO
    major, minor = _u16(head, 4), _u16(head, 6)
    if major == SPECIAL:
        sized = size == 8 if minor in ENCRYPTIONS else minor == CANCEL_CODE and 16 <= size <= 268
        return Likeness.CERTAIN if sized else Likeness.NO
    body = head[8:size]
    if major != PROTOCOL_3 or len(head) > size:
        return Likeness.NO
    if len(head) == size:
        return Likeness.CERTAIN if STARTUP.fullmatch(body) else Likeness.NO
    if not body:
        return Likeness.SHORT
    return Likeness.LIKELY if STARTUP_START.fullmatch(body) else Likeness.NO
