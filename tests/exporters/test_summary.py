# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from exporters import summary
from parsers.model import Completeness, Endpoint, Outline, Side, Transport
from tests.exporters import samples


def outline(name="NAME", error=None, **attributes):
    return Outline(name, {k.replace("__", "."): v for k, v in attributes.items()}, error)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (outline(http__request__method="GET", url__path="/a"), ("GET", "/a")),
        (outline(http__request__method="GET", url__path="/a", url__query="b=1"), ("GET", "/a?b=1")),
        (outline(http__request__method="GET", url__full="http://h:1/a?b=1"), ("GET", "/a?b=1")),
        (outline(http__request__method="GET", url__full="http://h"), ("GET", "/")),
        (outline(http__request__method="GET", url__full="http://[h/a"), ("GET", "http://[h/a")),
        (outline(http__request__method="OPTIONS", url__path="*"), ("OPTIONS", "*")),
        (
            outline(
                http__request__method="_OTHER",
                http__request__method_original="PURGE",
                url__path="/a",
            ),
            ("PURGE", "/a"),
        ),
        (outline(db__query__text="SELECT a\n   FROM b"), ("", "SELECT a FROM b")),
        (outline("PING", db__operation__name="PING"), ("", "PING")),
        (outline(rpc__method="shop.Cart/Get"), ("", "shop.Cart/Get")),
        (outline(rpc__method="_OTHER", rpc__method_original="x.Y/Z"), ("", "x.Y/Z")),
        (outline("DNS", dns__question__name="example.org"), ("DNS", "example.org")),
        (outline("DNS lookup a.b", dns__question__name="a.b"), ("", "DNS lookup a.b")),
        (outline("poll orders", messaging__system="kafka"), ("", "poll orders")),
        (outline("something"), ("", "something")),
        (outline("GET", http__request__method="GET"), ("GET", "")),
        (outline("GET", db__query__text="GET user:1"), ("", "GET user:1")),
        (outline("COM_PING shop", db__operation__name="COM_PING"), ("", "COM_PING shop")),
        (outline("DNS A", dns__question__name="example.org"), ("DNS A", "example.org")),
    ],
)
def test_every_protocol_says_what_was_asked(given, expected):
    assert summary.request(given) == expected


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        ({"http__response__status_code": 200}, "200"),
        ({"rpc__response__status_code": "OK"}, "OK"),
        ({"rpc__status_code": "OK"}, "OK"),
        ({"db__response__status_code": "23505"}, "23505"),
        ({"wirespan__dns__response__code": "NXDOMAIN"}, "NXDOMAIN"),
        ({"wirespan__dns__response__code": "NOERROR"}, ""),
        ({}, ""),
    ],
)
def test_status_is_the_protocols_own(attributes, status):
    assert summary.status(outline(**attributes)) == status


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        ({}, []),
        ({"outline": samples.outline(error_type="200")}, []),
        ({"outline": outline(error="connection_reset")}, ["reset"]),
        ({"completeness": Completeness.GAP}, ["gap"]),
        ({"resends": 1}, ["resent"]),
        ({"resends": 3, "completeness": Completeness.UNANSWERED}, ["resent 3x", "unanswered"]),
        ({"completeness": Completeness.LATE_ATTACH}, ["late"]),
        ({"completeness": Completeness.TRUNCATED}, ["truncated"]),
        ({"completeness": Completeness.UNANSWERED}, ["unanswered"]),
        (
            {"completeness": Completeness.UNANSWERED, "outline": outline(error="timeout")},
            ["timeout"],
        ),
        (
            {
                "completeness": Completeness.UNANSWERED,
                "outline": samples.outline(error_type="connection_closed"),
            },
            ["closed"],
        ),
        (
            {"completeness": Completeness.GAP, "outline": outline(error="WRONGTYPE")},
            ["WRONGTYPE", "gap"],
        ),
    ],
)
def test_notes_say_what_the_status_does_not(changes, notes):
    assert summary.notes(samples.span(**changes)) == notes


ROWS = ("", "db.response.returned_rows")
MESSAGES = ("wirespan.rpc.request.messages", "wirespan.rpc.response.messages")


