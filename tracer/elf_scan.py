# SPDX-License-Identifier: Apache-2.0
"""What the examination of one file may cost, whatever is in the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

LOOK_BYTES: Final = 1 << 30
"""Read and searched to look functions up: Node of 100 MB takes 144 MiB of it, in 30 ms."""
SEARCH_BYTES: Final = 8 << 30
"""Where all of a file is searched as well, for some ten texts."""
HIT_BYTES: Final = 1024
"""A hit takes as long as to search so much."""
MAX_TABLE_BYTES: Final = 64 << 20
"""Of one table. That of the functions of a Go program of 127 MB has 30."""
SLICE_BYTES: Final = 1 << 20
"""Searched in one go, in which no other thread runs."""


class ElfError(Exception):
    """This is no 64-bit little-endian ELF file, or one that contradicts itself."""


class ElfTooMuchError(ElfError):
    """It may be one, but to look further would take too long."""


class Scan:
    """The account of one file; `spend` and what searches raise ElfTooMuchError at its end."""

    def __init__(self, budget_bytes: int) -> None:
        self._left = self._budget = budget_bytes

    def spend(self, size: int) -> None:
        """So many bytes are read or searched, or something takes as long."""
        self._left -= size
        if self._left < 0:
            raise ElfTooMuchError(f"more than {self._budget >> 20} MiB would have to be searched")

    def find(self, data: bytes, text: bytes, start: int = 0, end: int | None = None) -> int:
        """As `bytes.find`, but other threads run meanwhile."""
        end = len(data) if end is None else min(end, len(data))
        while start < end:
            stop = min(start + SLICE_BYTES + len(text) - 1, end)
            at = data.find(text, start, stop)
            self.spend((stop if at < 0 else at) - start + HIT_BYTES)
            if at >= 0:
                return at
            start += SLICE_BYTES
        return -1

    def places(self, data: bytes, text: bytes, most: int) -> Iterator[int]:
        """Where the text is in the data, overlapping ones too."""
        at = self.find(data, text)
        for _ in range(most):
            if at < 0:
                return
            yield at
            at = self.find(data, text, at + 1)
        if at >= 0:
            raise ElfTooMuchError(f"{text!r} is in one table more than {most} times")
