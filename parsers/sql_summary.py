# SPDX-License-Identifier: Apache-2.0
"""What an SQL text does to what, in a few words: `db.query.summary`.

Spec: OTel semantic conventions 1.44.0, "Generating a summary of the query" (database spans):
operations and their targets in the order and the letters of the text, no values, at most 255
characters, never cut inside a name.

This is no parser of SQL: it knows where names of tables stand. Names that are only there for the
statement (common table expressions, cursors, savepoints, prepared statements) or that name a
person (users, roles) are left out, so there are few different summaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_SUMMARY: Final = 255
"""Characters; the number of the conventions."""


def words(text: str) -> frozenset[str]:
    """A set of words."""
    return frozenset(text.split())


TARGET: Final = words(
    "CALL USE LISTEN UNLISTEN NOTIFY DESCRIBE DESC ANALYZE ANALYSE VACUUM TRUNCATE LOCK OPTIMIZE"
    " CHECK REPAIR CHECKSUM REINDEX CLUSTER TABLE COPY"
)
"""Verbs with the names that follow."""
DEFINES: Final = words("CREATE ALTER DROP REFRESH")
"""Verbs with the kind of object, and its name."""
QUERIES: Final = words("SELECT INSERT UPDATE DELETE REPLACE MERGE")
"""Verbs that are also found inside of other statements."""
HOLDS: Final = words("EXPLAIN DESCRIBE DESC PREPARE DECLARE WITH")
"""Verbs that may have one of QUERIES after words of their own."""
BARE: Final = words(
    "ABORT BEGIN BINLOG CHANGE CHECKPOINT CLOSE COMMENT COMMIT DEALLOCATE DISCARD DO END EXECUTE"
    " FETCH FLUSH GRANT HANDLER IMPORT INSTALL KILL LOAD MOVE PURGE REASSIGN RELEASE RENAME RESET"
    " RESIGNAL REVOKE ROLLBACK SAVEPOINT SECURITY SET SHOW SHUTDOWN SIGNAL START STOP UNINSTALL"
    " UNLOCK VALUES XA"
)
"""Verbs that stand alone."""
VERBS: Final = TARGET | DEFINES | QUERIES | HOLDS | BARE

_CLOSED: Final = words(
    "GRANT REVOKE COMMENT SHOW ALTER DROP FETCH MOVE CLOSE RENAME SECURITY REASSIGN"
)
"""Verbs whose statement does none of QUERIES, whatever words it has."""
_PHRASES: Final = {
    "START": ("TRANSACTION",),
    "LOAD": ("DATA",),
    "TRUNCATE": ("TABLE",),
    "LOCK": ("TABLE", "TABLES"),
    "UNLOCK": ("TABLE", "TABLES"),
    "ANALYZE": ("TABLE",),
    "OPTIMIZE": ("TABLE",),
    "CHECK": ("TABLE",),
    "REPAIR": ("TABLE",),
    "CHECKSUM": ("TABLE",),
    "RENAME": ("TABLE",),
    "REINDEX": ("TABLE", "INDEX", "SCHEMA", "DATABASE", "SYSTEM"),
}
"""Second words that belong to the operation."""
_KINDS: Final = words(
    "TABLE VIEW INDEX DATABASE SCHEMA SEQUENCE FUNCTION PROCEDURE TRIGGER EVENT TYPE DOMAIN"
    " EXTENSION TABLESPACE POLICY RULE AGGREGATE CAST COLLATION CONVERSION OPERATOR PUBLICATION"
    " SUBSCRIPTION SERVER STATISTICS LANGUAGE USER ROLE GROUP SYSTEM ROUTINE TRANSFORM"
)
_UNNAMED_KINDS: Final = words("USER ROLE GROUP SYSTEM CAST OPERATOR SERVER SUBSCRIPTION TRANSFORM")
"""Kinds whose name is a person's, or no name."""
_BODIES: Final = words("FUNCTION PROCEDURE TRIGGER EVENT RULE")
"""Kinds made of statements that are run later: they end the summary."""
MAX_WORDS_BEFORE_KIND: Final = 24
"""CREATE OR REPLACE ALGORITHM = .. DEFINER = a@b SQL SECURITY INVOKER VIEW is the longest."""

