# SPDX-License-Identifier: Apache-2.0
"""Masks: each way to write a literal or a comment, each way to read a backslash, linear time."""

from __future__ import annotations

import re
from time import perf_counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parsers.sql_literals import NESTED_COMMENTS, Dialect, mask, strip

MYSQL = Dialect.MYSQL
POSTGRESQL = Dialect.POSTGRESQL

BOTH = [
    ("a = 'x'", "a = ?"),
    ("a = ''", "a = ?"),
    ("a='it''s'", "a=?"),
    ("'a' 'b'", "?"),
    ("'a'\n  'b'", "?"),
    ("'a','b'", "?,?"),
    ("n'x', N'x', x'41', X'41', b'01', B'01'", "?, ?, ?, ?, ?, ?"),
    ("1, 12.5, .5, 1e10, 1.5E-3, 1e+5, -7, +3, 0x1F, 0b01", "?, ?, ?, ?, ?, ?, -?, +?, ?, ?"),
    ("1_000, 1abc, 1.", "?, ?, ?"),
    ("TRUE, false, True", "?, ?, ?"),
    ("true_name, is_false, truey, t1, a2b", "true_name, is_false, truey, t1, a2b"),
    ("NULL, DEFAULT, CURRENT_DATE", "NULL, DEFAULT, CURRENT_DATE"),
    ("DATE '2020-01-01', interval '1 day'", "DATE ?, interval ?"),
    ("?, :name, %s, %(name)s", "?, :name, %s, %(name)s"),
    ("a  =\t\n b", "a = b"),
    ("a /* it's */ b", "a b"),
    ("a -- it's\n b", "a b"),
    ("a -- it's", "a "),
    ("a /* it's", "a "),
    ("a = 'x", "a = ?"),
    ("a = '", "a = ?"),
    ("a = 'x''", "a = ?"),
    ("a - b, a / b, a * b, a.b, a.*", "a - b, a / b, a * b, a.b, a.*"),
    ("LIMIT 5,10", "LIMIT ?,?"),
    ("f(1)(2)", "f(?)(?)"),
    ("'\u00e9'\u00e9", "?\u00e9"),
    ("\u00e9n'x'", "\u00e9n?"),
]

ONLY_MYSQL = [
    ('a = "x", "it""s", "it\'s"', "a = ?, ?, ?"),
    ("'a' \"b\"", "?"),
    (r"'a\\', 'b'", "?, ?"),
    (r"'a\n', 'b'", "?, ?"),
    ("_utf8'x', _utf8mb4 'x', _binary\"x\"", "?, _utf8mb4 ?, ?"),
    ("`a`, `it's`, `a``b`, `1`", "`a`, `it's`, `a``b`, `1`"),
    ("`it's", "?"),
    ("a # it's\n b", "a b"),
    ("a #> it's\n b", "a b"),
    ("a--1, a -- it's\n", "a--?, a "),
    ("a --\tit's\n", "a "),
    ("a --", "a "),
    ("/*!40101 SET NAMES 'x' */", "SET NAMES ?"),
    ("/*! STRAIGHT_JOIN */ a", "STRAIGHT_JOIN a"),
    ('/*M!100100 a = "x" */ b', "a = ? b"),
    ("/*! a 'it''s' */ b", "a ? b"),
    # It ends at the first "*/" or at the second, as the server's version is.
    ("/*!99999 'x */ secret' */ b", "?"),
    ("/*!99999 it's */ secret", "?"),
    ("/*! /* x */ secret */", "?"),
    ("/*! a -- b */ secret", "?"),
    ("/*! a", "?"),
    ("/*!40000*/ a", "a"),
    ("SELECT /*+ NO_ICP(t, 'x') */ a", "SELECT a"),
    ("/* /* */ a", "a"),
    ("2*/*x*/3", "?* ?"),
    ("@a, @'a', @@b, 'bob'@'%', $a", "@a, @?, @@b, ?@?, $a"),
    (r"\N", r"\N"),
]

ONLY_POSTGRESQL = [
    ('"a", "it\'s", "a""b", "1"', '"a", "it\'s", "a""b", "1"'),
    ("\"it's", "?"),
    (r"E'it\'s', e'\\', a", "?, ?, a"),
    ("E'a'\n'it\\'s', b", "?, b"),
    ("E'a' -- x'\n'it\\'s', b", "?, b"),
    ("U&'d\\0061t', u&'x' UESCAPE '!'", "?, ? UESCAPE ?"),
    ("typE'x'", "typE?"),
    ("$$x$$, $a$x$a$, $a$ $b$ $$ $a$", "?, ?, ?"),
    ("$a$x", "?"),
    ("$$x", "?"),
    ("$1, $2::int, $10", "$1, $2::int, $10"),
    ("$1$x$secret$x$", "$1?"),
    ("1$x$secret$x$", "??"),
    ("a$x$b$x$", "a$x$b$x$"),
    ("$ x", "$ x"),
    ("/* a /* it's */ b */ c", "c"),
    ("/* a /* b */ c", ""),
    ("a--1\nb", "a b"),
    ("a ? 'b', a ?| array['b'], a @> '{}'", "a ? ?, a ?| array[?], a @> ?"),
    ("a::text, a->>'x', a#>'{}', a[1:2]", "a::text, a->>?, a#>?, a[?:?]"),
    ("a \\ b", "a \\ b"),
]


