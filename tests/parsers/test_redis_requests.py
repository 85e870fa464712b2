# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import PythonRespSerializer

from parsers.model import ParseError
from parsers.reader import NeedMoreData, Reader
from parsers.redis_requests import (
    MAX_HEAD_ARGUMENTS,
    MAX_HEAD_VALUE_BYTES,
    MAX_INLINE_BYTES,
    pass_arguments,
    read_head,
)


def array(*words):
    raw = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in raw)


def read(data, *, marking=False):
    reader = Reader(data)
    reader.marking = marking
    head = read_head(reader, redact=True)
    return head, reader


def test_a_command_is_read_with_its_arguments():
    (command, left), reader = read(array("SET", "k", "v", "EX", "10") + b"*1\r\n")
    assert command.text == "SET k ? EX ?"
    assert left == 0
    assert reader.available == 4


def test_the_same_bytes_give_the_same_object():
    first, _ = read(array("GET", "same"))
    again, reader = read(array("GET", "same"))
    assert first.command is again.command
    assert reader.available == 0
    behind, reader = read(array("GET", "same") + array("GET", "other"))
    assert behind.command is first.command
    assert reader.available == len(array("GET", "other"))


def test_a_value_of_another_length_changes_nothing():
    first, _ = read(array("SET", "told", "1"))
    again, reader = read(array("SET", "told", "22") + b"*1")
    assert again.command is first.command
    assert reader.available == 2
    assert read(array("SET", "told", "22", "NX"))[0].command.text == "SET told ? NX"
    assert read(array("HSET", "told", "f", "1"))[0].command.text == "HSET told f ?"
    assert read(array("HSET", "told", "g", "1"))[0].command.text == "HSET told g ?"


def test_what_is_long_is_not_remembered():
    for words in (("SET", "k" * 300, "v"), ("HSET", "h", "f", "v" * 300)):
        data = array(*words)
        assert read(data)[0].command is read(data + b"*1")[0].command, "by its text"


def test_with_and_without_literals_are_remembered_apart():
    for redact, shown in ((True, "SET apart ?"), (False, "SET apart v"), (True, "SET apart ?")):
        reader = Reader(array("SET", "apart", "v"))
        assert read_head(reader, redact=redact).command.text == shown


def test_the_same_text_gives_the_same_object():
    assert read(array("SET", "k", "1"))[0].command is read(array("SET", "k", "2"))[0].command


@pytest.mark.parametrize("data", [b"*0\r\n", b"*-1\r\n", b"\r\n", b"\n", b"  \r\n"])
def test_nothing_is_no_command(data):
    head, reader = read(data + b"*")
    assert head.command is None
    assert reader.available == 1


@pytest.mark.parametrize(
    "data",
    [
        array("SET", "k", "v"),
        array("CLIENT", "REPLY", "OFF"),
        array("GET", "k" * 20),
        b"SET k v\r\n",
    ],
)
def test_less_is_not_enough(data):
    for size in range(1, len(data)):
        with pytest.raises(NeedMoreData):
            read(data[:size])


@pytest.mark.parametrize(
    "data",
    [
        b"*x\r\n",
        b"*99999999999\r\n",
        b"*9999999999\r\n",
        b"*12345678901234567890",
        b"*1\r\n:1\r\n",
        b"*1\r\n+PING\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$0\r\n\r\n",
        b"*1\r\n$4\r\nP\x00NG\r\n",
        b"*1\r\n$4\r\nPING--",
        b"*1\r\n$33\r\n" + b"x" * 33 + b"\r\n",
        b"*1\r\n$111111111111111111",
        b"*2\r\n$3\r\nGET\r\n$-5\r\n",
        b"*2\r\n$3\r\nGET\r\n$9999999999999\r\n",
        b"*2\r\n$3\r\nGET\r\nk\r\n",
        b"+OK\r\n",
        b"\x16\x03\x01\x00\x05\n",
        b"HELO mail\r\n",
        b"'\"\r\n",
        b"x" * MAX_INLINE_BYTES,
    ],
)
def test_what_is_no_command_is_refused(data):
    with pytest.raises(ParseError):
        read(data)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"PING\r\n", "PING"),
        (b"  ping  \n", "ping"),
        (b'set k "a value"\r\n', "set k ?"),
        (b"set 'a key' v EX 10\r\n", "set \"'a key'\" ? EX ?"),
        (b'set k "never closed EX 10\r\n', "set k ?"),
        (b'set k "a\\"b" NX\r\n', "set k ? NX"),
        (b"set k 'a\\'b' NX\r\n", "set k ? NX"),
        (b'set k "\\\r\n', "set k ?"),
        (b"del " + b"k " * 50 + b"\r\n", "del " + "k " * 31 + "..."),
    ],
)
def test_inline_commands(line, text):
    (command, left), reader = read(line)
    assert command.text == text
    assert left == 0
    assert reader.available == 0


