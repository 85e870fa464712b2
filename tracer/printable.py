# SPDX-License-Identifier: Apache-2.0
"""Text of others, for terminals and logs: without what they would obey."""

from __future__ import annotations


def printable(text: str, *, ascii_only: bool = False) -> str:
    """`text` with everything spelt out that is not visible or blank.

    Control characters, but also those that turn the direction of writing around or
    take no space: from a terminal nobody could tell what was really on the wire.
    """
    if text.isascii():
        if text.isprintable():
            return text
    elif not ascii_only and text.isprintable():
        return text
    return "".join(
        [c if c.isprintable() and (c.isascii() or not ascii_only) else _escape(c) for c in text]
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