_MODIFIERS: Final = words(
    "LOW_PRIORITY HIGH_PRIORITY DELAYED IGNORE QUICK ONLY LATERAL INTO IF NOT EXISTS CONCURRENTLY"
    " FULL FREEZE VERBOSE ANALYZE ANALYSE LOCAL NO_WRITE_TO_BINLOG EXTENDED FORMATTED"
)
"""Words between an operation and its target."""
_LIST_ENDS: Final = words(
    "WHERE SET HAVING LIMIT OFFSET WINDOW UNION INTERSECT EXCEPT FOR RETURNING VALUES ORDER GROUP"
    " FETCH LOCK PROCEDURE INTO WHEN"
)
"""Words after which a comma brings no further table."""
_NO_NAMES: Final = _LIST_ENDS | words(
    "SELECT FROM WITH ON USING AS JOIN INNER LEFT RIGHT CROSS NATURAL AND OR IN TO READ WRITE"
    " DEFAULT ALL"
)
"""Words that are no name unless quoted."""


_TAKES_TABLES: Final = frozenset({"SELECT", "UPDATE", "DELETE", "MERGE"})
"""Operations with lists of tables, functions that return one among them."""
_TAKES_NAME: Final = TARGET | words("INSERT REPLACE UPDATE MERGE EXPLAIN")
_TAKES_NAMES: Final = words(
    "UPDATE TRUNCATE LOCK VACUUM ANALYZE ANALYSE OPTIMIZE CHECK REPAIR CHECKSUM"
)
_BEFORE_LOCAL: Final = frozenset({"WITH", "RECURSIVE", ","})


@dataclass(slots=True)
class _Frame:
    """A statement, or what is inside of a pair of parentheses."""

    verb: str = ""
    """The operation that is under way."""
    listing: bool = False
    """In a list of tables: a comma brings the next."""
    wanted: bool = False
    """The next name is a target."""
    holds: bool = False
    """A statement may follow, for WITH, EXPLAIN and the like."""
    naming: bool = False
    """After WITH: names are those of common table expressions."""


def summarise(words: Sequence[str]) -> str:
    """The summary of a text, given its words and marks: names with their quotes, no literals."""
    return _shorten(_Walk(words).run())


def _shorten(parts: Sequence[str]) -> str:
    text = " ".join(parts)
    if len(text) <= MAX_SUMMARY:
        return text
    taken: list[str] = []
    room = MAX_SUMMARY
    for part in parts:
        room -= len(part) + bool(taken)
        if room < 0:
            break
        taken.append(part)
    return " ".join(taken)


