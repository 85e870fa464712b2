# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server and its clients: what it has logged is what was seen, at both ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import psycopg
import pytest

from parsers.sql import Dialect, describe
from tests.end_to_end.captures import record, replayed
from tests.end_to_end.postgresql_servers import PASSWORD, USER, postgresql_server
from tests.end_to_end.servers import MARGIN_NS, PROGRAMS
from tests.rig import watch
from tests.tracer.conversations import plain

pytestmark = pytest.mark.kernel

KINDS = ("client", "server")
PYTHON = ("plain", "prepared", "pipelined", "copies", "cancelled", "big", "asyncpg_all")
BENCH = ("bench_simple", "bench_extended", "bench_prepared", "bench_pipelined")
TALKS = (*PYTHON, "unix", "psql", *BENCH)
SECRET = "pl4nted"
NUMBER = 23
CLIENTS = 2
TRANSACTIONS = 50
"""Of each client of pgbench."""
SCRIPT = r"""
\set id random(1, 100)
BEGIN;
SELECT name FROM users WHERE id = :id;
UPDATE users SET name = name WHERE id = :id;
END;
"""
STATEMENTS = 4
PIPELINED = SCRIPT.replace("BEGIN;", "\\startpipeline\nBEGIN;") + "\\endpipeline\n"
PSQL = (
    "SELECT 1; SELECT name FROM users WHERE id = 7",
    f"INSERT INTO people VALUES (1, '{SECRET}')",
    "SELEC",
    "\\copy users TO /dev/null",
    "\\copy people FROM /dev/null",
    "LISTEN jobs; NOTIFY jobs",
    "SELECT * FROM nowhere",
    "",
    "SELECT 1 WHERE false",
)


@dataclass
class Talk:
    """What one client did."""

    said: dict = field(default_factory=dict)
    logged: list = field(default_factory=list)
    """What the server says that it was asked."""
    spans: dict = field(default_factory=dict)
    began_ns: int = 0
    ended_ns: int = 0


