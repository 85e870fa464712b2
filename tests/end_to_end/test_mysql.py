# SPDX-License-Identifier: Apache-2.0
"""A MariaDB server and its clients: what the server has logged is what was seen, at both ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import pymysql
import pytest

from parsers.sql import Dialect, describe
from tests.end_to_end.captures import record, replayed
from tests.end_to_end.http2_servers import go_build
from tests.end_to_end.mariadb_servers import (
    BIG_ROWS,
    DATABASE,
    PASSWORD,
    USER,
    mariadb_server,
)
from tests.end_to_end.servers import MARGIN_NS, PROGRAMS, needs
from tests.rig import watch
from tests.tracer.conversations import plain

pytestmark = pytest.mark.kernel

KINDS = ("client", "server")
CLIENTS = ("pymysql", "connector", "command-line", "slap", "compressed", "pymysql-unix")
SCRIPT = """
SELECT * FROM users; SELECT COUNT(*) FROM numbers; USE other; USE shop; CALL report(1);
SELEC 1; INSERT INTO users VALUES (1, 'x', NULL); SELECT n FROM numbers LIMIT 5000;
"""
QUERIES = 60
LOGGED = {
    "Connect": "COM_CONNECT",
    "Query": "",
    "Init DB": "COM_INIT_DB",
    "Prepare": "COM_STMT_PREPARE",
    "Execute": "COM_STMT_EXECUTE",
    "Reset stmt": "COM_STMT_RESET",
    "Change user": "COM_CHANGE_USER",
}
"""Operations by the words of the general log, which leaves out pings and resets."""
LINE = re.compile(r"(?:\d{6} +[\d:]+)?\t+ *(\d+) ([A-Z][A-Za-z ]+?)\t(.*)", re.DOTALL)


@dataclass
class Talk:
    """What one client did."""

    said: list = field(default_factory=list)
    """What it knows of its exchanges: text or operation, rows, error."""
    logged: list = field(default_factory=list)
    """What the server says that it was asked: number of the connection, operation, text."""
    counted: dict = field(default_factory=dict)
    """What the server's counters have grown by."""
    spans: dict = field(default_factory=dict)
    began_ns: int = 0
    ended_ns: int = 0


def program(name, server, path="-", size="small"):
    script = str(PROGRAMS / "mysql_talk.py")
    where = [name, str(server.port), path, USER, PASSWORD, DATABASE, size]
    command = [sys.executable, script, *where]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def tool(server, name, *flags, script=None):
    needs(name)
    where = ["--no-defaults", "-h127.0.0.1", f"-P{server.port}", f"-u{USER}", f"-p{PASSWORD}"]
    command = [name, *where, *flags]
    return subprocess.run(
        command, input=script, capture_output=True, text=True, check=False, timeout=60
    )


def run(name, server):
    """Let a client talk; what it says of it."""
    if name == "slap":
        query = ["--create-schema=shop", "--query=SELECT * FROM users", "--no-drop"]
        load = ["--concurrency=3", f"--number-of-queries={QUERIES}"]
        assert tool(server, "mariadb-slap", *query, *load).returncode == 0
        return []
    if name in {"command-line", "compressed"}:
        flags = ["--compress"] if name == "compressed" else []
        done = tool(server, "mariadb", DATABASE, "--force", *flags, script=SCRIPT)
        assert "ERROR 1064" in done.stderr, done.stderr
        return []
    if name == "pymysql-unix":
        return program("pymysql", server, server.socket)
    return program(name, server, size="big")


def log_of(text):
    """The commands of the general log; those of several lines are put together."""
    entries = []
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match:
            entries.append([match[1], match[2], match[3]])
        elif entries:
            entries[-1][2] += "\n" + line
    return [(number, LOGGED[word], text) for number, word, text in entries if word in LOGGED]


@pytest.fixture(scope="module")
def server():
    with mariadb_server() as made:
        yield made


