# SPDX-License-Identifier: Apache-2.0
r"""What Redis sends without being asked: messages, confirmations of subscriptions, MONITOR's lines.

Spec: https://redis.io/docs/latest/develop/pubsub/ ("Format of pushed messages"),
/develop/reference/protocol-spec/ ("Pushes"), /commands/monitor/.

In RESP2 these are arrays like any other; that they are not replies is told by their first
element. In RESP3 they are of a type of their own.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

from parsers.model import ParseError
from parsers.reader import Reader
from parsers.redis_commands import MAX_WORD_BYTES

MAX_CHANNEL_BYTES: Final = 16 * 1024
"""Of a channel whose confirmation is read for the number behind it."""
MAX_HEADER_BYTES: Final = 16
"""A type, a count or length, and the end of the line."""
MAX_MONITORED_BYTES: Final = 64 * 1024
"""Of a line; longer ones are no loss."""

MESSAGES: Final = frozenset({b"message", b"pmessage", b"smessage"})
KINDS: Final = {
    b"subscribe": 0,
    b"unsubscribe": 0,
    b"psubscribe": 1,
    b"punsubscribe": 1,
    b"ssubscribe": 2,
    b"sunsubscribe": 2,
}
"""What a confirmation counts: channels, patterns (both in one number), shard channels."""

Counts = tuple[int, int, int]
"""Subscribed channels, patterns and shard channels; -1 for what is not known."""
UNKNOWN_COUNTS: Final = (-1, -1, -1)

HEADER: Final = re.compile(rb"[*>]([0-9]{1,9})\r\n")
WORD: Final = re.compile(rb"\$([0-9]{1,2})\r\n")
CHANNEL: Final = re.compile(rb"\$([0-9]{1,6})\r\n|(?:\$-1|_)\r\n")
TOTAL: Final = re.compile(rb":([0-9]{1,9})\r\n")
ACKNOWLEDGEMENT: Final = b"*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n"
MONITORED: Final = re.compile(rb"\+[0-9]{9,11}\.[0-9]{6} \[[0-9]{1,5} ")
"""What MONITOR shows of a command: when, and on which database."""
MONITORED_START: Final = re.compile(rb"\+[0-9]{1,11}(?:\.[0-9]{0,6}(?: (?:\[[0-9]{0,5})?)?)?")


def first_word(reader: Reader) -> bytes:
    """The first element of the aggregate that begins here; b"" if that is no short string."""
    data = reader.data
    match = HEADER.match(data, reader.position)
    if match is None:
        if b"\n" not in data[reader.position : reader.position + MAX_HEADER_BYTES]:
            reader.wait(MAX_HEADER_BYTES)
        return b""
    position = match.end()
    if match[1] == b"0":
        return b""
    match = WORD.match(data, position)
    if match is None:
        begins = b"$".startswith(data[position : position + 1])
        if begins and b"\n" not in data[position : position + MAX_HEADER_BYTES]:
            _wait(reader)
        return b""
    size = int(match[1])
    if size > MAX_WORD_BYTES:
        return b""
    stop = match.end() + size
    if stop + 2 > reader.end:
        _wait(reader)
    return data[match.end() : stop] if data[stop : stop + 2] == b"\r\n" else b""


def read_total(reader: Reader) -> int:
    """How many subscriptions there are after a confirmation; -1 if it does not say.

    Raises:
        ParseError: it is no confirmation.
    """
    data = reader.data
    position = reader.position
    for _ in range(3):
        # The type, and the word that has been read.
        position = data.index(b"\r\n", position) + 2
    channel = _line(reader, CHANNEL, position)
    size = int(channel[1] or -2)
    if size > MAX_CHANNEL_BYTES:
        return -1
    return int(_line(reader, TOTAL, channel.end() + size + 2)[1])


def count(counts: Counts, kind: int, total: int) -> Counts:
    """What is subscribed after a confirmation of `kind` that tells `total`."""
    channels, patterns, shards = counts
    if total < 0:
        return UNKNOWN_COUNTS
    if kind == 2:
        return channels, patterns, total
    if not total:
        return 0, 0, shards
    if kind == 1:
        return channels, max(total - channels, 0) if channels >= 0 else -1, shards
    return max(total - patterns, 0) if patterns >= 0 else -1, patterns, shards


def pass_monitored(reader: Reader) -> bool:
    """Pass over what MONITOR shows of somebody's command, if it is that."""
    data = reader.data
    start = reader.position
    match = MONITORED.match(data, start)
    if match is None:
        if MONITORED_START.fullmatch(data, start):
            _wait(reader)
        return False
    reader.until(b"\r\n", MAX_MONITORED_BYTES)
    if reader.marking:
        reader.omit(match.end(), reader.position - 2)
    return True


def refuse_acknowledgement(reader: Reader) -> None:
    """See to it that this is not a replica, which says how far it has come.

    Joined late and from the replica's end, its link looks like that of a server: commands come,
    and here is what would be the first reply to them.

    Raises:
        ParseError: it is.
    """
    head = reader.data[reader.position : reader.position + len(ACKNOWLEDGEMENT)]
    if head == ACKNOWLEDGEMENT:
        raise ParseError("a replica, and no server")
    if ACKNOWLEDGEMENT.startswith(head):
        _wait(reader)


def _line(reader: Reader, pattern: re.Pattern[bytes], position: int) -> re.Match[bytes]:
    match = pattern.match(reader.data, position)
    if match is None:
        if reader.end - position >= MAX_HEADER_BYTES or reader.data.find(b"\n", position) >= 0:
            raise ParseError("no confirmation of a subscription")
        _wait(reader)
    return match


def _wait(reader: Reader) -> NoReturn:
    """More must come, however much there is."""
    reader.wait(reader.available + 1)
