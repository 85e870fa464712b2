# SPDX-License-Identifier: Apache-2.0
"""Operations and targets: the examples of the conventions, and the statements of both servers."""

from __future__ import annotations

import pytest

from parsers.sql import Dialect, describe
from parsers.sql_summary import MAX_SUMMARY, summarise

MYSQL = Dialect.MYSQL
POSTGRESQL = Dialect.POSTGRESQL

CONVENTIONS = [
    ("SELECT *\nFROM   wuser_table\nWHERE  username = ?", "SELECT wuser_table"),
    (
        (
            "INSERT INTO shipping_details (order_id, address)\n"
            "SELECT order_id, address FROM orders WHERE order_id = ?"
        ),
        "INSERT shipping_details SELECT orders",
    ),
    ("SELECT * FROM songs, artists WHERE songs.artist_id == artists.id", "SELECT songs artists"),
    (
        (
            "SELECT order_date FROM (SELECT * FROM orders o\n"
            "JOIN customers c ON o.customer_id = c.customer_id)"
        ),
        "SELECT SELECT orders customers",
    ),
    ("call some_stored_procedure", "call some_stored_procedure"),
]

BOTH = [
    *CONVENTIONS,
    ("select 1", "select"),
    ("SELECT now()", "SELECT"),
    ("SELECT DISTINCT a FROM t", "SELECT t"),
    ("SELECT a FROM s.t", "SELECT s.t"),
    ("SELECT a FROM c.s . t x", "SELECT c.s.t"),
    ("SELECT a FROM t AS x, u AS y, v z WHERE x.i IN (1, 2)", "SELECT t u v"),
    ("SELECT a FROM t x JOIN u y ON x.a = y.a, w", "SELECT t u w"),
    ("SELECT a FROM t LEFT OUTER JOIN u USING (a) CROSS JOIN v NATURAL JOIN w", "SELECT t u v w"),
    ("SELECT a FROM (t JOIN u ON t.a = u.a) JOIN v ON true", "SELECT t u v"),
    ("SELECT a FROM ((t JOIN u ON t.a = u.a) JOIN v ON true)", "SELECT t u v"),
    ("(SELECT a FROM t) UNION ALL (SELECT a FROM u) ORDER BY 1, 2", "SELECT t SELECT u"),
    ("SELECT a FROM t UNION SELECT b FROM u", "SELECT t SELECT u"),
    ("SELECT a FROM t WHERE b IN (SELECT b FROM u) AND c = 1", "SELECT t SELECT u"),
    ("SELECT (SELECT max(a) FROM t) FROM u", "SELECT SELECT t u"),
    ("SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u, v)", "SELECT t SELECT u v"),
    ("SELECT a FROM t ORDER BY b, c LIMIT 10 OFFSET 5", "SELECT t"),
    ("SELECT a FROM t GROUP BY b, c HAVING count(*) > 1", "SELECT t"),
    ("SELECT a FROM t FOR UPDATE", "SELECT t"),
    ("SELECT a FROM t FOR SHARE NOWAIT", "SELECT t"),
    ("SELECT EXTRACT(year FROM d), TRIM(BOTH 'x' FROM y), SUBSTRING(s FROM 2) FROM t", "SELECT t"),
    ("SELECT a FROM t WHERE a IS DISTINCT FROM b", "SELECT t"),
    ("SELECT replace(a, 'x', 'y'), insert(a, 1, 2, 'z') FROM t", "SELECT t"),
    ("SELECT a FROM t WHERE (replace(a, 'x', 'y')) = b", "SELECT t"),
    ("SELECT row_number() OVER (PARTITION BY a ORDER BY b) FROM t", "SELECT t"),
    ("WITH a AS (SELECT * FROM t) SELECT * FROM a", "SELECT t SELECT"),
    (
        "WITH a AS (SELECT 1), b (x, y) AS (SELECT 2) SELECT * FROM a, B, c",
        "SELECT SELECT SELECT c",
    ),
    (
        "WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT n + 1 FROM r JOIN t ON 1) SELECT * FROM r",
        "SELECT SELECT t SELECT",
    ),
    ("WITH a AS (SELECT 1) UPDATE t SET b = 1", "SELECT UPDATE t"),
    ("WITH a AS (SELECT 1) DELETE FROM t", "SELECT DELETE t"),
    ("WITH replace AS (SELECT 1) SELECT * FROM s.replace", "SELECT SELECT s.replace"),
    ("INSERT INTO t (a) VALUES (1)", "INSERT t"),
    ("insert into T values (1), (2)", "insert T"),
    ("INSERT INTO t (a) SELECT a FROM u", "INSERT t SELECT u"),
    ("INSERT INTO t WITH c AS (SELECT 1 FROM u) SELECT * FROM c", "INSERT t SELECT u SELECT"),
    ("UPDATE t SET a = 1, b = 2 WHERE c = 3", "UPDATE t"),
    ("UPDATE t SET a = (SELECT b FROM u), c = 1", "UPDATE t SELECT u"),
    ("DELETE FROM t WHERE a = 1", "DELETE t"),
    ("DELETE FROM s.t", "DELETE s.t"),
    ("call p(1, 2)", "call p"),
    ("CREATE TABLE x (id int, d date DEFAULT '2020-01-01')", "CREATE TABLE x"),
    ("CREATE TABLE IF NOT EXISTS s.x (id int)", "CREATE TABLE s.x"),
    ("CREATE TEMPORARY TABLE x AS SELECT * FROM t", "CREATE TABLE x SELECT t"),
    ("create table x (a int references t on delete cascade on update cascade)", "create table x"),
    ("CREATE OR REPLACE VIEW v AS SELECT a FROM t", "CREATE VIEW v SELECT t"),
    ("CREATE VIEW v AS WITH c AS (SELECT 1) SELECT * FROM c, t", "CREATE VIEW v SELECT SELECT t"),
    ("CREATE UNIQUE INDEX i ON t (a, b)", "CREATE INDEX i"),
    ("CREATE DATABASE d", "CREATE DATABASE d"),
    ("DROP TABLE IF EXISTS a, b", "DROP TABLE a b"),
    ("DROP INDEX i", "DROP INDEX i"),
    ("ALTER TABLE t ADD COLUMN a int, DROP COLUMN b", "ALTER TABLE t"),
    ("CREATE FUNCTION f(a int) RETURNS int RETURN (SELECT 1 FROM t)", "CREATE FUNCTION f"),
    ("DROP FUNCTION IF EXISTS f", "DROP FUNCTION f"),
    ("DROP PROCEDURE p; SELECT a FROM t", "DROP PROCEDURE p SELECT t"),
    ("DROP FUNCTION f(int); DROP TRIGGER", "DROP FUNCTION f DROP TRIGGER"),
    ("DROP FUNCTION; SELECT a FROM t", "DROP FUNCTION SELECT t"),
    ("TRUNCATE TABLE t", "TRUNCATE TABLE t"),
    ("TRUNCATE t", "TRUNCATE t"),
    ("BEGIN", "BEGIN"),
    ("START TRANSACTION READ ONLY", "START TRANSACTION"),
    ("COMMIT", "COMMIT"),
    ("ROLLBACK", "ROLLBACK"),
    ("ROLLBACK TO SAVEPOINT s1", "ROLLBACK"),
    ("SAVEPOINT s8371", "SAVEPOINT"),
    ("RELEASE SAVEPOINT s8371", "RELEASE"),
    ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET"),
    ("SHOW TABLES FROM x", "SHOW"),
    ("GRANT SELECT, INSERT ON t TO bob", "GRANT"),
    ("GRANT SELECT (a, b), UPDATE (c) ON t TO bob", "GRANT"),
    ("REVOKE DELETE ON t FROM bob", "REVOKE"),
    ("EXPLAIN SELECT * FROM t", "EXPLAIN SELECT t"),
    ("EXPLAIN ANALYZE DELETE FROM t", "EXPLAIN DELETE t"),
    ("PREPARE p1 FROM 'SELECT 1'", "PREPARE"),
    ("EXECUTE p1", "EXECUTE"),
    ("DEALLOCATE PREPARE p1", "DEALLOCATE"),
    ("BEGIN; UPDATE t SET a = 1; SELECT b FROM u; COMMIT;", "BEGIN UPDATE t SELECT u COMMIT"),
    (
        "SELECT 1; WITH t AS (SELECT 1) SELECT * FROM t; SELECT * FROM t",
        "SELECT SELECT SELECT SELECT t",
    ),
    ("; SELECT a FROM t", "SELECT t"),
    ("VALUES (1, 2)", "VALUES"),
    ("TABLE t", "TABLE t"),
    ("DROP USER bob", "DROP USER"),
    ("DROP USER bob, eve", "DROP USER"),
    ("CREATE ROLE bob", "CREATE ROLE"),
    ("SELECT a FROM", "SELECT"),
    ("SELECT a FROM ?", "SELECT"),
    ("CREATE", "CREATE"),
    ("CREATE (", "CREATE"),
    ("SELECT ) a FROM t", "SELECT t"),
]

