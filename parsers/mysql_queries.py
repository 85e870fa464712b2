# SPDX-License-Identifier: Apache-2.0
"""The text of a MySQL command, and what it does to the session.

Spec: MySQL "COM_QUERY", "Binary Protocol Value"; MySQL 8 Reference Manual, "USE Statement".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from parsers.cache import Cache
from parsers.model import ParseError
from parsers.mysql_wire import lenenc
from parsers.reader import Reader
from parsers.sql import MAX_TEXT, Dialect
from parsers.sql_masking import mask

MAX_TEXT_BYTES: Final = MAX_TEXT + 1
"""Read of a statement; the rest of a longer one (a dump's INSERT) says nothing new. One more than
is looked at shows that there is more."""
MAX_CACHED_BYTES: Final = 4096
"""Longer statements hardly ever repeat byte by byte."""
ENTRY_BYTES: Final = 400
"""What a remembered statement takes besides its text, about."""
MAX_STATEMENTS: Final = 4096
"""Prepared on one connection. The servers allow 16,382 on all together."""
MAX_STATEMENT_BYTES: Final = 2 * 1024 * 1024
"""Of their texts."""

NAME: Final = r"(`(?:[^`]|``)+`|[^\s;`\"']+)"
USE: Final = re.compile(rf"\s*use\s+{NAME}\s*;?\s*", re.IGNORECASE)
CHANGES: Final = re.compile(
    rf"(?:\A|;|\*/)\s*use\b|\bdrop\s+(?:database|schema)\s+(?:if\s+exists\s+)?{NAME}?",
    re.IGNORECASE,
)
"""What leaves another database current, or none."""
USE_WORD: Final = re.compile(r"use(?!\w)")
DROP_WORD: Final = re.compile(r"drop(?!\w)")

FIXED_SIZES: Final = {
    **dict.fromkeys((0x01,), 1),
    **dict.fromkeys((0x02, 0x0D), 2),
    **dict.fromkeys((0x03, 0x04, 0x09), 4),
    **dict.fromkeys((0x05, 0x08), 8),
    0x06: 0,
}
"""Bytes of a value by its type: integers, year, float, double, NULL."""
TEMPORAL: Final = frozenset({0x07, 0x0A, 0x0B, 0x0C})
"""A byte of length and as many."""


@dataclass(slots=True, frozen=True, eq=False)
class Query:
    """The text of a statement. The same bytes give the same object, while it is remembered."""

    text: str
    whole: bool
    """The end of the text is there."""
    database: str | None
    """Current after it has succeeded, where it says so."""
    drops: str | None
    """A database that is gone then; empty if it may be any."""


queries: Final[Cache[bytes, Query]] = Cache()
"""By the bytes of the payload behind the command."""


def read_query(reader: Reader, size: int) -> tuple[Query, bool]:
    """The statement in the next `size` bytes, and whether some of it was not captured.

    Where bytes are marked for a recording it is the masked statement, which is all that a
    replay will see.
    """
    start = reader.position
    wanted = min(size, MAX_TEXT_BYTES)
    cut = reader.cut and reader.available < wanted
    if cut:
        wanted = reader.available
    payload = reader.take(wanted)
    marking = reader.marking
    query = None if marking else queries.get(payload)
    if query is None:
        begin = _pass_attributes(reader, payload, start)
        text = payload[begin:]
        if wanted == size:
            # Servers take what programs in C may send along: the end of the string.
            text = text.rstrip(b"\0")
        if marking:
            text = mask(text, Dialect.MYSQL)
            reader.replace(start + begin, text)
        query = _make(text.decode("utf-8", "replace"), whole=wanted == size)
        if wanted == size <= MAX_CACHED_BYTES and not marking:
            queries.keep(payload, query, ENTRY_BYTES + 2 * size)
    if size > wanted:
        reader.skip(size - wanted)
    return query, cut


def _make(text: str, *, whole: bool) -> Query:
    database = drops = None
    if match := USE.fullmatch(text):
        database = _unquote(match[1])
    elif _may_change(text.lower()) and (match := CHANGES.search(text)):
        drops = _unquote(match[1] or "")
    return Query(text, whole, database, drops)


def _may_change(lowered: str) -> bool:
    """Whether to look closer. Searching for a fixed beginning costs next to nothing."""
    return bool(USE_WORD.search(lowered) or DROP_WORD.search(lowered))


def _unquote(name: str) -> str:
    return name[1:-1].replace("``", "`") if name[0:1] == "`" else name


def _pass_attributes(reader: Reader, payload: bytes, origin: int) -> int:
    r"""Where the text begins behind the attributes of a query (CLIENT_QUERY_ATTRIBUTES).

    They begin with their number and the number of sets, which is one: no statement has a
    ``\x01`` there. So the handshake need not have been seen.
    """
    if len(payload) < 2 or payload[1] != 1 or payload[0] > 250:
        return 0
    number = payload[0]
    if not number:
        return 2
    stop = len(payload)
    position = 2 + (number + 7) // 8
    nulls = int.from_bytes(payload[2:position], "little")
    position += 1
    types = []
    for _ in range(number):
        types.append(payload[position] if position < stop else 0)
        size, position = lenenc(payload, position + 2, stop)
        if reader.marking:
            reader.omit(origin + position, origin + min(position + size, stop))
        position += size
    for index, kind in enumerate(types):
        if nulls >> index & 1:
            continue
        fixed = FIXED_SIZES.get(kind)
        if fixed is not None:
            size = fixed
        elif kind in TEMPORAL:
            size = payload[position] if position < stop else 0
            position += 1
        else:
            size, position = lenenc(payload, position, stop)
        if reader.marking:
            reader.omit(origin + position, origin + min(position + size, stop))
        position += size
    if position > stop:
        raise ParseError("attributes longer than the command")
    return position


class Statements:
    """The prepared statements of one connection by number. The oldest are forgotten first."""

    __slots__ = ("_bytes", "_known")

    def __init__(self) -> None:
        self._known: dict[int, Query] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def get(self, number: int) -> Query | None:
        """The text of a statement that was prepared, if that was seen."""
        return self._known.get(number)

    def keep(self, number: int, query: Query) -> None:
        """A statement was prepared."""
        self.drop(number)
        self._known[number] = query
        self._bytes += len(query.text)
        while len(self._known) > MAX_STATEMENTS or self._bytes > MAX_STATEMENT_BYTES:
            self.drop(next(iter(self._known)))

    def drop(self, number: int) -> None:
        """A statement was closed."""
        query = self._known.pop(number, None)
        if query is not None:
            self._bytes -= len(query.text)

    def clear(self) -> None:
        """All were."""
        self._known.clear()
        self._bytes = 0