def run(server, name):
    """Let a client talk, in a database named like it; what it says of it."""
    if name in BENCH:
        return bench(server, name)
    if name == "psql":
        command = ["psql", "-X", "-h", "127.0.0.1", "-p", str(server.port), "-U", USER, name]
        command += [flag for each in PSQL for flag in ("-c", each)]
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=30, env=environment
        )
        assert "nowhere" in done.stderr, done.stderr
        return {}
    host = server.folder if name == "unix" else "127.0.0.1"
    script = [str(PROGRAMS / "postgresql_talk.py"), "plain" if name == "unix" else name]
    command = [sys.executable, *script, host, str(server.port), USER, PASSWORD, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def bench(server, name):
    script = server.log.parent / "script.sql"
    script.write_text(PIPELINED if name == "bench_pipelined" else SCRIPT)
    mode = "extended" if name == "bench_pipelined" else name.partition("_")[2]
    command = ["pgbench", "-n", "-M", mode, "-f", str(script)]
    command += ["-c", str(CLIENTS), "-t", str(TRANSACTIONS), "-h", "127.0.0.1"]
    done = subprocess.run(
        [*command, "-p", str(server.port), "-U", USER, name],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PGPASSWORD": PASSWORD},
    )
    assert done.returncode == 0, done.stderr
    match = re.search(r"actually processed: (\d+)/", done.stdout)
    return {"transactions": int(match[1])}


@pytest.fixture(scope="module")
def server():
    with postgresql_server() as made:
        made.create("base")
        with made.connect("postgres") as connection:
            for name in TALKS:
                connection.execute(f"CREATE DATABASE {name} TEMPLATE base")
        yield made


@pytest.fixture(scope="module")
def capture(source, server):
    """All clients one after the other, in one capture."""
    found = {}
    with watch("--source", source, "-p", str(os.getpid()), "--buffer", "64M") as capture:
        for name in TALKS:
            talk = found[name] = Talk()
            logged = server.log.stat().st_size
            talk.began_ns = time.time_ns()
            talk.said = run(server, name)
            talk.ended_ns = time.time_ns()
            time.sleep(0.02)
            talk.logged = [each for each in server.logged(logged) if each.database == name]
    for name, talk in found.items():
        talk.spans = {
            kind: sorted(
                (
                    span
                    for span in capture.of_kind(kind)
                    if span["attributes"].get("db.namespace") == name
                ),
                key=lambda span: span["start_time_unix_nano"],
            )
            for kind in KINDS
        }
        assert talk.spans["server"], (name, capture.summary)
    capture.talks = found
    return capture


@pytest.fixture
def talks(capture):
    return capture.talks


@pytest.fixture(params=TALKS)
def talk(request, talks):
    return talks[request.param]


def text_of(span):
    return span["attributes"].get("db.query.text", "")


def status_of(span):
    return span["attributes"].get("db.response.status_code")


def is_run(span):
    """Whether the server has begun to execute something, as its log says."""
    attributes = span["attributes"]
    aborted = attributes.get("error.type") == "batch_aborted"
    return not aborted and "db.operation.name" not in attributes and text_of(span)


def masked(text):
    return describe(text, Dialect.POSTGRESQL, whole=True).text


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_seen_is_what_the_server_logged(talk, kind):
    wanted = Counter(masked(each.statement) for each in talk.logged if each.runs)
    seen = Counter(text_of(span) for span in talk.spans[kind] if is_run(span))
    for counter in (seen, wanted):
        # What is no statement is logged or not, and so is a division by a constant zero.
        for text in [text for text in counter if not text or "/" in text]:
            del counter[text]
    assert seen == wanted
    assert sum(wanted.values()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_those_of_the_log(talk, kind):
    wanted = Counter(each.status for each in talk.logged if each.level in {"ERROR", "FATAL"})
    seen = Counter(status_of(span) for span in talk.spans[kind] if status_of(span))
    assert seen == wanted
    for span in talk.spans[kind]:
        failed = status_of(span) or span["attributes"].get("error.type")
        assert span["status"] == ("error" if failed else "unset")


def test_both_ends_say_the_same(talk):
    ends = []
    for kind in KINDS:
        keys = [
            {
                key: value
                for key, value in span["attributes"].items()
                if key.startswith(("db.", "wirespan.postgresql.", "server."))
            }
            for span in talk.spans[kind]
        ]
        ends.append(sorted(json.dumps(each, sort_keys=True) for each in keys))
    assert ends[0] == ends[1]


def test_everything_is_whole_and_in_time(talks):
    for name, talk in talks.items():
        for kind in KINDS:
            for span in talk.spans[kind]:
                # A call of 390 kB shows the first 128 kB of its statement.
                whole = {"complete"} if "..." not in text_of(span) else {"complete", "truncated"}
                assert span["attributes"]["wirespan.completeness"] in whole, (name, span)
                assert span["start_time_unix_nano"] >= talk.began_ns - MARGIN_NS
                assert span["end_time_unix_nano"] <= talk.ended_ns + MARGIN_NS


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_that_the_client_got(talks, kind):
    for name in ("plain", "unix"):
        spans = [span for span in talks[name].spans[kind] if "WHERE id < $1" in text_of(span)]
        rows = [span["attributes"]["db.response.returned_rows"] for span in spans]
        assert rows == talks[name].said["rows"][:NUMBER]
    spans = [span for span in talks["copies"].spans[kind] if text_of(span).startswith("FETCH")]
    assert [span["attributes"]["db.response.returned_rows"] for span in spans] == [1000] * 5 + [500]
    (span,) = (each for each in talks["big"].spans[kind] if "FROM numbers" in text_of(each))
    assert span["attributes"]["db.response.returned_rows"] == talks["big"].said["rows"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_aborts_the_rest_of_a_pipeline(talks, kind):
    spans = [span for span in talks["pipelined"].spans[kind] if "/" in text_of(span)]
    types = [span["attributes"].get("error.type") for span in spans]
    # psycopg sends no more once it has seen the error.
    assert 8 < len(types) <= NUMBER
    assert types == [None] * 7 + ["22012"] + ["batch_aborted"] * (len(types) - 8)
    assert len(types) >= talks["pipelined"].said["sent"]
    inserts = [span for span in talks["pipelined"].spans[kind] if "INSERT" in text_of(span)]
    assert len(inserts) == 2000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BENCH)
def test_each_transaction_of_pgbench_was_seen(talks, kind, name):
    talk = talks[name]
    assert talk.said["transactions"] == CLIENTS * TRANSACTIONS
    runs = [span for span in talk.spans[kind] if is_run(span)]
    assert len(runs) == STATEMENTS * talk.said["transactions"]
    prepared = [
        span
        for span in talk.spans[kind]
        if span["attributes"].get("db.operation.name") in {"Parse", "Bind", "Describe"}
    ]
    assert len(prepared) == (STATEMENTS * CLIENTS if name == "bench_prepared" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_transactions_are_followed(talks, kind):
    states = [
        (text_of(span), span["attributes"].get("wirespan.postgresql.transaction"))
        for span in talks["plain"].spans[kind]
    ]
    begin = next(i for i, (text, _) in enumerate(states) if text == "BEGIN")
    assert [state for _, state in states[begin : begin + 3]] == [
        *("in_transaction", "in_transaction", "idle")
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_know_how_much_was_moved(talks, kind):
    spans = {}
    for span in talks["copies"].spans[kind]:
        spans.setdefault(span["name"], []).append(span["attributes"])
    into, given_up = spans["COPY people"]
    assert into["wirespan.request.size"] > 5000 * len(SECRET)
    assert given_up["db.response.status_code"] == "57014"
    (out,) = spans["COPY numbers"]
    assert out["wirespan.response.size"] > talks["copies"].said["size"]


def test_a_cancellation_is_seen_at_both_ends(capture):
    for kind in KINDS:
        spans = [
            span
            for span in capture.of_kind(kind)
            if span["attributes"].get("db.operation.name") == "CancelRequest"
        ]
        assert len(spans) == 1
        assert "db.namespace" not in spans[0]["attributes"]


def test_unix_sockets_have_a_path(talks, server):
    for kind in KINDS:
        for span in talks["unix"].spans[kind]:
            assert span["attributes"]["server.address"] == f"{server.folder}/.s.PGSQL.{server.port}"
            assert "server.port" not in span["attributes"]


def test_refused_logins(server, source):
    with watch("--source", source, "--port", str(server.port)) as capture:
        for options in ({"password": "wrong"}, {"dbname": "nowhere"}):
            wanted = {"user": USER, "password": PASSWORD, "dbname": "base"} | options
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(host="127.0.0.1", port=server.port, **wanted)
        capture.wait_for(4)
    for kind in KINDS:
        assert [status_of(span) for span in capture.of_kind(kind)] == ["28P01", "3D000"]


def test_joined_late_the_text_is_not_known_and_the_rest_is(server, source):
    with server.connect("base", prepare_threshold=0) as connection:
        for number in range(2):
            connection.execute("SELECT name FROM users WHERE id = %s", [number])
        with watch("--source", source, "--port", str(server.port)) as capture:
            for number in range(NUMBER):
                connection.execute("SELECT name FROM users WHERE id = %s", [number])
            connection.execute("SELECT 1 FROM people LIMIT 0")
            capture.wait_for(2 * NUMBER + 2)
    for kind in KINDS:
        # psycopg prepares it anew once it has seen it twice.
        names = [span["name"] for span in capture.of_kind(kind)]
        assert names[:NUMBER] == [f"Execute 127.0.0.1:{server.port}"] * NUMBER
        assert names[-1] == "SELECT people"


@pytest.fixture(scope="module")
def recorded(source, server, tmp_path_factory):
    """A recording of several clients, and what was printed meanwhile."""
    path = tmp_path_factory.mktemp("recorded") / "a.wspan"
    flags = ["--source", source, "--port", str(server.port)]

    def work():
        for name in ("plain", "pipelined", "copies", "psql", "asyncpg_all"):
            run(server, name)

    return path, *record(path, flags, work)


def test_a_replay_prints_the_same(recorded):
    path, live, summary = recorded
    assert live.count(b"StartupMessage") >= 10, summary
    assert replayed(path) == live


def test_no_secret_is_recorded(recorded):
    path, live, _ = recorded
    everything = plain(path)
    assert b"SELECT id, name FROM users" in everything, "nothing was inflated"
    for where in (everything, live):
        assert PASSWORD.encode() not in where
        assert SECRET.encode() not in where
