# SPDX-License-Identifier: Apache-2.0
"""A MariaDB server of one's own: a fresh data directory, a free port, small buffers."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pymysql
import pytest

from tests.end_to_end.servers import needs
from tests.rig import free_port, running, wait_until

USER: Final = "wirespan"
PASSWORD: Final = "xyzzy5ecret"
DATABASE: Final = "shop"
BIG_ROWS: Final = 100_000
OPTIONS: Final = (
    "--no-defaults",
    "--innodb-buffer-pool-size=8M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=1M",
    "--performance-schema=OFF",
    "--skip-log-bin",
    "--skip-name-resolve",
    "--bind-address=127.0.0.1",
    "--local-infile=ON",
    "--max-allowed-packet=64M",
)
SCHEMA: Final = f"""
CREATE DATABASE {DATABASE};
CREATE DATABASE other;
CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}';
CREATE USER {USER}@localhost IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON *.* TO {USER}@'%', {USER}@localhost;
USE {DATABASE};
CREATE TABLE users (id INT PRIMARY KEY, name VARCHAR(100), born DATE);
INSERT INTO users VALUES (1, 'Bob', '1970-01-01'), (2, NULL, NULL), (3, 'Eve', '1999-12-31');
CREATE TABLE people (id INT, name VARCHAR(100));
CREATE TABLE files (body LONGBLOB);
CREATE PROCEDURE report(IN least INT) BEGIN
 SELECT id FROM users WHERE id >= least; SELECT name FROM users; END
"""


@dataclass
class MariaDb:
    """A running server."""

    port: int
    socket: str
    log: Path
    """The general log: each command that the server was given."""
    program: subprocess.Popen[Any]

    def connect(self, **options: Any) -> pymysql.Connection[Any]:
        """A connection of PyMySQL."""
        options = {"host": "127.0.0.1", "port": self.port, "database": DATABASE} | options
        return pymysql.connect(user=USER, password=PASSWORD, **options)

    def status(self, connection: pymysql.Connection[Any]) -> dict[str, int]:
        """What the server has counted of all sessions so far."""
        with connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS")
            rows = cursor.fetchall()
        return {name: int(value) for name, value in rows if value.isdigit()}


def _as_nobody(command: list[str]) -> list[str]:
    """Servers refuse to run as root."""
    if os.geteuid():
        return command
    for name in ("mysql", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
            return ["setpriv", *ids, *command]
    return command


@contextmanager
def mariadb_server(*flags: str) -> Iterator[MariaDb]:
    """Run one, with `SCHEMA` in it."""
    needs("mariadbd", "mariadb-install-db", "setpriv")
    program = shutil.which("mariadbd") or "mariadbd"
    with tempfile.TemporaryDirectory(prefix="wirespan-mariadb-") as folder:
        home = Path(folder)
        if not os.geteuid():
            for name in ("mysql", "nobody"):
                with suppress(KeyError):
                    shutil.chown(home, name)
                    break
        places = [f"--datadir={home}/data", f"--tmpdir={home}"]
        install = [
            "mariadb-install-db",
            *OPTIONS[:3],
            *places,
            "--auth-root-authentication-method=normal",
        ]
        done = subprocess.run(
            _as_nobody([*install, "--skip-test-db"]), capture_output=True, check=False, timeout=50
        )
        if done.returncode:
            pytest.skip(f"mariadb-install-db does not work here: {done.stderr[-300:]!r}")
        setup = home / "setup.sql"
        setup.write_text(" ".join(SCHEMA.split("CREATE PROCEDURE")[0].split()).replace("; ", ";\n"))
        port = free_port()
        path = f"{home}/mariadb.sock"
        command = [
            *(program, *OPTIONS, *flags, *places, f"--port={port}", f"--socket={path}"),
            *(f"--init-file={setup}", "--general-log", f"--general-log-file={home}/general.log"),
        ]
        setup.chmod(0o644)
        with running(_as_nobody(command), stderr=subprocess.DEVNULL) as server:
            wait_until(lambda: _is_ready(port) or server.poll() is not None, "mariadbd listens", 40)
            made = MariaDb(port, path, home / "general.log", server)
            with made.connect(autocommit=True) as connection, connection.cursor() as cursor:
                cursor.execute("CREATE PROCEDURE" + SCHEMA.split("CREATE PROCEDURE")[1])
                cursor.execute(
                    "CREATE TABLE numbers AS SELECT seq AS n, 'some text' AS t"
                    f" FROM seq_1_to_{BIG_ROWS}"
                )
            yield made


def _is_ready(port: int) -> bool:
    with (
        suppress(pymysql.err.Error),
        pymysql.connect(
            host="127.0.0.1", port=port, user=USER, password=PASSWORD, database=DATABASE
        ),
    ):
        return True
    return False
