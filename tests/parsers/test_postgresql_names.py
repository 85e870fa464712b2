# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.postgresql_names import MAX_NAMES, MAX_TEXT_BYTES, Names


@pytest.fixture
def names():
    made = Names()
    made.keep(b"a", b"SELECT 1")
    made.keep(b"B", b"SELECT 2")
    made.keep(b"", b"SELECT 3")
    return made


def known(names):
    return [name for name in (b"a", b"B", b"") if names.get(name) is not None]


def test_a_name_stands_for_the_latest_text(names):
    names.keep(b"a", b"SELECT 4")
    names.keep(b"", b"SELECT 5")
    assert names.get(b"a") == b"SELECT 4"
    assert names.get(b"") == b"SELECT 5"
    assert len(names) == 2


def test_what_is_not_known_is_none(names):
    assert names.get(b"c") is None
    names.keep(b"a", None)
    names.keep(b"", None)
    assert known(names) == [b"B"]


def test_names_are_dropped(names):
    names.drop(b"a")
    names.drop(b"c")
    names.drop(b"")
    assert known(names) == [b"B"]
    names.clear()
    assert known(names) == []


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (b"DEALLOCATE a", [b"B", b""]),
        (b" deallocate  Prepare A ; ", [b"B", b""]),
        (b'DEALLOCATE "B"', [b"a", b""]),
        (b"DEALLOCATE B", [b"a", b"B", b""]),
        (b"DEALLOCATE ALL", [b""]),
        (b"discard all;", [b""]),
        (b"DISCARD PLANS", [b"a", b"B", b""]),
        (b"DELETE FROM a", [b"a", b"B", b""]),
        (b"SELECT 1", [b"a", b"B", b""]),
        (b"", [b"a", b"B", b""]),
        (b"DEALLOCATE a" + b" " * 300, [b"a", b"B", b""]),
    ],
)
def test_sql_that_removes_names_is_obeyed(names, text, left):
    names.obey(text)
    assert known(names) == left


def test_of_too_many_names_the_oldest_go():
    names = Names()
    for number in range(MAX_NAMES + 5):
        names.keep(b"%d" % number, b"x")
    assert len(names) == MAX_NAMES
    assert names.get(b"4") is None
    assert names.get(b"5") == b"x"


def test_of_too_many_bytes_the_oldest_go():
    names = Names()
    for number in range(5):
        names.keep(b"%d" % number, bytes(MAX_TEXT_BYTES // 4 - 1))
    assert len(names) == 4
    assert names.get(b"0") is None
    names.keep(b"0", bytes(MAX_TEXT_BYTES + 1))
    assert len(names) == 0
