# SPDX-License-Identifier: Apache-2.0
"""gRPC: content types, statuses, outlines."""

from __future__ import annotations

import pytest

from parsers.grpc_calls import (
    MAX_METHOD_CHARS,
    MESSAGE_COUNTS,
    STATUSES,
    Call,
    Reset,
    describe_call,
    find_status,
    is_grpc,
    is_grpc_web,
    is_grpc_web_text,
    parse_timeout_ns,
)
from parsers.model import Endpoint, Side

SERVER = Endpoint("10.0.0.1", 50051)
CANCEL, REFUSED_STREAM = 8, 7


def outlined(path="/pkg.Shop/Buy", status="OK", side=Side.SERVER, **options):
    error_type = options.pop("error_type", None)
    http_status = options.pop("http_status", 200)
    return describe_call(Call(path, **options), status, error_type, side, SERVER, http_status)


@pytest.mark.parametrize(
    ("content_type", "native", "web", "text"),
    [
        ("application/grpc", True, False, False),
        ("application/grpc+proto", True, False, False),
        ("application/grpc+json", True, False, False),
        ("application/grpc; charset=utf-8", True, False, False),
        ("application/grpc-web", False, True, False),
        ("application/grpc-web+proto", False, True, False),
        ("application/grpc-web;x=y", False, True, False),
        ("application/grpc-web-text", False, True, True),
        ("application/grpc-web-text+proto", False, True, True),
        ("application/grpc-website", False, False, False),
        ("application/grpcish", False, False, False),
        ("application/json", False, False, False),
        ("", False, False, False),
    ],
)
def test_content_types(content_type, native, web, text):
    assert is_grpc(content_type) is native
    assert is_grpc_web(content_type) is web
    assert is_grpc_web_text(content_type) is text


# -- statuses -------------------------------------------------------------------------


def test_a_status_that_was_sent_counts_before_all():
    assert find_status("5", 200, Reset(CANCEL, by_client=True, after_ns=0)) == "NOT_FOUND"
    assert [find_status(str(number), 200, None) for number in range(17)] == list(STATUSES)
    assert find_status("17", 200, None) == "UNKNOWN"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0, "INTERNAL"),
        (1, "INTERNAL"),
        (2, "INTERNAL"),
        (3, "INTERNAL"),
        (4, "INTERNAL"),
        (6, "INTERNAL"),
        (7, "UNAVAILABLE"),
        (8, "CANCELLED"),
        (9, "INTERNAL"),
        (10, "INTERNAL"),
        (11, "RESOURCE_EXHAUSTED"),
        (12, "PERMISSION_DENIED"),
        (99, "INTERNAL"),
    ],
)
def test_a_reset_stands_for_a_status(code, status):
    assert find_status("", 200, Reset(code, by_client=False, after_ns=1)) == status


@pytest.mark.parametrize(
    ("http_status", "status"),
    [
        (400, "INTERNAL"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "UNIMPLEMENTED"),
        (429, "UNAVAILABLE"),
        (431, "INTERNAL"),
        (502, "UNAVAILABLE"),
        (503, "UNAVAILABLE"),
        (504, "UNAVAILABLE"),
        (200, "UNKNOWN"),
        (500, "UNKNOWN"),
        (0, ""),
    ],
)
def test_without_a_status_that_of_http_is_read(http_status, status):
    assert find_status("", http_status, None) == status


@pytest.mark.parametrize(
    ("timeout", "after_ms", "status"),
    [
        ("100m", 99, "DEADLINE_EXCEEDED"),
        ("100m", 100, "DEADLINE_EXCEEDED"),
        ("100m", 500, "DEADLINE_EXCEEDED"),
        ("100m", 80, "CANCELLED"),
        ("10S", 9_900, "DEADLINE_EXCEEDED"),
        ("10S", 9_000, "CANCELLED"),
        ("", 9_000, "CANCELLED"),
        ("soon", 9_000, "CANCELLED"),
    ],
)
def test_a_call_cancelled_at_its_limit_has_exceeded_it(timeout, after_ms, status):
    reset = Reset(CANCEL, by_client=True, after_ns=after_ms * 1_000_000)
    assert find_status("", 200, reset, timeout) == status


def test_a_proxys_answer_counts_before_the_reset_that_follows_it():
    assert find_status("", 503, Reset(CANCEL, by_client=True, after_ns=1)) == "UNAVAILABLE"
    assert find_status("", 200, Reset(CANCEL, by_client=True, after_ns=1)) == "CANCELLED"


def test_a_refused_call_has_not_exceeded_its_limit():
    reset = Reset(REFUSED_STREAM, by_client=False, after_ns=10**12)
    assert find_status("", 0, reset, "1m") == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        ("1H", 3_600_000_000_000),
        ("2M", 120_000_000_000),
        ("3S", 3_000_000_000),
        ("4m", 4_000_000),
        ("5u", 5_000),
        ("99999999n", 99_999_999),
        ("123456789n", 0),
        ("1s", 0),
        ("-1S", 0),
        ("", 0),
    ],
)
def test_timeouts(value, nanoseconds):
    assert parse_timeout_ns(value) == nanoseconds


