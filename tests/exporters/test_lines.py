# SPDX-License-Identifier: Apache-2.0
"""Which columns there are at which width; test_console.py has the lines themselves."""

from __future__ import annotations

from datetime import UTC

import pytest

from exporters.lines import ASCII, UNICODE, UNLIMITED, Lines, compact, wide
from parsers.model import Endpoint, Side
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
