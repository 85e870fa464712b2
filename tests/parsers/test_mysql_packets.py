# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct

import pytest

from parsers.model import ParseError
from parsers.mysql_packets import (
    MAX_OK_BYTES,
    MAX_TRACKED,
    MysqlReply,
    Step,
    read_end,
    read_error,
    read_ok,
)
from parsers.reader import Reader
from tests.parsers.mysql_bytes import text


def read(function, payload, *, step=Step.RESULT, marking=False, there=None):
    reader = Reader(payload[:there])
    reader.marking = marking
    reply = MysqlReply(step, 1, None)
    reply.open = True
    return function(reader, reply, 0, len(payload)), reply, reader


def ok(status=2, rest=b"", affected=b"\0", number=b"\0"):
    return b"\0" + affected + number + struct.pack("<HH", status, 0) + rest


def tracked(kind, data):
    return bytes([kind]) + text(data)


def test_ok_ends_a_response():
    size, reply, _ = read(read_ok, ok(affected=b"\xfc\1\1", number=b"\xfe" + bytes(8)))
    assert size == 17
    assert not reply.open
    assert read(read_ok, ok(), there=5)[0] == -1


def test_ok_with_more_results_does_not():
    reply = read(read_ok, ok(8), step=Step.ROWS)[1]
    assert reply.open
    assert reply.step is Step.RESULT
    assert not read(read_ok, ok(8), step=Step.LOGIN)[1].open


@pytest.mark.parametrize(
    "payload",
    [ok()[:6], ok(rest=bytes(MAX_OK_BYTES)), b"\0\xfe" + bytes(6), b"\0\xfc\1\1\xfd\1\1\1\0"],
)
def test_what_is_no_ok(payload):
    with pytest.raises(ParseError):
        read(read_ok, payload)


def test_ok_tells_the_current_database_and_nothing_else_is_kept():
    state = tracked(0, text(b"x") + text(b"SECRET")) + tracked(1, text(b"shop")) + tracked(2, b"1")
    payload = ok(0x4002, text(b"info") + text(state))
    size, reply, reader = read(read_ok, payload, marking=True)
    assert reply.schema == "shop"
    data = bytearray(payload)
    for start, stop in [*reader.omitted, (size, len(payload))]:
        data[start:stop] = b"\xff" * (stop - start)
    assert b"shop" in data
    assert b"SECRET" not in data
    assert b"info" not in data
    assert read(read_ok, bytes(data))[1].schema == "shop"


@pytest.mark.parametrize(
    "rest", [b"", b"\x30x", text(b"info"), text(b"") + b"\xfb", text(b"") + text(b"\1\xff")]
)
def test_ok_whose_state_of_the_session_is_none(rest):
    _, reply, _ = read(read_ok, ok(0x4002, rest), marking=True)
    assert reply.schema is None
    assert not reply.open


def test_message_of_an_ok_is_not_kept():
    assert read(read_ok, ok(2, b"Rows matched: 1"))[0] == 7


def test_error():
    payload = b"\xff\x28\x04#42000near 'secret'"
    size, reply, _ = read(read_error, payload)
    assert (size, reply.code, reply.sqlstate, reply.open) == (9, 1064, "42000", False)
    assert read(read_error, payload, there=8)[0] == -1


def test_error_without_a_state():
    size, reply, _ = read(read_error, b"\xff\x69\x04Host is blocked")
    assert (size, reply.code, reply.sqlstate) == (3, 1129, "")
    assert read(read_error, b"\xff\x69\x04#\0\0\0\0\0x")[1].sqlstate == ""


def test_progress_is_no_error():
    size, reply, _ = read(read_error, b"\xff\xff\xff\1\1\2\0\0\0")
    assert (size, reply.code, reply.open) == (3, 0, True)


@pytest.mark.parametrize("payload", [b"\xff\x28", b"\xff" + bytes(MAX_OK_BYTES)])
def test_what_is_no_error(payload):
    with pytest.raises(ParseError):
        read(read_error, payload)


def test_end_of_rows():
    assert not read(read_end, b"\xfe\0\0\2\0", step=Step.ROWS)[1].open
    assert read(read_end, b"\xfe\0\0\x0a\0", step=Step.ROWS)[1].step is Step.RESULT
    assert read(read_end, b"\xfe\0\0\2\0", there=3)[0] == -1
    assert not read(read_end, b"\xfe\0\0\2\0\0\0", step=Step.ROWS)[1].open
    with pytest.raises(ParseError):
        read(read_end, b"\xfe\0\0")


def test_changes_of_the_session_are_bounded():
    state = b"\2\0" * MAX_TRACKED + tracked(1, text(b"shop"))
    payload = ok(0x4002, text(b"") + b"\xfc" + len(state).to_bytes(2, "little") + state)
    assert read(read_ok, payload)[1].schema is None
