# SPDX-License-Identifier: Apache-2.0
"""Talks to a PostgreSQL server as the first argument says; prints what it has done, as JSON.

postgresql_talk.py NAME HOST PORT USER PASSWORD DATABASE
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time

import asyncpg
import psycopg

NAME, HOST, PORT, USER, PASSWORD, DATABASE = sys.argv[1:]
NUMBER = 23
SECRET = "pl4nted"


NOTICED_S = 0.15
"""Until the tracer has asked for more than the beginning of each transfer."""


def connect(**options):
    options = {"autocommit": True} | options
    connection = psycopg.connect(
        host=HOST, port=PORT, user=USER, password=PASSWORD, dbname=DATABASE, **options
    )
    time.sleep(NOTICED_S)
    return connection


def plain():
    """Extended queries with unnamed statements, simple ones, transactions, errors."""
    rows = []
    with connect(prepare_threshold=None) as connection:
        for number in range(NUMBER):
            cursor = connection.execute("SELECT id, name FROM users WHERE id < %s", [number])
            rows.append(len(cursor.fetchall()))
        connection.execute(f"SELECT '{SECRET}', 42")
        connection.execute("INSERT INTO people VALUES (1, %s)", [SECRET])
        for wrong in ("SELEC 1", "SELECT nope FROM users", "SELECT 1/0"):
            try:
                connection.execute(wrong)
            except psycopg.Error:
                rows.append(-1)
        with connection.transaction():
            connection.execute("UPDATE users SET name = name WHERE id = %s", [1])
        connection.execute("SELECT 1; SELECT 2; SELECT 3")
    return {"rows": rows}


def prepared():
    """The same statement again and again, prepared at once."""
    with connect(prepare_threshold=0) as connection:
        for number in range(NUMBER):
            connection.execute("SELECT name FROM users WHERE id = %s", [number]).fetchall()
        connection.execute("DEALLOCATE ALL")
    return {}


def pipelined():
    """A pipeline that works, one with an error in the middle, and one of 2000 statements."""
    sent = 0
    with connect() as connection:
        with connection.pipeline():
            cursors = [
                connection.execute("SELECT n FROM numbers WHERE n < %s", [i]) for i in range(NUMBER)
            ]
            rows = [len(cursor.fetchall()) for cursor in cursors]
        try:
            with connection.pipeline() as pipeline:
                for number in range(NUMBER):
                    connection.execute("SELECT 10 / (%s - 7)", [number])
                    sent += 1
                pipeline.sync()
        except psycopg.Error:
            pass
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO people VALUES (%s, %s)", [(i, "x") for i in range(2000)]
            )
    return {"rows": rows, "sent": sent}


def copies():
    """COPY in both directions, one of them given up; a cursor on the server."""
    with connect() as connection, connection.cursor() as cursor:
        # Before more is sent than is captured of what is not known yet.
        time.sleep(0.3)
        with cursor.copy("COPY people FROM STDIN") as copy:
            for number in range(5000):
                copy.write_row((number, SECRET))
        size = 0
        with cursor.copy("COPY numbers TO STDOUT") as copy:
            for part in copy:
                size += len(part)
        try:
            with cursor.copy("COPY people FROM STDIN") as copy:
                copy.write_row((1, SECRET))
                give_up()
        except KeyError:
            pass
        with connection.transaction(), connection.cursor("c1") as named:
            named.itersize = 1000
            named.execute("SELECT n FROM numbers WHERE n <= 5500")
            rows = sum(1 for _ in named)
    return {"rows": rows, "size": size}


def give_up():
    raise KeyError


def cancelled():
    """A query that is cancelled over another connection."""
    with connect() as connection:
        threading.Timer(0.3, connection.cancel).start()
        try:
            connection.execute("SELECT pg_sleep(20)")
        except psycopg.errors.QueryCanceled:
            return {"cancelled": 1}
    return {}


def big():
    """Many rows, and a query and a value that are long."""
    with connect() as connection:
        rows = len(connection.execute("SELECT * FROM numbers").fetchall())
        connection.execute("SELECT length(%s)", ["x" * 3_000_000])
        values = ", ".join(f"({i}, '{SECRET}')" for i in range(20_000))
        connection.execute("INSERT INTO people VALUES " + values)
        connection.execute("SELECT 1")
    return {"rows": rows}


async def use_asyncpg():
    connection = await asyncpg.connect(
        host=HOST, port=PORT, user=USER, password=PASSWORD, database=DATABASE
    )
    await asyncio.sleep(NOTICED_S)
    heard = []
    await connection.add_listener("jobs", lambda *said: heard.append(said[3]))
    statement = await connection.prepare("SELECT name FROM users WHERE id = $1")
    for number in range(NUMBER):
        await statement.fetch(number)
    async with connection.transaction():
        cursor = await connection.cursor("SELECT n FROM numbers ORDER BY n")
        rows = len(await cursor.fetch(10)) + len(await cursor.fetch(20))
    await connection.executemany(
        "INSERT INTO people VALUES ($1, $2)", [(i, "y") for i in range(50)]
    )
    await connection.copy_records_to_table("people", records=[(i, SECRET) for i in range(1000)])
    await connection.copy_from_table("users", output=os.devnull)
    await connection.execute("NOTIFY jobs, '42'")
    try:
        await connection.fetch("SELECT 1 / $1::int", 0)
    except asyncpg.DivisionByZeroError:
        rows += 1000
    try:
        await connection.prepare("SELEC")
    except asyncpg.PostgresSyntaxError:
        rows += 1000
    await asyncio.sleep(0.1)
    await connection.close()
    return {"rows": rows, "heard": heard}


def asyncpg_all():
    """Prepared statements, cursors that read in parts, COPY, LISTEN and NOTIFY."""
    return asyncio.run(use_asyncpg())


began = time.time_ns()
said = globals()[NAME]()
print(json.dumps(said | {"began_ns": began, "ended_ns": time.time_ns()}))
