# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.model import Endpoint
from parsers.mysql_attributes import Asked, outline_of
from parsers.mysql_queries import MAX_CACHED_BYTES, Query
from parsers.mysql_wire import CONNECT, QUERY, STMT_EXECUTE, STMT_FETCH, STMT_PREPARE

SERVER = Endpoint("10.0.0.1", 3307)
SELECT = Query("SELECT a FROM t WHERE b = 'secret'", True, None, None)


def outline(command=QUERY, query=SELECT, code=0, state="", error=None, **changes):
    asked = Asked(command, "mysql", "shop", SERVER, True)._replace(**changes)
    return outline_of(asked, query, code, state, error)


def test_query():
    told = outline()
    assert told.name == "SELECT t"
    assert told.attributes == {
        "db.system.name": "mysql",
        "db.namespace": "shop",
        "db.query.text": "SELECT a FROM t WHERE b = ?",
        "db.query.summary": "SELECT t",
        "server.address": "10.0.0.1",
        "server.port": 3307,
    }
    assert told.error_type is None
    assert told.counts == ("", "db.response.returned_rows")


def test_literals_are_shown_on_demand():
    assert "'secret'" in str(outline(redact=False).attributes["db.query.text"])


def test_error():
    told = outline(code=1062, state="23000")
    assert told.error_type == told.attributes["db.response.status_code"] == "1062"
    assert told.attributes["wirespan.mysql.sqlstate"] == "23000"
    assert "wirespan.mysql.sqlstate" not in outline(code=1129).attributes
    assert outline(error="connection_reset").error_type == "connection_reset"


def test_commands_of_the_protocol():
    told = outline(0x0E, None)
    assert told.name == "COM_PING shop"
    assert told.attributes["db.operation.name"] == "COM_PING"
    assert outline(CONNECT, None).attributes["db.operation.name"] == "COM_CONNECT"
    assert outline(0x0E, None, namespace="").name == "COM_PING 10.0.0.1:3307"
    assert outline(0x0E, None, namespace="", server=Endpoint("", 0)).name == "COM_PING"


def test_prepared_statements():
    told = outline(STMT_EXECUTE)
    assert told.name == "SELECT t"
    assert told.attributes["db.operation.name"] == "COM_STMT_EXECUTE"
    for command, name in ((STMT_PREPARE, "COM_STMT_PREPARE"), (STMT_FETCH, "COM_STMT_FETCH")):
        told = outline(command)
        assert told.name == f"{name} shop"
        assert told.attributes["db.query.text"] == "SELECT a FROM t WHERE b = ?"
        assert "db.query.summary" not in told.attributes
    assert outline(STMT_EXECUTE, None).name == "COM_STMT_EXECUTE shop"


@pytest.mark.parametrize(
    ("server", "attributes"),
    [
        (Endpoint("10.0.0.1", 3306), {"server.address": "10.0.0.1"}),
        (Endpoint("/run/mysqld.sock", 0), {"server.address": "/run/mysqld.sock"}),
        (Endpoint("", 0), {}),
    ],
)
def test_server_is_named_with_a_port_of_its_own(server, attributes):
    told = outline(server=server).attributes
    assert {key: value for key, value in told.items() if key.startswith("server.")} == attributes


def test_what_is_not_understood_is_not_shown():
    told = outline(query=Query("SELEC secret", True, None, None))
    assert told.name == "shop"
    assert "db.query.text" not in told.attributes
    nameless = outline(
        query=Query("SELEC x", True, None, None), namespace="", server=Endpoint("", 0)
    )
    assert nameless.name == "mysql"


def test_the_same_is_said_with_the_same_object():
    assert outline() is outline()
    other = Query("SELECT a FROM t WHERE b = 'other'", True, None, None)
    assert outline(query=other) is outline()
    long = "SELECT a FROM t WHERE b = '" + "x" * MAX_CACHED_BYTES + "'"
    assert outline(query=Query(long, True, None, None)) is outline()