@pytest.mark.parametrize(
    ("counts", "asked", "answered", "expected"),
    [
        (ROWS, 5, 0, "0 rows"),
        (ROWS, 5, 1, "1 row"),
        (ROWS, -1, 1_234_567, "1,234,567 rows"),
        (ROWS, 5, -1, ""),
        (MESSAGES, 1, 30, "1/30 messages"),
        (MESSAGES, 1, 1, "1/1 messages"),
        (MESSAGES, 2, -1, "2/- messages"),
        (MESSAGES, -1, -1, ""),
        (("db.operation.batch.size", ""), 7, 9, "7 size"),
        (("", ""), 1, 1, ""),
    ],
)
def test_what_was_counted_is_called_by_its_key(counts, asked, answered, expected):
    span = samples.span(
        outline=samples.outline(counts=counts), request_count=asked, response_count=answered
    )
    assert summary.counted(span) == expected


def test_gist_is_of_a_statement_only():
    text = {"db__query__text": "SELECT a FROM b"}
    assert summary.gist(outline(db__query__summary="SELECT b", **text)) == "SELECT b"
    assert summary.gist(outline(**text)) == ""
    assert summary.gist(outline(db__query__summary="SELECT b")) == ""
    assert summary.is_statement(outline(**text))
    assert not summary.is_statement(outline())


@pytest.mark.parametrize(
    ("name", "verb"), [("Parse SELECT t", "Parse"), ("SELECT t", ""), ("something else", "")]
)
def test_what_was_done_with_a_statement_comes_before_it(name, verb):
    attributes = {"db.query.text": "SELECT a FROM t", "db.query.summary": "SELECT t"}
    found = summary.request(Outline(name, attributes, None))
    assert found == (verb, "SELECT a FROM t")


def test_client_of_a_database_is_the_peer_of_its_server():
    query = outline(db__query__text="SELECT 1", server__address="10.0.0.9")
    assert summary.peer(samples.span(outline=query)) == "10.0.0.5"
    connection = samples.peering(Side.CLIENT, remote=Endpoint("10.0.0.9", 5432))
    assert summary.peer(samples.span(outline=query, peering=connection)) == "10.0.0.9:5432"


def test_version_of_what_lies_below_is_not_that_of_the_call():
    attributes = {"rpc.system.name": "grpc", "network.protocol.version": "2"}
    span = samples.span(protocol="grpc", outline=samples.outline(attributes=attributes))
    assert summary.protocol(span) == "grpc"


def client(**attributes):
    attributes = {k.replace("__", "."): v for k, v in attributes.items()}
    connection = samples.peering(Side.CLIENT, remote=Endpoint("10.0.0.7", 80))
    return samples.span(peering=connection, outline=samples.outline(attributes=attributes))


def unix(**changes):
    return samples.span(peering=samples.peering(transport=Transport.UNIX, **changes))


@pytest.mark.parametrize(
    ("span", "peer"),
    [
        (samples.span(), "10.0.0.5"),
        (samples.span(outline=samples.outline(client_address="192.0.2.1")), "192.0.2.1"),
        (client(), "10.0.0.7:80"),
        (client(server__address="shop", server__port=8080), "shop:8080"),
        (client(server__address="shop"), "shop:80"),
        (client(server__address="::1", server__port=8080), "[::1]:8080"),
        (unix(local=Endpoint("/run/a", 0), remote=Endpoint("", 0)), "/run/a"),
        (unix(local=Endpoint("", 0), remote=Endpoint("", 0)), "unix"),
    ],
)
def test_the_peer_is_called_by_the_name_that_tells_most(span, peer):
    assert summary.peer(span) == peer


def test_ends_are_in_the_order_of_the_request():
    assert summary.ends(samples.span()) == ("10.0.0.5:43122", "10.0.0.9:8080")
    assert summary.ends(client()) == ("10.0.0.9:8080", "10.0.0.7:80")
    nameless = unix(local=Endpoint("/run/a", 0), remote=Endpoint("", 0))
    assert summary.ends(nameless) == ("unix", "/run/a")


@pytest.mark.parametrize(
    ("name", "version", "shown"),
    [
        ("http2", "2", "http/2"),
        ("http1", "1.1", "http/1.1"),
        ("http", "1.0", "http/1.0"),
        ("redis", None, "redis"),
    ],
)
def test_protocol_and_version(name, version, shown):
    attributes = {"network.protocol.version": version} if version else {}
    span = samples.span(protocol=name, outline=samples.outline(attributes=attributes))
    assert summary.protocol(span) == shown
