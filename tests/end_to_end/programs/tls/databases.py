# SPDX-License-Identifier: Apache-2.0
"""Clients of databases over TLS: `databases.py NAME`, a job as one line of JSON.

tests/end_to_end/tls_databases.py says what is in it. Prints as JSON, for each statement or command,
the port that the client had and the length of what it got.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Callable

JOB = json.loads(sys.stdin.readline())
CONTEXT = ssl.create_default_context(cafile=JOB["ca"])


def with_psycopg() -> Callable:
    import psycopg

    connection = psycopg.connect(
        host="127.0.0.1",
        port=JOB["port"],
        user=JOB["user"],
        password=JOB["password"],
        dbname="postgres",
        sslmode="verify-full",
        sslrootcert=JOB["ca"],
        autocommit=True,
    )
    return lambda text: connection.execute(text).fetchone()


def with_pymysql() -> Callable:
    import pymysql

    connection = pymysql.connect(
        host="127.0.0.1",
        port=JOB["port"],
        user=JOB["user"],
        password=JOB["password"],
        ssl=CONTEXT,
    )

    def run(text: str) -> tuple:
        with connection.cursor() as cursor:
            cursor.execute(text)
            peer, *rest = cursor.fetchone()
        return (peer.rpartition(":")[2], *rest)

    return run


def with_redis() -> Callable:
    import redis

    client = redis.Redis(
        port=JOB["port"], ssl=True, ssl_ca_certs=JOB["ca"], single_connection_client=True
    )
    peer = client.client_info()["addr"].rpartition(":")[2]
    return lambda words: (peer, client.execute_command(*words))


async def with_asyncpg() -> list:
    import asyncpg

    connections = [
        await asyncpg.connect(
            host="127.0.0.1",
            port=JOB["port"],
            user=JOB["user"],
            password=JOB["password"],
            database="postgres",
            ssl=CONTEXT,
        )
        for _ in range(JOB["connections"])
    ]

    async def run(index: int) -> list:
        texts = JOB["texts"][index :: JOB["connections"]]
        return [tuple(await connections[index].fetchrow(each)) for each in texts]

    shares = await asyncio.gather(*map(run, range(JOB["connections"])))
    for each in connections:
        await each.close()
    return [shares[at % len(shares)][at // len(shares)] for at in range(len(JOB["texts"]))]


def main(name: str) -> None:
    if name == "asyncpg":
        rows = asyncio.run(with_asyncpg())
    else:
        connect = {"psycopg": with_psycopg, "pymysql": with_pymysql, "redis-py": with_redis}[name]
        connections = [connect() for _ in range(JOB["connections"])]
        rows = [connections[at % len(connections)](each) for at, each in enumerate(JOB["texts"])]
    # Redis answers SET with True.
    sizes = [len(row[1]) if isinstance(row[1], str | bytes) else 0 for row in rows]
    print(json.dumps([[int(row[0]), size] for row, size in zip(rows, sizes, strict=True)]))


if __name__ == "__main__":
    main(sys.argv[1])