# -- outlines -------------------------------------------------------------------------


def test_a_call():
    outline = outlined(authority="shop.example:8080", timeout="1500m")
    assert outline.name == "pkg.Shop/Buy"
    assert outline.error_type is None
    assert outline.counts == MESSAGE_COUNTS
    assert dict(outline.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": "pkg.Shop/Buy",
        "rpc.response.status_code": "OK",
        "server.address": "shop.example",
        "server.port": 8080,
        "network.protocol.version": "2",
        "wirespan.rpc.timeout": 1.5,
    }


def test_the_same_call_has_the_same_outline():
    assert outlined(timeout="1S") is outlined(timeout="1000m")
    assert outlined(timeout="999871u") is outlined(timeout="1S")
    assert outlined() is not outlined(side=Side.CLIENT)


@pytest.mark.parametrize("status", STATUSES)
def test_what_is_an_error_depends_on_the_side(status):
    client = outlined(status=status, side=Side.CLIENT)
    server = outlined(status=status, side=Side.SERVER)
    assert client.error_type == (None if status == "OK" else status)
    of_server = {
        "UNKNOWN",
        "DEADLINE_EXCEEDED",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
    }
    assert server.error_type == (status if status in of_server else None)
    assert client.attributes["rpc.response.status_code"] == status


def test_a_broken_connection_is_the_error():
    outline = outlined(status="", error_type="connection_reset", http_status=0)
    assert outline.error_type == "connection_reset"
    assert "rpc.response.status_code" not in outline.attributes


def test_a_status_that_nobody_saw_is_none():
    assert outlined(status="", side=Side.CLIENT).error_type is None


def test_a_server_names_no_method_that_it_does_not_have():
    server = outlined(status="UNIMPLEMENTED")
    assert server.name == "grpc"
    assert server.attributes["rpc.method"] == "_OTHER"
    assert server.attributes["rpc.method_original"] == "pkg.Shop/Buy"
    client = outlined(status="UNIMPLEMENTED", side=Side.CLIENT)
    assert client.name == client.attributes["rpc.method"] == "pkg.Shop/Buy"
    assert "rpc.method_original" not in client.attributes


@pytest.mark.parametrize(
    ("path", "method", "original"),
    [
        ("/Shop/Buy", "Shop/Buy", None),
        ("/a.b-c/Do?x=1", "a.b-c/Do", None),
        ("/api/v1/pkg.Shop/Buy", "pkg.Shop/Buy", "api/v1/pkg.Shop/Buy"),
        ("/api/users/17", "_OTHER", "api/users/17"),
        ("/Buy", "_OTHER", "Buy"),
        ("*", "_OTHER", "*"),
        ("/pkg.Shop/", "_OTHER", "pkg.Shop/"),
        ("/" + "a" * MAX_METHOD_CHARS + "/b", "_OTHER", "a" * MAX_METHOD_CHARS),
        ("/x/y/z&token=s3cret", "_OTHER", "x/y/z&token=REDACTED"),
        ("//user:s3cret@host/x", "_OTHER", "/REDACTED:REDACTED@host/x"),
    ],
)
def test_paths(path, method, original):
    attributes = outlined(path).attributes
    assert attributes["rpc.method"] == method
    assert attributes.get("rpc.method_original") == original


def test_an_unknown_path_is_no_method():
    for status in ("OK", "UNIMPLEMENTED"):
        outline = outlined("", status=status)
        assert outline.name == "grpc"
        assert "rpc.method" not in outline.attributes
        assert "rpc.method_original" not in outline.attributes


@pytest.mark.parametrize(
    ("authority", "address", "port"),
    [
        ("", "10.0.0.1", 50051),
        ("shop", "shop", None),
        ("[::1]:50051", "::1", 50051),
        ("user:s3cret@shop:1", "10.0.0.1", 50051),
        ("shop:99999", "10.0.0.1", 50051),
        ("x" * 300, "10.0.0.1", 50051),
    ],
)
def test_the_server_is_the_authority(authority, address, port):
    attributes = outlined(authority=authority).attributes
    assert attributes["server.address"] == address
    assert attributes.get("server.port") == port


def test_a_unix_socket_has_no_port():
    outline = describe_call(Call("/a/b"), "OK", None, Side.SERVER, Endpoint("/run/x", 0))
    assert outline.attributes["server.address"] == "/run/x"
    assert "server.port" not in outline.attributes
    nowhere = describe_call(Call("/a/b"), "OK", None, Side.SERVER, Endpoint("", 0))
    assert "server.address" not in nowhere.attributes


def test_what_a_proxy_has_answered_is_said():
    assert outlined(http_status=503).attributes["http.response.status_code"] == 503
    assert "http.response.status_code" not in outlined(http_status=200).attributes
    assert "http.response.status_code" not in outlined(http_status=0).attributes
