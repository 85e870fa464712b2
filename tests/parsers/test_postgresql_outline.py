# SPDX-License-Identifier: Apache-2.0
"""A test for each attribute of the conventions, and of ours."""

from __future__ import annotations

import pytest

from parsers.model import Completeness, Endpoint, Exchange, Options, Side
from parsers.postgresql import PostgresqlParser
from parsers.postgresql_messages import Batch, PostgresqlRequest, PostgresqlResponse, Prefix

SERVER = Endpoint("10.0.0.1", 5432)


def make(
    text=b"SELECT a FROM t WHERE b = 'pl4nted'",
    operation="Query",
    *,
    database="shop",
    status="",
    transaction="I",
    aborted=False,
    error_type=None,
    answered=True,
    gap=False,
):
    request = PostgresqlRequest(operation, text, database, Batch(), 0, b"")
    request.gap = gap
    response = None
    if answered:
        response = PostgresqlResponse(request)
        response.status = status
        response.transaction = ord(transaction) if transaction else 0
        response.aborted = aborted
    return Exchange("postgresql", request, response, Completeness.COMPLETE, error_type)


def outline(exchange, server=SERVER, side=Side.SERVER, **options):
    return PostgresqlParser(Options(**options)).outline(exchange, side, server)


def test_a_query():
    said = outline(make())
    assert said.name == "SELECT t"
    assert said.attributes == {
        "db.system.name": "postgresql",
        "db.namespace": "shop",
        "db.query.text": "SELECT a FROM t WHERE b = ?",
        "db.query.summary": "SELECT t",
        "wirespan.postgresql.transaction": "idle",
        "server.address": "10.0.0.1",
    }
    assert said.error_type is None
    assert said.counts == ("", "db.response.returned_rows")
    assert said.client_address is None


def test_literals_are_shown_to_who_asks_for_them():
    assert "pl4nted" in outline(make(), redact=False).attributes["db.query.text"]


def test_a_port_is_named_unless_it_is_the_usual_one():
    assert outline(make(), Endpoint("db", 6432)).attributes["server.port"] == 6432
    path = outline(make(), Endpoint("/run/.s.PGSQL.5432", 0)).attributes
    assert path["server.address"] == "/run/.s.PGSQL.5432"
    assert "server.port" not in path


def test_a_database_that_is_not_known():
    assert "db.namespace" not in outline(make(database="")).attributes


@pytest.mark.parametrize(
    ("letter", "name"), [("I", "idle"), ("T", "in_transaction"), ("E", "failed")]
)
def test_states_of_a_transaction(letter, name):
    said = outline(make(transaction=letter))
    assert said.attributes["wirespan.postgresql.transaction"] == name


@pytest.mark.parametrize("letter", ["", "?"])
def test_no_state_where_nothing_says_it(letter):
    assert "wirespan.postgresql.transaction" not in outline(make(transaction=letter)).attributes


@pytest.mark.parametrize("status", ["42601", "23505", "02000", "57P01"])
def test_errors(status):
    said = outline(make(status=status))
    assert said.attributes["db.response.status_code"] == status
    assert said.error_type == status


@pytest.mark.parametrize("status", ["00000", "01000"])
def test_classes_that_are_no_errors(status):
    said = outline(make(status=status))
    assert said.attributes["db.response.status_code"] == status
    assert said.error_type is None


def test_what_the_server_has_skipped():
    said = outline(make(aborted=True))
    assert said.error_type == "batch_aborted"
    assert "db.response.status_code" not in said.attributes


def test_no_answer():
    assert outline(make(answered=False, error_type="timeout")).error_type == "timeout"


@pytest.mark.parametrize(
    ("operation", "text", "name"),
    [
        ("Execute", b"SELECT a FROM t", "SELECT t"),
        ("Execute", None, "Execute shop"),
        ("Query", b"", "Query shop"),
        ("Query", b"SELEC 1", "Query shop"),
        ("Parse", b"SELECT a FROM t", "Parse SELECT t"),
        ("Describe", None, "Describe shop"),
        ("StartupMessage", None, "StartupMessage shop"),
        ("FunctionCall", None, "FunctionCall shop"),
    ],
)
def test_names(operation, text, name):
    said = outline(make(text, operation))
    assert said.name == name
    runs = operation in {"Execute", "Query"}
    assert said.attributes.get("db.operation.name") == (None if runs else operation)


def test_without_a_database_the_server_is_the_target():
    assert outline(make(None, "Execute", database="")).name == "Execute 10.0.0.1:5432"
    path = Endpoint("/run/x", 0)
    assert outline(make(None, "Execute", database=""), path).name == "Execute"
    assert outline(make(None, "Parse", database="", gap=True), path).name == "postgresql"


def test_of_a_unit_whose_end_was_lost_nobody_knows_what_it_was():
    said = outline(make(b"SELECT a FROM t", "Parse", gap=True))
    assert said.name == "SELECT t"
    assert "db.operation.name" not in said.attributes


def test_what_means_the_same_is_one_object():
    once = outline(make(b"SELECT a FROM t WHERE b = 1"))
    assert outline(make(b"SELECT a FROM t WHERE b = 1")) is once
    assert outline(make(b"SELECT a FROM t WHERE b = 2"), side=Side.CLIENT) is once
    assert outline(make(b"SELECT a FROM t WHERE b = 1", status="42601")) is not once
    assert outline(make(Prefix(b"SELECT a FROM t WHERE b = 1"))).name == once.name
    assert outline(make(None)) is outline(make(None))


def test_bytes_that_are_no_utf_8():
    said = outline(make(b"SELECT a FROM t WHERE b = '\xff\xfe'"))
    assert said.attributes["db.query.text"] == "SELECT a FROM t WHERE b = ?"
