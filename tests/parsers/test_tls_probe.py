# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.model import Kind, Likeness
from parsers.tls_probe import probe
from tests.parsers.tls_bytes import (
    CHANGE,
    NEWEST,
    SEALED,
    alert,
    client_hello,
    message,
    name_of,
    record,
    server_hello,
)

NO, SHORT, LIKELY, CERTAIN = Likeness
REQUEST, RESPONSE = Kind.REQUEST, Kind.RESPONSE
ASKED = record(client_hello(name_of(b"shop.example.com"), session=bytes(32)), version=b"\3\1")
ANSWERED = record(server_hello(NEWEST, session=bytes(32)))


@pytest.mark.parametrize(("data", "kind"), [(ASKED, REQUEST), (ANSWERED, RESPONSE)])
def test_hello_becomes_ever_more_certain(data, kind):
    said = [probe(data[:end], kind) for end in range(1, len(data) + 1)]
    assert said == sorted(said)
    assert said[0] is SHORT
    assert said[5 + 38 + 32 + 3] is CERTAIN
    assert probe(data, Kind(1 - kind)) is NO
    # The head of the record is in another transfer than the rest.
    assert probe(data[:5], Kind(1 - kind)) is not NO


def test_hello_over_records():
    data = client_hello(name_of(b"shop.example.com"))
    for size in (1, 3, 5, 30):
        first, second = record(data[:size]), record(data[size:])
        assert probe(first, REQUEST) is LIKELY
        assert probe(first + second, REQUEST) is CERTAIN
        assert probe(first + SEALED, REQUEST) is NO


@pytest.mark.parametrize(
    "data",
    [
        client_hello(session=bytes(33)),
        client_hello(suites=b""),
        client_hello(suites=b"\1\2\3"),
        client_hello() + b"more",
        message(1, bytes(4)),
    ],
)
def test_hello_whose_parts_do_not_fit(data):
    assert probe(record(data), REQUEST) is NO


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", NO),
        (SEALED, CERTAIN),
        (SEALED[:30], LIKELY),
        (SEALED + SEALED[:2], LIKELY),
        (SEALED + SEALED[:5], CERTAIN),
        (CHANGE + SEALED, CERTAIN),
        (CHANGE[:5], LIKELY),
        (alert(40), LIKELY),
        (alert(40)[:5], LIKELY),
        (alert(0, level=1), LIKELY),
        (record(bytes(24), kind=21), LIKELY),
        (record(bytes(40)), LIKELY),
        (record(b"\1\1" + client_hello()[2:]), LIKELY),
        (record(client_hello()[:4] + b"\2" + client_hello()[5:]), LIKELY),
        (record(message(14, b"")), LIKELY),
        (record(message(11, bytes(900))) + record(message(14, b"")), CERTAIN),
        (SEALED + b"GET /", NO),
        (SEALED + record(bytes(40), kind=23, version=b"\3\1"), NO),
        (SEALED + record(b"", kind=23), NO),
        (record(b"", kind=23), NO),
        (record(bytes(15), kind=23), NO),
        (record(bytes(18433), kind=23), NO),
        (record(b"\2", kind=20), NO),
        (record(b"\1\1", kind=20), NO),
        (alert(40, level=3), NO),
        (alert(200), NO),
        (record(bytes(15), kind=21), NO),
        (record(b"abc"), NO),
        (record(message(99, bytes(9))), NO),
        (record(bytes(40), kind=24), NO),
        (record(bytes(40), version=b"\2\0"), NO),
        (record(bytes(40), version=b"\3\5"), NO),
    ],
)
def test_other_records(data, kind, expected):
    assert probe(data, kind) is expected


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\x03SELECT 1",  # MySQL: a packet of 66326 bytes
        b"\x16\x03\x00\x00\x00\x03",
        b"\x17\x03\x03\x00\x85\x80\x00\x01\x00\x01",  # DNS over TCP: a message of 5891 bytes
        b"\x16\x03\x01\x00\x01\x00\x00\x01\x00\x00",
        b"PRI * HTTP/2.0\r\n",
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    ],
)
def test_what_others_say(data, kind):
    assert probe(data + bytes(200), kind) is NO


@given(st.binary(max_size=80), st.sampled_from(Kind))
def test_any_bytes_are_judged(data, kind):
    assert probe(data, kind) in Likeness
    assert probe(b"\x16\3\1" + data, kind) in Likeness
