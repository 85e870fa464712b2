# SPDX-License-Identifier: Apache-2.0
r"""Where the literals and comments of an SQL text are, so that they can be masked.

Spec: MySQL 8.4 manual chapter 11 (Language Structure), PostgreSQL 17 manual section 4.1 (Lexical
Structure). Text is read from left to right as the server would, in one pass of one expression.

Whether a backslash escapes the quote after it is a setting of the connection: sql_mode
NO_BACKSLASH_ESCAPES and ANSI_QUOTES, standard_conforming_strings. So where one stands before a
quote the text is read in every possible way, and what is a literal or a comment in any way that
the server could accept is masked.

Text must have been decoded right: in a client encoding whose characters may end in the byte of
a backslash (gbk, sjis) no quote is certain.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from typing import Final, NamedTuple

MASK: Final = "?"
PLAIN_VALUES: Final = frozenset({"DEFAULT", "NULL", "CURRENT", "FROM", "ON", "OFF", ",", "."})
"""Of settings, with what stands between them."""


class Dialect(Enum):
    """Whose SQL it is: literals, comments and quotes differ."""

    MYSQL = "mysql"
    POSTGRESQL = "postgresql"


# Bytes from 0x80 on are letters to both servers, also those that Unicode calls spaces.
_LETTER: Final = r"[A-Za-z_\x80-\U0010FFFF]"
_INSIDE: Final = r"[A-Za-z0-9_$\x80-\U0010FFFF]"
_SPACE: Final = r"[ \t\n\r\f\v]"
_BOOLEAN: Final = rf"(?:[tT][rR][uU][eE]|[fF][aA][lL][sS][eE])(?!{_INSIDE})"
# With what is glued to it: no server reads a literal inside "1abc".
_NUMBER: Final = r"\.?[0-9](?:[eE][+-](?=[0-9])|[A-Za-z0-9_.\x80-\U0010FFFF])*+"


def _plain(quote: str) -> str:
    """Quoted; only the doubled quote stands for itself. What is not closed reaches the end."""
    return rf"{quote}[^{quote}]*+(?:{quote}{quote}[^{quote}]*+)*+(?:{quote}|\Z)"


def _escaped(quote: str) -> str:
    """Quoted; a backslash takes the next character with it."""
    body = rf"[^{quote}\\]*+"
    return rf"{quote}{body}(?:(?:{quote}{quote}|\\.|\\\Z){body})*+(?:{quote}|\Z)"


def _identifier(quote: str) -> str:
    return rf"{quote}[^{quote}]*+(?:{quote}{quote}[^{quote}]*+)*+{quote}"


def _comment(depth: int) -> str:
    """A block comment that holds others, down to `depth`: expressions cannot count."""
    inner = rf"|{_comment(depth - 1)}" if depth else ""
    return rf"/\*(?:[^*/]++|\*(?!/)|/(?!\*){inner})*+\*/"


NESTED_COMMENTS: Final = 4
"""Levels of PostgreSQL's comments in comments; deeper ones hide the rest of the text."""
MAX_PASSES: Final = 8
"""Until masked text stays as it is when masked again: so often only for nonsense."""


def _mysql(single: str, double: str) -> re.Pattern[str]:
    dashes = r"--(?:[\x00-\x20\x7f]|\Z)"
    # Without backslashes, comments, or stars in strings: it ends where it ends, run or not.
    inside = (
        r"(?:[^'\"`\\#*/\-]++|\*(?!/)|/(?!\*)|-(?!-)"
        r"|'[^'\\*]*+'|\"[^\"\\*]*+\"|`[^`*]*+`)*+"
    )
    quoted = _identifier("`")
    prefix = r"(?:[nNxXbB]|_[A-Za-z0-9]++)"
    text = rf"(?:{single}|{double})"
    return re.compile(
        rf"(?P<code>(?:(?!{_BOOLEAN}|{prefix}['\"]){_LETTER}{_INSIDE}*+"
        rf"|{quoted}"
        rf"|[^A-Za-z0-9_\x80-\U0010FFFF\t\n\r\f\v\x20'\"`#./\-]++"
        rf"|\x20(?!{_SPACE})|(?!{dashes})-|/(?!\*)|\.(?![0-9]))*+)"
        rf"(?:(?P<literal>{prefix}?{text}(?:{_SPACE}*+{text})*+|{_BOOLEAN}|{_NUMBER})"
        rf"|(?P<gap>{_SPACE}++|(?:#|(?={dashes})--)[^\n]*+|/\*(?!M?!).*?(?:\*/|\Z))"
        rf"|/\*M?![0-9]*+(?P<run>{inside})\*/"
        rf"|(?P<rest>.++)|\Z)",
        re.DOTALL,
    )


def _postgresql(plain: str) -> re.Pattern[str]:
    escaped = _escaped("'")
    tag = rf"{_LETTER}[A-Za-z0-9_\x80-\U0010FFFF]*+"
    # A string that goes on after a line break is read like its first part, E or not.
    between = rf"(?:{_SPACE}|--[^\n\r]*+[\n\r])*+"
    quoted = _identifier('"')
    prefix = r"(?:[nNxXbB]|[uU]&)"
    return re.compile(
        rf"(?P<code>(?:(?!{_BOOLEAN}|(?:[eE]|{prefix})'){_LETTER}{_INSIDE}*+"
        rf"|{quoted}"
        rf"|[^A-Za-z0-9_\x80-\U0010FFFF\t\n\r\f\v\x20'\"$./\-]++"
        rf"|\x20(?!{_SPACE})|-(?!-)|/(?!\*)|\.(?![0-9])|\$[0-9]++|\$(?!(?:{tag})?\$|[0-9]))*+)"
        rf"(?:(?P<literal>[eE]{escaped}(?:{between}{escaped})*+"
        rf"|{prefix}?{plain}(?:{between}{plain})*+"
        rf"|\$\$.*?(?:\$\$|\Z)|\$(?P<tag>{tag})\$.*?(?:\$(?P=tag)\$|\Z)|{_BOOLEAN}|{_NUMBER})"
        rf"|(?P<gap>{_SPACE}++|--[^\n\r]*+|{_comment(NESTED_COMMENTS)}|/\*.*+)"
        rf"|(?P<rest>.++)|\Z)",
        re.DOTALL,
    )


