# SPDX-License-Identifier: Apache-2.0
"""What a terminal needs: the width of text, and numbers in few columns."""

from __future__ import annotations

import unicodedata
from typing import Final

ELLIPSIS: Final = "…"


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum([_columns_of(character) for character in text])


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shorten_middle(text: str, width: int, ellipsis: str = ELLIPSIS) -> str:
    """`text` in at most `width` columns: what is cut goes from the middle.

    The end of a path tells resources apart, its beginning what they are.
    """
    if columns(text) <= width:
        return text
    room = width - len(ellipsis)
    if room <= 0:
        return ellipsis[: max(0, width)]
    head = _fit(text, (room + 1) // 2)
    tail = _fit(text[::-1], room - columns(head))[::-1]
    return head + ellipsis + tail


def shorten_path(text: str, width: int, ellipsis: str = ELLIPSIS) -> str:
    """`text` in at most `width` columns: of a path with a query, the query goes first."""
    path, question, _ = text.partition("?")
    if not question or columns(text) <= width:
        return shorten_middle(text, width, ellipsis)
    if columns(path) + len(ellipsis) <= width:
        return shorten_end(text, width, ellipsis)
    return shorten_middle(path + ellipsis, width, ellipsis)


def shorten_end(text: str, width: int, ellipsis: str = ELLIPSIS) -> str:
    """`text` in at most `width` columns: what is cut goes from the end."""
    if columns(text) <= width:
        return text
    if width <= len(ellipsis):
        return ellipsis[: max(0, width)]
    return _fit(text, width - len(ellipsis)) + ellipsis


def _fit(text: str, width: int) -> str:
    """The longest beginning of `text` that takes at most `width` columns."""
    used = 0
    for position, character in enumerate(text):
        used += _columns_of(character)
        if used > width:
            return text[:position]
    return text


def left(text: str, width: int) -> str:
    """`text`, padded on the right."""
    return text + " " * (width - columns(text))


def right(text: str, width: int) -> str:
    """`text`, padded on the left."""
    return " " * (width - columns(text)) + text


def duration(nanoseconds: int, micro: str = "µ") -> str:
    """Three digits and a unit, in at most six columns up to a day."""
    if nanoseconds < 0:
        return "-" + duration(-nanoseconds, micro)
    if nanoseconds < 999_500:  # else it would round to 1000us
        return _three(nanoseconds / 1e3) + f"{micro}s"
    if nanoseconds < 999_500_000:
        return _three(nanoseconds / 1e6) + "ms"
    seconds = nanoseconds / 1e9
    if seconds < 99.95:
        return _three(seconds) + "s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}m{seconds:02}s"
    return f"{minutes // 60}h{minutes % 60:02}m"


def size(number: int) -> str:
    """Bytes, in at most four columns: 999, 1.2K, 34K, 5.6M."""
    if number < 1000:
        return str(number)
    value = float(number)
    for unit in "KMGTPE":
        value /= 1024
        if value < 9.95:
            return f"{value:.1f}{unit}"
        if value < 999.5:
            return f"{value:.0f}{unit}"
    return f"{value:.0f}E"


def _three(value: float) -> str:
    """Three significant digits, none of them after a thousand."""
    if value < 9.995:
        return f"{value:.2f}"
    if value < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}"