ONLY_MYSQL = [
    ("SELECT a FROM `my db`.`my table`", "SELECT `my db`.`my table`"),
    ("SELECT a FROM t USE INDEX FOR JOIN (i) WHERE 1", "SELECT t"),
    ("SELECT a FROM t STRAIGHT_JOIN u", "SELECT t u"),
    ("SELECT a FROM t LOCK IN SHARE MODE", "SELECT t"),
    ("SELECT a INTO OUTFILE '/tmp/x' FROM t", "SELECT t"),
    ("SELECT a FROM t INTO @x, @y", "SELECT t"),
    ("SELECT * FROM JSON_TABLE('[1]', '$[*]' COLUMNS (a INT PATH '$')) AS j, t", "SELECT t"),
    ("INSERT t VALUES (1)", "INSERT t"),
    ("INSERT LOW_PRIORITY IGNORE INTO t SET a = 1", "INSERT t"),
    ("INSERT INTO t (a) VALUES (1) ON DUPLICATE KEY UPDATE a = VALUES(a), b = 2", "INSERT t"),
    ("REPLACE INTO t VALUES (1)", "REPLACE t"),
    ("REPLACE t SELECT * FROM u", "REPLACE t SELECT u"),
    ("UPDATE t, u SET t.a = u.a", "UPDATE t u"),
    ("UPDATE LOW_PRIORITY t JOIN u ON t.a = u.a SET t.b = 1", "UPDATE t u"),
    ("DELETE t, u FROM t INNER JOIN u WHERE t.a = u.a", "DELETE t u"),
    ("DELETE FROM t USING t JOIN u USING (a)", "DELETE t t u"),
    ("LOAD DATA LOCAL INFILE '/x' REPLACE INTO TABLE t FIELDS TERMINATED BY ','", "LOAD DATA t"),
    ("USE shop", "USE shop"),
    ("USE `shop`", "USE `shop`"),
    ("LOCK TABLES t READ, u AS x WRITE", "LOCK TABLES t u"),
    ("UNLOCK TABLES", "UNLOCK TABLES"),
    ("DESCRIBE t", "DESCRIBE t"),
    ("DESC t", "DESC t"),
    ("EXPLAIN t", "EXPLAIN t"),
    ("EXPLAIN FORMAT=JSON SELECT a FROM t", "EXPLAIN SELECT t"),
    ("ANALYZE TABLE t, u", "ANALYZE TABLE t u"),
    ("OPTIMIZE TABLE t", "OPTIMIZE TABLE t"),
    ("CREATE USER 'bob'@'%' IDENTIFIED BY 'x'", "CREATE USER"),
    ("SET PASSWORD FOR 'bob'@'%' = 'x'", "SET"),
    ("SET @a = (SELECT max(b) FROM t)", "SET SELECT t"),
    ("SET STATEMENT max_statement_time=1 FOR SELECT a FROM t", "SET SELECT t"),
    (
        "CREATE DEFINER=`root`@`localhost` PROCEDURE p() BEGIN SELECT 1; DELETE FROM t; END",
        "CREATE PROCEDURE p",
    ),
    ("CREATE TABLE x SELECT * FROM t", "CREATE TABLE x SELECT t"),
    ("/*!40101 SET NAMES utf8mb4 */", "SET"),
    ("KILL QUERY 17", "KILL"),
    ("DO SLEEP(1)", "DO"),
    ("XA START 'x'", "XA"),
    ("SHOW CREATE TABLE t", "SHOW"),
    ("FLUSH TABLES WITH READ LOCK", "FLUSH"),
    ("(SELECT a FROM t)", "SELECT t"),
]

