# SPDX-License-Identifier: Apache-2.0
r"""Replies of Redis: the values of RESP2 and RESP3, passed over element by element.

Spec: https://redis.io/docs/latest/develop/reference/protocol-spec/; streamed strings and
aggregates (`$?`, `*?`) and attributes: https://github.com/antirez/RESP3/blob/master/spec.md.

A reply may have a million elements and come in pieces. What is kept between pieces is a stack
with one number for each aggregate that is open: how many elements it still wants. So time is
linear, memory that of the depth, and bulk strings need not be there at all.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

from parsers.model import ParseError
from parsers.reader import Reader

MAX_DEPTH: Final = 128
"""Open aggregates. Lua may nest 100 (`LUAI_MAXCCALLS` halved), JSON modules 128."""
MAX_LINE_BYTES: Final = 64 * 1024
"""Simple strings and errors: as much as an inline command, which an error may quote."""
MAX_LENGTH_CHARS: Final = 13
"""Digits of a length or count: 2**40 has as many."""
MAX_PREFIX_BYTES: Final = 32
"""Of an error; the longest of Redis has 16 (`MASTERDOWN`, `UNKILLABLE`, `NOREPLICAS`, ...)."""

UNTIL_END: Final = -1
"""Elements of an aggregate that goes on until `.`."""
CHUNKS: Final = -2
"""Parts of a string that goes on until `;0`."""

PREFIX: Final = re.compile(rb"([A-Z][A-Z0-9_]{0,%d})(?: |\Z)" % (MAX_PREFIX_BYTES - 1))
"""The first word of an error, in capitals; what scripts make up may have none."""
OTHER_ERROR: Final = "_OTHER"
STATUS: Final = re.compile(rb"OK|QUEUED|PONG|RESET|(?:FULLRESYNC|CONTINUE)(?: .*)?")
"""Simple strings that mean something to the connection; others may hold a value."""
SCALARS: Final = {
    ord(":"): re.compile(rb"[+-]?[0-9]{1,20}"),
    ord("("): re.compile(rb"[+-]?[0-9]{1,4096}"),
    ord(","): re.compile(
        rb"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,5})?|inf|nan)"
    ),
    ord("#"): re.compile(rb"[tf]"),
    ord("_"): re.compile(rb""),
}
NUMBERS: Final = frozenset(b":(,")
AGGREGATES: Final = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}
"""How many values come for each that is counted."""
BULK: Final = frozenset(b"$=!")
ATTRIBUTE: Final = ord("|")
SIMPLE: Final = ord("+")
ERROR: Final = ord("-")
BULK_ERROR: Final = ord("!")
CHUNK: Final = ord(";")
END: Final = ord(".")


def read_values(reader: Reader, stack: list[int], depth: int) -> str:
    """Read as much as there is of the values that `stack` wants; it is empty after the last.

    Returns the prefix of the first error that lies less than `depth` aggregates deep, or "".

    Raises:
        ParseError: what comes is no value. If some came before it, it is raised the next time.
    """
    data = reader.data
    end = reader.end
    find = data.find
    position = reader.position
    omitted = reader.omitted if reader.marking else None
    prefix = ""
    try:
        while stack and position < end:
            stop = find(b"\r\n", position, position + MAX_LINE_BYTES)
            if stop < 0:
                if end - position >= MAX_LINE_BYTES:
                    _refuse("line without end", data[position:end])
                break
            tag = data[position]
            text = data[position + 1 : stop]
            following = stop + 2
            wanted = 0
            top = stack[-1]
            if top == CHUNKS:
                size = _length(text)
                if tag != CHUNK or size < 0:
                    _refuse("part of a string", text)
                if size:
                    if omitted is not None:
                        omitted.append((min(following, end), min(following + size, end)))
                    following += size + 2
                else:
                    stack[-1] = 0
            elif tag in BULK:
                size = _length(text)
                if size >= 0:
                    kept = 0
                    if tag == BULK_ERROR:
                        # The prefix and what ends it must be here.
                        word = data[following : following + min(size, MAX_PREFIX_BYTES + 1)]
                        if len(word) < min(size, MAX_PREFIX_BYTES + 1):
                            break
                        if len(stack) <= depth and not prefix:
                            prefix = error_prefix(word)
                        kept = _prefix_bytes(word)
                    if omitted is not None:
                        omitted.append((min(following + kept, end), min(following + size, end)))
                    following += size + 2
                elif text == b"?":
                    wanted = CHUNKS
                elif text != b"-1":
                    _refuse("length", text)
            elif tag in AGGREGATES:
                count = _length(text)
                if count >= 0:
                    wanted = count * AGGREGATES[tag]
                elif text == b"?":
                    wanted = UNTIL_END
                elif text != b"-1":
                    _refuse("count", text)
                if len(stack) > MAX_DEPTH:
                    _refuse("depth", text)
            elif tag == ERROR:
                if len(stack) <= depth and not prefix:
                    prefix = error_prefix(text)
                if omitted is not None:
                    omitted.append((position + 1 + _prefix_bytes(text), stop))
            elif tag == SIMPLE:
                if omitted is not None and STATUS.fullmatch(text) is None:
                    omitted.append((position + 1, stop))
            elif tag == END and not text and top == UNTIL_END:
                stack[-1] = 0
            else:
                form = SCALARS.get(tag)
                if form is None or form.fullmatch(text) is None:
                    _refuse("value", data[position:stop])
                if omitted is not None and tag in NUMBERS:
                    reader.replace(position + 1, b"0" * len(text))
            position = following
            # An attribute comes before a value and is none.
            if top > 0 and tag != ATTRIBUTE:
                stack[-1] = top - 1
            if wanted:
                stack.append(wanted)
            while stack and not stack[-1]:
                stack.pop()
    except ParseError:
        if position == reader.position:
            raise
    if position == reader.position:
        reader.wait(MAX_LINE_BYTES)
    reader.position = position
    return prefix


def error_prefix(text: bytes) -> str:
    """The word that tells errors apart, if it begins with one."""
    match = PREFIX.match(text)
    return OTHER_ERROR if match is None else match[1].decode("ascii")


def _prefix_bytes(text: bytes) -> int:
    """How much of an error may be kept: what follows the prefix may quote a value."""
    match = PREFIX.match(text)
    return 0 if match is None else match.end()


def _refuse(what: str, text: bytes) -> NoReturn:
    raise ParseError(f"{what} {text[:MAX_LENGTH_CHARS]!r}")


def _length(text: bytes) -> int:
    """A length or count; -1 if it is none."""
    return int(text) if text.isdigit() and len(text) <= MAX_LENGTH_CHARS else -1
