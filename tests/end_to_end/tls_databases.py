# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL, MariaDB and Redis over TLS, and clients that tell each statement by a name in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
import redis

from tests.end_to_end import mariadb_servers, postgresql_servers
from tests.end_to_end.redis_servers import redis_server
from tests.end_to_end.servers import needs
from tests.end_to_end.tls_clients import NUMBER
from tests.end_to_end.tls_servers import SIZES, TLS_PROGRAMS, Authority
from tests.rig import free_port

CLIENTS: Final = {
    "postgresql": ("psql", "psycopg", "asyncpg"),
    "mariadb": ("mariadb", "pymysql"),
    "redis": ("redis-cli", "redis-py"),
}
CELLS: Final = [(server, client) for server, clients in CLIENTS.items() for client in clients]
MARIADB_HOST: Final = "SELECT host FROM information_schema.processlist WHERE id = connection_id()"


@dataclass
class Database:
    """A running server."""

    name: str
    port: int
    user: str
    password: str
    pid: int
    made: Any


@dataclass(frozen=True)
class Statement:
    """What a client has run."""

    key: str
    """The name in it."""
    text: str
    """With its values, but for those of Redis."""
    peer: int
    """The port that the client had."""
    sent: int
    received: int
    """At least so many bytes."""


def _sizes(index: int) -> tuple[int, int]:
    """Of the request and of the answer; all that is more than a TLS record in one of them."""
    return ((SIZES[1], SIZES[1]), (SIZES[2], SIZES[0]), (SIZES[0], SIZES[2]))[index % 3]


@contextmanager
def databases(files: Authority) -> Iterator[dict[str, Database]]:
    """All of them by name; one that cannot be had here is missing."""
    found = {}
    certificate = [str(files.certificate), str(files.key), str(files.ca)]
    with ExitStack() as stack:
        try:
            made = stack.enter_context(
                postgresql_servers.postgresql_server(files.certificate, files.key)
            )
            who = (postgresql_servers.USER, postgresql_servers.PASSWORD)
            found["postgresql"] = Database("postgresql", made.port, *who, made.program.pid, made)
        except pytest.skip.Exception:
            pass
        try:
            flags = ("--ssl-cert", "--ssl-key", "--ssl-ca")
            options = [f"{flag}={path}" for flag, path in zip(flags, certificate, strict=True)]
            other = stack.enter_context(mariadb_servers.mariadb_server(*options))
            who = (mariadb_servers.USER, mariadb_servers.PASSWORD)
            found["mariadb"] = Database("mariadb", other.port, *who, other.program.pid, other)
        except pytest.skip.Exception:
            pass
        try:
            port = free_port()
            flags = ("--tls-cert-file", "--tls-key-file", "--tls-ca-cert-file")
            options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
            for flag, path in zip(flags, certificate, strict=True):
                options += [flag, path]
            third = stack.enter_context(redis_server(*options))
            found["redis"] = Database("redis", port, "", "", third.program.pid, third)
        except pytest.skip.Exception:
            pass
        yield found


def _sql(server: str, cell: str) -> list[Statement]:
    """What is to be run; the name stands before what may be cut off."""
    made = []
    peer = f"({MARIADB_HOST})" if server == "mariadb" else "inet_client_port()"
    for index in range(NUMBER):
        asked, answered = _sizes(index)
        key = f"{cell}_{index}"
        text = f"SELECT {peer} AS {key}, repeat('x', {answered}), length('{'y' * asked}')"
        made.append(Statement(key, text, 0, len(text), answered))
    return made


def run(server: Database, client: str, files: Authority) -> list[Statement]:
    """Let a client run its statements, on two connections."""
    cell = client.replace("-", "_")
    if server.name == "redis":
        return _run_redis(server, client, cell, files)
    texts = _sql(server.name, cell)
    statements = [each.text for each in texts]
    if client == "psql":
        rows = _psql(server, files, statements)
    elif client == "mariadb":
        rows = _mariadb(server, files, statements)
    else:
        rows = _program(client, server, files, statements)
    made = []
    for each, (peer, length) in zip(texts, rows, strict=True):
        assert length == each.received, (each.key, length)
        made.append(replace(each, peer=peer))
    return made


