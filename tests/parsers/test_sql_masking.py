# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers import sql_masking
from parsers.sql import Dialect, describe
from parsers.sql_masking import mask

TEXTS = [
    b"SELECT name FROM users WHERE name = 'O''Neil' AND age > 42",
    b"INSERT INTO t (a, b) VALUES (1, 'x'), (2, E'y\\n'), (-3.5e10, NULL)",
    b"SELECT 1 -- pl4nted\n, /* pl4nted */ 2",
    b"UPDATE t SET a = $1, b = 'pl4nted' WHERE c IN (1, 2, 3)",
    "SELECT 'pl4nted \u00e9' FROM \u00e9t\u00e9 WHERE x = 1".encode(),
    b"SELECT 'pl4nted",
    b"",
    b"  SELECT  1  ",
]
SETTINGS = [
    b"SET my.token TO pl4nted",
    b'SET LOCAL search_path = "pl4nted", pl4nted2, DEFAULT; SELECT kept FROM t SET',
    b"alter role kept set my.token = pl4nted.pl4nted",
    b"ALTER SYSTEM SET x TO pl4nted$1",
]
PIECES = st.sampled_from(
    [
        *("SELECT", "FROM", "t", "WHERE", "a", "=", "$1", "'x'", "'it''s'", '"q"', "`b`", "12"),
        *("0x1F", "1.5e-3", ",", "(", ")", "-- c\n", "/*c*/", "E'\\''", "$$d$$", ";", "'", "\\"),
        *("#", "TRUE", "NULL", "\u00e9", "/*!1", "*/", "--", "SET", "TO", "ALTER"),
    ]
)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("text", TEXTS)
def test_it_is_as_long_and_means_the_same(text, dialect):
    masked = mask(text, dialect)
    assert len(masked) == len(text)
    assert b"pl4nted" not in masked
    said, wanted = (
        describe(each.decode("utf-8", "replace"), dialect, whole=True) for each in (masked, text)
    )
    assert said == wanted


@pytest.mark.parametrize("text", SETTINGS)
def test_values_of_settings_need_no_quotes(text):
    test_it_is_as_long_and_means_the_same(text, Dialect.POSTGRESQL)
    assert b"kept" not in text or b"kept" in mask(text, Dialect.POSTGRESQL)


def test_in_mysql_they_need_them():
    text = b"SET NAMES utf8mb4, sql_mode = ansi"
    assert mask(text, Dialect.MYSQL) == text


@pytest.mark.parametrize("dialect", Dialect)
@given(pieces=st.lists(PIECES, max_size=12), whole=st.booleans())
def test_masking_twice_changes_nothing(dialect, pieces, whole):
    text = " ".join(pieces).encode()
    masked = mask(text, dialect, whole=whole)
    assert len(masked) == len(text)
    assert mask(masked, dialect, whole=whole) == masked


@given(text=st.binary(max_size=200))
def test_any_bytes_have_a_mask_of_their_length(text):
    for dialect in Dialect:
        assert len(mask(text, dialect)) == len(text)


def test_a_mask_that_would_not_fit_is_left_out(monkeypatch):
    monkeypatch.setattr(sql_masking, "mask_literals", lambda *_, **__: "longer than it was")
    assert mask(b"SELECT 1", Dialect.MYSQL) == b"        "