ONLY_POSTGRESQL = [
    ('SELECT a FROM "song list"', 'SELECT "song list"'),
    ('SELECT a FROM "S"."T""x"', 'SELECT "S"."T""x"'),
    ("SELECT * FROM \"song list\", 'artists'", 'SELECT "song list"'),
    ("SELECT a FROM ONLY t", "SELECT t"),
    ("SELECT a FROM t, LATERAL (SELECT b FROM u) x", "SELECT t SELECT u"),
    ("SELECT a FROM generate_series(1, 5) g, t", "SELECT t"),
    ("SELECT a FROM unnest(ARRAY[1, 2]) WITH ORDINALITY, t", "SELECT t"),
    ("SELECT a FROM t FOR UPDATE OF t SKIP LOCKED", "SELECT t"),
    ("SELECT a FROM t WHERE b = ANY($1::int[])", "SELECT t"),
    ("SELECT a FROM t WHERE a->>'x' = '1' AND b ? 'c'", "SELECT t"),
    ("INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET a = excluded.a", "INSERT t"),
    ("INSERT INTO t (a) VALUES ($1) RETURNING id, b", "INSERT t"),
    ("UPDATE t SET a = u.a FROM u WHERE t.id = u.id", "UPDATE t u"),
    ("DELETE FROM t USING u, v WHERE t.a = u.a", "DELETE t u v"),
    (
        (
            "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET b = 1"
            " WHEN NOT MATCHED THEN INSERT (a, b) VALUES (1, 2)"
        ),
        "MERGE t u",
    ),
    ("MERGE INTO t USING (SELECT * FROM u) x ON true WHEN MATCHED THEN DELETE", "MERGE t SELECT u"),
    ("COPY t (a, b) FROM STDIN WITH (FORMAT csv)", "COPY t"),
    ("COPY (SELECT a FROM t) TO STDOUT", "COPY SELECT t"),
    ("EXPLAIN (ANALYZE, BUFFERS) SELECT a FROM t", "EXPLAIN SELECT t"),
    ("EXPLAIN VERBOSE SELECT a FROM t", "EXPLAIN SELECT t"),
    ("PREPARE p (int) AS SELECT a FROM t WHERE b = $1", "PREPARE SELECT t"),
    ("PREPARE p AS INSERT INTO t VALUES ($1)", "PREPARE INSERT t"),
    ("EXECUTE p('x', 1)", "EXECUTE"),
    ("DECLARE c1 CURSOR FOR SELECT a FROM t", "DECLARE SELECT t"),
    ("FETCH FORWARD 100 FROM c1", "FETCH"),
    ("CLOSE c1", "CLOSE"),
    ("LISTEN ch", "LISTEN ch"),
    ("NOTIFY ch, 'x'", "NOTIFY ch"),
    ("VACUUM", "VACUUM"),
    ("VACUUM (FULL, ANALYZE) t", "VACUUM t"),
    ("VACUUM FULL VERBOSE t, u", "VACUUM t u"),
    ("ANALYZE", "ANALYZE"),
    ("ANALYZE t (a, b)", "ANALYZE t"),
    ("LOCK TABLE t IN EXCLUSIVE MODE", "LOCK TABLE t"),
    ("DO $$ BEGIN DELETE FROM t; END $$", "DO"),
    ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)", "CREATE INDEX i"),
    ("CREATE INDEX ON t (a)", "CREATE INDEX"),
    ("CREATE MATERIALIZED VIEW v AS SELECT a FROM t", "CREATE VIEW v SELECT t"),
    ("REFRESH MATERIALIZED VIEW v", "REFRESH VIEW v"),
    ("CREATE EXTENSION IF NOT EXISTS hstore", "CREATE EXTENSION hstore"),
    ("ALTER SYSTEM SET work_mem = '1GB'", "ALTER SYSTEM"),
    ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO bob", "ALTER"),
    (
        "CREATE OR REPLACE FUNCTION f() RETURNS int AS $$ SELECT 1 FROM t $$ LANGUAGE sql",
        "CREATE FUNCTION f",
    ),
    ("CREATE TRIGGER g BEFORE UPDATE ON t EXECUTE FUNCTION f()", "CREATE TRIGGER g"),
    ("TRUNCATE ONLY t, u CASCADE", "TRUNCATE t u"),
    ("COMMENT ON TABLE t IS 'x'", "COMMENT"),
    ("DISCARD ALL", "DISCARD"),
    ("RESET ALL", "RESET"),
    ("REINDEX TABLE t", "REINDEX TABLE t"),
    (
        "WITH d AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM d",
        "DELETE t INSERT u SELECT",
    ),
    ("WITH a AS MATERIALIZED (SELECT 1 FROM t) SELECT * FROM a", "SELECT t SELECT"),
]


