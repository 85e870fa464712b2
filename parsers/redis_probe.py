# SPDX-License-Identifier: Apache-2.0
r"""How much some bytes look like Redis.

Spec: https://redis.io/docs/latest/develop/reference/protocol-spec/.

An array of bulk strings that begins with a command is certain. Inline commands and most replies
are lines such as other protocols have: NATS sends ``PING\r\n``, ``+OK\r\n`` and ``-ERR '...'``,
POP3 ``+OK ...`` and ``-ERR ...``, memcached ``get key\r\n``. So words that they share prove nothing
here, replies must be ones that Redis gives, and an inline command needs a reply that fits.

Values are not looked at, for a recording has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from parsers.model import Likeness
from parsers.redis_commands import KNOWN, MAX_WORD_BYTES, WORD

MAX_ARGUMENTS: Final = 1024 * 1024
"""What Redis before 7.0 took at most, and nobody sends."""
MAX_COUNT_CHARS: Final = 8
MAX_PROBED_ELEMENTS: Final = 32
"""Elements whose chain is followed."""
MAX_PROBED_MESSAGES: Final = 16
"""Messages of a pipeline that are looked at."""
MAX_LINE_BYTES: Final = 4096
"""Of a simple string or an error at the beginning."""
MAX_INLINE_BYTES: Final = 1024
"""An inline command is typed by hand, or by a health check."""
MAX_STATUS_BYTES: Final = 128

NOTHING: Final = frozenset({b"MESSAGE", b"PMESSAGE", b"SMESSAGE", b"PONG", b"INVALIDATE"})
"""How pushed messages begin: no commands."""
CONFIRMED: Final = frozenset(
    {b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe", b"ssubscribe", b"sunsubscribe"}
)
"""How replies begin that repeat the name of the command."""
SHARED: Final = frozenset({b"PING", b"QUIT", b"AUTH", b"TIME", b"HELP", b"INFO", b"RESET", b"SAVE"})
"""Inline commands that others have as well: POP3, NATS, SMTP, memcached."""
WORDS_OF: Final = {
    b"GET": 2,
    b"PING": 1,
    b"QUIT": 1,
    b"TYPE": 2,
    b"TIME": 1,
    b"INCR": 2,
    b"DECR": 2,
    b"APPEND": 3,
    b"SELECT": 2,
    b"ECHO": 2,
    b"KEYS": 2,
    b"SAVE": 1,
    b"ROLE": 1,
    b"SYNC": 1,
    b"MOVE": 3,
    b"RESET": 1,
    b"MONITOR": 1,
}
"""Words of inline commands that English and other protocols have too."""
MAX_INLINE_WORDS: Final = 16

LINE: Final = re.compile(rb"[\t -~\x80-\xff]*\r?\n?")
BULK: Final = re.compile(rb"\$(?:[0-9]{1,12}|\?)\r\n")
BULK_START: Final = re.compile(rb"\$(?:[0-9]{0,12}|\?)\r?")
COUNTED: Final = re.compile(rb"[*~%%>|](?:([0-9]{1,%d})|-1|\?)\r\n" % MAX_COUNT_CHARS)
COUNTED_START: Final = re.compile(rb"[*~%%>|](?:[0-9]{0,%d}|-1?|\?)\r?" % MAX_COUNT_CHARS)
STATUS: Final = re.compile(
    rb"\+(?:OK|PONG|QUEUED|RESET|string|list|set|zset|hash|stream|none"
    rb"|Background (?:append only file rewriting|saving) (?:started|scheduled)"
    rb"|FULLRESYNC [0-9a-f]{40} [0-9]+|CONTINUE(?: [0-9a-f]{40})?"
    rb"|[0-9]{9,11}\.[0-9]{6} \[[0-9]{1,5} .*)"
)
STATUSES: Final = (
    b"+OK",
    b"+PONG",
    b"+QUEUED",
    b"+RESET",
    b"+string",
    b"+list",
    b"+set",
    b"+zset",
    b"+hash",
    b"+stream",
    b"+none",
    b"+Background ",
    b"+FULLRESYNC ",
    b"+CONTINUE",
)
LONG_STATUS: Final = re.compile(
    rb"\+(?:Background |FULLRESYNC |CONTINUE |[0-9]{1,11}[. ]).*|\+[0-9]*"
)
"""What a status may be that has no end yet."""
ERROR: Final = re.compile(rb"-[A-Z][A-Z0-9_]{0,31}(?: [^'].*)?")
ERROR_START: Final = re.compile(rb"-(?:[A-Z][A-Z0-9_]{0,31}(?: (?:[^'].*)?)?)?\r?")
SCALAR: Final = re.compile(
    rb"(?::[+-]?[0-9]{1,20}|\([+-]?[0-9]{1,4096}|_|#[tf]|[$!=]-1"
    rb"|,[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,5})?|inf|nan))"
)
SCALAR_START: Final = re.compile(rb"(?:[:(][+-]?[0-9]*|_|#[tf]?|[$!=]-?1?|,[-+0-9.einfa]*)\r?")
LONG: Final = re.compile(rb"[$!=](?:[0-9]{1,12}|\?)")
LONG_START: Final = re.compile(rb"[$!=](?:[0-9]{0,12}|\?)\r?")


def probe_request(head: bytes) -> Likeness:
    """Arrays of bulk strings, or lines."""
    return _probe_all(head, _probe_array)


def probe_response(head: bytes) -> Likeness:
    """Values of RESP2 or RESP3."""
    return _probe_all(head, _probe_value)


def _probe_all(head: bytes, probe: Callable[[bytes, int], tuple[Likeness, int]]) -> Likeness:
    """The best that is said of the first messages, if nothing is said against one of them."""
    best = Likeness.SHORT
    position = 0
    for _ in range(MAX_PROBED_MESSAGES if head else 0):
        likeness, position = probe(head, position)
        if likeness is Likeness.NO:
            return likeness
        best = max(best, likeness)
        if not 0 <= position < len(head):
            break
    return best


def _probe_array(head: bytes, position: int) -> tuple[Likeness, int]:
    """A command, and where the next begins; -1 if that is not known."""
    if head[position : position + 1] != b"*":
        return _probe_inline(head, position)
    match = COUNTED.match(head, position)
    if match is None:
        short = COUNTED_START.fullmatch(head, position)
        return (Likeness.SHORT if short else Likeness.NO), -1
    total = int(match[1] or 0)
    if not 1 <= total <= MAX_ARGUMENTS:
        return Likeness.NO, -1
    position = match.end()
    likeness = Likeness.SHORT
    for index in range(min(total, MAX_PROBED_ELEMENTS)):
        match = BULK.match(head, position)
        if match is None:
            if position < len(head) and not BULK_START.fullmatch(head, position):
                return Likeness.NO, -1
            return likeness, -1
        length = match[0][1:-2]
        if not length.isdigit():
            return Likeness.NO, -1
        position = match.end() + int(length) + 2
        if not index:
            likeness = _likeness_of(head[match.end() : position - 2], int(length))
            end = head[position - 2 : position]
            if likeness is Likeness.NO or not (b"\r\n").startswith(end):
                return Likeness.NO, -1
    return likeness, position if total <= MAX_PROBED_ELEMENTS else -1


def _likeness_of(word: bytes, length: int) -> Likeness:
    """Of the first element, which may not be whole yet."""
    if not 1 <= length <= MAX_WORD_BYTES or (word and not WORD.fullmatch(word)):
        return Likeness.NO
    if len(word) < length:
        return Likeness.SHORT
    upper = word.upper()
    if upper in NOTHING:
        return Likeness.NO
    return Likeness.CERTAIN if upper in KNOWN else Likeness.LIKELY


def _probe_inline(head: bytes, position: int) -> tuple[Likeness, int]:
    end = head.find(b"\n", position, position + MAX_INLINE_BYTES)
    line = head[position : end if end >= 0 else position + MAX_INLINE_BYTES]
    if len(line) == MAX_INLINE_BYTES or not LINE.fullmatch(line):
        return Likeness.NO, -1
    words = line.split()
    if not words:
        # Redis passes over an empty line, but nobody begins with one.
        return (Likeness.SHORT if position or end < 0 else Likeness.NO), end + 1
    word = words[0].upper()
    if end < 0:
        if len(words) > 1 or line[-1:].isspace():
            possible = word in KNOWN
        else:
            possible = any(each.startswith(word) for each in KNOWN)
        return (Likeness.SHORT if possible else Likeness.NO), -1
    if word not in KNOWN or len(words) > MAX_INLINE_WORDS:
        return Likeness.NO, -1
    if len(words) != WORDS_OF.get(word, len(words)) or words[-1][:1] == b"{":
        return Likeness.NO, -1
    return (Likeness.SHORT if word in SHARED else Likeness.LIKELY), end + 1


def _probe_value(head: bytes, position: int) -> tuple[Likeness, int]:
    """A reply, and where the next begins; -1 if that is not known."""
    tag = head[position : position + 1]
    if tag and tag in b"*~%>|":
        return _probe_aggregate(head, position), -1
    end = head.find(b"\r\n", position, position + MAX_LINE_BYTES)
    line = head[position : end if end >= 0 else position + MAX_LINE_BYTES]
    if tag == b"+":
        return _probe_status(line, ended=end >= 0), end + 2 if end >= 0 else -1
    if tag == b"-":
        whole, start = ERROR, ERROR_START
    elif tag and tag in b"$!=" and line[1:2] != b"-":
        whole, start = LONG, LONG_START
    else:
        whole, start = SCALAR, SCALAR_START
    if end < 0:
        return (Likeness.SHORT if start.fullmatch(line) else Likeness.NO), -1
    if not whole.fullmatch(line):
        return Likeness.NO, -1
    if whole is not LONG:
        return Likeness.LIKELY, end + 2
    return Likeness.LIKELY, end + int(line[1:]) + 4 if line[1:].isdigit() else -1


def _probe_status(line: bytes, *, ended: bool) -> Likeness:
    if ended:
        if not STATUS.fullmatch(line):
            return Likeness.NO
        return Likeness.CERTAIN if line == b"+PONG" else Likeness.LIKELY
    line = line.removesuffix(b"\r")
    possible = LONG_STATUS.fullmatch(line) or any(each.startswith(line) for each in STATUSES)
    return Likeness.SHORT if possible and len(line) <= MAX_STATUS_BYTES else Likeness.NO


def _probe_aggregate(head: bytes, position: int) -> Likeness:
    match = COUNTED.match(head, position)
    if match is None:
        short = COUNTED_START.fullmatch(head, position)
        return Likeness.SHORT if short else Likeness.NO
    position = match.end()
    first = BULK.match(head, position)
    if first is not None and first[0][1:-2].isdigit():
        length = int(first[0][1:-2])
        word = head[first.end() : first.end() + length]
        if word == b"REPLCONF":
            # Either end of a replica's link may say this. Only the parser knows what to do.
            return Likeness.SHORT
        if len(word) == length and word.upper() in KNOWN and word not in CONFIRMED:
            # That is a request, seen from the wrong end.
            return Likeness.NO
        return Likeness.LIKELY
    for _ in range(MAX_PROBED_ELEMENTS):
        # The first element of the first element, and so on.
        if position >= len(head) or match[1] == b"0":
            return Likeness.LIKELY
        match = COUNTED.match(head, position)
        if match is None:
            nothing = _probe_value(head, position)[0] is Likeness.NO
            return Likeness.NO if nothing else Likeness.LIKELY
        position = match.end()
    return Likeness.NO
