# SPDX-License-Identifier: Apache-2.0
"""Texts of both servers, without their values: shown, bounded, and never leaking."""

from __future__ import annotations

import string
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers import sql
from parsers.sql import CUT, MAX_SHOWN, MAX_TEXT, Dialect, Statement, describe

MYSQL = Dialect.MYSQL
POSTGRESQL = Dialect.POSTGRESQL


@pytest.fixture(autouse=True)
def _no_caches():
    sql._statements.clear()
    sql._shapes.clear()


BOTH = [
    ("SELECT a FROM t WHERE b = 'x' AND c = 5", "SELECT a FROM t WHERE b = ? AND c = ?"),
    ("  SELECT\n\t1 ;  ", "SELECT ? ;"),
    ("select a from t where b is NULL or c = TRUE", "select a from t where b is NULL or c = ?"),
    ("/* x */ SELECT /* y */ a -- z", "SELECT a"),
    ("SELECT a FROM t WHERE b IN (1, 2, 3)", "SELECT a FROM t WHERE b IN (?)"),
    ("SELECT a FROM t WHERE b IN (-1,-2)", "SELECT a FROM t WHERE b IN (?)"),
    ("SELECT a FROM t WHERE b IN ('x')", "SELECT a FROM t WHERE b IN (?)"),
    ("SELECT a FROM t WHERE b NOT IN ( 1 , 2 )", "SELECT a FROM t WHERE b NOT IN ( ? )"),
    ("SELECT a FROM t WHERE b IN (1, c, 2)", "SELECT a FROM t WHERE b IN (?, c, ?)"),
    ("SELECT a FROM t WHERE b IN (?, ?, ?)", "SELECT a FROM t WHERE b IN (?)"),
    (
        "SELECT a FROM t WHERE (b, c) IN ((1, 2), (3, 4))",
        "SELECT a FROM t WHERE (b, c) IN ((?, ?))",
    ),
    ("SELECT min(1, 2), IN_X(1, 2)", "SELECT min(?, ?), IN_X(?, ?)"),
    ("INSERT INTO t VALUES (1, 'a'), (2, 'b')", "INSERT INTO t VALUES (?, ?)"),
    ("INSERT INTO t VALUES (1, NULL),(NULL, -2) , (DEFAULT,3)", "INSERT INTO t VALUES (?, NULL)"),
    ("INSERT INTO t VALUES (now(), 1), (now(), 2)", "INSERT INTO t VALUES (now(), ?), (now(), ?)"),
    ("INSERT INTO t VALUES (%s, %s), (%s, %s)", "INSERT INTO t VALUES (%s, %s)"),
    ("INSERT INTO t VALUES (:a, :b)", "INSERT INTO t VALUES (:a, :b)"),
    ("SELECT a FROM t LIMIT 5 OFFSET 10", "SELECT a FROM t LIMIT ? OFFSET ?"),
    ("SELECT DATE '2020-01-01', INTERVAL '1 day'", "SELECT DATE ?, INTERVAL ?"),
    ("SELECT a+1, b-2, -3, c*.5", "SELECT a+?, b-?, -?, c*?"),
    ("SELECT 1; SELECT 'x'", "SELECT ?; SELECT ?"),
    ("CREATE TABLE x (a varchar(20) DEFAULT 'y')", "CREATE TABLE x (a varchar(?) DEFAULT ?)"),
    ("EXECUTE p1", "EXECUTE p1"),
    ("SELECT a FROM t WHERE b LIKE '%x%' ESCAPE '!'", "SELECT a FROM t WHERE b LIKE ? ESCAPE ?"),
]

