# SPDX-License-Identifier: Apache-2.0
"""Clients of MySQL that do a bit of everything.

    mysql_talk.py NAME PORT SOCKET USER PASSWORD DB SIZE

Prints, as JSON, one line for each exchange as the client knows it: what it ran, how many rows it
got, and the number of the error.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

name, port, path, user, password, database, size = sys.argv[1:]
IS_BIG = size == "big"
SECRET = "xyzzy5ecret"
LONG = "x" * 17_000_000
LOAD = "LOAD DATA LOCAL INFILE '{}' INTO TABLE people FIELDS TERMINATED BY ','"


def say(what, rows=None, code=None):
    print(json.dumps([what, rows, code]))


def pymysql_client(**where):
    import pymysql
    from pymysql.constants import CLIENT

    options = {"user": user, "password": password, "database": database, "local_infile": True}
    flags = CLIENT.MULTI_STATEMENTS
    connection = pymysql.connect(**options, **where, client_flag=flags, autocommit=True)
    say("COM_CONNECT")
    cursor = connection.cursor()

    def run(text, shown=None):
        try:
            cursor.execute(text)
        except pymysql.err.Error as error:
            say(text if shown is None else shown, None, error.args[0])
            return
        rows = len(cursor.fetchall()) if cursor.description else None
        while cursor.nextset():
            if cursor.description:
                rows = (rows or 0) + len(cursor.fetchall())
        say(text if shown is None else shown, rows)

    common(run)
    if IS_BIG:
        run("INSERT INTO files VALUES ('" + LONG + "')", "INSERT INTO files VALUES (? ...")
        run("SELECT body FROM files")
        run("DELETE FROM files")
    connection.ping(reconnect=False)
    say("COM_PING")
    connection.select_db("other")
    say("COM_INIT_DB")
    run("SELECT 1 FROM missing", "SELECT ? FROM missing")
    connection.close()


def common(run):
    run(
        f"SELECT id, name FROM users WHERE name <> '{SECRET}'",
        "SELECT id, name FROM users WHERE name <> ?",
    )
    run("SELECT id FROM users WHERE id > 99", "SELECT id FROM users WHERE id > ?")
    run(f"INSERT INTO users VALUES (1, '{SECRET}', NULL)", "INSERT INTO users VALUES (?, ?, NULL)")
    run("SELEC 1", "")
    if IS_BIG:
        # A socket is captured whole a moment after it is known what it speaks.
        time.sleep(0.3)
        run("SELECT n, t FROM numbers")
    run("SELECT 1; DO 2; SELECT 3 UNION SELECT 4", "SELECT ?; DO ?; SELECT ? UNION SELECT ?")
    run("CALL report(2)", "CALL report(?)")
    run("SELECT id, (SELECT name FROM users) FROM users")
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write("".join(f"{index},{SECRET}\n" for index in range(5000)))
        file.flush()
        run(LOAD.format(file.name), LOAD.format("x").replace("'x'", "?").replace("','", "?"))


def connector_client(**where):
    import mysql.connector

    options = {"user": user, "password": password, "database": database}
    where = {"unix_socket": where["unix_socket"]} if "unix_socket" in where else where
    connection = mysql.connector.connect(
        **options,
        **where,
        use_pure=True,
        ssl_disabled=True,
        allow_local_infile=True,
        autocommit=True,
    )
    say("COM_CONNECT")
    cursor = connection.cursor()

    def run(text, shown=None):
        rows = None
        try:
            cursor.execute(text, map_results=True)
            for _, results in cursor.fetchsets():
                rows = rows if results is None else (rows or 0) + len(results)
        except mysql.connector.Error as error:
            say(text if shown is None else shown, None, error.errno)
            return
        # An OK without rows looks like an empty result.
        say(text if shown is None else shown, rows or None)

    globals()["common"](run)
    prepared = connection.cursor(prepared=True)
    text = "SELECT id, name FROM users WHERE id >= ? AND (name IS NULL OR name <> ?)"
    for index in range(3):
        prepared.execute(text, (index + 1, None if index == 2 else SECRET))
        prepared.fetchall()
    prepared.execute("INSERT INTO people VALUES (?, ?)", (7, SECRET))
    prepared.close()
    connection.ping()
    connection.cmd_reset_connection()
    connection.cmd_change_user(user, password, "other")
    connection.close()


where = {"unix_socket": path} if path != "-" else {"host": "127.0.0.1", "port": int(port)}
{"pymysql": pymysql_client, "connector": connector_client}[name](**where)