@pytest.fixture(scope="module")
def talks(source, server):
    """All clients one after the other, in one capture."""
    found = {}
    with server.connect(autocommit=True) as watching:
        with watch("--source", source, "-p", str(os.getpid()), "--buffer", "64M") as capture:
            for name in CLIENTS:
                talk = found[name] = Talk()
                before = server.status(watching)
                logged = server.log.stat().st_size
                time.sleep(0.01)
                talk.began_ns = time.time_ns()
                talk.said = run(name, server)
                talk.ended_ns = time.time_ns()
                time.sleep(0.01)
                after = server.status(watching)
                talk.counted = {key: after[key] - number for key, number in before.items()}
                with server.log.open("rb") as log:
                    log.seek(logged)
                    text = log.read().decode("utf-8", "replace")
                own = str(watching.thread_id())
                talk.logged = [each for each in log_of(text) if each[0] != own]
        for name, talk in found.items():
            talk.spans = {
                kind: sorted(
                    (
                        span
                        for span in capture.of_kind(kind)
                        if span["attributes"].get("db.system.name") == "mariadb"
                        and talk.began_ns - MARGIN_NS <= span["start_time_unix_nano"]
                        and span["end_time_unix_nano"] <= talk.ended_ns + MARGIN_NS
                    ),
                    key=lambda span: span["start_time_unix_nano"],
                )
                for kind in KINDS
            }
            assert talk.spans["server"], (name, capture.summary)
    return found


@pytest.fixture(params=CLIENTS)
def talk(request, talks):
    return talks[request.param]


def told(span):
    """Operation and text as the general log has them."""
    attributes = span["attributes"]
    return attributes.get("db.operation.name", ""), attributes.get("db.query.text", "")


def masked(operation, text):
    if operation == "COM_STMT_EXECUTE":
        # The log has the values in place of what stood for them.
        text = text.replace("name <> NULL", "name <> ?")
    if operation in {"", "COM_STMT_PREPARE", "COM_STMT_EXECUTE"}:
        return operation, describe(text, Dialect.MYSQL, whole=True).text
    return operation, ""


UNLOGGED = {"COM_PING", "COM_RESET_CONNECTION"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_seen_is_what_the_server_logged(talks, kind):
    for name in ("pymysql", "connector", "command-line", "pymysql-unix"):
        talk = talks[name]
        wanted = [masked(operation, text) for _, operation, text in talk.logged]
        seen = [told(span) for span in talk.spans[kind]]
        assert [each for each in seen if each[0] not in UNLOGGED] == wanted, name


@pytest.mark.parametrize("kind", KINDS)
def test_many_connections_at_once(talks, kind):
    talk = talks["slap"]
    wanted = Counter(masked(operation, text) for _, operation, text in talk.logged)
    assert Counter(map(told, talk.spans[kind])) == wanted
    assert wanted["", "SELECT * FROM users"] == QUERIES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["pymysql", "connector", "pymysql-unix"])