ONLY_MYSQL = [
    ("SELECT \"x\", 'it\\'s', 0xFF FROM `t 1`", "SELECT ?, ?, ? FROM `t 1`"),
    ("CREATE USER 'b'@'h' IDENTIFIED BY 'pw'", "CREATE USER ?@? IDENTIFIED BY ?"),
    ("SET PASSWORD FOR 'b'@'h' = PASSWORD('pw')", "SET PASSWORD FOR ?@? = PASSWORD(?)"),
    ("LOAD DATA INFILE '/x' INTO TABLE t", "LOAD DATA INFILE ? INTO TABLE t"),
    ("/*!40101 SET NAMES 'utf8' */", "SET NAMES ?"),
    ("SHOW VARIABLES LIKE 'x'", "SHOW VARIABLES LIKE ?"),
    ("KILL 17", "KILL ?"),
    ("PREPARE p FROM 'SELECT 1'", "PREPARE p FROM ?"),
    ("SET autocommit=0", "SET autocommit=?"),
    ("SELECT @@version, @x := 5", "SELECT @@version, @x := ?"),
    ("LOCK TABLES t READ", "LOCK TABLES t READ"),
    ("CHANGE MASTER TO MASTER_PASSWORD='pw'", "CHANGE MASTER TO MASTER_PASSWORD=?"),
    ("SELECT a->'$.b', a->>'$.c' FROM t", "SELECT a->?, a->>? FROM t"),
]

ONLY_POSTGRESQL = [
    ("SELECT $1::int, \"It's\", E'\\'x', $$y$$", 'SELECT $1::int, "It\'s", ?, ?'),
    ("CREATE USER b PASSWORD 'pw'", "CREATE USER b PASSWORD ?"),
    ("ALTER ROLE b WITH ENCRYPTED PASSWORD 'pw'", "ALTER ROLE b WITH ENCRYPTED PASSWORD ?"),
    ("COPY t FROM '/x' WITH (DELIMITER ',')", "COPY t FROM ? WITH (DELIMITER ?)"),
    ("COPY t FROM PROGRAM 'cat /x'", "COPY t FROM PROGRAM ?"),
    ("DO $$ BEGIN PERFORM 'x'; END $$", "DO ?"),
    ("DO LANGUAGE plpgsql $a$ x $a$", "DO LANGUAGE plpgsql ?"),
    ("NOTIFY c, 'x'", "NOTIFY c, ?"),
    ("EXECUTE p('x', 1)", "EXECUTE p(?, ?)"),
    ("SET work_mem = '1GB'", "SET work_mem = ?"),
    ("SET my.token TO abc", "SET my.token TO ?"),
    ("SET LOCAL search_path TO a, b", "SET LOCAL search_path TO ?, ?"),
    ("SET x TO DEFAULT; SELECT b FROM t", "SET x TO DEFAULT; SELECT b FROM t"),
    ("SET x TO y; SELECT b FROM t", "SET x TO ?; SELECT b FROM t"),
    ("ALTER ROLE b SET my.token = abc", "ALTER ROLE b SET my.token = ?"),
    ("ALTER TABLE t RENAME TO u", "ALTER TABLE t RENAME TO u"),
    ("UPDATE t SET a = b", "UPDATE t SET a = b"),
    ("SELECT a ? 'b', a @> '{}' FROM t", "SELECT a ? ?, a @> ? FROM t"),
    ("INSERT INTO t VALUES ($1, $2), ($3, $4)", "INSERT INTO t VALUES ($1, $2)"),
    # Not a string between $1,$ and another of these.
    ("INSERT INTO t VALUES ($1,$2),($3,$4)", "INSERT INTO t VALUES ($1,$2)"),
    ("UPDATE t SET a=$1,b='x' WHERE c IN ($2,$3)", "UPDATE t SET a=$1,b=? WHERE c IN ($2,$3)"),
    ("SELECT a$1,$1,$1$x$ pw $x$ FROM t", "SELECT a$1,$1,$1? FROM t"),
    ("SELECT ARRAY[1, 2], B'01', U&'x' UESCAPE '!'", "SELECT ARRAY[?, ?], ?, ? UESCAPE ?"),
    ("FETCH 100 FROM c", "FETCH ? FROM c"),
    # sqlglot takes this for a comment of a template.
    ("SELECT a {# b #} c", "SELECT a c"),
]


