# SPDX-License-Identifier: Apache-2.0
"""What a recording keeps of messages: no values.

Of statements it keeps what is left without their literals, of messages that nobody reads nothing.
But after a loss, and for a connection that was joined late, `probe` looks at the form of
messages, and a replay must find there what was found live. So in place of the contents stand
some of the same length and form: one column, one setting.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from parsers.postgresql_messages import Prefix
from parsers.reader import Reader
from parsers.sql_literals import Dialect
from parsers.sql_masking import mask as mask_literals

MAX_TEXT_BYTES: Final = 64 * 1024
"""Of a statement that are read: four for each character that parsers/sql.py reads."""
MAX_FILLER_BYTES: Final = 64 * 1024
"""Longer messages that are filled as a whole are blanked."""

FILL: Final = b"x"
COLUMN_BYTES: Final = 18
"""Of a column in a RowDescription, behind its name."""
VALUES: Final = struct.Struct(">HI").pack
VALUE: Final = struct.Struct(">I").pack
PARAMETERS: Final = struct.Struct(">HHI").pack


def _row(size: int) -> bytes:
    """One value. Of a row without columns, and of one that is not well-formed, nothing."""
    return VALUES(1, size - 6) if size >= 6 else b"\0\0"[:size]


def _value(size: int) -> bytes:
    return VALUE(size - 4) if size > 4 else b"\xff" * size


def _columns(size: int) -> bytes:
    if size < 3 + COLUMN_BYTES:
        return b"\0\0"[:size]
    return b"\0\1" + FILL * (size - 3 - COLUMN_BYTES) + bytes(1 + COLUMN_BYTES)


def _setting(size: int) -> bytes:
    return (FILL * (size - 2) + b"\0\0")[:size]


def _notification(size: int) -> bytes:
    return (FILL * (size - 2) + b"\0\0")[:size]


def error(size: int, told: bytes) -> bytes:
    r"""A notice or error of which nothing but `told`, fields like ``C42601\0``, is known."""
    told = b"S\0" + told
    left = size - len(told) - 1
    if left < 0:
        return b"\xff" * size
    message = b"M" + FILL * (left - 2) + b"\0" if left > 1 else b""
    return (told + message + b"\0").ljust(size, b"\0")


def _notice(size: int) -> bytes:
    return error(size, b"C00000\0")


PREFIXES: Final[dict[int, Callable[[int], bytes]]] = {ord("D"): _row, ord("V"): _value}
"""Of messages of any length: what stands in for their beginning; the rest is blanked."""
FILLERS: Final[dict[int, Callable[[int], bytes]]] = {
    ord("A"): _notification,
    ord("N"): _notice,
    ord("S"): _setting,
    ord("T"): _columns,
}
KEPT: Final = frozenset(b"GHWt")
"""Formats and types, which are no secrets."""


def skip(reader: Reader, tag: int, stop: int) -> None:
    """Pass over the body, up to `stop`, of a message from the server."""
    start = reader.position
    if reader.marking:
        if tag in KEPT and stop <= reader.end:
            reader.position = stop
            return
        mark(reader, tag, start, stop)
    reader.skip(stop - start)


def mark(reader: Reader, tag: int, start: int, stop: int) -> None:
    """Say what a recording keeps of the body between `start` and `stop`, as far as it is here."""
    size = stop - start
    prefix = PREFIXES.get(tag)
    filler = FILLERS.get(tag)
    if prefix is not None:
        reader.replace(start, prefix(size)[: max(reader.end - start, 0)])
    elif filler is not None and size <= MAX_FILLER_BYTES:
        reader.replace(start, filler(size)[: max(reader.end - start, 0)])


def mark_parameters(reader: Reader, start: int, stop: int) -> None:
    """The same of what follows the names in a Bind."""
    size = stop - start
    here = max(reader.end - start, 0)
    if size < 10:
        # Too little for a value: there is none.
        reader.replace(start, bytes(size)[:here])
    else:
        reader.replace(start, PARAMETERS(0, 1, size - 10)[:here])
        if stop <= reader.end:
            reader.replace(stop - 2, b"\0\0")


def read_statement(reader: Reader, start: int, stop: int) -> bytes | None:
    """The statement that begins at `start` in a message up to `stop`; None if it goes on.

    A recording keeps it without its literals, and then that is what the spans show as well.
    """
    limit = min(stop, start + MAX_TEXT_BYTES)
    if limit > reader.end:
        if not reader.cut:
            return None
        limit = reader.end
    zero = reader.data.find(b"\0", start, limit)
    whole = zero >= 0
    text = reader.data[start : zero if whole else limit]
    if reader.marking:
        text = mask_literals(text, Dialect.POSTGRESQL, whole=whole)
        reader.replace(start, text)
    reader.position = start + len(text) + whole
    return text if whole else Prefix(text)