def test_rows_and_errors_are_those_that_the_client_got(talks, kind, name):
    talk = talks[name]
    spans = iter(talk.spans[kind])
    for what, rows, code in talk.said:
        span = next(each for each in spans if what in told(each))
        attributes = span["attributes"]
        if rows is not None and what != "SELECT body FROM files":
            assert attributes.get("db.response.returned_rows") == rows, what
        assert attributes.get("db.response.status_code") == (code and str(code)), what
        assert attributes.get("error.type") == (code and str(code))
        assert span["status"] == ("error" if code else "unset")
        assert bool(code) == ("wirespan.mysql.sqlstate" in attributes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_servers_counters_agree(talks, kind):
    for name in ("pymysql", "connector", "command-line", "slap"):
        talk = talks[name]
        counted = Counter(told(span)[0] for span in talk.spans[kind])
        assert counted["COM_CONNECT"] == talk.counted["Connections"], name
        assert counted["COM_STMT_PREPARE"] == talk.counted["Com_stmt_prepare"], name
        assert counted["COM_STMT_EXECUTE"] == talk.counted["Com_stmt_execute"], name
        assert counted["COM_STMT_RESET"] == talk.counted["Com_stmt_reset"], name


def test_big_results_are_whole(talks):
    for name in ("pymysql", "connector"):
        for kind in KINDS:
            (span,) = (
                each
                for each in talks[name].spans[kind]
                if told(each)[1] == "SELECT n, t FROM numbers"
            )
            assert span["attributes"]["wirespan.completeness"] == "complete"
            assert span["attributes"]["db.response.returned_rows"] == BIG_ROWS


def test_both_ends_say_the_same(talk):
    ends = []
    for kind in KINDS:
        # Where a row of 16 MiB ends, little of a call was captured, and not the same of each.
        keys = [
            {
                key: value
                for key, value in span["attributes"].items()
                if key.startswith("db.") or key in {"server.address", "server.port"}
            }
            for span in talk.spans[kind]
            if told(span)[1] != "SELECT body FROM files"
        ]
        ends.append(sorted(json.dumps(each, sort_keys=True) for each in keys))
    assert ends[0] == ends[1]


def test_the_current_database_is_followed(talks):
    for kind in KINDS:
        spans = talks["command-line"].spans[kind]
        found = [span["attributes"].get("db.namespace") for span in spans]
        assert found[0] == DATABASE
        assert "other" in found
        assert found[-1] == DATABASE
        changed = talks["connector"].spans[kind][-1]
        assert changed["attributes"]["db.namespace"] == "other"


def test_unix_sockets_have_a_path(talks, server):
    for kind in KINDS:
        for span in talks["pymysql-unix"].spans[kind]:
            assert span["attributes"]["server.address"] == server.socket
            assert "server.port" not in span["attributes"]


def test_what_is_compressed_is_left(talks):
    for kind in KINDS:
        (login,) = talks["compressed"].spans[kind]
        assert told(login) == ("COM_CONNECT", "")


def test_refused_logins(server, source):
    with watch("--source", source, "--port", str(server.port)) as capture:
        for options in ({"user": "mallory"}, {"database": "nowhere"}):
            wanted = {"host": "127.0.0.1", "port": server.port, "user": USER, "password": PASSWORD}
            with pytest.raises(pymysql.err.OperationalError):
                pymysql.connect(**wanted | options)
        capture.wait_for(4)
    for kind in KINDS:
        codes = [each["attributes"]["db.response.status_code"] for each in capture.of_kind(kind)]
        assert codes == ["1045", "1049"]


@pytest.fixture(scope="module")
def go_client(tmp_path_factory):
    """go-sql-driver, which sets CLIENT_DEPRECATE_EOF; the clients above do not."""
    return go_build(
        PROGRAMS / "mysql_client", tmp_path_factory.mktemp("go") / "client", modules=True
    )


def test_a_client_that_needs_no_eof(server, source, go_client):
    where = f"{USER}:{PASSWORD}@tcp(127.0.0.1:{server.port})/{DATABASE}"
    with watch("--source", source, "--port", str(server.port)) as capture:
        done = subprocess.run([go_client, where], capture_output=True, check=True, timeout=20)
        capture.wait_for(24, strict=False)
    numbers = [int(line) for line in done.stdout.split()]
    assert numbers == [3, 2, 1, 0, 3, 200, -1]
    for kind in KINDS:
        spans = sorted(capture.of_kind(kind), key=lambda span: span["start_time_unix_nano"])
        ran = [span for span in spans if "db.query.summary" in span["attributes"]]
        rows = [span["attributes"].get("db.response.returned_rows", -1) for span in ran]
        assert rows == numbers
        operations = [told(span)[0] for span in spans]
        assert operations.count("COM_STMT_PREPARE") == operations.count("COM_STMT_EXECUTE") == 4
        assert {span["attributes"]["wirespan.completeness"] for span in spans} == {"complete"}


@pytest.fixture(scope="module")
def recorded(source, server, tmp_path_factory):
    """A recording of two clients, and what was printed meanwhile."""
    path = tmp_path_factory.mktemp("recorded") / "a.wspan"
    flags = ["--source", source, "--port", str(server.port)]

    def work():
        for name in ("pymysql", "connector"):
            program(name, server)

    return path, *record(path, flags, work)


def test_a_replay_prints_the_same(recorded):
    path, live, summary = recorded
    assert live.count(b"COM_CONNECT") >= 4, summary
    assert replayed(path) == live


def test_no_secret_is_recorded(recorded):
    path, live, _ = recorded
    everything = plain(path)
    assert b"SELECT id, name FROM users" in everything, "nothing was inflated"
    for where in (everything, live):
        assert PASSWORD.encode() not in where
        assert b"Duplicate entry" not in where
        assert b"some text" not in where
