# SPDX-License-Identifier: Apache-2.0
"""Which columns there are at which width; test_console.py has the lines themselves."""

from __future__ import annotations

from datetime import UTC

import pytest

from exporters.lines import ASCII, UNICODE, UNLIMITED, Lines, compact, wide
from parsers.model import Completeness, Endpoint, Side
from tests.exporters import samples

EXTRAS = ("protocol", "trace_id", "first_byte", "rtt", "addresses")


def extras(width):
    return [name for name in EXTRAS if getattr(wide(width), name)]


def shown(plan, span, signs=UNICODE):
    return Lines(plan, signs=signs, color=False, time_zone=UTC).line(span)


@pytest.mark.parametrize(
    ("width", "names"),
    [
        (80, []),
        (120, []),
        (140, ["protocol"]),
        (160, ["protocol", "first_byte", "rtt"]),
        (200, list(EXTRAS)),
        (UNLIMITED, list(EXTRAS)),
    ],
)
def test_more_room_more_columns(width, names):
    assert extras(width) == names


def test_compact_has_no_more_columns_however_wide():
    assert not any(getattr(compact(1000), name) for name in EXTRAS)


def to(host, path="/", width=80):
    connection = samples.peering(Side.CLIENT, remote=Endpoint(host, 8080))
    attributes = {"http.request.method": "GET", "url.path": path}
    outline = samples.outline(attributes=attributes)
    return shown(compact(width), samples.span(peering=connection, outline=outline))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_where_columns_are_dear_this_machine_is_not_named(host):
    assert to(host).endswith(" :8080")
    assert not to(host, width=120).endswith(" :8080")


def test_the_peer_gives_way_before_the_request():
    assert to("10.96.12.57").endswith("10.96.12.57:8080")
    path = "/api/users/42"
    line = to("10.96.12.57", path)
    assert f"GET {path} " in line
    assert "…" in line.rpartition(" ")[2]


def test_a_long_service_keeps_its_process_id():
    span = samples.span(process=samples.process("a-service-of-many-words", 4194304))
    assert " a-s…rds(4194304) " in shown(compact(80), span)


def test_every_sign_has_a_stand_in():
    assert "".join(
        part if isinstance(part, str) else "".join(part.values()) for part in ASCII
    ).isascii()
    assert ASCII.into.keys() == UNICODE.into.keys() == set(Side)


def test_seconds_are_read_from_each_span():
    lines = Lines(compact(80), signs=UNICODE, color=False, time_zone=UTC)
    later = samples.START_NS + 61_000_000_000
    texts = [
        lines.line(samples.span(start_unix_ns=start, end_unix_ns=start))[:12]
        for start in (samples.START_NS, later, samples.START_NS)
    ]
    assert texts == ["22:13:20.123", "22:14:21.123", "22:13:20.123"]


SQL = "SELECT id, name FROM orders JOIN users ON users.id = orders.user_id WHERE at > $1 LIMIT ?"
ROWS = ("", "db.response.returned_rows")
MESSAGES = ("wirespan.rpc.request.messages", "wirespan.rpc.response.messages")


def asked(protocol, name, port, error=None, counts=("", ""), side=Side.CLIENT, **more):
    """A span of a protocol; what has two underlines in its name is an attribute."""
    attributes = {key.replace("__", "."): more.pop(key) for key in list(more) if "__" in key}
    ends = Endpoint("10.0.0.9", port), Endpoint("10.0.0.5", 43122)
    if side is Side.CLIENT:
        ends = Endpoint("10.0.0.9", 43122), Endpoint("10.0.0.5", port)
    connection = samples.peering(side, local=ends[0], remote=ends[1])
    outline = samples.outline(name, error, attributes=attributes, counts=counts)
    return samples.span(1, peering=connection, protocol=protocol, outline=outline, **more)


