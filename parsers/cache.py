# SPDX-License-Identifier: Apache-2.0
"""A dictionary with a bound on entries and on bytes, for what repeats endlessly on the wire."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

MAX_ENTRIES: Final = 4096
MAX_BYTES: Final = 4 * 1024 * 1024

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cache(dict[Key, Value], Generic[Key, Value]):
    """Read it as a dictionary, add with `keep`.

    When it is full all of it is thrown away: what is in use comes back at once, and a look-up
    then costs nothing more than that of a dictionary.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0

    def keep(self, key: Key, value: Value, size: int) -> Value:
        """Add an entry that holds about `size` bytes, and return its value.

        What would fill a sixteenth of the whole alone is not kept.
        """
        if size * 16 > self._max_bytes:
            return value
        if len(self) >= self._max_entries or self._bytes + size > self._max_bytes:
            self.clear()
            self._bytes = 0
        self[key] = value
        self._bytes += size
        return value
