# SPDX-License-Identifier: Apache-2.0
"""SQL as a recording keeps it: without its values, and as many bytes as it was.

``WHERE name = 'O''Neil' AND age > 42`` becomes ``WHERE name = ? AND age > ?`` and spaces up to
the old length, so that lengths and framing stay. What is masked is exactly what is masked in
attributes (parsers/sql_literals.py), and masking twice changes nothing.

A parser that marks bytes for a recording should go on with the masked text itself: then live and
replayed spans are the same by construction, whatever is made of the text.
"""

from __future__ import annotations

import re
from typing import Final

from parsers.sql_literals import MASK, Dialect, Setting
from parsers.sql_literals import mask as mask_literals

ENCODING: Final = "latin-1"
"""Any byte is a character: to servers and to `mask` bytes from 0x80 on are letters."""
SETS: Final = re.compile(r"\bset\b", re.IGNORECASE)
TOKEN: Final = re.compile(r'"[^"]*+"|[A-Za-z0-9_$\x80-\xff]++|[^\s]')


def mask(text: bytes, dialect: Dialect, *, whole: bool = True) -> bytes:
    """`text` with its literals and comments masked, padded to its length.

    `whole`: nothing is missing at the end of it.
    """
    shape = mask_literals(text.decode(ENCODING), dialect, whole=whole)
    if dialect is Dialect.POSTGRESQL and SETS.search(shape):
        shape = _mask_settings(shape)
    masked = shape.encode(ENCODING)
    return masked.ljust(len(text)) if len(masked) <= len(text) else bytes(b" " * len(text))


def _mask_settings(shape: str) -> str:
    """Without the values of settings, which need no quotes: SET role TO secret."""
    setting = Setting()
    return TOKEN.sub(lambda match: MASK if setting.hides(match[0]) else match[0], shape)