def test_a_long_value_ends_the_head():
    data = array("SET", "k", "v" * (MAX_HEAD_VALUE_BYTES + 1), "EX", "10")
    (command, left), reader = read(data)
    assert command.text == "SET k ..."
    assert left == 3
    assert pass_arguments(reader, left) == 0
    assert reader.available == 0


def test_many_arguments_end_the_head():
    (command, left), reader = read(array("DEL", *"abcdefghij" * 10))
    assert command.text.endswith(" ...")
    assert left == 101 - MAX_HEAD_ARGUMENTS
    assert pass_arguments(reader, left) == 0


def test_many_values_end_the_head_before_it_grows_too_long():
    (command, left), _ = read(array("MSET", *["k", "v" * 8000] * 10))
    assert command.text == "MSET k ? k ? k ? k ? k ..."
    assert left == 11


def test_a_last_value_need_not_be_there():
    data = array("SET", "k", "v" * 1000)
    (command, left), reader = read(data[:50])
    assert command.text == "SET k ?"
    assert left == 0
    assert reader.position == len(data)


def test_a_last_key_is_waited_for_as_far_as_it_is_shown():
    data = array("GET", "k" * 1000)
    with pytest.raises(NeedMoreData):
        read(data[:100])
    (command, _), reader = read(data[:200])
    assert command.text == "GET " + "k" * 128 + "..."
    assert reader.position == len(data)


def test_arguments_are_passed_piece_by_piece():
    data = b"$1\r\na\r\n$100\r\n" + b"b" * 100 + b"\r\n$2\r\ncc\r\n$1\r\n"
    reader = Reader(data)
    assert pass_arguments(reader, 4) == 0
    reader = Reader(data[:20])
    assert pass_arguments(reader, 4) == 2
    assert reader.position == 7 + 108
    for part in (b"$", b"$1", b"$1\r"):
        with pytest.raises(NeedMoreData):
            pass_arguments(Reader(part), 1)


@pytest.mark.parametrize("data", [b":1\r\n", b"$x\r\n", b"$-1\r\n", b"$" + b"1" * 20, b"*1\r\n"])
def test_what_is_no_argument_is_refused(data):
    with pytest.raises(ParseError):
        pass_arguments(Reader(data), 1)
    reader = Reader(b"$1\r\na\r\n" + data)
    assert pass_arguments(reader, 2) == 1, "what came before it is passed"
    with pytest.raises(ParseError):
        pass_arguments(reader, 1)


def kept(data, *, left=False):
    """What a recording has of a request, `.` for what it leaves out."""
    head, reader = read(data, marking=True)
    if left:
        pass_arguments(reader, head.left)
    blanked = bytearray(data)
    for start, stop in reader.omitted:
        assert 0 <= start <= stop <= len(data)
        blanked[start:stop] = b"." * (stop - start)
    return bytes(blanked)


def test_values_are_not_kept():
    assert kept(array("SET", "k", "v")) == array("SET", "k", ".")
    assert kept(array("AUTH", "user", "pass")) == array("AUTH", "....", "....")
    assert kept(b'set k "a b" EX 10\r\n') == b"set k ..... EX ..\r\n"
    assert kept(b"del" + b" k" * 40 + b"\r\n") == b"del" + b" k" * 31 + b" ." * 9 + b"\r\n"
    words = ["k"] * 40
    assert kept(array("DEL", *words), left=True) == array("DEL", *["k"] * 31, *["."] * 9)
    long = array("SET", "k", "v" * 1000)
    assert kept(long[:50]).endswith(b"$1000\r\n" + b"." * 23)


@given(st.lists(st.one_of(st.binary(max_size=300), st.text(max_size=60)), max_size=40))
def test_what_redis_py_sends_is_passed_to_its_end(words):
    data = b"".join(
        PythonRespSerializer(6000, lambda v: v if isinstance(v, bytes) else v.encode()).pack(
            "MSET", *words
        )
    )
    (command, left), reader = read(data)
    assert command.name == "MSET"
    while left:
        left = pass_arguments(reader, left)
    assert reader.position == reader.end