def _program(
    client: str, server: Database, files: Authority, texts: Sequence[Any]
) -> list[tuple[int, int]]:
    job = {"port": server.port, "ca": str(files.ca), "user": server.user, "connections": 2}
    line = json.dumps(job | {"password": server.password, "texts": texts})
    command = [sys.executable, str(TLS_PROGRAMS / "databases.py"), client]
    done = subprocess.run(
        command, input=line + "\n", capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [(peer, length) for peer, length in json.loads(done.stdout)]


def _psql(server: Database, files: Authority, texts: Sequence[str]) -> list[tuple[int, int]]:
    needs("psql")
    environment = os.environ | {
        "PGPASSWORD": server.password,
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(files.ca),
    }
    rows = []
    for group in (texts[:12], texts[12:]):
        command = ["psql", "-X", "-A", "-t", "-F", " ", "-h", "127.0.0.1", "-p", str(server.port)]
        command += [
            "-U",
            server.user,
            "postgres",
            *(flag for each in group for flag in ("-c", each)),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, env=environment
        )
        assert done.returncode == 0, done.stderr
        rows += [line.split(" ") for line in done.stdout.splitlines()]
    return [(int(peer), len(filler)) for peer, filler, _ in rows]


def _mariadb(server: Database, files: Authority, texts: Sequence[str]) -> list[tuple[int, int]]:
    needs("mariadb")
    rows = []
    for group in (texts[:12], texts[12:]):
        command = ["mariadb", "--no-defaults", "-N", "-B", "-h127.0.0.1", f"-P{server.port}"]
        command += [f"-u{server.user}", f"-p{server.password}", f"--ssl-ca={files.ca}"]
        command += ["--ssl", "--ssl-verify-server-cert"]
        done = subprocess.run(
            command,
            input="".join(f"{each};\n" for each in group),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        rows += [line.split("\t") for line in done.stdout.splitlines()]
    return [(int(peer.rpartition(":")[2]), len(filler)) for peer, filler, _ in rows]


def _run_redis(server: Database, client: str, cell: str, files: Authority) -> list[Statement]:
    words: list[list[str]] = []
    with redis.Redis(unix_socket_path=server.made.path, protocol=2) as other:
        for index in range(NUMBER):
            asked, answered = _sizes(index)
            key = f"{cell}:{index}"
            if asked:
                words.append(["SET", key, "y" * asked])
            else:
                other.set(key, "x" * answered)
                words.append(["GET", key])
    if client == "redis-py":
        rows = _program(client, server, files, words)
    else:
        rows = _redis_cli(server, files, words)
    made = []
    for (name, key, *value), (peer, length) in zip(words, rows, strict=True):
        if name == "GET":
            assert length == SIZES[2], (key, length)
        text = f"{name} {key}{' ?' if value else ''}"
        made.append(Statement(key, text, peer, len("".join(value)), length if not value else 0))
    return made


def _redis_cli(
    server: Database, files: Authority, commands: Sequence[Sequence[str]]
) -> list[tuple[int, int]]:
    needs("redis-cli")
    rows: list[tuple[int, int]] = []
    for group in (commands[:12], commands[12:]):
        command = ["redis-cli", "-h", "127.0.0.1", "-p", str(server.port), "--tls"]
        command += ["--cacert", str(files.ca)]
        lines = ["CLIENT INFO", *(" ".join(each) for each in group)]
        done = subprocess.run(
            command,
            input="".join(f"{each}\n" for each in lines),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        peer = re.search(r" addr=127\.0\.0\.1:(\d+) ", done.stdout)
        assert peer is not None, done.stdout[:300]
        answers = [line for line in done.stdout.splitlines()[1:] if line]
        rows += [(int(peer[1]), len(each)) for each in answers]
    return rows
