# SPDX-License-Identifier: Apache-2.0
"""The frame of PostgreSQL's messages: a tag, and a length that counts itself but not the tag.

Spec: PostgreSQL 17, "Frontend/Backend Protocol", section "Messaging Overview".
"""

from __future__ import annotations

import struct
from typing import Final

from parsers.model import ParseError
from parsers.reader import Reader

MAX_MESSAGE_BYTES: Final = 0x3FFFFFFF
"""postgres/src/include/libpq/libpq.h PQ_LARGE_MESSAGE_LIMIT."""
MAX_STARTUP_BYTES: Final = 10_000
"""postgres/src/include/libpq/pqcomm.h MAX_STARTUP_PACKET_LENGTH."""

HEADER_BYTES: Final = 5
HEADER: Final = struct.Struct(">BI").unpack_from

PROTOCOL_3: Final = 3
SPECIAL: Final = 1234
"""Major version of requests that are no start-up (pqcomm.h CANCEL_REQUEST_CODE)."""
CANCEL_CODE: Final = 5678
ENCRYPTIONS: Final = {5679: "tls", 5680: "gss-encrypted"}
"""What the connection speaks if the server says yes, by minor version."""


def header(reader: Reader) -> tuple[int, int]:
    """Tag of the next message, and where it ends in `reader.data`.

    Raises:
        ParseError: no message is as long.
    """
    start = reader.position
    tag, size = HEADER(reader.take(HEADER_BYTES))
    if not 4 <= size <= MAX_MESSAGE_BYTES:
        raise ParseError(f"tag {tag} length {size}")
    return tag, start + 1 + size
