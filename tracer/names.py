# SPDX-License-Identifier: Apache-2.0
"""Names of addresses, learnt from the answers of name servers that went by.

An address says little, and a look-up of its name by the tracer would be traffic of its own and
may tell another name than the one that was asked for. What a program has just resolved is the
name that it means. The time that an answer may be kept is not looked at: a name of a while ago
is better than none, and what is used stays while what is not makes room.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MAX_NAMES: Final = 16_384
"""About 200 bytes each. A host talks to fewer addresses than that by name."""


class Names:
    """The latest name of each address."""

    __slots__ = ("_max_names", "_names")

    def __init__(self, max_names: int = MAX_NAMES) -> None:
        self._max_names = max_names
        self._names: dict[str, str] = {}
        """By address, the one that was used last at the end."""

    def __len__(self) -> int:
        return len(self._names)

    def learn(self, name: str, addresses: Iterable[str]) -> None:
        """`name` was resolved to `addresses`."""
        names = self._names
        name = name.lower()
        for address in addresses:
            names.pop(address, None)
            if len(names) >= self._max_names:
                del names[next(iter(names))]
            names[address] = name

    def of(self, address: str) -> str | None:
        """The name by which `address` was last asked for, if it was."""
        name = self._names.pop(address, None)
        if name is not None:
            self._names[address] = name
        return name
