# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.model import ParseError
from parsers.reader import NeedMoreData, Reader
from parsers.tls_wire import (
    MAX_HELLO_RECORDS,
    RETRY,
    is_hello,
    protocol_names,
    read_client_hello,
    read_header,
    read_server_hello,
    server_name,
)
from tests.parsers.tls_bytes import (
    NEWEST,
    RANDOM,
    alpn,
    client_hello,
    message,
    name_of,
    record,
    server_hello,
)

SHOP = name_of(b"shop.example.com")


def kept(data, read):
    """What a recording keeps of bytes that are read, `.` for what it leaves out."""
    reader = Reader(data)
    reader.marking = True
    read(reader)
    found = bytearray(data)
    for start, stop in reader.omitted:
        found[start:stop] = b"." * (stop - start)
    return bytes(found)


def test_client_hello():
    data = record(client_hello(SHOP, (23, b""), alpn(b"h2", b"http/1.1")))
    reader = Reader(data + b"more")
    hello, whole = read_client_hello(reader)
    assert whole
    assert reader.position == len(data)
    assert server_name(hello.server_name) == "shop.example.com"
    assert protocol_names(hello.offered) == ("h2", "http/1.1")


def test_client_hello_without_extensions():
    hello, whole = read_client_hello(Reader(record(client_hello(block=b""))))
    assert (hello, whole) == ((b"", b""), True)


def test_client_hello_over_many_records():
    data = client_hello(SHOP)
    spread = b"".join(record(data[i : i + 1]) for i in range(len(data)))
    hello, _ = read_client_hello(Reader(spread))
    assert server_name(hello.server_name) == "shop.example.com"
    for end in range(len(spread)):
        with pytest.raises(NeedMoreData):
            read_client_hello(Reader(spread[:end]))


def test_hello_over_too_many_records():
    data = client_hello(SHOP, (21, bytes(MAX_HELLO_RECORDS)))
    with pytest.raises(ParseError, match="more than 256 records"):
        read_client_hello(Reader(b"".join(record(data[i : i + 1]) for i in range(len(data)))))


def test_client_hello_that_was_cut():
    data = record(client_hello(SHOP, alpn(b"h2"), (41, b"identity" * 9)))
    shortest = 5 + 39
    for end in range(len(data)):
        reader = Reader(data[:end], cut=True)
        if end < shortest:
            with pytest.raises(NeedMoreData):
                read_client_hello(reader)
            continue
        hello, whole = read_client_hello(reader)
        assert not whole
        assert reader.position == end
        assert server_name(hello.server_name) in {"", "shop.example.com"}
        assert protocol_names(hello.offered) in {(), ("h2",)}
    assert protocol_names(hello.offered) == ("h2",)


@pytest.mark.parametrize(
    "data",
    [
        client_hello(block=b"\0"),
        client_hello(block=b"\0\5\0\0\0\1a" + b"x"),
        client_hello(block=b"\0\5\0\0\0\2a"),
        client_hello(block=b"\0\3\0\0\0"),
        client_hello(SHOP, SHOP),
        client_hello(suites=bytes(4))[:-7],
        message(1, b"\3\3" + RANDOM + b"\x20abc"),
        message(1, b"\3\3" + RANDOM),
        message(1, bytes(65536)),
        message(4, bytes(64)),
    ],
)
def test_malformed_client_hello(data):
    data = data[:1] + (len(data) - 4).to_bytes(3, "big") + data[4:]
    size = 16384
    parts = [record(data[i : i + size]) for i in range(0, len(data), size)]
    with pytest.raises(ParseError):
        read_client_hello(Reader(b"".join(parts)))


def test_hello_that_another_record_interrupts():
    data = client_hello(SHOP)
    for other in (record(b"\1", kind=20), record(b""), b"GET / HTTP"):
        with pytest.raises(ParseError):
            read_client_hello(Reader(record(data[:20]) + other))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (server_hello(NEWEST), (0x0304, 0x1301, b"", False)),
        (server_hello((41, b"\0\0"), NEWEST), (0x0304, 0x1301, b"", True)),
        (server_hello(NEWEST, random=RETRY), (0x0304, 0x1301, b"", None)),
        (server_hello(alpn(b"h2"), suite=0xC02F), (0x0303, 0xC02F, b"\0\3\2h2", False)),
        (server_hello(block=b"", version=b"\3\1", suite=5), (0x0301, 5, b"", False)),
        (server_hello(block=b"", session=bytes(32)), (0x0303, 0x1301, b"", False)),
    ],
)
def test_server_hello(data, expected):
    assert read_server_hello(Reader(record(data))) == (expected, 0)
    reader = Reader(record(data + b"certificate"))
    assert read_server_hello(reader) == (expected, 11)
    assert reader.position == 5 + len(data)


