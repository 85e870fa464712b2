# SPDX-License-Identifier: Apache-2.0
"""Against the tables of the semantic conventions, row by row."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from parsers.http_attributes import KNOWN_METHODS, View, describe, secret_ranges
from parsers.model import Endpoint, Side

SERVER = Endpoint("10.0.0.1", 8080)


@dataclass
class Request:
    method: str = "GET"
    target: str = "/"
    version: str = "1.1"
    fields: dict = field(default_factory=dict)


def outline(
    request, side=Side.SERVER, *, status=200, error=None, redact=True, server=SERVER, **view
):
    return describe(request, status, error, View(side, server, redact, **view))


def server(target="/", method="GET", status=200, **fields):
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    return outline(Request(method, target, fields=fields), status=status).attributes


def full(target, host="h", method="GET", **options):
    fields = {"host": host} if host is not None else {}
    request = Request(method, target, fields=fields)
    return outline(request, Side.CLIENT, **options).attributes["url.full"]


def test_server_span_has_exactly_these():
    request = Request(
        "POST",
        "/a/b?c=d",
        "1.0",
        {"host": "example.com:81", "user-agent": "curl/8", "upgrade": "x"},
    )
    told = outline(request, status=201)
    assert told.name == "POST"
    assert told.error_type is None
    assert told.client_address is None
    assert told.attributes == {
        "http.request.method": "POST",
        "url.path": "/a/b",
        "url.query": "c=d",
        "url.scheme": "http",
        "http.response.status_code": 201,
        "server.address": "example.com",
        "server.port": 81,
        "network.protocol.version": "1.0",
        "user_agent.original": "curl/8",
    }


def test_client_span_has_exactly_these():
    request = Request("GET", "/a?c=d", "1.1", {"host": "example.com", "user-agent": "curl/8"})
    assert outline(request, Side.CLIENT).attributes == {
        "http.request.method": "GET",
        "url.full": "http://example.com/a?c=d",
        "http.response.status_code": 200,
        "server.address": "example.com",
        "server.port": 80,
        "network.protocol.version": "1.1",
    }


@pytest.mark.parametrize("method", sorted(KNOWN_METHODS))
def test_known_method_is_the_name(method):
    told = outline(Request(method))
    assert told.name == told.attributes["http.request.method"] == method
    assert "http.request.method_original" not in told.attributes


@pytest.mark.parametrize("method", ["get", "PROPFIND", "_OTHER2"])
def test_other_method_is_no_name(method):
    told = outline(Request(method))
    assert told.name == "HTTP"
    assert told.attributes["http.request.method"] == "_OTHER"
    assert told.attributes["http.request.method_original"] == method


def test_users_list_of_methods_replaces_the_conventions():
    methods = frozenset({"PROPFIND"})
    assert outline(Request("PROPFIND"), methods=methods).name == "PROPFIND"
    assert outline(Request("GET"), methods=methods).name == "HTTP"


@pytest.mark.parametrize(
    ("status", "server_error", "client_error"),
    [
        (0, None, None),
        (101, None, None),
        (200, None, None),
        (304, None, None),
        (400, None, "400"),
        (499, None, "499"),
        (500, "500", "500"),
        (599, "599", "599"),
        (999, "999", "999"),
    ],
)
def test_status_is_an_error_by_side(status, server_error, client_error):
    assert outline(Request(), Side.SERVER, status=status).error_type == server_error
    assert outline(Request(), Side.UNKNOWN, status=status).error_type == server_error
    assert outline(Request(), Side.CLIENT, status=status).error_type == client_error
    shown = outline(Request(), status=status).attributes.get("http.response.status_code", 0)
    assert shown == status


@pytest.mark.parametrize("status", [0, 200, 500])
def test_exchange_that_broke_says_why(status):
    assert outline(Request(), status=status, error="connection_reset").error_type == (
        "connection_reset"
    )


# -- where it went -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("example.com", "example.com", 80),
        ("example.com:8443", "example.com", 8443),
        ("[2001:db8::1]:81", "2001:db8::1", 81),
        ("[::1]", "::1", 80),
        ("192.0.2.1", "192.0.2.1", 80),
        ("", *SERVER),
        ("a b", *SERVER),
        ("h:99999", *SERVER),
        ("h:x", *SERVER),
        ("2001:db8::1", *SERVER),
        ("user:pw@h", *SERVER),
        ("h" * 300, *SERVER),
    ],
)
def test_host_field_names_the_server_where_it_is_usable(host, address, port):
    attributes = server(host=host)
    assert (attributes["server.address"], attributes["server.port"]) == (address, port)


def test_socket_names_the_server_where_nothing_else_does():
    attributes = server()
    assert (attributes["server.address"], attributes["server.port"]) == SERVER
    nowhere = outline(Request(), server=Endpoint("", 0)).attributes
    assert "server.address" not in nowhere
    assert "server.port" not in nowhere
    path = outline(Request(), server=Endpoint("/run/app.sock", 0)).attributes
    assert path["server.address"] == "/run/app.sock"
    assert "server.port" not in path


def test_proxies_say_what_the_client_asked_for():
    attributes = server(
        host="internal", x_forwarded_host="www.example.com, b", x_forwarded_proto="HTTPS, http"
    )
    assert attributes["server.address"] == "www.example.com"
    assert attributes["server.port"] == 443
    assert attributes["url.scheme"] == "https"


def test_forwarded_comes_before_x_forwarded():
    attributes = server(
        host="internal",
        forwarded='for=1.2.3.4; Host="example.org:444" ;proto=https,host=x',
        x_forwarded_host="www.example.com",
        x_forwarded_proto="http",
    )
    assert attributes["server.address"] == "example.org"
    assert attributes["server.port"] == 444
    assert attributes["url.scheme"] == "https"


def test_proxy_that_says_nonsense_is_not_believed():
    attributes = server(host="h:81", forwarded='host="a b";proto=" "', x_forwarded_proto="<b>")
    assert (attributes["server.address"], attributes["server.port"]) == ("h", 81)
    assert attributes["url.scheme"] == "http"


def test_client_does_not_believe_what_it_forwards():
    fields = {"host": "h", "x-forwarded-host": "evil", "x-forwarded-proto": "https"}
    attributes = outline(Request(fields=fields), Side.CLIENT).attributes
    assert attributes["url.full"] == "http://h/"
    assert attributes["server.address"] == "h"


def test_absolute_form_overrides_the_host_field():
    attributes = server("https://example.com/a?b=c", host="proxy:3128")
    assert (attributes["server.address"], attributes["server.port"]) == ("example.com", 443)
    assert attributes["url.scheme"] == "https"
    assert (attributes["url.path"], attributes["url.query"]) == ("/a", "b=c")


def test_scheme_without_a_known_port_has_none():
    assert "server.port" not in server("ftp://example.com/a")


@pytest.mark.parametrize(
    ("fields", "client"),
    [
        ({}, None),
        ({"x-forwarded-for": "203.0.113.7, 10.0.0.1"}, "203.0.113.7"),
        ({"x-forwarded-for": "203.0.113.7:1234"}, "203.0.113.7"),
        ({"x-forwarded-for": "2001:db8::7"}, "2001:db8::7"),
        ({"x-forwarded-for": "unknown"}, None),
        ({"x-forwarded-for": ""}, None),
        ({"forwarded": "for=203.0.113.7;proto=http", "x-forwarded-for": "1.1.1.1"}, "203.0.113.7"),
        ({"forwarded": 'For="[2001:db8::7]:4711"'}, "2001:db8::7"),
        ({"forwarded": "for=_hidden"}, None),
        ({"forwarded": "proto=http", "x-forwarded-for": "1.1.1.1"}, "1.1.1.1"),
    ],
)
def test_client_address_is_the_first_that_proxies_name(fields, client):
    assert outline(Request(fields=fields)).client_address == client
    assert outline(Request(fields=fields), Side.CLIENT).client_address is None


# -- the URL -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", None),
        ("/a?", "/a", None),
        ("/a?b?c", "/a", "b?c"),
        ("*", "*", None),
        ("http://example.com", "/", None),
        ("//a//b", "//a//b", None),
    ],
)
def test_path_and_query_of_a_server(target, path, query):
    attributes = server(target, host="h")
    assert attributes["url.path"] == path
    assert attributes.get("url.query") == query


def test_tunnel_has_no_path():
    attributes = server("example.com:443", method="CONNECT")
    assert attributes["url.path"] == ""
    assert (attributes["server.address"], attributes["server.port"]) == ("example.com", 443)
    assert full("example.com:443", method="CONNECT") == "http://example.com:443"


@pytest.mark.parametrize(
    ("target", "host", "url"),
    [
        ("/a?b=c", "example.com:81", "http://example.com:81/a?b=c"),
        ("/", None, "http://10.0.0.1:8080/"),
        ("/", "bad host", "http://10.0.0.1:8080/"),
        ("/", "[::1]:81", "http://[::1]:81/"),
        ("*", "h", "http://h"),
        ("https://example.com", "proxy", "https://example.com/"),
        ("HTTPS://Example.com/a", "proxy", "HTTPS://Example.com/a"),
    ],
)
def test_full_url_of_a_client(target, host, url):
    assert full(target, host) == url


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        (Endpoint("::1", 81), "http://[::1]:81/"),
        (Endpoint("10.0.0.1", 80), "http://10.0.0.1/"),
        (Endpoint("/run/app.sock", 0), "http:///run/app.sock/"),
    ],
)
def test_full_url_without_a_host_is_the_sockets(endpoint, url):
    assert full("/", None, server=endpoint) == url


CONVENTIONS = ["X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "sig"]
CONVENTIONS += ["X-Goog-Signature", "AWSAccessKeyId", "Signature"]
OURS = ["token", "access_token", "id-token", "apikey", "api_key", "client_secret", "secret"]
OURS += ["password", "passwd", "pwd", "PASSWORD", "jwt", "refreshToken", "code_verifier"]


@pytest.mark.parametrize("key", [*CONVENTIONS, *OURS])
def test_secret_parameter_is_redacted_and_its_key_stays(key):
    target = f"/a?x=1&{key}=s3cret&y=2;{key}=s3cret"
    assert server(target)["url.query"] == f"x=1&{key}=REDACTED&y=2;{key}=REDACTED"
    assert full(target) == f"http://h/a?x=1&{key}=REDACTED&y=2;{key}=REDACTED"
    absolute = full(f"http://e.com/a?{key}=s3cret")
    assert absolute == f"http://e.com/a?{key}=REDACTED"
    assert full(target, redact=False) == f"http://h{target}"


@pytest.mark.parametrize("key", ["signature_x", "design", "xtoken", "tokens", "passwords"])
def test_parameter_that_only_resembles_one_is_not_redacted(key):
    assert server(f"/a?{key}=value")["url.query"] == f"{key}=value"


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("http://user:pw@example.com/a", "http://REDACTED:REDACTED@example.com/a"),
        ("http://user@example.com", "http://REDACTED:REDACTED@example.com/"),
        ("http://u:p@ss@example.com/a@b", "http://REDACTED:REDACTED@example.com/a@b"),
        ("/go?to=http://u:p@h/", "http://h/go?to=http://REDACTED:REDACTED@h/"),
    ],
)
def test_credentials_are_redacted(target, url):
    assert full(target) == url
    assert full(target, redact=False) == (target if target[0] != "/" else f"http://h{target}") + (
        "/" if target.endswith("example.com") else ""
    )
    assert "@" not in str(server(target, host="h")["server.address"])


def test_ranges_of_secrets_in_a_line():
    line = b"GET http://u:p@h/?a=1&token=abc&sig=&b=2 HTTP/1.1"
    assert [line[a:b] for a, b in secret_ranges(line)] == [b"u:p", b"abc"]


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/a?api%5Fkey=hunter2", "/a?api%5Fkey=REDACTED"),
        ("/a?client%2Dsecret=hunter2&b=1", "/a?client%2Dsecret=REDACTED&b=1"),
        ("//me:hunter2@host/a", "//REDACTED:REDACTED@host/a"),
    ],
)
def test_secret_in_an_odd_shape_is_redacted(target, shown):
    head = Request(target=target, fields={"host": "h"})
    view = View(Side.CLIENT, Endpoint("10.0.0.1", 80), redact=True)
    assert describe(head, 200, None, view).attributes["url.full"] == f"http://h{shown}"
    assert list(secret_ranges(f"GET {target} HTTP/1.1".encode()))
