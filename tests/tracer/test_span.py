# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.model import Completeness, Endpoint, Side, Transport
from tests.exporters import samples
from tracer.span import KIND_OF_SIDE, SpanKind


def test_kinds_are_those_of_otlp():
    assert {kind.name: int(kind) for kind in SpanKind} == {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3}
    assert set(KIND_OF_SIDE) == set(Side)


@pytest.mark.parametrize(
    ("side", "server"), [(Side.SERVER, "local"), (Side.CLIENT, "remote"), (Side.UNKNOWN, "remote")]
)
def test_server_is_the_end_that_serves(side, server):
    peering = samples.peering(side)
    assert peering.server == getattr(peering, server)


def test_peer_of_a_tcp_connection_is_its_remote_end():
    assert samples.peering().attributes() == {
        "network.peer.address": "10.0.0.5",
        "network.peer.port": 43122,
    }


def test_peer_that_is_not_known_is_not_made_up():
    peering = samples.peering(remote=Endpoint("", 0))
    assert peering.attributes() == {}
    assert "client.address" not in samples.span(peering=peering).attributes()


def test_unix_socket_has_a_transport_and_no_peer():
    path = Endpoint("/run/shop.sock", 0)
    peering = samples.peering(transport=Transport.UNIX, local=path, remote=path)
    assert peering.attributes() == {"network.transport": "unix"}


def test_attributes_are_those_of_outline_connection_and_measures():
    attributes = samples.span(completeness=Completeness.LATE_ATTACH).attributes()
    assert attributes["http.request.method"] == "GET"
    assert attributes["network.peer.address"] == "10.0.0.5"
    assert attributes["wirespan.completeness"] == "late_attach"
    assert attributes["wirespan.request.size"] == 78
    assert attributes["wirespan.response.size"] == 1234
    assert attributes["wirespan.time_to_first_byte"] == pytest.approx(0.0008)
    assert attributes["wirespan.rtt"] == pytest.approx(0.000045)
    assert "error.type" not in attributes


def test_what_is_not_known_is_left_out():
    attributes = samples.span(first_byte_ns=0, rtt_us=0).attributes()
    assert "wirespan.time_to_first_byte" not in attributes
    assert "wirespan.rtt" not in attributes


COUNTS = ("db.operation.batch.size", "db.response.returned_rows")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"resends": 2}, {"wirespan.request.resends": 2}),
        ({"request_count": 3, "response_count": 0}, {COUNTS[0]: 3, COUNTS[1]: 0}),
        ({"response_count": 9}, {COUNTS[1]: 9}),
    ],
)
def test_what_was_counted_has_the_keys_that_the_outline_names(changes, expected):
    attributes = samples.span(outline=samples.outline(counts=COUNTS), **changes).attributes()
    keys = *COUNTS, "wirespan.request.resends"
    assert {key: attributes[key] for key in keys if key in attributes} == expected


def test_count_without_a_key_is_left_out():
    span = samples.span(request_count=3, response_count=4)
    assert span.attributes().keys() == samples.span().attributes().keys()


def test_client_is_who_the_message_names_before_who_connected():
    assert samples.span().attributes()["client.address"] == "10.0.0.5"
    named = samples.span(outline=samples.outline(client_address="203.0.113.9"))
    assert named.attributes()["client.address"] == "203.0.113.9"


def test_client_span_has_no_client_address():
    span = samples.span(peering=samples.peering(Side.CLIENT))
    assert "client.address" not in span.attributes()


def test_error_is_that_of_the_outline():
    span = samples.span(outline=samples.outline(error_type="500"))
    assert span.attributes()["error.type"] == "500"


def test_outline_is_shared_so_attributes_are_a_copy():
    span = samples.span()
    span.attributes()["url.path"] = "/changed"
    assert span.outline.attributes["url.path"] == "/api/users/42"


def test_processes_are_told_apart_by_identity():
    one, two = samples.process(), samples.process()
    assert one != two
    assert len({one, two}) == 2
    assert one.service_name == "shop"


def test_the_other_end_has_its_name_under_both_keys():
    attributes = samples.span(peer_name="stock").attributes()
    assert attributes["service.peer.name"] == attributes["peer.service"] == "stock"
    assert "peer.service" not in samples.span().attributes()


def test_a_database_is_one_to_old_readers_too():
    outline = samples.outline(attributes={"db.system.name": "redis"})
    assert samples.span(outline=outline).attributes()["db.system"] == "redis"
    assert "db.system" not in samples.span().attributes()