def test_malformed_server_hello():
    for data in (
        server_hello(block=b"\0\1"),
        server_hello(block=b"\0\2\0\x2b"),
        message(2, b"\3\3" + RANDOM + b"\xff123"),
        message(2, bytes(10)),
    ):
        with pytest.raises(ParseError):
            read_server_hello(Reader(record(data)))


def test_server_hello_needs_all_of_it():
    with pytest.raises(NeedMoreData):
        read_server_hello(Reader(record(server_hello(NEWEST))[:-1], cut=True))


@pytest.mark.parametrize("size", [3, 45, 1000])
def test_no_secret_of_a_client_hello_is_kept(size):
    data = client_hello(
        SHOP, (35, b"TICKET"), (51, b"KEYSHARE"), (41, b"IDENTITY"), session=b"SESSION"
    )
    spread = b"".join(record(data[i : i + size]) for i in range(0, len(data), size))
    found = kept(spread, read_client_hello)
    if size == 1000:
        assert b"shop.example.com" in found
        assert b"\0\x23\0\6......" in found
        assert found.endswith(b"\0\x29\0\x08........")
    marks = b"".join(found[i + 5 : i + 5 + size] for i in range(0, len(found), size + 5))
    for secret in (b"SESSION", b"TICKET", b"KEYSHARE", b"IDENTITY", RANDOM):
        assert not set(secret) & set(marks[6:38]) - set(b"."), secret
        assert secret not in marks
    again, _ = read_client_hello(Reader(found))
    assert again == read_client_hello(Reader(spread))[0]


def test_no_ticket_that_was_cut_is_kept():
    data = record(client_hello((41, b"IDENTITY"), session=b"SESSION"))[:-3]

    def read(reader):
        reader.cut = True
        read_client_hello(reader)

    assert kept(data, read).endswith(b"\0\x29\0\x08.....")


def test_no_random_of_a_server_hello_is_kept():
    data = record(server_hello(NEWEST, (51, b"KEYSHARE"), session=b"SESSION"))
    found = kept(data, read_server_hello)
    assert found.count(b".") >= 32 + 7 + 8
    assert b"SESSION" not in found
    assert b"KEYSHARE" not in found
    assert read_server_hello(Reader(found)) == read_server_hello(Reader(data))
    retry = record(server_hello(NEWEST, random=RETRY))
    assert kept(retry, read_server_hello) == retry


def test_header():
    assert read_header(Reader(b"\x17\3\3\1\2")) == (23, 258)
    for data in (
        b"\x18\3\3\0\1",
        b"\x13\3\3\0\1",
        b"\x17\2\0\0\1",
        b"\x17\3\5\0\1",
        b"\x17\3\3\x48\1",
    ):
        with pytest.raises(ParseError):
            read_header(Reader(data))


def test_hello_is_known_as_far_as_it_is_here():
    data = b"GET" + record(client_hello(SHOP))
    for end in range(8, len(data)):
        assert is_hello(data[:end], 3, 1)
    assert not is_hello(data, 3, 2)
    assert not is_hello(record(b""), 0, 1)
    assert not is_hello(record(b"\1\1"), 0, 1)
    assert not is_hello(record(b"\1\0\0\0\4"), 0, 1)
    assert is_hello(record(b"\1") + record(b"\2"), 0, 1)


def test_names_as_they_were_sent():
    assert server_name(b"") == ""
    assert server_name(b"\0\4\1\0\1a") == ""
    assert server_name(name_of(b"\xc3\xa4\n")[1]) == "\\xc3\\xa4\n"
    assert protocol_names(b"") == ()
    assert protocol_names(alpn(b"\x0a\x0a", b"h2", b"\xfa\xfa", b"", b"\x0a\x1a")[1]) == (
        "h2",
        "\n\x1a",
    )
    assert protocol_names(b"\0\5\7ab") == ("ab",)