@pytest.mark.parametrize(
    ("dialect", "text", "shown"),
    [
        *((dialect, *each) for dialect in Dialect for each in BOTH),
        *((MYSQL, *each) for each in ONLY_MYSQL),
        *((POSTGRESQL, *each) for each in ONLY_POSTGRESQL),
    ],
)
def test_text(dialect, text, shown):
    described = describe(text, dialect, whole=True)
    assert described.text == shown
    assert described.understood
    assert describe(text, dialect, whole=True) is described


@pytest.mark.parametrize(
    ("dialect", "text", "shown"),
    [
        (MYSQL, "SELECT  'a  b', 5 /* x */ FROM t", "SELECT 'a b', 5 FROM t"),
        (MYSQL, "SELECT a FROM t WHERE b IN (1, 2)", "SELECT a FROM t WHERE b IN (1, 2)"),
        (POSTGRESQL, "SELECT $$x$$, TRUE -- y", "SELECT $$x$$, TRUE"),
        (POSTGRESQL, "SET my.token TO abc", "SET my.token TO abc"),
        (POSTGRESQL, "hunter2 x", ""),
    ],
)
def test_without_redaction_literals_stay_and_comments_go(dialect, text, shown):
    described = describe(text, dialect, redact=False)
    assert described.text == shown
    assert described.summary == describe(text, dialect).summary


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ";",
        "(((",
        "hello world",
        "'SELECT 1'",
        "1",
        "-- SELECT 1",
        "SELECTED a",
        "select_x a",
        "SELECT.a",
        "SELECT$ a",
        "{call p}",
        "GET /x HTTP/1.1",
        "\0SELECT 1",
        "\ud800",
    ],
)
@pytest.mark.parametrize("redact", [True, False])
def test_what_is_no_statement_says_nothing(text, redact):
    for dialect in Dialect:
        assert describe(text, dialect, redact=redact) == Statement("", "", understood=False)


@pytest.mark.parametrize("text", ["SELECT \0", "select a\x01b", "SELECT \ufffd", "SELECT \x7f"])
def test_unreadable_statements_say_their_verb(text):
    for dialect in Dialect:
        assert describe(text, dialect) == Statement(text[:6], "", understood=False)


def test_what_sqlglot_refuses_says_its_verb(monkeypatch):
    def refuse(_):
        raise RecursionError

    monkeypatch.setattr(sql, "_tokenize", {MYSQL: refuse})
    assert describe("SELECT secret", MYSQL) == Statement("SELECT", "", understood=False)


def test_what_only_sqlglot_takes_for_a_literal_goes_too(monkeypatch):
    monkeypatch.setattr(sql, "mask", lambda text, *_, **__: text)
    assert describe("SELECT 'x', 5, $1", POSTGRESQL).text == "SELECT ?, ?, $1"
    assert describe("SELECT 'x', 5 # y", MYSQL).text == "SELECT ?, ?"


# Bounds


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("SELECT '{}'", "?"),
        ("SELECT a FROM t WHERE b = '{}secret' AND c", "b = ?"),
        ("SELECT a /* {} secret", "a"),
        ("SELECT a -- {} secret", "a"),
        ("INSERT INTO t VALUES (1, 'a'), (2, '{}secret'), (3, 'b')", "VALUES (?, ?)"),
    ],
)
def test_a_long_text_is_cut_before_it_is_read(text, end):
    text = text.format("x" * MAX_TEXT)
    for dialect in Dialect:
        described = describe(text, dialect, whole=True)
        assert described.text.endswith(end + CUT)
        assert "secret" not in described.text
        assert described.understood


def test_it_is_cut_at_the_bound_only():
    fits = f"SELECT '{'x' * (MAX_TEXT - 9)}'"
    assert len(fits) == MAX_TEXT
    assert describe(fits, MYSQL).text == "SELECT ?"
    assert describe(f"{fits};", MYSQL).text == f"SELECT ?{CUT}"


