# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.model import Endpoint, Kind, Options
from parsers.reader import Reader
from parsers.redis import RedisParser
from parsers.redis_outline import describe

HERE = Endpoint("10.0.0.1", 6379)


def command(raw):
    message = RedisParser(Options()).parse(Reader(raw), Kind.REQUEST, None)
    return message.command


GET = b"*2\r\n$3\r\nget\r\n$1\r\nk\r\n"


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        ({}, {}),
        ({"namespace": "2"}, {"db.namespace": "2"}),
        ({"error": "WRONGTYPE"}, {"db.response.status_code": "WRONGTYPE"}),
        ({"error": "_OTHER"}, {}),
        ({"batch": 1}, {}),
        ({"batch": 0}, {"db.operation.batch.size": 0}),
        ({"batch": 3}, {"db.operation.batch.size": 3}),
        ({"server": Endpoint("h", 7000)}, {"server.address": "h", "server.port": 7000}),
        ({"server": Endpoint("", 0)}, {"server.address": None}),
    ],
)
def test_attributes(options, attributes):
    facts = {"namespace": None, "error": "", "batch": -1, "error_type": None, "server": HERE}
    outline = describe(command(GET), **(facts | options))
    known = {
        "db.system.name": "redis",
        "db.operation.name": "get",
        "db.query.text": "get k",
        "server.address": "10.0.0.1",
    }
    expected = {key: value for key, value in (known | attributes).items() if value is not None}
    assert dict(outline.attributes) == expected
    assert outline.name == "get"


def test_error_of_the_connection_counts_for_more_than_that_of_the_reply():
    facts = {"namespace": None, "batch": -1, "server": HERE}
    assert describe(command(GET), error="ERR", error_type=None, **facts).error_type == "ERR"
    both = describe(command(GET), error="ERR", error_type="connection_reset", **facts)
    assert both.error_type == "connection_reset"


def test_procedure_is_part_of_the_name():
    call = command(b"*3\r\n$5\r\nFCALL\r\n$2\r\nfn\r\n$1\r\n0\r\n")
    facts = {"namespace": None, "error": "", "batch": -1, "error_type": None, "server": HERE}
    outline = describe(call, **facts)
    assert outline.name == "FCALL fn"
    assert outline.attributes["db.stored_procedure.name"] == "fn"