@pytest.mark.parametrize(
    ("dialect", "text", "masked"),
    [
        *((dialect, *each) for dialect in Dialect for each in BOTH),
        *((MYSQL, *each) for each in ONLY_MYSQL),
        *((POSTGRESQL, *each) for each in ONLY_POSTGRESQL),
    ],
)
def test_mask(dialect, text, masked):
    assert mask(text, dialect, whole=False).strip() == masked.strip()
    assert mask(text, dialect, whole=True).strip() == masked.strip()


@pytest.mark.parametrize(
    ("dialect", "text", "whole", "partial"),
    [
        # Only one reading closes all its quotes.
        (MYSQL, r"a = 'it\'s' AND b = 'x'", "a = ? AND b = ?", "a = ?"),
        (MYSQL, r"a = 'it\'s', b", "a = ?, b", "a = ?"),
        # A backslash outside of quotes is no SQL, so this is certain.
        (MYSQL, r"a = 'it\'s Bob\'s', b", "a = ?, b", "a = ?, b"),
        # Both ways are possible: all that is a literal in either is masked.
        (MYSQL, r"a = 'x\' OR b = 'y' OR c = '\'", "a = ?", "a = ?"),
        (MYSQL, r"'C:\' AND b = 'secret'", "?", "?"),
        (MYSQL, r'"C:\" AND b = "secret"', "?", "?"),
        (MYSQL, r"""'x\'y', "z", 'a\'', b""", "?, ?, ?, b", "?, ?, ?, b"),
        (POSTGRESQL, r"a = 'C:\' AND b = 'x'", "a = ? AND b = ?", "a = ?"),
        (POSTGRESQL, r"a = 'it\'s secret' AND b", "a = ?", "a = ?"),
        (POSTGRESQL, r"E'it\'s' AND b = 'x\' -- '", "? AND b = ?", "? AND b = ?"),
        # But it may be inside of a name.
        (POSTGRESQL, r"""SELECT "\" = '\'secret'""", 'SELECT "\\" = ?', 'SELECT "\\" = ?'),
        # A comment in one reading is a value in the other.
        (POSTGRESQL, "'a\\' -- secret' AND b\n", "?", "?"),
    ],
)
def test_backslash_before_a_quote(dialect, text, whole, partial):
    assert mask(text, dialect, whole=True).strip() == whole
    assert mask(text, dialect, whole=False).strip() == partial


def test_deeper_comments_hide_the_rest():
    deep = NESTED_COMMENTS
    text = "/*" * (deep + 1) + "*/" * (deep + 1) + " a"
    assert mask(text, POSTGRESQL, whole=True).strip() == "a"
    assert mask(f"/*{text}*/", POSTGRESQL, whole=True).strip() == ""


@pytest.mark.parametrize(
    ("dialect", "text", "stripped"),
    [
        (MYSQL, "a  = 'x  y' /* z */ , 5 # z", "a = 'x  y'  , 5 "),
        (POSTGRESQL, 'a  = $$x  y$$ -- z\n, "A  B"', 'a = $$x  y$$  , "A  B"'),
    ],
)
def test_strip_keeps_literals(dialect, text, stripped):
    assert re.sub(" +", " ", strip(text, dialect)) == re.sub(" +", " ", stripped)


PIECES = st.lists(
    st.sampled_from(
        [
            *"aAeEnNxX_1.$?-/*#;:@, \n\\'\"`",
            "''",
            "\\'",
            "--",
            "-- ",
            "/*",
            "*/",
            "/*!",
            "$$",
            "$a$",
            "TRUE",
            "E'",
            "U&'",
            "1e5",
            "é",
            "\x00",
            "\x85",
        ]
    ),
    max_size=30,
).map("".join)


@given(PIECES, st.sampled_from(Dialect), st.booleans())
@example("SELECT 5--/**/6", MYSQL, True)
@example("----", MYSQL, True)
@example("/*! a */  /*! b */", MYSQL, True)
def test_masked_text_is_not_longer_and_has_nothing_left_to_mask(text, dialect, whole):
    masked = mask(text, dialect, whole=whole)
    assert len(masked) <= len(text)
    assert mask(masked, dialect, whole=whole) == masked
    assert mask(masked, dialect, whole=not whole) == masked


@given(PIECES, PIECES, st.sampled_from(Dialect))
def test_a_value_in_front_does_not_change_the_rest(value, rest, dialect):
    """Quoted as each server wants it, whatever is in the value."""
    value = value.replace("\\", "").replace("'", "''")
    rest = rest.replace("'", "").replace('"', "").replace("\\", "")
    assert mask(f"'{value}' , {rest}", dialect, whole=True) == mask(
        f"'x' , {rest}", dialect, whole=True
    )


WORST = [
    "(", "'", '"', "`", "\\'", "\\", "$", "$a", "$a$", "/*", "*/", "/**/", "/*!", "/*! a */", "-",
    "-- ", "#", "1", "1 ", "a ", "a", " ", "E'", "e'a'\n", "'a' ", "{#", "1,", "TRUE", "n'", ".",
    "/*'", "'/*", "/* /", "*", "_a'", "--\n", "$a$ $b$",
]  # fmt: skip
SMALL = 20_000


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("piece", WORST)
def test_time_is_linear(dialect, piece):
    def cost(size):
        text = f"SELECT {piece * (size // len(piece))}"
        times = []
        for _ in range(3):
            start = perf_counter()
            mask(text, dialect, whole=False)
            times.append(perf_counter() - start)
        return min(times)

    # 16 times the text: 16 times the work, or 256 times if it were quadratic.
    assert cost(16 * SMALL) < 64 * max(cost(SMALL), 1e-4)