def test_bulk_inserts_of_any_size_are_one_text():
    rows = [f"({number}, 'name {number}')" for number in range(3000)]
    start = "INSERT INTO t (a, b) VALUES (?, ?)"
    for count in (1, 10, 100):
        assert (
            describe(f"INSERT INTO t (a, b) VALUES {', '.join(rows[:count])}", MYSQL).text == start
        )
    shown = {
        describe(
            f"INSERT INTO t (a, b) VALUES {'x' * skip}{', '.join(rows)}".replace("x", " "), MYSQL
        )
        for skip in range(40)
    }
    assert {each.text for each in shown} == {start + CUT}


def test_long_lists_of_any_size_are_one_text():
    for count in (2, 500, 20_000):
        text = f"SELECT a FROM t WHERE b IN ({', '.join(map(str, range(count)))})"
        end = CUT if len(text) > MAX_TEXT else ")"
        assert describe(text, POSTGRESQL).text == f"SELECT a FROM t WHERE b IN (?{end}"


def test_what_is_shown_is_bounded_and_ends_with_a_word():
    columns = [f"column_{number}" for number in range(1000)]
    for redact in (True, False):
        shown = describe(f"SELECT {', '.join(columns)} FROM t", MYSQL, redact=redact).text
        assert MAX_SHOWN - 40 < len(shown) <= MAX_SHOWN
        assert shown.endswith(f",{CUT}")
        assert shown.removesuffix(f",{CUT}").split(" ")[-1] in columns
    assert describe(f"SELECT {'a' * 5000}", MYSQL).text == f"SELECT{CUT}"


def test_caches_are_bounded():
    before = sql._statements._max_entries, sql._shapes._max_entries
    for number in range(before[0] + 10):
        describe(f"SELECT {number}", MYSQL)
    assert len(sql._statements) <= before[0]
    assert len(sql._shapes) == 1
    large = "x" * MAX_TEXT
    for number in range(1000):
        describe(f"SELECT '{number}{large}", MYSQL)
    held = sum(len(text) for text, *_ in sql._statements)
    assert held <= sql._statements._max_bytes


def test_statements_that_differ_in_values_are_analysed_once(monkeypatch):
    describe("SELECT a FROM t WHERE b = 1", MYSQL)
    monkeypatch.setattr(sql, "_analyse", None)
    described = describe("SELECT a FROM t WHERE b = 'x'", MYSQL)
    assert described is describe("SELECT  a FROM t WHERE b = 0x5 ", MYSQL)
    assert described.summary == "SELECT t"