# Compiled when a text first needs them: each takes longer than to import this module.


@cache
def _usual(dialect: Dialect) -> re.Pattern[str]:
    """How nearly every server reads."""
    if dialect is Dialect.MYSQL:
        return _mysql(_escaped("'"), _escaped('"'))
    return _postgresql(_plain("'"))


@cache
def _others(dialect: Dialect) -> tuple[re.Pattern[str], ...]:
    """How servers with other settings read."""
    if dialect is Dialect.MYSQL:
        return _mysql(_escaped("'"), _plain('"')), _mysql(_plain("'"), _plain('"'))
    return (_postgresql(_escaped("'")),)


_DOUBTFUL: Final = re.compile(r"\\['\"]")
_STRAY: Final = re.compile(r"\\(?!N(?![A-Za-z0-9_]))")
"""A backslash outside of quotes, which no server accepts; \\N is MySQL's NULL."""
_NAMES: Final = {
    Dialect.MYSQL: re.compile(_identifier("`")),
    Dialect.POSTGRESQL: re.compile(_identifier('"')),
}


class _Reading(NamedTuple):
    spans: list[tuple[int, int, bool]]
    """Literals (True) and comments (False), in order."""
    closed: bool
    stray: bool


def mask(text: str, dialect: Dialect, *, whole: bool) -> str:
    """With `?` for each literal and a space for each comment and each run of spaces.

    `whole`: nothing is missing at the end, so a way to read that leaves a quote open is wrong.
    """
    usual = _usual(dialect)
    if _DOUBTFUL.search(text):
        readings = [_read(each, text, dialect) for each in (usual, *_others(dialect))]
        text = _mask_doubtful(text, readings, whole=whole)
    masked = _fill(usual, text)
    if "/*" in text or "  " in masked or "--" in masked:
        # Where a comment was, what stood around it may mean something else now.
        for _ in range(MAX_PASSES):
            again = _fill(usual, masked)
            if again == masked:
                break
            masked = again
    return masked


def strip(text: str, dialect: Dialect) -> str:
    """As it is, without comments and runs of spaces, read as nearly every server does."""
    pattern = _usual(dialect)

    def kept(match: re.Match[str]) -> str:
        return f"{match['code']} " if match.lastgroup == "gap" else match[0]

    return pattern.sub(kept, text)


def _fill(pattern: re.Pattern[str], text: str) -> str:
    def masked(match: re.Match[str]) -> str:
        code = match["code"]
        kind = match.lastgroup
        if kind in {"literal", "rest"}:
            return f"{code}{MASK}"
        if kind == "gap":
            return f"{code} "
        if kind == "run":
            return f"{code} {_fill(pattern, match['run'])} "
        return code

    return pattern.sub(masked, text)


def _read(pattern: re.Pattern[str], text: str, dialect: Dialect) -> _Reading:
    spans: list[tuple[int, int, bool]] = []
    closed = True
    stray = False
    # What reaches over the added line break has not ended where the text does.
    for match in pattern.finditer(f"{text}\n"):
        start = match.end("code")
        code = match["code"]
        if "\\" in code and _STRAY.search(_NAMES[dialect].sub("", code)):
            stray = True
        kind = match.lastgroup
        if kind == "code":
            continue
        if start < len(text):
            spans.append((start, min(match.end(), len(text)), kind != "gap"))
        if match.end() > len(text) and (kind != "gap" or text.startswith("/*", start)):
            closed = False
    return _Reading(spans, closed, stray)


def _mask_doubtful(text: str, readings: list[_Reading], *, whole: bool) -> str:
    """With a mask for whatever is a literal or a comment in any reading a server could accept."""
    usual, *others = readings
    likely = [usual]
    likely += [
        each
        for each in others
        if not each.stray and (each.closed or not whole) and each.spans != usual.spans
    ]
    parts: list[str] = []
    done = 0
    spans = sorted(span for each in likely for span in each.spans)
    index = 0
    while index < len(spans):
        start, stop, literal = spans[index]
        index += 1
        # Spans that touch are one; what is a comment here may be a literal there.
        while index < len(spans) and spans[index][0] < stop:
            stop = max(stop, spans[index][1])
            literal = literal or spans[index][2]
            index += 1
        parts += text[done:start], MASK if literal else " "
        done = stop
    parts.append(text[done:])
    return "".join(parts)


class Setting:
    """Which words of PostgreSQL's statements are values of settings: SET role TO secret."""

    __slots__ = ("_sets", "_value", "_verb")

    def __init__(self) -> None:
        self._verb = ""
        self._sets = self._value = False

    def hides(self, word: str) -> bool:
        """Whether the next word is one, and is to be masked."""
        upper = word.upper()
        if upper == ";":
            self._verb = ""
            self._sets = self._value = False
        elif not self._verb:
            self._verb = upper
            self._sets = upper == "SET"
        elif self._value:
            return upper not in PLAIN_VALUES
        elif upper == "SET":
            self._sets = self._verb == "ALTER"
        elif self._sets and upper in {"TO", "="}:
            self._value = True
        return False