GET_USER = asked("redis", "GET", 6379, db__query__text="GET user:1", server__address="cache")
WRONG = asked(
    "redis",
    "LPUSH",
    6379,
    "WRONGTYPE",
    db__query__text="LPUSH user:1 ?",
    db__response__status_code="WRONGTYPE",
)
JOIN = {"db__query__text": SQL, "db__query__summary": "SELECT orders users"}
SELECT = asked("postgresql", "SELECT", 5432, counts=ROWS, response_count=120, **JOIN)
SERVED = asked(
    "postgresql", "SELECT", 5432, counts=ROWS, response_count=1, side=Side.SERVER, **JOIN
)
INSERT = asked(
    "postgresql",
    "INSERT t",
    5432,
    "23505",
    db__query__text="INSERT INTO t VALUES (?)",
    db__query__summary="INSERT t",
    db__response__status_code="23505",
)
PING = asked("mysql", "COM_PING shop", 3306, db__operation__name="COM_PING")
CALL = asked(
    "grpc",
    "pkg.Service/Method",
    50051,
    counts=MESSAGES,
    request_count=1,
    response_count=30,
    rpc__system__name="grpc",
    rpc__method="pkg.Service/Method",
    rpc__response__status_code="OK",
    network__protocol__version="2",
)
PREPARED = asked(
    "postgresql",
    "Parse SELECT orders users",
    5432,
    db__operation__name="Parse",
    **JOIN,
)
REFUSED = asked(
    "grpc",
    "shop.Stock/Take",
    50051,
    "FAILED_PRECONDITION",
    counts=MESSAGES,
    request_count=1,
    response_count=0,
    rpc__system__name="grpc",
    rpc__method="shop.Stock/Take",
    rpc__response__status_code="FAILED_PRECONDITION",
)
LOOKUP = asked("dns", "DNS A", 53, dns__question__name="a.example.org")
NO_NAME = asked(
    "dns",
    "DNS A",
    53,
    dns__question__name="a.example.org",
    wirespan__dns__response__code="NXDOMAIN",
    resends=1,
)
SILENCE = asked(
    "dns",
    "DNS A",
    53,
    "timeout",
    dns__question__name="a.org",
    resends=2,
    completeness=Completeness.UNANSWERED,
)


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (GET_USER, "ok GET user:1        78/1.2K cache:6379"),
        (WRONG, "✗ERR LPUSH… [WRONGTYPE] 78/1.2K 10.0…6379"),
        (SELECT, "ok SELECT orders use… 78/1.2K 10.0…5432"),
        (SERVED, "ok SELECT orders users 78/1.2K 10.0.0.5"),
        (INSERT, "✗23505 INSERT t     78/1.2K 10.0.0.5:5432"),
        (PING, "ok COM_PING shop  78/1.2K 10.0.0.5:3306"),
        (CALL, "OK pkg.Service/Method 78/1.2K 10.0…0051"),
        (PREPARED, "ok Parse SELECT orde… 78/1.2K 10.0…5432"),
        (REFUSED, "✗ERR sho…ke [FAILED_PR… 78/1.2K 10.0…0051"),
        (LOOKUP, "ok DNS A a.exam…e.org 78/1.2K 10.0…5:53"),
        (NO_NAME, "DNS A a.e…rg [res… 78/1.2K 10.0…5:53"),
        (SILENCE, "✗--- DNS A a.org [timeout… 78/- 10.0…5:53"),
    ],
)
def test_every_protocol_at_80_columns(span, expected):
    line = shown(compact(80), span)
    assert line.partition("shop(4312)")[2].strip() == expected
    assert len(line) == 80


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (GET_USER, "redis ok GET user:1"),
        (WRONG, "redis ✗ERR LPUSH user:1 ? [WRONGTYPE]"),
        (SELECT, "postgresql ok SELECT id, name FROM orders JO… (120 rows)"),
        (SERVED, "postgresql ok SELECT id, name FROM orders JOIN … (1 row)"),
        (INSERT, "postgresql ✗23505 INSERT INTO t VALUES (?)"),
        (PING, "mysql ok COM_PING shop"),
        (CALL, "grpc OK pkg.Service/Method (1/30 messages)"),
        (PREPARED, "postgresql ok Parse SELECT id, name FROM orders JOIN us…"),
        (REFUSED, "grpc ✗ERR shop.Stock/Take [FAILED_PRECONDITION]"),
        (LOOKUP, "dns ok DNS A a.example.org"),
        (NO_NAME, "dns DNS A a.example.org [resent, NXDOMAIN]"),
        (SILENCE, "dns ✗--- DNS A a.org [timeout, resent 2x]"),
    ],
)
def test_every_protocol_at_200_columns(span, expected):
    line = shown(wide(200), span)
    said = line.partition("shop(4312)")[2].partition(" 78/")[0]
    assert " ".join(said.split()) == expected
    assert len(line) <= 200


def test_statement_without_a_gist_loses_its_end():
    bare = asked("redis", "MGET", 6379, db__query__text="MGET user:1 user:2 user:3 user:4 user:5")
    assert "ok MGET user:1 user:… 78/1.2K" in shown(compact(80), bare)


def test_without_a_bound_a_statement_is_there_to_its_end():
    assert f" {SQL} (120 rows) " in shown(wide(UNLIMITED), SELECT)


def test_of_a_statement_that_nearly_fits_only_the_end_is_lost():
    summary = {"db__query__summary": "UPDATE stock"}
    near = asked(
        "mysql",
        "UPDATE stock",
        3306,
        db__query__text="UPDATE stock SET n = n - ? WHERE a = ?",
        **summary,
    )
    assert " UPDATE stock SET n = n - ? WHERE a …" in shown(compact(120), near)
    far = asked("mysql", "UPDATE stock", 3306, db__query__text=SQL, **summary)
    assert " UPDATE stock   " in shown(compact(120), far)
    assert " UPDATE stock " in shown(compact(80), near)


def test_of_a_path_with_a_query_the_query_goes_first():
    query = {"url__query": "product=7&token=REDACTED"}
    span = asked("http1", "GET", 80, http__request__method="GET", url__path="/api/o", **query)
    assert " GET /api/o?pro" in shown(compact(80), span)


def test_a_note_leaves_no_room_for_counts():
    line = shown(wide(200), REFUSED)
    assert "messages" not in line
