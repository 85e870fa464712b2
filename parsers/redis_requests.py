# SPDX-License-Identifier: Apache-2.0
r"""Requests of Redis: arrays of bulk strings, and inline commands.

Spec: https://redis.io/docs/latest/develop/reference/protocol-spec/, "Sending commands" and
"Inline commands"; limits as in src/networking.c and src/server.h of Redis 7.

Only what is shown of a command is read, and that are its first arguments: the *head*. How much
belongs to it depends on nothing but lengths, so the text is the same however the bytes are cut.
Arguments behind it, and a last one that is a long value, are passed over unseen.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from parsers.cache import Cache
from parsers.model import ParseError
from parsers.reader import Reader
from parsers.redis_commands import (
    KNOWN,
    MAX_WORD_BYTES,
    WORD,
    Command,
    describe,
    is_told_by_key,
)

MAX_ARGUMENTS: Final = 0x7FFFFFFF
"""`*`: an `int` in Redis."""
MAX_BULK_BYTES: Final = 1 << 40
"""`$`: 512 MiB unless `proto-max-bulk-len` says more, which nobody sets above this."""
MAX_INLINE_BYTES: Final = 64 * 1024
"""`PROTO_INLINE_MAX_SIZE`."""
MAX_HEAD_ARGUMENTS: Final = 32
"""Words of a head; twice as many as an argument list anybody reads."""
MAX_HEAD_VALUE_BYTES: Final = 8 * 1024
"""A longer argument ends the head: waiting for it costs more than what follows is worth."""
MAX_HEAD_BYTES: Final = 32 * 1024
"""Of a head; a snap length holds several."""
MAX_LENGTH_LINE_BYTES: Final = 16
"""`$` and ten digits are enough for every bulk length."""
MAX_CACHED_BYTES: Final = 256
"""A longer request seldom comes twice."""

ARRAY: Final = re.compile(rb"\*(-?[0-9]{1,10})\r\n")
ARRAY_START: Final = re.compile(rb"\*(?:-?[0-9]{0,10}\r?)?")
TOKEN: Final = re.compile(rb"\"(?:[^\"\\]|\\.?)*+\"?|'(?:[^'\\]|\\.?)*+'?|[^\s\"']+", re.DOTALL)
"""A word or a string; one that nobody closes goes on to the end, so none is looked at twice."""
DOLLAR: Final = ord("$")

_seen: dict[bool, Cache[bytes, tuple[Command, int]]] = {
    redact: Cache(max_bytes=1 << 20) for redact in (True, False)
}
"""Whole requests by their bytes, with the number of arguments behind the head."""
_told: Cache[bytes, Command] = Cache(max_bytes=1 << 20)
"""Requests by their bytes up to the key, if only values follow."""
_commands: Cache[tuple[str, str, int], Command] = Cache()
"""By what exporters see of them, so that requests with other values share one."""


class Head(NamedTuple):
    """What was read of a request."""

    command: Command | None
    """None if there is none: an empty line or array, which Redis passes over as well."""
    left: int
    """Arguments that are still to come."""


def read_head(reader: Reader, *, redact: bool) -> Head:
    """Read the head of a request.

    Raises:
        ParseError: no request begins like this.
    """
    data = reader.data
    start = reader.position
    seen = _seen[redact]
    if not start and not reader.marking:
        found = seen.get(data)
        if found is not None:
            reader.position = reader.end
            return Head(*found)
    if data[start] != ord("*"):
        return Head(_read_inline(reader, redact=redact), 0)
    match = ARRAY.match(data, start)
    if match is None:
        if ARRAY_START.fullmatch(data, start):
            reader.wait(MAX_LENGTH_LINE_BYTES)
        raise ParseError(f"array {data[start : start + MAX_WORD_BYTES]!r}")
    total = int(match[1])
    position = match.end()
    if total <= 0:
        reader.position = position
        return Head(None, 0)
    if total > MAX_ARGUMENTS:
        raise ParseError(f"{total} arguments")
    spans = _spans(reader, position, total)
    start_of_last, position = spans[-1]
    position += 2
    telling = whole = b""
    if len(spans) == total and position <= reader.end and not reader.marking:
        if total > 2 and spans[1][1] - start <= MAX_CACHED_BYTES:
            telling = data[start : spans[1][1]]
        if position - start <= MAX_CACHED_BYTES:
            whole = data[start:position]
        told = _told.get(telling) if redact else None
        found = seen.get(whole) if told is None else (told, 0)
        if found is not None:
            reader.position = position
            return Head(*found)
    if position > reader.end and (
        len(spans) < total or position - start_of_last <= MAX_WORD_BYTES + 2
    ):
        # It is neither the last, nor long enough to be a value for sure.
        reader.wait(2 * MAX_HEAD_BYTES)
    omitted = reader.omitted if reader.marking else None
    command = describe(data, spans, total, redact=redact, omitted=omitted)
    if command is None:
        reader.wait(2 * MAX_HEAD_BYTES)
    reader.position = position
    command = _shared(command)
    if telling and redact and is_told_by_key(data[slice(*spans[0])], total):
        # Its values come once, and its key again and again.
        _told.keep(telling, command, len(telling) + 200)
    elif whole:
        seen.keep(whole, (command, 0), len(whole) + 200)
    return Head(command, total - len(spans))


def pass_arguments(reader: Reader, left: int) -> int:
    """Pass over as many of `left` arguments as there are; how many are left then.

    Raises:
        ParseError: what comes is no argument. If some came before it, it is raised the next time.
    """
    data = reader.data
    end = reader.end
    find = data.find
    position = reader.position
    omitted = reader.omitted if reader.marking else None
    while left and position < end:
        stop = find(b"\r\n", position, position + MAX_LENGTH_LINE_BYTES)
        length = data[position + 1 : stop]
        if stop < 0 or data[position] != DOLLAR or not length.isdigit():
            break
        position = stop + int(length) + 4
        left -= 1
        if omitted is not None:
            omitted.append((min(stop + 2, end), min(position - 2, end)))
    if position == reader.position:
        if data[position] != DOLLAR or data.find(b"\n", position, position + 20) >= 0:
            raise ParseError(f"argument {data[position : position + MAX_LENGTH_LINE_BYTES]!r}")
        reader.wait(MAX_LENGTH_LINE_BYTES)
    reader.position = position
    return left


def _spans(reader: Reader, position: int, total: int) -> list[tuple[int, int]]:
    """Where the words of the head are; the last may be here only in part."""
    data = reader.data
    end = reader.end
    spans: list[tuple[int, int]] = []
    limit = position + MAX_HEAD_BYTES
    while len(spans) < min(total, MAX_HEAD_ARGUMENTS):
        stop = data.find(b"\r\n", position, position + MAX_LENGTH_LINE_BYTES)
        if stop < 0:
            if end - position >= MAX_LENGTH_LINE_BYTES or data[position : position + 1] > b"$":
                raise ParseError(f"argument {data[position : position + MAX_WORD_BYTES]!r}")
            reader.wait(2 * MAX_HEAD_BYTES)
        length = data[position + 1 : stop]
        if data[position] != DOLLAR or not length.isdigit():
            raise ParseError(f"argument {data[position:stop]!r}")
        size = int(length)
        start = stop + 2
        position = start + size + 2
        if not spans:
            if size > MAX_WORD_BYTES:
                raise ParseError(f"a command of {size} bytes")
            if position > end:
                reader.wait(2 * MAX_HEAD_BYTES)
            if not WORD.fullmatch(data, start, start + size) or data[position - 2 : position] != (
                b"\r\n"
            ):
                raise ParseError(f"command {data[start : start + size]!r}")
        elif len(spans) + 1 < total and (size > MAX_HEAD_VALUE_BYTES or position > limit):
            # Nothing behind it is read.
            break
        if size > MAX_BULK_BYTES:
            raise ParseError(f"argument of {size} bytes")
        spans.append((start, start + size))
        if position > end:
            break
    return spans


def _read_inline(reader: Reader, *, redact: bool) -> Command | None:
    start = reader.position
    line = reader.line(MAX_INLINE_BYTES)
    spans = [match.span() for match in TOKEN.finditer(line)]
    if not spans:
        return None
    word = line[: spans[0][1]].lstrip()
    if word.upper() not in KNOWN:
        raise ParseError(f"line {line[:MAX_WORD_BYTES]!r}")
    omitted: list[tuple[int, int]] | None = [] if reader.marking else None
    command = describe(line, spans[:MAX_HEAD_ARGUMENTS], len(spans), redact=redact, omitted=omitted)
    assert command is not None
    if omitted is not None:
        omitted += spans[MAX_HEAD_ARGUMENTS:]
        reader.omitted += [(start + a, start + b) for a, b in omitted]
    return _shared(command)


def _shared(command: Command) -> Command:
    key = (command.text, command.procedure, command.number)
    found = _commands.get(key)
    if found is None:
        found = _commands.keep(key, command, 400 + 2 * len(command.text))
    return found
