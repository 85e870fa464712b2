# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from parsers.model import Kind
from parsers.postgresql_messages import (
    MAX_EARLIER,
    Batch,
    PostgresqlRequest,
    PostgresqlResponse,
    Prefix,
)


def test_a_prefix_is_the_same_text_and_yet_another():
    assert Prefix(b"SELECT") == b"SELECT"
    assert not isinstance(b"SELECT", Prefix)


def test_a_response_lacks_what_it_asked_for_in_vain():
    request = PostgresqlRequest("Query", None, "", Batch(), 0, b"")
    response = PostgresqlResponse(request)
    assert (request.kind, response.kind) == (Kind.REQUEST, Kind.RESPONSE)
    assert not response.lacks
    response.asked = 1
    assert response.lacks
    request.given = 1
    assert not response.lacks
    alone = PostgresqlResponse(None)
    alone.asked = 1
    assert not alone.lacks


def prepared(*texts):
    """A unit that prepares and describes all of them, and executes the last."""
    request = PostgresqlRequest("Parse", None, "", Batch(), 0, b"1E")
    for text in texts:
        request.turn_to(text)
        request.steps += 1
        request.turn_to(text)
        request.steps += 1
    request.operation = "Execute"
    return request


def test_a_refused_part_is_about_its_own_statement():
    texts = [b"SELECT 1", b"SELECT 2", b"SELECT 3"]
    told = []
    for step in range(7):
        request = prepared(*texts)
        request.refuse(step)
        told.append((request.operation, request.text))
    assert told == [
        *[("Parse", texts[0])] * 2,
        *[("Parse", texts[1])] * 2,
        *[("Execute", texts[2])] * 3,
    ]


def test_of_too_many_statements_some_are_not_known():
    texts = [b"SELECT %d" % number for number in range(MAX_EARLIER + 3)]
    request = prepared(*texts)
    assert len(request.earlier) == MAX_EARLIER
    told = []
    for step in (0, 2 * MAX_EARLIER - 4, 2 * MAX_EARLIER, 2 * MAX_EARLIER + 4):
        request = prepared(*texts)
        request.refuse(step)
        told.append(request.text)
    assert told == [texts[0], texts[MAX_EARLIER - 2], None, texts[-1]]
