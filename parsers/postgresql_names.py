# SPDX-License-Identifier: Apache-2.0
"""Names of a PostgreSQL session that stand for query texts: prepared statements and portals.

Spec: PostgreSQL 17, "Message Flow", section "Extended Query": the unnamed ones are overwritten
by each Parse and Bind and destroyed by a simple query; named ones live until they are closed.
"""

from __future__ import annotations

import re
from typing import Final

MAX_NAMES: Final = 10_000
"""Of a kind on one connection. Drivers keep 100 to 1000 statements."""
MAX_TEXT_BYTES: Final = 4 * 1024 * 1024
"""Of all texts that a connection has names for."""
MAX_REMOVAL_BYTES: Final = 256
"""How long a statement is that does nothing but remove names."""

REMOVAL: Final = re.compile(
    rb'\s*+(?:(DISCARD\s+ALL)|DEALLOCATE\s+(?:PREPARE\s+)?(?:(ALL)|([a-z_]\w*+)|"([^"]++)"))\s*+;?\s*+',
    re.IGNORECASE,
)


class Names:
    """Texts by name; of too many the oldest go, and are then unknown."""

    __slots__ = ("_bytes", "_named", "_unnamed")

    def __init__(self) -> None:
        self._unnamed: bytes | None = None
        self._named: dict[bytes, bytes] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._named)

    def get(self, name: bytes) -> bytes | None:
        """The text, or None if it is not known."""
        return self._named.get(name) if name else self._unnamed

    def keep(self, name: bytes, text: bytes | None) -> None:
        """`name` stands for `text` from now on."""
        if not name:
            self._unnamed = text
            return
        self.drop(name)
        if text is None:
            return
        self._named[name] = text
        self._bytes += len(name) + len(text)
        while self._bytes > MAX_TEXT_BYTES or len(self._named) > MAX_NAMES:
            self.drop(next(iter(self._named)))

    def drop(self, name: bytes) -> None:
        """`name` stands for nothing any more."""
        if name:
            text = self._named.pop(name, None)
            if text is not None:
                self._bytes -= len(name) + len(text)
        else:
            self._unnamed = None

    def clear(self) -> None:
        """Forget all."""
        self._unnamed = None
        self._named.clear()
        self._bytes = 0

    def obey(self, text: bytes) -> None:
        """Forget what `text` removes, if it is a DEALLOCATE or DISCARD ALL."""
        if text[:1] not in b"dD \n\t\r" or len(text) > MAX_REMOVAL_BYTES:
            return
        match = REMOVAL.fullmatch(text)
        if match is None:
            return
        if match[1] or match[2]:
            self._named.clear()
            self._bytes = 0
        else:
            # A name without quotes is folded to lower case; folding more would be a guess.
            self.drop(match[4] or match[3].lower())