def test_sqlglot_is_imported_with_the_first_statement():
    program = (
        "import sys; from parsers.sql import Dialect, describe;"
        "assert 'sqlglot' not in sys.modules;"
        "describe('', Dialect.MYSQL); assert 'sqlglot' not in sys.modules;"
        "print(describe('SELECT 1', Dialect.MYSQL).text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "SELECT ?\n"


# Nothing leaks

SECRETS = st.text(string.ascii_letters + string.digits, min_size=4, max_size=12).map(
    lambda text: f"Zq{text}"
)
"""No word of SQL, and none of the words below, begins with this."""
NOISE = st.text("ab ,;:()=-/*#%_\n\t.?@{}\u00e9", max_size=8)
VALUES = st.tuples(NOISE, SECRETS, NOISE).map("".join)


def _doubled(quote):
    return lambda value: f"{quote}{value.replace(quote, quote * 2)}{quote}"


def _both(value):
    """Quotes in it, escaped in both ways, as a server with its usual settings reads them."""
    return f"'\\'{value}''\\\\{value}\\''"


FORMS = {
    MYSQL: st.one_of(
        VALUES.map(_doubled("'")),
        VALUES.map(_doubled('"')),
        VALUES.map(lambda value: _doubled("'")(f"'{value}'")),
        VALUES.map(_both),
        VALUES.map(lambda value: f"_utf8mb4'{value}'"),
        VALUES.map(lambda value: f"N'{value}'"),
        VALUES.map(lambda value: f"'a' '{value}'\n\"{value}\""),
        VALUES.map(lambda value: f"'{value}\n{value}'"),
        SECRETS.map(lambda value: f"x'{value.encode().hex()}'"),
        SECRETS.map(lambda value: f"0x{value.encode().hex()}"),
        VALUES.map(lambda value: f"/* {value.replace('*', '')} */ 5"),
        VALUES.map(lambda value: f"5 # {value} '".replace("\n", " ") + "\n"),
        VALUES.map(lambda value: f"5 -- {value} '".replace("\n", " ") + "\n"),
        VALUES.map(lambda value: f"/*!40101 '{value.replace('*', '')}' */"),
    ),
    POSTGRESQL: st.one_of(
        VALUES.map(_doubled("'")),
        VALUES.map(lambda value: _doubled("'")(f"'{value}'")),
        VALUES.map(lambda value: _doubled("'")(f"\\{value}")),
        VALUES.map(lambda value: f"E{_both(value)}"),
        VALUES.map(lambda value: f"E'a'\n'\\'{value}'"),
        VALUES.map(lambda value: f"U&'{value}'"),
        VALUES.map(lambda value: f"'a'\n'{value}'"),
        VALUES.map(lambda value: f"$${value}$$"),
        VALUES.map(lambda value: f"$tag$ $$ ' {value} $tag$"),
        VALUES.map(lambda value: f"'{value}'::text"),
        SECRETS.map(lambda value: f"x'{value.encode().hex()}'"),
        VALUES.map(lambda value: f"/* {value.replace('*', '').replace('/', '')} ' */ 5"),
        VALUES.map(lambda value: f"/* a /* ' */ {value.replace('*', '').replace('/', '')} */ 5"),
        VALUES.map(lambda value: f"5 -- {value} '".replace("\n", " ") + "\n"),
    ),
}
TEMPLATES = st.sampled_from(
    [
        "SELECT a, {} FROM t WHERE b = {} AND c IN ({}, {})",
        "INSERT INTO t (a, b) VALUES ({}, {}), ({}, {})",
        "UPDATE t SET a = {}, b = {} WHERE c = {} OR d={}",
        "DELETE FROM t WHERE a BETWEEN {} AND {};SELECT {},{}",
        "CALL p({}, {},{}, {})",
        "SET x = {}; SET y = {}; SELECT {} AS z, {} FROM t",
        "WITH c AS (SELECT {}) SELECT {} FROM c JOIN t ON {} = {}",
        "EXPLAIN SELECT {}+{}-{}*{}",
        "CREATE TABLE t (a int DEFAULT {}, CHECK (b > {} OR c = {} OR d={}))",
    ]
)


def _secrets(text):
    """The words that must not be seen; also in the hexadecimal form above."""
    words = "".join(each if each.isascii() and each.isalnum() else " " for each in text).split()
    return {each[each.index("Zq") :] for each in words if "Zq" in each} | {
        each for each in words if "5a71" in each
    }


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("whole", [True, False])
@given(data=st.data())
def test_no_value_in_any_form_is_seen(dialect, whole, data):
    values = data.draw(st.lists(FORMS[dialect], min_size=4, max_size=4))
    text = data.draw(TEMPLATES).format(*values)
    described = describe(text, dialect, whole=whole)
    for secret in _secrets(text):
        assert secret not in described.text
        assert secret not in described.summary
    assert "SELECT" in described.text or described.text.split(" ")[0] in text


@pytest.mark.parametrize("dialect", Dialect)
@given(data=st.data())
def test_no_value_is_seen_wherever_the_text_is_cut(dialect, data):
    values = data.draw(st.lists(FORMS[dialect], min_size=4, max_size=4))
    text = data.draw(TEMPLATES).format(*values)
    text = text[: data.draw(st.integers(0, len(text)))]
    described = describe(text, dialect)
    assert "Zq" not in described.text
    assert "Zq" not in described.summary


def _with_backslashes(value):
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


MODES = {
    "backslash escapes": (MYSQL, [_with_backslashes], '"x\\"" \\\\"'),
    "NO_BACKSLASH_ESCAPES": (MYSQL, [_doubled("'"), _doubled('"')], '"x\\"'),
    "ANSI_QUOTES": (MYSQL, [_with_backslashes], '"x\\"'),
    "ANSI_QUOTES,NO_BACKSLASH_ESCAPES": (MYSQL, [_doubled("'")], '"\'x\\"'),
    "standard_conforming_strings": (
        POSTGRESQL,
        [_doubled("'"), lambda value: f"E{_with_backslashes(value)}"],
        '"x\\"',
    ),
    "standard_conforming_strings=off": (POSTGRESQL, [_with_backslashes], '"x\\"'),
}
"""How each setting writes a value, and a name or a string that is awkward with it."""
AWKWARD_VALUES = st.tuples(
    *[
        st.text("ab ,\\\\''\"-/*#\n$", max_size=6),
        SECRETS,
        st.text("ab ,\\\\''\"-/*#\n$", max_size=6),
    ]
).map("".join)


@pytest.mark.parametrize("mode", MODES)
@given(data=st.data())
def test_no_value_is_seen_whatever_a_backslash_means(mode, data):
    dialect, writers, awkward = MODES[mode]
    quoted = "`it's`" if dialect is MYSQL else '"it\'s"'
    name = data.draw(st.sampled_from([awkward, quoted, "c"]))
    values = [
        data.draw(st.sampled_from(writers))(value)
        for value in data.draw(st.lists(AWKWARD_VALUES, min_size=1, max_size=4))
    ]
    text = f"SELECT {name} FROM t WHERE b IN ({', '.join(values)}) AND c = {name}"
    described = describe(text, dialect, whole=True)
    assert "Zq" not in described.text + described.summary
    described = describe(text[: data.draw(st.integers(0, len(text)))], dialect)
    assert "Zq" not in described.text + described.summary


@given(st.binary(max_size=64), SECRETS, st.sampled_from(Dialect), st.booleans())
def test_random_bytes_leak_nothing_quoted(data, secret, dialect, redact):
    noise = data.decode("latin-1")
    describe(noise, dialect, redact=redact)
    quoted = f"SELECT a FROM t WHERE b = '{secret}' AND {noise}"
    assert secret not in describe(quoted, dialect).text
    assert secret not in describe(quoted, dialect).summary


@given(st.text(max_size=60), st.sampled_from(Dialect), st.booleans(), st.booleans())
def test_any_text_gives_one_bounded_line(text, dialect, redact, whole):
    for each in (text, f"SELECT {text}"):
        described = describe(each, dialect, redact=redact, whole=whole)
        assert len(described.text) <= MAX_SHOWN
        assert "\n" not in described.text
        assert "\n" not in described.summary
        assert described.understood or not described.summary


PATHOLOGICAL = ["(", "'", '"', "`", "/*", "/**/", "1,", "(1),", "$a", "-- ", "{#", "\\'", "a.", ","]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("piece", PATHOLOGICAL)
def test_work_is_bounded_whatever_the_size(dialect, piece, monkeypatch):
    read = []
    real = sql.mask

    def counted(text, dialect, *, whole):
        read.append(len(text))
        return real(text, dialect, whole=whole)

    monkeypatch.setattr(sql, "mask", counted)
    for start in ("SELECT a FROM t WHERE b IN (", "INSERT INTO t VALUES ", "SELECT "):
        describe(start + piece * (1_000_000 // len(piece)), dialect)
    assert read == [MAX_TEXT] * 3
