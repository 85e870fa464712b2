# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of one's own: a fresh cluster, a free port, a log of all statements."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
import pytest

from tests.end_to_end.servers import needs
from tests.rig import free_port, running, wait_until

USER: Final = "wirespan"
PASSWORD: Final = "xyzzy5ecret"
FOLDERS: Final = "/usr/lib/postgresql/*/bin"
OPTIONS: Final = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "shared_buffers": "8MB",
    "max_connections": "20",
    "log_statement": "all",
    "log_line_prefix": "%%%%%p|%d|%e|",
    "log_min_messages": "warning",
    "autovacuum": "off",
    "ssl": "off",
    "jit": "off",
}
SCHEMA: Final = (
    "CREATE TABLE users (id INT PRIMARY KEY, name TEXT)",
    "INSERT INTO users SELECT n, 'name ' || n FROM generate_series(1, 100) n",
    "CREATE TABLE people (id INT, name TEXT)",
    "CREATE TABLE numbers AS SELECT n, 'some text' AS t FROM generate_series(1, 20000) n",
)


class Logged(NamedTuple):
    """One line of the server's log, with those that belong to it."""

    pid: str
    database: str
    status: str
    """SQLSTATE."""
    level: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether a Query or an Execute has begun."""
        return self.level == "LOG" and self.text.startswith(("statement: ", "execute "))

    @property
    def statement(self) -> str:
        return re.sub(r"^(statement|execute [^:]*): ", "", self.text)


@dataclass
class PostgreSql:
    """A running server."""

    port: int
    folder: str
    """Where its socket is."""
    log: Path
    program: subprocess.Popen[Any]

    def connect(self, database: str, **options: Any) -> psycopg.Connection[Any]:
        """A connection of psycopg."""
        options = {"host": "127.0.0.1", "autocommit": True} | options
        return psycopg.connect(
            port=self.port, user=USER, password=PASSWORD, dbname=database, **options
        )

    def create(self, database: str) -> None:
        """A database with `SCHEMA` in it."""
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {database}")
        with self.connect(database) as connection:
            for statement in SCHEMA:
                connection.execute(statement)

    def logged(self, position: int) -> list[Logged]:
        """What it has written since the log was so long."""
        with self.log.open("rb") as log:
            log.seek(position)
            text = log.read().decode("utf-8", "replace")
        found = []
        for entry in text.split("%%")[1:]:
            pid, database, status, rest = entry.split("|", 3)
            level, _, message = rest.partition(":  ")
            found.append(Logged(pid, database, status, level, message.rstrip("\n")))
        return found


def _as_nobody(command: list[str]) -> list[str]:
    """The server refuses to run as root."""
    if os.geteuid():
        return command
    entry = _nobody()
    ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, *command]


def _nobody() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    return pytest.skip("no user to run the server as")


def _programs() -> Path:
    """Where the server's programs are; distributions keep them out of the path."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = sorted(Path("/").glob(FOLDERS[1:]))
    if not folders:
        pytest.skip("PostgreSQL is not installed")
    return folders[-1]


def _copied(path: Path, target: Path) -> Path:
    """A file that the server trusts: its own, which nobody else may read."""
    shutil.copy(path, target)
    target.chmod(0o600)
    if not os.geteuid():
        os.chown(target, _nobody().pw_uid, _nobody().pw_gid)
    return target


@contextmanager
def postgresql_server(
    certificate: Path | None = None, key: Path | None = None
) -> Iterator[PostgreSql]:
    """Run one; with a certificate and its key, it lets clients change over to TLS."""
    needs("setpriv", "psql", "pgbench")
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="wirespan-pg-") as name:
        home = Path(name)
        if not os.geteuid():
            os.chown(home, _nobody().pw_uid, _nobody().pw_gid)
        secret = home / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        install = [str(programs / "initdb"), "-D", f"{home}/data", "-U", USER, "-N"]
        install += ["--auth=scram-sha-256", f"--pwfile={secret}", "--locale=C", "-E", "UTF8"]
        done = subprocess.run(
            _as_nobody(install), capture_output=True, check=False, timeout=60, cwd="/"
        )
        if done.returncode:
            pytest.skip(f"initdb does not work here: {done.stderr[-300:]!r}")
        port = free_port()
        options = dict(OPTIONS)
        if certificate is not None and key is not None:
            for option, path in (("ssl_cert_file", certificate), ("ssl_key_file", key)):
                options[option] = str(_copied(path, home / option))
            options["ssl"] = "on"
        settings = [part for item in options.items() for part in ("-c", f"{item[0]}={item[1]}")]
        command = [str(programs / "postgres"), "-D", f"{home}/data", "-p", str(port)]
        command += ["-k", str(home), *settings]
        log = home / "log"
        with (
            log.open("wb") as output,
            running(_as_nobody(command), stderr=output, cwd="/") as server,
        ):
            made = PostgreSql(port, str(home), log, server)
            wait_until(lambda: _is_ready(made) or server.poll() is not None, "postgres listens", 40)
            try:
                yield made
            finally:
                # At once, without a checkpoint.
                server.send_signal(signal.SIGQUIT)


def _is_ready(server: PostgreSql) -> bool:
    with suppress(psycopg.Error), server.connect("postgres"):
        return True
    return False
