# SPDX-License-Identifier: Apache-2.0
"""Which histogram a span belongs to, and with which attributes."""

from __future__ import annotations

import pytest

from exporters import red
from exporters.red import attributes_of, measure_of
from parsers.dns import DnsParser
from parsers.grpc_calls import Call, describe_call
from parsers.http_attributes import View, describe
from parsers.model import Endpoint, Outline, Side
from tests.exporters import samples
from tracer.span import SpanKind

ALL = {
    "http.request.method": "GET",
    "http.request.method_original": "get",
    "http.response.status_code": 500,
    "http.route": "/users/{id}",
    "url.scheme": "https",
    "url.path": "/users/1",
    "url.full": "https://shop/users/1",
    "network.protocol.name": "quic",
    "network.protocol.version": "3",
    "network.peer.address": "10.0.0.1",
    "server.address": "shop",
    "server.port": 443,
    "client.address": "10.0.0.2",
    "user_agent.original": "curl",
}
RPC = {
    "rpc.system.name": "grpc",
    "rpc.method": "shop.Cart/Add",
    "rpc.response.status_code": "UNAVAILABLE",
    "server.address": "cart",
    "server.port": 50051,
    "network.protocol.version": "2",
    "http.response.status_code": 503,
}
DB = {
    "db.system.name": "postgresql",
    "db.namespace": "shop",
    "db.collection.name": "users",
    "db.operation.name": "SELECT",
    "db.response.status_code": "23505",
    "db.query.summary": "SELECT users",
    "db.query.text": "SELECT * FROM users",
    "db.stored_procedure.name": "find",
    "db.operation.batch.size": 2,
    "server.address": "pg",
    "server.port": 5433,
}
DNS = {"dns.question.name": "example.org", "server.address": "10.0.0.2", "server.port": 53}


def found(kind, attributes, protocol="http", error="500"):
    outline = samples.outline(attributes=attributes, error_type=error)
    measure = measure_of(kind, outline, protocol)
    return measure.instrument.name, dict(attributes_of(measure, outline))


CASES = [
    (
        SpanKind.SERVER,
        ALL,
        "http",
        "http.server.request.duration",
        (
            "http.request.method url.scheme error.type http.response.status_code http.route"
            " network.protocol.name network.protocol.version"
        ),
    ),
    (
        SpanKind.CLIENT,
        ALL,
        "http",
        "http.client.request.duration",
        (
            "http.request.method server.address server.port error.type http.response.status_code"
            " network.protocol.name network.protocol.version"
        ),
    ),
    (
        SpanKind.SERVER,
        RPC,
        "grpc",
        "rpc.server.call.duration",
        "rpc.system.name error.type rpc.method rpc.response.status_code",
    ),
    (
        SpanKind.CLIENT,
        RPC,
        "grpc",
        "rpc.client.call.duration",
        "rpc.system.name error.type rpc.method rpc.response.status_code server.address server.port",
    ),
    (
        SpanKind.CLIENT,
        DB,
        "postgresql",
        "db.client.operation.duration",
        (
            "db.system.name db.collection.name db.namespace db.operation.name"
            " db.response.status_code error.type server.port db.query.summary"
            " db.stored_procedure.name server.address"
        ),
    ),
    (SpanKind.CLIENT, DNS, "dns", "dns.lookup.duration", "error.type server.address"),
]
IDS = ["http server", "http client", "rpc server", "rpc client", "database", "dns"]


@pytest.mark.parametrize(("kind", "attributes", "protocol", "name", "keys"), CASES, ids=IDS)
def test_attributes_are_those_of_the_conventions(kind, attributes, protocol, name, keys):
    wanted = {key: {**attributes, "error.type": "500"}[key] for key in keys.split()}
    assert found(kind, attributes, protocol) == (name, wanted)


@pytest.mark.parametrize(("kind", "attributes", "protocol", "name", "keys"), CASES, ids=IDS)
def test_attributes_are_in_order_and_none_is_made_up(kind, attributes, protocol, name, keys):
    for few in (attributes, dict(list(attributes.items())[:1])):
        outline = samples.outline(attributes=few)
        measure = measure_of(kind, outline, protocol)
        attributes_found = attributes_of(measure, outline)
        assert list(attributes_found) == sorted(attributes_found)
        assert dict(attributes_found).items() <= few.items()


@pytest.mark.parametrize("key", ["rpc.response.status_code", "rpc.status_code"])
def test_the_status_of_a_call_has_the_key_of_its_outline(key):
    _, attributes = found(SpanKind.SERVER, {"rpc.system.name": "grpc", key: "OK"}, "grpc", None)
    assert attributes == {"rpc.system.name": "grpc", key: "OK"}


@pytest.mark.parametrize(
    ("kind", "attributes", "protocol"),
    [
        (SpanKind.INTERNAL, ALL, "http"),
        (SpanKind.INTERNAL, DB, "mysql"),
        (SpanKind.SERVER, DB, "postgresql"),
        (SpanKind.SERVER, DNS, "dns"),
        (SpanKind.CLIENT, {"tls.protocol.name": "tls"}, "tls"),
    ],
    ids=["unknown side", "unknown side of a database", "database server", "dns server", "tls"],
)
def test_what_the_conventions_do_not_know_has_no_histogram(kind, attributes, protocol):
    assert measure_of(kind, samples.outline(attributes=attributes), protocol) is None


def test_outlines_of_the_parsers_are_known():
    class Head:
        method, target, version = "GET", "/", "1.1"
        fields = {"host": "shop:8080"}  # noqa: RUF012

    server = Endpoint("10.0.0.9", 8080)
    http = describe(Head, 200, None, View(Side.CLIENT, server, redact=True))
    assert found(SpanKind.CLIENT, http.attributes, error=None)[1] == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "server.address": "shop",
        "server.port": 8080,
    }
    call = describe_call(Call("/shop.Cart/Add", "cart"), "OK", None, Side.SERVER, server)
    assert found(SpanKind.SERVER, call.attributes, "grpc", None)[1] == {
        "rpc.system.name": "grpc",
        "rpc.method": "shop.Cart/Add",
        "rpc.response.status_code": "OK",
    }
    assert DnsParser.name == red.DNS_PROTOCOL


def test_a_list_becomes_text_so_that_it_can_be_a_key():
    outline = Outline("x", {"http.request.method": "GET", "http.route": ["a", "b"]}, None)
    attributes = attributes_of(red.HTTP_SERVER, outline)
    assert dict(attributes)["http.route"] == "a,b"
    assert hash(attributes)
