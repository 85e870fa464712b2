# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from parsers.model import Kind
from parsers.postgresql_messages import Batch, PostgresqlRequest, PostgresqlResponse, Prefix


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
