# SPDX-License-Identifier: Apache-2.0
"""What an SQL text says, without the values in it: for db.query.text and db.query.summary.

Spec: OTel semantic conventions 1.44.0, database spans: "Sanitization of db.query.text" and
"Generating a summary of the query".

Three steps. parsers/sql_literals.py masks literals and comments, the same text for all values.
The tokenizer of sqlglot reads what is left; whatever it still takes for a literal or a comment
goes too, so a value shows only where both are wrong. parsers/sql_summary.py finds operations and
targets among the words. Only the first step is paid again for a known statement with new values.

sqlglot is imported with the first statement, for it takes longer than all else that starts. Its
compiled variant (`sqlglot[c]`) needs no change here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from parsers.cache import Cache
from parsers.sql_literals import MASK, Dialect, Setting, mask, strip
from parsers.sql_summary import VERBS, summarise, words

if TYPE_CHECKING:
    from sqlglot import Token, TokenType

__all__ = ["Dialect", "Statement", "describe"]

MAX_TEXT: Final = 16 * 1024
"""Characters that are read; of longer texts the rest is not looked at."""
MAX_SHOWN: Final = 4 * 1024
"""Characters of a result."""
CUT: Final = " ..."
"""Ends a result that does not show all."""
ENTRY_BYTES: Final = 256
"""What an entry of a cache takes besides its texts, about."""


@dataclass(slots=True, frozen=True)
class Statement:
    """What may be said of an SQL text."""

    text: str
    """db.query.text, one line; empty if nothing is safe to show."""
    summary: str
    """db.query.summary; empty if the text was not understood."""
    understood: bool


_statements: Cache[tuple[str, Dialect, bool, bool], Statement] = Cache()
"""By text and all that was asked."""
_shapes: Cache[tuple[str, Dialect, bool], Statement] = Cache()
"""By masked text: what statements share that differ only in their values."""
_tokenize: dict[Dialect, Callable[[str], list[Token]]] = {}
_literals: set[TokenType] = set()

LITERALS: Final = words(
    "STRING NUMBER BIT_STRING HEX_STRING BYTE_STRING NATIONAL_STRING NATIONAL_RAW_STRING RAW_STRING"
    " HEREDOC_STRING UNICODE_STRING TRUE FALSE"
)
"""Names of token types; not all exist in every version."""
SQLGLOT_NAMES: Final = {Dialect.MYSQL: "mysql", Dialect.POSTGRESQL: "postgres"}

NOTHING: Final = Statement("", "", understood=False)

_FIRST_WORD: Final = re.compile(r"[\s(;]*+([A-Za-z]++)(?![\w$.])")
_UNREADABLE: Final = re.compile("[\0-\x08\x0e-\x1f\x7f\ufffd\ud800-\udfff]")
"""Not in SQL outside of literals: the text was something else."""
_LINES: Final = re.compile(r"[\s\0-\x1f\x7f]+")

_PARAMETER: Final = re.compile(r"\$(?=[0-9])")
"""sqlglot takes $1,$ for what begins a quoted text."""

_ITEM: Final = r"(?:-\s?)?\?"
_FIELD: Final = rf"\s?(?:{_ITEM}|NULL|DEFAULT|\$[0-9]++|%s|:[A-Za-z_]\w*+)\s?"
_ROW: Final = rf"\({_FIELD}(?:,{_FIELD})*+\)"
_LIST: Final = re.compile(
    rf"(\bIN\s?\(\s?){_ITEM}(?:\s?,\s?{_ITEM})++(?:\s?,\s?\Z)?", re.IGNORECASE
)
_ROWS: Final = re.compile(
    # The last row may be cut.
    rf"((?:\bVALUES?\s?|\bIN\s?\(\s?){_ROW})(?:\s?,\s?{_ROW})*+"
    rf"(?:\s?,(?:\s?\((?:{_FIELD},)*+(?:{_FIELD})?)?\s?\Z)?",
    re.IGNORECASE,
)


def describe(text: str, dialect: Dialect, *, redact: bool = True, whole: bool = False) -> Statement:
    """The statement, with every literal masked unless `redact` is False. Never raises.

    `whole`: the caller knows that the end of the text is there. It shows more of texts whose
    quotes follow backslashes.
    """
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT + 1]
    key = (text, dialect, redact, whole)
    known = _statements.get(key)
    if known is None:
        known = _describe(text, dialect, redact=redact, whole=whole)
        size = ENTRY_BYTES + text.__sizeof__() + known.text.__sizeof__()
        _statements.keep(key, known, size)
    return known


def _describe(text: str, dialect: Dialect, *, redact: bool, whole: bool) -> Statement:
    cut = len(text) > MAX_TEXT
    if cut:
        text = text[:MAX_TEXT]
        whole = False
    shape = mask(text, dialect, whole=whole).strip()
    if "?," in shape or "? ," in shape:
        shape = _LIST.sub(rf"\1{MASK}", shape)
    if ")," in shape or ") ," in shape:
        shape = _ROWS.sub(r"\1", shape)
    key = (shape, dialect, cut)
    statement = _shapes.get(key)
    if statement is None:
        statement = _analyse(shape, dialect, cut=cut)
        size = ENTRY_BYTES + 2 * shape.__sizeof__() + statement.text.__sizeof__()
        _shapes.keep(key, statement, size)
    if redact or not statement.understood:
        return statement
    return Statement(_fit(strip(text, dialect), cut=cut), statement.summary, understood=True)


def _analyse(shape: str, dialect: Dialect, *, cut: bool) -> Statement:
    first = _FIRST_WORD.match(shape)
    if first is None or first[1].upper() not in VERBS:
        return NOTHING
    if _UNREADABLE.search(shape):
        return Statement(first[1], "", understood=False)
    # As long as before, so that places stay; words are taken from the text itself.
    told = _PARAMETER.sub("_", shape) if dialect is Dialect.POSTGRESQL else shape
    try:
        tokens = _tokenizer(dialect)(told)
    except Exception:  # noqa: BLE001 - whatever it is, it is the end of this text only
        return Statement(first[1], "", understood=False)
    return _tell(shape, tokens, dialect, cut=cut)


def _tell(shape: str, tokens: list[Token], dialect: Dialect, *, cut: bool) -> Statement:
    """Text and summary from the tokens; what is between them sqlglot takes for comments."""
    spoken: list[str] = []
    parts: list[str] = []
    done = 0
    setting = Setting() if dialect is Dialect.POSTGRESQL else None
    for token in tokens:
        start = token.start
        word = shape[start : token.end + 1]
        if token.token_type in _literals:
            # $1 is a dollar and a number here, and no literal.
            if shape[start - 1 : start] != "$":
                word = MASK
        elif setting is not None and setting.hides(word):
            word = MASK
        if start > done and parts:
            parts.append(" ")
        parts.append(word)
        done = token.end + 1
        if " " in word and word[0] not in '"`':
            spoken += word.split()
        else:
            spoken.append(word)
    return Statement(_fit("".join(parts), cut=cut), summarise(spoken), understood=True)


def _fit(text: str, *, cut: bool) -> str:
    """On one line and in bounds, cut between words."""
    text = _LINES.sub(" ", text).strip()
    if len(text) > MAX_SHOWN:
        text = text[: MAX_SHOWN - len(CUT) + 1].rpartition(" ")[0]
        cut = True
    return text + CUT if cut else text


def _tokenizer(dialect: Dialect) -> Callable[[str], list[Token]]:
    known = _tokenize.get(dialect)
    if known is None:
        known = _tokenize[dialect] = _load(dialect)
    return known


def _load(dialect: Dialect) -> Callable[[str], list[Token]]:
    """A tokenizer that reads all statements, also those that sqlglot leaves to the server."""
    # Not with the module: this takes longer to import than all parsers.
    from sqlglot import TokenType  # noqa: PLC0415
    from sqlglot.dialects.mysql import MySQL  # noqa: PLC0415
    from sqlglot.dialects.postgres import Postgres  # noqa: PLC0415

    _literals.update(each for each in TokenType if each.name in LITERALS)
    base = MySQL.Tokenizer if dialect is Dialect.MYSQL else Postgres.Tokenizer
    reads_all = type("Tokenizer", (base,), {"COMMANDS": set()})
    tokenize: Callable[[str], list[Token]] = reads_all(dialect=SQLGLOT_NAMES[dialect]).tokenize
    return tokenize
