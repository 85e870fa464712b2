# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysql.protocol import MysqlPacket

from parsers.model import ParseError
from parsers.mysql_wire import (
    ANY_CAPABILITIES,
    CLIENT_PLUGIN_AUTH_LENENC,
    CLIENT_SECURE_CONNECTION,
    COMMANDS,
    Greeting,
    deprecates_eof,
    lenenc,
    pass_secret,
    read_change_user,
    read_greeting,
    read_login,
)
from parsers.reader import NeedMoreData, Reader
from tests.parsers.mysql_bytes import (
    CAPABILITIES,
    DEPRECATE_EOF,
    LENENC_AUTH,
    greeting,
    login,
)


def encoded(number: int) -> bytes:
    for limit, head, width in ((0xFB, b"", 1), (1 << 16, b"\xfc", 2), (1 << 24, b"\xfd", 3)):
        if number < limit:
            return head + number.to_bytes(width, "little")
    return b"\xfe" + number.to_bytes(8, "little")


@given(st.integers(0, 2**64 - 1), st.binary(max_size=5))
def test_numbers_are_read_as_another_library_reads_them(number, behind):
    data = encoded(number) + behind
    assert lenenc(data, 0, len(data)) == (number, len(encoded(number)))
    assert MysqlPacket(data, "utf8").read_length_encoded_integer() == number


@pytest.mark.parametrize("data", [b"", b"\xfb", b"\xff", b"\xfc\1", b"\xfe\1\2\3\4\5\6\7"])
def test_what_is_no_number(data):
    with pytest.raises(ParseError):
        lenenc(data, 0, len(data))


def read(function, data, *more, marking=False):
    reader = Reader(data)
    reader.marking = marking
    return function(reader, len(data), *more), reader


@pytest.mark.parametrize(
    ("version", "capabilities", "system"),
    [
        (b"8.0.36", CAPABILITIES, "mysql"),
        (b"5.5.5-10.11.6-MariaDB-log", CAPABILITIES, "mariadb"),
        (b"11.4.2-enterprise", CAPABILITIES & ~1, "mariadb"),
    ],
)
def test_greeting_says_which_server_it_is(version, capabilities, system):
    data = greeting(version, capabilities)[5:]
    assert read(read_greeting, data)[0] == Greeting(system, capabilities)


def test_greeting_of_an_old_server():
    data = b"4.1.22\0" + bytes(13) + b"\x2c\xa2"
    assert read(read_greeting, data)[0] == Greeting("mariadb", 0xA22C)


@pytest.mark.parametrize("data", [b"8.0\0" + bytes(5), b"8.0\0" + b"x" * 20])
def test_what_is_no_greeting(data):
    with pytest.raises(ParseError):
        read(read_greeting, data)


def test_challenge_is_not_kept():
    data = greeting()[5:]
    _, reader = read(read_greeting, data, marking=True)
    assert b"SALT" not in kept(reader)
    assert b"salt" not in kept(reader)
    assert b"8.0.36" in kept(reader)


def kept(reader):
    data = bytearray(reader.data)
    for start, stop in reader.omitted:
        data[start:stop] = b"\xff" * (stop - start)
    return bytes(data)


@pytest.mark.parametrize(
    ("capabilities", "auth"),
    [
        (CAPABILITIES, b"\4HASH"),
        (CAPABILITIES | LENENC_AUTH, b"\4HASH"),
        (CAPABILITIES | LENENC_AUTH, b"\xfc\x2c\1" + b"HASH" * 75),
        (CAPABILITIES & ~CLIENT_SECURE_CONNECTION, b"HASHHASH\0"),
    ],
)
@pytest.mark.parametrize("number", [1, 2])
def test_login_names_the_database_and_keeps_no_secret(number, capabilities, auth):
    data = login(b"shop", capabilities, auth)[4:]
    found, reader = read(read_login, data, number, marking=True)
    assert found == (capabilities, "shop", False, False)
    assert b"HASH" not in kept(reader)
    assert b"carol" not in kept(reader)
    again, _ = read(read_login, kept(reader), number)
    assert again == found


def test_login_without_a_database():
    assert read(read_login, login(capabilities=CAPABILITIES & ~8)[4:], 1)[0].database == ""


@pytest.mark.parametrize(("extended", "is_mariadb"), [(b"\0\0\0\0", False), (b"\x1d\0\0\0", True)])
def test_login_with_capabilities_of_mariadb_tells_the_server(extended, is_mariadb):
    data = login()[4:]
    found, _ = read(read_login, data[:28] + extended + data[32:], 2)
    assert found.to_mariadb is is_mariadb


def test_login_of_an_old_client():
    data = struct.pack("<H", 0x2085) + b"\xff\xff\xffcarol\0HASHHASH\0"
    assert read(read_login, data, 1)[0] == (0x2085, None, False, False)


@pytest.mark.parametrize(
    ("data", "encrypts"),
    [(struct.pack("<IIB23x", 0x200A00, 1, 45), True), (struct.pack("<H3x", 0x800), True)],
)
def test_request_for_tls(data, encrypts):
    assert read(read_login, data, 1)[0].encrypts is encrypts


@pytest.mark.parametrize(
    "data",
    [b"", b"\x85\x20", struct.pack("<IIB23s", 0x200, 1, 45, b"x" * 23) + b"carol\0\0"],
)
def test_what_is_no_login(data):
    for number in (1, 2):
        with pytest.raises(ParseError):
            read(read_login, data, number)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<IIB23x", 0xA00, 1, 45),
        struct.pack("<IIB23x", CAPABILITIES & ~0x200, 1, 45) + b"carol\0\0",
        struct.pack("<H", 0x2085) + b"\xff\xff\xffcarol\0HASHHASH\0",
    ],
)
def test_what_is_no_login_inside_of_tls(data):
    with pytest.raises(ParseError):
        read(read_login, data, 2)


@pytest.mark.parametrize(
    ("client", "server", "deprecates"),
    [
        (DEPRECATE_EOF, DEPRECATE_EOF, True),
        (DEPRECATE_EOF, CAPABILITIES, False),
        (CAPABILITIES, ANY_CAPABILITIES, False),
        (DEPRECATE_EOF, ANY_CAPABILITIES, None),
    ],
)
def test_whether_an_eof_is_to_come(client, server, deprecates):
    assert deprecates_eof(client, server) is deprecates


def test_secret_is_bounded_by_its_packet():
    with pytest.raises(ParseError):
        pass_secret(Reader(b"\x20" + bytes(40)), 10, CLIENT_SECURE_CONNECTION)
    with pytest.raises(NeedMoreData):
        pass_secret(Reader(b"\xfc"), 10, CLIENT_PLUGIN_AUTH_LENENC)


def test_change_of_the_user():
    data = b"dave\0\4HASHother\0\x2d\0plugin\0"
    database, reader = read(
        read_change_user, data, CLIENT_SECURE_CONNECTION | LENENC_AUTH, marking=True
    )
    assert database == "other"
    assert b"HASH" not in kept(reader)


def test_commands_have_bounds():
    for command in COMMANDS.values():
        assert command.name.startswith("COM_")
        assert 1 <= command.least <= command.most