@pytest.mark.parametrize(
    ("dialect", "text", "summary"),
    [
        *((dialect, *each) for dialect in Dialect for each in BOTH),
        *((MYSQL, *each) for each in ONLY_MYSQL),
        *((POSTGRESQL, *each) for each in ONLY_POSTGRESQL),
    ],
)
def test_summary(dialect, text, summary):
    described = describe(text, dialect)
    assert described.understood
    assert described.summary == summary


def test_a_summary_ends_between_names():
    tables = [f"table_{number}" for number in range(100)]
    summary = describe(f"SELECT * FROM {', '.join(tables)}", MYSQL).summary
    assert len(summary) <= MAX_SUMMARY
    assert summary.split() == ["SELECT", *tables[: len(summary.split()) - 1]]
    assert len(f"{summary} {tables[len(summary.split()) - 1]}") > MAX_SUMMARY


def test_a_name_longer_than_a_summary_is_left_out():
    assert describe(f"SELECT * FROM {'a' * 300}", MYSQL).summary == "SELECT"
    assert summarise(["SELECT", "a", "FROM", "t" * 248]) == f"SELECT {'t' * 248}"
    assert summarise(["SELECT", "a", "FROM", "t" * 249]) == "SELECT"


def test_no_words_no_summary():
    assert summarise([]) == ""