class _Walk:
    """One pass over the words."""

    __slots__ = ("_at", "_frames", "_length", "_local", "_parts", "_upper", "_words")

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._upper = [word.upper() for word in words]
        self._length = len(words)
        self._at = 0
        self._frames = [_Frame(holds=True)]
        self._parts: list[str] = []
        self._local: set[str] = set()
        """Names of common table expressions."""

    def run(self) -> list[str]:
        """Operations and targets, at least as many as fit into a summary."""
        while self._at < self._length and len(self._parts) < MAX_SUMMARY:
            word = self._upper[self._at]
            frame = self._frames[-1]
            if word == "(":
                self._open(frame)
            elif word == ")":
                if len(self._frames) > 1:
                    self._frames.pop()
            elif word == ";" and len(self._frames) == 1:
                self._frames = [_Frame(holds=True)]
                self._local.clear()
            elif self._begins(word, frame):
                self._begin(word, frame)
            elif frame.wanted:
                self._target(word, frame)
                continue
            else:
                self._clause(word, frame)
            self._at += 1
        return self._parts

    def _peek(self, by: int) -> str:
        at = self._at + by
        return self._upper[at] if 0 <= at < self._length else ""

    def _open(self, frame: _Frame) -> None:
        if frame.verb in _CLOSED:
            self._frames.append(_Frame(frame.verb))
        elif frame.wanted and frame.verb in QUERIES:
            # A subquery, or a join in parentheses: FROM (a JOIN b ON ..) JOIN c
            frame.wanted = False
            self._frames.append(_Frame(frame.verb, listing=True, wanted=True, holds=True))
        else:
            frame.wanted = frame.wanted and frame.verb != "COPY"
            self._frames.append(_Frame(holds=True))

    def _begins(self, word: str, frame: _Frame) -> bool:
        """A statement begins with this word."""
        before = self._peek(-1)
        if before == "." or frame.verb in _CLOSED:
            return False
        if word == "SELECT":
            return True
        if word == "WITH":
            return frame.holds or frame.verb in {"INSERT", "REPLACE"}
        if not frame.holds or (frame.naming and before in _BEFORE_LOCAL):
            return False
        if len(self._frames) == 1 and not frame.verb and not frame.naming:
            return word in VERBS
        frame.holds = frame.naming or frame.verb in HOLDS
        # REPLACE(a, ..) and INSERT(a, ..) are functions as well.
        return word in QUERIES and self._peek(1) != "("

    def _begin(self, word: str, frame: _Frame) -> None:
        if word == "WITH":
            frame.naming = frame.holds = True
            return
        operation = self._words[self._at]
        frame.verb = word
        frame.naming = frame.listing = False
        frame.holds = word in HOLDS
        frame.wanted = word in _TAKES_NAME
        frame.listing = word in _TAKES_NAMES
        if word in DEFINES:
            operation = self._define(operation, frame)
        elif self._peek(1) in _PHRASES.get(word, ()):
            self._at += 1
            operation = f"{operation} {self._words[self._at]}"
        if operation:
            self._parts.append(operation)

    def _define(self, operation: str, frame: _Frame) -> str:
        """CREATE and the like: with the kind of what is defined."""
        for at in range(self._at + 1, min(self._at + MAX_WORDS_BEFORE_KIND, self._length)):
            kind = self._upper[at]
            if kind in _KINDS:
                break
            if kind in {";", "("}:
                return operation
        else:
            return operation
        self._at = at
        frame.wanted = kind not in _UNNAMED_KINDS
        frame.listing = frame.wanted and frame.verb == "DROP"
        operation = f"{operation} {self._words[at]}"
        if kind in _BODIES:
            self._parts.append(operation)
            self._at += 1
            while self._at < self._length and self._upper[self._at] in _MODIFIERS:
                self._at += 1
            if _is_name(self._peek(0)):
                self._target(self._upper[self._at], frame)
            frame.wanted = False
            self._at = self._length if frame.verb == "CREATE" else self._at - 1
            return ""
        return operation

    def _target(self, word: str, frame: _Frame) -> None:
        """A name where a target is wanted, or something else, which is passed over."""
        if word in _MODIFIERS:
            self._at += 1
            return
        frame.wanted = False
        if word in _NO_NAMES or not _is_name(word):
            self._clause(word, frame)
            self._at += 1
            return
        name = self._words[self._at]
        local = name.strip('"`').lower() in self._local
        self._at += 1
        while self._peek(0) == "." and _is_name(self._peek(1)):
            name += f".{self._words[self._at + 1]}"
            local = False
            self._at += 2
        after = self._peek(0)
        if after in {".", "="} or local:
            return
        if after == "(" and frame.verb in _TAKES_TABLES:
            # A function that returns a table.
            return
        self._parts.append(name)

    def _clause(self, word: str, frame: _Frame) -> None:
        """Whether a target, or no further one, comes after this word."""
        verb = frame.verb
        before = self._peek(-1)
        if frame.naming:
            if before in _BEFORE_LOCAL and word != "RECURSIVE":
                self._local.add(self._words[self._at].strip('"`').lower())
        elif word == ",":
            frame.wanted = frame.listing
        elif word in {"JOIN", "STRAIGHT_JOIN"}:
            # Not USE INDEX FOR JOIN (..)
            frame.wanted = frame.listing = verb in _TAKES_TABLES and before != "FOR"
        elif word == "FROM":
            # Not a IS DISTINCT FROM b
            if verb in _TAKES_TABLES and before != "DISTINCT":
                frame.wanted = frame.listing = True
        elif word == "USING":
            if verb == "MERGE" or (verb == "DELETE" and self._peek(1) != "("):
                frame.wanted = frame.listing = True
        elif word == "TABLE":
            frame.wanted = verb == "LOAD" and before == "INTO"
        elif word == "AS":
            frame.holds = verb == "CREATE" or frame.holds
        elif word in _LIST_ENDS:
            frame.listing = False


def _is_name(word: str) -> bool:
    return word[:1].isalpha() or word.startswith(('"', "`", "_"))
